"""Estimates: intervals from draws, the side of a threshold, a row and a line of text."""

import numpy as np
import pytest
from tacit.scoring import scores
from tacit.scoring.estimates import Estimate, from_draws


def test_draws_that_are_no_numbers_are_refused():
    for value, drawn in ((0.5, [0.4, np.nan]), (np.nan, [0.4, 0.5]), (0.5, [0.4, np.inf])):
        with pytest.raises(ValueError, match="no finite numbers"):
            from_draws(value, drawn, n_seeds=1, n_prompts=2)


def test_the_interval_lies_between_two_quantiles_of_the_draws_and_holds_the_value():
    drawn = np.random.default_rng(0).permutation(np.arange(1001) / 1000)  # quantile q of these is q
    assert vars(from_draws(0.5, drawn, n_seeds=2, n_prompts=9)) == pytest.approx(
        {"value": 0.5, "low": 0.025, "high": 0.975, "n_seeds": 2, "n_prompts": 9}
    )
    other = from_draws(0.5, drawn, n_seeds=2, n_prompts=9, tails=(0.1, 0.6))
    assert (other.low, other.high) == pytest.approx((0.1, 0.6))
    assert from_draws(-1.0, drawn, n_seeds=1, n_prompts=1).low == -1.0
    assert from_draws(2.0, drawn, n_seeds=1, n_prompts=1).high == 2.0


@pytest.mark.parametrize(
    ("low", "high", "threshold", "words"),
    [
        (0.1, 0.3, 0.0, "above"),
        (-0.3, -0.1, 0.0, "below"),
        (-0.1, 0.3, 0.0, "not shown to differ from"),
        (0.0, 0.3, 0.0, "not shown to differ from"),  # an interval that ends at the threshold holds it
        (0.45, 0.49, 0.5, "below"),
    ],
)
def test_the_side_of_a_threshold_is_that_of_the_whole_interval(low, high, threshold, words):
    assert Estimate((low + high) / 2, low, high, 1, 9).side(threshold) == words


def test_an_estimate_is_a_row_and_a_line_of_text():
    made = Estimate(0.5, 0.25, 0.7504, 3, 9)
    assert made.as_result("a", "strict") == {
        "arm": "a", "metric": "strict", "value": 0.5, "low": 0.25, "high": 0.7504, "n_seeds": 3, "n_prompts": 9,
    }  # fmt: skip
    assert str(made) == "0.500 [0.250, 0.750]"
    assert scores.Estimate is Estimate
