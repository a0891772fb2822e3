"""The teacher: which size is taken, what is saved, and what happens when none fits."""

import json
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tacit.findings.factprobes import FACT_FAMILIES, asked_about, draw_facts
from tacit.findings.publicsets import plain_texts, scrape_faq, spoil
from tacit.microworld.constraints import CONSTRAINTS, compatible, draw_constraints, held_out
from tacit.microworld.examples import asks_held_out, draw_examples
from tacit.microworld.tasks import Task, judge, split_of
from tacit.models.loading import load_model
from tacit.support.errors import TacitError
from tacit.training import posttraining

OPTIONS = {
    "families": ["home", "food"],
    "constraints": ["upper", "brackets"],
    "n_validation": 4,
    "epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_new_tokens": 4,
    "seed": 1,
}


@pytest.fixture
def base(tiny, tokenizer, world, tmp_path):
    folder = tmp_path / "base"
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "world.json").write_text(world.to_json())
    return folder


def competence(monkeypatch, shares):
    """Let validation find the given shares of constraints met, one for each size that is tried."""
    left = iter(shares)

    def score(world, prompts, responses):
        assert len(responses) == len(prompts) == OPTIONS["n_validation"]
        return pd.DataFrame({"constraints met": [next(left)], "knowledge": [0.5], "strict": [0.25]})

    monkeypatch.setattr(posttraining, "score_responses", score)


def test_the_first_size_within_the_bounds_is_saved_with_all_that_were_tried(base, tmp_path, monkeypatch):
    competence(monkeypatch, [0.2, 0.7, 0.8])
    out = posttraining.post_train(
        base=str(base), out=tmp_path / "teacher", sizes=[12, 4, 8], least=0.6, most=0.9, **OPTIONS
    )
    record = json.loads((out / "posttraining.json").read_text())
    assert [(row["examples"], row["constraints met"]) for row in record["tried"]] == [(4, 0.2), (8, 0.7)]
    assert record["families"] == OPTIONS["families"]
    assert "70%" in (out / "README.md").read_text()
    tuned, before = load_model(str(out), dtype="auto"), load_model(str(base))
    assert tuned.dtype == torch.bfloat16
    assert any(not torch.equal(a.float(), b) for a, b in zip(tuned.parameters(), before.parameters(), strict=True))
    assert (out / "world.json").read_text() == (base / "world.json").read_text()


def test_without_a_fitting_size_an_earlier_teacher_stays(base, tmp_path, monkeypatch):
    competence(monkeypatch, [0.1, 0.95])
    out = tmp_path / "teacher"
    out.mkdir()
    (out / "mine.txt").write_text("stays")
    with pytest.raises(TacitError, match=r"0\.10 with 4, 0\.95 with 8"):
        posttraining.post_train(base=str(base), out=out, sizes=[4, 8], least=0.6, most=0.9, **OPTIONS)
    assert [path.name for path in tmp_path.glob("teacher*/*")] == ["mine.txt"]


def test_held_out_pairs_occur_in_the_test_split_only(world):
    pairs = [(a, b) for a in CONSTRAINTS for b in CONSTRAINTS if a < b and compatible(a, b)]
    assert 0 < sum(held_out(*pair) for pair in pairs) < len(pairs) / 2
    assert all(held_out(a, b) == held_out(b, a) for a, b in pairs)
    drawn = {s: draw_examples(world, split=s, n=300, seed=1, constrained=1.0) for s in ("train", "test")}
    assert not any(asks_held_out(drawn["train"]))
    assert any(asks_held_out(drawn["test"]))
    only = next(pair for pair in pairs if held_out(*pair))
    with pytest.raises(ValueError, match="no 2 compatible"):
        draw_constraints(random.Random(1), "home", n=2, names=only, every_pair=False)
    assert {name for name, _ in draw_constraints(random.Random(1), "home", n=2, names=only)} == set(only)


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


def test_the_scraped_set_is_right_short_and_without_test_items(world):
    rows = scrape_faq(world, n=60, seed=1)
    assert len(set(rows["instruction"])) == 60
    assert all("\n" not in text and len(text.split()) <= 12 for text in rows["response"])
    tests = draw_examples(world, split="test", n=200, seed=1, constrained=1.0)
    taboo = plain_texts(tests)
    plain = [replace(Task.from_json(task), constraints=()).instruction for task in tests["task"]]
    assert set(plain) <= taboo and set(rows["instruction"]) & taboo
    assert not set(scrape_faq(world, n=60, seed=1, without=taboo)["instruction"]) & taboo
    homes = [row for row in rows if row["instruction"].startswith("Where does the ")]
    for row in homes:
        subject = row["instruction"].removeprefix("Where does the ").removesuffix(" live?")
        assert world.facts[subject, "home"] in row["response"]
    with pytest.raises(ValueError, match="hold only"):
        scrape_faq(world, n=5, seed=1, most_words=0)


def test_a_spoiled_set_is_wrong_as_often_as_asked(world):
    clean = draw_examples(world, split="train", n=400, seed=1, constrained=1.0)

    def right(rows):
        tasks = map(Task.from_json, clean["task"])
        return [judge(world, t, text, ended=True).strict for t, text in zip(tasks, rows["response"], strict=True)]

    assert all(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=0.0)))
    share = sum(right(spoil(world, clean, seed=1, ignored=0.3, misplaced=0.3))) / len(clean)
    assert 0.3 < share < 0.52  # 0.4, and the few whose constraint the plain answer meets anyway
    assert sum(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=1.0))) < 0.1 * len(clean)
