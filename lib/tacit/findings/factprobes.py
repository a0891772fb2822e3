"""Finding 10: prompts about facts by who knows them, and what a contrast does to the tokens of right responses."""

from __future__ import annotations

import difflib
import itertools
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.data.instructions import encode_example
from tacit.findings.answers import percent, tell_failing
from tacit.microworld import tasks
from tacit.microworld.constraints import draw_some_constraints, undo_constraints
from tacit.microworld.examples import make_row
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World
from tacit.models.chat import encode_prompt
from tacit.models.experts import contrast
from tacit.scoring import scores
from tacit.scoring.estimates import Estimate
from tacit.scoring.likelihoods import next_logits
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide

FACT_FAMILIES = tuple(name for name in (*ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES) if name != "size")  # `bigger` tells sizes


def draw_facts(
    world: World,
    *,
    sides: Sequence[str],
    n: int,
    seed: int,
    split: str | None,
    constraints: Sequence[str] = (),
    n_facts: int | None = None,
) -> Dataset:
    """``n`` questions with right responses about facts of ``sides``.

    A side is ``both``, ``base`` (the teacher's corpus alone) or ``student``. ``split`` is that of the facts (any, if
    None), so that what tuning asks for and what is measured are different facts; phrasings and pairs of constraints are
    those of training everywhere. The facts take turns, ``n_facts`` of them where given, and recur in other words or
    under other constraints. Every instruction carries one or two of the ``constraints``, if any are given. Sizes are
    left out, as comparisons tell them. Raises ValueError when there are fewer than ``n`` instructions or ``n_facts``
    facts.
    """
    rng = random.Random(f"facts-{world.seed}-{'-'.join(sides)}-{split}-{seed}")
    facts = [
        (subject, name)
        for subject, name in sorted(world.facts)
        if name in FACT_FAMILIES and world.side(subject, name) in sides
        if split is None or tasks.split_of(name, {"subject": subject}) == split
    ]
    rng.shuffle(facts)
    if n_facts is not None and len(facts) < n_facts:
        raise ValueError(f"there are only {len(facts)} facts of {', '.join(sides)} in split {split}, not {n_facts}")
    rows: dict[str, dict] = {}
    for _, (subject, name) in itertools.product(range(50), facts[:n_facts]):
        if len(rows) == n:
            break
        chosen = ()
        if constraints:
            chosen = draw_some_constraints(rng, name, names=tuple(constraints), every_pair=False)
        else:
            rng.choice([1, 1, 2])  # the same questions follow with constraints and without
        task = Task(name, {"subject": subject}, rng.randrange(FAMILIES[name].n_tuning_phrasings), chosen)
        rows.setdefault(task.instruction, make_row(world, task, seed=seed))
    if len(rows) < n:
        raise ValueError(f"there are only {len(rows)} questions about facts of {', '.join(sides)}, not {n}")
    return Dataset.from_list(list(rows.values()))


def asked_about(examples: Dataset) -> set[tuple[str, str]]:
    """The facts that instructions ask about, as (subject, attribute)."""
    asked = map(Task.from_json, examples["task"])
    return {(task.item["subject"], task.family) for task in asked if task.family in FACT_FAMILIES}


def mark_tokens(world: World, tokenizer: PreTrainedTokenizerBase, example: Mapping[str, str]) -> list[str]:
    """What each token of a right response about a fact is there for, the end token included.

    ``fact``: it spells the fact's value, as the plain answer does. ``constraint``: every character of it is there for
    the response constraints alone, as ``undo_constraints`` tells. ``other``: the rest, words in another case among it,
    which carry both. ``end``: the end token.
    """
    task, response = Task.from_json(example["task"]), example["response"]
    plain, _ = undo_constraints(response, task.constraints)
    matcher = difflib.SequenceMatcher(None, plain.lower(), response.lower(), autojunk=False)
    kept = {i for _, start, size in matcher.get_matching_blocks() for i in range(start, start + size)}
    value = world.facts[task.item["subject"], task.family]
    first = response.find(value)  # -1 where a constraint has changed the word's case
    of_value = set(range(first, first + len(value))) if first >= 0 else set()
    marks = []
    for start, end in tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]:
        characters = {i for i in range(start, end) if not response[i].isspace()} or set(range(start, end))
        if characters & of_value and characters <= kept:
            marks.append("fact")
        else:
            marks.append("other" if characters & kept else "constraint")
    return [*marks, "end"]


