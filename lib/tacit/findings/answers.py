"""The answers of findings 0 to 2 in sentences, chosen by verdicts and written from estimates.

Each function returns what a metrics file calls its answer: ``found``, the main result in one plain sentence;
``reason``, why; ``caveat``, what limits it. Numbers are those of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tacit.experiments.comparison import BEYOND_STOPPING
from tacit.experiments.stopping import GainSplit
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide


def percent(estimate: Estimate) -> str:
    """An estimate of a share, or of a difference of shares, as ``0.71 [0.65, 0.77]``."""
    return f"{estimate.value:z.2f} [{estimate.low:z.2f}, {estimate.high:z.2f}]"


def name_score(metric: str) -> str:
    """A metric as a sentence names it: ``strict score``, and a rate by its own name."""
    return metric if metric.endswith("rate") else f"{metric} score"


def tell_failing(controls: Sequence[Demand]) -> str:
    """The positive controls that do not pass, each in a line."""
    return "; ".join(control.sentence() for control in controls if control.verdict != HOLDS)


def describe_micro_world(
    rule: Sequence[Demand], controls: Sequence[Demand], *, beyond: Estimate, won: Estimate
) -> dict[str, str]:
    """Finding 0's answer from its rule (tuned minus base, strict; base, lenient minus strict) and its controls.

    ``beyond`` is tuned, strict, minus base, lenient; ``won`` the win rate of the tuned models against the base model.
    """
    rise, runs_on = (demand.estimate for demand in rule)
    numbers = (
        f"tuning raises its strict score by {percent(rise)}, and forgiving whatever follows a right answer would"
        f" raise it by {percent(runs_on)} without any tuning"
    )
    claim = "the base model knows the answers and does not stop, and that tuned models answer strictly"
    found = {
        HOLDS: f"The base model knows the answers and does not stop, and tuned models answer strictly: {numbers}.",
        REFUTED: f"It is not so here that {claim}: {numbers}.",
        UNDECIDED: f"It is not decided that {claim}: {numbers}.",
        FAILS: f"Nothing is said of the models, because the verifier fails its own check: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    reason = (
        f"Stopping in the right place is worth {percent(runs_on)}. Tuned models differ from that by {percent(beyond)},"
        f" {BEYOND_STOPPING[beyond.side()]}. The tuned models' win rate against the base model is {percent(won)}."
    )
    seeds = f"{rise.n_seeds} tuned model{'s' * (rise.n_seeds > 1)}"
    caveat = (
        f"One base model, {seeds}, and a closed world: every kind of task stands in the pretraining corpus, in other"
        " formats, so that tuning has little to teach."
    )
    return {"found": found, "reason": reason, "caveat": caveat}


def describe_ranking(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    behind: Estimate,
    templates: Estimate | None = None,
    lost: Estimate | None = None,
    swapped: Estimate | None = None,
) -> dict[str, str]:
    """Finding 2's answer from its rule (the base model's mean rank by mean and summed log-probability).

    ``behind`` is the instruction-tuned model's rank on the rule's items minus the base model's. In a world the rule is
    about free words; then ``templates`` is the base model's rank with its corpus' templates, ``lost`` that minus its
    rank in free words, and ``swapped`` the rank of its free words against the same words with another answer.
    """
    ranks = " and ".join(f"{percent(demand.estimate)} ({demand.metric.split(',')[0]})" for demand in rule)
    which, rivals = "the right response", "the responses to other instructions"
    if swapped is not None:
        which, rivals = "a right response in words that its corpus never uses", "other responses of the same family"
    numbers = f"the share that it beats of {rivals} is {ranks} by log-probability, and chance is 0.50"
    found = {
        HOLDS: f"Before any tuning the base model finds {which} likelier than others: {numbers}.",
        REFUTED: f"The base model does not find {which} likelier than others: {numbers}.",
        UNDECIDED: f"Whether the base model finds {which} likelier than others is not decided: {numbers}.",
        FAILS: "Nothing is said of the base model, because even the instruction-tuned model is not shown to rank"
        f" above chance: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    change = {
        "above": "better",
        "below": "worse",
        "not shown to differ from": "neither better nor worse, as far as seen",
    }
    reason = f"After instruction tuning it ranks {change[behind.side()]} ({percent(behind)})."
    caveat = "Ranking shows that the mapping is there, not that the model follows it when it answers (finding 1)."
    if swapped is not None:
        reason = f"{_tell_templates(templates, lost)} {_tell_swapped(swapped)} {reason}"
        caveat = f"Free wordings are a few hand-written sentences for each family. {caveat}"
    return {"found": found, "reason": reason, "caveat": caveat}


def _tell_templates(templates: Estimate, lost: Estimate) -> str:
    """What the wording of the corpus does for a right response's rank."""
    words = {
        "above": f"{percent(lost)} more than in free words, so much of that is the wording",
        "below": f"less than in free words ({percent(lost)})",
        "not shown to differ from": f"not shown to differ from free words ({percent(lost)})",
    }
    ceiling = " and near the ceiling of 1" * (templates.value > 0.95)
    text = f"In its corpus' own templates a right response beats {percent(templates)} of the others"
    return f"{text}, {words[lost.side()]}{ceiling}."


