"""Verdicts: one demand on a grid of intervals, every rule of up to four demands against what could still be true."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import (
    FAILS,
    HOLDS,
    REFUTED,
    SIDES,
    UNDECIDED,
    VERDICTS,
    Demand,
    conclude,
    decide,
    find_deciding,
    read_demand,
)

INTERVALS = {HOLDS: (0.2, 0.1, 0.3), UNDECIDED: (0.1, -0.1, 0.3), REFUTED: (-0.2, -0.3, -0.1)}
RULES = [verdicts for n in (1, 2, 3, 4) for verdicts in itertools.product(INTERVALS, repeat=n)]
CONTROLS = [verdicts for n in (0, 1, 2) for verdicts in itertools.product(INTERVALS, repeat=n)]


def make(value, low, high, *, arm="a", metric="m", threshold=0.0, side="above"):
    return Demand(arm, metric, Estimate(value, low, high, 3, 20), threshold, side)


def make_all(verdicts, arm="r"):
    """A demand of each verdict on the side above 0; every second one is its mirror image, which asks for below 0."""
    made = []
    for i, verdict in enumerate(verdicts):
        value, low, high = INTERVALS[verdict]
        mirrored = (-value, -high, -low)
        made.append(make(*((value, low, high), mirrored)[i % 2], arm=f"{arm}{i}", side=SIDES[i % 2]))
    return made


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.25])
def test_a_demand_holds_where_every_point_of_the_interval_does(threshold, side):
    points = [threshold + step / 8 for step in range(-3, 4)]
    for low, high in itertools.combinations_with_replacement(points, 2):
        inside = [x for x in points if low <= x <= high]
        met = [x > threshold if side == "above" else x < threshold for x in inside]
        missed = [x < threshold if side == "above" else x > threshold for x in inside]
        expected = HOLDS if all(met) else REFUTED if all(missed) else UNDECIDED
        assert make((low + high) / 2, low, high, threshold=threshold, side=side).verdict == expected, (low, high)


def what_could_be(verdicts, needed):
    """Of all ways in which undecided parts may turn out: does the rule hold in each, in none, or in some?"""
    ways = itertools.product(*[{HOLDS: [1], REFUTED: [0], UNDECIDED: [0, 1]}[verdict] for verdict in verdicts])
    outcomes = {sum(way) >= needed for way in ways}
    return {(True,): HOLDS, (False,): REFUTED}.get(tuple(outcomes), UNDECIDED)


@pytest.mark.parametrize("verdicts", RULES, ids=lambda verdicts: "-".join(v[0] for v in verdicts))
def test_every_rule_says_what_could_still_be_true(verdicts):
    rule = make_all(verdicts)
    assert [demand.verdict for demand in rule] == list(verdicts)
    assert decide(rule) == what_could_be(verdicts, len(verdicts))
    for needed in range(1, len(verdicts) + 1):
        expected = what_could_be(verdicts, needed)
        assert decide(rule, at_least=needed) == expected, needed
        for controls in CONTROLS:
            with_controls = decide(rule, make_all(controls, "c"), at_least=needed)
            assert with_controls == (FAILS if {UNDECIDED, REFUTED} & {*controls} else expected), controls


@pytest.mark.parametrize("verdicts", RULES, ids=lambda verdicts: "-".join(v[0] for v in verdicts))
def test_the_deciding_demand_has_the_rules_verdict(verdicts):
    rule = make_all(verdicts)
    for needed in (None, *range(1, len(verdicts) + 1)):
        deciding = find_deciding(rule, make_all([HOLDS], "c"), at_least=needed)
        assert deciding in rule and deciding.verdict == decide(rule, at_least=needed)
        # Had it come out otherwise, with all that are no better than it, the rule could not stand as it does.
        rank = [HOLDS, UNDECIDED, REFUTED].index
        if deciding.verdict == HOLDS:
            changed = [UNDECIDED if demand is deciding else demand.verdict for demand in rule]
            spare = sum(demand.verdict == HOLDS for demand in rule) - (needed or len(rule))
            assert (what_could_be(changed, needed or len(rule)) == HOLDS) == (spare > 0)
        assert sum(rank(demand.verdict) <= rank(deciding.verdict) for demand in rule) >= (needed or len(rule))


bounds = st.tuples(*[st.floats(-1, 1) for _ in range(3)]).map(sorted)


@given(st.lists(st.tuples(bounds, st.floats(-1, 1), st.sampled_from(SIDES)), min_size=1, max_size=5), st.data())
def test_intervals_that_lie_unevenly_about_their_value_change_nothing_of_this(parts, data):
    rule = [
        make(value, low, high, arm=f"a{i}", threshold=threshold, side=side)
        for i, ((low, value, high), threshold, side) in enumerate(parts)
    ]
    needed = data.draw(st.integers(1, len(rule)))
    assert find_deciding(rule, at_least=needed).verdict == decide(rule, at_least=needed)
    for demand in rule:
        if min(demand.estimate.value - demand.estimate.low, demand.estimate.high - demand.estimate.value) > 1e-9:
            expected = HOLDS if demand.sharpness > 1 + 1e-9 else REFUTED if demand.sharpness < -1 - 1e-9 else UNDECIDED
            assert demand.verdict == expected or abs(abs(demand.sharpness) - 1) < 1e-6


def test_the_last_demand_that_is_needed_decides():
    sure, close, closest = make(0.9, 0.8, 1.0), make(0.3, 0.1, 0.5), make(0.2, 0.01, 0.39)
    for rule in itertools.permutations([sure, close, closest]):
        assert find_deciding(rule) is closest
        assert find_deciding(rule, at_least=2) is close
        assert find_deciding(rule, at_least=1) is sure
    wide, narrow = make(0.5, 0.1, 0.9), make(0.05, 0.04, 0.06)  # by widths of the interval, not by distance
    assert find_deciding([narrow, wide]) is wide
    lopsided, even = make(0.5, 0.1, 0.51), make(0.5, 0.21, 0.79, threshold=0.2)
    undecided = make(0.5, 0.1, 0.51, threshold=0.2)  # far off in mean half widths
    assert (lopsided.verdict, even.verdict, undecided.verdict) == (HOLDS, HOLDS, UNDECIDED)
    assert find_deciding([even, undecided, lopsided]) is undecided
    worst, bad = make(-0.5, -0.6, -0.4), make(-0.2, -0.3, -0.1)
    assert find_deciding([sure, bad, worst, closest]) is worst


def test_the_control_that_fails_worst_decides():
    rule = [make(-0.9, -1.0, -0.8)]
    passing, unsure, failing = make(0.2, 0.1, 0.3), make(0.05, -0.1, 0.2), make(-0.2, -0.3, -0.1)
    for controls in itertools.permutations([passing, unsure, failing]):
        assert find_deciding(rule, controls) is failing
    assert find_deciding(rule, [passing, unsure]) is unsure
    assert find_deciding(rule, [passing]) is rule[0]
    assert decide(rule, [passing]) == REFUTED and decide(rule, [unsure]) == decide(rule, [failing]) == FAILS


@pytest.mark.parametrize(("n", "at_least"), [(0, None), (0, 0), (0, 1), (2, 0), (2, 3), (2, -1)])
@pytest.mark.parametrize("call", [decide, find_deciding, conclude])
def test_a_rule_that_cannot_be_met_as_it_is_asked_is_refused(call, n, at_least):
    for controls in ([], make_all([REFUTED])):
        with pytest.raises(ValueError, match=rf"a rule of {n} demands cannot ask for -?\d of them"):
            call(make_all([HOLDS] * n), controls, at_least=at_least)


@pytest.mark.parametrize("side", ["", "Above", "over", None])
def test_another_side_is_refused(side):
    with pytest.raises(ValueError, match="a demand's side is above or below, not"):
        make(0.2, 0.1, 0.3, side=side)


def test_a_conclusion_names_verdict_deciding_demand_and_both_lists():
    rule = [make(0.9, 0.8, 1.0, arm="sure"), make(0.6, 0.4, 0.8, arm="open", metric="other", threshold=0.5)]
    controls = [make(0.1, 0.05, 0.15, arm="right", threshold=0.2, side="below")]
    assert conclude(rule, controls) == {
        "verdict": UNDECIDED,
        "headline": {"arm": "open", "metric": "other"},
        "rule": [
            {"arm": "sure", "metric": "m", "threshold": 0.0, "side": "above"},
            {"arm": "open", "metric": "other", "threshold": 0.5, "side": "above"},
        ],
        "controls": [{"arm": "right", "metric": "m", "threshold": 0.2, "side": "below"}],
    }
    some = conclude(rule, at_least=1)
    assert (some["verdict"], some["headline"]["arm"], some["controls"], some["at_least"]) == (HOLDS, "sure", [], 1)
    assert {conclude(make_all([v]))["verdict"] for v in INTERVALS} | {FAILS} == {*VERDICTS}


def test_a_demand_is_read_again_from_its_record_and_its_result():
    demand = make(0.25, 0.125, 0.5, arm="x", metric="y", threshold=1, side="below")
    assert demand.as_result() == {
        "arm": "x", "metric": "y", "value": 0.25, "low": 0.125, "high": 0.5, "n_seeds": 3, "n_prompts": 20,
    }  # fmt: skip
    assert type(demand.as_record()["threshold"]) is float
    assert read_demand(demand.as_record(), demand.as_result()) == demand
    assert demand.sentence() == "y, x: 0.250 [0.125, 0.500]; asked: below 1"
    assert make(0.1, 0.0, 0.2, threshold=-0.05).sentence() == "m, a: 0.100 [0.000, 0.200]; asked: above -0.05"
