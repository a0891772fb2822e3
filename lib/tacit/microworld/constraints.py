"""Response constraints: what an instruction can ask of the form of any answer, with exact verifiers.

Their clauses never occur in the pretraining corpus, so a base model has not seen them: they are what
a teacher learns in post-training (CoDIT), and what IFEval asks of large models.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from tacit.microworld.family import Check, words_of
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction

MANY_LINES = frozenset(["add", "subtract", "poem", "recipe", "game", "function"])
NUMBERS_ONLY = frozenset(["add", "subtract", "count", "larger"])

# Constraints are applied from the inside out in this order, and verified from the outside in.
ORDER = ("words", "punctuation", "layout", "end", "start", "whole", "case")
APART = {("layout", "end"), ("layout", "start"), ("layout", "whole"), ("end", "whole"), ("start", "whole")}


@dataclass(frozen=True)
class Constraint:
    """One response constraint.

    ``kind`` says what of the response it governs: two of one kind, or of kinds that contradict each
    other, are never combined. ``undo`` takes a satisfied constraint off again, so that the content
    below it can be judged. ``not_for`` are families whose answers it would break.
    """

    name: str
    kind: str
    clause: str
    parameters: tuple[str, ...]
    apply: Callable[[str, str], str]
    check: Callable[[str, str], bool]
    undo: Callable[[str, str], str]
    not_for: frozenset[str] = frozenset()


def same(text: str, parameter: str) -> str:
    """The text as it is: the undoing of constraints that verifiers see through."""
    return text


def wrapped(name: str, clause: str, left: str, right: str) -> Constraint:
    """A constraint that the whole answer stands between ``left`` and ``right``."""

    def check(text: str, parameter: str) -> bool:
        inside = text[len(left) : len(text) - len(right)]
        return len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inside

    return Constraint(
        name, "whole", clause, ("",), lambda t, p: f"{left}{t}{right}", check, lambda t, p: t[len(left) : -len(right)]
    )


def marked(name: str, clause: str, mark: str) -> Constraint:
    """A constraint that the answer ends with ``mark``."""
    return Constraint(
        name, "end", clause, ("",), lambda t, p: t.rstrip(".") + mark, lambda t, p: t.endswith(mark), lambda t, p: t[: -len(mark)],
        frozenset(["story"]),
    )  # fmt: skip


def split_lines(text: str, n: str) -> str:
    """Spread the words of ``text`` evenly over ``n`` lines."""
    words = text.split()
    cuts = [round(i * len(words) / int(n)) for i in range(int(n) + 1)]
    return "\n".join(" ".join(words[a:b]) for a, b in itertools.pairwise(cuts))


def leave_out(text: str, word: str) -> str:
    """Take every ``word`` out of ``text``."""
    return re.sub(rf"\b{word}\b ?", "", text, flags=re.IGNORECASE)


def read_json(text: str, key: str) -> str | None:
    """The string under ``key``, if ``text`` is a JSON object with that key alone."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    only = isinstance(record, dict) and list(record) == [key] and isinstance(record[key], str)
    return record[key] if only else None


def first_half(text: str, parameter: str) -> str | None:
    """The first half of a text that says the same thing twice, on lines of their own; else None."""
    lines = text.split("\n")
    half = len(lines) // 2
    said = [line.strip() for line in lines]
    return "\n".join(lines[:half]) if half and said[:half] == said[half:] else None


def _cased(name: str, clause: str, change: Callable[[str], str]) -> Constraint:
    return Constraint(
        name, "case", clause, ("",), lambda t, p: change(t), lambda t, p: t == change(t) and t.lower() != t.upper(),
        lambda t, p: t.lower(), NUMBERS_ONLY | {"capitals"},
    )  # fmt: skip


