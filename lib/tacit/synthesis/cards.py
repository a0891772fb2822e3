"""The card of a synthesized dataset: what it was made of and how, what it holds, and what is left to fill in."""

from __future__ import annotations

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
    """How tokens were drawn, in words and as an equation.

    ``parameters`` are those of ``synthesize``. With score(y) = log p_expert(y) - beta log p_amateur(y) over the tokens with
    p_expert(y) >= alpha max p_expert, p(y) ∝ exp(score(y) / temperature). Source: CoDIT (Ichinose et al. 2026, its released
    decoder), whose scripts have temperature 1, no nucleus and contrast end tokens like all others. Says what the parameters say,
    checks none of them and leaves out the noise's keys (``generation.KeyedSampling``).
    """
    alpha, beta, temperature = (f"{parameters[name]:g}" for name in ("alpha", "beta", "temperature"))
    kept = f"over the tokens with p_expert >= {alpha} max p_expert" if parameters["alpha"] else "over all tokens"
    if parameters["beta"]:
        score = f"log p_expert(y) - {beta} log p_amateur(y)"
        words = [f"Each token's score is {score}, taken {kept}."]
    else:
        score = "log p_expert(y)"
        amateur = (
            "the amateur took no part" if parameters["log_ratios"] == "none" else "the amateur only measures log-ratios"
        )
        words = [f"Tokens come from the expert alone, {kept}; {amateur}."]
    if parameters["temperature"]:
        words.append(f"Tokens are sampled: p(y) ∝ exp(({score}) / {temperature}).")
    else:
        words.append("The token with the highest score is taken.")
    if parameters["top_p"] < 1:
        words.append(f"Of those, the likeliest that together reach probability {parameters['top_p']:g} are kept.")
    if parameters["beta"] and not parameters["contrast_end"]:
        words.append(
            "End tokens keep the expert's own probability (at temperature 1, among the plausible tokens); the other tokens "
            "share the rest by their contrast."
        )
    return " ".join([*words, "A response ends at an end token or after", f"{parameters['max_new_tokens']} tokens."])


def environment_words(made_with: Mapping[str, str]) -> str:
    """One environment in words: versions, the device, the beginning of the library's hash."""
    return ", ".join(f"{name} {value[:12] if name == 'tacit' else value}" for name, value in made_with.items())


def _fields(card: str | None) -> dict[str, Any]:
    """A card's front matter; nothing if it has none or that is no YAML."""
    if card is None or not REGEX_YAML_BLOCK.search(card):
        return {}  # DatasetCard would warn, in the midst of a notebook
    try:
        return DatasetCard(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, YAMLError):
        return {}


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

    ``instructions`` says where they are from. An ``old`` card of the folder whose tables still hold stays as it is; from another one,
    its front matter is taken over, the licence too. The same for the same rows and environments.
    """
    fields = {"license": "other", "license_name": "to-be-filled-in"}
    fields |= {"task_categories": ["text-generation"], "tags": ["synthetic", "codit", "contrastive-decoding"]}
    kept = _fields(old)
    if "license" in kept and "license_name" not in kept:
        del fields["license_name"]
    data = DatasetCardData(**(fields | kept | {"configs": DATA}))
    filled = (data.license, data.get("license_name")) != ("other", "to-be-filled-in")
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
    identity["instructions"] = f"`{instructions}` (`{parameters['instructions']}`)"
    plain = {name: f"`{value}`" for name, value in parameters.items() if name not in {"chat_template", *identity}}
    several = len(made_with) > 1
    made = {
        f"made with ({i})" if several else "made with": environment_words(one) for i, one in enumerate(made_with, 1)
    }
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# Synthesized responses",
        "Made by `python -m tacit synthesize` after CoDIT (Ichinose et al. 2026, https://arxiv.org/abs/2604.13538).",
        f"**Licence{'' if filled else ': to be filled in'}** (`license`, `license_name` above). The teacher's licence governs its outputs: here the "
        "expert's and the amateur's, and the instructions' licence governs the instructions.",
        f"## Decoding\n\n{decoding_rule(parameters)}",
        "## Models and parameters\n\nA local model is identified by the SHA-256 of its folder, one of the hub by its commit, the "
        "instructions by that of their ids and texts, tacit by that of its source.\n\n"
        + _table({**identity, **plain, **made}),
        f"Chat template:\n\n~~~jinja\n{parameters['chat_template']}\n~~~",
        f"## Contents\n\n{_table(counts)}",
        "`mean_log_ratio` is the mean of log p_expert - log p_amateur over a response's tokens, its end token included. "
        "Responses are as decoded: nothing was filtered, corrected or checked.",
    ]
    card = str(DatasetCard("\n\n".join(sections) + "\n"))
    facts = {line for line in card.splitlines() if line.startswith("|")}
    return old if kept and facts <= set(old.splitlines()) else card


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())])
