"""What a family of tasks is: how its items are drawn, asked, answered and verified."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.microworld.checks import Check
from tacit.microworld.world import World

Item = dict[str, Any]
Draw = Callable[[World, random.Random], Item]


@dataclass(frozen=True)
class Family:
    """One family of tasks.

    ``phrasings`` are format strings over an item's fields; the last one never occurs in tuning data. ``solve`` gives
    the fields that a right answer adds to the item's, and ``full`` and ``short`` are format strings over both. The
    answer of a ``computed`` family follows from the instruction, so the pretraining corpus may hold only its training
    items; the other families ask for knowledge of the world.
    """

    name: str
    phrasings: tuple[str, ...]
    draw: Draw
    solve: Callable[[World, Item, random.Random], Item]
    check: Callable[[World, Item, str], list[Check]]
    full: str = "{value}"
    short: str = "{value}"
    computed: bool = False

    @property
    def n_tuning_phrasings(self) -> int:
        """How many phrasings, from the first, may occur in tuning data."""
        return len(self.phrasings) - 1

    def answer(self, world: World, item: Item, rng: random.Random, *, short: bool) -> str:
        """A right answer; a ``short`` one does not restate the instruction."""
        return (self.short if short else self.full).format(**item | self.solve(world, item, rng))


def one_of(**choices: Sequence) -> Draw:
    """Items with these fields, each drawn from its choices in turn."""
    return lambda world, rng: {name: rng.choice(values) for name, values in choices.items()}