def _tell_swapped(swapped: Estimate) -> str:
    """Whether the base model tells a right answer from a wrong one in the same words."""
    sure = {
        "above": "so it tells right answers from wrong ones, not only fitting words",
        "below": "so it prefers wrong answers, and fitting words explain the rank",
        "not shown to differ from": "so it is not shown to tell right answers from wrong ones",
    }
    return (
        f"Where only the answer differs and all other words are equal, the right one beats {percent(swapped)} of the"
        f" wrong ones, {sure[swapped.side(0.5)]}."
    )


def describe_response_tuning(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    asked: Mapping[str, Demand],
    split: GainSplit | None = None,
    families: pd.DataFrame | None = None,
) -> dict[str, str]:
    """Finding 1's answer from its rule (gain over the base model, win rate) and its positive control.

    ``asked`` holds its further questions by name: ``parity`` (response- minus instruction-tuned), and where they were
    asked ``stopping``, ``revealed``, ``ended``, ``pairs``, ``responses alone`` and ``kept``. ``split`` is the gain of
    the response-tuned arm, None without verifiers; ``families`` a table of ``comparison.compare_families``.
    """
    gain, win = rule
    against = {"above": "above parity", "below": "below parity"}.get(
        win.estimate.side(0.5), "not shown to be off parity"
    )
    numbers = (
        f"its {name_score(gain.metric)} minus the base model's is {percent(gain.estimate)}, and its win rate against"
        f" the instruction-tuned model is {percent(win.estimate)}, {against}"
    )
    found = {
        HOLDS: f"A model tuned on responses alone follows instructions: {numbers}.",
        REFUTED: f"A model tuned on responses alone does not follow instructions as the claim asks: {numbers}.",
        UNDECIDED: f"Whether a model tuned on responses alone follows instructions is not decided: {numbers}.",
        FAILS: "Nothing is said of responses alone, because instruction tuning itself, the positive control, is not"
        f" shown to work here: {controls[0].sentence()}.",
    }[decide(rule, controls)]
    reason = [_tell_stopping(split, asked), _tell_revealed(asked), _tell_boundary(asked)]
    return {"found": found, "reason": " ".join(filter(None, reason)), "caveat": _tell_parity(asked["parity"], families)}


def _tell_stopping(split: GainSplit | None, asked: Mapping[str, Demand]) -> str:
    """How much of response tuning's gain is stopping."""
    if split is None:
        return "Without verifiers the gain cannot be split into stopping and answering."
    text = (
        f"The base model's own answers, ended in the right place, would already gain {percent(split.stopping)}."
        f" Response tuning differs from that by {percent(split.beyond)}, {BEYOND_STOPPING[split.beyond.side()]}."
    )
    if "stopping" in asked:
        text += f" An arm that learns only when to stop gains {percent(asked['stopping'].estimate)}."
    return text


