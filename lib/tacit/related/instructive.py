"""Finding 12, Instructive Decoding (Kim et al. 2023, arXiv 2311.00233): a prompt against a noisy one.

The next token's scores are z(instruction) - epsilon z(noisy instruction), of one model under two prompts; decoding is
``generate_responses`` with ``against``. Here are the noisy instructions and what is told of them. An instruction is a
question, the paper's *input*, and behind it a clause that says how to answer, the paper's *definition*.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy import stats

from tacit.findings.answers import percent, tell_failing
from tacit.microworld.constraints import CONSTRAINTS
from tacit.scoring.estimates import Estimate, from_draws
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide

OPPOSITE = "Do the opposite of what you are asked."
KEPT = 0.6  # share of the clause's words that the paper's trunc-shuf keeps
NOISES = {  # what each leaves of the instruction
    "null": "the question; the clause is removed",
    "shuffled": "the question, and 60% of the clause's words in random order",
    "random words": "the question, and as many words, drawn from all prompts, as the clause has",
    "another clause": "the question, and the clause of another prompt",
    "opposite alone": "the question, and in place of the clause the order to do the opposite",
    "opposite added": "the whole instruction, and the order to do the opposite",
    "no question": "the clause alone",
    "nothing": "the prompt format around an empty text",
}
OWN = "the instruction itself"


class Parts(NamedTuple):
    """An instruction's question and the clause behind it, which says how to answer."""

    question: str
    clause: str


def divide_instructions(examples: Dataset) -> list[Parts]:
    """The parts of each instruction, whose ``task`` names its response constraints.

    Raises ValueError for an instruction that carries none, or does not end with their clauses.
    """
    parts = []
    for instruction, text in zip(examples["instruction"], examples["task"], strict=True):
        task = json.loads(text)
        drawn = task["constraints"] if isinstance(task, dict) else task[-1]  # of a real question, of the micro world
        clause = " ".join(CONSTRAINTS[name].clause.format(parameter=parameter) for name, parameter in drawn)
        if not clause or not instruction.endswith(f" {clause}"):
            raise ValueError(f"{instruction!r} does not end with the clause of a response constraint")
        parts.append(Parts(instruction.removesuffix(f" {clause}"), clause))
    return parts


def make_noisy(parts: Sequence[Parts], noise: str, *, seed: int) -> list[str]:
    """The noisy instruction of each prompt, by one of ``NOISES``, or ``OWN`` for the instruction itself.

    Random choices are drawn by ``seed`` and the prompt's place. Raises ValueError for another noise, and where no other
    prompt has another clause.
    """
    words = [word for one in parts for word in " ".join(one).split()]
    return [_blur(one, noise, parts, words, random.Random(f"{noise}-{seed}-{i}")) for i, one in enumerate(parts)]


def _blur(one: Parts, noise: str, parts: Sequence[Parts], words: Sequence[str], rng: random.Random) -> str:
    question, clause = one
    match noise:
        case "null":
            return question
        case "shuffled":
            kept = clause.split()
            return " ".join([question, *rng.sample(kept, max(1, round(KEPT * len(kept))))])
        case "random words":
            return " ".join([question, *rng.choices(words, k=len(clause.split()))])
        case "another clause":
            others = [other.clause for other in parts if other.clause != clause]
            if not others:
                raise ValueError("all prompts carry the same clause: another clause needs prompts that differ")
            return f"{question} {rng.choice(others)}"
        case "opposite alone":
            return f"{question} {OPPOSITE}"
        case "opposite added":
            return f"{question} {clause} {OPPOSITE}"
        case "no question":
            return clause
        case "nothing":
            return ""
        case _ if noise == OWN:
            return f"{question} {clause}"
    raise ValueError(f"unknown noise {noise!r}: choose among {', '.join(NOISES)}, {OWN}")


def correlate_noises(
    plain: ArrayLike, blurred: Mapping[str, ArrayLike], decoded: Mapping[str, ArrayLike], *, n_resamples: int = 1_000
) -> Estimate:
    """Spearman's correlation, over the noises, of how much each harms and how much its contrast gains.

    ``plain`` [seeds, prompts] are scores under the instruction, ``blurred`` those under each noisy instruction,
    ``decoded`` those of the contrast with it. The interval is over seeds and prompts, which all noises share. It says
    nothing of other noises, and chance in the means pulls it towards 0. A draw in which all noises harm alike has a
    correlation of 0. Source: the plot in the repository of the paper (R = 0.90 and 0.88 over six and four noises).
    """
    whole = np.asarray(plain, dtype=float)
    harm, gain = (np.stack([np.asarray(of[noise], dtype=float) for noise in decoded]) for of in (blurred, decoded))

    def correlation(rows: np.ndarray, columns: np.ndarray) -> float:
        level = whole[np.ix_(rows, columns)].mean()
        lost, won = (of[:, rows][:, :, columns].mean((1, 2)) for of in (harm, gain))
        lost, won = level - lost, won - level
        if np.ptp(lost) == 0 or np.ptp(won) == 0:
            return 0.0
        return float(stats.spearmanr(lost, won).statistic)

    rng, (n_seeds, n) = np.random.default_rng(0), whole.shape
    draws = [correlation(rng.integers(n_seeds, size=n_seeds), rng.integers(n, size=n)) for _ in range(n_resamples)]
    return from_draws(correlation(np.arange(n_seeds), np.arange(n)), draws, n_seeds=n_seeds, n_prompts=n)


def describe_instructive_decoding(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    clauses: Demand,
    knowledge: Demand,
    harms: Sequence[float],
    ranked: Estimate,
) -> dict[str, str]:
    """Finding 12's answer from its rule (opposite alone minus greedy, minus null, minus nothing) and its controls.

    ``clauses`` and ``knowledge`` are opposite alone minus greedy in constraints met and in knowledge; ``harms`` what
    the strict score loses under each noisy prompt alone; ``ranked`` is what ``correlate_noises`` gives.
    """
    asked = f"{rule[0].threshold:g}"
    claim = f"decoding against the opposite scores more than {asked} higher than greedy decoding and simpler noises"
    told = ", ".join(f"{one.arm} {one.estimate} ({one.verdict})" for one in rule)
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}. Part by part: {told}.",
        REFUTED: f"It is not so that {claim}. Part by part: {told}.",
        UNDECIDED: f"Whether {claim} is open. Part by part: {told}.",
        FAILS: f"Nothing is said of the contrast, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    spread = max(harms) - min(harms)
    close = sum(harm > max(harms) - 0.1 * max(spread, 1e-12) for harm in harms)
    reason = (
        f"Against greedy text, the opposite changes the share of constraints met by {percent(clauses.estimate)}"
        f" and the share of right answers by {percent(knowledge.estimate)}. Does a noise that harms more gain more? The"
        f" rank correlation is {percent(ranked)}, but {close} of the {len(harms)} noises harm about alike."
    )
    caveat = (
        "The small model never read an order to do the opposite; to it the sentence may be no more than other words."
        " One weight decides, and the clause alone is blurred."
    )
    return {"found": found, "reason": reason, "caveat": caveat}
