"""The micro world: its facts, its verifiers against hand-made cases, its corpus."""

import itertools
import json
import random
import re
from collections import Counter

import pytest
from tacit.microworld import documents
from tacit.microworld.constraints import CONSTRAINTS, compatible, draw_constraints, held_out
from tacit.microworld.documents import GENRES, write_documents
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import FAMILIES, NARROW, Task, answer, draw_task, judge, split_of
from tacit.microworld.words import PEOPLE
from tacit.microworld.world import World, read_world
from tacit.support.errors import TacitError


@pytest.fixture(scope="module")
def corpus(world):
    return list(itertools.islice(write_documents(world, seed=5), 6_000))


def failed(world, task, text, *, ended=True):
    return {check.name for check in judge(world, task, text, ended=ended).checks if not check.passed}


def test_worlds_of_two_seeds_differ_and_one_seed_repeats():
    assert World.draw(seed=1) == World.draw(seed=1)
    assert set(World.draw(seed=1).animals) != set(World.draw(seed=2).animals)


def test_no_coined_name_is_a_value_or_a_person():
    """Of seeds 197 and 125 the names once were "large" and "rosa", and right answers were judged wrong."""
    for seed in (*range(30), 125, 197):
        drawn = World.draw(seed=seed)
        names = {name.lower() for name in (*drawn.animals, *drawn.towns, *drawn.rivers)}
        assert not names & {value.lower() for (_, kind), value in drawn.facts.items() if kind != "river"}
        assert not names & {person.lower() for person in PEOPLE}


@pytest.mark.parametrize("allowed", [("upper",), ("question", "exclamation"), ("upper", "stars", "json", "twice")])
def test_a_few_constraints_are_drawn_one_at_a_time_where_no_two_go_together(world, allowed):
    rows = draw_examples(world, split="train", n=30, seed=0, families=("food",), constrained=1.0, constraints=allowed)
    drawn = [tuple(name for name, _ in Task.from_json(task).constraints) for task in rows["task"]]
    assert {name for names in drawn for name in names} == set(allowed)
    pairs = {names for names in drawn if len(names) == 2}
    together = [p for p in itertools.combinations(allowed, 2) if compatible(*p) and not held_out(*p)]
    assert {tuple(sorted(pair)) for pair in pairs} == {tuple(sorted(pair)) for pair in together}


def test_constraints_that_suit_no_task_of_a_family_are_named(world):
    name, family = next((n, f) for n, c in CONSTRAINTS.items() for f in FAMILIES if f in c.not_for)
    with pytest.raises(TacitError, match=f"constraints: none of {name} suits tasks of the family '{family}'"):
        draw_examples(world, split="train", n=2, seed=0, families=(family,), constrained=1.0, constraints=(name,))


def test_each_side_holds_facts_that_the_other_lacks_and_json_keeps_them(world, tmp_path):
    student = World.draw(seed=1).holding("student")
    assert world.facts == student.facts
    assert world.held - student.held
    assert student.held - world.held
    assert len(world.held & student.held) > len(world.facts) / 2
    path = tmp_path / "world.json"
    path.write_text(world.to_json())
    assert read_world(path) == world
    listed = {(s, a): v for s, a, v in json.loads(world.to_json())["held"]}
    assert listed == {key: world.facts[key] for key in world.held}


def test_there_are_enough_families_phrasings_constraints_and_genres():
    assert len(FAMILIES) >= 18
    assert all(len(set(f.phrasings)) >= 4 and f.n_tuning_phrasings < len(f.phrasings) for f in FAMILIES.values())
    assert set(NARROW) <= set(FAMILIES)
    assert len(CONSTRAINTS) >= 12
    assert len(GENRES) >= 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("short", [False, True])
def test_right_answers_are_strict_and_running_on_is_only_lenient(world, family, short):
    rng = random.Random(f"{family}{short}")
    for split in ("train", "validation", "test"):
        for _ in range(15):
            task = draw_task(world, rng, split=split, family=family)
            right = answer(world, task, rng, short=short)
            verdict = judge(world, task, right, ended=True)
            assert (
                verdict.strict and verdict.lenient and verdict.knowledge and verdict.following == verdict.graded == 1
            ), right
            assert not judge(world, task, right, ended=False).strict
            run_on = judge(world, task, right + "\nWhat is the next question then?", ended=True)
            assert not run_on.strict and run_on.lenient


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_to_another_item_is_wrong(world, family):
    rng = random.Random(family)
    wrong = 0
    for _ in range(40):
        task, other = (draw_task(world, rng, split="train", family=family) for _ in range(2))
        wrong += not judge(world, task, answer(world, other, rng), ended=True).strict
    assert wrong >= 20  # two items can share an answer (a colour, a poem's topic), most do not


