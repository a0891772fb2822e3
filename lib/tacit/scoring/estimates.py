"""An estimate: a mean with its 95% interval, and making one from bootstrap draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, and what it was averaged over."""

    value: float
    low: float
    high: float
    n_seeds: int
    n_prompts: int

    def as_result(self, arm: str, metric: str) -> dict:
        """A row of a metrics file."""
        return {"arm": arm, "metric": metric} | asdict(self)

    def side(self, threshold: float = 0.0) -> str:
        """Where the whole interval lies: ``above``, ``below``, or ``not shown to differ from`` ``threshold``."""
        if self.low > threshold:
            return "above"
        return "below" if self.high < threshold else "not shown to differ from"

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


def from_draws(
    value: float,
    drawn: Sequence[float],
    *,
    n_seeds: int,
    n_prompts: int,
    tails: tuple[float, float] = (0.025, 0.975),
) -> Estimate:
    """``value`` with the interval between two quantiles of its bootstrap draws, widened to hold it.

    Raises ValueError for a value or draws that are not finite, whose quantiles would pass for certainty.
    """
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise ValueError(
            "a bootstrap gave values that are no finite numbers: say what they mean before taking quantiles"
        )
    low, high = np.quantile(drawn, tails)
    return Estimate(value, min(value, float(low)), max(value, float(high)), n_seeds, n_prompts)
