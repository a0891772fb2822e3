"""A length-controlled win rate of our own, for judges that prefer longer responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from tacit.decoding.generation import Response
from tacit.scoring import scores
from tacit.support.errors import TacitError

METRIC = "length-controlled win rate (ours)"  # its name in metrics files: not alpaca_eval's
WEAK = 100.0  # sklearn's C: the length weight's penalty is its square / 200, against a likelihood summed over all rows


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


def fit_preferences(preferences: np.ndarray, feature: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """theta and phi of ``logit P(ours preferred) = theta + phi * feature``, by weighted maximum likelihood; all [rows].

    A preference p counts as a win of weight p and a loss of weight 1 - p. Only phi is penalised (WEAK), so that theta
    of a feature that is all 0 is the logit of the mean preference. theta is infinite where every weighted preference
    is 0, or 1.
    """
    wins, losses = weights * preferences, weights * (1 - preferences)
    if not losses.any() or not wins.any():
        return (np.inf if wins.any() else -np.inf), 0.0
    labels, both = np.repeat([1, 0], len(feature)), np.concatenate([wins, losses])
    rows = np.concatenate([feature, feature])[both > 0, None]
    model = LogisticRegression(C=WEAK, solver="lbfgs", tol=1e-8, max_iter=200)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        model.fit(rows, labels[both > 0], sample_weight=both[both > 0])
    return float(model.intercept_[0]), float(model.coef_[0, 0])


def controlled_win_rate(
    preferences: ArrayLike, ours: ArrayLike, theirs: ArrayLike, *, n_resamples: int = 1_000, seed: int = 0
) -> scores.Estimate:
    """The win rate that a judge would give if both responses were equally long, with its 95% interval.

    ``preferences`` [seeds, prompts] are from 0 to 1 for ours, 0.5 a tie; ``ours`` and ``theirs`` the lengths of the
    responses, in any unit, same shape. A logistic regression gives the preferences a constant and a weight for
    ``length_feature``; the rate is its prediction at no difference. Seeds and prompts are resampled independently; the
    standard deviation of the lengths stays that of all rows. Where nothing varies in length, or all preferences are
    the same, it is ``scores.estimate`` of the preferences.

    After Dubois et al. 2024 (arXiv 2404.04475). It is *not* alpaca_eval's rate and cannot be compared with a
    leaderboard: there is no term for an instruction's difficulty, and the regression sees this one comparison, without
    artificially lengthened baselines and cross-validated L1. Where ours is longer nearly always it extrapolates: the
    interval then is wide. Raises ValueError for other shapes and values, TacitError as ``length_feature`` does.
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

    def rate(*counts: np.ndarray) -> float:  # of how often each seed and each prompt is drawn
        weights = np.outer(*counts).ravel()
        theta, _ = fit_preferences(matrix.ravel(), feature.ravel(), weights)
        return float(1 / (1 + np.exp(-theta)))

    rng = np.random.default_rng(seed)
    ones = [np.ones(n) for n in matrix.shape]
    drawn = [rate(*(rng.multinomial(len(one), one / len(one)) for one in ones)) for _ in range(n_resamples)]
    return scores.from_draws(rate(*ones), drawn, n_seeds=len(matrix), n_prompts=matrix.shape[1])
