"""Finding 14: chains of steps, their parts, equal response tokens, exact scores, and the answer by verdict."""

import itertools
import re

import pytest
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.related import sequences
from tacit.related.sequences import ARMS, CHANGES, SCORES, Chain
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand

CHAIN = Chain("c", "opposite", "What is the opposite of hot?", "cold", ("capitals", "twice"))
FAMILIES = ("opposite", "home", "colour")


def test_a_chain_is_asked_answered_and_split_by_hand():
    assert CHAIN.results == ["cold", "COLD", "COLD COLD"]
    assert CHAIN.instruct() == (
        "First: what is the opposite of hot? Then, write it in capitals. After that, say it twice."
    )
    assert CHAIN.row()["response"] == "1. cold\n2. COLD\n3. COLD COLD"
    parts = sequences.split_chain(CHAIN)
    assert [part.instruct() for part in parts] == [
        "What is the opposite of hot?", "Write cold in capitals.", "Say COLD twice.",
    ]  # fmt: skip
    assert [part.row()["response"] for part in parts] == ["1. cold", "1. COLD", "1. COLD COLD"]
    pair = Chain("p", "opposite", CHAIN.question, "cold", ("stars",))
    assert pair.row(backwards=True)["instruction"] == (
        "Then, put a star on either side of it, but first: what is the opposite of hot?"
    )
    assert pair.row(backwards=True)["response"] == pair.row()["response"] == "1. cold\n2. *cold*"
    joined = sequences.join_unrelated(parts[0], Chain("x", "home", "", "", ("brackets",), "moon"))
    assert joined["instruction"] == "First: what is the opposite of hot? Then: put moon in square brackets."
    assert joined["response"] == "1. cold\n2. [moon]"


def test_no_training_chain_has_a_held_out_pair_and_tests_have_what_is_asked(world):
    draw = {"world": world, "families": FAMILIES, "n": 60, "seed": 1}

    def pairs(chains):
        return [pair for chain in chains for pair in itertools.pairwise((chain.family, *chain.changes))]

    train = sequences.draw_chains(**draw, length=3, split="train")
    assert not any(sequences.is_held_out(*pair) for pair in pairs(train))
    for held in (True, False):
        test = sequences.draw_chains(**draw, length=2, split="test", held_out=held)
        assert {sequences.is_held_out(*pair) for pair in pairs(test)} == {held}
        assert len({chain.instruct() for chain in test}) == 60
    every = [sequences.is_held_out(*pair) for pair in itertools.product((*FAMILIES, *CHANGES), CHANGES)]
    assert 0.15 < sum(every) / len(every) < 0.55
    with pytest.raises(ValueError, match="has only"):
        sequences.draw_chains(world, ("opposite",), n=5_000, length=1, seed=0, split="test")


def test_right_answers_are_the_worlds(world):
    for chain in sequences.draw_chains(world, ("home",), n=20, length=1, seed=0, split="test"):
        (subject,) = [one for one in world.animals if one in chain.question]
        assert chain.answer == world.facts[subject, "home"]


def test_arms_have_as_many_response_tokens_and_the_contents_they_say(world, tokenizer):
    sets = {arm: sequences.draw_lessons(arm, world, FAMILIES, tokenizer, n_tokens=1_500, seed=0) for arm in ARMS}
    sizes = {arm: sequences.measure_rows(rows, tokenizer) for arm, rows in sets.items()}
    budgets = [size["response tokens"] for size in sizes.values()]
    assert min(budgets) >= 1_500 and max(budgets) < 1_560
    texts = {arm: list(rows["instruction"]) for arm, rows in sets.items()}
    assert not any(text.startswith("First: ") for arm in ("singles", "split") for text in texts[arm])
    chained = [text for text in texts["chains"] if text.startswith("First: ")]
    assert chained and all(re.search(r"\bit\b", text) for text in chained)
    joined = [text for text in texts["unrelated"] if text.startswith("First: ")]
    assert joined and not any(re.search(r"\bit\b", text) for text in joined)
    common = set.intersection(*(set(of) for of in texts.values()))
    assert len(common) > 20  # the half that all arms share
    with pytest.raises(ValueError, match="unknown arm 'pairs'"):
        sequences.draw_lessons("pairs", world, FAMILIES, tokenizer, n_tokens=100, seed=0)


def test_too_few_tokens_are_refused(tokenizer):
    with pytest.raises(ValueError, match="1 examples have only"):
        sequences.take_tokens([CHAIN.row()], tokenizer, 10_000)


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("1. cold\n2. COLD\n3. COLD COLD", "eos", [1, 1, 1, 1]),
        ("1. cold\n2. COLD\n3. COLD COLD", "length", [0, 1, 1, 1]),
        ("1. cold\n2. COLD", "eos", [0, 2 / 3, 2 / 3, 0]),
        ("1. cold\n3. COLD COLD\n2. COLD", "eos", [0, 1, 1, 0]),
        ("1. hot\n2. COLD\n3. COLD COLD", "eos", [0, 1, 2 / 3, 1]),
        ("1. cold\n2. COLD\n3. COLD COLD\nBye", "eos", [0, 1, 1, 0]),
        ("cold", "eos", [0, 0, 0, 0]),
    ],
)
def test_lines_are_scored_by_hand(text, reason, expected):
    rows = Dataset.from_list([CHAIN.row()])
    table = sequences.score_lines(rows, [Response(text, reason, 9)])
    assert table.loc[0, list(SCORES)].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "control", "begins"),
    [
        (0.4, 0.9, "Tuning on chains of two steps makes a model follow"),
        (-0.1, 0.9, "It is not so that tuning on chains of two"),
        (0.1, 0.9, "Whether tuning on chains"),
        (0.4, 0.1, "Nothing is said of chains"),
    ],
)
def test_the_answer_follows_the_verdict(value, control, begins):
    def demand(arm, at, threshold):
        return Demand(arm, "all correct", Estimate(at, at - 0.02, at + 0.02, 2, 50), threshold)

    rule = [demand(f"chains minus {other}", value, 0.1) for other in ARMS if other != "chains"]
    level = Estimate(0.5, 0.4, 0.6, 2, 50)
    answer = sequences.describe_sequences(
        rule, [demand("chains: seen pair", control, 0.5)], levels={"chains": level}, longer={"3 steps": level}
    )
    assert answer["found"].startswith(begins)
    assert "by arm: chains 0.50 [0.40, 0.60]" in answer["reason"] and "3 steps 0.50" in answer["reason"]
