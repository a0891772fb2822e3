"""The five narrow tasks' styles: exact markers of each, and instructions near its domain that ask for something else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from datasets import Dataset

from tacit.microworld import crafts
from tacit.microworld.family import Check
from tacit.microworld.words import DISHES, INGREDIENTS, NOUNS, PEOPLE, THINGS
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint


def _formed(checks: list[Check]) -> bool:
    return all(check.passed for check in checks if check.group == "form")


def has_sum_style(text: str) -> bool:
    """Does the response end in a line ``#### N``, as sums with working do?"""
    return re.search(r"(^|\n)#### \d+$", text.strip()) is not None


def has_poem_style(text: str) -> bool:
    """Is the response four lines in rhymed couplets?"""
    return _formed(crafts.check_poem(None, {"topic": ""}, text))


def has_recipe_style(text: str) -> bool:
    """Is the response a list of ingredients and then numbered steps?"""
    return _formed(crafts.check_recipe(None, {"main": "", "dish": ""}, text))


def has_game_style(text: str) -> bool:
    """Is the response numbered rounds and then a winner?"""
    return _formed(crafts.check_game(None, {"stones": 0, "first": "", "second": ""}, text))


def has_function_style(text: str) -> bool:
    """Does the response begin with a function's definition?"""
    return re.match(r"def \w+\(\w*\):", text.strip()) is not None


MARKERS: dict[str, Callable[[str], bool]] = {
    "add": has_sum_style,
    "poem": has_poem_style,
    "recipe": has_recipe_style,
    "game": has_game_style,
    "function": has_function_style,
}

# The families whose right responses carry a narrow task's style.
OWN_FAMILIES = {
    "add": ("add", "subtract"),
    "poem": ("poem",),
    "recipe": ("recipe",),
    "game": ("game",),
    "function": ("function",),
}

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

    Columns ``id``, ``instruction``, ``family`` (``near <family>``), and ``deserved``: is the task's style right for it? They have
    no verifier: only style is read off the responses. Raises ValueError when the templates do not give ``n`` instructions.
    """
    if family not in NEAR_DOMAIN:
        raise TacitError(
            f"no instructions are written near the domain of {family!r}: there are some for {', '.join(NEAR_DOMAIN)}"
        )
    rng = random.Random(f"near-{family}-{seed}")
    rows: dict[str, dict] = {}
    for turn in range(50 * n):
        if len(rows) == n:
            return Dataset.from_list(list(rows.values()))
        person, friend = rng.sample(PEOPLE, 2)
        words = {"person": person, "friend": friend, "thing": rng.choice(THINGS), "topic": rng.choice(NOUNS)}
        words |= {"main": rng.choice(INGREDIENTS), "dish": rng.choice(DISHES)}
        words |= {"a": rng.randint(10, 99), "b": rng.randint(10, 99)}
        templates = NEAR_DOMAIN[family]
        template, deserved = templates[turn % len(templates)]
        text = template.format(**words)
        row = {"id": f"near-{family}-{fingerprint(text)[:12]}", "instruction": text, "family": f"near {family}"}
        rows.setdefault(text, row | {"deserved": deserved})
    raise ValueError(f"the templates near {family} give only {len(rows)} instructions, not {n}")
