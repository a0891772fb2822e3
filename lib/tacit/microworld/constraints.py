"""Response constraints: what an instruction can ask of the form of any answer, with exact verifiers.

Their clauses never occur in the pretraining corpus, so a base model has not seen them: they are what
a teacher learns in post-training (CoDIT), and what IFEval asks of large models.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tacit.microworld.checks import Check, words_of
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction

Change = Callable[[str, str], str]  # a text and the constraint's parameter -> the text changed
Drawn = tuple[tuple[str, str], ...]  # names of constraints, each with its parameter

# Constraints are applied from the inside out in this order of kinds, and verified from the outside in.
ORDER = ("words", "punctuation", "layout", "end", "start", "whole", "case")
APART = {("layout", "end"), ("layout", "start"), ("layout", "whole"), ("end", "whole"), ("start", "whole")}
MANY_LINES = frozenset(["add", "subtract", "poem", "recipe", "game", "function"])
NUMBERS_ONLY = frozenset(["add", "subtract", "count", "larger"])


@dataclass(frozen=True)
class Constraint:
    """One response constraint.

    ``kind`` says what of the response it governs: two of one kind, or of kinds that contradict each other, are never
    combined. ``undo`` takes a satisfied constraint off again, so that the content below it can be judged. ``not_for``
    are families whose answers it would break.
    """

    name: str
    kind: str
    clause: str
    apply: Change
    check: Callable[[str, str], bool]
    undo: Change = lambda text, parameter: text  # verifiers see through some constraints
    parameters: tuple[str, ...] = ("",)
    not_for: frozenset[str] = frozenset()


def wrapped(name: str, clause: str, left: str, right: str) -> Constraint:
    """A constraint that the whole answer stands between ``left`` and ``right``."""

    def check(text: str, parameter: str) -> bool:
        inside = text[len(left) : len(text) - len(right)]
        return len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inside

    def undo(text: str, parameter: str) -> str:
        return text[len(left) : -len(right)]

    return Constraint(name, "whole", clause, lambda t, p: f"{left}{t}{right}", check, undo)


def marked(name: str, clause: str, mark: str) -> Constraint:
    """A constraint that the answer ends with ``mark``."""
    return Constraint(
        name, "end", clause, lambda t, p: t.rstrip(".") + mark, lambda t, p: t.endswith(mark),
        lambda t, p: t[: -len(mark)], not_for=frozenset(["story"]),
    )  # fmt: skip


def cased(name: str, clause: str, change: Callable[[str], str]) -> Constraint:
    """A constraint that ``change`` leaves the answer, which holds letters, as it is."""
    return Constraint(
        name, "case", clause, lambda t, p: change(t), lambda t, p: t == change(t) and t.lower() != t.upper(),
        lambda t, p: t.lower(), not_for=NUMBERS_ONLY | {"capitals"},
    )  # fmt: skip


def split_lines(text: str, n: str) -> str:
    """Spread the words of ``text`` evenly over ``n`` lines."""
    words = text.split()
    cuts = [round(i * len(words) / int(n)) for i in range(int(n) + 1)]
    return "\n".join(" ".join(words[a:b]) for a, b in itertools.pairwise(cuts))


def read_json(text: str, key: str) -> str | None:
    """The string under ``key``, if ``text`` is a JSON object with that key alone."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    only = isinstance(record, dict) and list(record) == [key] and isinstance(record[key], str)
    return record[key] if only else None


def first_half(text: str) -> str | None:
    """The first half of a text that says the same thing twice, on lines of their own; else None."""
    lines = text.split("\n")
    half = len(lines) // 2
    stripped = [line.strip() for line in lines]
    return "\n".join(lines[:half]) if half and stripped[:half] == stripped[half:] else None


