"""Finding 18: instructions read back into tasks, ROUGE-L, filters, training sets, and the answer by verdict."""

import random

import pytest
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import FAMILIES, Task, draw_item
from tacit.related import proposals
from tacit.related.proposals import ARMS, READ
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


@pytest.mark.parametrize("family", READ)
def test_every_phrasing_is_read_back_into_its_task(world, family):
    rng = random.Random(family)
    for phrasing in range(len(FAMILIES[family].phrasings)):
        for _ in range(5):
            task = Task(family, draw_item(world, family, rng, split=None), phrasing)
            read = proposals.read_task(world, task.instruction)
            assert (read.family, read.item) == (family, task.item), task.instruction
            assert read.instruction == task.instruction


def test_what_is_no_task_of_this_world_is_none(world):
    absent = next(s for s in world.animals if (s, "food") not in world.held)
    held = world.holders("size")
    same = next((a, b) for a in held for b in held if a < b and world.facts[a, "size"] == world.facts[b, "size"])
    for text in (
        f"What does the {absent} eat?",
        "What does the moon eat?",
        "Which number is larger, 14 or 14?",
        "Which is bigger, the {} or the {}?".format(*same),
        "List seven fruits.",
        "List two clouds.",
        "What is the opposite of moon?",
        "Count from 9 to 4.",
        "Count from 1 to 99.",
        "Count from one to 4.",
        "Sing a song.",
        "",
    ):
        assert proposals.read_task(world, text) is None, text


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("a b c d", "x y", 0.0),
        ("a b", "a x b y", 2 * 2 / 6),
        ("", "", 0.0),
    ],
)
def test_rouge_l_by_hand(a, b, expected):
    assert proposals.overlap(a, b) == pytest.approx(expected)
    assert proposals.overlap(b, a) == pytest.approx(expected)


def test_proposals_are_next_lines_without_copies_tests_and_cut_ones(world, monkeypatch):
    lists = []

    def respond(model, tokenizer, instructions, *, ids, **options):
        lists.extend(instructions)
        lines = ["What does the fox eat?\n(5) more", "Hi there", "Name three ripe pears.", "name THREE ripe pears."]
        lines += [f"{held.instruction}\n", "This one was cut by"]
        ends = ["length", "eos", "eos", "eos", "length", "length"]
        return [Response(lines[i % 6], ends[i % 6], 5) for i in range(len(instructions))]

    held = Task("spell", draw_item(world, "spell", random.Random(0), split="test"), 0)
    monkeypatch.setattr(proposals, "generate_responses", respond)
    seeds = ["Where is the red house?", "Who sails the boat?", "Why is it so?", "Spell the word moon."]
    kept, counts = proposals.propose(None, None, seeds, world=world, n=3, seed=0, batch_size=6)
    assert kept == ["What does the fox eat?", "Name three ripe pears."]
    assert counts == {"made": 240, "short": 40, "cut": 40, "tests": 40, "alike": 120 - 2}
    first = lists[0].split("\n")
    assert first[0] == "Worksheet" and first[-1] == "(4)" and all(line[4:] in seeds for line in first[2:5])
    later = [line[4:] for text in lists[-6:] for line in text.split("\n")[2:5]]
    assert len([line for line in later if line in kept]) == 6  # one of its own in each list
    few, _ = proposals.propose(None, None, seeds, world=world, n=1, seed=0, batch_size=6)
    assert few == kept[:1]


def test_a_base_model_answers_with_its_first_line(tiny, tokenizer):
    import copy

    own = copy.deepcopy(tokenizer)
    own.chat_template = "{{ bos_token }}Q: {{ messages[0]['content'] }}\nA:"
    answers = proposals.answer_itself(tiny, own, ["What does the fox eat?", "Hi"], max_new_tokens=12)
    assert len(answers) == 2 and not any("\n" in text or text != text.strip() for text in answers)


def rows_and_proposals(world):
    seeds = draw_examples(world, split="train", n=6, seed=0, families=("home", "opposite"))
    more = draw_examples(world, split="train", n=10, seed=1, families=("food", "list", "spell"))
    return seeds, [*more["instruction"], "Sing a song."], [*more["response"], "La."]


