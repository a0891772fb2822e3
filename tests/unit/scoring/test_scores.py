"""Scores against hand-computed cases and the normal approximation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tacit.scoring.estimates import Estimate
from tacit.scoring.scores import (
    around,
    difference,
    difference_of_groups,
    difference_of_means,
    estimate,
    stack,
    summary,
    wins,
)


def test_interval_agrees_with_the_normal_approximation():
    scores = np.random.default_rng(0).binomial(1, 0.3, size=(1, 400)).astype(float)
    ours = estimate(scores)
    half = 1.96 * np.sqrt(scores.mean() * (1 - scores.mean()) / 400)
    assert ours.value == scores.mean()
    assert ours.high - ours.value == pytest.approx(half, rel=0.1)
    assert ours.value - ours.low == pytest.approx(half, rel=0.1)
    assert (ours.n_seeds, ours.n_prompts) == (1, 400)


def test_seeds_count_as_chance_of_their_own():
    """Five seeds that agree within and differ between: resampling prompts alone would see no chance at all."""
    scores = np.repeat(np.array([[0.2], [0.4], [0.6], [0.8], [1.0]]), 300, axis=1)
    ours = estimate(scores)
    spread = np.std(scores[:, 0]) / np.sqrt(5)
    assert ours.high - ours.low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_coverage_is_near_its_level():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        drawn = estimate(rng.binomial(1, 0.6, size=(3, 120)), n_resamples=300)
        hits += drawn.low <= 0.6 <= drawn.high
    assert hits >= 88


def test_stack_puts_seeds_first():
    tables = [pd.DataFrame({"strict": [1, 0, 1]}), pd.DataFrame({"strict": [0, 0, 1]})]
    assert stack(tables, "strict").tolist() == [[1, 0, 1], [0, 0, 1]]


def test_wins_by_hand_and_symmetry():
    ours, theirs = np.array([[1.0, 0.5, 0.0, 0.5]]), np.array([[0.5, 0.5, 0.5, 0.75]])
    assert wins(ours, theirs).tolist() == [[1.0, 0.5, 0.0, 0.0]]
    assert estimate(wins(ours, theirs)).value == 0.375
    assert estimate(wins(theirs, ours)).value == 0.625
    assert estimate(wins(ours, ours)).value == 0.5


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(2)
    hard = rng.uniform(size=(2, 300))
    ours, theirs = hard + 0.05, hard + rng.normal(scale=0.01, size=hard.shape)
    paired = difference(ours, theirs)
    assert paired.value == pytest.approx(0.05, abs=0.01)
    assert paired.high - paired.low < 0.2 * (estimate(ours).high - estimate(ours).low)


def test_constant_and_single_scores_have_no_width():
    assert estimate([[1.0, 1.0]]).high == 1.0
    assert estimate([[0.25]]).low == 0.25


@pytest.mark.parametrize("bad", [[], [[]], [0.5, 1.0]])
def test_other_shapes_are_refused(bad):
    with pytest.raises(ValueError, match="seeds, prompts"):
        estimate(bad)
    with pytest.raises(ValueError, match="same seeds and prompts"):
        wins([[1.0]], [[1.0, 0.0]])


def test_equal_differences_of_few_prompts_are_no_certainty():
    """Rule of three: of 100 prompts alike, up to 3.7% of all may be others (Wilson)."""
    ones, zeros = np.ones((2, 100)), np.zeros((2, 100))
    other = 1 - stats.binomtest(100, 100).proportion_ci(method="wilson").low
    for ours, theirs, value in ((ones, zeros, 1.0), (zeros, ones, -1.0), (ones, ones, 0.0), (zeros, zeros, 0.0)):
        result = difference(ours, theirs)
        assert result.value == value
        assert (result.low, result.high) == pytest.approx((max(-1, value - other), min(1, value + other)))
    assert difference([[0.25] * 9], [[0.75] * 9]).high == -0.5  # no shares
    with pytest.raises(ValueError, match="same seeds and prompts"):
        difference(np.ones((2, 3)), np.ones((1, 3)))


def test_an_interval_is_moved_and_stays_a_rate():
    like = Estimate(0.5, 0.4, 0.7, 2, 9)
    assert around(0.25, like) == Estimate(0.25, pytest.approx(0.15), pytest.approx(0.45), 2, 9)
    assert around(0.95, like).high == 1.0
    assert around(0.05, like).low == 0.0


def test_the_difference_of_groups_by_hand():
    ours = np.array([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])  # [runs, seeds, prompts]
    theirs = np.array([[[0.0, 1.0]]])
    result = difference_of_groups(ours, theirs)
    assert result.value == pytest.approx(4 / 8 - 1 / 2)
    assert (result.n_seeds, result.n_prompts) == (3, 2)
    for other, message in (
        (theirs[:, :, :1], "on the same prompts"),
        (np.full_like(theirs, np.inf), "may be infinite"),
        (np.full_like(theirs, np.nan), "that counts"),
    ):
        with pytest.raises(ValueError, match=message):
            difference_of_groups(ours, other)


def test_the_interval_of_groups_is_welchs_where_only_runs_differ():
    rng = np.random.default_rng(3)
    for n, m in ((2, 2), (3, 6), (6, 4)):
        a, b = rng.normal(0, 0.1, size=n), rng.normal(0, 0.3, size=m)
        result = difference_of_groups(*(means[:, None, None] * np.ones((len(means), 3, 50)) for means in (a, b)))
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_groups_is_a_paired_one_where_only_prompts_differ():
    """One run and one seed a side: what is left is the paired t interval over the prompts."""
    a, b = np.random.default_rng(4).normal(0, 1, size=(2, 30))
    result = difference_of_groups(a[None, None], b[None, None])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    shared = np.tile(np.repeat([0.0, 0.5], 25), (2, 3, 1))  # prompts that are hard for both sides say nothing
    assert difference_of_groups(shared, shared).high == pytest.approx(0, abs=1e-12)


def test_one_run_has_the_chance_of_its_seeds():
    a, b = np.array([0.1, 0.5, 0.6]), np.array([0.2, 0.3])
    result = difference_of_groups(*(means[None, :, None] * np.ones((1, len(means), 9)) for means in (a, b)))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((max(-1, expected.low), min(1, expected.high)))


def test_scores_that_are_not_counted_are_left_out_of_their_runs_mean():
    nan = np.nan
    ours = np.array([[[1.0, nan, 0.0, nan]], [[1.0, 1.0, nan, nan]]])  # the runs' means: 0.5 and 1
    theirs = np.array([[[nan, 0.0, 1.0, nan]]])
    result = difference_of_groups(ours, theirs)
    assert result.value == 0.75 - 0.5
    assert (result.n_seeds, result.n_prompts) == (3, 3)  # nobody counts the last prompt
    whole = np.random.default_rng(5).normal(size=(2, 4, 1, 20))
    padded = np.concatenate([whole, np.full((2, 4, 1, 7), nan)], axis=3)
    assert vars(difference_of_groups(*padded)) == pytest.approx(vars(difference_of_groups(*whole)))


def test_groups_of_verdicts_that_do_not_vary_get_a_width():
    ones, zeros = np.ones((3, 2, 40)), np.zeros((3, 2, 40))
    result = difference_of_groups(ones, zeros)
    assert (result.value, result.high) == (1.0, 1.0)
    assert result.low == pytest.approx(stats.binomtest(40, 40).proportion_ci(method="wilson").low)
    assert difference_of_groups(ones * 0.7, zeros).low == pytest.approx(0.7)
    near = difference_of_groups(np.array([1.0, 0.9])[:, None, None] * np.ones((2, 1, 40)), zeros)
    assert near.low < near.value < near.high == 1.0  # no difference of rates is above 1


def test_the_difference_of_means_by_hand():
    ours, theirs = [[1.0, 0.0, 1.0, 1.0], [0.5, 1.0, 0.0, 1.0]], [[0.0, 1.0], [0.5, 0.0]]
    result = difference_of_means(ours, theirs)
    assert result.value == pytest.approx(5.5 / 8 - 1.5 / 4)
    assert result.low < result.value < result.high
    assert (result.n_seeds, result.n_prompts) == (2, 6)
    assert difference_of_means(theirs, ours).value == -result.value
    constant = difference_of_means(np.ones((3, 5)), np.full((3, 2), 0.25))
    assert (constant.value, constant.low, constant.high) == (0.75, 0.75, 0.75)


def test_the_interval_of_a_difference_of_means_agrees_with_the_normal_approximation():
    """One seed, prompts of each side by themselves: the variances of the two means add up."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.binomial(1, 0.7, size=(1, 300)), rng.binomial(1, 0.4, size=(1, 200))
    result = difference_of_means(ours, theirs)
    half = 1.96 * np.sqrt(ours.var() / 300 + theirs.var() / 200)
    assert result.high - result.value == pytest.approx(half, rel=0.12)
    assert result.value - result.low == pytest.approx(half, rel=0.12)


