"""The three rules in variants: each alone and left out, the paper's as printed, and weights searched on validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.decoding.rules import resolve_tokens, surface
from tacit.experiments.evaluation import Evaluation, strict_rate

RULES = ("end", "uniform", "diversity")
# Hewitt et al. (2024, Table 8), for Llama 2: tokens by string, a leading space being a word's beginning.
TABLE_8 = {
    "<": -4.0, " <": -4.0, "|": -4.0, " I": -5.0, "I": -5.0, " We": -3.0, "What": -5.0, " should": -6.0,
    " *": 1.0, " -": 1.0, "   ": 1.0, " #": 1.0, " ##": 1.0, "\n": 1.0, "!": 1.0,
}  # fmt: skip
PAPER = {
    "rules": list(RULES), "end_weight": 15.0, "end_horizon": 250, "end_after": "grow", "uniform_tokens": TABLE_8,
    "diversity_weight": -1.5, "diversity_scope": "response", "allow_unresolved": True,
}  # fmt: skip


def list_variants(rules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of ``make_rules`` by arm: ``rules`` whole, each rule left out and alone, and other readings of them.

    The readings are those in which the paper's text and its released code differ. ``newline only`` keeps of the second
    rule the newline's constant, if it has one, and nothing else; ``Table 8 as printed`` is the paper's, as far as the
    vocabulary has its tokens. The first arm, ``base``, has no rule.
    """
    full = {**rules, "rules": list(RULES)}
    variants: dict[str, dict[str, Any]] = {"base": {**rules, "rules": []}, "all rules": full}
    for rule in RULES:
        variants[f"without {rule}"] = full | {"rules": [other for other in RULES if other != rule]}
    for rule in RULES:
        variants[f"{rule} rule only"] = full | {"rules": [rule]}
    if "\n" in rules["uniform_tokens"]:
        newline = {"\n": rules["uniform_tokens"]["\n"]}
        variants["newline only"] = full | {"rules": ["uniform"], "uniform_tokens": newline}
    variants["Table 8 as printed"] = dict(PAPER)
    variants["ramp capped"] = full | {"end_after": "cap"}
    variants["ramp cut"] = full | {"end_after": "cut"}
    variants["diversity over the prompt"] = full | {"diversity_scope": "prompt"}
    variants["both as released"] = full | {"end_after": "cut", "diversity_scope": "prompt"}
    return variants


def search_rules(
    respond: Callable[..., Sequence[Response]],
    rules: Mapping[str, Any],
    *,
    bench: Evaluation,
    end_weights: Sequence[float],
    diversity_weights: Sequence[float],
    uniform_scales: Sequence[float],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The rules' weights with the best strict score on ``bench``'s validation prompts: options of ``make_rules``.

    First the weights of the first and third rule are searched on a grid; then, at the best of these, factors on the
    second rule's constants. Of equals the first is taken. ``respond(instructions, ids=..., rules=...)`` answers under
    rules. Also returns what was tried, in order: ``end_weight``, ``diversity_weight``, ``scale``, ``strict``.
    """
    prompts, rows = bench.validation, []

    def weigh(point: Mapping[str, float]) -> dict[str, Any]:
        tokens = {token: point["scale"] * value for token, value in rules["uniform_tokens"].items()}
        weights = {key: point[key] for key in ("end_weight", "diversity_weight")}
        return {**rules, "rules": list(RULES), **weights, "uniform_tokens": tokens}

    def attempt(point: dict[str, float]) -> None:
        said = respond(prompts["instruction"], ids=prompts["id"], rules=weigh(point))
        rows.append(point | {"strict": strict_rate(bench, prompts, said)})

    for end in end_weights:
        for diversity in diversity_weights:
            attempt({"end_weight": end, "diversity_weight": diversity, "scale": 1.0})
    best = max(rows, key=lambda row: row["strict"])
    for scale in uniform_scales:
        if scale != 1.0:  # which the grid has tried
            attempt({"end_weight": best["end_weight"], "diversity_weight": best["diversity_weight"], "scale": scale})
    return weigh(max(rows, key=lambda row: row["strict"])), pd.DataFrame(rows)


def draw_other_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, scores: Mapping[str, float], seed: int, most: int = 60
) -> dict[str, float]:
    """The second rule's ``scores`` on tokens that it does not have, drawn among the ``most`` frequent of ``texts``.

    Where those are fewer than the scores, the first scores are used.
    """
    used = Counter(i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"])
    names = [surface(tokenizer.convert_ids_to_tokens(i)) for i, _ in used.most_common(most)]
    others = [name for name in dict.fromkeys(names) if name not in scores]
    pool = [name for name in others if not resolve_tokens(tokenizer, {name: 0.0})[1]]
    drawn = np.random.default_rng(seed).permutation(pool).tolist()
    return dict(zip(drawn, scores.values(), strict=False))


def find_stops(ruled: Sequence[Response], plain: Sequence[Response]) -> tuple[np.ndarray, Counter[int]]:
    """Which ``ruled`` responses are the ``plain`` ones ended earlier, and with what the plain ones go on there.

    Both are greedy responses to the same prompts; the plain ones are the model's own. Returns a boolean array
    [prompts] and a count of the token ids with which the plain responses go on where the ruled ones end.
    """
    stops, following = [], Counter[int]()
    for ours, its in zip(ruled, plain, strict=True):
        n_said = len(ours.tokens) - 1  # before the end token
        begun = ours.finish_reason == "eos" and ours.tokens[:-1] == its.tokens[:n_said] and len(its.tokens) > n_said
        stops.append(begun and ours.tokens[-1] != its.tokens[n_said])
        if stops[-1]:
            following[its.tokens[n_said]] += 1
    return np.array(stops), following


def tabulate_next(
    following: Counter[int], tokenizer: PreTrainedTokenizerBase, scores: Mapping[str, float], *, n: int = 5
) -> pd.DataFrame:
    """The ``n`` commonest tokens of ``find_stops``: ``share`` of them, and what the second rule gives each.

    Columns: ``token``, ``share``, ``here`` (by ``scores``), ``Table 8``; 0 for a token that a list does not hold.
    """
    here, paper = (resolve_tokens(tokenizer, table)[0] for table in (scores, TABLE_8))
    rows = [
        {"token": repr(tokenizer.decode([i])), "share": count / following.total()}
        | {"here": here.get(i, 0.0), "Table 8": paper.get(i, 0.0)}
        for i, count in following.most_common(n)
    ]
    return pd.DataFrame(rows, columns=["token", "share", "here", "Table 8"])