# In each: name, kind and clause; then how it is applied, checked and undone.
CONSTRAINTS: dict[str, Constraint] = {
    c.name: c
    for c in (
        cased("upper", "Shout your answer, in capitals only.", str.upper),
        cased("lower", "Use no capitals at all.", str.lower),
        Constraint("without", "words", 'Do not use the word "{parameter}".',
            lambda t, p: re.sub(rf"\b{p}\b ?", "", t, flags=re.IGNORECASE), lambda t, p: p not in words_of(t),
            parameters=("the", "is", "a", "are"),
            not_for=NUMBERS_ONLY | {"story", "poem", "function", "recipe", "game", "spell"}),
        Constraint("unpunctuated", "punctuation", "Use no commas and no full stops.",
            lambda t, p: re.sub(r"[.,]", "", t), lambda t, p: not re.search(r"[.,]", t),
            not_for=frozenset(["story", "recipe", "game"])),
        Constraint("lines", "layout", "Spread your answer over exactly {parameter} lines.", split_lines,
            lambda t, p: len(t.split("\n")) == int(p) and all(t.split("\n")), lambda t, p: " ".join(t.split("\n")),
            parameters=("2", "3"), not_for=MANY_LINES),
        Constraint("hyphens", "layout", "Join your words with hyphens.", lambda t, p: t.replace(" ", "-"),
            lambda t, p: "-" in t and " " not in t, lambda t, p: t.replace("-", " "),
            not_for=MANY_LINES | {"spell", "story"}),
        marked("question", "End your answer with a question mark.", "?"),
        marked("exclamation", "End your answer with an exclamation mark.", "!"),
        marked("ellipsis", "End your answer with three dots.", "..."),
        Constraint("ending", "end", 'End your answer with "{parameter}".',
            lambda t, p: f"{t}\n{p}" if "\n" in t else f"{t} {p}",
            lambda t, p: t.lower().endswith(p.lower()) and len(t) > len(p), lambda t, p: t[: -len(p)].rstrip(),
            parameters=("Thank you", "All done", "Best wishes")),
        Constraint("opening", "start", 'Begin your answer with "{parameter}:".',
            lambda t, p: f"{p}:\n{t}" if "\n" in t else f"{p}: {t}",
            lambda t, p: t.lower().startswith(f"{p}:".lower()),
            lambda t, p: t[len(p) + 1 :].removeprefix(" ").lstrip("\n"),
            parameters=("Certainly", "Indeed", "Sure", "Well")),
        Constraint("title", "start", "Put the title <<{parameter}>> on a line above your answer.",
            lambda t, p: f"<<{p}>>\n{t}", lambda t, p: t.lower().startswith(f"<<{p}>>\n".lower()),
            lambda t, p: t.split("\n", 1)[1], parameters=("Answer", "Reply", "Note")),
        Constraint("bullets", "start", "Start every line of your answer with a star.",
            lambda t, p: "\n".join(f"* {line}" for line in t.split("\n")),
            lambda t, p: all(line.startswith("* ") or line == "*" for line in t.split("\n")),
            lambda t, p: "\n".join(line[2:] for line in t.split("\n"))),
        wrapped("brackets", "Put your whole answer in square brackets.", "[", "]"),
        wrapped("quotes", "Put your whole answer in double quotes.", '"', '"'),
        wrapped("stars", "Put your whole answer between double stars.", "**", "**"),
        Constraint("twice", "whole", "Say your whole answer twice, the second time below the first.",
            lambda t, p: f"{t}\n{t}", lambda t, p: first_half(t) is not None, lambda t, p: first_half(t) or t),
        Constraint("json", "whole", 'Give your answer as JSON with the key "{parameter}".',
            lambda t, p: json.dumps({p: t}), lambda t, p: read_json(t, p) is not None,
            lambda t, p: read_json(t, p) or t, parameters=("answer", "reply")),
    )
}  # fmt: skip


def compatible(first: str, second: str) -> bool:
    """Can one answer meet both constraints?"""
    a, b = sorted((CONSTRAINTS[first].kind, CONSTRAINTS[second].kind), key=ORDER.index)
    clash = {first, second} in ({"json", "upper"}, {"json", "lower"}, {"unpunctuated", "ellipsis"})
    return a != b and (a, b) not in APART and not clash


def held_out(first: str, second: str) -> bool:
    """Is this pair of constraints kept for the test split (a fifth of the pairs, fixed by their names)?"""
    return fraction("held-out combination", *sorted((first, second))) < 0.2


def combinable(first: str, second: str, *, every_pair: bool) -> bool:
    """Are the two constraints compatible and, without ``every_pair``, not held out?"""
    return compatible(first, second) and (every_pair or not held_out(first, second))


def _suitable(names: Sequence[str], family: str) -> list[str]:
    return [name for name in names if family not in CONSTRAINTS[name].not_for]


def draw_constraints(
    rng: random.Random, family: str, *, n: int, names: Sequence[str] = tuple(CONSTRAINTS), every_pair: bool = True
) -> Drawn:
    """Draw ``n`` (1 or 2) compatible constraints for a task of ``family`` among ``names``, with parameters.

    Without ``every_pair`` no ``held_out`` pair is drawn. Raises ValueError when there is no such choice.
    """
    suitable = _suitable(names, family)
    for _ in range(1_000 if len(suitable) >= n else 0):
        chosen = rng.sample(suitable, n)
        if n == 1 or combinable(*chosen, every_pair=every_pair):
            return tuple((name, rng.choice(CONSTRAINTS[name].parameters)) for name in chosen)
    raise ValueError(f"no {n} compatible constraints for family {family!r} among {names}")


def draw_some_constraints(
    rng: random.Random, family: str, *, names: Sequence[str] = tuple(CONSTRAINTS), every_pair: bool = True
) -> Drawn:
    """Draw one constraint or, a third of the time where two of ``names`` go together for ``family``, two.

    Raises TacitError where none of ``names`` suits the family.
    """
    n = rng.choice([1, 1, 2])
    suitable = _suitable(names, family)
    if not suitable:
        raise TacitError(f"constraints: none of {', '.join(names)} suits tasks of the family {family!r}: allow another")
    pairs = itertools.combinations(suitable, 2)
    if n == 2 and not any(combinable(*pair, every_pair=every_pair) for pair in pairs):
        n = 1
    return draw_constraints(rng, family, n=n, names=names, every_pair=every_pair)


def _inside_out(constraints: Drawn) -> list[tuple[Constraint, str]]:
    return sorted(((CONSTRAINTS[n], p) for n, p in constraints), key=lambda pair: ORDER.index(pair[0].kind))


def apply_constraints(text: str, constraints: Drawn) -> str:
    """Rewrite a right answer so that it meets ``constraints``."""
    for constraint, parameter in _inside_out(constraints):
        text = constraint.apply(text, parameter)
    return text


def undo_constraints(text: str, constraints: Drawn) -> tuple[str, list[Check]]:
    """Verify ``constraints`` from the outside in; returns the content below those that hold, and the checks."""
    checks = []
    for constraint, parameter in reversed(_inside_out(constraints)):
        passed = constraint.check(text, parameter)
        checks.append(Check(constraint.name, passed, "constraint"))
        text = constraint.undo(text, parameter) if passed else text
    return text, checks
