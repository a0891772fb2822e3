"""The card of a synthesized dataset: what it was made of and how, what it holds, and what is left to fill in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

DATA = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
UNFINISHED = str(
    DatasetCard(
        f"---\n{DatasetCardData(configs=DATA).to_yaml()}\n---\n\n"
        "This dataset is not complete: run the same `python -m tacit synthesize` again to go on with it.\n"
    )
)


def decoding_rule(parameters: Mapping[str, Any]) -> str:
    """How tokens were drawn, in words and as an equation."""
    alpha, beta, temperature = (f"{parameters[name]:g}" for name in ("alpha", "beta", "temperature"))
    kept = f"over the tokens with p_expert >= {alpha} max p_expert" if parameters["alpha"] else "over all tokens"
    if parameters["beta"]:
        score = f"log p_expert(y) - {beta} log p_amateur(y)"
        words = [f"Each token's score is {score}, taken {kept}."]
    else:
        score = "log p_expert(y)"
        words = [f"Tokens come from the expert alone, {kept}; the amateur only measures log-ratios."]
    if parameters["temperature"]:
        words.append(f"Tokens are sampled: p(y) ∝ exp(({score}) / {temperature}).")
    else:
        words.append("The token with the highest score is taken.")
    if parameters["top_p"] < 1:
        words.append(f"Of those, the likeliest that together reach probability {parameters['top_p']:g} are kept.")
    if parameters["beta"] and not parameters["contrast_end"]:
        words.append("End tokens keep the expert's own probability; the other tokens share the rest by their contrast.")
    return " ".join([*words, "A response ends at an end token or after", f"{parameters['max_new_tokens']} tokens."])


def dataset_card(rows: Dataset, *, names: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
    """The card of ``rows``, which the ``names`` models made with ``parameters``; the same for the same rows."""
    data = DatasetCardData(
        license="other",
        license_name="to-be-filled-in",
        task_categories=["text-generation"],
        tags=["synthetic", "codit", "contrastive-decoding"],
        configs=DATA,
    )
    reasons = Counter(rows["finish_reason"])
    ratios = [value for value in rows["mean_log_ratio"] if value is not None]
    counts = {
        "rows": len(rows),
        "ended by an end token": reasons["eos"],
        "cut at the most tokens": reasons["length"],
        "mean prompt tokens": f"{fmean(rows['prompt_tokens']):.2f}",
        "mean response tokens": f"{fmean(rows['response_tokens']):.2f}",
        "mean of mean_log_ratio (nats)": f"{fmean(ratios):.4f}" if ratios else "none",
    }
    identity = {role: f"`{name}` (`{parameters[role]}`)" for role, name in names.items()}
    plain = {name: f"`{value}`" for name, value in parameters.items() if name not in {"chat_template", *names}}
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# Synthesized responses",
        "Made by `python -m tacit synthesize` after CoDIT (Ichinose et al. 2026, https://arxiv.org/abs/2604.13538).",
        "**Licence: to be filled in** (`license`, `license_name` above). The teacher's licence governs its outputs: here the "
        "expert's and the amateur's, and the instructions' licence governs the instructions.",
        f"## Decoding\n\n{decoding_rule(parameters)}",
        "## Models and parameters\n\nA local model is identified by the SHA-256 of its folder, one of the hub by its commit.\n\n"
        + _table({**identity, **plain}),
        f"Chat template:\n\n~~~jinja\n{parameters['chat_template']}\n~~~",
        f"## Contents\n\n{_table(counts)}",
        "`mean_log_ratio` is the mean of log p_expert - log p_amateur over a response's tokens, its end token included. "
        "Responses are as decoded: nothing was filtered, corrected or checked.",
    ]
    return str(DatasetCard("\n\n".join(sections) + "\n"))


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
