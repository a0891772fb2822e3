"""Comparison of arms: score tables, head-to-head results, estimates and differences, as the findings show them.

An arm's answers are one list of responses per seed, and its tables one score table per seed. An arm with a single
model, such as the base model, has one of each: it meets every seed of an arm with more.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tacit.decoding.generation import Response
from tacit.experiments.evaluation import Evaluation
from tacit.scoring import scores

Answers = Sequence[Sequence[Response]]  # an arm's: [seeds][prompts]
Tables = Sequence[pd.DataFrame]  # an arm's score tables: [seeds]

# What the difference between a tuned model's strict score and its base model's lenient score says, by its side of 0.
BEYOND_STOPPING = {
    "above": "so more answers are right than stopping alone would give",
    "below": "so a perfect stop would have gained more",
    "not shown to differ from": "so stopping alone may explain the whole gain",
}


def score_answers(bench: Evaluation, answers: Mapping[Any, Answers]) -> dict[Any, list[pd.DataFrame]]:
    """The score tables of every arm's answers to the test prompts, one table per seed."""
    return {arm: [bench.score(bench.test, of_seed) for of_seed in per_seed] for arm, per_seed in answers.items()}


def match_seeds(per_seed: Sequence, n_seeds: int) -> list:
    """``per_seed`` for ``n_seeds`` seeds: as it is, or repeated where one model meets the models of every seed."""
    return list(per_seed) * (n_seeds // len(per_seed))


def head_to_head(bench: Evaluation, ours: Answers, theirs: Answers) -> np.ndarray:
    """Head-to-head results [seeds, prompts] of two arms' answers to the test prompts, from 0 (lost) to 1 (won).

    Raises ValueError where one side's seeds are not a multiple of the other's.
    """
    n_seeds = max(len(ours), len(theirs))
    pairs = zip(match_seeds(ours, n_seeds), match_seeds(theirs, n_seeds), strict=True)
    return np.stack([bench.wins(bench.test, *pair) for pair in pairs])


def compare_answers(bench: Evaluation, answers: Mapping[str, Answers], *, against: str) -> dict[str, np.ndarray]:
    """``head_to_head`` of every other arm with the arm ``against``, seed by seed."""
    return {arm: head_to_head(bench, ours, answers[against]) for arm, ours in answers.items() if arm != against}


def pick_primary(tables: Mapping[str, Tables], won: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """What a rule compares, [seeds, prompts] by arm: strict scores; without verifiers the head-to-head results."""
    if all("strict" in table for per_seed in tables.values() for table in per_seed):
        return {arm: scores.stack(per_seed, "strict") for arm, per_seed in tables.items()}
    return won


def estimate_arms(
    tables: Mapping[str, Tables], won: Mapping[str, np.ndarray], *, kinds: Sequence[str]
) -> dict[tuple[str, str], scores.Estimate]:
    """The estimates by arm and metric: each arm's scores of ``kinds``, then the win rates from the results ``won``."""
    estimates = {(arm, kind): scores.estimate(scores.stack(tables[arm], kind)) for arm in tables for kind in kinds}
    return estimates | {(arm, "win rate"): scores.estimate(values) for arm, values in won.items()}


def list_results(estimates: Mapping[tuple[str, str], scores.Estimate]) -> list[dict]:
    """Estimates by arm and metric as the rows of a metrics file."""
    return [estimate.as_result(arm, metric) for (arm, metric), estimate in estimates.items()]


def compare_scores(ours: ArrayLike, theirs: ArrayLike) -> scores.Estimate:
    """The paired difference of two arms' scores [seeds, prompts]; those of a single model meet every seed of the other.

    Raises ValueError for shapes that differ otherwise, as ``scores.difference`` does.
    """
    return scores.difference(*np.broadcast_arrays(ours, theirs))


def average_by_family(tables: Mapping[str, Tables], kind: str) -> pd.DataFrame:
    """The mean of the score ``kind``: a row per family, in the order of the prompts, and a column per arm."""
    means = {arm: pd.concat(per_seed).groupby("family", sort=False)[kind].mean() for arm, per_seed in tables.items()}
    return pd.DataFrame(means)


def compare_families(ours: ArrayLike, theirs: ArrayLike, families: Iterable[str]) -> pd.DataFrame:
    """The paired difference of two arms' scores [seeds, prompts] in each task family, with its interval.

    ``families`` holds the family of each prompt. Columns: ``family``, ``value``, ``low``, ``high`` and ``n_prompts``;
    the family in which ours falls furthest behind comes first. The intervals are each family's own: among twenty, one
    that leaves out 0 is expected by chance. Raises ValueError for another number of families, and as
    ``compare_scores`` does.
    """
    a, b, of = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float), np.array(list(families))
    if not a.shape[-1] == b.shape[-1] == len(of):
        raise ValueError(f"need the family of each prompt: {len(of)} families for scores {a.shape} and {b.shape}")
    rows = []
    for family in dict.fromkeys(of.tolist()):
        gap = compare_scores(a[:, of == family], b[:, of == family])
        row = {"family": family, "value": gap.value, "low": gap.low, "high": gap.high, "n_prompts": gap.n_prompts}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("value", kind="stable", ignore_index=True)


def find_disagreements(
    tables: Mapping[str, Tables], *, kind: str, arms: Sequence[str], n: int, seed: int = 0
) -> list[int]:
    """At most ``n`` prompts on which the first seed's models of ``arms`` differ in the score ``kind``: row numbers.

    They are examples that say what differs, chosen by scores and never by texts. A pattern is what each arm scores:
    every pattern occurs once before any occurs twice. First come patterns in which an arm fails (scores below 1) that
    has not failed yet, so with ``n`` at least the number of arms, each arm's failures are among them if it has any. Of
    patterns and rows of equal standing, those of a family not shown yet come first; ``seed`` fixes the order of the
    rest. There are fewer rows where the arms differ on fewer.
    """
    scored = np.stack([tables[arm][0][kind].to_numpy(dtype=float) for arm in arms], axis=1)  # [prompts, arms]
    families = list(tables[arms[0]][0]["family"])
    patterns = [tuple(row) for row in scored.tolist()]
    left = [int(i) for i in np.random.default_rng(seed).permutation(len(patterns)) if len(set(patterns[i])) > 1]
    homes = Counter(pattern for pattern, _ in {(patterns[i], families[i]) for i in left})  # families that hold it
    chosen: list[int] = []
    while left and len(chosen) < n:
        shown, visited = Counter(patterns[i] for i in chosen), Counter(families[i] for i in chosen)
        failed = {arm for i in chosen for arm, score in zip(arms, patterns[i], strict=True) if score < 1}

        def standing(i: int, shown: Counter = shown, visited: Counter = visited, failed: set = failed) -> tuple:
            new = {arm for arm, score in zip(arms, patterns[i], strict=True) if score < 1} - failed
            return shown[patterns[i]], -len(new), visited[families[i]], homes[patterns[i]]

        chosen.append(min(left, key=standing))  # the first of equals
        left.remove(chosen[-1])
    return chosen


def find_twins(answers: Mapping[str, Answers]) -> list[tuple[str, str]]:
    """Pairs of arms that answer every prompt of every seed with the same text and the same ending.

    They are one model by construction, or a step that did nothing: a figure must drop one or name them. A single model
    meets every seed of an arm with more; arms whose seeds do not match so are no twins.
    """
    said = {arm: [[(r.text, r.finish_reason) for r in one] for one in per_seed] for arm, per_seed in answers.items()}

    def equal(ours: list, theirs: list) -> bool:
        n_seeds = max(len(ours), len(theirs))
        return match_seeds(ours, n_seeds) == match_seeds(theirs, n_seeds)

    return [(a, b) for a, b in itertools.combinations(said, 2) if equal(said[a], said[b])]


def count_per_family(families: Iterable[str]) -> str:
    """How many prompts a family has, in words such as ``2 to 3``, from the family of each prompt."""
    counts = pd.Series(list(families)).value_counts()
    return " to ".join(str(count) for count in sorted({counts.min(), counts.max()}))


def list_epochs(records: Mapping[str, dict]) -> tuple[pd.DataFrame, pd.Series]:
    """What the selection of epochs saw, a row per arm and choice, and how many epochs it chose for each arm.

    ``records`` holds the record that ``arms.tuned_responses`` returns for each arm. An arm with one choice has no row.
    """
    rows = [{"arm": arm, **row} for arm, record in records.items() for row in record["selection"]]
    chosen = pd.Series({arm: record["epochs"] for arm, record in records.items()}, name="chosen epochs")
    return pd.DataFrame(rows), chosen


def tabulate_epochs(selection: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``list_epochs`` by arm: the validation score and the last epoch's loss for each number of epochs."""
    table = selection.pivot(index="arm", columns="epochs", values=["validation", "loss"])
    return table.round(3).loc[list(dict.fromkeys(selection["arm"]))]


def join_paper(results: Sequence[dict], paper: Sequence[dict]) -> pd.DataFrame:
    """Our results beside a paper's values of the same arm and metric; what only one of the two has is left out."""
    joined = pd.DataFrame(results).merge(pd.DataFrame(paper), on=["arm", "metric"], suffixes=("", ", paper"))
    return joined[["arm", "metric", "value", "low", "high", "value, paper", "source"]].round(3)
