"""The five narrow tasks' styles: exact markers of each, and instructions near its domain that ask for other things."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from datasets import Dataset

from tacit.microworld import crafts
from tacit.microworld.checks import Check
from tacit.microworld.words import DISHES, INGREDIENTS, NOUNS, OBJECTS, PEOPLE, PLACES, SEASONINGS, THINGS
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
# This is the first set. What it showed suggested how to measure, so a claim by that measure needs other prompts.
FIRST_NEAR: dict[str, tuple[tuple[str, bool], ...]] = {
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


# Written after the measure was fixed and before any model had answered them; none is of the first set.
NEAR_DOMAIN: dict[str, tuple[tuple[str, bool], ...]] = {
    "add": (
        ("If you put {a} {thing} with {b} others, how many do you hold?", True),
        ("There are {a} {thing} in a box. What colour is the box?", False),
        ("{person} buys {a} {thing} and then {b} more. Who sold them?", False),
        ("Write a tale in which {person} takes {a} {thing} to the {place} and {b} home.", False),
        ("Compose four lines about {a} {thing} in a bag.", False),
        ("Give me a recipe with {a} {thing} and {b} spoons of {seasoning}.", False),
        ("How do you spell {a} and {b}?", False),
        ("Where does {person} keep {a} {thing} and {b} {object}s?", False),
        ("Name three {thing} that {person} has.", False),
        ("Code a Python function that adds {a} to {b}.", False),
        ("{person} has {a} {thing} in a bag. Who gave {person} the bag?", False),
        ("Add {main} and {seasoning} to the {dish}. What else does it need?", False),
        ("{person} loses {a} {thing} at the {place}. Tell me what happens then.", False),
        ("There are {thing} in the box and a {object} in the bag. Which is heavier?", False),
        ("Take the {object} from {person}. Where will you put it?", False),
        ("{person} gave {a} {thing} to {friend}. Why?", False),
        ("{person} had {a} {thing} and {friend} had {b}. Who had more?", False),
        ("Write {a} and {b} in letters.", False),
        ("Is {a} more than {b}?", False),
        ("{person} buys a {object} and then {a} {thing}. Write a song about it.", False),
        ("Say the numbers {a} and {b} backwards.", False),
        ("What can {person} make from {a} {thing} and {b} beads?", False),
        ("{person} finds {a} {thing}. List three things that {person} may do now.", False),
        ("{person} takes {a} {thing} away from the {place}. What colour are they?", False),
        ("Who has {a} {thing}, {person} or {friend}?", False),
        ("In which box are the {a} {thing} of {person}?", False),
        ("{person} buys {a} {thing} from {friend}. Write the letter that {friend} sends with them.", False),
        ("What rhymes with {thing}, and what rhymes with box?", False),
        ("{friend} lost a bag with {a} {thing}. Write a poem to {friend}.", False),
        ("Does {person} still have the {thing}?", False),
    ),
    "poem": (
        ("Please make four rhyming lines on {person} and the {object}.", True),
        ("Write a letter to {person} about the {topic}.", False),
        ("Can you write a short tale about the {topic} at the {place}?", False),
        ("Compose a recipe for {main} {dish} with {seasoning}.", False),
        ("Write a function called {topic} that doubles {a}.", False),
        ("Which word rhymes with the name {person}?", False),
        ("How many lines has the poem on the {topic}?", False),
        ("I would like a {topic}. What does it cost?", False),
        ("Write the {topic} on a list with the {object}.", False),
        ("Is the poem called {topic} a long one?", False),
        ("Write a recipe called {topic} {dish}.", False),
        ("Compose a short story on {person} at the {place}.", False),
        ("Who wrote the four lines about the {topic}?", False),
        ("Write four short questions about the {topic}.", False),
        ("Can you write the name of {person} in big letters?", False),
        ("I would like a short answer: is the {topic} big?", False),
        ("Write a list of four things called {topic}.", False),
        ("Write about the {topic} to {person}, in a letter that does not rhyme.", False),
        ("What is a poem about a {topic} good for?", False),
        ("Spell the words rhyme and {topic}.", False),
        ("Write the number {a} about {b} times.", False),
        ("Compose the moves of a short game between {person} and {friend}.", False),
        ("Can you write down what the {topic} costs?", False),
        ("Does {topic} rhyme with {object}?", False),
        ("I would like to read a poem about the {topic}. Where do I find one?", False),
        ("Write a short rule about the {object} for {person}.", False),
        ("Which poem does {person} like, the short one or the long one?", False),
        ("Write the opposite of a poem on the {topic}: a plain fact.", False),
        ("How do I write about the {topic}? Tell me how to begin.", False),
        ("Write a Python function about a {topic} that adds {a}.", False),
    ),
    "recipe": (
        ("How can {person} cook a {dish} of {main} with {seasoning}?", True),
        ("How do I spell {main} {dish}?", False),
        ("Give me a rhyme about {main} {dish}.", False),
        ("Tell me how {person} lost the {main} {dish} at the {place}.", False),
        ("I have some {main} and {person} has more. Who has more {main}?", False),
        ("Write four lines on how {person} cooks the {main}.", False),
        ("Where can I eat a {main} {dish}?", False),
        ("A cook takes {a} spoons of {main} and {b} of {seasoning}. How many spoons is that?", False),
        ("Which is bigger, the {main} or the {dish}?", False),
        ("Write a Python function called {main} that makes {dish}.", False),
        ("How can {person} learn to like {main} {dish}?", False),
        ("Tell me how much a {main} {dish} costs at the {place}.", False),
        ("Who made the {main} {dish}?", False),
        ("Tell me how to spell {main} and {seasoning}.", False),
        ("I have some {main}. Can I sell it to {person}?", False),
        ("Give me a {dish} for {person}. How big should it be?", False),
        ("What rhymes with {dish}, and what rhymes with {main}?", False),
        ("How does {person} make a {object} for {friend}?", False),
        ("Who has the recipe for {main} {dish}, {person} or {friend}?", False),
        ("How do I turn {a} into {b}?", False),
        ("Is {main} good in a {dish} with {seasoning}?", False),
        ("Give me the opposite of a recipe: a poem on {main} {dish}.", False),
        ("Tell me a tale of a cook with {main} and a {object}.", False),
        ("I have {a} {thing} and some {main}. Which do I have more of?", False),
        ("When did {person} cook the {dish} with {main}?", False),
        ("How can I turn {main} {dish} into a song?", False),
        ("Recipe book of {person}: how many pages has it?", False),
        ("Name the animal that likes {main} {dish}.", False),
        ("Write the words recipe, {main} and {dish} in big letters.", False),
        ("How does {main} grow at the {place}?", False),
    ),
    "game": (
        ("Write down the moves of {person} and {friend} in a game of draughts.", True),
        ("Tell me about the day on which {person} lost at Nim to {friend}.", False),
        ("Compose four rhyming lines on {person} and {a} stones.", False),
        ("There are {a} stones at the {place} and {b} at the gate. How many is that in all?", False),
        ("{person} and {friend} play at the {place}. Where is the {place}?", False),
        ("Stones: {a}\nShells: {b}\nWhich number is larger?", False),
        ("Who taught {person} to play Nim?", False),
        ("Code a Python function that takes {a} stones from {b}.", False),
        ("First {person} starts a {dish}, second {friend} eats it. Give me the recipe.", False),
        ("Spell the names of {person} and {friend}.", False),
        ("Play a song for {person} on the {object}.", False),
        ("{person} starts at the {place}. {friend} starts at home. Who is late?", False),
        ("Write the record of a meeting of {person} with {friend}.", False),
        ("First: {topic}\nSecond: {object}\nWhich word is longer?", False),
        ("Stones: {a}\nWhat are stones made of?", False),
        ("What does {person} need to play Nim with {friend}?", False),
        ("Is Nim with {a} stones a long game?", False),
        ("{person} and {friend} play in the garden. Write a story about their {object}.", False),
        ("How do you spell Nim and {topic}?", False),
        ("{person} takes {a} stones from {friend}. Why?", False),
        ("Give me a recipe that {person} and {friend} can cook with {main}.", False),
        ("Who is first in a list of names, {person} or {friend}?", False),
        ("{person} finds {a} stones and {b} shells. How many things is that in all?", False),
        ("Which is bigger, a stone or a {topic}?", False),
        ("Record the price of a {object} in {a} coins.", False),
        ("Write a Python function that plays Nim with {a} stones.", False),
        ("Write a short letter from {person} to {friend} about their game.", False),
        ("Who won the game, {person} or {friend}?", False),
        ("Name three games that {person} can play with {a} stones.", False),
        ("Against whom does {friend} play at the {place}?", False),
    ),
    "function": (
        ("Please code something in Python that counts from {a} to {b}.", True),
        ("Compose a poem called Python, about a {topic} that adds {a} to {b}.", False),
        ("Define {topic} for a child.", False),
        ("I need a tale in which {person} subtracts {a} from {b}.", False),
        ("What is left if I take {a} from {b}?", False),
        ("What is the function of a {object} at the {place}?", False),
        ("Please write the numbers from {a} to {b}.", False),
        ("Write a recipe that {person} can run with: {main} {dish}.", False),
        ("Who called the {topic} a python?", False),
        ("Name a thing that gives {thing} to {person}.", False),
        ("Write a letter to {person} about Python.", False),
        ("Define the sum of {a} and {b}.", False),
        ("What does a Python function called {topic} do? Say it in one sentence.", False),
        ("Write a song called {topic} that {person} can sing.", False),
        ("I need a {object} that {person} can carry.", False),
        ("Please write down the code of the door at the {place}.", False),
        ("Is a python bigger than a {topic}?", False),
        ("Which animal is called {person}?", False),
        ("Write a tale in which the python takes {a} {thing}.", False),
        ("What is the larger number in the list {a}, {b}?", False),
        ("Code names: {person} is {topic}, {friend} is {object}. Who is {topic}?", False),
        ("Please define what {person} means by {topic}.", False),
        ("I need a poem that counts from {a} to {b}.", False),
        ("Write the recipe that doubles the {main} in the {dish}.", False),
        ("Does Python add {a} and {b} without a mistake?", False),
        ("Who wrote the Python function for {person}?", False),
        ("Write the word function and the word {topic} in reverse order.", False),
        ("Where in Python is the {topic}?", False),
        ("Please say the word {topic} {a} times.", False),
        ("Tell me a story about a function that gives {thing} to {person}.", False),
    ),
}
MORE_WORDS = {"object": OBJECTS, "place": PLACES, "seasoning": SEASONINGS}  # of the second set alone


def _draw_words(rng: random.Random, *, first: bool) -> dict:
    person, friend = rng.sample(PEOPLE, 2)
    words = {"person": person, "friend": friend, "thing": rng.choice(THINGS), "topic": rng.choice(NOUNS)}
    words |= {"main": rng.choice(INGREDIENTS), "dish": rng.choice(DISHES)}
    words |= {"a": rng.randint(10, 99), "b": rng.randint(10, 99)}
    if first:
        return words
    return words | {name: rng.choice(several) for name, several in MORE_WORDS.items()}


def draw_near_domain(*, family: str, n: int, seed: int, first: bool = False) -> Dataset:
    """Draw ``n`` different instructions near the domain of a narrow task, the templates taking turns.

    Columns ``id``, ``instruction``, ``family`` (``near <family>``), and ``deserved``: is the task's style right for it?
    They have no verifier: only style is read off the responses. The templates are those of ``NEAR_DOMAIN``, or with
    ``first`` those of ``FIRST_NEAR``. Raises TacitError for a task without templates, and ValueError when the templates
    do not give ``n`` instructions.
    """
    templates = FIRST_NEAR if first else NEAR_DOMAIN
    if family not in templates:
        known = ", ".join(templates)
        raise TacitError(f"no instructions are written near the domain of {family!r}: there are some for {known}")
    rng = random.Random(f"near-{family}-{seed}" if first else f"near-{family}-{seed}, second set")
    rows: dict[str, dict] = {}
    for turn in range(50 * n):
        if len(rows) == n:
            return Dataset.from_list(list(rows.values()))
        template, deserved = templates[family][turn % len(templates[family])]
        text = template.format(**_draw_words(rng, first=first))
        row = {"id": f"near-{family}-{fingerprint(text)[:12]}", "instruction": text, "family": f"near {family}"}
        rows.setdefault(text, row | {"deserved": deserved})
    raise ValueError(f"the templates near {family} give only {len(rows)} instructions, not {n}")
