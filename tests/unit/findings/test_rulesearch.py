"""Variants of the three rules, the search of their weights, the control's tokens and stops, on cases by hand."""

from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.decoding.rules import EndRamp, make_rules, resolve_tokens
from tacit.findings import rulesearch

HAND = {
    "end_weight": 5.0, "end_horizon": 60, "end_after": "grow", "uniform_tokens": {"\n": -4.0, "<": -2.0},
    "diversity_weight": -0.5, "diversity_scope": "response", "allow_unresolved": False,
}  # fmt: skip


def test_every_variant_differs_from_all_rules_in_what_its_name_says():
    variants = rulesearch.list_variants(HAND)
    full = variants["all rules"]
    assert full == HAND | {"rules": ["end", "uniform", "diversity"]}
    changed = {
        arm: {key for key in full if options[key] != full[key]} for arm, options in variants.items() if arm != "base"
    }
    assert changed.pop("newline only") == {"rules", "uniform_tokens"}
    assert variants["newline only"]["uniform_tokens"] == {"\n": -4.0}
    changed.pop("Table 8 as printed")
    assert {frozenset(names) for arm, names in changed.items() if "without" in arm or "only" in arm} == {
        frozenset({"rules"})
    }
    assert changed["ramp capped"] == changed["ramp cut"] == {"end_after"}
    assert changed["diversity over the prompt"] == {"diversity_scope"}
    assert changed["both as released"] == {"end_after", "diversity_scope"}
    assert variants["base"]["rules"] == []
    assert variants["without uniform"]["rules"] == ["end", "diversity"]
    assert variants["uniform rule only"]["rules"] == ["uniform"]
    assert "newline only" not in rulesearch.list_variants(HAND | {"uniform_tokens": {"<": 1.0}})


def test_table_8_is_the_papers(tokenizer):
    """Llama-2's fifteen tokens and weights (Hewitt et al. 2024, Table 8), made into processors as far as they exist."""
    assert rulesearch.TABLE_8 == {
        "<": -4, " <": -4, "|": -4, " I": -5, "I": -5, " We": -3, "What": -5, " should": -6,
        " *": 1, " -": 1, "   ": 1, " #": 1, " ##": 1, "\n": 1, "!": 1,
    }  # fmt: skip
    made = make_rules(tokenizer, **rulesearch.list_variants(HAND)["Table 8 as printed"])(torch.ones(1, 2))
    [ramp] = [one for one in made if isinstance(one, EndRamp)]
    assert (ramp.weight, ramp.horizon, ramp.after) == (15.0, 250, "grow")
    assert made[-1].weight == -1.5
    for options in rulesearch.list_variants(HAND).values():
        make_rules(tokenizer, **options)


VALIDATION = Dataset.from_list([{"id": i, "instruction": i} for i in "abcd"])


def test_weights_are_searched_on_the_grid_and_then_along_the_scale():
    """The score by hand: 4 less the distances from end weight 10, diversity -1 and half of the constants."""
    asked = []

    def respond(instructions, *, ids, rules):
        assert (list(instructions), list(ids)) == (list("abcd"), list("abcd"))
        scale = rules["uniform_tokens"]["\n"] / -4.0
        assert rules["uniform_tokens"]["<"] == -2.0 * scale
        asked.append((rules["end_weight"], rules["diversity_weight"], scale))
        distance = (rules["end_weight"] != 10.0) + (rules["diversity_weight"] != -1.0) + (scale != 0.5)
        return [Response("", "eos", 4 - distance)] * 4

    bench = SimpleNamespace(
        validation=VALIDATION, score=lambda _, said: pd.DataFrame({"strict": [r.n_tokens / 4 for r in said]})
    )
    choices = {"end_weights": [5.0, 10.0], "diversity_weights": [-1.0, 0.0], "uniform_scales": [0.5, 1.0, 2.0]}
    best, table = rulesearch.search_rules(respond, HAND, bench=bench, **choices)
    expected = [(5, -1, 1), (5, 0, 1), (10, -1, 1), (10, 0, 1), (10, -1, 0.5), (10, -1, 2)]
    assert asked == expected
    assert [tuple(row) for row in table.iloc[:, :3].to_numpy()] == expected
    assert table["strict"].tolist() == [0.5, 0.25, 0.75, 0.5, 1.0, 0.75]
    tokens = {"\n": -2.0, "<": -1.0}
    assert best == rulesearch.list_variants(HAND)["all rules"] | {
        "end_weight": 10.0, "diversity_weight": -1.0, "uniform_tokens": tokens
    }  # fmt: skip


