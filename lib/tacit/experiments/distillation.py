"""A teacher's text made into training data, and what students learn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from scipy.optimize import linear_sum_assignment
from transformers import PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import cached_responses, data_key, tuned_model
from tacit.experiments.cache import cached_folder
from tacit.models.chat import encode_prompt, tulu_template
from tacit.models.identity import weights_key
from tacit.models.loading import load_tokenizer, split_revision
from tacit.synthesis.engine import synthesize


def synthetic_data(expert: str, amateur: str, instructions: Dataset, *, batch_size: int = 128, **settings) -> Dataset:
    """``synthesize``'s dataset for ``instructions`` (columns ``id``, ``instruction``), kept in the cache.

    The models are folders or hub ids with @revision. ``settings`` are those of ``synthesize`` that change what it
    says: alpha, beta, temperature, seed, max_new_tokens and so on. Log-ratios are left out: ``mean_log_ratio`` is
    null. Raises as ``identity.weights_key`` and ``synthesize`` do.
    """
    names = {"expert": split_revision(expert), "amateur": split_revision(amateur)}
    columns = instructions.select_columns(["id", "instruction"])
    key = {role: weights_key(name, revision) for role, (name, revision) in names.items()}
    key |= {"what": "synthetic data", "instructions": data_key(columns), "settings": settings, "batch_size": batch_size}
    options = settings | {f"{role}_revision": revision for role, (_, revision) in names.items()}

    def make(folder: Path) -> None:
        pair = (name for name, _ in names.values())
        synthesize(*pair, columns, out=folder, batch_size=batch_size, log_ratios="none", say=None, **options)

    return Dataset(pq.read_table(cached_folder(key, make) / "data"))


def student_tokenizer(student: str) -> PreTrainedTokenizerBase:
    """A student's tokenizer with the papers' prompt format (``chat.tulu_template``), whatever the teacher's is.

    ``student`` is a folder, or a hub id with @revision. Raises TacitError as ``load_tokenizer`` does.
    """
    name, revision = split_revision(student)
    return load_tokenizer(name, revision=revision, chat_template=tulu_template())


def fitting(examples: Dataset, students: Sequence[str], *, max_length: int) -> Dataset:
    """The ``examples`` whose instruction leaves room for a response within ``max_length`` tokens of every student.

    Room for one token is enough: responses are not measured, and ``finetune`` cuts what is too long. Raises TacitError
    as ``student_tokenizer`` does.
    """
    tokenizers = [student_tokenizer(student) for student in students]
    rows = enumerate(examples["instruction"])
    fits = [i for i, text in rows if all(len(encode_prompt(t, text)) < max_length for t in tokenizers)]
    return examples.select(fits) if len(fits) < len(examples) else examples


def teach(
    student: str,
    data: Dataset,
    prompts: Dataset,
    *,
    epochs: int,
    seed: int,
    max_new_tokens: int,
    sampling: Mapping[str, Any] | None = None,
    **settings,
) -> list[Response]:
    """The responses to ``prompts`` of a student that is tuned on ``data``, from the cache or now.

    They are greedy unless ``sampling`` has a temperature (options of ``generate_responses``). ``student`` is a folder,
    or a hub id with @revision; ``settings`` are ``finetune``'s, with dtype. Raises as
    ``student_tokenizer``, ``tuned_model`` and ``generate_responses`` do.
    """
    name, revision = split_revision(student)
    tokenizer = student_tokenizer(student)
    pairs = data.select_columns(["id", "instruction", "response"])
    model, _, key = tuned_model(name, tokenizer, pairs, revision=revision, epochs=epochs, seed=seed, **settings)
    options = {"ids": prompts["id"], "max_new_tokens": max_new_tokens, **(sampling or {})}
    return cached_responses(model, key, tokenizer, prompts["instruction"], **options)


def as_responses(data: Dataset) -> list[Response]:
    """The rows of a synthetic dataset as ``Response`` objects, for scoring."""
    columns = (data[name] for name in ("response", "finish_reason", "response_tokens"))
    return [Response(text or "", reason, n) for text, reason, n in zip(*columns, strict=True)]


def distinct_ngrams(texts: Sequence[str], *, n: int = 2) -> float:
    """Distinct word n-grams over all of them, a measure of diversity from 0 to 1 (Li et al. 2016, distinct-n).

    It falls as texts are added, so compare sets of equal size. It is 0 where no text has ``n`` words.
    """
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def match_lengths(lengths: Sequence[int], targets: Sequence[int]) -> list[int]:
    """Which items to choose, one per target, so that the chosen ``lengths`` differ least from ``targets`` in sum.

    Returns indices into ``lengths``, all different, in the order of the targets. Exact (an assignment problem). Raises
    ValueError when there are fewer items than targets.
    """
    if len(lengths) < len(targets):
        raise ValueError(f"cannot choose {len(targets)} of {len(lengths)} items")
    cost = np.abs(np.subtract.outer(np.asarray(targets, dtype=float), np.asarray(lengths, dtype=float)))
    return linear_sum_assignment(cost)[1].tolist()
