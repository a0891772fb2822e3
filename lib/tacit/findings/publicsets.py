"""Finding 8: two micro "public" datasets, of other quality and size than a teacher's, and what they teach."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from tacit.findings.answers import percent, tell_failing
from tacit.microworld import tasks
from tacit.microworld.documents import faq
from tacit.microworld.tasks import Task
from tacit.microworld.world import World
from tacit.scoring.estimates import Estimate, from_draws
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.support.keyed import fingerprint

PAIR = re.compile(r"Q: (.+?)\nA: (.+?)(?=\n\nQ: |\Z)", re.DOTALL)


def plain_texts(examples: Dataset) -> set[str]:
    """What the items of ``examples`` are asked in any phrasing, without constraints, and pairs in either order."""
    drawn = list(map(Task.from_json, examples["task"]))
    asked = [(task.family, task.item) for task in drawn]
    asked += [(family, item | {"a": item["b"], "b": item["a"]}) for family, item in asked if family in tasks.PAIRS]
    return {text.format(**item) for family, item in asked for text in tasks.FAMILIES[family].phrasings}


def _held_out_phrasings() -> re.Pattern[str]:
    """What matches a question in a phrasing that no tuning data may have."""
    texts = [text for family in tasks.FAMILIES.values() for text in family.phrasings[family.n_tuning_phrasings :]]
    return re.compile("|".join(re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in texts))


def scrape_faq(world: World, *, n: int, seed: int, most_words: int = 12, without: Collection[str] = ()) -> Dataset:
    """``n`` questions with their short answers, scraped from fresh pages of the corpus's FAQ genre.

    The answers are right, of one line and at most ``most_words`` words. The questions are plain, without response
    constraints; none of them is in ``without`` (see ``plain_texts``) or in a phrasing that is held out for tests.
    Columns id, instruction, response. Raises ValueError when the pages do not hold ``n`` such questions.
    """
    held_out = _held_out_phrasings()
    rng = random.Random(f"scraped-{world.seed}-{seed}")
    rows: dict[str, dict[str, str]] = {}
    for _ in range(20 * n):
        if len(rows) >= n:
            break
        for question, answer in PAIR.findall(faq(world, rng)):
            short = "\n" not in answer and len(answer.split()) <= most_words
            if short and question not in without and not held_out.fullmatch(question):
                name = fingerprint([question, answer])[:16]
                rows.setdefault(question, {"id": name, "instruction": question, "response": answer})
    if len(rows) < n:
        raise ValueError(f"the FAQ pages hold only {len(rows)} such questions, not {n}")
    return Dataset.from_list(list(rows.values())[:n])


def spoil(world: World, examples: Dataset, *, seed: int, ignored: float = 0.3, misplaced: float = 0.3) -> Dataset:
    """A noisy copy of ``examples``: some responses ignore their constraints, some answer another instruction.

    The shares ``ignored`` and ``misplaced`` are expectations, drawn row by row. Columns id, instruction, response.
    """
    rng = random.Random(f"spoiled-{seed}")
    rows = examples.to_list()
    spoiled = []
    for row in rows:
        drawn, response = rng.random(), row["response"]
        if drawn < ignored:
            plain = replace(Task.from_json(row["task"]), constraints=())
            response = tasks.answer(world, plain, random.Random(f"{seed}-{row['id']}"))
        elif drawn < ignored + misplaced:
            response = rng.choice([other for other in rows if other["id"] != row["id"]])["response"]
        spoiled.append({"id": row["id"], "instruction": row["instruction"], "response": response})
    return Dataset.from_list(spoiled)


def find_crossing(shares: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """The share at which a curve first falls to ``level``, between its points by a straight line; None if it does not.

    ``shares`` rise. A curve that begins at or below the level crosses at its first share.
    """
    points = list(zip(shares, values, strict=True))
    if points[0][1] <= level:
        return float(points[0][0])
    for (x, y), (next_x, next_y) in pairwise(points):
        if next_y <= level:
            return float(x + (next_x - x) * (y - level) / (y - next_y))
    return None


def estimate_crossing(
    shares: Sequence[float], curve: Sequence[ArrayLike], level: ArrayLike, *, n_resamples: int = 1_000
) -> Estimate:
    """``find_crossing`` of means, with its interval: scores [seeds, prompts] at each share, and those of the level.

    Seeds and prompts are the same everywhere and resampled together. A curve that does not fall to the level counts
    with the last share. Raises ValueError for different shapes.
    """
    if len({np.shape(scores) for scores in (*curve, level)}) != 1:
        raise ValueError("the curve and the level need scores [seeds, prompts] of the same seeds and prompts")
    stacked = np.array([*curve, level], dtype=float)  # [shares + 1, seeds, prompts]

    def cross(means: np.ndarray) -> float:
        share = find_crossing(shares, means[:-1], means[-1])
        return float(shares[-1]) if share is None else share

    rng, (_, seeds, prompts) = np.random.default_rng(0), stacked.shape
    drawn = []
    for _ in range(n_resamples):
        some = stacked[:, rng.integers(seeds, size=seeds)][:, :, rng.integers(prompts, size=prompts)]
        drawn.append(cross(some.mean(axis=(1, 2))))
    return from_draws(cross(stacked.mean(axis=(1, 2))), drawn, n_seeds=seeds, n_prompts=prompts)


def describe_existing(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    direct: Sequence[Demand],
    over_direct: Sequence[Demand],
    by_kind: Sequence[Demand],
    crossings: Mapping[str, Estimate],
    modes: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """Finding 8's answer from its rule (CoDIT minus public datasets) and positive controls.

    ``direct`` holds the rule's comparisons for direct text; ``over_direct`` CoDIT minus direct, ``by_kind`` CoDIT minus
    public datasets, both by kind of prompt; ``crossings`` the share of ignored constraints at which each arm's level is
    crossed; ``modes`` for each ``dataset`` the constraints met in the ``data``, and by its student ``greedy`` and
    ``sampled``. The last three may be empty.
    """
    met = sum(demand.verdict == HOLDS for demand in rule)
    students = "a student of CoDIT text does better than students of existing data"
    numbers = f"{met} of {len(rule)} comparisons are met; {_tell_ranges(rule)}"
    found = {
        HOLDS: f"A{students[1:]}: {numbers}.",
        REFUTED: f"It is not so that {students}: {numbers}.",
        UNDECIDED: f"Whether {students} is open: {numbers}.",
        FAILS: f"Nothing is said of existing data, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    passed = sum(demand.verdict == HOLDS for demand in direct)
    gains = ", ".join(f"{demand.arm.split(', ')[-1]} {percent(demand.estimate)}" for demand in over_direct)
    needed = "so the contrast is not needed for that" if passed == len(direct) else "so the contrast may count"
    reason = (
        f"{_tell_kinds(by_kind)}Direct text of the same teacher meets {passed} of the {len(direct)} comparisons,"
        f" {needed}. CoDIT minus direct text: {gains}. {_tell_crossings(crossings)}"
    )
    caveat = f"{_tell_modes(modes)} The public datasets are made here, at a quality of our choice.".lstrip()
    return {"found": found, "reason": reason.rstrip(), "caveat": caveat}


def _tell_kinds(by_kind: Sequence[Demand]) -> str:
    """Against which public datasets each kind of prompt gains or loses."""
    words = {HOLDS: "ahead of", REFUTED: "behind", UNDECIDED: "not shown to differ from"}
    told = []
    for kind in dict.fromkeys(demand.arm.split(", ")[-1] for demand in by_kind):
        of_kind = [demand for demand in by_kind if demand.arm.endswith(f", {kind}")]
        sides = []
        for verdict, side in words.items():
            names = [demand.arm.removesuffix(f", {kind}") for demand in of_kind if demand.verdict == verdict]
            names = [name.removeprefix("CoDIT minus ") for name in names]
            sides += [f"{side} {' and '.join(names)}"] if names else []
        told.append(f"On {kind} prompts CoDIT text is {', '.join(sides)}. ")
    return "".join(told)


def _tell_ranges(rule: Sequence[Demand]) -> str:
    """The lowest and the highest value of the rule's comparisons, by kind of prompt."""
    told = []
    for kind in dict.fromkeys(demand.arm.split(", ")[-1] for demand in rule if "rate" not in demand.metric):
        values = [demand.estimate.value for demand in rule if demand.arm.endswith(kind)]
        told.append(f"{kind} prompts {min(values):z.2f} to {max(values):z.2f}")
    if not told:
        values = [demand.estimate.value for demand in rule]
        return f"win rates go from {min(values):z.2f} to {max(values):z.2f}"
    return f"the differences of lenient scores: {', '.join(told)}"


def _tell_crossings(crossings: Mapping[str, Estimate]) -> str:
    """From which share of ignored constraints on the teacher's text teaches more than right responses spoiled so."""
    told = []
    for arm, share in crossings.items():
        never = 0 < share.low == share.high  # the last share that was tried, in every resample
        told.append(
            f"no less than {arm} text up to a share of {share.value:g}"
            if never
            else f"less than {arm} text from a share of {percent(share)} on"
        )
    return f"If a share of right responses ignores its constraints, they teach {', '.join(told)}." if told else ""


def _tell_modes(modes: Sequence[Mapping[str, Any]]) -> str:
    """How many constraints a dataset meets, and its student by the likeliest and by sampled tokens."""
    told = [f"{row['dataset']} {row['data']:.2f}, {row['greedy']:.2f}, {row['sampled']:.2f}" for row in modes]
    if not told:
        return ""
    return f"Constraints met by the data, by the student's likeliest and by its sampled responses: {'; '.join(told)}."
