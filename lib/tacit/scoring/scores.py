"""Rates, differences and win rates with 95% bootstrap intervals over seeds and prompts.

Scores are arrays [seeds, prompts]: row s holds one seed's scores on the same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from tacit.scoring.estimates import Estimate, from_draws


def estimate(scores: ArrayLike, *, n_resamples: int = 2_000, seed: int = 0) -> Estimate:
    """Mean of ``scores`` [seeds, prompts] with a percentile bootstrap interval.

    Seeds and prompts are resampled independently, so that both sources of chance count; with one seed, prompts only.
    Scores that are all 0 or all 1, which a bootstrap cannot vary, get Wilson's interval for that many prompts. Raises
    ValueError for an empty or ragged array, and for scores that are not finite.
    """
    result = _bootstrap(scores, n_resamples=n_resamples, seed=seed)
    if result.value not in (0.0, 1.0) or result.low < result.high:
        return result
    low, high = wilson_limits(int(result.value * result.n_prompts), result.n_prompts)
    return replace(result, low=min(result.value, low), high=max(result.value, high))


def wilson_limits(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of which ``successes`` of ``n`` were seen."""
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _bootstrap(scores: ArrayLike, *, n_resamples: int, seed: int) -> Estimate:
    """As ``estimate``, but equal scores get no width, whatever they are."""
    matrix = np.asarray(scores, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"scores must be [seeds, prompts], got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        seed_index, prompt = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"the score of seed {seed_index}, prompt {prompt} is {matrix[seed_index, prompt]}, no number")
    value = float(matrix.mean())
    samples = [np.arange(n) for n in matrix.shape if n > 1]
    if not samples or matrix.min() == matrix.max():
        return Estimate(value, value, value, *matrix.shape)

    def mean(*picked: np.ndarray) -> float:
        return matrix[np.ix_(*picked)].mean() if len(picked) == 2 else matrix.ravel()[picked[0]].mean()

    interval = stats.bootstrap(
        samples, mean, vectorized=False, n_resamples=n_resamples, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), *matrix.shape)


def _paired(ours: ArrayLike, theirs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"both arms need the same seeds and prompts: {a.shape} and {b.shape}")
    return a, b


def difference(ours: ArrayLike, theirs: ArrayLike, *, n_resamples: int = 2_000, seed: int = 0) -> Estimate:
    """Mean difference of two arms' scores [seeds, prompts] on the same seeds and prompts, paired, with its interval.

    The differences are resampled as in ``estimate``. Where scores are 0 or 1 and all differences equal, which a
    bootstrap cannot vary, Wilson's limit for that many prompts says on what share of all prompts they may be others.
    Equal differences of other scores get no width. Raises ValueError for different shapes, and as ``estimate`` does.
    """
    a, b = _paired(ours, theirs)
    result = _bootstrap(a - b, n_resamples=n_resamples, seed=seed)
    if result.low < result.high or not np.isin([a, b], (0, 1)).all():
        return result
    _, other = wilson_limits(0, result.n_prompts)
    return replace(result, low=max(-1.0, result.value - other), high=min(1.0, result.value + other))


