"""Instruction datasets of the micro world, and the judging of responses to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pandas as pd
from datasets import Dataset

from tacit.decoding.generation import Response
from tacit.microworld import tasks
from tacit.microworld.constraints import CONSTRAINTS, draw_some_constraints, held_out
from tacit.microworld.tasks import FAMILIES, Task, Verdict
from tacit.microworld.world import World


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
    A family whose items of this split run out gives its turns to the others; with ``repeat``, instructions then recur,
    each time with another response (the splits of poems and recipes are small). ``short`` responses do not restate the
    instruction. A share ``constrained`` of the instructions carries one or two of the
    response ``constraints``, held-out pairs of them in the test split only. Raises ValueError when the split does not hold ``n`` instructions.
    """
    rng = random.Random(f"examples-{world.seed}-{split}-{seed}")
    rows: dict[str, dict] = {}
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
                    response = tasks.answer(world, task, random.Random(f"{seed}-{task.id}"), short=short)
                    rows[task.instruction] = {
                        "id": task.id,
                        "instruction": task.instruction,
                        "response": response,
                        "family": family,
                        "task": task.to_json(),
                    }
                    break
            else:
                open_families.remove(family)
    once = list(rows.values())
    seen = {(row["instruction"], row["response"]) for row in once}
    for turn, row in itertools.product(range(1, 50 if repeat else 1), once):
        if len(rows) == n:
            break
        task = Task.from_json(row["task"])
        response = tasks.answer(world, task, random.Random(f"{seed}-{task.id}-{turn}"), short=short)
        if (row["instruction"], response) not in seen:
            seen.add((row["instruction"], response))
            rows[f"{turn} {task.id}"] = row | {"id": f"{row['id']}-{turn}", "response": response}
    if len(rows) < n:
        raise ValueError(f"the {split} split of {', '.join(families)} holds only {len(rows)} instructions, not {n}")
    return Dataset.from_list(list(rows.values()))


def asks_held_out(examples: Dataset) -> list[bool]:
    """Does each instruction combine two constraints that no training instruction combines?"""
    asked = [[name for name, _ in Task.from_json(task).constraints] for task in examples["task"]]
    return [len(names) == 2 and held_out(*names) for names in asked]


def judge_responses(world: World, examples: Dataset, responses: Sequence[Response]) -> list[Verdict]:
    """Verify one response per example."""
    return [
        tasks.judge(world, Task.from_json(task), response.text, ended=response.finish_reason == "eos")
        for task, response in zip(examples["task"], responses, strict=True)
    ]


def score_responses(world: World, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
    """The verdicts as a table: one row per example with its family and scores from 0 to 1.

    ``strict`` and ``lenient`` are the verdict's; ``graded`` is the share of all constraints met;
    ``knowledge`` whether the content of some beginning is right; ``following`` the share of form, constraints and ending;
    ``ended`` whether the model stopped by itself; ``constraints met`` whether all response constraints are (1 where there are none).
    """
    verdicts = judge_responses(world, examples, responses)
    return pd.DataFrame(
        {
            "id": examples["id"],
            "family": examples["family"],
            "strict": [float(v.strict) for v in verdicts],
            "lenient": [float(v.lenient) for v in verdicts],
            "graded": [v.graded for v in verdicts],
            "knowledge": [float(v.knowledge) for v in verdicts],
            "following": [v.following for v in verdicts],
            "ended": [float(r.finish_reason == "eos") for r in responses],
            "constraints met": [float(v.share("constraint") == 1.0) for v in verdicts],
        }
    )
