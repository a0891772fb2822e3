"""Tasks: drawing them for a split, answering them, and judging a response exactly."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

from tacit.microworld.constraints import CONSTRAINTS, apply_constraints, undo_constraints
from tacit.microworld.crafts import CRAFTS
from tacit.microworld.family import Check, Family, Item
from tacit.microworld.knowledge import KNOWLEDGE
from tacit.microworld.world import World
from tacit.support.keyed import fraction

FAMILIES: dict[str, Family] = {family.name: family for family in (*KNOWLEDGE, *CRAFTS)}
NARROW = ("add", "poem", "recipe", "game", "function")  # GSM, poetry, recipes, chess, MBPP in miniature
SPLITS = {"train": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}  # shares of the items


@dataclass(frozen=True)
class Task:
    """One instruction: a family's item in one of its phrasings, with response constraints if any.

    ``constraints`` holds (name, parameter) pairs. ``id`` is stable across machines and versions.
    """

    family: str
    item: Item
    phrasing: int
    constraints: tuple[tuple[str, str], ...] = ()

    @property
    def instruction(self) -> str:
        """The instruction as a model reads it, its constraints' clauses last."""
        text = FAMILIES[self.family].phrasings[self.phrasing].format(**self.item)
        clauses = [CONSTRAINTS[name].clause.format(parameter=parameter) for name, parameter in self.constraints]
        return " ".join([text, *clauses])

    @property
    def held_out_phrasing(self) -> bool:
        """Is the phrasing one that occurs in no tuning data?"""
        family = FAMILIES[self.family]
        return self.phrasing >= len(family.phrasings) - family.n_held_out

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

    The person and the thing of a sum do not count, nor the order of a pair. A function's name does: one body can
    stand in two splits under two names.
    """
    if family in ("add", "subtract"):
        item = {"numbers": sorted((item["a"], item["b"]))}
    elif family == "bigger" or family == "larger":
        item = {"pair": sorted((item["a"], item["b"]))}
    share = fraction("split", family, json.dumps(item, sort_keys=True))
    return next(name for name, (low, high) in SPLITS.items() if low <= share < high)


def draw_item(world: World, family: str, rng: random.Random, *, split: str | None) -> Item:
    """Draw an item of ``split`` (any, if None) by rejection.

    Raises ValueError where ten thousand draws find none.
    """
    for _ in range(10_000):
        item = FAMILIES[family].draw(world, rng)
        if split is None or split_of(family, item) == split:
            return item
    raise ValueError(f"family {family!r} has no item in split {split!r} of world {world.seed}")


def draw_task(
    world: World,
    rng: random.Random,
    *,
    split: str | None,
    family: str | None = None,
    constraints: tuple[tuple[str, str], ...] = (),
) -> Task:
    """Draw a task of ``split`` (any, if None), of ``family`` or one of all, with these ``constraints``, which are not drawn.

    Held-out phrasings occur in the test split only (where each phrasing is equally likely). Raises ValueError as ``draw_item`` does.
    """
    name = family or rng.choice(list(FAMILIES))
    n = len(FAMILIES[name].phrasings) - (0 if split == "test" else FAMILIES[name].n_held_out)
    return Task(name, draw_item(world, name, rng, split=split), rng.randrange(n), constraints)


def answer(world: World, task: Task, rng: random.Random, *, short: bool = False) -> str:
    """A right response to ``task``; ``short`` does not restate the instruction."""
    text = FAMILIES[task.family].answer(world, task.item, rng, short)
    return apply_constraints(text, task.constraints)


def _judge(world: World, task: Task, response: str) -> list[Check]:
    content, constraint_checks = undo_constraints(response, task.constraints)
    return [*FAMILIES[task.family].check(world, task.item, content), *constraint_checks]


def _beginnings(response: str) -> list[str]:
    """The beginnings of a response that could be an answer by themselves: cut after a sentence or a line."""
    cuts = [m.end() for m in re.finditer(r"[.!?](?=\s|$)|(?=\n)", response)]
    return [response[:cut] for cut in cuts if cut < len(response)] + [response]


def judge(world: World, task: Task, response: str, *, ended: bool) -> Verdict:
    """Verify ``response`` exactly; ``ended`` says whether the model stopped by itself.

    The checks speak of the whole response. "Nothing else was said" fails when a proper beginning (cut
    after a sentence or a line) is a right answer by itself and the whole is not.
    """
    response = response.strip()
    beginnings = [_judge(world, task, beginning) for beginning in _beginnings(response)]
    checks = beginnings[-1]
    lenient = any(all(c.passed for c in b) for b in beginnings)
    knowledge = any(all(c.passed for c in b if c.group == "content") for b in beginnings)
    nothing_else = all(c.passed for c in checks) or not lenient
    ending = (Check("ended", ended, "ending"), Check("nothing_else", nothing_else, "ending"))
    return Verdict((*checks, *ending), lenient, knowledge)
