"""The narrow tasks' styles: markers on right answers of every family, and instructions near each domain."""

import random
import re
from functools import partial

import pytest
from tacit.microworld import styles, tasks
from tacit.microworld.styles import FIRST_NEAR, MARKERS, NEAR_DOMAIN, OWN_FAMILIES, draw_near_domain
from tacit.microworld.tasks import FAMILIES, NARROW
from tacit.support.errors import TacitError

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
    """Could ``text`` be made from ``template``? Every field is one word or number, but what a function does."""
    parts = re.split(r"(\{\w+\})", template)
    fields = {f"{{{name}}}": r".+" if name == "what" else r"\w+" for name in re.findall(r"\{(\w+)\}", template)}
    return re.fullmatch("".join(fields.get(part, re.escape(part)) for part in parts), text) is not None


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("family", NARROW)
def test_near_instructions_are_distinct_repeatable_and_take_turns(family, first):
    templates, deserving = zip(*(FIRST_NEAR if first else NEAR_DOMAIN)[family], strict=True)
    size, draw = len(templates), partial(draw_near_domain, family=family, first=first)
    rows = draw(n=3 * size, seed=1)
    assert rows.column_names == ["id", "instruction", "family", "deserved"]
    assert len(set(rows["instruction"])) == len(set(rows["id"])) == len(rows) == 3 * size
    assert set(rows["family"]) == {f"near {family}"}
    assert draw(n=3 * size, seed=1).to_list() == rows.to_list()
    assert draw(n=3 * size, seed=2)["instruction"] != rows["instruction"]
    assert draw(n=size, seed=1).to_list() == rows.to_list()[:size]
    assert all(fits(template, text) for template, text in zip(templates, rows["instruction"][:size], strict=True))
    turn, passed_over = 0, 0  # a turn is passed over when its template says what was said before
    for text, deserved in zip(rows["instruction"], rows["deserved"], strict=True):
        while not fits(templates[turn % size], text):
            turn, passed_over = turn + 1, passed_over + 1
        assert deserved is deserving[turn % size]
        turn += 1
    assert passed_over <= 3
    assert not any("{" in text for text in rows["instruction"])


@pytest.mark.parametrize("family", NARROW)
def test_the_second_set_is_as_large_of_the_same_kinds_and_new(family):
    """One template in each set deserves the style, and no instruction of one set could be made in the other."""
    first, second = FIRST_NEAR[family], NEAR_DOMAIN[family]
    assert len(second) >= len(first) and sum(d for _, d in first) == sum(d for _, d in second) == 1
    drawn = {which: draw_near_domain(family=family, n=200, seed=0, first=which) for which in (True, False)}
    for which, others in ((True, second), (False, first)):
        assert not [text for text in drawn[which]["instruction"] if any(fits(other, text) for other, _ in others)]


@pytest.mark.parametrize("family", NARROW)
def test_an_instruction_near_the_domain_is_no_task_of_the_family(family):
    """Else it would be counted as the task's own; other families' tasks (a sum of stones) may stand near."""
    phrasings = FAMILIES[family].phrasings
    rows = draw_near_domain(family=family, n=200, seed=0)
    assert not [text for text in rows["instruction"] if any(fits(phrasing, text) for phrasing in phrasings)]


def test_the_first_set_is_what_earlier_runs_drew():
    """Committed outputs show instructions of the first set; one changed word or draw would change them."""
    rows = draw_near_domain(family="game", n=60, seed=0, first=True)
    assert rows["instruction"][0] == "Play chess with Emil. Simon starts."
    assert rows["instruction"][59] == "Emil has 81 stones and finds 23 more. How many stones does Emil have now?"
    assert rows["id"][0] == "near-game-d18b1182d8ea"


def test_more_than_the_templates_give_is_refused(monkeypatch):
    few = (("What is Nim?", False), ("Spell the number {a}.", True))
    for which, templates in ((True, styles.FIRST_NEAR), (False, styles.NEAR_DOMAIN)):
        monkeypatch.setitem(templates, "game", few)
        assert len(draw_near_domain(family="game", n=91, seed=1, first=which)) == 91  # one, and the numbers 10 to 99
        with pytest.raises(ValueError, match="near game give only 91 instructions, not 92"):
            draw_near_domain(family="game", n=92, seed=1, first=which)


def test_a_task_without_templates_is_refused():
    with pytest.raises(TacitError, match="near the domain of 'story': there are some for add, poem"):
        draw_near_domain(family="story", n=2, seed=0)
