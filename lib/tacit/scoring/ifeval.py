"""IFEval (Zhou et al. 2023, arXiv 2311.07911) through lm-evaluation-harness (extra ``ifeval``): constraints that a program verifies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.scoring import scores
from tacit.support import paths
from tacit.support.errors import TacitError

METRICS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
COLUMNS = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}


def read_prompts(path: str | Path) -> list[dict[str, Any]]:
    """The prompts of a JSONL file in the dataset's own format (``google/IFEval``'s ``ifeval_input_data.jsonl``).

    Each line has a ``key``, a ``prompt``, its ``instruction_id_list`` and the ``kwargs`` of each of these. Raises TacitError
    for a file or line (with its number) that is otherwise.
    """
    file, prompts = paths.resolve(path), []
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"cannot read IFEval's prompts from {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TacitError(f"{path}, line {number}, is not JSON: {error}") from None
        for name, kind in COLUMNS.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                raise TacitError(f"{path}, line {number}: an IFEval prompt needs {name!r}, {kind.__name__}")
        if not row["instruction_id_list"] or len(row["kwargs"]) != len(row["instruction_id_list"]):
            raise TacitError(f"{path}, line {number}: kwargs must be as many as the instructions, at least one")
        prompts.append(row)
    if not prompts:
        raise TacitError(f"{path} holds no prompt")
    return prompts


def _verifiers():
    """The harness's IFEval module. Its import would try to download NLTK's sentence model, so that is looked for first."""
    try:
        import langdetect
        import lm_eval
        import nltk
    except ImportError as error:
        raise TacitError(f"IFEval needs lm-evaluation-harness: pip install 'tacit[ifeval]' ({error})") from None
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise TacitError(
            "IFEval's verifiers need NLTK's punkt_tab: run python -m nltk.downloader punkt_tab where there is a network, "
            "and offline put its folder nltk_data here and name it in the environment as NLTK_DATA"
        ) from None
    from lm_eval.tasks.ifeval import instructions_registry, utils

    langdetect.DetectorFactory.seed = 0  # else a text's language may differ from run to run
    return lm_eval, utils, instructions_registry.INSTRUCTION_DICT


def _check(prompts: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> None:
    for row in prompts:
        for name in row["instruction_id_list"]:
            if name not in known:
                raise TacitError(f"IFEval prompt {row['key']}: the harness has no verifier for {name!r}")


def score_responses(prompts: Sequence[Mapping[str, Any]], responses: Sequence[str]) -> pd.DataFrame:
    """The harness's verdicts on texts already made: a row per prompt with ``key`` and ``METRICS``.

    Prompt-level ones are true where every instruction is followed; instruction-level ones are lists, a verdict per
    instruction. Loose also accepts a response without its first line, its last, or asterisks. Language detection is seeded,
    which the harness does not do. Raises TacitError without the package (extra ``ifeval``), without NLTK's ``punkt_tab`` and for an
    unknown instruction, ValueError for unequal lengths.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses: need as many")
    _, utils, known = _verifiers()
    _check(prompts, known)
    rows = [utils.process_results(row, [text]) for row, text in zip(prompts, responses, strict=True)]
    return pd.DataFrame(
        [{"key": p["key"]} | {m: row[m] for m in METRICS} for p, row in zip(prompts, rows, strict=True)]
    )


def make_task(prompts: Sequence[Mapping[str, Any]], *, max_new_tokens: int = 1280) -> dict[str, Any]:
    """The harness's task ``ifeval`` as a dictionary, on ``prompts`` in place of the hub's dataset.

    For ``lm_eval.simple_evaluate(tasks=[...])``. The same settings as its ``ifeval.yaml`` (greedy, no examples shown), but that
    responses may be cut elsewhere. Raises TacitError as ``score_responses`` does.
    """
    _, utils, known = _verifiers()
    _check(prompts, known)
    names = sorted({name for row in prompts for given in row["kwargs"] for name in given})
    rows = [  # one schema for all rows, absent arguments null, as the hub's dataset has them
        {name: row[name] for name in ("key", "prompt", "instruction_id_list")}
        | {"kwargs": [{name: given.get(name) for name in names} or {"none": None} for given in row["kwargs"]]}
        for row in prompts
    ]
    dataset = Dataset.from_list(rows)
    each = {"prompt": "mean", "inst": utils.agg_inst_level_acc}
    return {
        "task": "ifeval",
        "custom_dataset": lambda **_: {"train": dataset},
        "output_type": "generate_until",
        "test_split": "train",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": 0,
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": max_new_tokens},
        "process_results": utils.process_results,
        "metric_list": [
            {"metric": name, "aggregation": each[name.split("_")[0]], "higher_is_better": True} for name in METRICS
        ],
    }


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 1280,
    batch_size: int = 16,
) -> pd.DataFrame:
    """``score_responses`` of what ``model`` answers, run by the harness itself, with the answers as ``response``.

    In the chat format where the tokenizer has one, greedily. The harness generates (``HFLM``), not ``tacit.decoding.generation``.
    Raises TacitError as ``score_responses`` does.
    """
    task = make_task(prompts, max_new_tokens=max_new_tokens)
    lm_eval, _, _ = _verifiers()
    from lm_eval.models.huggingface import HFLM

    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=[task],
        apply_chat_template=tokenizer.chat_template is not None,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["ifeval"], key=lambda sample: sample["doc_id"])
    rows = [
        {"key": prompts[s["doc_id"]]["key"], "response": s["filtered_resps"][0]} | {m: s[m] for m in METRICS}
        for s in samples
    ]
    return pd.DataFrame(rows)


def accuracies(
    tables: Sequence[pd.DataFrame], *, n_resamples: int = 2_000, seed: int = 0
) -> dict[str, scores.Estimate]:
    """The four accuracies of one table per seed, on the same prompts, with 95% intervals over seeds and prompts.

    Instruction-level ones are the share of all instructions that are followed; prompts are resampled with all their
    instructions. Raises ValueError for tables of different prompts.
    """
    if not tables or any(list(table["key"]) != list(tables[0]["key"]) for table in tables):
        raise ValueError("every seed's table must hold the same prompts, and there must be one")
    found, rng = {}, np.random.default_rng(seed)
    for name in METRICS:
        if name.startswith("prompt"):
            found[name] = scores.estimate(scores.stack(tables, name), n_resamples=n_resamples, seed=seed)
            continue
        given = np.array([len(verdicts) for verdicts in tables[0][name]])  # [prompts]
        met = np.array(
            [[sum(verdicts) for verdicts in table[name]] for table in tables], dtype=float
        )  # [seeds, prompts]
        if met.sum() in (0, len(met) * given.sum()):
            found[name] = scores.estimate(met / given, n_resamples=n_resamples, seed=seed)
            continue
        drawn = []
        for _ in range(n_resamples):
            seeds, prompts = (rng.integers(n, size=n) for n in met.shape)
            drawn.append(met[np.ix_(seeds, prompts)].mean(0).sum() / given[prompts].sum())
        value = float(met.mean(0).sum() / given.sum())
        found[name] = scores.from_draws(value, drawn, n_seeds=len(met), n_prompts=len(given))
    return found
