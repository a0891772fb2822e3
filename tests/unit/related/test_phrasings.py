"""Finding 16: wordings that nothing else has, paired groups, rewording, minimal pairs, and the answer by verdict."""

import itertools
import re

import pandas as pd
import pytest
from tacit.decoding.generation import Response
from tacit.microworld.documents import write_documents
from tacit.microworld.examples import score_responses
from tacit.microworld.tasks import FAMILIES, Task, split_of
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


def test_no_wording_stands_in_the_corpus(world):
    texts = "\n".join(text for _, text in itertools.islice(write_documents(world, seed=1), 1_500))
    frames = [frame for groups in WORDINGS.values() for group in groups for frame in group]
    patterns = [re.escape(frame).replace(r"\{subject\}", r"\w+") for frame in [*frames, phrasings.ONE_WORD]]
    assert not any(re.search(pattern, texts) for pattern in patterns)


def test_lessons_of_a_seed_ask_the_same_items_in_every_group(world):
    drawn = {group: phrasings.draw_lessons(world, group, n=24, seed=3).to_list() for group in GROUPS}
    for seen, paraphrase, unseen in zip(*drawn.values(), strict=True):
        assert seen["task"] == paraphrase["task"] == unseen["task"]
        assert len({seen["instruction"], paraphrase["instruction"], unseen["instruction"]}) == 3
        assert seen["response"] == unseen["response"]
        task = Task.from_json(seen["task"])
        assert split_of(task.family, task.item) == "train"
    with pytest.raises(ValueError, match="unknown group 'new'"):
        phrasings.draw_lessons(world, "new", n=1, seed=0)


def test_tests_ask_each_item_once_in_every_wording_and_right_responses_pass(world):
    drawn = {group: phrasings.draw_tests(world, group, n=20, seed=3, split="test") for group in GROUPS}
    items = {}
    for group, rows in drawn.items():
        of_item = len(rows) // 20
        assert of_item == len(WORDINGS["food"][GROUPS.index(group)])
        tasks = [row["task"] for row in rows]
        assert all(len(set(tasks[i : i + of_item])) == 1 for i in range(0, len(rows), of_item))
        assert len(set(rows["instruction"])) == len(rows)
        items[group] = tasks[::of_item]
        right = [Response(text, "eos", 9) for text in rows["response"]]
        table = score_responses(world, rows, right)
        assert (table["strict"] == 1).all()
        assert phrasings.score_items(table, n_items=20) == [1.0] * 20
    assert items["seen"] == items["unseen"] == items["paraphrases"] and len(set(items["seen"])) == 20
    for text in items["seen"]:
        task = Task.from_json(text)
        assert split_of(task.family, task.item) == "test"
    table = pd.DataFrame({"strict": [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]})
    assert phrasings.score_items(table, n_items=2) == pytest.approx([2 / 3, 0])
    with pytest.raises(ValueError, match="the test split has only"):
        phrasings.draw_tests(world, "seen", n=500, seed=0, split="test")


def test_rewording_keeps_the_question_or_asks_another_about_the_same_subject(world):
    rows = phrasings.draw_lessons(world, "seen", n=40, seed=1)
    parts = {name: [frame.split("{subject}") for frame in groups[1]] for name, groups in WORDINGS.items()}

    def families(text, subject):
        return {name for name, of in parts.items() if any(text == f"{a}{subject}{b}" for a, b in of)}

    for to in ("paraphrases", "another task"):
        for row, text in zip(rows, phrasings.reword(rows, to=to, seed=0), strict=True):
            of = families(text, Task.from_json(row["task"]).item["subject"])
            assert of and (row["family"] in of) == (to == "paraphrases")
            assert (row["family"] in ("river", "craft", "mayor")) == bool(of & {"river", "craft", "mayor"})
    with pytest.raises(ValueError, match="unknown choice 'x'"):
        phrasings.reword(rows, to="x", seed=0)


def test_half_of_every_family_is_reworded_and_no_response_changes(world):
    rows = phrasings.draw_lessons(world, "seen", n=32, seed=1)
    mixed = phrasings.mix_paraphrases(rows, seed=0)
    assert mixed["response"] == rows["response"]
    changed = pd.Series([a != b for a, b in zip(mixed["instruction"], rows["instruction"], strict=True)])
    assert changed.groupby(list(rows["family"])).sum().to_dict() == dict.fromkeys(WORDINGS, 2)


def test_minimal_pairs_differ_in_one_word_and_in_their_answers(world):
    rows = phrasings.draw_minimal_pairs(world, n=60, seed=2).to_list()
    assert len(rows) == 120
    asked = set()
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        a, b = first["instruction"].split(), second["instruction"].split()
        assert len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
        tasks = [Task.from_json(row["task"]) for row in (first, second)]
        assert tasks[0].item == tasks[1].item and tasks[0].family != tasks[1].family
        assert first["response"] != second["response"]
        asked.add((tasks[0].item["subject"], frozenset(task.family for task in tasks)))
    assert len(asked) == 60
    table = pd.DataFrame({"strict": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]})
    assert phrasings.score_pairs(table) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "control", "begins"),
    [
        ((0.2, 0.2, 0.2, 0.1), 0.9, "Wordings that tuning did not see are followed less, and a soft prompt helps if"),
        ((0.2, -0.2, 0.2, 0.1), 0.9, "It is not so that wordings"),
        ((0.2, 0.2, 0.2, -0.2), 0.9, "It is not so that wordings"),
        ((0.2, 0.0, 0.2, 0.1), 0.9, "Whether wordings that tuning did not see"),
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
    if control > 0.5:
        for one in rule:
            assert f"{one.arm} {one.estimate} ({one.verdict}; asked more than 0)" in answer["found"]
