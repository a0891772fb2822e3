"""The answers of findings 9 and 11 in sentences, as ``findings.answers`` writes those of 0 to 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tacit.findings.answers import name_score, percent, tell_failing, tell_less_ready
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide


def describe_chat_vector(
    rule: Sequence[Demand], controls: Sequence[Demand], *, cold: Sequence[Demand], transfers: Mapping[str, Demand]
) -> dict[str, str]:
    """Finding 9's answer from its rule (correlations of first order, then differences of cosines) and controls.

    ``cold`` holds the cosine of CoDIT text minus that of the mask alone and of colder text. ``transfers`` compares
    models by name: ``other`` and ``same`` (students of CoDIT minus direct text), ``teacher`` and ``sibling``.
    """
    order = [demand for demand in rule if demand.metric != "cosine"]
    cosines = [demand for demand in rule if demand.metric == "cosine"]
    values = [demand.estimate.value for demand in order]
    gaps = " and ".join(f"{one.arm} {percent(one.estimate)}" for one in cosines)
    numbers = (
        f"over responses first order correlates with the true change at {min(values):z.2f} to {max(values):z.2f}, and"
        f" the cosine of a student's update with the vector differs by: {gaps}"
    )
    claim = "what the contrast decodes is to first order what the chat vector does, and its text moves a student along"
    found = {
        HOLDS: f"{claim.capitalize()} that vector: {numbers}.",
        REFUTED: f"It is not so that {claim} that vector: {numbers}.",
        UNDECIDED: f"Whether {claim} that vector is open: {numbers}.",
        FAILS: f"Nothing is said of the vector, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    parts = {part: decide(demands) for part, demands in (("(a)", order), ("(b)", cosines))}
    words = {HOLDS: "is further along", REFUTED: "is less far along", UNDECIDED: "is not shown to differ"}
    beside = "; ".join(f"{one.arm} {percent(one.estimate)}, {words[one.verdict]}" for one in cold)
    reason = (
        f"By part: (a), first order, {parts['(a)']}; (b), the students' direction, {parts['(b)']}. Beside cleaner text"
        f" of the same teacher: {beside}."
    )
    told = "; ".join(f"{one.arm} {percent(one.estimate)} ({one.verdict})" for one in transfers.values())
    caveat = f"What models do, by {transfers['other'].metric}: {told}. One teacher and so one vector."
    return {"found": found, "reason": reason, "caveat": caveat}


def describe_two_papers(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    simple: Sequence[Demand],
    ladder: Mapping[str, Estimate],
    kind: str,
    drawn: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Estimate],
    revealed: Mapping[str, Demand],
) -> dict[str, str]:
    """Finding 11's answer from its rule (explained variance, gain over base, minus hand-written rules) and control.

    ``simple`` holds the same three demands of one constant on the end token; ``ladder`` what is explained with one
    more term each; ``drawn`` the level of sampled text by arm (``value``), in the score ``kind``; ``teachers`` what
    rules explain on prompts with constraints: of the teacher's ratio, then of the instruction-tuned model's;
    ``revealed`` the gains on a less ready base by arm. The last two may be empty.
    """
    share, gain, beside = (demand.estimate for demand in rule)
    numbers = (
        f"constants for a few tokens, a ramp and repetition explain {percent(share)} of the variance of the log-ratio;"
        f" under them the base model's {name_score(rule[1].metric)} gains {percent(gain)}, and minus hand-written rules"
        f" it is {percent(beside)}"
    )
    found = {
        HOLDS: f"A few terms explain most of what post-training changes, and decode as well as rules: {numbers}.",
        REFUTED: f"A few terms are not enough, as an estimate or in decoding: {numbers}.",
        UNDECIDED: f"Whether a few terms explain most of it and decode as well as rules is open: {numbers}.",
        FAILS: "Nothing is said of rules, because the post-trained model itself is not shown to follow better than its"
        f" base: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    held = sum(demand.verdict == HOLDS for demand in simple)
    explained, rise, _ = (demand.estimate for demand in simple)
    parts = ", ".join(f"{name} {percent(estimate)}" for name, estimate in ladder.items())
    stops = ", so most of this is when to stop" if held == len(simple) else ""
    reason = (
        f"One constant on the end token explains {percent(explained)} and gains {percent(rise)}: it meets {held} of"
        f" the {len(simple)} parts by itself{stops}. With further terms is explained: {parts}."
        f" {tell_less_ready(revealed)}"
    ).rstrip()
    warm = ", ".join(f"{name} {row['value']:z.2f}" for name, row in drawn.items())
    caveat = f"Sampled instead of greedy, the {kind} scores are: {warm}."
    return {"found": found, "reason": reason, "caveat": f"{caveat} {_tell_teachers(teachers)}".rstrip()}


def _tell_teachers(teachers: Mapping[str, Estimate]) -> str:
    """Whether rules explain less of the ratio of a teacher that has learnt to read constraints."""
    if not teachers:
        return ""
    theirs, ours = teachers.values()
    side = (
        "less than" if theirs.high < ours.low else "more than" if theirs.low > ours.high else "not shown to differ from"
    )
    return (
        f"Of the ratio of a teacher that reads constraints all tokens together explain {percent(theirs)}, {side} what"
        f" they explain of the instruction-tuned model's there, {percent(ours)}."
    )
