"""Comparison of arms: which answers meet, what the estimates are of, and what the tables show, on small cases."""

from collections import Counter
from functools import partial
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


def test_every_side_of_stopping_has_its_words():
    sides = [scores.Estimate(0, low, high, 1, 9).side() for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))]
    assert set(sides) == set(comparison.BEYOND_STOPPING)


def test_families_are_averaged_over_seeds_and_prompts():
    tables = {"base": [table([1, 0, 0])], "tuned": [table([1, 1, 1]), table([0, 0, 1])]}
    by_family = comparison.average_by_family(tables, "strict")
    assert list(by_family.index) == ["sum", "poem"]
    assert by_family.to_dict() == {"base": {"sum": 0.5, "poem": 0.0}, "tuned": {"sum": 0.75, "poem": 0.5}}


def test_differences_by_family_are_those_of_its_prompts_alone():
    rng = np.random.default_rng(3)
    ours, theirs = rng.integers(0, 2, (3, 40)), rng.integers(0, 2, (1, 40))
    families = ["sum", "poem", "list", "sum"] * 10
    found = comparison.compare_families(ours, theirs, families)
    assert list(found.columns) == ["family", "value", "low", "high", "n_prompts"]
    assert set(found["family"]) == {"sum", "poem", "list"} and found["value"].is_monotonic_increasing
    for row in found.itertuples():
        columns = [i for i, family in enumerate(families) if family == row.family]
        expected = scores.difference(ours[:, columns], np.repeat(theirs[:, columns], 3, axis=0))
        assert (row.value, row.low, row.high, row.n_prompts) == (
            expected.value, expected.low, expected.high, len(columns),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"39 families for scores \(3, 40\) and \(1, 40\)"):
        comparison.compare_families(ours, theirs, families[:-1])
    with pytest.raises(ValueError, match="40 families"):
        comparison.compare_families(ours, theirs[:, :5], families)


def test_a_family_in_which_an_arm_fails_is_first():
    """An overall difference near 0 can hide one family: ours loses every list and wins half of the sums."""
    found = comparison.compare_families([[0, 1, 0, 1]], [[1, 0, 1, 1]], ["list", "sum", "list", "sum"])
    assert found["family"].tolist() == ["list", "sum"] and found["value"].tolist() == [-1.0, 0.5]


def scored(families, **arms):
    """Score tables of arms with one row of strict scores each; a second seed says the contrary and must not count."""
    return {
        arm: [pd.DataFrame({"family": families, "strict": np.abs(other - np.array(strict))}) for other in (0.0, 1.0)]
        for arm, strict in arms.items()
    }


def test_disagreements_by_hand():
    families = ["sum", "sum", "sum", "list", "list", "poem", "poem"]
    tables = scored(families, a=[1, 1, 1, 1, 0, 0, 1], b=[1, 0, 0, 0, 1, 0, 1], c=[1] * 7)
    find = partial(comparison.find_disagreements, tables, kind="strict")
    for seed in range(20):  # rows 1, 2 and 3: only b fails; row 4: only a; row 5: both; rows 0 and 6: nobody
        first, second, *rest = find(arms=["a", "b"], n=9, seed=seed)
        assert first == 4 and second in (1, 2)  # the only row of its pattern, then one of another family
        assert sorted([second, *rest]) == [1, 2, 3]
        first, second, *rest = find(arms=["a", "b", "c"], n=9, seed=seed)
        assert first == 5 and second == 4 and rest[0] in (1, 2) and sorted(rest) == [1, 2, 3]  # both fail in row 5
    assert find(arms=["a", "b"], n=1) == [4] and find(arms=["a", "b"], n=0) == []
    assert find(arms=["a"], n=3) == [] and find(arms=["a", "a"], n=3) == []
    assert len({tuple(find(arms=["a", "b"], n=3, seed=seed)) for seed in range(20)}) > 1
    assert find(arms=["a", "b"], n=3, seed=1) == find(arms=["a", "b"], n=3, seed=1)


@pytest.mark.parametrize("seed", range(20))
def test_disagreements_keep_what_they_promise(seed):
    """On random scores: patterns take turns, every arm's failures are shown, families are not repeated early."""
    rng = np.random.default_rng(seed)
    names, n = ["a", "b", "c"], int(rng.integers(3, 12))
    families = rng.choice(["sum", "poem", "list", "fact", "rhyme", "game"], size=30).tolist()
    right = {name: rng.integers(0, 2, 30) for name in names}
    rows = comparison.find_disagreements(scored(families, **right), kind="strict", arms=names, n=n, seed=seed)
    patterns = [tuple(int(right[name][i]) for name in names) for i in range(30)]
    differing = [i for i in range(30) if 0 < sum(patterns[i]) < 3]
    assert len(rows) == len(set(rows)) == min(n, len(differing)) and set(rows) <= set(differing)
    for name in names:
        assert any(right[name][i] == 0 for i in rows) == any(right[name][i] == 0 for i in differing)
    for place, row in enumerate(rows):
        shown = Counter(patterns[i] for i in rows[:place])
        left = [i for i in differing if i not in rows[:place]]
        assert shown[patterns[row]] == min(shown[patterns[i]] for i in left)
        visited = Counter(families[i] for i in rows[:place])
        alike = [i for i in left if patterns[i] == patterns[row]]
        assert visited[families[row]] == min(visited[families[i]] for i in alike)


def test_graded_scores_differ_by_their_values():
    tables = scored(["sum", "poem", "list"], a=[0.5, 1, 0.25], b=[0.5, 0.75, 0.5])
    assert sorted(comparison.find_disagreements(tables, kind="strict", arms=["a", "b"], n=5)) == [1, 2]


def test_twins_say_the_same_everywhere_and_end_alike():
    cut = [Response(text, "length", 1) for text in ("a", "bb", "c")]
    answers = ANSWERS | {
        "same as base": [answer("a", "bb", "c")] * 2,
        "cut": [cut],
        "once another": [answer("a", "bb", "c"), answer("a", "bb", "d")],
        "three seeds": [answer("aa", "b", "c"), answer("aa", "bb", "cc"), answer("aa", "bb", "cc")],
        "same as control": [list(one) for one in ANSWERS["control"]],
    }
    assert comparison.find_twins(answers) == [("base", "same as base"), ("control", "same as control")]
    assert comparison.find_twins({"alone": [answer("a")]}) == comparison.find_twins({}) == []


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
