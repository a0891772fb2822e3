"""Our length-controlled win rate: judges with a known length bias, an independent maximum, degenerate inputs.

It is compared with the leaderboard's own rate on published AlpacaEval 2 sets: numbers of shared/data where present.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from tacit.decoding.generation import Response
from tacit.scoring import scores
from tacit.scoring.lengths import (
    EXPECTED,
    FARTHEST,
    RANGE,
    controlled_win_rate,
    extrapolation,
    fit_preferences,
    is_separable,
    length_feature,
    text_lengths,
)
from tacit.support.errors import TacitError

SHARED = Path(__file__).parents[4] / "shared/data"


def logistic(x):
    return 1 / (1 + np.exp(-x))


def judged(rng, *, theta, bias, longer, shape, soft=False):
    """A simulated judge's preferences and the lengths that it saw: ours are ``longer`` on average, in characters."""
    theirs = rng.integers(200, 1_200, size=shape)
    ours = np.maximum(theirs + rng.normal(longer, 400, size=shape).round(), 1)
    chance = logistic(theta + bias * length_feature(ours, theirs))
    return chance if soft else rng.binomial(1, chance).astype(float), ours, theirs


@pytest.mark.parametrize(("longer", "least", "width"), [(200, 0.53, 0.15), (500, 0.65, 0.35)])
def test_equal_quality_under_a_judge_who_likes_length_is_parity(longer, least, width):
    """Of ours 67% and 89% are the longer: the more, the wider the interval."""
    seen = judged(np.random.default_rng(0), theta=0.0, bias=1.5, longer=longer, shape=(5, 300))
    raw, ours = scores.estimate(seen[0]), controlled_win_rate(*seen, n_resamples=200)
    assert raw.low > least
    assert ours.low < 0.5 < ours.high
    assert ours.high - ours.low < width
    assert (ours.n_seeds, ours.n_prompts) == (5, 300)


@pytest.mark.parametrize(("theta", "longer"), [(0.8, -300), (-0.5, 300)])
def test_a_known_quality_is_found_beneath_the_bias(theta, longer):
    seen = judged(np.random.default_rng(1), theta=theta, bias=1.5, longer=longer, shape=(3, 400))
    ours = controlled_win_rate(*seen, n_resamples=200)
    assert ours.low < logistic(theta) < ours.high
    assert abs(scores.estimate(seen[0]).value - logistic(theta)) > 0.1


@pytest.mark.parametrize(("bias", "longer"), [(EXPECTED, 600), (EXPECTED, -200), (-1.0, 0), (2.5, 0)])
def test_soft_preferences_that_follow_the_model_give_its_quality(bias, longer):
    """Those of the expected judge always, those of any other where the lengths overlap."""
    seen = judged(np.random.default_rng(2), theta=0.4, bias=bias, longer=longer, shape=(2, 200), soft=True)
    tolerance = 1e-6 if bias == EXPECTED else 5e-3
    assert controlled_win_rate(*seen, n_resamples=20).value == pytest.approx(logistic(0.4), abs=tolerance)


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.0])
def test_where_ours_is_nearly_always_longer_the_interval_reaches_the_truth_whatever_the_judge_likes(bias):
    """Ours are the longer in 99% of pairs. Prompts on which they are not are harder: length there is not the cause."""
    rng, shape = np.random.default_rng(11), (1, 600)
    theirs = rng.integers(200, 600, size=shape)
    harder = rng.normal(size=shape)
    ours = np.maximum(theirs + (900 - 350 * harder + rng.normal(0, 150, size=shape)).round(), 1)
    assert (ours > theirs).mean() > 0.98
    feature, quality = length_feature(ours, theirs), 0.5 - harder
    preferences = rng.binomial(1, logistic(quality + bias * feature)).astype(float)
    found, raw, truth = (
        controlled_win_rate(preferences, ours, theirs, n_resamples=200),
        scores.estimate(preferences),
        logistic(quality).mean(),
    )
    assert found.low < truth < found.high
    assert found.high > raw.value - 0.01  # the raw rate is right if the judge does not mind length
    assert found.high - found.low > 3 * (raw.high - raw.low)
    # the regression without imagined pairs takes the easy prompts for the work of length
    alone, _ = fit_preferences(preferences[0], feature[0], np.ones(600), imagined=1)
    assert abs(logistic(alone) - truth) > abs(found.value - truth) + 0.1


