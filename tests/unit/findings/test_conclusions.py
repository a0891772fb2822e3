"""The answers of findings 9 and 11, by verdict, from demands made by hand."""

import pytest
from tacit.findings.conclusions import describe_chat_vector, describe_two_papers
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


def estimate(value, half=0.05):
    return Estimate(value, value - half, value + half, 3, 90)


def demand(value, arm="CoDIT minus direct", metric="cosine", threshold=0.0):
    return Demand(arm, metric, estimate(value), threshold)


def vector_answer(*, far=0.9, cosine=0.2, control=0.97, **more):
    rule = [demand(0.97, "direct, s = 0.1", "r", 0.9), demand(far, "direct, s = 1", "r", 0.7), demand(cosine)]
    transfers = {"other": demand(0.1, "x", "lenient"), "same": demand(0.3, "x", "lenient")}
    options = {"beside": [demand(-0.1, "CoDIT minus greedy"), demand(0.0, "CoDIT minus mask only")]}
    options |= {"cosines": {"CoDIT": 0.5, "direct": 0.3}}
    options |= {
        "transfers": transfers | {"beyond": demand(0.0, "x", "lenient")},
        "whole": [estimate(0.7), estimate(0.9)],
    }
    return describe_chat_vector(rule, [demand(control, "direct, s = 0.01", "r", 0.9)], **options | more)


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "What the contrast decodes is to first order what the chat vector does, and its text moves a student"),
        ({"far": 0.5}, "It is not so that what the contrast decodes is to first order"),
        ({"cosine": 0.01}, "Whether what the contrast decodes is to first order what the chat vector does"),
        ({"control": 0.8}, "Nothing is said of the vector, because a positive control is not met: r, direct, s = 0.01"),
    ],
)
def test_the_vectors_answer_by_verdict(numbers, begins):
    assert vector_answer(**numbers)["found"].startswith(begins)


def test_the_vectors_answer_tells_the_parts_apart_and_what_colder_text_does():
    told = vector_answer(cosine=-0.2)
    assert "correlates with the true change at 0.90 to 0.97, length partialled out" in told["found"]
    assert told["found"].endswith("differs by: CoDIT minus direct -0.20 [-0.25, -0.15].")
    assert told["reason"].startswith(
        "Part (a), first order: holds; with length left in, the correlations are 0.70 to 0.90."
    )
    assert "direction: refuted; the cosines themselves are: CoDIT 0.50, direct 0.30." in told["reason"]
    assert "CoDIT minus greedy -0.10 [-0.15, -0.05], less along it" in told["reason"]
    assert told["reason"].endswith("CoDIT minus mask only 0.00 [-0.05, 0.05], no difference shown.")
    assert told["caveat"] == (
        "What models do, by lenient: students of CoDIT text minus students of direct text, of the teacher's"
        " architecture 0.30 [0.25, 0.35]; the same of another architecture 0.10 [0.05, 0.15]; further along the"
        " vector than the teacher, minus the teacher 0.00 [-0.05, 0.05]. One teacher and so one vector."
    )


def rules_answer(*, share=0.8, gain=0.7, beside=0.1, control=0.8, one=(0.7, 0.6, 0.0), **more):
    names = ("explained variance, mixture", "strict", "strict")
    thresholds = (0.5, 0.1, -0.05)
    rule, simple = (
        [demand(value, "x", *pair) for value, *pair in zip(values, names, thresholds, strict=True)]
        for values in ((share, gain, beside), one)
    )
    options = {"ladder": {"+ ramp": estimate(0.6), "15 tokens": estimate(0.8)}, "teachers": {}, "kind": "strict"}
    options |= {"revealed": {}, "found_tokens": {}}
    options |= {"drawn": {"base": {"value": 0.1}, "15 tokens": {"value": 0.6}}}
    return describe_two_papers(
        rule, [demand(control, "tuned minus base", "strict", 0.1)], simple=simple, **options | more
    )


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "A few terms explain most of what post-training changes, and decode as well as rules: constants for"),
        ({"share": 0.3}, "A few terms are not enough, as an estimate or in decoding: "),
        ({"beside": -0.04}, "Whether a few terms explain most of it and decode as well as rules is open: "),
        ({"control": 0.1}, "Nothing is said of rules, because the post-trained model itself is not shown to follow"),
    ],
)
def test_the_rules_answer_by_verdict(numbers, begins):
    assert rules_answer(**numbers)["found"].startswith(begins)


def test_the_rules_answer_says_how_much_is_one_constant_and_what_a_teacher_has_beyond_rules():
    told = rules_answer(one=(0.7, 0.6, 0.05))
    assert (
        "gains 0.60 [0.55, 0.65]: it meets 3 of the 3 parts by itself, so most of this is when to stop."
        in told["reason"]
    )
    assert told["reason"].endswith("Other rules explain: + ramp 0.60 [0.55, 0.65], 15 tokens 0.80 [0.75, 0.85].")
    assert "it meets 2 of the 3 parts by itself. Other" in rules_answer()["reason"]
    assert told["caveat"] == "Sampled instead of greedy, the strict scores are: base 0.10, 15 tokens 0.60."
    for theirs, words in ((0.2, "less than"), (0.9, "more than"), (0.62, "not shown to differ from")):
        caveat = rules_answer(teachers={"teacher": estimate(theirs), "instruction-tuned": estimate(0.6)})["caveat"]
        assert f"read: {words} what they explain of the instruction-tuned model's on the same prompts, 0.60" in caveat


def test_the_rules_answer_says_what_they_reveal_on_a_less_ready_base():
    revealed = {"15 tokens": demand(0.0, "x", "lenient"), "instruction-tuned": demand(0.2, "x", "lenient")}
    told = rules_answer(revealed=revealed)["reason"]
    assert told.endswith(
        "On a less ready base, endings forgiven, more answers are right after instruction-tuned (0.20 [0.15, 0.25]);"
        " no change is shown for 15 tokens (0.00 [-0.05, 0.05])."
    )


def test_the_rules_answer_says_whether_the_fit_finds_the_hand_written_tokens():
    told = rules_answer(found_tokens={"found": 1.0, "compared": 6, "found, chance": 0.74, "written": 7})["reason"]
    assert told.endswith("Of 6 hand-written tokens 1 are among its strongest, by chance 0.7 would be.")
