"""How ready a base model is: how well it follows before tuning, told when to stop, under rules, and after tuning.

A measurement is a record of one base model: how it was pretrained, the settings of the measurement, which answers the
model knows, and the strict and lenient verdicts on the test prompts, for each arm one text of zeros and ones per seed.
Records are kept where checkpoints are not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import ruled_responses, tuned_responses
from tacit.experiments.evaluation import BROAD, Evaluation, strict_rate
from tacit.experiments.stopping import answer_untuned
from tacit.models import chat
from tacit.models.identity import weights_key
from tacit.models.loading import load_model, load_tokenizer, model_folder
from tacit.scoring.estimates import Estimate
from tacit.scoring.scores import difference_of_groups
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import read_text
from tacit.training.checkpoints import made_with

UNTUNED = ("base", "base, seen format", "constant end", "three rules")
TUNED = ("end alone", "response-tuned", "narrow", "instruction-tuned")
ARMS = (*UNTUNED, *TUNED)
STOPPING = ("constant end", "end alone")  # the arms that can change nothing but where a response ends
SCORES = ("strict", "lenient")
# What a measurement takes of a notebook's parameters.
SETTINGS = (
    "narrow", "rules", "end_constants", "end_weights", "uniform_scales", "seeds", "selection_seed", "n_train", "epochs",
    "learning_rate", "end_rate", "batch_size", "max_new_tokens",
)  # fmt: skip
# What a pretraining's record says beside its settings and what it was made with.
OUTCOMES = ("name", "commit", "dirty", "curve", "held_out_loss", "seconds")


def choose_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``measure_base`` among a notebook's parameters; raises TacitError for one that is missing."""
    missing = [name for name in SETTINGS if name not in parameters]
    if missing:
        raise TacitError(f"the parameters of readiness have no {missing[0]}: a measurement needs {', '.join(SETTINGS)}")
    return {name: parameters[name] for name in SETTINGS}


def vary_rules(rules: dict, *, end_weights: Sequence[float], uniform_scales: Sequence[float]) -> list[dict]:
    """Options of ``make_rules``: ``rules`` with each end weight and its token constants times each scale."""
    varied = []
    for weight, scale in itertools.product(end_weights, uniform_scales):
        tokens = {token: scale * value for token, value in rules["uniform_tokens"].items()}
        varied.append(rules | {"end_weight": weight, "uniform_tokens": tokens})
    return varied


def fit_rules(respond: Callable[..., Sequence], choices: Sequence[dict], *, bench: Evaluation) -> dict:
    """The choice of rules (options of ``make_rules``) with the best strict score on ``bench``'s validation prompts.

    ``respond`` answers instructions under rules. Of equals the first is taken, and a single one without a run.
    """
    if len(choices) == 1:
        return choices[0]
    prompts = bench.validation
    asked = partial(respond, instructions=prompts["instruction"], ids=prompts["id"])
    return max(choices, key=lambda rules: strict_rate(bench, prompts, asked(rules=rules)))


def epoch_choices(epochs: int | Sequence[int] | Mapping[str, Any], arm: str) -> list[int]:
    """The numbers of epochs to choose among for a tuned arm: the same for all, or by arm; one number leaves no choice.

    Raises TacitError for a mapping that does not name exactly the arms of ``TUNED``.
    """
    if isinstance(epochs, Mapping):
        if set(epochs) != set(TUNED):
            raise TacitError(f"epochs by arm must name the tuned arms {', '.join(TUNED)}, not {', '.join(epochs)}")
        return epoch_choices(epochs[arm], arm)
    return [epochs] if isinstance(epochs, int) else list(epochs)


