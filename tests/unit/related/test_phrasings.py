"""Finding 16: wordings that nothing else has, paired groups, rewording, minimal pairs, and the answer by verdict."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from tacit.decoding.generation import Response
from tacit.microworld.examples import score_responses
from tacit.microworld.tasks import FAMILIES, Task
from tacit.related import phrasings
from tacit.related.phrasings import GROUPS, WORDINGS
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


def test_every_wording_is_new_and_stands_in_one_place():
    every = [frame for groups in WORDINGS.values() for group in groups for frame in group]
    assert len(every) == len(set(every)) == 64
    known = {frame for family in FAMILIES.values() for frame in family.phrasings}
    assert not known & set(every)
    assert all(frame.count("{subject}") == 1 for frame in every)
    assert [len(group) for group in WORDINGS["home"]] == [3, 2, 3]


def test_groups_ask_the_same_items_and_right_responses_pass(world):
    drawn = {group: phrasings.draw_questions(world, group, n=24, seed=3, split="test").to_list() for group in GROUPS}
    for seen, paraphrase, unseen in zip(*drawn.values(), strict=True):
        assert seen["task"] == paraphrase["task"] == unseen["task"]
        assert len({seen["instruction"], paraphrase["instruction"], unseen["instruction"]}) == 3
        assert seen["response"] == unseen["response"]
    rows = phrasings.draw_questions(world, "unseen", n=24, seed=3, split="test")
    right = [Response(text, "eos", 9) for text in rows["response"]]
    assert (score_responses(world, rows, right)["strict"] == 1).all()
    assert len({row["wording"] for row in rows}) > 12
    with pytest.raises(ValueError, match="unknown group 'new'"):
        phrasings.draw_questions(world, "new", n=1, seed=0, split="test")


def test_rewording_keeps_the_question_or_asks_another_about_the_same_subject(world):
    rows = phrasings.draw_questions(world, "seen", n=40, seed=1, split="train")
    frames = {
        name: [re.escape(f).replace(r"\{subject\}", r"(\w+)") for f in groups[1]] for name, groups in WORDINGS.items()
    }
    for row, text in zip(rows, phrasings.reword(rows, to="paraphrases", seed=0), strict=True):
        subject = Task.from_json(row["task"]).item["subject"]
        assert any((m := re.fullmatch(frame, text)) and m[1] == subject for frame in frames[row["family"]])
    seen = {name: [f.split("{subject}") for f in groups[0]] for name, groups in WORDINGS.items()}
    for row, text in zip(rows, phrasings.reword(rows, to="another task", seed=0), strict=True):
        subject = Task.from_json(row["task"]).item["subject"]
        of = {n for n, parts in seen.items() if any(text == f"{a}{subject}{b}" for a, b in parts)}
        assert of and row["family"] not in of
        assert (row["family"] in ("river", "craft", "mayor")) == bool(of & {"river", "craft", "mayor"})
    with pytest.raises(ValueError, match="unknown choice 'x'"):
        phrasings.reword(rows, to="x", seed=0)


def test_every_second_row_is_reworded_and_no_response_changes(world):
    rows = phrasings.draw_questions(world, "seen", n=10, seed=1, split="train")
    mixed = phrasings.mix_paraphrases(rows, seed=0)
    assert mixed["response"] == rows["response"]
    same = [a == b for a, b in zip(mixed["instruction"], rows["instruction"], strict=True)]
    assert same == [True, False] * 5


def test_minimal_pairs_differ_in_one_word_and_in_their_answers(world):
    rows = phrasings.draw_minimal_pairs(world, n=20, seed=2, split="test").to_list()
    assert len(rows) == 40
    for first, second in (
        itertools.batched(rows, 2) if hasattr(itertools, "batched") else zip(rows[::2], rows[1::2], strict=True)
    ):
        a, b = first["instruction"].split(), second["instruction"].split()
        assert len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
        tasks = [Task.from_json(row["task"]) for row in (first, second)]
        assert tasks[0].item == tasks[1].item and tasks[0].family != tasks[1].family
        assert first["response"] != second["response"]
    table = pd.DataFrame({"strict": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]})
    assert phrasings.score_pairs(table) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "control", "begins"),
    [
        ((0.2, 0.2, 0.2, 0.1), 0.9, "Wordings that tuning did not see are followed less"),
        ((0.2, -0.2, 0.2, 0.1), 0.9, "It is not so that wordings"),
        ((0.2, 0.0, 0.2, 0.1), 0.9, "That wordings that tuning did not see"),
        ((0.2, 0.2, 0.2, 0.1), 0.1, "Nothing is said of phrasings"),
    ],
)
def test_the_answer_follows_the_verdict(values, control, begins):
    def around(value):
        return Estimate(value, value - 0.03, value + 0.03, 3, 60)

    rule = [Demand(f"part {i}", "unseen", around(value)) for i, value in enumerate(values)]
    answer = phrasings.describe_phrasings(
        rule,
        [Demand("tuned", "seen", around(control), 0.5)],
        levels={"tuned": around(0.4)},
        pairs={"tuned": around(0.3)},
    )
    assert answer["found"].startswith(begins)
    assert "tuned 0.40 [0.37, 0.43]" in answer["reason"] and "tuned 0.30" in answer["reason"]
    assert np.all(["0.20" in answer["found"]]) or control < 0.5