CONSTRAINTS: dict[str, Constraint] = {
    c.name: c
    for c in (
        _cased("upper", "Shout your answer, in capitals only.", str.upper),
        _cased("lower", "Use no capitals at all.", str.lower),
        Constraint("without", "words", 'Do not use the word "{parameter}".', ("the", "is", "a", "are"), leave_out,
                   lambda t, p: p not in words_of(t), same, NUMBERS_ONLY | {"story", "poem", "function", "recipe", "game", "spell"}),
        Constraint("unpunctuated", "punctuation", "Use no commas and no full stops.", ("",),
                   lambda t, p: re.sub(r"[.,]", "", t), lambda t, p: not re.search(r"[.,]", t), same,
                   frozenset(["story", "recipe", "game"])),
        Constraint("lines", "layout", "Spread your answer over exactly {parameter} lines.", ("2", "3"), split_lines,
                   lambda t, p: len(t.split("\n")) == int(p) and all(t.split("\n")), lambda t, p: " ".join(t.split("\n")),
                   MANY_LINES),
        Constraint("hyphens", "layout", "Join your words with hyphens.", ("",), lambda t, p: t.replace(" ", "-"),
                   lambda t, p: "-" in t and " " not in t, lambda t, p: t.replace("-", " "), MANY_LINES | {"spell", "story"}),
        marked("question", "End your answer with a question mark.", "?"),
        marked("exclamation", "End your answer with an exclamation mark.", "!"),
        marked("ellipsis", "End your answer with three dots.", "..."),
        Constraint("ending", "end", 'End your answer with "{parameter}".', ("Thank you", "All done", "Best wishes"),
                   lambda t, p: f"{t}\n{p}" if "\n" in t else f"{t} {p}",
                   lambda t, p: t.lower().endswith(p.lower()) and len(t) > len(p), lambda t, p: t[: -len(p)].rstrip()),
        Constraint("opening", "start", 'Begin your answer with "{parameter}:".', ("Certainly", "Indeed", "Sure", "Well"),
                   lambda t, p: f"{p}:\n{t}" if "\n" in t else f"{p}: {t}",
                   lambda t, p: t.lower().startswith(f"{p}:".lower()), lambda t, p: t[len(p) + 1 :].removeprefix(" ").lstrip("\n")),
        Constraint("title", "start", "Put the title <<{parameter}>> on a line above your answer.", ("Answer", "Reply", "Note"),
                   lambda t, p: f"<<{p}>>\n{t}", lambda t, p: t.lower().startswith(f"<<{p}>>\n".lower()),
                   lambda t, p: t.split("\n", 1)[1]),
        Constraint("bullets", "start", "Start every line of your answer with a star.", ("",),
                   lambda t, p: "\n".join(f"* {line}" for line in t.split("\n")),
                   lambda t, p: all(line.startswith("* ") or line == "*" for line in t.split("\n")),
                   lambda t, p: "\n".join(line[2:] for line in t.split("\n"))),
        wrapped("brackets", "Put your whole answer in square brackets.", "[", "]"),
        wrapped("quotes", "Put your whole answer in double quotes.", '"', '"'),
        wrapped("stars", "Put your whole answer between double stars.", "**", "**"),
        Constraint("twice", "whole", "Say your whole answer twice, the second time below the first.", ("",),
                   lambda t, p: f"{t}\n{t}", lambda t, p: first_half(t, p) is not None, lambda t, p: first_half(t, p) or t),
        Constraint("json", "whole", 'Give your answer as JSON with the key "{parameter}".', ("answer", "reply"),
                   lambda t, p: json.dumps({p: t}), lambda t, p: read_json(t, p) is not None,
                   lambda t, p: read_json(t, p) or t, frozenset()),
    )
}  # fmt: skip


def compatible(first: str, second: str) -> bool:
    """Can one answer meet both constraints?"""
    a, b = sorted((CONSTRAINTS[first].kind, CONSTRAINTS[second].kind), key=ORDER.index)
    cased_json = {first, second} in ({"json", "upper"}, {"json", "lower"})
    dotted = {first, second} == {"unpunctuated", "ellipsis"}
    return a != b and (a, b) not in APART and not cased_json and not dotted


def held_out(first: str, second: str) -> bool:
    """Is this pair of constraints kept for the test split (a fifth of the pairs, fixed by their names)?"""
    return fraction("held-out combination", *sorted((first, second))) < 0.2


def draw_constraints(
    rng: random.Random, family: str, *, n: int, names: tuple[str, ...] = tuple(CONSTRAINTS), every_pair: bool = True
) -> tuple[tuple[str, str], ...]:
    """Draw ``n`` (1 or 2) compatible constraints for a task of ``family`` among ``names``, with parameters.

    Without ``every_pair`` no ``held_out`` pair is drawn. Raises ValueError when there is no such choice.
    """
    suitable = [name for name in names if family not in CONSTRAINTS[name].not_for]
    for _ in range(1_000 if len(suitable) >= n else 0):
        chosen = rng.sample(suitable, n)
        if n == 1 or (compatible(*chosen) and (every_pair or not held_out(*chosen))):
            return tuple((name, rng.choice(CONSTRAINTS[name].parameters)) for name in chosen)
    raise ValueError(f"no {n} compatible constraints for family {family!r} among {names}")


def draw_some_constraints(
    rng: random.Random, family: str, *, names: tuple[str, ...] = tuple(CONSTRAINTS), every_pair: bool = True
) -> tuple[tuple[str, str], ...]:
    """One constraint or, a third of the time where two of ``names`` go together for ``family``, two: ``draw_constraints``.

    Raises TacitError where none of ``names`` suits the family.
    """
    n = rng.choice([1, 1, 2])
    suitable = [name for name in names if family not in CONSTRAINTS[name].not_for]
    if not suitable:
        raise TacitError(f"constraints: none of {', '.join(names)} suits tasks of the family {family!r}: allow another")
    pairs = (compatible(a, b) and (every_pair or not held_out(a, b)) for a, b in itertools.combinations(suitable, 2))
    if n == 2 and not any(pairs):
        n = 1
    return draw_constraints(rng, family, n=n, names=names, every_pair=every_pair)


def _inside_out(constraints: tuple[tuple[str, str], ...]) -> list[tuple[Constraint, str]]:
    return sorted(((CONSTRAINTS[n], p) for n, p in constraints), key=lambda pair: ORDER.index(pair[0].kind))


def apply_constraints(text: str, constraints: tuple[tuple[str, str], ...]) -> str:
    """Rewrite a right answer so that it meets ``constraints``."""
    for constraint, parameter in _inside_out(constraints):
        text = constraint.apply(text, parameter)
    return text


def undo_constraints(text: str, constraints: tuple[tuple[str, str], ...]) -> tuple[str, list[Check]]:
    """Verify ``constraints`` from the outside in; returns the content below those that hold, and the checks."""
    checks = []
    for constraint, parameter in reversed(_inside_out(constraints)):
        passed = constraint.check(text, parameter)
        checks.append(Check(constraint.name, passed, "constraint"))
        text = constraint.undo(text, parameter) if passed else text
    return text, checks