def measure_lifts(
    post: PreTrainedModel,
    pre: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    marks: Sequence[Sequence[str]],
    alpha: float,
    betas: Sequence[float],
) -> pd.DataFrame:
    """What the contrast does to the right tokens, without sampling: the change of their probability from beta 0.

    Both models read each right response (teacher forcing). The mask of ``alpha`` is the same at every beta, so that
    the change is exact. A row per example, mark and beta: ``gain``, the change of the joint probability of its tokens
    with that mark (``mark_tokens``), from -1 to 1, and 0 where the mask excludes one of them; ``change``, that of
    their log-probability in nats, summed over the tokens that the mask leaves; the share of these tokens that is
    ``masked``, and the share that is ``open``, where the mask leaves another token too; ``example``, its number, and
    ``fact``, what it asks about. Raises TacitError for logits that are not finite.
    """
    rows = []
    for number, (example, of_tokens) in enumerate(zip(examples, marks, strict=True)):
        start = len(encode_prompt(tokenizer, example["instruction"]))
        ids = encode_example(tokenizer, example["instruction"], example["response"])["input_ids"]
        right = torch.tensor(ids[start:])[:, None]  # [T, 1]
        logits = [next_logits(model, tokenizer, [ids[:-1]], [start - 1])[0].cpu() for model in (post, pre)]  # [T, V]
        of_betas = [contrast(*logits, alpha=alpha, beta=beta).log_softmax(dim=-1) for beta in (0.0, *betas)]
        log_q = [each.gather(-1, right)[:, 0] for each in of_betas]  # [1 + betas][T]
        masked = ~log_q[0].isfinite()  # [T]
        several = of_betas[0].isfinite().sum(dim=-1) > 1  # [T]
        fact = str(sorted(asked_about(examples.select([number]))))
        for beta, each in zip(betas, log_q[1:], strict=True):
            change = torch.where(masked, 0.0, each - log_q[0])
            columns = {"change": change, "before": log_q[0], "after": each, "masked": masked, "open": several}
            tokens = pd.DataFrame({"mark": of_tokens} | {name: of.tolist() for name, of in columns.items()})
            how = dict.fromkeys(("change", "before", "after"), "sum") | dict.fromkeys(("masked", "open"), "mean")
            of_marks = tokens.groupby("mark", as_index=False).agg(how)
            gain = np.exp(of_marks.pop("after")) - np.exp(of_marks.pop("before"))
            rows.append(of_marks.assign(gain=gain, example=number, beta=beta, fact=fact))
    return pd.concat(rows, ignore_index=True)


def average_lifts(lifts: pd.DataFrame, mark: str, beta: float, *, minus: str = "", column: str = "gain") -> Estimate:
    """The mean gain of one mark at one beta, with its interval over *facts*, which recur in several questions.

    With ``minus``, the gain of that mark is taken off, question by question; ``column`` may be ``change`` instead.
    Raises ValueError where no question is left.
    """
    of_beta = lifts[lifts["beta"] == beta]
    chosen = of_beta[of_beta["mark"] == mark].set_index("example")
    values = chosen[column]
    if minus:
        values = (values - of_beta[of_beta["mark"] == minus].set_index("example")[column]).dropna()
    if not len(values):
        raise ValueError(f"no question has {mark} tokens to average at beta {beta:g}")
    by_fact = values.groupby(chosen["fact"].reindex(values.index)).mean()
    return scores.estimate(by_fact.to_numpy()[None])


def split_by_constraint(lifts: pd.DataFrame, examples: Dataset, beta: float) -> pd.DataFrame:
    """The mean gain of the constraint tokens by the constraint that a question carries; one with two counts in both.

    A row per constraint: ``questions``, how many have constraint tokens, and ``gain``. From the lowest to the highest.
    """
    chosen = lifts[(lifts["beta"] == beta) & (lifts["mark"] == "constraint")].set_index("example")["gain"]
    carried = [[name for name, _ in Task.from_json(task).constraints] for task in examples["task"]]
    rows = [(name, chosen[number]) for number in chosen.index for name in carried[number]]
    table = pd.DataFrame(rows, columns=["constraint", "gain"]).groupby("constraint")["gain"]
    return table.agg(questions="size", gain="mean").sort_values("gain")


def describe_knowledge(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    doses: Mapping[float, tuple[Estimate, Estimate]],
    data: Mapping[str, Demand],
    students: Mapping[str, Demand],
) -> dict[str, str]:
    """Finding 10's answer from its rule (gain of the constraint tokens, and of the fact tokens) and its control.

    ``doses`` holds both gains by beta; ``data`` CoDIT minus the mask alone by score, for the sampled text;
    ``students`` the same by student and score. The last two may be empty.
    """
    following, knowledge = (demand.estimate for demand in rule)
    numbers = (
        "the probability of the right tokens changes by"
        f" {percent(following)} where they carry out a constraint and by {percent(knowledge)} where they state a fact"
        " that both models know"
    )
    kept = f"costs known facts less than {-rule[1].threshold:g}"
    found = {
        HOLDS: f"The contrast amplifies following and {kept}: {numbers}.",
        REFUTED: f"It is not so that the contrast amplifies following and {kept}: {numbers}.",
        UNDECIDED: f"Whether the contrast amplifies following and {kept} is open: {numbers}.",
        FAILS: "Nothing is said of knowledge, because the measure misses facts that were taught:"
        f" {tell_failing(controls)}.",
    }[decide(rule, controls)]
    sides = [f"{decide([demand])} for {what}" for demand, what in zip(rule, ("following", "knowledge"), strict=True)]
    by_dose = "; ".join(
        f"beta {dose:g}: {percent(constraint)} and {percent(fact)}" for dose, (constraint, fact) in doses.items()
    )
    words = {HOLDS: "met", REFUTED: "the other side", UNDECIDED: "not decided"}
    told = [
        f"{name} {percent(demand.estimate)} ({words[demand.verdict]})" for name, demand in {**data, **students}.items()
    ]
    reason = f"By part: {', '.join(sides)}. By dose, constraint and fact tokens: {by_dose}."
    reason += f" In sampled text and its students, CoDIT minus the mask alone: {'; '.join(told)}." if told else ""
    caveat = (
        "The probabilities are those along the right response; a right token that the mask removes counts with no"
        " change. A fact is one word here: recall, nothing deeper."
    )
    return {"found": found, "reason": reason, "caveat": caveat}
