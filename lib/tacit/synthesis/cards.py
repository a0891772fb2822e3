"""The card of a synthesized dataset: what it was made of and how, what it holds, and what is left to fill in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from yaml import YAMLError

DATA = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
UNFINISHED = str(
    DatasetCard(
        f"---\n{DatasetCardData(configs=DATA).to_yaml()}\n---\n\n"
        "This dataset is not complete: run the same `python -m tacit synthesize` again to go on with it.\n"
    )
)


def decoding_rule(parameters: Mapping[str, Any]) -> str:
    """How tokens were drawn with a run's ``parameters``, in words and as an equation.

    Source: CoDIT (Ichinose et al. 2026, its released decoder), whose scripts have temperature 1, no nucleus and
    contrast end tokens like all others. The noise's keys (``generation.KeyedSampling``) are left out.
    """
    alpha, beta, temperature = (f"{parameters[name]:g}" for name in ("alpha", "beta", "temperature"))
    support = f"over the tokens with p_expert >= {alpha} max p_expert" if parameters["alpha"] else "over all tokens"
    if parameters["beta"]:
        score = f"log p_expert(y) - {beta} log p_amateur(y)"
        words = [f"Each token's score is {score}, taken {support}."]
    else:
        score, unused = "log p_expert(y)", parameters["log_ratios"] == "none"
        amateur = "the amateur took no part" if unused else "the amateur only measures log-ratios"
        words = [f"Tokens come from the expert alone, {support}; {amateur}."]
    if parameters["temperature"]:
        words.append(f"Tokens are sampled: p(y) ∝ exp(({score}) / {temperature}).")
    else:
        words.append("The token with the highest score is taken.")
    if parameters["top_p"] < 1:
        words.append(f"Of those, the likeliest that together reach probability {parameters['top_p']:g} are kept.")
    if parameters["beta"] and not parameters["contrast_end"]:
        words.append(
            "End tokens keep the expert's own probability (at temperature 1, among the plausible tokens); the other "
            "tokens share the rest by their contrast."
        )
    return " ".join([*words, "A response ends at an end token or after", f"{parameters['max_new_tokens']} tokens."])


def _fields(card: str | None) -> dict[str, Any]:
    """A card's front matter; nothing if it has none or that is no YAML."""
    if card is None or not REGEX_YAML_BLOCK.search(card):
        return {}  # DatasetCard would warn, in the midst of a notebook
    try:
        return DatasetCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, YAMLError):
        return {}


def _front_matter(old: Mapping[str, Any]) -> DatasetCardData:
    """A new card's fields, of which those of an ``old`` card stay, its licence too."""
    fields = {"license": "other", "license_name": "to-be-filled-in"}
    fields |= {"task_categories": ["text-generation"], "tags": ["synthetic", "codit", "contrastive-decoding"]}
    if "license" in old and "license_name" not in old:
        del fields["license_name"]
    return DatasetCardData(**(fields | old | {"configs": DATA}))


def _contents(rows: Dataset) -> dict[str, Any]:
    """What the rows are, in numbers."""
    reasons = Counter(rows["finish_reason"])
    ratios = [value for value in rows["mean_log_ratio"] if value is not None]
    return {
        "rows": len(rows),
        "ended by an end token": reasons["eos"],
        "cut at the most tokens": reasons["length"],
        "mean prompt tokens": f"{fmean(rows['prompt_tokens']):.2f}",
        "mean response tokens": f"{fmean(rows['response_tokens']):.2f}",
        "mean of mean_log_ratio (nats)": f"{fmean(ratios):.4f}" if ratios else "none",
    }


def _fence(mark: str, text: str, *, least: int) -> str:
    return mark * max(least, 1 + max((len(run) for run in re.findall(f"{mark}+", text)), default=0))


def code_span(text: str) -> str:
    """``text`` in one line as code that may stand in a cell of a Markdown table and in a file in UTF-8."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())
    fence, space = _fence("`", text, least=1), " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])


def dataset_card(
    rows: Dataset,
    *,
    names: Mapping[str, str],
    parameters: Mapping[str, Any],
    made_with: Sequence[Mapping[str, str]],
    instructions: str,
    old: str | None = None,
) -> str:
    """The card of ``rows``, which the ``names`` models made with ``parameters`` in the environments ``made_with``.

    ``instructions`` says where they are from. An ``old`` card of the folder stays as it is if its tables still hold;
    if not, its front matter is taken over. The card is the same for the same rows and environments.
    """
    fields = _fields(old)
    data = _front_matter(fields)
    filled = (data.license, data.get("license_name")) != ("other", "to-be-filled-in")
    sources = {**names, "instructions": instructions}
    table = {role: f"{code_span(name)} ({code_span(parameters[role])})" for role, name in sources.items()}
    rest = [name for name in parameters if name not in {"chat_template", *table}]
    table |= {name: code_span(str(parameters[name])) for name in rest}
    fence = _fence("~", parameters["chat_template"], least=3)
    for number, environment in enumerate(made_with, 1):
        words = [f"{name} {value[:12] if name == 'tacit' else value}" for name, value in environment.items()]
        table[f"made with ({number})" if len(made_with) > 1 else "made with"] = ", ".join(words)
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# Synthesized responses",
        "Made by `python -m tacit synthesize` after CoDIT (Ichinose et al. 2026, https://arxiv.org/abs/2604.13538).",
        f"**Licence{'' if filled else ': to be filled in'}** (`license`, `license_name` above). The teacher's licence "
        "governs its outputs: here the expert's and the amateur's, and the instructions' licence governs the "
        "instructions.",
        f"## Decoding\n\n{decoding_rule(parameters)}",
        "## Models and parameters\n\nA local model is identified by the SHA-256 of its folder, one of the hub by its "
        "commit, the instructions by that of their ids and texts, tacit by that of its source.\n\n" + _table(table),
        f"Chat template:\n\n{fence}jinja\n{parameters['chat_template']}\n{fence}",
        f"## Contents\n\n{_table(_contents(rows))}",
        "`mean_log_ratio` is the mean of log p_expert - log p_amateur over a response's tokens, its end token included."
        " Responses are as decoded: nothing was filtered, corrected or checked.",
    ]
    card = str(DatasetCard("\n\n".join(sections) + "\n"))
    facts = {line for line in card.splitlines() if line.startswith("|")}
    return old if fields and facts <= set(old.splitlines()) else card
