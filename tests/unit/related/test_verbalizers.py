"""Finding 13: mappings stated, choices told apart, shares among what is classified correctly, and the answer."""

import json
import re

import numpy as np
import pytest
from tacit.related import verbalizers
from tacit.related.verbalizers import KINDS, Item
from tacit.scoring import scores
from tacit.scoring.estimates import Estimate
from tacit.scoring.likelihoods import response_likelihoods
from tacit.scoring.verdicts import Demand
from tacit.support import paths
from tacit.support.errors import TacitError

ITEM = Item("i", "Where does the zorb live?", "forest", "desert", ("moon", "tin"), ("red", "blue"))


def test_the_clause_states_each_mapping_in_either_order():
    said = {kind: ITEM.instruct(kind, 0).removeprefix("Where does the zorb live? ") for kind in KINDS}
    assert said == {
        "natural": 'Say "forest" for forest and "desert" for desert.',
        "neutral": 'Say "moon" for forest and "tin" for desert.',
        "neutral, swapped": 'Say "tin" for forest and "moon" for desert.',
        "flipped": 'Say "desert" for forest and "forest" for desert.',
    }
    assert ITEM.instruct("flipped", 1).endswith('Say "forest" for desert and "desert" for forest.')
    assert ITEM.instruct("no mapping", 1) == "Where does the zorb live?"
    assert ITEM.instruct("irrelevant mapping", 0).endswith('Say "moon" for red and "tin" for blue.')


def test_choices_are_mapped_prior_or_other():
    items = [ITEM] * 4
    chosen = ["forest", "desert", "moon", "tin"]
    assert verbalizers.tell_choices(items, chosen, "flipped") == {
        "mapped": [0, 1, 0, 0], "prior": [1, 0, 0, 0], "other": [0, 0, 1, 1],
    }  # fmt: skip
    assert verbalizers.tell_choices(items, chosen, "neutral, swapped")["mapped"] == [0, 0, 0, 1]
    natural = verbalizers.tell_choices(items, chosen, "natural")
    assert natural["mapped"] == natural["prior"] == [1, 0, 0, 0] and natural["other"] == [0, 1, 1, 1]


def test_items_of_a_world_state_its_facts_and_their_halves_share_nothing(world):
    test = verbalizers.world_items(world, ["home", "food"], n=60, seed=0)
    train = verbalizers.world_items(world, ["kind", "colour"], n=300, seed=0, split="train")
    for item in (*test, *train):
        assert item.right != item.wrong and not {item.right, item.wrong} & {*item.words, *item.unrelated}
        attribute = item.id.rpartition("-")[0]
        subjects = [one for one in world.holders(attribute) if one in re.findall(r"[a-z]+", item.question)]
        assert [world.facts[one, attribute] for one in subjects] == [item.right]
        assert item.wrong in world.values(attribute)
    assert len({(item.question, item.wrong) for item in test}) == 60

    def words(items):
        return {word for item in items for word in item.words}

    def subjects(items):
        return {one for item in items for one in world.animals if one in item.question}

    assert not words(test) & words(train) and not subjects(test) & subjects(train)
    with pytest.raises(TacitError, match="has only"):
        verbalizers.world_items(world, ["home"], n=5_000, seed=0)


def test_the_committed_reviews_are_balanced_and_become_items(tmp_path):
    path = paths.NOTEBOOKS / "data" / "reviews.jsonl"
    items = verbalizers.review_items(path, n=96, seed=1)
    assert len({item.question for item in items}) == 96
    assert sum(item.right == "positive" for item in items) == 48
    assert all({item.right, item.wrong} == {"positive", "negative"} for item in items)
    with pytest.raises(TacitError, match="holds only 96 reviews, not 97"):
        verbalizers.review_items(path, n=97, seed=1)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"id": "a", "text": "Fine.", "label": "good"}) + "\n")
    with pytest.raises(TacitError, match="line 1, is no review"):
        verbalizers.review_items(bad, n=1, seed=0)


