"""The arms of an experiment: finetuned models and their responses, made once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from datasets import Dataset
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from tacit import provenance
from tacit.cache import cached_json, cached_model
from tacit.finetuning import finetune
from tacit.generation import Response, generate_responses
from tacit.keyed import fingerprint
from tacit.models import load_model, model_folder


def weights_key(name: str, revision: str | None = None) -> dict:
    """What identifies a checkpoint: the hash of its folder, or its hub id and the commit that it resolves to."""
    folder = model_folder(name)
    if folder is not None:
        return {"weights": provenance.tree_hash(folder)}
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    return {"name": name, "commit": getattr(config, "_commit_hash", None) or revision}


def data_key(examples: Dataset) -> str:
    """SHA-256 of a dataset's rows."""
    return fingerprint(examples.to_list())


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer: vocabulary, merges, normaliser, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return fingerprint([rules, sorted(map(str, tokenizer.special_tokens_map.items())), tokenizer.chat_template])


def tuned_model(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    validation: Dataset,
    validate: Callable[[PreTrainedModel], float],
    validate_key: str,
    revision: str | None = None,
    dtype: str = "float32",
    **settings,
) -> tuple[PreTrainedModel, list[dict], dict]:
    """``base`` finetuned on ``examples`` with ``finetune``'s ``settings``, selected by ``validate``.

    ``validate_key`` names the score that ``validate`` computes on ``validation``. Returns the model, its
    history, and the key that identifies it (for ``cached_responses``).
    """
    key = {
        "what": "tuned model",
        "base": weights_key(base, revision),
        "dtype": dtype,
        "tokenizer": tokenizer_key(tokenizer),
        "data": data_key(examples),
        "validation": [validate_key, data_key(validation)],
        "settings": settings,
    }

    def make() -> tuple[PreTrainedModel, list[dict]]:
        return finetune(
            load_model(base, revision=revision, dtype=dtype), tokenizer, examples, validate=validate, **settings
        )

    model, history = cached_model(key, make)
    return model, history, key


def cached_responses(
    model: PreTrainedModel,
    model_key: dict,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    ids: Sequence[str],
    rules_key: dict | None = None,
    make_processors=None,
    **settings,
) -> list[Response]:
    """``generate_responses``, kept in the cache. ``rules_key`` must say what ``make_processors`` does."""
    if (rules_key is None) != (make_processors is None):
        raise ValueError("give rules_key and make_processors together")
    key = {
        "what": "responses",
        "model": [model_key, str(model.dtype)],
        "tokenizer": tokenizer_key(tokenizer),
        "prompts": fingerprint([list(ids), list(instructions)]),
        "rules": rules_key,
        "settings": settings,
    }

    def make() -> list[dict]:
        options = {"ids": ids, "make_processors": make_processors, **settings}
        return [asdict(r) for r in generate_responses(model, tokenizer, instructions, **options)]

    return [Response(**row) for row in cached_json(key, make)]