def test_checks_say_which_tasks_are_valid_and_which_answers_right(world):
    _, instructions, answers = rows_and_proposals(world)
    wrong = [*answers[:-2], "Nothing.", answers[-1]]
    checked = proposals.check_instances(world, instructions, wrong)
    assert checked["task"] == [True] * 10 + [False]
    assert checked["answer"] == [True] * 9 + [False]
    told = proposals.tell_yield({"made": 30, "short": 1, "alike": 18}, 11, checked)
    assert told["valid tasks"] == pytest.approx(10 / 11) and told["right answers of these"] == 0.9
    assert told["both"] == pytest.approx(9 / 11) and told["made"] == 30


def test_training_sets_hold_what_their_arm_says(world):
    seeds, instructions, answers = rows_and_proposals(world)
    sets = {
        arm: proposals.make_lessons(arm, world, seeds, instructions, answers, n=40, seed=0).to_list() for arm in ARMS
    }
    assert {len(rows) for rows in sets.values()} == {40}
    given = set(zip(seeds["instruction"], seeds["response"], strict=True))
    own = set(zip(instructions, answers, strict=True))
    pairs = {arm: {(row["instruction"], row["response"]) for row in rows} for arm, rows in sets.items()}
    assert pairs["given tasks only"] == given
    assert pairs["pipeline"] == given | own
    gold = {text for text, _ in pairs["gold answers"]}
    assert gold == {*seeds["instruction"], *instructions[:-1]}
    shuffled = pairs["shuffled answers"]
    assert given <= shuffled and {text for text, _ in shuffled} == {text for text, _ in given | own}
    assert sorted(a for _, a in shuffled - given) == sorted(answers) and not shuffled & own
    order = [row["instruction"] for row in sets["pipeline"]]
    assert [row["instruction"] for row in sets["shuffled answers"]] == order
    assert {text for text, _ in pairs["responses alone"]} == {""}
    assert {a for _, a in pairs["responses alone"]} == {a for _, a in given | own}
    with pytest.raises(ValueError, match="unknown arm 'all'"):
        proposals.make_lessons("all", world, seeds, instructions, answers, n=4, seed=0)


def test_gold_answers_are_right(world):
    _, instructions, answers = rows_and_proposals(world)
    none = Dataset.from_list([{"instruction": "x", "response": "y"}])
    rows = proposals.make_lessons("gold answers", world, none, instructions, ["" for _ in answers], n=11, seed=0)
    asked = {row["instruction"]: row["response"] for row in rows if row["instruction"] != "x"}
    checked = proposals.check_instances(world, list(asked), list(asked.values()))
    assert len(asked) == 10 and all(checked["task"]) and all(checked["answer"])


@pytest.mark.parametrize(
    ("value", "control", "begins"),
    [
        (0.3, 0.9, "A base model that is tuned on its own tasks"),
        (-0.3, 0.9, "It is not so that a base model that"),
        (0.0, 0.9, "Whether a base model that is tuned"),
        (0.3, 0.0, "Nothing is said of own tasks"),
    ],
)
def test_the_answer_follows_the_verdict(value, control, begins):
    def around(at):
        return Estimate(at, at - 0.05, at + 0.05, 3, 60)

    rule = [
        Demand(f"pipeline minus {arm}", "strict", around(value)) for arm in ("given tasks only", "shuffled answers")
    ]
    answer = proposals.describe_self_instruct(
        rule,
        [Demand("gold answers minus base", "strict", around(control), 0.1)],
        levels={"pipeline": around(0.5)},
        shares={"valid tasks": 0.8, "right answers of these": 0.7},
        gold=around(0.05),
    )
    assert answer["found"].startswith(begins)
    assert (
        "reads 0.80 of the proposals as tasks, and of these 0.70" in answer["reason"]
        and "pipeline 0.50 [0.45, 0.55]" in answer["reason"]
    )
