"""A teacher's text made into training data, and what students learn from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from scipy.optimize import linear_sum_assignment

from tacit.arms import data_key, weights_key
from tacit.cache import cached_folder
from tacit.generation import Response
from tacit.models import without_progress_bars
from tacit.synthesis import synthesize


def synthetic_data(
    expert: str,
    amateur: str,
    instructions: Dataset,
    *,
    expert_revision: str | None = None,
    amateur_revision: str | None = None,
    batch_size: int = 128,
    **settings,
) -> Dataset:
    """``synthesize``'s dataset for ``instructions`` (columns ``id``, ``instruction``), kept in the cache.

    ``settings`` are those of ``synthesize`` that change what it says: alpha, beta, temperature, seed, max_new_tokens and so on.
    """
    asked = instructions.select_columns(["id", "instruction"])
    key = {
        "what": "synthetic data",
        "expert": weights_key(expert, expert_revision),
        "amateur": weights_key(amateur, amateur_revision),
        "instructions": data_key(asked),
        "settings": settings,
    }
    folder = cached_folder(
        key,
        lambda out: synthesize(
            expert,
            amateur,
            asked,
            out=out,
            expert_revision=expert_revision,
            amateur_revision=amateur_revision,
            batch_size=batch_size,
            say=None,
            **settings,
        ),
    )
    with without_progress_bars():
        return load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"), split="train")


def as_responses(data: Dataset) -> list[Response]:
    """The rows of a synthetic dataset as ``Response``s, for scoring."""
    columns = (data[name] for name in ("response", "finish_reason", "response_tokens"))
    return [Response(text or "", reason, n) for text, reason, n in zip(*columns, strict=True)]


def distinct_ngrams(texts: Sequence[str], *, n: int = 2) -> float:
    """Distinct word n-grams over all of them, a measure of diversity from 0 to 1 (Li et al. 2016, distinct-n).

    It falls as texts are added, so compare sets of equal size. 0 where no text has ``n`` words.
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
