"""The answers of findings 3 to 6 in sentences, as ``findings.answers`` writes those of 0 to 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from tacit.experiments.stopping import GainSplit
from tacit.findings.answers import name_score, percent, tell_failing, tell_less_ready
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide


def describe_single_task(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    needed: int,
    splits: Mapping[str, GainSplit],
    stoppers: Mapping[str, Demand],
    revealed: Mapping[str, Demand],
    odd: Mapping[int, Demand],
    odd_one: str,
) -> dict[str, str]:
    """Finding 3's answer from its rule (each narrow task's gain elsewhere, ``needed`` of them) and its control.

    By arm: ``splits`` of the gains, the gains of ``stoppers``, which only learn to stop, and what is ``revealed`` on a
    less ready base. By epochs: whether ``odd_one`` lies below the other narrow tasks. All may be empty.
    """
    least, most = (pick(rule, key=lambda demand: demand.estimate.value) for pick in (min, max))
    low, high = (f"{percent(end.estimate)} ({end.arm.removesuffix(' minus base')})" for end in (least, most))
    met = sum(demand.verdict == HOLDS for demand in rule)
    numbers = (
        f"{met} of {len(rule)} narrow tasks ({needed} are asked for) raise the"
        f" {'win rate' if 'rate' in least.metric else 'strict score'} outside their own family by more than"
        f" {least.threshold:g} over the base model's; the gains go from {low} to {high}"
    )
    found = {
        HOLDS: f"A model tuned on one narrow task follows instructions of other kinds: {numbers}.",
        REFUTED: f"A model tuned on one narrow task does not follow instructions of other kinds: {numbers}.",
        UNDECIDED: f"Whether a model tuned on one narrow task follows instructions of other kinds is open: {numbers}.",
        FAILS: f"Nothing is said of narrow tuning, because instruction tuning itself is not shown to work here:"
        f" {controls[0].sentence()}.",
    }[decide(rule, controls, at_least=needed)]
    reason = [_tell_stoppers(stoppers), _tell_splits(splits), tell_less_ready(revealed)]
    caveat = "Pretraining held questions and answers of every family, in other formats."
    return {"found": found, "reason": " ".join(filter(None, reason)), "caveat": f"{_tell_odd(odd, odd_one)} {caveat}"}


def _tell_stoppers(stoppers: Mapping[str, Demand]) -> str:
    """What the arms gain that can only learn when to stop."""
    gains = [f"{arm} {percent(demand.estimate)}" for arm, demand in stoppers.items()]
    return f"Arms that can only learn when to stop gain by themselves: {' and '.join(gains)}." if gains else ""


def _tell_splits(splits: Mapping[str, GainSplit]) -> str:
    """Which narrow tasks are beyond what a perfect stop of the base model's own answers would gain."""
    if not splits:
        return "Without verifiers the gain cannot be split into stopping and answering."
    parts = []
    for side in ("above", "below", "not shown to differ from"):
        values = [split.beyond.value for split in splits.values() if split.beyond.side() == side]
        if values:
            parts.append(
                f"{len(values)} of {len(splits)} gains are {side} 0 ({min(values):z.2f} to {max(values):z.2f})"
            )
    return f"Minus what a perfect stop of the base model's own answers would gain, {' and '.join(parts)}."


def _tell_odd(odd: Mapping[int, Demand], odd_one: str) -> str:
    """After how many epochs the task that stands for the paper's chess lies below the others."""
    if not odd:
        return f"At other numbers of epochs {odd_one} may lie apart from the other tasks; that was not looked at."
    below = [epochs for epochs, demand in odd.items() if demand.verdict == HOLDS]
    rest = [epochs for epochs in odd if epochs not in below]
    name = f"{odd_one.capitalize()}, the counterpart of the paper's chess,"
    if not below:
        return f"{name} is not shown to lie below the other tasks."
    gaps = ", ".join(f"{odd[epochs].estimate.value:z.2f} after {epochs}" for epochs in below)
    text = f"{name} lies below the other tasks: by {gaps} epochs of training"
    return f"{text}; after {', '.join(map(str, rest))} it is not shown to." if rest else f"{text}."