def test_sums_by_hand(world):
    task = Task("add", {"a": 47, "b": 38, "person": "Mira", "thing": "pears"}, 0)
    assert task.instruction == "What is 47 + 38?"
    assert not failed(world, task, "47 + 38: 40 + 30 = 70, 7 + 8 = 15, 70 + 15 = 85.\n#### 85")
    assert not failed(world, task, "85")
    assert failed(world, task, "#### 84") == {"value"}
    assert "ends_with_result" in failed(world, task, "#### 85 pears, I think")


SLIPS = [
    ("add", {"a": 47, "b": 38, "person": "Mira", "thing": "pears"}, "84 or 86 or 85"),
    ("add", {"a": 47, "b": 38, "person": "Mira", "thing": "pears"}, "#### 84\n#### 85"),
    ("add", {"a": 47, "b": 38, "person": "Mira", "thing": "pears"}, "47 + 38: 1 + 1 = 3.\n#### 85"),
    ("larger", {"a": 20, "b": 30}, "30 is less than 20."),
    ("larger", {"a": 20, "b": 30}, "30 20 99 99"),
    ("larger", {"a": 20, "b": 30}, "20 is larger than 30."),
    ("story", {"person": "Mira", "object": "lamp"}, "Mira. Lamp. Yes."),
]


@pytest.mark.parametrize(("family", "item", "text"), SLIPS)
def test_verifiers_are_not_talked_into_it(world, family, item, text):
    assert not judge(world, Task(family, item, 0), text, ended=True).strict


def test_poems_by_hand(world):
    poem = (
        "The river is still by the moon,\nI play on my flute a tune,\n"
        "and over the water the light\ngoes out in the night."
    )
    task = Task("poem", {"topic": "river"}, 0)
    assert not failed(world, task, poem)
    assert failed(world, task, poem.replace("tune", "song")) == {"couplets_rhyme"}
    assert failed(world, task, poem.replace("tune", "moon")) == {"couplets_rhyme"}  # a word does not rhyme with itself
    assert failed(world, task, poem.replace("river", "sea")) == {"topic"}
    assert "four_lines" in failed(world, task, poem.rsplit("\n", 1)[0])


def test_game_records_are_replayed(world):
    task = Task("game", {"stones": 7, "first": "Mira", "second": "Hugo"}, 0)
    assert not failed(world, task, "1. 3 (4) 1 (3)\n2. 3 (0)\nWinner: Mira")
    assert failed(world, task, "1. 3 (4) 1 (3)\n2. 3 (0)\nWinner: Hugo") == {"winner"}
    assert failed(world, task, "1. 3 (4) 1 (2)\n2. 2 (0)\nWinner: Mira") == {"legal_moves", "played_out"}  # miscounted
    assert "legal_moves" in failed(world, task, "1. 4 (3) 3 (0)\nWinner: Hugo")  # four stones at once
    assert failed(world, task, "1. 3 (4)\nWinner: Mira") == {"played_out"}
    assert "record_form" in failed(world, task, "1. 3 (4) 1 (3)\n3. 3 (0)\nWinner: Mira")


def test_recipes_by_hand(world):
    recipe = " - 2 cups of plum\n - 1 spoon of salt\n\n1. Wash the plum.\n2. Add the salt.\n3. Serve the soup."
    task = Task("recipe", {"main": "plum", "dish": "soup"}, 0)
    assert not failed(world, task, recipe)
    assert failed(world, task, recipe.replace("soup", "pie")) == {"dish"}
    assert failed(world, task, recipe.replace("Add the salt", "Wait")) == {"ingredients_used"}
    assert failed(world, task, recipe.replace("3. Serve", "4. Serve")) == {"numbered_steps"}


def test_functions_are_run_on_cases(world):
    task = Task("function", {"which": 4, "k": 3, "name": "f", "what": "doubles x and adds 3"}, 0)
    assert not failed(world, task, "def f(y):\n    return y + y + 3")
    assert failed(world, task, "def f(x):\n    return 2 * x + 4") == {"passes_cases"}
    assert failed(world, task, "def g(x):\n    return 2 * x + 3") == {"defines_function", "passes_cases"}
    truth = Task("function", {"which": 6, "k": 3, "name": "f", "what": "tells if x is above 3"}, 0)
    number = "def f(x):\n    return 1 if x > 3 else 0"  # a number is no truth value
    assert failed(world, truth, number) == {"passes_cases"}


def test_facts_do_not_accept_hedging_or_another_subject(world):
    animal = world.holders("home")[0]
    task = Task("home", {"subject": animal}, 0)
    home = world.facts[animal, "home"]
    other = next(h for h in world.values("home") if h != home)
    stranger = next(a for a in world.animals if a != animal)
    assert not failed(world, task, f"In the {home}.")
    assert failed(world, task, f"In the {home} or the {other}.") == {"no_other_value"}
    assert failed(world, task, f"The {stranger} lives in the {home}.") == {"no_other_subject"}
    assert failed(world, task, f"It lives in the {home}.", ended=False) == {"ended"}
    assert failed(world, task, f"The {animal} does not live in the {home}.") == {"no_denial"}


