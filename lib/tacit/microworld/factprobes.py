"""Prompts about facts by who knows them: both models' corpora, the teacher's alone, or the student's alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset

from tacit.microworld.examples import draw_examples
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World

FACT_FAMILIES = (*ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES)


def draw_facts(
    world: World, *, sides: Sequence[str], n: int, seed: int, split: str | None, constraints: Sequence[str] = ()
) -> Dataset:
    """``n`` questions with right responses about facts of ``sides`` (``both``, ``base``: the teacher's corpus alone, ``student``).

    ``split`` is that of the facts (None: any), so that what tuning asks for and what is measured are different facts.
    ``constraints`` as in ``draw_examples``: one or two of them in every instruction, or none where there are none.
    """
    held = frozenset(fact for fact in world.facts if world.side(*fact) in sides)
    asked = {"constrained": 1.0, "constraints": tuple(constraints)} if constraints else {}
    return draw_examples(
        replace(world, held=held), split=split, n=n, seed=seed, families=FACT_FAMILIES, repeat=True, **asked
    )
