"""Finding 15, instruction position (Post-Instruction, Liu et al. 2023, arXiv 2308.12097): before or after the input.

An input is a list of words, and an instruction says what to do with them. The same instructions about the same inputs
are put in three formats. As the instruction stands before the input, after it, or on both sides, its distance from the
response changes; sentences that say nothing, put before the response, make the distance equal again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from datasets import Dataset

from tacit.decoding.generation import Response
from tacit.findings.answers import percent, tell_failing
from tacit.microworld.tasks import SPLITS
from tacit.microworld.words import NOUNS
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.support.keyed import fraction


@dataclass(frozen=True)
class Operation:
    """Something to do with a list of words: how it is asked for, and what it gives."""

    wordings: tuple[str, ...]
    apply: Callable[[Sequence[str]], str]


def join(words: Sequence[str]) -> str:
    """Words as an input or a response lists them."""
    return ", ".join(words)


OPERATIONS = {  # no wording says where the words are
    "capitals": Operation(
        ("Write the words in big letters.", "Put the words in big letters.", "Turn the words into big letters."),
        lambda words: join([word.upper() for word in words]),
    ),
    "reverse": Operation(
        ("Write the words in reverse order.", "Put the words backwards.", "Say the words from last to first."),
        lambda words: join(words[::-1]),
    ),
    "repeat": Operation(("Write the words once more.", "Say the words again.", "Repeat the words as they are."), join),
    "first": Operation(
        ("Write the first of the words.", "Say the first word alone.", "Name the word that begins the list."),
        lambda words: words[0],
    ),
    "last": Operation(
        ("Write the last of the words.", "Say the last word alone.", "Name the word that ends the list."),
        lambda words: words[-1],
    ),
    "hyphens": Operation(
        ("Write the words with hyphens between.", "Join the words by hyphens.", "Put hyphens between the words."),
        "-".join,
    ),
}
POSITIONS = ("before", "after", "both")
FILLER = (
    "The day was calm.", "The road was long.", "Nobody was in a hurry.", "The sky was grey.", "It was still early.",
    "The street was quiet.", "The air was mild.", "There was no wind.", "The light was soft.", "The hour was late.",
    "Nothing else was said.", "The fields were green.",
)  # fmt: skip
PLACES = {"before": "below", "after": "above"}
SCORES = ("right", "another operation")


@dataclass(frozen=True)
class Exercise:
    """An input of ``words`` and the ``operation`` that is asked for, in one of its wordings.

    With ``placed`` the instruction says where the input is.
    """

    id: str
    words: tuple[str, ...]
    operation: str
    wording: int
    placed: bool = False

    @property
    def answer(self) -> str:
        """What the operation gives."""
        return OPERATIONS[self.operation].apply(self.words)

    def ask(self, position: str) -> str:
        """The instruction as it stands ``before`` or ``after`` the input."""
        text = OPERATIONS[self.operation].wordings[self.wording]
        return f"Look at the list {PLACES[position]}. {text}" if self.placed else text

    def instruct(self, position: str, *, filler: int = 0) -> str:
        """The whole prompt; the instruction's ``position`` is one of POSITIONS, ``filler`` sentences come last."""
        first = [self.ask("before")] if position in ("before", "both") else []
        last = [self.ask("after")] if position in ("after", "both") else []
        rest = [" ".join(FILLER[i % len(FILLER)] for i in range(filler))] if filler else []
        return "\n".join([*first, join(self.words), *last, *rest])

    def shorten(self, n_words: int) -> Exercise:
        """The same instruction for the first ``n_words`` words. Raises ValueError where there are fewer."""
        if not 1 <= n_words <= len(self.words):
            raise ValueError(f"an input of {len(self.words)} words cannot be made one of {n_words}")
        return replace(self, words=self.words[:n_words])

    def row(self, position: str, *, filler: int = 0) -> dict:
        """A row of a dataset: prompt, right response, operation, and what the other operations give."""
        others = {name: one.apply(self.words) for name, one in OPERATIONS.items() if name != self.operation}
        row = {"id": self.id, "instruction": self.instruct(position, filler=filler), "response": f"{self.answer}."}
        return row | {"family": self.operation, "others": [text for text in others.values() if text != self.answer]}


def filler_for(n_words: int) -> int:
    """How many sentences of filler are about as long as an input of ``n_words``, in the micro models' tokens."""
    return max(1, round(n_words / 3))


