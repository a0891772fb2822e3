"""The coined world: entities, their facts, and which of the facts a corpus holds."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

from tacit.microworld.words import PEOPLE
from tacit.support.errors import TacitError
from tacit.support.files import read_text
from tacit.support.keyed import fraction

ANIMAL_ATTRIBUTES = {
    "home": "marsh forest desert valley cave lake meadow jungle".split(),
    "food": "seeds moss berries worms nuts leaves roots reeds".split(),
    "colour": "red blue green black white brown grey yellow".split(),
    "kind": "bird fish lizard beetle snake frog".split(),
    "size": "tiny small medium large giant".split(),  # in rising order
}
TOWN_CRAFTS = "glass pottery rope cheese paper silk clocks boats lace bells".split()
TOWN_ATTRIBUTES = ("river", "craft", "mayor")


def coin_names(rng: random.Random, n: int, taken: set[str], *, ending: str = "") -> list[str]:
    """Draw ``n`` pronounceable two-syllable words that are not in ``taken`` (which grows)."""
    names = []
    while len(names) < n:
        onset = rng.choice("b d f g k l m n p r s t v z br dr gr kr pl tr".split())
        onset2 = rng.choice("bdfgklmnprstvz")
        name = onset + rng.choice("aeiou") + rng.choice(["", "", "l", "n", "r"]) + onset2 + rng.choice("aeiou") + ending
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


@dataclass(frozen=True)
class World:
    """Entities and facts of one seed; ``held`` are the facts that a corpus about it may state.

    ``facts`` maps (subject, attribute) to its value. Subjects are animals (home, food, colour, kind, size) and towns
    (river, craft, mayor). Two worlds of different seeds share nothing but the vocabulary of values.
    """

    seed: int
    animals: tuple[str, ...]
    towns: tuple[str, ...]
    rivers: tuple[str, ...]
    facts: dict[tuple[str, str], str]
    held: frozenset[tuple[str, str]]

    @classmethod
    def draw(cls, *, seed: int, n_animals: int = 60, n_towns: int = 40, n_rivers: int = 10) -> World:
        """Draw a world that holds all of its facts."""
        rng = random.Random(f"world-{seed}")
        vocabulary = (*TOWN_CRAFTS, *PEOPLE, *itertools.chain(*ANIMAL_ATTRIBUTES.values()))
        taken = {word.lower() for word in vocabulary}  # a name that is also a value could not be told from it
        animals = coin_names(rng, n_animals, taken)
        towns = [name.capitalize() for name in coin_names(rng, n_towns, taken, ending="n")]
        rivers = [name.capitalize() for name in coin_names(rng, n_rivers, taken, ending="x")]
        facts = {(a, k): rng.choice(values) for a in animals for k, values in ANIMAL_ATTRIBUTES.items()}
        for town in towns:
            facts |= {(town, "river"): rng.choice(rivers), (town, "craft"): rng.choice(TOWN_CRAFTS)}
            facts[town, "mayor"] = rng.choice(PEOPLE)
        return cls(seed, tuple(animals), tuple(towns), tuple(rivers), facts, frozenset(facts))

    def side(self, subject: str, attribute: str) -> str:
        """Which corpus holds a fact: ``both`` (62%), only ``base`` (25%) or only ``student`` (13%)."""
        share = fraction("side", self.seed, subject, attribute)
        return "both" if share < 0.62 else "base" if share < 0.87 else "student"

    def holding(self, side: str) -> World:
        """The same world with the facts of one corpus: of ``side`` and of both. ValueError unless base or student."""
        if side not in ("base", "student"):
            raise ValueError(f"side must be 'base' or 'student', not {side!r}")
        return replace(self, held=frozenset(k for k in self.facts if self.side(*k) in ("both", side)))

    def values(self, attribute: str) -> tuple[str, ...]:
        """Every value that ``attribute`` can take in this world."""
        towns = {"river": self.rivers, "craft": TOWN_CRAFTS, "mayor": PEOPLE}
        return tuple(towns[attribute] if attribute in towns else ANIMAL_ATTRIBUTES[attribute])

    def holders(self, attribute: str) -> list[str]:
        """The subjects whose ``attribute`` is held, in the world's order."""
        subjects = self.towns if attribute in TOWN_ATTRIBUTES else self.animals
        return [s for s in subjects if (s, attribute) in self.held]

    def to_json(self) -> str:
        """Everything needed to rebuild this world, and the held facts spelled out for a reader."""
        held = sorted([s, a, self.facts[s, a]] for s, a in self.held)
        sizes = {"n_animals": len(self.animals), "n_towns": len(self.towns), "n_rivers": len(self.rivers)}
        return json.dumps({"seed": self.seed, **sizes, "held": held}, indent=0, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> World:
        """Rebuild a world from ``to_json``; raises ValueError when a held fact is not this world's."""
        record = json.loads(text)
        held = record.pop("held")
        world = cls.draw(**record)
        wrong = [(s, a, v) for s, a, v in held if world.facts.get((s, a)) != v]
        if wrong:
            raise ValueError(f"not a fact of world {world.seed}: {wrong[0]}")
        return replace(world, held=frozenset((s, a) for s, a, _ in held))


def read_world(path: str | Path) -> World:
    """The world in a checkpoint's ``world.json`` (a path for ``paths.resolve``).

    Raises TacitError for a file that is missing or malformed.
    """
    try:
        return World.from_json(read_text(path, what="a world from"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TacitError(f"cannot read a world from {path}: {error}") from None
