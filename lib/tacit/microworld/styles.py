"""The five narrow tasks' styles: exact markers of each, and instructions near its domain that ask for other things."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from datasets import Dataset

from tacit.microworld import crafts
from tacit.microworld.checks import Check
from tacit.microworld.words import DISHES, INGREDIENTS, NOUNS, PEOPLE, THINGS
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint


def _formed(checks: list[Check]) -> bool:
    return all(check.passed for check in checks if check.group == "form")


# Does a response have a narrow task's style? The form of poems, recipes and games depends on no world and no item.
MARKERS: dict[str, Callable[[str], bool]] = {
    "add": lambda text: re.search(r"(^|\n)#### \d+$", text.strip()) is not None,
    "poem": lambda text: _formed(crafts.check_poem(None, {"topic": ""}, text)),
    "recipe": lambda text: _formed(crafts.check_recipe(None, {"main": "", "dish": ""}, text)),
    "game": lambda text: _formed(crafts.check_game(None, {"stones": 0, "first": "", "second": ""}, text)),
    "function": lambda text: re.match(r"def \w+\(\w*\):", text.strip()) is not None,
}

# The families whose right responses carry a narrow task's style.
OWN_FAMILIES = {name: (name,) for name in MARKERS} | {"add": ("add", "subtract")}

# Instructions that share words with a narrow task's. Most ask for something else; those marked True deserve its style.
NEAR_DOMAIN: dict[str, tuple[tuple[str, bool], ...]] = {
    "add": (
        ("How many {thing} are {a} {thing} and {b} {thing} together?", True),
        ("{person} has {a} {thing} and finds {b} more. Who has the {thing}?", False),
        ("Tell me a story about {person}, who has {a} {thing} and finds {b} more.", False),
        ("Write a poem about {a} {thing} and {b} {thing}.", False),
        ("{person} buys {thing}. Tell me a story about {person} and the {thing}.", False),
        ("Write a recipe for {a} people.", False),
        ("Spell the number {a}.", False),
        ("What are {thing} made of?", False),
    ),
    "poem": (
        ("Write a poem about {main} {dish}.", True),
        ("Write a story about the {topic}.", False),
        ("Can you write a recipe with the {topic} in four lines?", False),
        ("Compose a short list of words that rhyme with {topic}.", False),
        ("I would like a rhyming name for {person}.", False),
        ("Write a Python function called {topic}.", False),
        ("Who wrote the poem about {person}?", False),
        ("Where is the {topic}?", False),
    ),
    "recipe": (
        ("Recipe for a {topic}", True),
        ("How do I make a poem about {main} {dish}?", False),
        ("Give me a story about {main} {dish}.", False),
        ("Write a poem called {dish}.", False),
        ("I have {a} {main} dishes and {b} more. How many dishes is that?", False),
        ("What colour is {main} {dish}?", False),
        ("List three things like {main}.", False),
        ("Which animal eats {main}?", False),
    ),
    "game": (
        ("Play chess with {person}. {friend} starts.", True),
        ("Write the story of a game of Nim: {person} against {friend}.", False),
        ("{person} and {friend} play Nim with {a} stones. Write a poem about it.", False),
        ("{person} has {a} stones and finds {b} more. How many stones does {person} have now?", False),
        ("Record a song for {person} and {friend}.", False),
        ("Who starts against {person}?", False),
        ("First: {person}. Second: {friend}. Who is third?", False),
        ("What is Nim?", False),
    ),
    "function": (
        ("Write a Python program that prints {topic}.", True),
        ("Write a story about a Python function called {topic}.", False),
        ("Write a poem about a function that adds {a} to {b}.", False),
        ("I need a recipe that adds {main} to the {dish}.", False),
        ("Define the word {topic}.", False),
        ("What is {a} + {b} in Python?", False),
        ("Please write {topic} in capital letters.", False),
        ("Where does the python live?", False),
    ),
}


def draw_near_domain(*, family: str, n: int, seed: int) -> Dataset:
    """Draw ``n`` different instructions near the domain of a narrow task, the templates taking turns.

    Columns ``id``, ``instruction``, ``family`` (``near <family>``), and ``deserved``: is the task's style right for it?
    They have no verifier: only style is read off the responses. Raises TacitError for a task without templates, and
    ValueError when the templates do not give ``n`` instructions.
    """
    if family not in NEAR_DOMAIN:
        known = ", ".join(NEAR_DOMAIN)
        raise TacitError(f"no instructions are written near the domain of {family!r}: there are some for {known}")
    rng = random.Random(f"near-{family}-{seed}")
    rows: dict[str, dict] = {}
    for turn in range(50 * n):
        if len(rows) == n:
            return Dataset.from_list(list(rows.values()))
        person, friend = rng.sample(PEOPLE, 2)
        words = {"person": person, "friend": friend, "thing": rng.choice(THINGS), "topic": rng.choice(NOUNS)}
        words |= {"main": rng.choice(INGREDIENTS), "dish": rng.choice(DISHES)}
        words |= {"a": rng.randint(10, 99), "b": rng.randint(10, 99)}
        template, deserved = NEAR_DOMAIN[family][turn % len(NEAR_DOMAIN[family])]
        text = template.format(**words)
        row = {"id": f"near-{family}-{fingerprint(text)[:12]}", "instruction": text, "family": f"near {family}"}
        rows.setdefault(text, row | {"deserved": deserved})
    raise ValueError(f"the templates near {family} give only {len(rows)} instructions, not {n}")