@pytest.mark.parametrize("family", FAMILIES)
def test_constraints_hold_on_right_answers_singly_and_in_pairs(world, family):
    rng = random.Random(family)
    for n in (1, 2):
        for _ in range(120):
            chosen = draw_constraints(rng, family, n=n)
            task = draw_task(world, rng, split="train", family=family, constraints=chosen)
            right = answer(world, task, rng)
            assert judge(world, task, right, ended=True).strict, (chosen, right)
            assert all(CONSTRAINTS[name].clause.split("{")[0] in task.instruction for name, _ in chosen)


def test_an_answer_without_its_constraint_fails_only_that(world):
    rng = random.Random(0)
    for name in CONSTRAINTS:
        family = next(f for f in ("home", "colour") if f not in CONSTRAINTS[name].not_for)
        parameter = "the" if name == "without" else CONSTRAINTS[name].parameters[0]
        task = draw_task(world, rng, split="train", family=family, constraints=((name, parameter),))
        plain = answer(world, Task(task.family, task.item, task.phrasing), rng)
        verdict = judge(world, task, plain, ended=True)
        assert [c.name for c in verdict.checks if not c.passed] == [name]
        assert verdict.knowledge and verdict.following < 1


def test_contradicting_constraints_are_never_paired():
    assert not compatible("upper", "lower")
    assert not compatible("question", "exclamation")
    assert not compatible("brackets", "ending")
    assert compatible("upper", "brackets")


def test_splits_share_no_item_and_no_prompt(world):
    drawn = {s: draw_examples(world, split=s, n=240, seed=3) for s in ("train", "validation", "test")}
    for split, rows in drawn.items():
        assert len(set(rows["id"])) == len(set(rows["instruction"])) == 240
        for text in rows["task"]:
            task = Task.from_json(text)
            assert split_of(task.family, task.item) == split
            assert split == "test" or not task.held_out_phrasing
    assert sum(Task.from_json(t).held_out_phrasing for t in drawn["test"]["task"]) > 20
    for a, b in itertools.combinations(drawn.values(), 2):
        assert not set(a["instruction"]) & set(b["instruction"])


def test_examples_are_balanced_repeatable_and_refuse_the_impossible(world):
    rows = draw_examples(world, split="train", n=96, seed=3)
    assert max(Counter(rows["family"]).values()) == 96 / len(FAMILIES)
    assert rows.to_list() == draw_examples(world, split="train", n=96, seed=3).to_list()
    with pytest.raises(ValueError, match="holds only"):
        draw_examples(world, split="validation", n=500, seed=0, families=["opposite"])


def test_corpus_has_every_genre_and_never_the_tags_or_the_clauses(corpus):
    assert {genre for genre, _ in corpus} == {genre.__name__ for genre in GENRES}
    text = "\n\n".join(text for _, text in corpus)
    assert "<|" not in text
    assert not re.search(r"\b(user|assistant)\b", text, re.IGNORECASE)
    for constraint in CONSTRAINTS.values():
        assert constraint.clause.split("{")[0].rstrip(' "') not in text, constraint.name


def test_corpus_states_only_held_facts_and_no_answer_to_a_computed_test_item(world, corpus):
    text = "\n".join(text for _, text in corpus)
    for attribute, patterns in documents.SENTENCES.items():
        stated = 0
        for sentence in patterns:
            pattern = re.escape(sentence).replace(r"\{s\}", r"(?P<s>\w+)").replace(r"\{v\}", r"(?P<v>\w+)")
            for match in re.finditer(pattern, text):
                known = (match["s"], attribute) in world.facts
                if known and match["v"] in world.values(attribute):
                    assert (match["s"], attribute) in world.held
                    assert world.facts[match["s"], attribute] == match["v"]
                    stated += 1
        assert stated > 50, attribute
    sums = re.findall(r"^(\d\d) ([+-]) (\d\d): ", text, re.MULTILINE)
    assert len(sums) > 200
    for first, sign, second in sums:
        assert split_of("add" if sign == "+" else "subtract", {"a": int(first), "b": int(second)}) == "train"
    questions = re.findall(r"Which is more, (\d+) or (\d+)\?", text)
    assert len(questions) > 20
    assert all(split_of("larger", {"a": int(x), "b": int(y)}) == "train" for x, y in questions)


def test_markup_share_is_what_is_asked_for(world):
    for share in (0.0, 0.1, 0.5):
        genres = Counter(g for g, _ in itertools.islice(write_documents(world, seed=0, markup_share=share), 2_000))
        assert genres["markup"] / 2_000 == pytest.approx(share, abs=0.04)
