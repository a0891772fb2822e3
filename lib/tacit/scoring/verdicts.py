"""The verdict on a claim, from the parts of its rule: demands on estimates, stated before the run.

There are four. *Holds*: every demand is met by a whole 95% interval. *Refuted*: an interval lies wholly on the other
side. *Undecided*: an interval contains its threshold. *Instrument fails*: a positive control, an arm that must pass if
the experiment can tell anything at all, does not pass; then nothing is said of the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.scoring.estimates import Estimate

HOLDS, REFUTED, UNDECIDED, FAILS = "holds", "refuted", "undecided", "instrument fails"
VERDICTS = (HOLDS, REFUTED, UNDECIDED, FAILS)
SIDES = ("above", "below")


@dataclass(frozen=True)
class Demand:
    """One part of a rule: the whole interval of ``estimate`` must lie on ``side`` of ``threshold``.

    ``arm`` and ``metric`` name the estimate among a metrics file's results. Raises ValueError for another side than
    ``above`` and ``below``.
    """

    arm: str
    metric: str
    estimate: Estimate
    threshold: float = 0.0
    side: str = "above"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"a demand's side is {' or '.join(SIDES)}, not {self.side!r}")

    @property
    def verdict(self) -> str:
        """Where the interval lies: ``holds``, ``refuted``, or ``undecided`` where it contains the threshold."""
        lies = self.estimate.side(self.threshold)
        if lies == self.side:
            return HOLDS
        return REFUTED if lies in SIDES else UNDECIDED

    @property
    def margin(self) -> float:
        """How far the value lies on the asked side of the threshold; negative on the other side."""
        gap = self.estimate.value - self.threshold
        return gap if self.side == "above" else -gap

    @property
    def sharpness(self) -> float:
        """The margin in widths of the interval from the value towards the threshold; sign as of the margin.

        So demands on different scales compare: above 1 one holds, below -1 it is refuted.
        """
        below = (self.margin > 0) == (self.side == "above")  # where the threshold lies, seen from the value
        width = self.estimate.value - self.estimate.low if below else self.estimate.high - self.estimate.value
        return self.margin / max(width, 1e-12)

    def as_result(self) -> dict[str, Any]:
        """The estimate as a row of a metrics file's results."""
        return self.estimate.as_result(self.arm, self.metric)

    def as_record(self) -> dict[str, Any]:
        """What a metrics file says of the demand; its numbers stand among the results."""
        return {"arm": self.arm, "metric": self.metric, "threshold": float(self.threshold), "side": self.side}

    def sentence(self) -> str:
        """The demand in a line: metric, arm, value, interval, and what was asked."""
        return f"{self.metric}, {self.arm}: {self.estimate}; asked: {self.side} {self.threshold:g}"


def read_demand(record: Mapping[str, Any], row: Mapping[str, Any]) -> Demand:
    """The demand that ``as_record`` wrote, with its estimate from the result ``row``."""
    estimate = Estimate(**{key: row[key] for key in ("value", "low", "high", "n_seeds", "n_prompts")})
    return Demand(record["arm"], record["metric"], estimate, record["threshold"], record["side"])


def decide(rule: Sequence[Demand], controls: Sequence[Demand] = (), *, at_least: int | None = None) -> str:
    """The verdict of a rule, one of VERDICTS: each control must hold, then ``at_least`` of the demands (all of them).

    A rule that asks for k of n demands is refuted once fewer than k can still hold. Raises ValueError for a rule
    without demands, or one that asks for more than it has.
    """
    needed = len(rule) if at_least is None else at_least
    if not 0 < needed <= len(rule):
        raise ValueError(f"a rule of {len(rule)} demands cannot ask for {needed} of them")
    if any(control.verdict != HOLDS for control in controls):
        return FAILS
    verdicts = [demand.verdict for demand in rule]
    if verdicts.count(HOLDS) >= needed:
        return HOLDS
    return REFUTED if len(rule) - verdicts.count(REFUTED) < needed else UNDECIDED


def _rank(demands: Sequence[Demand]) -> list[Demand]:
    """From the best met to the worst: those that hold, undecided ones, refuted ones; by sharpness among each."""
    order = (HOLDS, UNDECIDED, REFUTED)
    return sorted(demands, key=lambda demand: (order.index(demand.verdict), -demand.sharpness))


def find_deciding(rule: Sequence[Demand], controls: Sequence[Demand] = (), *, at_least: int | None = None) -> Demand:
    """The demand that the verdict hangs on, which is the number to report.

    It is the control that fails worst; else, of the demands sorted from the best met to the worst, the last one that
    the rule needs, whose own verdict is then the rule's. Raises ValueError as ``decide`` does.
    """
    verdict = decide(rule, controls, at_least=at_least)
    if verdict == FAILS:
        return _rank(controls)[-1]
    return _rank(rule)[(len(rule) if at_least is None else at_least) - 1]


def conclude(rule: Sequence[Demand], controls: Sequence[Demand] = (), *, at_least: int | None = None) -> dict[str, Any]:
    """What a metrics file says of a rule: ``verdict``, ``headline`` (the deciding demand), ``rule``, ``controls``.

    Its results must hold ``as_result`` of every demand. Raises ValueError as ``decide`` does.
    """
    deciding = find_deciding(rule, controls, at_least=at_least)
    some = {} if at_least is None else {"at_least": at_least}
    return {
        "verdict": decide(rule, controls, at_least=at_least),
        "headline": {"arm": deciding.arm, "metric": deciding.metric},
        "rule": [demand.as_record() for demand in rule],
        "controls": [control.as_record() for control in controls],
        **some,
    }
