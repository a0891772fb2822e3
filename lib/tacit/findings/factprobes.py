"""Prompts about facts by who knows them: both models' corpora, the teacher's alone, or the student's alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from datasets import Dataset

from tacit.microworld import tasks
from tacit.microworld.constraints import draw_some_constraints
from tacit.microworld.examples import make_row
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World

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
