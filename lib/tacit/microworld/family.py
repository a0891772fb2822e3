"""What a family of tasks is, and the checks that its verifiers are made of."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tacit.microworld.world import World

Item = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One graded constraint on a response: its name, whether it passed, and what it speaks of.

    ``group`` is ``content`` (is it right: knowledge), ``form`` (is it shaped as asked), ``constraint``
    (a response constraint on top of the task) or ``ending`` (stopped by itself, said nothing else).
    """

    name: str
    passed: bool
    group: str


@dataclass(frozen=True)
class Family:
    """A family of tasks: how its items are drawn, asked, answered and verified.

    ``phrasings`` are format strings over the item's fields; the last ``n_held_out`` never occur in
    tuning data. ``computed`` families have an answer that follows from the instruction, so that the
    pretraining corpus may only hold their training items; the others ask for knowledge of the world.
    """

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[World, random.Random], Item]
    answer: Callable[[World, Item, random.Random, bool], str]  # the bool asks for the short answer
    check: Callable[[World, Item, str], list[Check]]
    computed: bool = False
    n_held_out: int = 1


DENIALS = frozenset(["not", "no", "never", "nor", "neither", "isn't", "doesn't"])


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, punctuation dropped."""
    return re.findall(r"[a-z']+|\d+", text.lower())


def one_line(text: str, *, most_words: int) -> Check:
    """Form of a short answer: a single non-empty line of at most ``most_words`` words."""
    return Check(
        "one_line", bool(text.strip()) and "\n" not in text.strip() and len(text.split()) <= most_words, "form"
    )


def names_only(text: str, right: str, others: Iterable[str], *, name: str = "value") -> list[Check]:
    """Content of a short answer: it names ``right`` and none of the ``others`` (no hedging)."""
    said = set(words_of(text))
    wrong = {o.lower() for o in others} - {right.lower()}
    return [
        Check(name, right.lower() in said, "content"),
        Check(f"no_other_{name}", not said & wrong, "content"),
        Check("no_denial", not said & DENIALS, "content"),
    ]
