"""The checks that verifiers are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DENIALS = frozenset(["not", "no", "never", "nor", "neither", "isn't", "doesn't"])


@dataclass(frozen=True)
class Check:
    """One graded constraint on a response: its name, whether it passed, and what it speaks of.

    ``group`` is ``content`` (is it right: knowledge), ``form`` (is it shaped as asked), ``constraint``
    (a response constraint on top of the task) or ``ending`` (stopped by itself, said nothing else).
    """

    name: str
    passed: bool
    group: str


def words_of(text: str) -> list[str]:
    """The words of ``text`` in lower case, punctuation dropped."""
    return re.findall(r"[a-z']+|\d+", text.lower())


def last_word(line: str) -> str:
    """The last word of ``line`` in lower case; empty where it has none."""
    return (words_of(line) or [""])[-1]


def one_line(text: str, *, most_words: int) -> Check:
    """Form of a short answer: a single non-empty line of at most ``most_words`` words."""
    single = bool(text.strip()) and "\n" not in text.strip()
    return Check("one_line", single and len(text.split()) <= most_words, "form")


def names_only(text: str, right: str, others: Iterable[str]) -> list[Check]:
    """Content of a short answer: it names ``right`` and none of the ``others`` (no hedging)."""
    words = set(words_of(text))
    wrong = {other.lower() for other in others} - {right.lower()}
    return [
        Check("value", right.lower() in words, "content"),
        Check("no_other_value", not words & wrong, "content"),
        Check("no_denial", not words & DENIALS, "content"),
    ]


def names_first(text: str, right: str, other: str, *, most_words: int) -> list[Check]:
    """A comparison: the answer names ``right`` first, the other at most after it, and says nothing to the contrary."""
    words = words_of(text)
    compared = [w for w in words if w in (right.lower(), other.lower())]
    in_order = compared in ([right.lower()], [right.lower(), other.lower()])
    says_how = len(compared) < 2 or bool({"bigger", "larger", "greater", "more"} & set(words))
    contrary = ({"less", "smaller", "fewer"} | DENIALS) & set(words)
    strangers = [w for w in words if w.isdigit() and w not in compared]
    return [
        Check("value", in_order and says_how and not contrary, "content"),
        Check("no_other_value", not strangers, "content"),
        one_line(text, most_words=most_words),
    ]


def no_other_subject(text: str, others: Iterable[str]) -> Check:
    """Content: the answer speaks of none of the ``others``."""
    return Check("no_other_subject", not {other.lower() for other in others} & set(words_of(text)), "content")
