"""Comparison of arms: which answers meet, what the estimates are of, and what the tables show, on small cases."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tacit.decoding.generation import Response
from tacit.experiments import comparison
from tacit.scoring import scores

FAMILIES = ["sum", "poem", "sum"]


def answer(*texts):
    return [Response(text, "eos", 1) for text in texts]


def table(strict, lenient=(0, 0, 0)):
    return pd.DataFrame({"family": FAMILIES, "strict": strict, "lenient": lenient})


@pytest.fixture
def bench():
    """Longer answers win; an answer is strictly right where it is longer than one character."""

    def score(examples, responses):
        assert examples == "the test prompts"
        return table([float(len(r.text) > 1) for r in responses])

    def wins(examples, ours, theirs):
        assert examples == "the test prompts"
        return scores.wins([len(r.text) for r in ours], [len(r.text) for r in theirs])

    return SimpleNamespace(test="the test prompts", score=score, wins=wins)


ANSWERS = {
    "base": [answer("a", "bb", "c")],
    "tuned": [answer("aa", "b", "c"), answer("aa", "bb", "cc")],
    "control": [answer("a", "b", "ccc"), answer("aaa", "b", "c")],
}


def test_every_seed_has_a_table(bench):
    tables = comparison.score_answers(bench, ANSWERS)
    assert {arm: len(per_seed) for arm, per_seed in tables.items()} == {"base": 1, "tuned": 2, "control": 2}
    assert scores.stack(tables["tuned"], "strict").tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_single_model_meets_every_seed(bench):
    assert comparison.match_seeds(["one"], 3) == ["one"] * 3
    assert comparison.match_seeds(["one", "two"], 2) == ["one", "two"]
    won = comparison.head_to_head(bench, ANSWERS["base"], ANSWERS["tuned"])
    assert won.tolist() == [[0, 1, 0.5], [0, 0.5, 0]]
    assert comparison.head_to_head(bench, ANSWERS["tuned"], ANSWERS["base"]).tolist() == (1 - won).tolist()
    assert comparison.head_to_head(bench, ANSWERS["tuned"], ANSWERS["control"]).tolist() == [[1, 0.5, 0], [0, 1, 1]]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        comparison.head_to_head(bench, ANSWERS["tuned"], [*ANSWERS["control"], answer("a", "b", "c")])


def test_all_other_arms_are_compared_with_the_reference(bench):
    won = comparison.compare_answers(bench, ANSWERS, against="control")
    assert list(won) == ["base", "tuned"]
    assert won["base"].tolist() == [[0.5, 1, 0], [0, 1, 0.5]]


def test_rules_compare_strict_scores_and_without_verifiers_head_to_head_results(bench):
    tables, won = comparison.score_answers(bench, ANSWERS), {"tuned": np.array([[1.0, 0.0]])}
    assert comparison.pick_primary(tables, won)["tuned"].tolist() == [[1, 0, 0], [1, 1, 1]]
    judged = {arm: [t.drop(columns="strict") for t in per_seed] for arm, per_seed in tables.items()}
    assert comparison.pick_primary(judged, won) is won


def test_estimates_are_of_each_score_and_of_the_win_rates(bench):
    tables = comparison.score_answers(bench, ANSWERS)
    won = comparison.compare_answers(bench, ANSWERS, against="control")
    estimates = comparison.estimate_arms(tables, won, kinds=["strict", "lenient"])
    kinds = [(arm, kind) for arm in ANSWERS for kind in ("strict", "lenient")]
    assert list(estimates) == [*kinds, ("base", "win rate"), ("tuned", "win rate")]
    assert estimates["tuned", "strict"] == scores.estimate([[1, 0, 0], [1, 1, 1]])
    assert estimates["base", "win rate"] == scores.estimate([[0.5, 1, 0], [0, 1, 0.5]])
    rows = comparison.list_results(estimates)
    assert rows[0] == estimates["base", "strict"].as_result("base", "strict")
    assert [(row["arm"], row["metric"]) for row in rows] == list(estimates)


def test_scores_of_one_model_are_paired_with_every_seed():
    one, two = [[0, 1, 1]], [[1, 1, 0], [1, 1, 1]]
    assert comparison.compare_scores(two, one) == scores.difference(two, [one[0], one[0]])
    assert comparison.compare_scores(one, two) == scores.difference([one[0], one[0]], two)
    assert comparison.compare_scores(two, two[::-1]) == scores.difference(two, two[::-1])
    with pytest.raises(ValueError, match="broadcast"):
        comparison.compare_scores(two, [[0, 1]] * 3)


@pytest.mark.parametrize(
    ("value", "low", "high", "exceeds"),
    [(0.5, 0.375, 0.75, True), (0.5, 0.25, 0.75, False), (0.4, 0.1, 0.7, False), (-0.5, -0.6, -0.4, False)],
)
def test_a_gain_counts_when_it_is_more_than_its_intervals_width(value, low, high, exceeds):
    assert comparison.exceeds_width(scores.Estimate(value, low, high, 1, 9)) is exceeds


def test_beyond_stopping_is_measured_from_the_base_models_lenient_score():
    tables = {
        "base": [table([0, 0, 0], [1, 1, 0])],
        "tuned": [table([1, 1, 1], [1, 1, 1]), table([0, 1, 0], [0, 1, 0])],
    }
    beyond = comparison.measure_beyond_stopping(tables, ["tuned"])
    assert list(beyond) == [("tuned", "strict"), ("tuned", "lenient")]
    assert beyond["tuned", "strict"] == scores.difference([[1, 1, 1], [0, 1, 0]], [[1, 1, 0]] * 2)
    counted = {"tuned": np.array([False, True, True])}
    beyond = comparison.measure_beyond_stopping(tables, ["tuned"], prompts=counted)
    assert beyond["tuned", "strict"] == scores.difference([[1, 1], [1, 0]], [[1, 0]] * 2)
    unverified = {arm: [t.drop(columns=["strict", "lenient"]) for t in of] for arm, of in tables.items()}
    assert comparison.measure_beyond_stopping(unverified, ["tuned"]) == {}


def test_every_side_of_stopping_has_its_words():
    sides = [scores.Estimate(0, low, high, 1, 9).side() for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))]
    assert set(sides) == set(comparison.BEYOND_STOPPING)


def test_families_are_averaged_over_seeds_and_prompts():
    tables = {"base": [table([1, 0, 0])], "tuned": [table([1, 1, 1]), table([0, 0, 1])]}
    by_family = comparison.average_by_family(tables, "strict")
    assert list(by_family.index) == ["sum", "poem"]
    assert by_family.to_dict() == {"base": {"sum": 0.5, "poem": 0.0}, "tuned": {"sum": 0.75, "poem": 0.5}}


def test_counts_of_families_in_words():
    assert comparison.count_per_family(FAMILIES) == "1 to 2"
    assert comparison.count_per_family(["sum", "poem"]) == "1"


def test_selected_epochs():
    seen = [{"epochs": 1, "loss": 0.12345, "validation": 0.5}, {"epochs": 3, "loss": 0.1, "validation": 0.75}]
    records = {
        "tuned": {"epochs": 3, "selection": seen, "loss": 0.1},
        "alone": {"epochs": 2, "selection": [], "loss": 0.2},
        "control": {"epochs": 1, "selection": seen, "loss": 0.1},
    }
    selection, chosen = comparison.list_epochs(records)
    assert selection.to_dict("records") == [{"arm": arm, **row} for arm in ("tuned", "control") for row in seen]
    assert chosen.to_dict() == {"tuned": 3, "alone": 2, "control": 1}
    assert chosen.name == "chosen epochs"
    shown = comparison.tabulate_epochs(selection)
    assert list(shown.index) == ["tuned", "control"]
    assert shown.loc["tuned"].to_dict() == {
        ("validation", 1): 0.5, ("validation", 3): 0.75, ("loss", 1): 0.123, ("loss", 3): 0.1,
    }  # fmt: skip


def test_a_papers_values_stand_beside_ours():
    results = [
        {"arm": "base", "metric": "strict", "value": 0.1, "low": 0.0, "high": 0.2, "n_seeds": 1},
        {"arm": "tuned", "metric": "win rate", "value": 0.43215, "low": 0.4, "high": 0.5, "n_seeds": 2},
        {"arm": "base", "metric": "win rate", "value": 0.2, "low": 0.1, "high": 0.3, "n_seeds": 2},
    ]
    paper = [
        {"arm": "base", "metric": "win rate", "value": 0.024, "source": "Table 1"},
        {"arm": "tuned", "metric": "win rate", "value": 0.433, "source": "Table 1"},
        {"arm": "other", "metric": "win rate", "value": 0.5, "source": "Table 1"},
    ]
    joined = comparison.join_paper(results, paper)
    assert list(joined.columns) == ["arm", "metric", "value", "low", "high", "value, paper", "source"]
    assert joined.to_numpy().tolist() == [
        ["tuned", "win rate", 0.432, 0.4, 0.5, 0.433, "Table 1"],
        ["base", "win rate", 0.2, 0.1, 0.3, 0.024, "Table 1"],
    ]