def test_lessons_take_the_kinds_in_turn_and_answer_with_the_mapped_word():
    items = [ITEM] * 40
    rows = verbalizers.draw_lessons(items, ["natural", "flipped"], seed=0)
    assert rows["response"] == ["forest", "desert"] * 20
    assert len(set(rows["instruction"])) == 4  # two kinds, two orders
    assert len(set(rows["id"])) == 40


def test_the_choice_is_the_likeliest_whole_response(tiny, tokenizer):
    items = [ITEM, Item("j", "What does the plif eat?", "moss", "worms", ("cart", "bell"), ("red", "blue"))]
    for kind in ("neutral", "flipped"):
        chosen = verbalizers.choose_words(tiny, tokenizer, items, kind=kind, order=1)
        for item, word in zip(items, chosen, strict=True):
            one_by_one = {
                w: response_likelihoods(tiny, tokenizer, [(item.instruct(kind, 1), w)])["summed"][0]
                for w in item.candidates
            }
            assert word == max(one_by_one, key=one_by_one.get)


def test_shares_among_classified_items_by_hand():
    natural = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]]])  # [orders, seeds, items]
    flipped = np.array([[[1, 1, 0, 1]], [[0, 1, 1, 1]]])
    choices = {"natural": natural, "flipped": flipped}
    # order 0 counts items 0 and 2 (known in order 1), order 1 counts items 0 and 1
    assert verbalizers.among_classified(choices, "flipped").value == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert verbalizers.among_classified(choices, "natural").value == pytest.approx((1 + 0 + 1 + 0) / 4)
    gap = verbalizers.among_classified(choices, "natural", minus="flipped")
    assert gap.value == pytest.approx(0.0)
    with pytest.raises(ValueError, match="no item was classified"):
        verbalizers.among_classified({"natural": natural * 0, "flipped": flipped}, "flipped")


def test_a_ratio_of_equal_weights_is_the_mean_and_its_interval_is_about_the_bootstraps():
    rng = np.random.default_rng(1)
    values = (rng.random((3, 200)) < 0.4).astype(float)
    ours, usual = verbalizers.ratio(values, np.ones_like(values)), scores.estimate(values)
    assert ours.value == pytest.approx(usual.value)
    assert abs(ours.low - usual.low) < 0.02 and abs(ours.high - usual.high) < 0.02
    half = np.zeros_like(values)
    half[:, :100] = 1
    assert verbalizers.ratio(values * half, half).value == pytest.approx(values[:, :100].mean())


def test_the_spread_over_models_is_that_of_their_means():
    shares = {"natural": np.ones((3, 50)), "flipped": np.stack([np.zeros(50), np.ones(50), np.ones(50)])}
    gap = verbalizers.spread_over_models(shares, "flipped", "natural")
    assert gap.value == pytest.approx(np.std([0, 1, 1], ddof=1)) and gap.low == gap.high == gap.value


@pytest.mark.parametrize(
    ("value", "control", "begins"),
    [
        (0.3, 0.9, "A stated mapping is followed less"),
        (-0.3, 0.9, "It is not so that a stated mapping"),
        (0.05, 0.9, "Whether a stated mapping"),
        (0.3, 0.2, "Nothing is said of mappings"),
    ],
)
def test_the_answer_follows_the_verdict(value, control, begins):
    def demand(arm, at, threshold):
        return Demand(arm, "mapped", Estimate(at, at - 0.02, at + 0.02, 2, 50), threshold)

    rule = [demand("natural minus neutral", value, 0.05), demand("neutral minus flipped", value, 0.05)]
    levels = {kind: Estimate(0.5, 0.4, 0.6, 2, 50) for kind in ("natural", "neutral", "flipped")}
    followed = demand("flipped, on all three", 0.8, 0.5)
    controls = [demand("natural, all items", control, 0.6), followed]
    answer = verbalizers.describe_verbalizers(rule, controls, levels=levels, followed=followed)
    assert answer["found"].startswith(begins)
    assert "flipped 0.50 [0.40, 0.60]" in answer["reason"] and "flipped 0.80 [0.78, 0.82]" in answer["reason"]
    assert "tuning" not in verbalizers.describe_verbalizers(rule, controls, levels=levels, followed=None)["reason"]
