"""How often 95% intervals hold the truth, in many simulated comparisons."""

import itertools

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


def test_two_and_more_runs_a_side_give_the_difference_of_groups_its_level():
    """Verdicts on 240 prompts, three seeds a run, no difference: the simulations that its docstring reports, fewer."""
    rng, n = np.random.default_rng(8), 400
    for n_runs, spread in itertools.product((2, 3, 6), (0.03, 0.06, 0.10)):
        held = 0
        for _ in range(n):
            mean = rng.normal(0.6, 0.2, size=240)  # of each prompt
            runs = (np.clip(mean + rng.normal(0, spread, size=(n_runs, 1, 1)), 0, 1) for _ in range(2))
            result = difference_of_groups(*(rng.binomial(1, np.repeat(chances, 3, axis=1)) for chances in runs))
            held += result.low <= 0 <= result.high
        assert 0.92 <= held / n <= 0.985, (n_runs, spread)
