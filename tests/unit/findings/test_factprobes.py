"""Questions about chosen facts: whose side they are of, in which split, and how they are asked."""

import pytest
from tacit.findings.factprobes import FACT_FAMILIES, asked_about, draw_facts
from tacit.microworld.examples import asks_held_out
from tacit.microworld.tasks import Task, judge, split_of


def test_facts_are_those_of_their_side_and_split_and_asked_as_in_training(world):
    for sides, split in ((["both"], "test"), (["base"], "train"), (["student"], None)):
        rows = draw_facts(world, sides=sides, split=split, n=40, seed=0, constraints=["upper", "question", "opening"])
        assert len(set(rows["instruction"])) == 40
        assert not any(asks_held_out(rows))
        for row in rows:
            task = Task.from_json(row["task"])
            assert task.family in FACT_FAMILIES and task.constraints and not task.held_out_phrasing
            assert world.side(task.item["subject"], task.family) in sides
            assert split in (None, split_of(task.family, task.item))
            assert judge(world, task, row["response"], ended=True).strict
    few = draw_facts(world, sides=["both"], split="train", n=20, seed=0, n_facts=7)
    assert len(asked_about(few)) == 7
    with pytest.raises(ValueError, match="there are only"):
        draw_facts(world, sides=["base"], split="train", n=5, seed=0, n_facts=5_000)