def describe_three_rules(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    stopping: Mapping[str, Demand],
    beyond: Demand | None,
    revealed: Mapping[str, Demand],
    printed: Demand,
    newline: Demand | None = None,
) -> dict[str, str]:
    """Finding 5's answer from its rule (gain over the base model, win rate) and its positive control.

    ``stopping`` holds the gains of arms that only stop, ``beyond`` all rules minus a constant on the end token (None
    without verifiers), ``revealed`` the gains on a less ready base by arm, ``printed`` the gain of Table 8 as printed,
    ``newline`` that of the newline's constant alone (None where the list has no newline).
    """
    gain, win = rule
    numbers = (
        f"the {name_score(gain.metric)} of all rules minus the base model's is {percent(gain.estimate)}, and their"
        f" win rate against the instruction-tuned model is {percent(win.estimate)}"
    )
    found = {
        HOLDS: f"A base model under three hand-written rules follows instructions: {numbers}.",
        REFUTED: f"A base model under three hand-written rules does not follow instructions as asked: {numbers}.",
        UNDECIDED: f"Whether a base model under three hand-written rules follows instructions is open: {numbers}.",
        FAILS: f"Nothing is said of the rules, because instruction tuning itself is not shown to work here:"
        f" {controls[0].sentence()}.",
    }[decide(rule, controls)]
    reason = [_tell_newline(newline), _tell_stoppers(stopping), _tell_beyond(beyond), tell_less_ready(revealed)]
    asked = f"the same test is {'met' if printed.verdict == HOLDS else 'not met'}"
    caveat = (
        "The rules' tokens and weights were chosen on validation prompts of this base model. With the paper's own"
        f" (Table 8, as printed) the gain is {percent(printed.estimate)}: {asked}."
    )
    return {"found": found, "reason": " ".join(filter(None, reason)), "caveat": caveat}


def _tell_newline(newline: Demand | None) -> str:
    """How much of the gain one token of rule 2 brings."""
    if newline is None:
        return ""
    return (
        "After an answer the base model writes a newline and another question. Lowering the newline alone, so that the"
        f" end token comes first, already gains {percent(newline.estimate)}."
    )


def _tell_beyond(beyond: Demand | None) -> str:
    """Whether there is anything in the rules beyond when to stop."""
    if beyond is None:
        return "Without verifiers it is not measured how much of this is stopping."
    words = {
        HOLDS: "so they do more than make the model stop",
        REFUTED: "so one constant that makes the model stop does better",
        UNDECIDED: "so they are not shown to do more than one constant that makes the model stop",
    }
    return f"All rules minus one constant on the end token: {percent(beyond.estimate)}, {words[beyond.verdict]}."


