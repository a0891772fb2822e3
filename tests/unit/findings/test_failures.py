"""Kinds of failure: told apart by the scores, shown by real answers where there are any, made ones marked."""

import pandas as pd
import pytest
from tacit.decoding.generation import Response
from tacit.findings import failures
from tacit.microworld import tasks
from tacit.microworld.examples import draw_examples, score_responses
from tacit.microworld.tasks import Task


@pytest.fixture(scope="module")
def rows(world):
    return draw_examples(world, split="test", n=24, seed=0, families=("home", "add", "list", "food"))


def test_the_outcomes_part_every_combination_of_scores():
    """By hand: strict implies lenient, lenient implies knowledge; strict implies ended."""
    table = pd.DataFrame(
        [(1, 1, 1, 1), (0, 1, 1, 0), (0, 1, 1, 1), (0, 0, 1, 0), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)],
        columns=["strict", "lenient", "knowledge", "ended"],
    )
    assert failures.name_outcomes(table) == [
        "right",
        "right, but does not stop",
        "right, but says more",
        "right content, wrong form",
        "right content, wrong form",
        "stops, but wrong content",
        "wrong, and does not stop",
    ]


def test_shares_are_counted_over_all_seeds_and_add_up_to_one():
    right = {"strict": 1, "lenient": 1, "knowledge": 1, "ended": 1}
    wrong = {"strict": 0, "lenient": 0, "knowledge": 0, "ended": 1}
    tables = {"a": [pd.DataFrame([right, wrong]), pd.DataFrame([right, right])], "b": [pd.DataFrame([wrong, wrong])]}
    shares = failures.share_outcomes(tables)
    assert tuple(shares.index) == failures.OUTCOMES
    assert shares[shares.any(axis=1)].to_dict() == {
        "a": {"right": 0.75, "stops, but wrong content": 0.25},
        "b": {"right": 0.0, "stops, but wrong content": 1.0},
    }
    assert shares.sum().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("outcome", failures.FAILURES)
def test_a_made_response_fails_as_it_should(world, outcome):
    homes = draw_examples(world, split="test", n=8, seed=1, families=("home",))
    other = failures.draw_wrong(homes, seed=0)
    for i, right in enumerate(homes["response"]):
        made = failures.make_failure(outcome, right=right, other=other[i])
        table = score_responses(world, homes.select([i]), [made])
        assert failures.name_outcomes(table) == [outcome]


def test_an_unknown_failure_is_refused():
    with pytest.raises(ValueError, match="no failure 'right'"):
        failures.make_failure("right", right="a b", other="c d")


def test_real_answers_are_shown_before_made_ones(world, rows):
    right = [Response(text, "eos", 0) for text in rows["response"]]
    said = list(right)
    said[3] = Response(rows["response"][3] + "\nAnd then?", "length", 0)
    said[5] = Response(rows["response"][5] + "\nWhat about the others, then?", "length", 0)
    shown = failures.show_failures(world, rows, {"silent": right, "loud": said}).set_index("outcome")
    assert list(shown.index) == list(failures.FAILURES)
    real = shown.loc["right, but does not stop"]
    assert (real.arm, real.response, real.ended) == ("loud", said[3].text, False)
    assert (real.instruction, real.right) == (rows["instruction"][3], rows["response"][3])
    assert (real.strict, real.lenient, real.knowledge) == (0, 1, 1)
    assert "ended" in real.failed
    assert set(shown["arm"].drop("right, but does not stop")) == {failures.MADE}
    says_more = shown.loc["right, but says more"]
    assert says_more.ended and says_more.lenient == 1 and says_more.strict == 0
    assert shown.loc["stops, but wrong content"].knowledge == 0


def test_wrong_answers_are_of_the_family_and_of_another_item(world, rows):
    wrong = failures.draw_wrong(rows, seed=0)
    where = {text: i for i, text in enumerate(rows["response"])}
    for i, text in enumerate(wrong):
        ours, theirs = (Task.from_json(rows["task"][j]) for j in (i, where[text]))
        assert ours.family == theirs.family
        assert rows["response"][where[text]] == text
    passed = [
        tasks.judge(world, Task.from_json(task), text, ended=True).strict
        for task, text in zip(rows["task"], wrong, strict=True)
    ]
    assert sum(passed) < len(passed) / 3
    assert wrong == failures.draw_wrong(rows, seed=0) != failures.draw_wrong(rows, seed=1)


def test_a_lonely_item_is_refused(world, rows):
    with pytest.raises(ValueError, match="only item of its family"):
        failures.draw_wrong(rows.select([0, 1]), seed=0)
