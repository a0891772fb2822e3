"""An arm tuned for several numbers of epochs, each a run of its own, and the task that behaves unlike the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import cached_responses, data_key, tuned_model
from tacit.experiments.cache import cached_json
from tacit.experiments.evaluation import Evaluation, strict_rate
from tacit.microworld.styles import OWN_FAMILIES
from tacit.models.identity import tokenizer_key
from tacit.scoring import scores
from tacit.scoring.likelihoods import response_likelihoods


def mark_elsewhere(families: Iterable[str], task: str) -> np.ndarray:
    """Which prompts lie outside the families that share a narrow task's style: boolean, [prompts].

    ``families`` holds the family of each prompt. A task that ``styles.OWN_FAMILIES`` does not know leaves none out.
    """
    own = OWN_FAMILIES.get(task, ())
    return np.array([family not in own for family in families])


def end_probabilities(
    model: PreTrainedModel, model_key: dict, tokenizer: PreTrainedTokenizerBase, examples: Dataset
) -> np.ndarray:
    """The probability of the end token right after each example's own response, from the cache or now: [examples].

    Raises TacitError as ``likelihoods.response_likelihoods`` does.
    """
    pairs = list(zip(examples["instruction"], examples["response"], strict=True))
    key = {"what": "end probabilities", "model": [model_key, str(model.dtype)], "data": data_key(examples)}

    def make() -> list[float]:
        return np.exp(response_likelihoods(model, tokenizer, pairs)["end"]).tolist()

    return np.array(cached_json(key | {"tokenizer": tokenizer_key(tokenizer)}, make))


def trace_epochs(
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    draw: Callable[..., Dataset],
    *,
    bench: Evaluation,
    seeds: Sequence[int],
    curve_epochs: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    **settings,
) -> tuple[pd.DataFrame, dict[int, list[list[Response]]]]:
    """An arm tuned for each of ``curve_epochs`` numbers of epochs and each seed, every time anew from ``base``.

    ``draw(seed=...)`` gives the training set; ``settings`` are ``finetune``'s, with revision and dtype. Returns a table
    with a row for each number and seed (``epochs``; ``steps``, those of the optimizer; ``seed``; ``strict``, the mean
    score on ``bench``'s test prompts; ``p(end)``, the mean probability of the end token after their right responses),
    and the greedy responses by epochs, [seeds][prompts]. Raises as ``tuned_model`` and ``generate_responses`` do.
    """
    prompts, rows = bench.test, []
    answers: dict[int, list[list[Response]]] = {epochs: [] for epochs in curve_epochs}
    for epochs in curve_epochs:
        for seed in seeds:
            examples = draw(seed=seed)
            options = {"epochs": epochs, "seed": seed, "batch_size": batch_size, **settings}
            model, _, key = tuned_model(base, tokenizer, examples, **options)
            asked = {"ids": prompts["id"], "max_new_tokens": max_new_tokens}
            said = cached_responses(model, key, tokenizer, prompts["instruction"], **asked)
            ends = end_probabilities(model, key, tokenizer, prompts)
            strict = strict_rate(bench, prompts, said)
            steps = epochs * -(-len(examples) // batch_size)
            rows.append({"epochs": epochs, "steps": steps, "seed": seed, "strict": strict, "p(end)": ends.mean()})
            answers[epochs].append(said)
            del model  # before the next one is loaded: two of them may not fit
    return pd.DataFrame(rows), answers


def compare_odd_one(arms: Mapping[str, ArrayLike], odd_one: str) -> scores.Estimate:
    """The paired difference of the arm ``odd_one`` and the mean of all others, of scores [seeds, prompts] by arm.

    Raises KeyError for an arm that is not there, ValueError where there is no other, and as ``scores.difference`` does.
    """
    others = [np.asarray(matrix, dtype=float) for arm, matrix in arms.items() if arm != odd_one]
    if not others:
        raise ValueError(f"{odd_one!r} has no other arm to be compared with")
    return scores.difference(arms[odd_one], np.mean(others, axis=0))
