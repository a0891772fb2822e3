"""A length-controlled win rate of our own, for judges that prefer longer responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from tacit.decoding.generation import Response
from tacit.scoring import scores
from tacit.support.errors import TacitError

METRIC = "length-controlled win rate (ours)"  # its name in metrics files: not alpaca_eval's
EXPECTED = 1.0  # a judge's weight for length: 14 published AlpacaEval 2 sets imply 0.79 to 1.36, 1.04 on average
RANGE = (0.0, 2.0)  # the weights that the interval allows for: judges who do not mind length, or twice as much
FARTHEST = 100.0  # the most imagined pairs for each real one: the weight is then the expected one anyway


def text_lengths(answers: Sequence[Sequence[Response]]) -> np.ndarray:
    """Characters of every response: [seeds, prompts], as alpaca_eval counts them."""
    return np.array([[len(response.text) for response in row] for row in answers], dtype=float)


def is_separable(ours: ArrayLike, theirs: ArrayLike) -> bool:
    """Can length be told from quality? Not where all pairs of responses differ by one and the same length other than 0.

    ``ours`` and ``theirs`` are lengths [seeds, prompts], in one unit; any other shape that both have will do.
    """
    longer = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    return not longer.any() or bool(longer.min() < longer.max())


def length_feature(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """tanh of the difference of two lengths over its standard deviation, same shape: 0 where they are equal.

    The difference is not centred, so that 0 stays "equally long". Raises TacitError unless ``is_separable``.
    """
    longer = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if not longer.any():
        return longer
    if not is_separable(ours, theirs):
        raise TacitError(
            f"every response differs from its counterpart by the same {longer.flat[0]:g} in length, so length and "
            "quality cannot be told apart: give the raw win rate instead"
        )
    return np.tanh(longer / longer.std(ddof=1))


def extrapolation(feature: np.ndarray) -> float:
    """How many standard deviations 0 is from a length feature's mean, squared; FARTHEST at most.

    A linear regression's prediction at 0 has the variance of a mean times 1 + this.
    """
    square = float(feature.mean()) ** 2
    return square / max(float(feature.var()), square / FARTHEST) if square else 0.0


def fit_preferences(
    preferences: np.ndarray, feature: np.ndarray, weights: np.ndarray, *, imagined: float, expected: float = EXPECTED
) -> tuple[float, float]:
    """theta and phi of ``logit P(ours preferred) = theta + phi * feature``, by weighted maximum likelihood; all [rows].

    A preference p counts as a win of weight p and a loss of weight 1 - p. ``imagined`` rows, more than 0, come on top:
    equally good responses (theta 0), one longer by a standard deviation, as a judge whose phi is ``expected`` sees
    them. theta is infinite where every weighted preference is 0, or 1.
    """
    wins, losses = weights @ preferences, weights @ (1 - preferences)
    if not losses or not wins:
        return (np.inf if wins else -np.inf), 0.0
    longer = np.tanh(1)
    rows = np.vstack([np.column_stack([np.ones_like(feature), feature]), [0, longer]])
    targets, counts = np.append(preferences, expit(expected * longer)), np.append(weights, imagined)
    found = np.array([logit(wins / (wins + losses)), 0.0])
    for _ in range(200):  # Newton's steps, no longer than 1; five to ten do
        chance = expit(rows @ found)
        curvature = (rows.T * (counts * chance * (1 - chance))) @ rows
        step = np.linalg.solve(curvature, rows.T @ (counts * (targets - chance)))
        found += step / max(1, np.linalg.norm(step))
        if np.abs(step).max() < 1e-8:
            break
    return float(found[0]), float(found[1])


def controlled_win_rate(
    preferences: ArrayLike, ours: ArrayLike, theirs: ArrayLike, *, n_resamples: int = 1_000, seed: int = 0
) -> scores.Estimate:
    """The win rate that a judge would give if both responses were equally long, with its interval, 95% or wider.

    ``preferences`` [seeds, prompts] are from 0 to 1 for ours, 0.5 a tie; ``ours`` and ``theirs`` the lengths of the
    responses, in any unit, same shape. A logistic regression gives the preferences a constant and a weight for
    ``length_feature``; the rate is its prediction at no difference. Where the lengths of both sides overlap, the data
    decide the weight. Where one side is longer nearly always they cannot: the few pairs of like length have prompts
    unlike the rest. The weight is then drawn to EXPECTED, by ``extrapolation`` imagined pairs for each real one.

    Seeds and prompts are resampled independently; the scale of lengths and the imagined pairs stay those of all rows.
    The interval covers those with either weight of RANGE as the expected one. Where lengths overlap it is the
    bootstrap's; where the rate extrapolates it reaches about to the raw rate and as far beyond. It does not allow for
    a judge who prefers shorter responses. Where nothing varies in length, or all preferences are the same, the rate is
    ``scores.estimate`` of the preferences.

    After Dubois et al. 2024 (arXiv 2404.04475). It is *not* alpaca_eval's rate, which has a term for an instruction's
    difficulty, a cross-validated L1 penalty and judged pairs of two gamed baselines in place of imagined ones. On 15
    published sets it is 0.7 points from that rate on average; the raw rate is 4.9. Raises ValueError for other shapes
    and values, TacitError as ``length_feature`` does.
    """
    matrix = np.asarray(preferences, dtype=float)
    lengths = [np.asarray(side, dtype=float) for side in (ours, theirs)]
    if matrix.ndim != 2 or 0 in matrix.shape or any(side.shape != matrix.shape for side in lengths):
        shapes = ", ".join(str(side.shape) for side in (matrix, *lengths))
        raise ValueError(f"preferences and both lengths must be [seeds, prompts], all the same: got {shapes}")
    if not ((matrix >= 0) & (matrix <= 1)).all():
        raise ValueError("preferences must be numbers from 0 to 1: leave out pairs that the judge did not answer")
    if not np.isfinite(lengths).all():
        raise ValueError("lengths must be finite numbers")
    feature = length_feature(*lengths)
    if not feature.any() or matrix.min() == matrix.max():
        return scores.estimate(matrix, n_resamples=n_resamples, seed=seed)
    imagined = 1 + extrapolation(feature) * matrix.size

    def rate(counts: Sequence[np.ndarray], expected: float) -> float:  # of how often each seed and prompt is drawn
        weights = np.outer(*counts).ravel()
        theta, _ = fit_preferences(matrix.ravel(), feature.ravel(), weights, imagined=imagined, expected=expected)
        return float(expit(theta))

    rng = np.random.default_rng(seed)
    ones = [np.ones(n) for n in matrix.shape]
    draws = [[rng.multinomial(len(one), one / len(one)) for one in ones] for _ in range(n_resamples)]
    value, sizes = rate(ones, EXPECTED), {"n_seeds": len(matrix), "n_prompts": matrix.shape[1]}
    least, most = (scores.from_draws(value, [rate(c, weight) for c in draws], **sizes) for weight in RANGE)
    return replace(least, low=min(least.low, most.low), high=max(least.high, most.high))