def test_of_equal_weights_the_first_is_taken():
    bench = SimpleNamespace(validation=VALIDATION, score=lambda _, said: pd.DataFrame({"strict": [1.0] * 4}))
    choices = {"end_weights": [7.0, 5.0], "diversity_weights": [0.0, -1.0], "uniform_scales": [2.0]}
    best, _ = rulesearch.search_rules(lambda *_, **__: [], HAND, bench=bench, **choices)
    assert (best["end_weight"], best["diversity_weight"]) == (7.0, 0.0)
    assert best["uniform_tokens"] == HAND["uniform_tokens"]


def test_the_controls_tokens_are_frequent_and_not_the_rules_own(tokenizer):
    texts = ["the river is near the town\n", "the town is old\n", "the river"]
    scores = {"\n": -4.0, "<": -2.0}
    drawn = [rulesearch.draw_other_tokens(tokenizer, texts, scores=scores, seed=seed) for seed in range(8)]
    counts = Counter(i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"])
    for one in drawn:
        assert list(one.values()) == [-4.0, -2.0]
        ids, unresolved = resolve_tokens(tokenizer, one)
        assert not unresolved
        assert not set(one) & set(scores)
        assert set(ids) & set(counts)
    assert drawn[0] == rulesearch.draw_other_tokens(tokenizer, texts, scores=scores, seed=0)
    assert len({tuple(one) for one in drawn}) > 1
    few = rulesearch.draw_other_tokens(tokenizer, texts, scores=scores, seed=0, most=1)
    assert len(few) <= 1


def said(*tokens, reason="eos"):
    return Response("", reason, len(tokens), tokens)


@pytest.mark.parametrize(
    ("ruled", "plain", "stopped"),
    [
        (said(5, 6, 2), said(5, 6, 7, 8, reason="length"), True),
        (said(5, 9, 2), said(5, 6, 7, 8, reason="length"), False),  # other words
        (said(5, 6, 2), said(5, 6, 2), False),  # the model's own end
        (said(5, 6, 7, reason="length"), said(5, 6, 7, 8, reason="length"), False),  # no end
        (said(5, 6, 7, 8, 2), said(5, 6, 7, 8, reason="length"), False),  # ended where the plain one was cut
        (said(2), said(7, 8, reason="length"), True),  # ended at once
    ],
)
def test_a_stop_is_a_beginning_of_the_plain_response(ruled, plain, stopped):
    stops, following = rulesearch.find_stops([ruled], [plain])
    assert stops.tolist() == [stopped]
    assert dict(following) == ({7: 1} if stopped else {})


def test_the_tokens_after_a_stop_stand_beside_their_scores(tokenizer):
    newline, other = (resolve_tokens(tokenizer, {text: 1.0})[0] for text in ("\n", "a"))
    following = Counter({next(iter(newline)): 3, next(iter(other)): 1})
    table = rulesearch.tabulate_next(following, tokenizer, {"\n": -4.0})
    assert table.to_dict("list") == {
        "token": [repr("\n"), repr("a")],
        "share": [0.75, 0.25],
        "here": [-4.0, 0.0],
        "Table 8": [1.0, 0.0],
    }
    assert rulesearch.tabulate_next(Counter(), tokenizer, {}).empty
