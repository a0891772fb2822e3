"""Instruction datasets of the micro world, and the judging of responses to them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from datasets import Dataset

from tacit.decoding.generation import Response
from tacit.microworld import tasks
from tacit.microworld.constraints import CONSTRAINTS, draw_some_constraints, held_out, undo_constraints
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.world import World


def make_row(world: World, task: Task, *, seed: int, short: bool = False, turn: int = 0) -> dict[str, str]:
    """One row of an instruction dataset: a task with a right response, fixed by ``seed`` and ``turn``."""
    name = f"{task.id}-{turn}" if turn else task.id
    response = tasks.answer(world, task, random.Random(f"{seed}-{name}"), short=short)
    row = {"id": name, "instruction": task.instruction, "response": response}
    return row | {"family": task.family, "task": task.to_json()}


def draw_examples(
    world: World,
    *,
    split: str | None,
    n: int,
    seed: int,
    families: Sequence[str] = tuple(FAMILIES),
    short: bool = False,
    constrained: float = 0.0,
    constraints: Sequence[str] = tuple(CONSTRAINTS),
    repeat: bool = False,
) -> Dataset:
    """Draw ``n`` different instructions with right responses, the families taking turns.

    Columns: ``id`` (stable), ``instruction``, ``response``, ``family`` and ``task`` (JSON, for ``judge``).
    ``short`` responses do not restate the instruction. A share ``constrained`` of the instructions carries one or two
    of the response ``constraints``; held-out pairs of them occur in the test split only. A family whose items of this
    split run out gives its turns to the others. With ``repeat``, instructions then recur, each time with another
    response, as the splits of poems and recipes are small. Raises ValueError when the split does not hold ``n`` rows.
    """
    rng = random.Random(f"examples-{world.seed}-{split}-{seed}")
    rows: dict[str, dict[str, str]] = {}
    open_families = list(families)
    while len(rows) < n and open_families:
        for family in list(open_families):
            if len(rows) == n:
                break
            for _ in range(50):
                chosen = ()
                if rng.random() < constrained:
                    names, every = tuple(constraints), split == "test"
                    chosen = draw_some_constraints(rng, family, names=names, every_pair=every)
                task = tasks.draw_task(world, rng, split=split, family=family, constraints=chosen)
                if task.instruction not in rows:
                    rows[task.instruction] = make_row(world, task, seed=seed, short=short)
                    break
            else:
                open_families.remove(family)
    once = list(rows.values())
    seen = {(row["instruction"], row["response"]) for row in once}
    for turn, row in itertools.product(range(1, 50 if repeat else 1), once):
        if len(rows) == n:
            break
        again = make_row(world, Task.from_json(row["task"]), seed=seed, short=short, turn=turn)
        if (again["instruction"], again["response"]) not in seen:
            seen.add((again["instruction"], again["response"]))
            rows[again["id"]] = again
    if len(rows) < n:
        raise ValueError(f"the {split} split of {', '.join(families)} holds only {len(rows)} instructions, not {n}")
    return Dataset.from_list(list(rows.values()))


def asks_held_out(examples: Dataset) -> list[bool]:
    """Does each instruction combine two constraints that no training instruction combines?"""
    combined = [[name for name, _ in Task.from_json(task).constraints] for task in examples["task"]]
    return [len(names) == 2 and held_out(*names) for names in combined]


def score_responses(world: World, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
    """The verdicts on one response per example, as a table: a row has its ``id``, ``family`` and scores from 0 to 1.

    ``strict`` and ``lenient`` are the verdict's; ``graded`` is the share of all constraints met; ``knowledge`` says
    whether the content of some beginning is right; ``following`` is the share of form, constraints and ending;
    ``ended`` says whether the model stopped by itself; ``constraints met`` whether all response constraints are (1
    where there are none).
    """
    ended = [response.finish_reason == "eos" for response in responses]
    verdicts = [
        tasks.judge(world, Task.from_json(task), response.text, ended=by_itself)
        for task, response, by_itself in zip(examples["task"], responses, ended, strict=True)
    ]
    kinds = ("strict", "lenient", "graded", "knowledge", "following")
    return pd.DataFrame(
        {
            "id": examples["id"],
            "family": examples["family"],
            **{kind: [float(getattr(verdict, kind)) for verdict in verdicts] for kind in kinds},
            "ended": list(map(float, ended)),
            "constraints met": [float(verdict.share("constraint") == 1.0) for verdict in verdicts],
        }
    )


def meet_others(examples: Dataset, responses: Sequence[Response]) -> list[float]:
    """How often each response meets the response constraints of *other* instructions, which takes no reading.

    One response per example. Its number, from 0 to 1, is the share of the other examples whose constraints it meets,
    all of them, among those whose constraints suit its own family. A model that does not read what it is asked meets
    its own constraints (``constraints met`` of ``score_responses``) about as often. Raises ValueError, naming the
    example, where no other's constraints suit.
    """
    asked = [Task.from_json(task) for task in examples["task"]]
    counts = Counter(task.constraints for task in asked)
    shares = []
    for task, response in zip(asked, responses, strict=True):
        others = counts - Counter([task.constraints])
        suited = {c: n for c, n in others.items() if all(task.family not in CONSTRAINTS[name].not_for for name, _ in c)}
        if not suited:
            raise ValueError(f"no other example has constraints that suit {task.id}")
        met = sum(
            n for c, n in suited.items() if all(check.passed for check in undo_constraints(response.text.strip(), c)[1])
        )
        shares.append(met / sum(suited.values()))
    return shares