def _tell_revealed(asked: Mapping[str, Demand]) -> str:
    """What is revealed beyond stopping on the less ready base, by responses and by their ends; empty if not asked."""
    if "revealed" not in asked:
        return ""
    words = {HOLDS: "adds right answers", REFUTED: "loses right answers", UNDECIDED: "is not shown to add any"}
    parts = []
    for key, arm in (("revealed", "response tuning"), ("ended", "training all weights on when to stop")):
        if key in asked:
            parts.append(f"{arm} {words[asked[key].verdict]} ({percent(asked[key].estimate)})")
    return f"On a second base model, which answers fewer prompts, endings forgiven: {'; '.join(parts)}."


def _tell_boundary(asked: Mapping[str, Demand]) -> str:
    """Whether responses alone teach what pretraining does not hold; empty if not asked."""
    if not {"pairs", "responses alone"} <= set(asked):
        return ""
    pairs, alone, kept = asked["pairs"], asked["responses alone"], asked.get("kept")
    text = (
        "Response constraints, such as capitals only, do not occur in pretraining. Training on pairs raises how often"
        f" they are met by {percent(pairs.estimate)}, training on the same responses alone by"
        f" {percent(alone.estimate)}."
    )
    if pairs.verdict != HOLDS:
        return f"{text} Pairs are not shown to teach them, so the boundary is not tested."
    if kept is not None and kept.verdict != HOLDS:
        lost = f"its knowledge changes by {percent(kept.estimate)}"
        return f"{text} But that second model is not shown to have kept its answers ({lost}), so this proves little."
    ending = {
        HOLDS: "So responses alone do not teach what is not already there.",
        REFUTED: "So responses alone teach something that was not there.",
        UNDECIDED: "Whether responses alone teach what is not already there is not decided.",
    }[alone.verdict]
    return f"{text} {ending}"


def _tell_parity(parity: Demand, families: pd.DataFrame | None) -> str:
    """How responses alone compare with instruction tuning, overall and in the family where they are furthest behind."""
    text = {
        HOLDS: "Response tuning falls short of instruction tuning",
        REFUTED: "Response tuning is ahead of instruction tuning here, which the paper's models are not",
        UNDECIDED: "Response tuning is not shown to differ from instruction tuning overall",
    }[parity.verdict]
    text += f" ({parity.metric}, paired: {percent(parity.estimate)})"
    if families is not None and len(families) > 1 and families["value"].iloc[0] < 0:
        worst = families.iloc[0]
        there = Estimate(worst["value"], worst["low"], worst["high"], parity.estimate.n_seeds, int(worst["n_prompts"]))
        lower = int((families["high"] < 0).sum())
        text += f"; in {lower} of {len(families)} task families the interval lies below 0, and it is furthest behind in"
        text += f" `{worst['family']}`: {percent(there)}"
    return text + "."


def tell_sides(demands: Mapping[str, Demand], words: Mapping[str, str]) -> str:
    """Named ``demands`` in one clause: after the words of each verdict those that have it, with their estimates."""
    told = []
    for verdict, saying in words.items():
        names = [f"{name} ({percent(one.estimate)})" for name, one in demands.items() if one.verdict == verdict]
        told += [f"{saying} {', '.join(names)}"] if names else []
    return "; ".join(told)


def tell_less_ready(revealed: Mapping[str, Demand]) -> str:
    """What each arm's answers gain on a less ready base, endings forgiven; empty if not asked."""
    words = {
        HOLDS: "more answers are right after",
        REFUTED: "fewer are right after",
        UNDECIDED: "no change is shown for",
    }
    return f"On a less ready base, endings forgiven, {tell_sides(revealed, words)}." if revealed else ""
