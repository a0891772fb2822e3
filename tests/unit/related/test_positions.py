"""Finding 15: one exercise in three formats, inputs shortened, filler, exact scores, and the answer by verdict."""

import pytest
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.microworld.tasks import SPLITS
from tacit.related import positions
from tacit.related.positions import OPERATIONS, POSITIONS, SCORES, Exercise
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand
from tacit.support.keyed import fraction

WORDS = ("apple", "river", "candle")
EXERCISE = Exercise("e", WORDS, "reverse", 0)


def test_operations_by_hand():
    results = {name: one.apply(WORDS) for name, one in OPERATIONS.items()}
    assert results == {
        "capitals": "APPLE, RIVER, CANDLE",
        "reverse": "candle, river, apple",
        "repeat": "apple, river, candle",
        "first": "apple",
        "last": "candle",
        "hyphens": "apple-river-candle",
    }
    wordings = [text for one in OPERATIONS.values() for text in one.wordings]
    assert len(set(wordings)) == 18
    assert not any(word in text for text in wordings for word in ("above", "below", "before", "after", "following"))


def test_an_exercise_is_written_in_every_format_by_hand():
    told, asked = "apple, river, candle", "Write the words in reverse order."
    assert EXERCISE.instruct("before") == f"{asked}\n{told}"
    assert EXERCISE.instruct("after") == f"{told}\n{asked}"
    assert EXERCISE.instruct("both") == f"{asked}\n{told}\n{asked}"
    filler = "The day was calm. The road was long."
    assert EXERCISE.instruct("before", filler=2) == f"{asked}\n{told}\n{filler}"
    assert EXERCISE.instruct("after", filler=2) == f"{told}\n{asked}\n{filler}"
    row = EXERCISE.row("after")
    assert row["response"] == "candle, river, apple." and row["family"] == "reverse"
    assert set(row["others"]) == {"APPLE, RIVER, CANDLE", told, "apple", "candle", "apple-river-candle"}


def test_an_instruction_that_says_where_the_input_is_says_it_of_its_own_place():
    placed = Exercise("e", WORDS, "first", 1, placed=True)
    assert placed.ask("before") == "Look at the list below. Say the first word alone."
    assert placed.ask("after") == "Look at the list above. Say the first word alone."
    first, _, last = placed.instruct("both").split("\n")
    assert "below" in first and "above" in last


def test_a_shorter_input_is_the_beginning():
    short = EXERCISE.shorten(2)
    assert short.words == ("apple", "river") and short.answer == "river, apple"
    assert EXERCISE.shorten(3) == EXERCISE
    with pytest.raises(ValueError, match="3 words cannot be made one of 4"):
        EXERCISE.shorten(4)


def test_inputs_belong_to_one_split_by_their_first_two_words():
    begun = {}
    for split, (low, high) in SPLITS.items():
        drawn = positions.draw_exercises(96, n_words=5, seed=3, split=split)
        begun[split] = {one.words[:2] for one in drawn}
        assert all(low <= fraction("exercise", *words) < high for words in begun[split])
        assert all(len(set(one.words)) == 5 for one in drawn)
        counts = {(one.operation, one.placed): 0 for one in drawn}
        for one in drawn:
            counts[one.operation, one.placed] += 1
        assert set(counts.values()) == {8} and len(counts) == 12
    assert not begun["train"] & begun["test"]
    draw = {"n_words": 5, "split": "test"}
    assert positions.draw_exercises(8, seed=3, **draw) != positions.draw_exercises(8, seed=4, **draw)
    for wrong in (1, 99):
        with pytest.raises(ValueError, match=f"different words, not {wrong}"):
            positions.draw_exercises(1, n_words=wrong, seed=0, split="test")


