"""Stopping as a control: an untuned model that only stops better, and a tuned arm's gain split by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from transformers import PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.decoding.rules import resolve_tokens, surface
from tacit.experiments.arms import ruled_responses
from tacit.experiments.comparison import Tables, compare_scores
from tacit.experiments.evaluation import Evaluation, strict_rate
from tacit.models.identity import weights_key
from tacit.models.loading import load_model
from tacit.scoring import scores
from tacit.support.errors import TacitError

KINDS = ("strict", "lenient")
Arm = Tables | Mapping[str, ArrayLike]  # score tables [seeds], or by kind of score an array [seeds, prompts]


def bias_end(tokenizer: PreTrainedTokenizerBase, constant: float) -> dict[str, Any]:
    """The options of ``make_rules`` that add ``constant`` (nats) to the end token's logit at every step; 0 is no rule.

    For ``arms.ruled_responses``. It is the uniform rule with the end token as its one token. Raises TacitError where
    the tokenizer has another token of the same spelling.
    """
    if constant == 0:
        return {"rules": []}
    spelled = surface(tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id))
    tokens = {spelled: float(constant)}
    if resolve_tokens(tokenizer, tokens)[0] != {tokenizer.eos_token_id: constant}:
        raise TacitError(f"another token of this tokenizer is spelled as its end token {spelled!r}")
    return {"rules": ["uniform"], "uniform_tokens": tokens}


def fit_end_constant(
    respond: Callable[..., Sequence[Response]], *, bench: Evaluation, constants: Sequence[float]
) -> tuple[float, pd.DataFrame]:
    """The one of ``constants`` with the best strict score on ``bench``'s validation prompts, the first of equals.

    ``respond(constant=..., instructions=..., ids=...)`` gives the responses to instructions with a constant (nats)
    added to the end token's logit. Returns the constant and a table with a row for each: ``constant``, ``strict``.
    Raises TacitError without verifiers and without constants.
    """
    if not bench.verified or not constants:
        raise TacitError("an end token's constant is chosen by verifiers among given ones: give a world, and constants")
    prompts, rows = bench.validation, []
    for constant in constants:
        responses = respond(constant=constant, instructions=prompts["instruction"], ids=prompts["id"])
        rows.append({"constant": constant, "strict": strict_rate(bench, prompts, responses)})
    table = pd.DataFrame(rows)
    return constants[int(table["strict"].argmax())], table


def answer_untuned(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    bench: Evaluation,
    constants: Sequence[float],
    max_new_tokens: int,
    revision: str | None = None,
    dtype: str = "float32",
) -> tuple[dict[str, list[list[Response]]], dict[str, Any]]:
    """The greedy responses of the untuned ``base`` to ``bench``'s test prompts, without and with a fitted end constant.

    Returns them by arm, ``base`` and ``constant end``, each [1 seed][prompts], and a record of the fit: ``constant``
    (nats on the end token's logit) and ``selection``, the rows of ``fit_end_constant``'s table. Made once and kept in
    the cache. Raises TacitError as ``fit_end_constant``, ``load_model`` and ``generate_responses`` do.
    """
    ask = partial(
        ruled_responses, load_model(base, revision=revision, dtype=dtype), weights_key(base, revision), tokenizer
    )

    def respond(*, constant: float, instructions: Sequence[str], ids: Sequence[str]) -> list[Response]:
        return ask(instructions, ids=ids, rules=bias_end(tokenizer, constant), max_new_tokens=max_new_tokens)

    constant, table = fit_end_constant(respond, bench=bench, constants=constants)
    prompts = {"instructions": bench.test["instruction"], "ids": bench.test["id"]}
    answers = {
        "base": [respond(constant=0.0, **prompts)],
        "constant end": [respond(constant=constant, **prompts)],
    }
    return answers, {"constant": constant, "selection": table.to_dict("records")}


@dataclass(frozen=True)
class GainSplit:
    """A tuned arm's strict gain over its base model, split at what a perfect rule for stopping would gain.

    With the mean strict and lenient scores S and L of the tuned arm t and the base model b:

        gain         = S_t - S_b = stopping + beyond
        stopping     = L_b - S_b    the base model's own answers, ended in the right place
        beyond       = S_t - L_b    what the arm's answers gain beyond those
        lenient_gain = L_t - L_b    the same with the arm's own ending forgiven too

    Each is a paired difference over the same prompts; ``stopping`` has the seeds of the base model.
    """

    gain: scores.Estimate
    stopping: scores.Estimate
    beyond: scores.Estimate
    lenient_gain: scores.Estimate

    def as_results(self, arm: str) -> list[dict]:
        """The four differences as rows of a metrics file, of the arm named ``ARM minus base``, or ``base`` alone."""
        return [
            self.gain.as_result(f"{arm} minus base", "strict"),
            self.stopping.as_result("base", "lenient minus strict"),
            self.beyond.as_result(arm, "strict minus base lenient"),
            self.lenient_gain.as_result(f"{arm} minus base", "lenient"),
        ]


def split_gain(tuned: Arm, base: Arm, *, prompts: ArrayLike | None = None) -> GainSplit:
    """Split the strict gain of a ``tuned`` arm over its ``base`` model into stopping and what lies beyond it.

    Each arm is its score tables, one per seed, or its scores ``strict`` and ``lenient`` as arrays [seeds, prompts]; a
    single base model meets every seed. ``prompts`` [prompts], boolean, may say which prompts count. Raises ValueError
    for shapes that do not fit, KeyError for tables without verifiers' scores.
    """
    ours, bases = _stack_kinds(tuned, prompts), _stack_kinds(base, prompts)
    return GainSplit(
        gain=compare_scores(ours["strict"], bases["strict"]),
        stopping=compare_scores(bases["lenient"], bases["strict"]),
        beyond=compare_scores(ours["strict"], bases["lenient"]),
        lenient_gain=compare_scores(ours["lenient"], bases["lenient"]),
    )


def _stack_kinds(arm: Arm, prompts: ArrayLike | None) -> dict[str, np.ndarray]:  # each [seeds, prompts that count]
    counted = slice(None) if prompts is None else np.asarray(prompts, dtype=bool)
    if isinstance(arm, Mapping):
        return {kind: np.asarray(arm[kind], dtype=float)[:, counted] for kind in KINDS}
    return {kind: scores.stack(arm, kind)[:, counted] for kind in KINDS}