def test_changed_sides_give_the_rest_to_one():
    preferences, ours, theirs = judged(np.random.default_rng(12), theta=0.5, bias=1.0, longer=500, shape=(2, 100))
    one = controlled_win_rate(preferences, ours, theirs, n_resamples=50)
    other = controlled_win_rate(1 - preferences, theirs, ours, n_resamples=50)
    assert one.value == pytest.approx(1 - other.value)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))


def test_extrapolation_is_the_squared_distance_of_0_in_standard_deviations():
    rng = np.random.default_rng(13)
    feature = rng.normal(size=1_000)
    feature -= feature.mean()
    assert extrapolation(feature) == pytest.approx(0, abs=1e-20)
    assert extrapolation(feature / feature.std() + 2) == extrapolation(-feature / feature.std() - 2) == pytest.approx(4)
    assert extrapolation(np.full(5, -0.9)) == pytest.approx(FARTHEST)
    assert extrapolation(feature + 1e6) == FARTHEST


def test_seeds_count_as_chance_of_their_own():
    """Seeds whose quality differs: the interval is wider than that of as many prompts of one seed."""
    rng = np.random.default_rng(4)
    rows = [judged(rng, theta=theta, bias=1.0, longer=100, shape=(1, 200)) for theta in (-1.5, -0.5, 0.5, 1.5)]
    together = [np.concatenate(side) for side in zip(*rows, strict=True)]
    apart = controlled_win_rate(*together, n_resamples=200)
    flat = controlled_win_rate(*(side.reshape(1, -1) for side in together), n_resamples=200)
    assert apart.value == pytest.approx(flat.value)
    assert apart.high - apart.low > 1.8 * (flat.high - flat.low)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("imagined", "expected"), [(1, EXPECTED), (300, EXPECTED), (300, RANGE[0])])
def test_the_fit_is_the_maximum_that_scipy_finds(weighted, imagined, expected):
    rng = np.random.default_rng(5)
    preferences = rng.choice([0, 0.25, 0.5, 1], size=150)
    feature = np.tanh(rng.normal(size=150))
    weights = rng.integers(0, 4, size=150).astype(float) if weighted else np.ones(150)

    def loss(both):  # cross-entropy of the rows, and of pairs that differ by a standard deviation in length alone
        z, longer = both[0] + both[1] * feature, np.tanh(1) * both[1]
        liked = logistic(expected * np.tanh(1))
        rows = (weights * (np.logaddexp(0, z) - preferences * z)).sum()
        return rows + imagined * (np.logaddexp(0, longer) - liked * longer)

    np.testing.assert_allclose(
        fit_preferences(preferences, feature, weights, imagined=imagined, expected=expected),
        optimize.minimize(loss, [0.0, 0.0]).x,
        atol=1e-4,
    )


def test_drawing_a_prompt_twice_is_having_it_twice():
    rng = np.random.default_rng(6)
    preferences, feature = rng.random(40), np.tanh(rng.normal(size=40))
    counts = rng.integers(0, 3, size=40)
    twice = np.repeat(preferences, counts), np.repeat(feature, counts), np.ones(counts.sum())
    np.testing.assert_allclose(
        fit_preferences(preferences, feature, counts, imagined=1), fit_preferences(*twice, imagined=1), atol=1e-6
    )