def test_the_formats_are_taught_the_same_exercises():
    sets = {arm: positions.draw_lessons(arm, n=60, lengths=(2, 4), seed=1).to_list() for arm in POSITIONS}
    for before, after, both in zip(*sets.values(), strict=True):
        assert before["id"] == after["id"] == both["id"]
        assert before["response"] == after["response"] == both["response"]
        instruction, told, *rest = before["instruction"].split("\n")
        again = after["instruction"].split("\n")
        assert told == again[0] and rest == again[2:]
        asked = again[1].replace("above", "below")
        assert asked == instruction
        assert both["instruction"].split("\n") == [instruction, told, again[1], *rest]
    lengths = [row["instruction"].split("\n")[1].count(",") + 1 for row in sets["before"]]
    assert set(lengths) == {2, 4} and 15 <= lengths.count(2) <= 45
    filled = sum(any(line in row["instruction"] for line in positions.FILLER) for row in sets["after"])
    assert 4 <= filled <= 28
    none = positions.draw_lessons("after", n=40, lengths=(2, 4), seed=1, filled=0)
    assert not any(line in text for text in none["instruction"] for line in positions.FILLER)
    with pytest.raises(ValueError, match="unknown position 'middle'"):
        positions.draw_lessons("middle", n=4, lengths=(2,), seed=1)


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("candle, river, apple.", "eos", [1, 0]),
        (" candle, river, apple", "eos", [1, 0]),
        ("candle, river, apple.", "length", [0, 0]),
        ("APPLE, RIVER, CANDLE.", "eos", [0, 1]),
        ("apple", "eos", [0, 1]),
        ("candle, river", "eos", [0, 0]),
        ("CANDLE, RIVER, APPLE", "eos", [0, 0]),
    ],
)
def test_responses_are_scored_by_hand(text, reason, expected):
    examples = Dataset.from_list([EXERCISE.row("after")])
    table = positions.score_exercises(examples, [Response(text, reason, 3)])
    assert table.loc[0, list(SCORES)].tolist() == expected


def test_filler_is_about_as_long_as_the_input(tokenizer):
    for n in (2, 4, 6, 8):
        words = tokenizer(positions.join(positions.NOUNS[:n])).input_ids
        rest = tokenizer(" ".join(positions.FILLER[: positions.filler_for(n)])).input_ids
        assert len(words) / 2.5 < len(rest) < 2.5 * len(words)


def test_examples_are_shortened_in_one_format():
    rows = positions.make_examples([EXERCISE], "after", n_words=2, filler=1)
    assert rows["instruction"] == ["apple, river\nWrite the words in reverse order.\nThe day was calm."]
    assert rows["response"] == ["river, apple."]


@pytest.mark.parametrize(
    ("gain", "growth", "control", "begins"),
    [
        (0.3, 0.3, 0.9, "An instruction after the input is followed better"),
        (0.3, -0.3, 0.9, "It is not so that an instruction after"),
        (0.05, 0.3, 0.9, "Whether an instruction after"),
        (0.3, 0.3, 0.2, "Nothing is said of positions"),
    ],
)
def test_the_answer_follows_the_verdict(gain, growth, control, begins):
    def around(value):
        return Estimate(value, value - 0.04, value + 0.04, 3, 50)

    rule = [Demand("gain", "right", around(gain), 0.05), Demand("growth", "right", around(growth))]
    answer = positions.describe_positions(
        rule,
        [Demand("before, 2 words", "right", around(control), 0.5)],
        levels={"before": around(0.4), "after": around(0.7)},
        filled=around(-0.2),
        cost=around(-0.1),
        both=around(0.0),
        n_words=8,
    )
    assert answer["found"].startswith(begins)
    assert "before 0.40 [0.36, 0.44], after 0.70" in answer["reason"]
    assert ("after is worse than before without (-0.20" in answer["reason"]) == (control > 0.5)
    assert ("both sides is not shown to differ from asking after" in answer["reason"]) == (control > 0.5)
    assert ("better than one before it by more than 0.05" in answer["found"]) == (control > 0.5)