def draw_exercises(n: int, *, n_words: int, seed: int, split: str) -> list[Exercise]:
    """``n`` exercises with inputs of ``n_words`` words, whose first two belong, in this order, to the ``split``.

    Operations take turns, and every second round of them says where the input is. Raises ValueError for more words
    than there are.
    """
    if not 2 <= n_words <= len(NOUNS):
        raise ValueError(f"an input has 2 to {len(NOUNS)} different words, not {n_words}")
    rng = random.Random(f"exercises-{split}-{n_words}-{seed}")
    low, high = SPLITS[split]
    exercises = []
    while len(exercises) < n:
        words = tuple(rng.sample(NOUNS, n_words))
        if not low <= fraction("exercise", *words[:2]) < high:
            continue
        turn = len(exercises)
        operation = tuple(OPERATIONS)[turn % len(OPERATIONS)]
        wording = rng.randrange(len(OPERATIONS[operation].wordings))
        placed = turn // len(OPERATIONS) % 2 == 1
        exercises.append(Exercise(f"{split}-{n_words}-{turn}", words, operation, wording, placed))
    return exercises


def draw_lessons(position: str, *, n: int, lengths: Sequence[int], seed: int, filled: float = 0.25) -> Dataset:
    """``n`` training rows in one format: the same exercises and answers whatever the ``position``.

    Inputs have each of the ``lengths`` about equally often; the share ``filled`` has filler (``filler_for``).
    Raises ValueError for another position, and as ``draw_exercises`` does.
    """
    if position not in POSITIONS:
        raise ValueError(f"unknown position {position!r}: choose among {', '.join(POSITIONS)}")
    rng = random.Random(f"lessons-{seed}")
    rows = []
    for exercise in draw_exercises(n, n_words=max(lengths), seed=seed, split="train"):
        short = exercise.shorten(rng.choice(list(lengths)))
        filler = filler_for(len(short.words)) if rng.random() < filled else 0
        rows.append({key: short.row(position, filler=filler)[key] for key in ("id", "instruction", "response")})
    rng.shuffle(rows)
    return Dataset.from_list(rows)


def make_examples(exercises: Sequence[Exercise], position: str, *, n_words: int, filler: int = 0) -> Dataset:
    """The rows of ``exercises``, each shortened to ``n_words``, in one format. Raises as ``Exercise.shorten`` does."""
    return Dataset.from_list([one.shorten(n_words).row(position, filler=filler) for one in exercises])


def score_exercises(examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
    """A table with a row per example: ``id``, ``family`` and two scores, 0 or 1.

    ``right``: the response is what the operation gives, nothing else, and ended by itself; a full stop is forgiven.
    ``another operation``: it is what another operation gives, so that the input was read and the instruction was not.
    """
    rows = []
    for right, others, response in zip(examples["response"], examples["others"], responses, strict=True):
        text, ended = _plain(response.text), response.finish_reason == "eos"
        rows.append([float(text == _plain(right) and ended), float(text in map(_plain, others) and ended)])
    table = pd.DataFrame(rows, columns=list(SCORES))
    return pd.concat([pd.DataFrame({"id": examples["id"], "family": examples["family"]}), table], axis=1)


def _plain(text: str) -> str:
    return text.strip().rstrip(".")


def describe_positions(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    levels: Mapping[str, Estimate],
    filled: Estimate,
    cost: Estimate,
    both: Estimate,
    n_words: int,
) -> dict[str, str]:
    """Finding 15's answer from its rule (after minus before at the longest inputs, and its growth) and its controls.

    ``levels`` holds the share of right responses to inputs of ``n_words``, the longest, by position. ``filled`` is
    after with filler minus before without, ``cost`` before with filler minus before without, ``both`` is both minus
    after.
    """
    gain, growth = (percent(one.estimate) for one in rule)
    claim = "an instruction after the input is followed better than one before it"
    claim += f" by more than {rule[0].threshold:g}, and the more so the longer the input"
    numbers = (
        f"at {n_words} words after minus before is {gain}; from the shortest to these inputs it changes by {growth}"
    )
    verdict = decide(rule, controls)
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: {numbers}.",
        REFUTED: f"It is not so that {claim}: {numbers}.",
        UNDECIDED: f"Whether {claim} is open: {numbers}.",
        FAILS: f"Nothing is said of positions, because a control is not met: {tell_failing(controls)}.",
    }[verdict]
    by_position = ", ".join(f"{position} {percent(level)}" for position, level in levels.items())
    reason = f"Right responses at {n_words} words, by position: {by_position}."
    if verdict != FAILS:
        words = {"above": "is better than", "below": "is worse than"}
        words["not shown to differ from"] = "is not shown to differ from"
        reason += (
            f" With filler as long as the input behind it, after {words[filled.side()]} before without"
            f" ({percent(filled)}); filler itself changes before by {percent(cost)}. Asking on both sides"
            f" {words[both.side()]} asking after ({percent(both)})."
        )
    return {"found": found, "reason": reason, "caveat": "Six operations on lists of words, by a small model."}
