"""How often 95% intervals hold the truth, in many simulated comparisons."""

import numpy as np
from tacit.scoring.lengths import controlled_win_rate, length_feature
from tacit.scoring.scores import difference_of_groups


def logistic(x):
    return 1 / (1 + np.exp(-x))


def test_the_interval_at_equal_lengths_is_near_its_level():
    """One seed, 100 prompts, and a judge who likes length."""
    rng, held, n = np.random.default_rng(3), 0, 100
    for i in range(n):
        theirs = rng.integers(200, 1_200, size=(1, 100))
        ours = np.maximum(theirs + rng.normal(150, 400, size=theirs.shape).round(), 1)
        preferences = rng.binomial(1, logistic(0.3 + length_feature(ours, theirs))).astype(float)
        result = controlled_win_rate(preferences, ours, theirs, n_resamples=100, seed=i)
        held += result.low <= logistic(0.3) <= result.high
    assert 0.88 <= held / n <= 0.99


def test_many_runs_give_the_difference_of_groups_its_level():
    rng, held = np.random.default_rng(8), 0
    for i in range(60):
        sides = [rng.normal(0.5, 0.1, size=(12, 1, 1)) * np.ones((12, 2, 20)) for _ in range(2)]
        result = difference_of_groups(*sides, n_resamples=300, seed=i)
        held += result.low <= 0 <= result.high
    assert held >= 50  # 95% of 60 are 57