def test_equal_lengths_give_the_raw_rate():
    preferences = np.random.default_rng(7).choice([0, 0.5, 1], size=(2, 60))
    lengths = np.full((2, 60), 80)
    assert controlled_win_rate(preferences, lengths, lengths, seed=1, n_resamples=300) == scores.estimate(
        preferences, seed=1, n_resamples=300
    )
    # one pair of different lengths in 120 hardly moves it
    almost = controlled_win_rate(preferences, lengths, lengths - np.eye(2, 60, dtype=int), n_resamples=50)
    assert almost.value == pytest.approx(preferences.mean(), abs=0.02)


def test_all_wins_are_what_scores_makes_of_them():
    rng = np.random.default_rng(8)
    lengths = rng.integers(1, 99, size=(2, 30)), rng.integers(1, 99, size=(2, 30))
    for value in (1.0, 0.0):
        found = controlled_win_rate(np.full((2, 30), value), *lengths)
        assert found == scores.estimate(np.full((2, 30), value))
        assert 0.05 < found.high - found.low < 0.2
    one_loss = np.ones((1, 30))
    one_loss[0, 0] = 0
    found = controlled_win_rate(one_loss, lengths[0][:1], lengths[1][:1], n_resamples=100)
    assert found.high == pytest.approx(1.0)  # draws without the loss
    assert found.low < found.value < 1


def test_one_constant_difference_cannot_be_told_from_quality():
    assert not is_separable([[17, 27, 37]], [[10, 20, 30]])
    assert is_separable([[17, 27, 38]], [[10, 20, 30]])
    assert is_separable([[17, 27]], [[17, 27]])
    with pytest.raises(TacitError, match="same 7 in length"):
        controlled_win_rate([[0.0, 1.0, 1.0]], [[17, 27, 37]], [[10, 20, 30]])


@pytest.mark.parametrize(
    ("preferences", "ours", "theirs", "message"),
    [
        ([[0.5, np.nan]], [[1, 2]], [[2, 1]], "from 0 to 1"),
        ([[0.5, 1.5]], [[1, 2]], [[2, 1]], "from 0 to 1"),
        ([[0.5, 1]], [[1, 2, 3]], [[2, 1, 3]], "all the same"),
        ([[0.5, 1]], [[1, 2]], [2, 1], "all the same"),
        ([0.5, 1], [1, 2], [2, 1], "seeds, prompts"),
        (np.ones((0, 3)), np.ones((0, 3)), np.ones((0, 3)), "seeds, prompts"),
        ([[0.5, 1]], [[1, np.nan]], [[2, 1]], "finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(preferences, ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        controlled_win_rate(preferences, ours, theirs)


def test_a_seed_is_one_row_of_lengths():
    answers = [
        [Response("abc", "eos", 2), Response("", "eos", 1)],
        [Response("ä b", "length", 9), Response("x", "eos", 1)],
    ]
    assert text_lengths(answers).tolist() == [[3, 0], [3, 1]]


@pytest.mark.skipif(
    not (SHARED / "alpaca_eval2_lengths.parquet").is_file(), reason="no AlpacaEval 2 lengths at ../shared/data"
)
def test_it_agrees_with_the_published_rate_better_than_the_raw_rate():
    """Fifteen models' annotations, 805 each, in percent: FuseChat's of the baseline's length, the others' not."""
    published = pd.read_csv(SHARED / "alpaca_eval2_published.csv", index_col=0)["length_controlled_winrate"]
    rows = dict(list(pd.read_parquet(SHARED / "alpaca_eval2_lengths.parquet").groupby("model")))
    columns = ["preference", "length", "reference_length"]
    found = {m: controlled_win_rate(*rows[m][columns].to_numpy().T[:, None], n_resamples=100) for m in published.index}
    ours = np.array([100 * found[m].value for m in published.index])
    raw = np.array([100 * rows[m]["preference"].mean() for m in published.index])
    assert stats.spearmanr(ours, published).statistic > 0.99 > stats.spearmanr(raw, published).statistic
    assert np.abs(ours - published).mean() < 1 < 4 < np.abs(raw - published).mean()
    assert all(found[m].low < rate / 100 < found[m].high for m, rate in published.items())
