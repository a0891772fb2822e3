"""How ready a base model is: how well it follows before tuning, under rules, and after two kinds of tuning.

A measurement is a record of one base model: how it was pretrained, the settings of the measurement, and the strict and
lenient verdicts on the test prompts, for each arm one text of zeros and ones per seed. Records are kept where
checkpoints are not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import ruled_responses, tuned_responses
from tacit.experiments.evaluation import BROAD, Evaluation
from tacit.models import chat
from tacit.models.identity import weights_key
from tacit.models.loading import load_model, load_tokenizer, model_folder
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import read_text

ARMS = ("base", "base, seen format", "three rules", "response-tuned", "narrow", "instruction-tuned")
SCORES = ("strict", "lenient")


def fit_rules(
    respond: Callable[..., Sequence],
    *,
    bench: Evaluation,
    rules: dict,
    end_weights: Sequence[float],
    uniform_scales: Sequence[float],
) -> dict:
    """The options of ``make_rules`` that score best on ``bench``'s validation prompts: the first of equals.

    Each choice is ``rules`` with one of the end weights and its token constants times one of the scales; ``respond``
    answers instructions under rules.
    """
    prompts = bench.validation
    scored = []
    for weight, scale in itertools.product(end_weights, uniform_scales):
        tokens = {token: scale * value for token, value in rules["uniform_tokens"].items()}
        options = rules | {"end_weight": weight, "uniform_tokens": tokens}
        responses = respond(instructions=prompts["instruction"], ids=prompts["id"], rules=options)
        scored.append((float(bench.score(prompts, responses)["strict"].mean()), options))
    return max(scored, key=lambda pair: pair[0])[1]


def measure_base(
    base: str,
    *,
    bench: Evaluation,
    narrow: str,
    rules: dict,
    end_weights: Sequence[float],
    uniform_scales: Sequence[float],
    seeds: Sequence[int],
    selection_seed: int,
    n_train: int,
    epochs: Sequence[int],
    max_new_tokens: int,
    **settings,
) -> dict[str, Any]:
    """Measure one base model on ``bench``, which must have verifiers: a record as the module's docstring describes.

    Arms: the base model in the chat format; in a format of its corpus (questions under ``Q:``); under the rules; and
    tuned on ``n_train`` examples, one model per seed: on responses alone, on the ``narrow`` task, on all instructions.
    What can be fitted is fitted for each base model on validation prompts: the rules' weights (``fit_rules``) and each
    arm's epochs. ``settings`` are ``finetune``'s. Raises TacitError without verifiers.
    """
    if not bench.verified:
        raise TacitError("readiness is measured with verifiers: give a world")
    tokenizer = load_tokenizer(base, chat_template=chat.tulu_template())
    search = {"rules": rules, "end_weights": list(end_weights), "uniform_scales": list(uniform_scales)}
    fitted, responses = _untuned_arms(base, tokenizer, bench=bench, max_new_tokens=max_new_tokens, **search)
    draws = {
        "response-tuned": partial(bench.draw, BROAD, n=n_train, blank=True),
        "narrow": partial(bench.draw, narrow, n=n_train),
        "instruction-tuned": partial(bench.draw, BROAD, n=n_train),
    }
    tuning = {"choices": epochs, "selection_seed": selection_seed, "max_new_tokens": max_new_tokens, **settings}
    tuning["validate"] = bench.validate(tokenizer, max_new_tokens=max_new_tokens)
    chosen = {}
    for arm, draw in draws.items():
        responses[arm], record = tuned_responses(base, tokenizer, draw, bench.test, seeds=seeds, **tuning)
        chosen[arm] = record["epochs"]
    sizes = {"seeds": list(seeds), "selection_seed": selection_seed, "n_train": n_train, "epochs": list(epochs)}
    return {
        "base": Path(base).name,
        "pretraining": read_pretraining(base),
        "settings": {"narrow": narrow, **search, **sizes, "max_new_tokens": max_new_tokens, **settings},
        "fitted": {"epochs": chosen, "rules": fitted},
        "made_with": {
            "library": provenance.library_hash(),
            "commit": provenance.commit(),
            "packages": provenance.packages(),
        },
        "prompts": list(bench.test["id"]),
        "families": list(bench.test["family"]),
        "verdicts": {arm: _verdict_texts(bench, per_seed) for arm, per_seed in responses.items()},
    }


def _untuned_arms(
    base: str, tokenizer: PreTrainedTokenizerBase, *, bench: Evaluation, max_new_tokens: int, **search
) -> tuple[dict, dict[str, list[list[Response]]]]:
    """The fitted rules, and the responses to the test prompts of the arms that tune nothing, as of one seed."""
    seen = load_tokenizer(base, chat_template=chat.faq_template())
    respond = partial(ruled_responses, load_model(base), weights_key(base), max_new_tokens=max_new_tokens)
    fitted = fit_rules(partial(respond, tokenizer), bench=bench, **search)
    prompts = {"instructions": bench.test["instruction"], "ids": bench.test["id"]}
    return fitted, {
        "base": [respond(tokenizer, rules={"rules": []}, **prompts)],
        "base, seen format": [respond(seen, rules={"rules": []}, **prompts)],
        "three rules": [respond(tokenizer, rules=fitted, **prompts)],
    }


def _verdict_texts(bench: Evaluation, per_seed: Sequence[Sequence[Response]]) -> dict[str, list[str]]:
    tables = [bench.score(bench.test, responses) for responses in per_seed]
    return {kind: ["".join("01"[int(v)] for v in table[kind]) for table in tables] for kind in SCORES}


def read_pretraining(base: str) -> dict[str, Any]:
    """What a checkpoint's ``pretraining.json`` says of it, its loss curve included; empty where there is none."""
    folder = model_folder(base)
    path = None if folder is None else folder / "pretraining.json"
    if path is None or not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def read_measurement(path: str | Path) -> dict[str, Any]:
    """Read a record that ``measure_base`` made; raises TacitError when it is missing or not such a record."""
    try:
        record = json.loads(read_text(path, what="the measurement"))
    except (ValueError, RecursionError) as error:
        raise TacitError(f"cannot read the measurement {path}: {error}") from None
    if not isinstance(record, dict) or set(record.get("verdicts", ())) != set(ARMS):
        raise TacitError(f"{path} is not a readiness measurement: it needs verdicts of the arms {', '.join(ARMS)}")
    arms = record["verdicts"].values()
    whole = all(isinstance(arm, dict) and set(arm) == set(SCORES) for arm in arms)
    texts = [text for arm in arms for kind in SCORES for text in arm[kind]] if whole else []
    if not texts or any(len(text) != len(record.get("prompts", ())) or set(text) - set("01") for text in texts):
        raise TacitError(f"{path} is damaged: every text of verdicts needs one 0 or 1 for each of its prompts")
    return record


def verdict_matrix(record: dict[str, Any], arm: str, kind: str = "strict") -> np.ndarray:
    """The verdicts of one arm as an array [seeds, prompts] of zeros and ones."""
    return np.array([[int(v) for v in text] for text in record["verdicts"][arm][kind]])


def loss_curves(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Held-out loss over pretraining: columns ``base``, ``step``, ``held-out loss`` (nats per token)."""
    return pd.DataFrame(
        [
            {"base": record["base"], "step": row["step"], "held-out loss": row["eval_loss"]}
            for record in records
            for row in record["pretraining"].get("curve", [])
            if "eval_loss" in row
        ],
        columns=["base", "step", "held-out loss"],
    )
