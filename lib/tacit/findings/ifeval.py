"""IFEval (Zhou et al. 2023, arXiv 2311.07911; extra ``ifeval``): constraints that a program verifies.

The verifiers are those of lm-evaluation-harness. No notebook needs them: they are for models and methods of one's own.
``python -m tacit.findings.ifeval --model M --prompts FILE --out FILE`` measures a model's greedy responses, in an
environment that has the extra. For other ways of decoding: ``generate_responses``, ``score_responses``, ``accuracies``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tacit.decoding.generation import generate_responses
from tacit.models.loading import load_model, load_tokenizer, split_revision
from tacit.scoring import scores
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.support.files import check_room, read_rows, write_json

METRICS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
PROMPT = {
    "type": "object",
    "required": ["key", "prompt", "instruction_id_list", "kwargs"],
    "properties": {
        "key": {"type": "integer"},
        "prompt": {"type": "string"},
        "instruction_id_list": {"type": "array", "minItems": 1},
        "kwargs": {"type": "array", "items": {"type": "object"}},
    },
}


def read_prompts(path: str | Path) -> list[dict[str, Any]]:
    """The prompts of a JSONL file in the dataset's own format (``google/IFEval``'s ``ifeval_input_data.jsonl``).

    Raises TacitError for a file without prompts, and for a line (with its number) that is none.
    """
    prompts = []
    for place, row in read_rows(path, PROMPT, what="IFEval's prompts from", wrong="not a prompt of IFEval's"):
        if len(row["kwargs"]) != len(row["instruction_id_list"]):
            raise TacitError(f"{place}, needs as many kwargs as instructions")
        prompts.append(row)
    if not prompts:
        raise TacitError(f"{path} holds no prompt")
    return prompts


def _verifiers():
    """The harness's IFEval module and its verifiers by name.

    Its import would try to download NLTK's sentence model, so that is looked for first.
    """
    try:
        import langdetect
        import lm_eval  # noqa: F401
        import nltk
    except ImportError as error:
        raise TacitError(f"IFEval needs lm-evaluation-harness: pip install -e '.[ifeval]' ({error})") from None
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise TacitError(
            "IFEval's verifiers need NLTK's punkt_tab: run python -m nltk.downloader punkt_tab where there is a "
            "network, and offline put its folder nltk_data here and name it in the environment as NLTK_DATA"
        ) from None
    from lm_eval.tasks.ifeval import instructions_registry, utils

    langdetect.DetectorFactory.seed = 0  # else a text's language may differ from run to run
    return utils, instructions_registry.INSTRUCTION_DICT


def score_responses(prompts: Sequence[Mapping[str, Any]], responses: Sequence[str]) -> pd.DataFrame:
    """The harness's verdicts on texts: a row per prompt with ``key`` and ``METRICS``.

    Prompt-level ones are true where every instruction is followed; instruction-level ones are lists, a verdict per
    instruction. Loose also accepts a response without its first line, its last, or asterisks. Language detection is
    seeded, which the harness does not do. Raises TacitError without the package, without NLTK's ``punkt_tab`` and for
    an unknown instruction, ValueError for unequal lengths.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses: need as many")
    utils, known = _verifiers()
    for row in prompts:
        for name in row["instruction_id_list"]:
            if name not in known:
                raise TacitError(f"IFEval prompt {row['key']}: the harness has no verifier for {name!r}")
    verdicts = [utils.process_results(row, [text]) for row, text in zip(prompts, responses, strict=True)]
    return pd.DataFrame([{"key": row["key"]} | verdict for row, verdict in zip(prompts, verdicts, strict=True)])


def accuracies(
    tables: Sequence[pd.DataFrame], *, n_resamples: int = 2_000, seed: int = 0
) -> dict[str, scores.Estimate]:
    """The four accuracies of one table per seed, on the same prompts, with 95% intervals over seeds and prompts.

    Instruction-level ones are the share of all instructions that are followed; prompts are resampled with all their
    instructions. Raises ValueError for tables of different prompts.
    """
    if not tables or any(list(table["key"]) != list(tables[0]["key"]) for table in tables):
        raise ValueError("every seed's table must hold the same prompts, and there must be one")
    estimates, rng = {}, np.random.default_rng(seed)
    for name in METRICS:
        if name.startswith("prompt"):
            estimates[name] = scores.estimate(scores.stack(tables, name), n_resamples=n_resamples, seed=seed)
            continue
        asked = np.array([len(verdicts) for verdicts in tables[0][name]])  # instructions, [prompts]
        met = np.array([table[name].map(sum) for table in tables], dtype=float)  # [seeds, prompts]
        if met.sum() in (0, len(met) * asked.sum()):
            estimates[name] = scores.estimate(met / asked, n_resamples=n_resamples, seed=seed)
            continue
        drawn = []
        for _ in range(n_resamples):
            seeds, prompts = (rng.integers(n, size=n) for n in met.shape)
            drawn.append(met[np.ix_(seeds, prompts)].mean(0).sum() / asked[prompts].sum())
        value = float(met.mean(0).sum() / asked.sum())
        estimates[name] = scores.from_draws(value, drawn, n_seeds=len(met), n_prompts=len(asked))
    return estimates


def measure_model(name: str, path: str | Path, *, max_new_tokens: int, dtype: str = "float32") -> dict[str, Any]:
    """The record of a model's greedy responses to the prompts of a file: accuracies, how many ended, and what made it.

    ``name`` is a folder or a hub id with @revision; prompts are put in the model's own chat format. Raises TacitError
    as ``read_prompts``, ``score_responses``, ``load_model`` and ``generate_responses`` do.
    """
    _verifiers()  # before hours of decoding
    prompts = read_prompts(path)
    place, revision = split_revision(name)
    model, tokenizer = load_model(place, revision=revision, dtype=dtype), load_tokenizer(place, revision=revision)
    texts, ids = [row["prompt"] for row in prompts], [str(row["key"]) for row in prompts]
    responses = generate_responses(model, tokenizer, texts, ids=ids, max_new_tokens=max_new_tokens)
    found = accuracies([score_responses(prompts, [response.text for response in responses])])
    ended = scores.estimate([[float(response.finish_reason == "eos") for response in responses]])
    return {
        "model": name,
        "dtype": dtype,
        "prompts": len(prompts),
        "prompts_sha256": provenance.file_hash(Path(path)),
        "max_new_tokens": max_new_tokens,
        "results": [estimate.as_result(name, metric) for metric, estimate in (found | {"ended": ended}).items()],
        "device": provenance.device_name(),
        "commit": provenance.commit(),
        "packages": provenance.packages() | {"lm_eval": version("lm_eval")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a model and write the record; 2 after an error that is printed."""
    parser = argparse.ArgumentParser(prog="python -m tacit.findings.ifeval", description="IFEval of a model, greedily")
    parser.add_argument("--model", required=True, help="a folder, or a hub id with @revision")
    parser.add_argument("--prompts", required=True, help="IFEval's input data, a JSONL file")
    parser.add_argument("--out", required=True, help="the record to write, a JSON file")
    parser.add_argument("--max-new-tokens", type=int, default=1280, help="the harness's own limit (default)")
    parser.add_argument("--dtype", default="float32", help="weights in memory")
    options = parser.parse_args(arguments)
    try:
        check_room(Path(options.out).parent)
        prompts = paths.resolve(options.prompts)
        record = measure_model(options.model, prompts, max_new_tokens=options.max_new_tokens, dtype=options.dtype)
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(options.out), record)
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in record["results"]:
        print(f"{row['metric']}: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
