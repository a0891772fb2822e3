"""The arms of an experiment: finetuned models and their responses, made once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import Response, generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments.cache import cached_json, cached_model
from tacit.models.experts import contrast
from tacit.models.identity import tokenizer_key, weights_key
from tacit.models.loading import load_model
from tacit.support.keyed import fingerprint
from tacit.training.finetuning import finetune


def data_key(examples: Dataset) -> str:
    """SHA-256 of a dataset's rows."""
    return fingerprint(examples.to_list())


def tuned_model(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    **settings,
) -> tuple[PreTrainedModel, list[dict], dict]:
    """``base`` finetuned on ``examples`` with ``finetune``'s ``settings``, from the cache or now.

    Returns the model, its history, and the key that identifies it (for ``cached_responses``). Raises as
    ``weights_key``, ``load_model`` and ``finetune`` do.
    """
    key = {
        "what": "tuned model",
        "base": weights_key(base, revision),
        "dtype": dtype,
        "tokenizer": tokenizer_key(tokenizer),
        "data": data_key(examples),
        "settings": settings,
    }

    def make() -> tuple[PreTrainedModel, list[dict]]:
        return finetune(load_model(base, revision=revision, dtype=dtype), tokenizer, examples, **settings)

    model, history = cached_model(key, make)
    return model, history, key


def select_epochs(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    choices: Sequence[int],
    validate: Callable[[PreTrainedModel, dict], float],
    **settings,
) -> tuple[int, list[dict]]:
    """How many epochs an arm is tuned for: the choice with the best validation score, of equals the smallest.

    Each choice is a run of its own with its own schedule, and its last epoch counts (Hewitt et al. 2024, section 3).
    ``validate`` scores a model, given with its key, on *validation* prompts; higher is better. Returns the epochs and
    one record per choice: ``epochs``, ``loss`` (of the last epoch), ``validation``. A single choice is taken as it is,
    without a run. Raises as ``tuned_model`` and ``validate`` do.
    """
    if len(choices) == 1:
        return choices[0], []
    rows = []
    for epochs in sorted(choices):
        model, history, key = tuned_model(base, tokenizer, examples, epochs=epochs, **settings)
        rows.append({"epochs": epochs, "loss": history[-1]["loss"], "validation": validate(model, key)})
        del model
    return max(rows, key=lambda row: row["validation"])["epochs"], rows


def cached_responses(
    model: PreTrainedModel,
    model_key: dict,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    ids: Sequence[str],
    rules_key: dict | None = None,
    make_processors=None,
    against: Sequence[str] | None = None,
    contrasted: Mapping[str, float] | None = None,
    **settings,
) -> list[Response]:
    """``generate_responses``, kept in the cache. ``rules_key`` must say what ``make_processors`` does.

    ``contrasted`` holds the ``alpha`` and ``beta`` of ``contrast`` with the second instructions ``against``. Raises
    ValueError where one of ``rules_key`` and ``make_processors`` is given, or one of ``against`` and ``contrasted``;
    otherwise as ``generate_responses`` does.
    """
    if (rules_key is None) != (make_processors is None):
        raise ValueError("give rules_key and make_processors together")
    if (against is None) != (contrasted is None):
        raise ValueError("give against and contrasted together")
    key = {
        "what": "responses",
        "model": [model_key, str(model.dtype)],
        "tokenizer": tokenizer_key(tokenizer),
        "prompts": fingerprint([list(ids), list(instructions)]),
        "rules": rules_key,
        "settings": settings,
    }
    second: dict[str, Any] = {}
    if against is not None and contrasted is not None:
        key["against"] = [fingerprint(list(against)), dict(contrasted)]
        second = {"against": against, "combine": partial(contrast, **contrasted)}

    def make() -> list[dict]:
        options = {"ids": ids, "make_processors": make_processors, **second, **settings}
        return [asdict(r) for r in generate_responses(model, tokenizer, instructions, **options)]

    return [Response(**row | {"tokens": tuple(row["tokens"])}) for row in cached_json(key, make)]


def ruled_responses(
    model: PreTrainedModel,
    model_key: dict,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    rules: dict,
    **settings,
) -> list[Response]:
    """``cached_responses`` of ``model`` under ``rules``, the options of ``make_rules``; without any, the model's own.

    Raises TacitError as ``make_rules`` and ``generate_responses`` do.
    """
    if rules.get("rules") != []:
        settings |= {"rules_key": rules, "make_processors": make_rules(tokenizer, **rules)}
    return cached_responses(model, model_key, tokenizer, instructions, **settings)


def tuned_responses(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    draw: Callable[..., Dataset],
    prompts: Dataset,
    *,
    seeds: Sequence[int],
    choices: Sequence[int],
    selection_seed: int,
    validate: Callable[[PreTrainedModel, dict], float],
    max_new_tokens: int,
    **settings,
) -> tuple[list[list[Response]], dict]:
    """The greedy responses of an arm to ``prompts``: its epochs are selected, then one model is tuned for each seed.

    ``draw(seed=...)`` gives a training set; ``settings`` are ``finetune``'s, with revision and dtype. The epochs are
    selected with ``selection_seed``, which should not be among ``seeds``. Returns the responses, one list per seed,
    and a record of ``epochs``, of ``selection`` (one row per choice) and of the mean ``loss`` of the last epoch, in
    nats per token. Raises as ``tuned_model`` and ``generate_responses`` do, and as ``draw`` and ``validate`` do.
    """
    epochs, selection = select_epochs(
        base, tokenizer, draw(seed=selection_seed), choices=choices, validate=validate, seed=selection_seed, **settings
    )
    answers, losses = [], []
    for seed in seeds:
        model, history, key = tuned_model(base, tokenizer, draw(seed=seed), epochs=epochs, seed=seed, **settings)
        losses.append(history[-1]["loss"])
        options = {"ids": prompts["id"], "max_new_tokens": max_new_tokens}
        answers.append(cached_responses(model, key, tokenizer, prompts["instruction"], **options))
        del model  # before the next one is loaded: two of them may not fit
    return answers, {"epochs": epochs, "selection": selection, "loss": sum(losses) / len(losses)}
