"""Scores against hand-computed cases and the normal approximation."""

import numpy as np
import pandas as pd
import pytest
from tacit.scores import difference, estimate, stack, win_rate, wins


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
    assert win_rate(ours, theirs).value == 0.375
    assert win_rate(theirs, ours).value == 0.625
    assert win_rate(ours, ours).value == 0.5


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