def measure_base(
    base: str,
    *,
    bench: Evaluation,
    narrow: str,
    rules: dict,
    end_constants: Sequence[float],
    end_weights: Sequence[float],
    uniform_scales: Sequence[float],
    seeds: Sequence[int],
    selection_seed: int,
    n_train: int,
    epochs: int | Sequence[int] | Mapping[str, Any],
    end_rate: float,
    max_new_tokens: int,
    **settings,
) -> dict[str, Any]:
    """Measure one base model on ``bench``, which must have verifiers: a record as the module's docstring describes.

    Untuned arms: the base model in the chat format; in a format of its corpus (questions under ``Q:``), which says what
    it knows; with a constant on the end token; under the three rules. Tuned on ``n_train`` examples, one model a seed:
    the end token's row alone, at the rate ``end_rate``; on responses alone; on the ``narrow`` task; on all
    instructions. What can be fitted is fitted for each base model on validation prompts:
    the constant, the rules' weights (``fit_rules``), and the epochs of arms with several (``epoch_choices``).
    ``settings`` are ``finetune``'s. Raises TacitError without verifiers and as ``epoch_choices`` does.
    """
    if not bench.verified:
        raise TacitError("readiness is measured with verifiers: give a world")
    choices = {arm: epoch_choices(epochs, arm) for arm in TUNED}
    tokenizer = load_tokenizer(base, chat_template=chat.tulu_template())
    search: dict[str, Any] = {"rules": rules, "end_constants": list(end_constants)}
    search |= {"end_weights": list(end_weights), "uniform_scales": list(uniform_scales)}
    fitted, responses = _untuned_arms(base, tokenizer, bench=bench, max_new_tokens=max_new_tokens, **search)
    tuning = {"seeds": seeds, "selection_seed": selection_seed, "max_new_tokens": max_new_tokens, **settings}
    options = {"narrow": narrow, "n_train": n_train, "choices": choices, "end_rate": end_rate, **tuning}
    chosen, tuned = _tuned_arms(base, tokenizer, bench=bench, **options)
    responses |= tuned
    sizes = {"seeds": list(seeds), "selection_seed": selection_seed, "n_train": n_train}
    common = {"end_rate": end_rate, "max_new_tokens": max_new_tokens}
    sizes["epochs"] = epochs if isinstance(epochs, int | Mapping) else list(epochs)
    seen = bench.score(bench.test, responses["base, seen format"][0])
    return {
        "base": Path(base).name,
        "pretraining": read_pretraining(base),
        "settings": {"narrow": narrow, **search, **sizes, **common, **settings},
        "fitted": {"epochs": chosen, **fitted},
        "made_with": {"library": provenance.library_hash(), **made_with()},
        "prompts": list(bench.test["id"]),
        "families": list(bench.test["family"]),
        "knows": _as_text(seen["lenient"]),
        "knowledge": float(seen["knowledge"].mean()),
        "verdicts": {arm: _verdict_texts(bench, responses[arm]) for arm in ARMS},
    }


def _untuned_arms(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    bench: Evaluation,
    max_new_tokens: int,
    rules: dict,
    end_constants: Sequence[float],
    **grid,
) -> tuple[dict, dict[str, list[list[Response]]]]:
    """What was fitted, and the responses to the test prompts of the arms that tune nothing, as of one seed."""
    responses, fit = answer_untuned(
        base, tokenizer, bench=bench, constants=end_constants, max_new_tokens=max_new_tokens
    )
    seen = load_tokenizer(base, chat_template=chat.faq_template())
    respond = partial(ruled_responses, load_model(base), weights_key(base), max_new_tokens=max_new_tokens)
    three = fit_rules(partial(respond, tokenizer), vary_rules(rules, **grid), bench=bench)
    prompts = {"instructions": bench.test["instruction"], "ids": bench.test["id"]}
    responses["base, seen format"] = [respond(seen, rules={"rules": []}, **prompts)]
    responses["three rules"] = [respond(tokenizer, rules=three, **prompts)]
    return {"end constant": fit["constant"], "rules": three}, responses


def _tuned_arms(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    bench: Evaluation,
    narrow: str,
    n_train: int,
    choices: Mapping[str, list[int]],
    end_rate: float,
    **tuning,
) -> tuple[dict[str, int], dict[str, list[list[Response]]]]:
    """The epochs chosen, and the responses to the test prompts for every seed, of each tuned arm."""
    epochs, responses = {}, {}
    validate = bench.validate(tokenizer, max_new_tokens=tuning["max_new_tokens"])
    for arm in TUNED:
        draw = partial(bench.draw, narrow if arm == "narrow" else BROAD, n=n_train, blank=arm == "response-tuned")
        options = {"choices": choices[arm], "validate": validate, **tuning}
        if arm == "end alone":
            options |= {"loss_on": "end row", "learning_rate": end_rate}
        responses[arm], record = tuned_responses(base, tokenizer, draw, bench.test, **options)
        epochs[arm] = record["epochs"]
    return epochs, responses


def _as_text(verdicts: pd.Series) -> str:
    return "".join("01"[int(verdict)] for verdict in verdicts)


def _verdict_texts(bench: Evaluation, per_seed: Sequence[Sequence[Response]]) -> dict[str, list[str]]:
    tables = [bench.score(bench.test, responses) for responses in per_seed]
    return {kind: [_as_text(table[kind]) for table in tables] for kind in SCORES}


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
    if [record.get("knows")] != record["verdicts"]["base, seen format"]["lenient"]:
        raise TacitError(f"{path} is damaged: a base model knows what it answers leniently in a format it has seen")
    return record


def verdict_matrix(record: dict[str, Any], arm: str, kind: str = "strict") -> np.ndarray:
    """The verdicts of one arm as an array [seeds, prompts] of zeros and ones."""
    return np.array([[int(v) for v in text] for text in record["verdicts"][arm][kind]])


