"""The answers of findings 9, 11 and 20 in sentences, as ``findings.answers`` writes those of 0 to 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tacit.findings.answers import name_score, percent, tell_failing, tell_less_ready, tell_sides
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide


def describe_chat_vector(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    whole: Sequence[Estimate],
    cosines: Mapping[str, float],
    beside: Sequence[Demand],
    transfers: Mapping[str, Demand],
) -> dict[str, str]:
    """Finding 9's answer from its rule (correlations of first order, then differences of cosines) and controls.

    ``whole`` holds the correlations of the rule without length partialled out, ``cosines`` the mean cosine of a
    student's update with the vector by text, ``beside`` that of CoDIT text minus that of other text for the same
    instructions. ``transfers`` compares models by what they do: ``same`` and ``other`` (students of CoDIT minus direct
    text, of the teacher's architecture and of another), ``parameters`` (the first minus the teacher), ``beyond``
    (further along the vector than the teacher, minus it) and, where there is one, ``sibling``.
    """
    order = [demand for demand in rule if demand.metric != "cosine"]
    gaps = [demand for demand in rule if demand.metric == "cosine"]
    numbers = (
        f"over responses first order correlates with the true change at {_tell_range([d.estimate for d in order])},"
        " length partialled out, and the cosine of a student's update with the vector differs by:"
        f" {' and '.join(f'{one.arm} {percent(one.estimate)}' for one in gaps)}"
    )
    claim = (
        "what the contrast decodes is to first order what the chat vector does, and its text moves a student more"
        " along that vector than direct text does"
    )
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: {numbers}.",
        REFUTED: f"It is not so that {claim}: {numbers}.",
        UNDECIDED: f"Whether {claim} is open: {numbers}.",
        FAILS: f"Nothing is said of the vector, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    words = {HOLDS: "more along it", REFUTED: "less along it", UNDECIDED: "no difference shown"}
    compared = "; ".join(f"{one.arm} {percent(one.estimate)}, {words[one.verdict]}" for one in beside)
    levels = ", ".join(f"{text} {value:z.2f}" for text, value in cosines.items())
    reason = (
        f"Part (a), first order: {decide(order)}; with length left in, the correlations are {_tell_range(whole)}. Part"
        f" (b), the students' direction: {decide(gaps)}; the cosines themselves are: {levels}. Against other text for"
        f" the same instructions: {compared}."
    )
    return {"found": found, "reason": reason, "caveat": f"{_tell_transfers(transfers)} One teacher and so one vector."}


def _tell_range(estimates: Sequence[Estimate]) -> str:
    values = [estimate.value for estimate in estimates]
    return f"{min(values):z.2f} to {max(values):z.2f}"


def _tell_transfers(transfers: Mapping[str, Demand]) -> str:
    """What models do: students of text, and what the vector does in parameter space."""
    sayings = {
        "same": "students of CoDIT text minus students of direct text, of the teacher's architecture",
        "other": "the same of another architecture",
        "parameters": "the student of CoDIT text minus the teacher",
        "beyond": "further along the vector than the teacher, minus the teacher",
        "sibling": "the vector added to a sibling, minus the sibling",
    }
    told = [f"{saying} {percent(transfers[name].estimate)}" for name, saying in sayings.items() if name in transfers]
    return f"What models do, by {transfers['other'].metric}: {'; '.join(told)}."


def describe_two_papers(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    simple: Sequence[Demand],
    ladder: Mapping[str, Estimate],
    found_tokens: Mapping[str, float],
    kind: str,
    drawn: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Estimate],
    revealed: Mapping[str, Demand],
) -> dict[str, str]:
    """Finding 11's answer from its rule (explained variance, gain over base, minus hand-written rules) and control.

    ``simple`` holds the same three demands of one constant on the end token; ``ladder`` what other rules explain;
    ``found_tokens`` how many hand-written tokens are among the fit's strongest (``linearrules.agreement``); ``drawn``
    the level of sampled text by arm (``value``), in the score ``kind``; ``teachers`` what rules explain on prompts with
    constraints: of the teacher's ratio, then of the instruction-tuned model's; ``revealed`` the gains on a less ready
    base by arm. The last two and ``found_tokens`` may be empty.
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
        f" the {len(simple)} parts by itself{stops}. Other rules explain: {parts}."
        f" {_tell_tokens(found_tokens)}{tell_less_ready(revealed)}"
    ).rstrip()
    warm = ", ".join(f"{name} {row['value']:z.2f}" for name, row in drawn.items())
    caveat = f"Sampled instead of greedy, the {kind} scores are: {warm}."
    return {"found": found, "reason": reason, "caveat": f"{caveat} {_tell_teachers(teachers)}".rstrip()}