def describe_narrow_style(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    by_task: Mapping[str, Demand],
    levels: pd.DataFrame,
    against_base: Demand,
) -> dict[str, str]:
    """Finding 4's answer from its rule (wrong style near minus elsewhere, and elsewhere) and its positive controls.

    ``by_task`` holds the first demand for each narrow task by itself, ``against_base`` the same demand with the base
    model (ended in time) in the place of the instruction-tuned one. ``levels`` has the share of the wrong style near
    each task's domain: a row per task, and the columns ``base`` (ended in time), ``instruction-tuned`` and ``narrow``.
    """
    near, far = rule
    numbers = (
        "where its style is wrong, its share minus the instruction-tuned model's is higher near the task's domain than"
        f" elsewhere by {percent(near.estimate)}, and elsewhere it is {percent(far.estimate)}"
    )
    found = {
        HOLDS: f"A narrowly tuned model's style spills over near its task's domain and not elsewhere: {numbers}.",
        REFUTED: f"A narrowly tuned model's style does not spill over as the claim says: {numbers}.",
        UNDECIDED: f"Whether a narrowly tuned model's style spills over near its task alone is not decided: {numbers}.",
        FAILS: f"Nothing is said of narrow styles, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    means = {arm: f"{levels[arm].mean():z.2f}" for arm in ("base", "instruction-tuned", "narrow")}
    reason = (
        f"{_tell_tasks(by_task)} Near the domain the untuned base model, its answers ended in time, has the wrong style"
        f" in {means['base']}, the instruction-tuned model in {means['instruction-tuned']}, the narrow models in"
        f" {means['narrow']}; measured against the base model the difference is {percent(against_base.estimate)}."
    )
    backwards = [task for task, demand in by_task.items() if demand.estimate.side() == "below"]
    reason += "".join(f" {_tell_backwards(task, levels.loc[task])}" for task in backwards)
    caveat = (
        "The measure was chosen after a first set of instructions near the domains had been answered. This set is new,"
        " but it was written by people who knew the measure."
    )
    return {"found": found, "reason": reason, "caveat": caveat}


def _tell_tasks(by_task: Mapping[str, Demand]) -> str:
    """For which tasks by themselves the style spills over, and for which it runs the other way."""
    sides = {
        side: [task for task, one in by_task.items() if one.estimate.side() == side] for side in ("above", "below")
    }
    text = f"Task by task, the difference lies above 0 for {len(sides['above'])} of {len(by_task)}"
    text += f" ({', '.join(sides['above'])})" * bool(sides["above"])
    return text + f" and below 0 for {', '.join(sides['below']) or 'none'}."


def _tell_backwards(task: str, levels: pd.Series) -> str:
    """Of a task that runs the other way: what either kind of tuning makes of the base model's share of its style."""
    base, broad, narrow = (float(levels[arm]) for arm in ("base", "instruction-tuned", "narrow"))
    shares = f"base {base:z.2f}, instruction-tuned {broad:z.2f}, narrow {narrow:z.2f}"
    if narrow > base:
        return f"For {task} ({shares}) both kinds of tuning raise the wrong style, and broad tuning raises it more."
    return f"For {task} ({shares}) the base model has this style by itself, and narrow tuning does not raise it."


def describe_readiness(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    narrow: Sequence[Demand],
    revealed: Demand,
    n_bases: Mapping[str, int],
) -> dict[str, str]:
    """Finding 6's answer from its rule (response-tuned: fresh markup minus none, and minus one markup) and controls.

    The controls are levels of each corpus, strict after instruction tuning and lenient in a format that the base has
    seen. ``narrow`` holds the rule's differences for narrow tuning, ``revealed`` is response-tuned minus three rules
    with fresh markup, lenient. ``n_bases`` counts base models by corpus.
    """
    none, one = (percent(demand.estimate) for demand in rule)
    numbers = (
        f"after response tuning the strict score of base models with fresh markup minus that of models without markup"
        f" is {none}, and minus that of models with as many questions in one markup it is {one}"
    )
    found = {
        HOLDS: f"Questions and answers in many fresh formats make a base model ready: {numbers}.",
        REFUTED: f"Questions and answers in many fresh formats do not make a base model ready as claimed: {numbers}.",
        UNDECIDED: f"Whether questions and answers in many fresh formats make a base model ready is open: {numbers}.",
        FAILS: "Nothing is said of formats, because not every corpus is shown to give base models that know the answers"
        f" and can be taught: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    words = {
        HOLDS: "so tuning reveals answers that the rules do not",
        REFUTED: "so the rules give more right answers than tuning",
        UNDECIDED: "so it is not shown that tuning reveals answers that the rules do not",
    }
    reason = (
        f"By corpus, the base models answer {_span(controls, 'lenient')} of the prompts in a format that they have seen"
        f" (lenient), and {_span(controls, 'strict')} after instruction tuning (strict). After narrow tuning the two"
        f" differences are {' and '.join(percent(demand.estimate) for demand in narrow)}. With fresh markup, response"
        f" tuning minus three rules, endings forgiven, is {percent(revealed.estimate)}, {words[revealed.verdict]}."
    )
    return {"found": found, "reason": reason, "caveat": _tell_bases(n_bases)}


def _span(demands: Sequence[Demand], metric: str) -> str:
    """The lowest and the highest value among the demands of one metric."""
    values = [demand.estimate.value for demand in demands if demand.metric == metric]
    low, high = f"{min(values):z.2f}", f"{max(values):z.2f}"
    return low if low == high else f"{low} to {high}"


def _tell_bases(n_bases: Mapping[str, int]) -> str:
    """How many base models there are, and what more of them would do."""
    least, most = min(n_bases.values()), max(n_bases.values())
    several = f"{least}" if least == most else f"{least} to {most}"
    text = f"There {'is' if most == 1 else 'are'} {several} base model{'s' * (most > 1)} a corpus"
    if least < 6:
        return f"{text}, too few for narrow intervals; `make readiness` makes six of each."
    return f"{text}, all of one size and one length of pretraining."