def stack_verdicts(
    records: Sequence[dict[str, Any]], arm: str, kind: str = "strict", *, known: bool = False
) -> np.ndarray:
    """The verdicts of one arm of several base models as an array [runs, seeds, prompts]; untuned arms have one seed.

    With ``known``, NaN stands where the base model does not know the answer (``difference_of_groups`` leaves it out).
    Raises ValueError for no records, and for records of other prompts or other numbers of seeds.
    """
    if len({(tuple(record["prompts"]), len(record["verdicts"][arm][kind])) for record in records}) != 1:
        raise ValueError(f"the records to stack for {arm!r} must be of the same prompts and as many seeds")
    stacked = np.stack([verdict_matrix(record, arm, kind) for record in records]).astype(float)
    if known:
        knows = np.array([[verdict == "1" for verdict in record["knows"]] for record in records])  # [runs, prompts]
        stacked[np.broadcast_to(~knows[:, None], stacked.shape)] = np.nan
    return stacked


def estimate_mean(scores: np.ndarray) -> Estimate:
    """The mean of scores [runs, seeds, prompts], NaN left out, with ``difference_of_groups``'s interval (to zeros).

    Raises ValueError as that does.
    """
    zeros = np.where(np.isnan(scores).all(axis=(0, 1)), np.nan, 0.0)[None, None]
    return replace(difference_of_groups(scores, zeros), n_seeds=len(scores))


def estimate_gain(
    records: Sequence[dict[str, Any]], ours: str, theirs: str, kind: str = "strict", *, known: bool = False
) -> Estimate:
    """How much more one arm scores than another of the *same* base models, paired by base model and prompt.

    Tuned arms count with the mean of their seeds. The interval ends at -1 and 1, where a difference of verdicts does.
    Raises ValueError as ``stack_verdicts`` does.
    """
    a, b = (stack_verdicts(records, arm, kind, known=known).mean(axis=1, keepdims=True) for arm in (ours, theirs))
    gain = estimate_mean(a - b)
    return replace(gain, low=max(-1.0, gain.low), high=min(1.0, gain.high))


def name_corpus(record: dict[str, Any]) -> str:
    """The corpus of a record's base model, by its documents in markup; empty where its pretraining is not recorded."""
    share, one = (record["pretraining"].get(name) for name in ("markup_share", "one_markup"))
    if not share:
        return "" if share is None else "no markup"
    return f"{share:.0%} {'fresh markup' if one is None else 'in one markup'}"


def group_by_corpus(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records under the names of their corpora, in the order in which those come first."""
    names = dict.fromkeys(map(name_corpus, records))
    return {name: [record for record in records if name_corpus(record) == name] for name in names}


def describe_levels(records_by_corpus: Mapping[str, Sequence[dict[str, Any]]], *, known: bool = False) -> pd.DataFrame:
    """The levels of every arm: columns ``corpus``, ``arm``, ``metric`` and the fields of ``estimate_mean``.

    With ``known``, over the prompts whose answers each base model knows. Raises ValueError as ``stack_verdicts`` does.
    """
    rows = []
    for (corpus, records), arm, kind in itertools.product(records_by_corpus.items(), ARMS, SCORES):
        level = estimate_mean(stack_verdicts(records, arm, kind, known=known))
        rows.append({"corpus": corpus, "arm": arm, "metric": kind} | vars(level) | {"low": max(0.0, level.low)})
    return pd.DataFrame(rows)


def show_levels(levels: pd.DataFrame) -> pd.DataFrame:
    """``describe_levels`` for reading: a row per arm and metric, a column per corpus, ``value [low, high]`` in each."""
    texts = [str(Estimate(**row)) for row in levels[list(Estimate.__dataclass_fields__)].to_dict("records")]
    shown = levels.assign(text=texts).set_index(["arm", "metric", "corpus"])["text"].unstack("corpus", sort=False)
    return shown[list(dict.fromkeys(levels["corpus"]))]


def tabulate_bases(records: Sequence[dict[str, Any]], kind: str = "lenient") -> pd.DataFrame:
    """A row per base model: its corpus and seed, its pretraining's outcome, what it knows, each arm's level.

    Held-out loss is in nats per token; ``minutes`` are those of the pretraining on ``device``, NaN where they are not
    recorded.
    """
    rows = []
    for record in records:
        made, known = record["pretraining"], [verdict == "1" for verdict in record["knows"]]
        seconds = made.get("seconds")
        row = {"corpus": name_corpus(record), "seed": made.get("seed"), "held-out loss": made.get("held_out_loss")}
        row |= {"minutes": np.nan if seconds is None else seconds / 60, "knows": float(np.mean(known))}
        row["device"] = str(made.get("device", "")).split(" (")[0]
        rows.append(row | {arm: float(verdict_matrix(record, arm, kind).mean()) for arm in ARMS})
    return pd.DataFrame(rows, index=pd.Index([record["base"] for record in records], name="base"))


def differ_in(records: Sequence[dict[str, Any]]) -> list[str]:
    """The names of what differs in the records of pretraining, sorted: settings, packages, device, but not outcomes."""
    made = [record["pretraining"] for record in records]
    names = sorted({name for one in made for name in one} - set(OUTCOMES))
    return [name for name in names if any(one.get(name) != made[0].get(name) for one in made)]


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
