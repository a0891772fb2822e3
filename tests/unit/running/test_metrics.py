"""A metrics file with a rule: its verdict and headline must be those that its results give, or nothing is written."""

import copy

import pytest
from tacit.running.metrics import describe_main, read_demands, read_metrics, verdict_of, write_metrics
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, conclude
from tacit.support.errors import TacitError

ANSWER = {"found": "Found.", "reason": "Reason.", "caveat": "Caveat."}


def demand(arm, low, high, *, threshold=0.0, side="above", metric="m"):
    return Demand(arm, metric, Estimate((low + high) / 2, low, high, 3, 20), threshold, side)


def make_record(rule, controls=(), *, at_least=None, **changes):
    record = {
        "finding": "F", "claim": "C", **conclude(rule, controls, at_least=at_least), "answer": ANSWER,
        "results": [d.as_result() for d in (*rule, *controls)], "paper": [], "figures": [], "manifest": {},
    }  # fmt: skip
    return record | changes


RULES = {
    HOLDS: ([demand("a", 0.2, 0.4), demand("b", -0.4, -0.3, side="below")], [demand("right", 0.7, 0.9)]),
    UNDECIDED: ([demand("a", 0.2, 0.4), demand("b", -0.4, 0.3)], [demand("right", 0.7, 0.9)]),
    REFUTED: ([demand("a", 0.2, 0.4), demand("b", -0.4, -0.3)], []),
    FAILS: ([demand("a", 0.2, 0.4)], [demand("right", 0.7, 0.9, threshold=0.8)]),
}


@pytest.mark.parametrize("verdict", RULES)
def test_a_record_of_each_verdict_is_written_and_read_and_any_other_verdict_refused(tmp_path, verdict):
    rule, controls = RULES[verdict]
    record = make_record(rule, controls)
    write_metrics(tmp_path / "m.json", record)
    read = read_metrics(tmp_path / "m.json")
    assert read == record
    assert verdict_of(read) == verdict
    assert read_demands(read) == (rule, controls)
    for other in {*RULES, "yes", "no", "Holds"} - {verdict}:
        with pytest.raises(
            TacitError, match=rf"m\.json: its verdict is {other}, but its rule and results .* {verdict}"
        ):
            write_metrics(tmp_path / "m.json", record | {"verdict": other})
    assert read_metrics(tmp_path / "m.json") == record


def test_a_headline_that_does_not_decide_is_refused(tmp_path):
    record = make_record(*RULES[UNDECIDED])
    assert record["headline"] == {"arm": "b", "metric": "m"}
    for arm in ("a", "right"):
        with pytest.raises(TacitError, match="its headline is"):
            write_metrics(tmp_path / "m.json", record | {"headline": {"arm": arm, "metric": "m"}})


def test_results_that_changed_under_a_verdict_are_refused(tmp_path):
    record = make_record(*RULES[HOLDS])
    wider = copy.deepcopy(record)
    wider["results"][0]["low"] = -0.1
    with pytest.raises(TacitError, match="its verdict is holds, but its rule and results give undecided"):
        write_metrics(tmp_path / "m.json", wider)
    stricter = copy.deepcopy(record)
    stricter["rule"][0]["threshold"] = 0.5
    with pytest.raises(TacitError, match="give refuted"):
        write_metrics(tmp_path / "m.json", stricter)
    some = make_record(RULES[REFUTED][0], at_least=1)
    assert (some["verdict"], some["headline"]["arm"]) == (HOLDS, "a")
    write_metrics(tmp_path / "m.json", some)
    del some["at_least"]
    with pytest.raises(TacitError, match="give refuted"):
        write_metrics(tmp_path / "m.json", some)


OLD = {"finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "b", "metric": "m"}, "paper": []}
OLD |= {"results": [demand("b", -0.4, -0.3).as_result()], "figures": [], "manifest": {}}
WITHOUT = object()
WRONG = {
    "no answer": (RULES[HOLDS], {"answer": WITHOUT}, "a rule and no answer"),
    "no verdict": (RULES[HOLDS], {"verdict": WITHOUT}, "a rule and no verdict"),
    "both": (RULES[HOLDS], {"claim_holds": True}, "a rule and claim_holds too"),
    "half an answer": (RULES[HOLDS], {"answer": {"found": "F", "reason": "R"}}, "answer.caveat"),
    "an empty answer": (RULES[HOLDS], {"answer": ANSWER | {"reason": ""}}, "answer.reason"),
    "a demand on no result": (
        RULES[HOLDS],
        {"results": [d.as_result() for d in (RULES[HOLDS][0][0], *RULES[HOLDS][1])]},
        "its rule names no result: m, b",
    ),
    "a control on no result": (
        RULES[HOLDS],
        {"results": [d.as_result() for d in RULES[HOLDS][0]]},
        "its controls names no result: m, right",
    ),
    "an empty rule": (RULES[HOLDS], {"rule": []}, "rule"),
    "a rule of null": (RULES[HOLDS], {"rule": None}, "rule"),
    "more than there is": (RULES[HOLDS], {"at_least": 3}, "a rule of 2 demands cannot ask for 3"),
    "at least none": (RULES[HOLDS], {"at_least": 0}, "at_least"),
    "another side": (
        RULES[HOLDS],
        {"rule": [RULES[HOLDS][0][0].as_record() | {"side": "over"}]},
        "rule.0.side",
    ),
    "neither": (None, {"claim_holds": WITHOUT}, "it needs rule, verdict and answer, or claim_holds"),
    "a verdict without a rule": (None, {"verdict": HOLDS}, "it needs rule, verdict and answer, or claim_holds"),
    "an answer without a rule": (None, {"answer": ANSWER}, "it needs rule, verdict and answer, or claim_holds"),
    "controls without a rule": (None, {"controls": [demand("b", 0, 1).as_record()]}, "it needs rule"),
    "some without a rule": (None, {"at_least": 1}, "it needs rule, verdict and answer, or claim_holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_missing_or_too_much_is_named(tmp_path, name):
    rule, changes, words = WRONG[name]
    record = OLD if rule is None else make_record(*rule)
    write_metrics(tmp_path / "good.json", record)
    changed = {key: value for key, value in (record | changes).items() if value is not WITHOUT}
    with pytest.raises(TacitError, match=r"^bad\.json") as caught:
        write_metrics(tmp_path / "bad.json", changed)
    assert words in str(caught.value)
    assert not (tmp_path / "bad.json").exists()


def test_the_main_number_is_shown_with_what_was_asked_of_it():
    assert describe_main(make_record(*RULES[FAILS])) == "m, right: 0.800 [0.700, 0.900]; asked: above 0.8"
    assert describe_main(OLD) == "m, b: -0.350 [-0.400, -0.300]"
    assert [verdict_of(OLD | {"claim_holds": holds}) for holds in (True, False)] == ["yes", "no"]


def test_two_demands_on_one_result_are_told_apart():
    """That a difference is small is asked by two demands on one row; the control may read the row too."""
    within = [demand("a", -0.02, 0.06, threshold=-0.1), demand("a", -0.02, 0.06, threshold=0.05, side="below")]
    record = make_record(within, [demand("a", -0.02, 0.06, threshold=-0.5)])
    assert record["verdict"] == UNDECIDED
    assert describe_main(record) == "m, a: 0.020 [-0.020, 0.060]; asked: below 0.05"
