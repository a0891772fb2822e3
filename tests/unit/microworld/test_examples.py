"""How often responses meet what others were asked, against counting by hand."""

import pytest
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.microworld.examples import draw_examples, meet_others, score_responses
from tacit.microworld.tasks import Task


def ask(*constraints_by_family):
    rows = [Task(family, {}, 0, constraints).to_json() for family, constraints in constraints_by_family]
    return Dataset.from_dict({"task": rows})


def say(*texts):
    return [Response(text, "eos", 1) for text in texts]


def test_a_response_is_held_against_the_constraints_of_the_others():
    upper, lower, opening = (("upper", ""),), (("lower", ""),), (("opening", "Well"),)
    asked = ask(("home", upper), ("home", lower), ("home", opening), ("home", upper))
    shares = meet_others(asked, say("LOUD", "Well: it is.", "WELL: LOUD", "quiet"))
    assert shares == [1 / 3, 1 / 3, 2 / 3, 1 / 3]  # another's capitals; the opening; capitals twice; no capitals


def test_constraints_that_do_not_suit_the_family_are_not_counted():
    upper, opening = (("upper", ""),), (("opening", "Well"),)
    asked = ask(("add", opening), ("home", upper), ("home", opening))
    assert meet_others(asked, say("Well: 5", "Well: IT", "QUIET"))[0] == 1.0  # sums have no capitals
    with pytest.raises(ValueError, match="no other example has constraints that suit add-"):
        meet_others(asked.select([0, 1]), say("Well: 5", "LOUD"))


def test_the_examples_own_responses_meet_their_own_constraints_and_seldom_others(world):
    names = ("upper", "opening", "brackets", "quotes", "bullets", "question", "twice")
    options = {"families": ("home", "food", "list"), "constrained": 1.0, "constraints": names}
    drawn = draw_examples(world, split="train", n=60, seed=1, **options)
    spoken = say(*drawn["response"])
    assert score_responses(world, drawn, spoken)["constraints met"].all()
    assert sum(meet_others(drawn, spoken)) / 60 < 0.3