def test_seeds_are_resampled_together_in_a_difference_of_means():
    """Seeds that move both sides alike say nothing against the difference; those that move one side do."""
    level = np.array([[0.0], [0.2], [0.4], [0.6]])
    ours, theirs = np.repeat(level + 0.3, 50, axis=1), np.repeat(level, 40, axis=1)
    together = difference_of_means(ours, theirs)
    assert (together.low, together.high) == pytest.approx((0.3, 0.3))
    apart = difference_of_means(ours, theirs[::-1])
    assert apart.high - apart.low > 0.3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(np.ones((2, 3)), np.ones((3, 3))), (np.ones(3), np.ones(3)), (np.ones((2, 3)), np.ones((2, 0)))],
)
def test_a_difference_of_means_needs_the_same_seeds(ours, theirs):
    with pytest.raises(ValueError, match="of the same seeds"):
        difference_of_means(ours, theirs)


def test_a_summary_has_a_row_per_arm_and_a_column_per_metric():
    results = [
        estimate([[0.25]]).as_result("a", "strict"),
        {"arm": "a", "metric": "wins", "value": 0.5, "low": 0.126, "high": 0.874, "n_seeds": 1, "n_prompts": 2},
        {"arm": "b", "metric": "wins", "value": -0.5, "low": -1.0, "high": 0.0, "n_seeds": 1, "n_prompts": 2},
        estimate([[1.0]]).as_result("c", "strict"),
    ]
    table = summary(results, arms=["b", "a"], metrics=["strict", "wins"])
    assert (list(table.index), list(table.columns)) == (["b", "a"], ["strict", "wins"])
    assert table.loc["a"].tolist() == ["0.25 [0.25, 0.25]", "0.50 [0.13, 0.87]"]
    assert table.loc["b"].tolist() == ["", "-0.50 [-1.00, 0.00]"]
    assert summary(results, arms={"a": 1}, metrics=["wins"], digits=3).loc["a", "wins"] == "0.500 [0.126, 0.874]"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_named(value):
    spoilt = np.array([[0.5, 1.0], [0.0, value]])
    with pytest.raises(ValueError, match="seed 1, prompt 1 is"):
        estimate(spoilt)
    with pytest.raises(ValueError, match="seed 1, prompt 1 is"):
        difference(spoilt, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="finite numbers"):
        difference_of_means(spoilt, np.zeros((2, 3)))