def difference_of_means(ours: ArrayLike, theirs: ArrayLike, *, n_resamples: int = 2_000, seed: int = 0) -> Estimate:
    """Difference of the means of two score arrays [seeds, prompts] on *different* prompts, with its 95% interval.

    The seeds are the same and resampled together, each side's prompts by themselves. Raises ValueError for unequal
    seeds.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or 0 in a.shape + b.shape:
        raise ValueError(f"both sides need scores [seeds, prompts] of the same seeds: {a.shape} and {b.shape}")
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n_resamples):
        seeds = rng.integers(len(a), size=len(a))
        means = [m[np.ix_(seeds, rng.integers(m.shape[1], size=m.shape[1]))].mean() for m in (a, b)]
        drawn.append(means[0] - means[1])
    return from_draws(float(a.mean() - b.mean()), drawn, n_seeds=len(a), n_prompts=a.shape[1] + b.shape[1])


def difference_of_groups(ours: ArrayLike, theirs: ArrayLike) -> Estimate:
    """Difference of the means of two *unpaired* groups of runs [runs, seeds, prompts] on the same prompts.

    A run's mean is over its seeds and prompts, a side's over its runs. NaN is a score that is not counted. The interval
    is Welch's: Student's t times the standard error to either side. The variance adds up three parts: that of each
    side's run means, divided by its runs, and that of the prompts, which both sides share. The degrees of freedom are
    Satterthwaite's. With two, three and six runs a side it held a difference of none in 95, 97 and 97% of 3,000
    simulations at a standard deviation of 0.03 between runs, in 95, 96 and 96% at 0.06 and in 95, 96 and 95% at 0.10
    (verdicts of 0 and 1 on 240 prompts, three seeds a run). A side of one run has the chance of its seeds alone, and
    with one seed none: what other runs would add is not in its interval. Scores of 0 and 1 that nothing varies get
    Wilson's limit, as in ``difference``. Raises ValueError for unequal prompts, a seed with no score that counts and
    an infinite score.
    """
    a, b = (np.asarray(side, dtype=float) for side in (ours, theirs))
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != b.shape[2] or 0 in a.shape + b.shape:
        raise ValueError(f"both sides need scores [runs, seeds, prompts] on the same prompts: {a.shape} and {b.shape}")
    if any(np.isinf(m).any() or np.isnan(m).all(axis=2).any() for m in (a, b)):
        raise ValueError("every seed of a run needs a score that counts, and no score may be infinite")
    value = float(np.nanmean(a, axis=(1, 2)).mean() - np.nanmean(b, axis=(1, 2)).mean())
    n_prompts = int((~np.isnan(np.concatenate([m.reshape(-1, m.shape[2]) for m in (a, b)])).all(axis=0)).sum())
    pulls = _prompt_pulls(a) - _prompt_pulls(b)
    prompts = float((pulls**2).sum()) * n_prompts / max(1, n_prompts - 1), n_prompts - 1
    parts = [(v, free) for v, free in (_run_variance(a), _run_variance(b), prompts) if v > 0 and free > 0]
    seen = np.concatenate([m[~np.isnan(m)] for m in (a, b)])
    if parts:
        variance = sum(v for v, _ in parts)
        half = variance**0.5 * float(stats.t.ppf(0.975, variance**2 / sum(v**2 / free for v, free in parts)))
    else:
        half = wilson_limits(0, n_prompts)[1] if np.isin(seen, (0, 1)).all() else 0.0
    most = 1.0 if seen.min() >= 0 and seen.max() <= 1 else np.inf
    limits = {"low": max(-most, value - half), "high": min(most, value + half)}
    return Estimate(value, **limits, n_seeds=len(a) + len(b), n_prompts=n_prompts)


def _run_variance(scores: np.ndarray) -> tuple[float, int]:
    """Of a group [runs, seeds, prompts]: its mean's variance by runs (by seeds, if one run), and degrees of freedom."""
    means = np.nanmean(scores, axis=(1, 2)) if len(scores) > 1 else np.nanmean(scores[0], axis=1)
    return float(means.var(ddof=min(1, len(means) - 1)) / len(means)), len(means) - 1


def _prompt_pulls(scores: np.ndarray) -> np.ndarray:
    """How far each prompt pulls the mean of a group's run means [runs, seeds, prompts] from its value: [prompts]."""
    apart = np.nan_to_num(scores - np.nanmean(scores, axis=(1, 2), keepdims=True))
    return (apart.sum(axis=1) / (~np.isnan(scores)).sum(axis=(1, 2))[:, None]).mean(axis=0)


def stack(tables: Sequence[pd.DataFrame], metric: str) -> np.ndarray:
    """One column of several score tables, one table per seed, as an array [seeds, prompts]."""
    return np.stack([table[metric].to_numpy(dtype=float) for table in tables])


def wins(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """Head to head: 1 where ours scores higher, 0 where lower, half for a tie. Any shape in, the same out.

    Their mean is a win rate, 0.5 at parity. Raises ValueError for arms of different shapes.
    """
    a, b = _paired(ours, theirs)
    return (np.sign(a - b) + 1) / 2


def around(value: float, like: Estimate) -> Estimate:
    """``value`` with the interval of ``like``, an estimate of the same rate by another way, moved to it.

    It is cut to 0 and 1, and supposes that both ways are as uncertain on these seeds and prompts.
    """
    low, high = (min(1.0, max(0.0, value + limit - like.value)) for limit in (like.low, like.high))
    return replace(like, value=value, low=min(low, value), high=max(high, value))


def summary(results: Sequence[dict], *, arms: Sequence[str], metrics: Sequence[str], digits: int = 2) -> pd.DataFrame:
    """Result rows as a table for reading: a row per arm, ``value [low, high]`` per metric, or nothing."""
    shown = {
        (row["arm"], row["metric"]): f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        for row in results
    }
    columns = {metric: [shown.get((arm, metric), "") for arm in arms] for metric in metrics}
    return pd.DataFrame(columns, index=list(arms))
