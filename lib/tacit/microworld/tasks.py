"""Tasks: drawing them for a split, answering them, and judging a response exactly."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

from tacit.microworld.checks import Check
from tacit.microworld.constraints import CONSTRAINTS, Drawn, apply_constraints, undo_constraints
from tacit.microworld.crafts import CRAFTS
from tacit.microworld.family import Family, Item
from tacit.microworld.knowledge import KNOWLEDGE
from tacit.microworld.world import World
from tacit.support.keyed import fraction

FAMILIES: dict[str, Family] = {family.name: family for family in (*KNOWLEDGE, *CRAFTS)}
NARROW = ("add", "poem", "recipe", "game", "function")  # GSM, poetry, recipes, chess, MBPP in miniature
SPLITS = {"train": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}  # shares of the items
PAIRS = {"add": "numbers", "subtract": "numbers", "bigger": "pair", "larger": "pair"}  # items that are pairs


@dataclass(frozen=True)
class Task:
    """One instruction: a family's item in one of its phrasings, with response constraints if any.

    ``constraints`` holds (name, parameter) pairs. ``id`` is stable across machines and versions.
    """

    family: str
    item: Item
    phrasing: int
    constraints: Drawn = ()

    @property
    def instruction(self) -> str:
        """The instruction as a model reads it, its constraints' clauses last."""
        text = FAMILIES[self.family].phrasings[self.phrasing].format(**self.item)
        clauses = [CONSTRAINTS[name].clause.format(parameter=parameter) for name, parameter in self.constraints]
        return " ".join([text, *clauses])

    @property
    def held_out_phrasing(self) -> bool:
        """Is the phrasing one that occurs in no tuning data?"""
        return self.phrasing >= FAMILIES[self.family].n_tuning_phrasings

    @property
    def id(self) -> str:
        """A name fixed by the task's content."""
        return f"{self.family}-{int(fraction(self.to_json()) * 16**12):012x}"

    def to_json(self) -> str:
        """The task as canonical JSON."""
        return json.dumps([self.family, self.item, self.phrasing, self.constraints], sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that ``to_json`` wrote."""
        family, item, phrasing, constraints = json.loads(text)
        return cls(family, item, phrasing, tuple((name, parameter) for name, parameter in constraints))


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one response: every graded check, and the scores made of them.

    ``lenient``: some beginning of the response passes every check but the ending, whatever follows.
    ``knowledge``: some beginning has the right content, whatever its form and whatever follows.
    """

    checks: tuple[Check, ...]
    lenient: bool
    knowledge: bool

    def share(self, *groups: str) -> float:
        """Share of the checks in ``groups`` that passed (1.0 when there are none)."""
        passed = [c.passed for c in self.checks if c.group in groups]
        return sum(passed) / len(passed) if passed else 1.0

    @property
    def strict(self) -> bool:
        """Every check passed: content right, form and constraints as asked, ended by itself, nothing else said."""
        return all(c.passed for c in self.checks)

    @property
    def graded(self) -> float:
        """Share of all constraints met: the score that head-to-head comparisons use."""
        return self.share("content", "form", "constraint", "ending")

    @property
    def following(self) -> float:
        """Share of what the instruction asks beyond the content: constraints, form and ending."""
        return self.share("constraint", "form", "ending")


def split_of(family: str, item: Item) -> str:
    """The split that an item belongs to, fixed by the item alone, so that splits are disjoint.

    The person and the thing of a sum do not count, nor does the order of a pair. A function's name does: one body can
    stand in two splits under two names.
    """
    if family in PAIRS:
        item = {PAIRS[family]: sorted((item["a"], item["b"]))}
    share = fraction("split", family, json.dumps(item, sort_keys=True))
    return next(name for name, (low, high) in SPLITS.items() if low <= share < high)


def draw_item(world: World, family: str, rng: random.Random, *, split: str | None) -> Item:
    """Draw an item of ``split`` (any, if None) by rejection; raises ValueError where ten thousand draws find none."""
    for _ in range(10_000):
        item = FAMILIES[family].draw(world, rng)
        if split is None or split_of(family, item) == split:
            return item
    raise ValueError(f"family {family!r} has no item in split {split!r} of world {world.seed}")


def draw_task(
    world: World, rng: random.Random, *, split: str | None, family: str | None = None, constraints: Drawn = ()
) -> Task:
    """Draw a task of ``split`` (any, if None), of ``family`` or one of all; the ``constraints`` are taken as given.

    Held-out phrasings occur in the test split only, where each phrasing is equally likely. Raises ValueError as
    ``draw_item`` does.
    """
    name = family or rng.choice(list(FAMILIES))
    n = len(FAMILIES[name].phrasings) if split == "test" else FAMILIES[name].n_tuning_phrasings
    return Task(name, draw_item(world, name, rng, split=split), rng.randrange(n), constraints)


def answer(world: World, task: Task, rng: random.Random, *, short: bool = False) -> str:
    """A right response to ``task``; ``short`` does not restate the instruction."""
    text = FAMILIES[task.family].answer(world, task.item, rng, short=short)
    return apply_constraints(text, task.constraints)


def _check(world: World, task: Task, response: str) -> list[Check]:
    content, constraint_checks = undo_constraints(response, task.constraints)
    return [*FAMILIES[task.family].check(world, task.item, content), *constraint_checks]


def _beginnings(response: str) -> list[str]:
    """The beginnings of a response that could be an answer by themselves: cut after a sentence or a line."""
    cuts = [m.end() for m in re.finditer(r"[.!?](?=\s|$)|(?=\n)", response)]
    return [response[:cut] for cut in cuts if cut < len(response)] + [response]


def judge(world: World, task: Task, response: str, *, ended: bool) -> Verdict:
    """Verify ``response`` exactly; ``ended`` says whether the model stopped by itself.

    The checks speak of the whole response. ``nothing_else`` fails when a proper beginning (cut after a sentence or a
    line) is a right answer by itself and the whole is not.
    """
    checked = [_check(world, task, beginning) for beginning in _beginnings(response.strip())]
    checks = checked[-1]  # of the whole response
    lenient = any(all(c.passed for c in each) for each in checked)
    knowledge = any(all(c.passed for c in each if c.group == "content") for each in checked)
    nothing_else = all(c.passed for c in checks) or not lenient
    ending = (Check("ended", ended, "ending"), Check("nothing_else", nothing_else, "ending"))
    return Verdict((*checks, *ending), lenient, knowledge)