def _tell_tokens(found_tokens: Mapping[str, float]) -> str:
    """Whether the fit finds the tokens that people wrote down."""
    if not found_tokens:
        return ""
    found, compared, chance = (found_tokens[name] for name in ("found", "compared", "found, chance"))
    return f"Of {compared:g} hand-written tokens {found:g} are among its strongest, by chance {chance:.1f} would be. "


def _tell_teachers(teachers: Mapping[str, Estimate]) -> str:
    """Whether rules explain less of the ratio of a teacher that has learnt to read constraints."""
    if not teachers:
        return ""
    theirs, ours = teachers.values()
    side = (
        "less than" if theirs.high < ours.low else "more than" if theirs.low > ours.high else "not shown to differ from"
    )
    return (
        f"All tokens together explain {percent(theirs)} of the ratio of a teacher that reads constraints, which rules"
        f" cannot read: {side} what they explain of the instruction-tuned model's on the same prompts,"
        f" {percent(ours)}."
    )


def describe_real_model(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    more: Sequence[Demand],
    levels: Mapping[str, Estimate],
    plain: Sequence[Estimate],
    ranks: Estimate,
    planted: bool,
) -> dict[str, str]:
    """Finding 20's answer from its rule (CoDIT minus the mask alone, and minus cold text) and positive control.

    ``more`` are the demands beside the rule; ``levels`` holds how often an arm's responses are right, by arm; ``plain``
    how often the given model knows the answer to plain questions, and how often it ends by itself; ``ranks`` how many
    rivals a right response beats; ``planted`` says whether the post-training was planted.
    """
    gaps = " and ".join(f"{one.arm} {one.estimate}" for one in rule)
    pair = "a model with a planted post-training and the model before it" if planted else "the pair"
    numbers = f"in the share of responses that meet their constraint, {gaps}"
    held = f"On real questions text from the contrast of {pair}"
    found = {
        HOLDS: f"{held} meets more constraints than that of its mask and than cold text: {numbers}.",
        REFUTED: f"{held} does not meet more constraints than both that of its mask and cold text: {numbers}.",
        UNDECIDED: f"Whether on real questions text from the contrast of {pair} meets more constraints than that of its"
        f" mask and than cold text is open: {numbers}.",
        FAILS: "Nothing is said of the contrast, because the expert is not shown to meet more constraints than the"
        f" amateur: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    known, ended = map(percent, plain)
    sure = {"above": "more often than not", "below": "less often than not", "not shown to differ from": "as by chance"}
    reason = (
        f"{_tell_beside(more)} Responses are right in: {', '.join(f'{a} {percent(e)}' for a, e in levels.items())}. The"
        f" given model knows the answers to plain questions in {known}, and ends by itself in {ended}. It finds a right"
        f" response likelier than one with a wrong answer in its place {sure[ranks.side(0.5)]}: {percent(ranks)}."
    )
    narrow = (
        "This is an easy case: the plant teaches the kinds of constraint that are tested, and the amateur is itself"
    )
    caveat = f"{narrow} an instruct model." if planted else ""
    return {"found": found, "reason": reason, "caveat": f"{caveat} One model, and simple constraints.".lstrip()}


def _tell_beside(more: Sequence[Demand]) -> str:
    """The differences beside a rule, a sentence for each score: which lie above 0, which below, and which in doubt."""
    words = {HOLDS: "above 0 for", REFUTED: "below 0 for", UNDECIDED: "not shown to be off 0 for"}
    told = []
    for metric in dict.fromkeys(one.metric for one in more):
        of_metric = {one.arm: one for one in more if one.metric == metric}
        told.append(f"The difference in {metric} is {tell_sides(of_metric, words)}.")
    return " ".join(told)
