"""Contests of responses: who is ranked against whom, by hand and by the verifiers."""

import numpy as np
import pytest
from tacit.findings import rankings
from tacit.microworld import tasks
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.wordings import FREE, word_freely
from tacit.scoring.likelihoods import draw_others, response_likelihoods


@pytest.fixture(scope="module")
def rows(world):
    return draw_examples(world, split="test", n=96, seed=0)


def judged(world, rows, contest, i, text):
    task = rows["task"][rows["instruction"].index(contest.instructions[i])]
    return tasks.judge(world, Task.from_json(task), text, ended=True).strict


def test_without_a_world_a_contest_is_the_plain_draw(rows):
    contest = rankings.draw_contest(rows, n_others=3, seed=4)
    assert contest.others == draw_others(96, n_others=3, seed=4)
    assert (contest.instructions, contest.responses) == (list(rows["instruction"]), list(rows["response"]))
    assert contest.families == list(rows["family"])


def test_rivals_of_the_same_family_are_wrong_and_right_responses_right(world, rows):
    contest = rankings.draw_contest(rows, n_others=3, seed=0, same_family=True, world=world)
    family = dict(zip(rows["response"], rows["family"], strict=True))
    assert len(contest.instructions) == len(contest.others) == len(contest.families) > 80
    for i, others in enumerate(contest.others):
        assert others and i not in others
        assert judged(world, rows, contest, i, contest.responses[i])
        assert not any(judged(world, rows, contest, i, contest.responses[j]) for j in others)
        assert {family[contest.responses[j]] for j in others} == {contest.families[i]}


def test_an_item_without_a_wrong_rival_is_dropped_and_its_response_stays_a_rival(world, rows):
    some = rows.filter(lambda row: row["family"] == "home").select([0, 1])
    twice = {key: [*some[key], some[key][0]] for key in some.column_names}
    both_right = type(rows).from_dict(twice)  # items 0 and 2 are the same, so each is right for the other
    contest = rankings.draw_contest(both_right, n_others=1, seed=0, world=world)
    drawn = draw_others(3, n_others=1, seed=0)
    kept = [i for i, row in enumerate(drawn) if {i, row[0]} != {0, 2}]
    assert 0 < len(kept) < 3  # else the seed shows nothing
    assert contest.instructions == [twice["instruction"][i] for i in kept]
    assert sorted(contest.responses) == sorted(twice["response"])
    for new, old in enumerate(kept):
        assert contest.responses[contest.others[new][0]] == twice["response"][drawn[old][0]]


def test_examples_are_worded_freely_where_there_are_words(world, rows):
    worded = rankings.word_examples(world, rows)
    assert set(worded["family"]) == set(FREE) & set(rows["family"])
    assert worded.column_names == rows.column_names
    originals = {row["id"]: row for row in rows}
    for row in worded:
        assert row["response"] == word_freely(world, Task.from_json(row["task"]))
        assert {**row, "response": ""} == {**originals[row["id"]], "response": ""}
    assert set(worded["response"]).isdisjoint(rows["response"])


def test_an_answer_is_swapped_as_a_word_and_keeps_its_capital():
    assert rankings.swap_answer("Red it is, red.", right="red", wrong="blue") == "Blue it is, blue."
    assert rankings.swap_answer("A reddish red.", right="red", wrong="blue") == "A reddish blue."
    with pytest.raises(ValueError, match="does not hold"):
        rankings.swap_answer("A reddish one.", right="red", wrong="blue")


def test_swaps_differ_in_the_answer_alone_and_are_wrong(world, rows):
    worded = rankings.word_examples(world, rows)
    contest = rankings.draw_swaps(world, worded, n_others=3, seed=0)
    assert set(contest.families) == {f for f in worded["family"] if f in rankings.FACTS}
    assert set(rankings.FACTS) <= set(FAMILIES)
    for i, others in enumerate(contest.others):
        right = contest.responses[i]
        texts = [contest.responses[j] for j in others]
        assert len(set(texts)) == len(texts) == 3
        assert judged(world, rows, contest, i, right)
        assert not any(judged(world, rows, contest, i, text) for text in texts)
        for text in texts:
            pairs = list(zip(right.split(), text.split(), strict=True))
            assert sum(ours != theirs for ours, theirs in pairs) == 1


def test_ranks_and_the_likeliest_are_those_of_the_log_probabilities(tiny, tokenizer, world, rows):
    contest = rankings.draw_contest(rows.select(range(24)), n_others=2, seed=0)
    table = rankings.rank_contest(tiny, tokenizer, contest)
    best = rankings.likeliest_texts(contest, table)
    assert list(table["family"]) == contest.families
    for i, others in enumerate(contest.others):
        texts = [contest.responses[j] for j in (i, *others)]
        alone = response_likelihoods(tiny, tokenizer, [(contest.instructions[i], text) for text in texts])
        assert table["mean"][i] == np.mean(alone["mean"][0] > alone["mean"][1:])
        assert table["summed"][i] == np.mean(alone["summed"][0] > alone["summed"][1:])
        assert best[i] == texts[int(np.argmax(alone["mean"]))]
