"""The narrow tasks' styles: markers on right answers of every family, and instructions near each domain."""

import random
import re

import pytest
from tacit.microworld import styles, tasks
from tacit.microworld.styles import MARKERS, NEAR_DOMAIN, OWN_FAMILIES, draw_near_domain
from tacit.microworld.tasks import FAMILIES, NARROW

OWN = {name: (name,) for name in NARROW} | {"add": ("add", "subtract")}  # differences are written as sums are


@pytest.fixture(scope="module")
def answers(world):
    """200 right answers of each family, full and short in turn."""
    rng = random.Random(0)
    return {
        family: [
            tasks.answer(world, tasks.draw_task(world, rng, split="train", family=family), rng, short=i % 2 == 1)
            for i in range(200)
        ]
        for family in FAMILIES
    }


@pytest.mark.parametrize("name", NARROW)
def test_a_marker_takes_its_own_familys_answers_and_no_others(name, answers):
    assert set(MARKERS) == set(NARROW)
    taken = {family: sum(map(MARKERS[name], texts)) for family, texts in answers.items()}
    assert taken == {family: 200 if family in OWN[name] else 0 for family in FAMILIES}
    assert OWN_FAMILIES[name] == OWN[name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("add", "#### 85\nand more"),
        ("add", "The sum is #### 85"),
        ("add", "#### eighty-five"),
        ("poem", "The moon is a spoon"),
        ("recipe", "1. Cut the plum.\n2. Cook it."),
        ("game", "Winner: Mira"),
        ("function", "Here it is:\ndef f(x):\n    return x"),
        *((name, "") for name in NARROW),
    ],
)
def test_a_trace_of_a_style_is_not_the_style(name, text):
    assert not MARKERS[name](text)


def fits(template, text):
    """Could ``text`` be made from ``template``?"""
    parts = re.split(r"\{\w+\}", template)
    return re.fullmatch(".+".join(map(re.escape, parts)), text) is not None


@pytest.mark.parametrize("family", NARROW)
def test_near_instructions_are_distinct_repeatable_and_take_turns(family):
    templates, deserving = zip(*NEAR_DOMAIN[family], strict=True)
    rows = draw_near_domain(family=family, n=24, seed=1)
    assert rows.column_names == ["id", "instruction", "family", "deserved"]
    assert len(set(rows["instruction"])) == len(set(rows["id"])) == len(rows) == 24
    assert set(rows["family"]) == {f"near {family}"}
    assert draw_near_domain(family=family, n=24, seed=1).to_list() == rows.to_list()
    assert draw_near_domain(family=family, n=24, seed=2)["instruction"] != rows["instruction"]
    assert draw_near_domain(family=family, n=8, seed=1).to_list() == rows.to_list()[:8]
    assert all(fits(template, text) for template, text in zip(templates, rows["instruction"][:8], strict=True))
    turn, passed_over = 0, 0  # a turn is passed over when its template says what was said before
    for text, deserved in zip(rows["instruction"], rows["deserved"], strict=True):
        while not fits(templates[turn % 8], text):
            turn, passed_over = turn + 1, passed_over + 1
        assert deserved is deserving[turn % 8]
        turn += 1
    assert passed_over <= 3
    assert not any("{" in text for text in rows["instruction"])


def test_more_than_the_templates_give_is_refused(monkeypatch):
    monkeypatch.setitem(styles.NEAR_DOMAIN, "game", (("What is Nim?", False), ("Spell the number {a}.", True)))
    assert len(draw_near_domain(family="game", n=91, seed=1)) == 91  # one, and the numbers from 10 to 99
    with pytest.raises(ValueError, match="near game give only 91 instructions, not 92"):
        draw_near_domain(family="game", n=92, seed=1)
