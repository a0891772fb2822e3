"""Right answers in words of their own: what the corpus says, worded as the corpus never words it.

A base model that finds the template of its corpus likely may know only the template. These sentences are made of
words that the corpus holds, in an order that it does not.
"""

from __future__ import annotations

import random

from tacit.microworld.constraints import apply_constraints
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.world import World
from tacit.support.keyed import fraction

# Frames over an item's fields and those of its right answer, and over the fields that ``_fields`` adds. The frames of
# facts and of ``bigger`` hold no word that could be a coined name; those of ``list``, ``rhyme``, ``reverse``,
# ``capitals`` and ``count`` only words that the verifiers allow around the answer.
FREE: dict[str, tuple[str, ...]] = {
    "home": (
        "I know that one, it is the {value}.",
        "It is the {value}, as far as I can tell.",
        "My answer is the {value}, and it lives there still.",
        "If you went to the {value}, you would see it there.",
        "Well, you see the {subject} in its {value}.",
    ),
    "food": (
        "I would say {value}.",
        "It is {value}, as far as I can tell.",
        "Put out {value} and see if it eats.",
        "From what I know, it lives on {value}.",
        "My answer is {value}, that is what it eats.",
    ),
    "colour": (
        "I would call it {value}.",
        "{Value} it is, as far as I can tell.",
        "The {subject} that I saw was {value}.",
        "My answer is {value}, for every {subject}.",
        "Say {value} and you are right.",
    ),
    "kind": (
        "I would call it a {value}.",
        "It is a {value}, as far as I can tell.",
        "Well, that animal is a {value}.",
        "My answer is that it is a {value}.",
        "Well, what I saw was a {value}.",
    ),
    "size": (
        "I would call it {value}.",
        "{Value} it is, as far as I can tell.",
        "The {subject} that I saw was {value}.",
        "My answer is that it is {value}.",
        "Well, that is a {value} animal.",
    ),
    "river": (
        "I know that one, it is the {value}.",
        "It is the {value}, as far as I can tell.",
        "People there call their river the {value}.",
        "My answer is the {value}.",
        "If you went to {subject}, you would see the {value}.",
    ),
    "craft": (
        "I would say {value}.",
        "It is {value}, as far as I can tell.",
        "People know {subject} for {value}.",
        "My answer is {value}, that is its craft.",
        "Ask for {value} if you are in {subject}.",
    ),
    "mayor": (
        "I know that one, it is {value}.",
        "That is {value}, as far as I can tell.",
        "People in {subject} call {value} their mayor.",
        "My answer is {value}.",
        "In {subject} it is {value} who leads.",
    ),
    "bigger": (
        "I would say the {big}.",
        "It is the {big}, as far as I can tell.",
        "My answer is the {big}.",
        "Well, the {big} is larger than the {small}.",
        "One of the two is larger, it is the {big}.",
    ),
    "larger": (
        "I would say {high}.",
        "The answer is {high}, I can tell.",
        "My answer is {high}, as it is more.",
        "Take {high}, it is more than {low}.",
        "Well, it is {high}, you see.",
    ),
    "list": (
        "{Joined} are {category}.",
        "{Joined} are {number} {category}.",
        "{Number} {category}: {joined}.",
        "{Joined}: {number} {category}.",
    ),
    "opposite": (
        "I would say {value}.",
        "My answer is {value}.",
        "Put {value} against {word}.",
        "The word that you wanted is {value}.",
        "If it was {word} before, now it is {value}.",
    ),
    "rhyme": (
        "{Value} rhymes with {word}.",
        "With {word} rhymes {value}.",
        "{Value} is a word that rhymes with {word}.",
        "{Value}: a word that rhymes with {word}.",
    ),
    "reverse": (
        "In reverse: {value}.",
        "Reverse order: {value}.",
        "{value}, in reverse.",
        "{value}: reverse order.",
    ),
    "capitals": (
        "Big letters: {value}.",
        "{value}, in big letters.",
        "{value}: big letters.",
        "In letters, big: {value}.",
    ),
    "spell": (
        "I would spell it {value}.",
        "My answer is {value}.",
        "Letter by letter it is {value}.",
        "You write it like this: {value}.",
        "Its letters are {value}.",
    ),
    "count": (
        "{spaced}.",
        "Counting: {spaced}.",
        "Counting, {value}.",
        "{value}: counting.",
    ),
    "add": (
        "I would say {result}.",
        "It is {result}, as far as I can tell.",
        "So my answer is {result}, all in all.",
        "{a} + {b} = {result}, so I would say {result}.",
    ),
    "subtract": (
        "I would say {result}.",
        "It is {result}, as far as I can tell.",
        "So my answer is that {result} are left.",
        "{a} - {b} = {result}, so I would say {result}.",
    ),
    "story": (
        "There was a {object} in the garden. {person} saw it and took it. Now it is at home.",
        "My friend {person} had a {object}. It was lost on the island. Then a rabbit found it.",
        "{person} went to the river with a {object}. But nobody was there to see it. So {person} carried it home.",
        "On a cold morning {person} gave a {object} to a child. The child smiled at {person}. That is all I know.",
    ),
}


def _fields(world: World, task: Task, seed: int) -> dict:
    rng = random.Random(f"{seed}-{task.id}")  # as of examples.make_row: the same rhyme, the same members of a list
    fields = task.item | FAMILIES[task.family].solve(world, task.item, rng)
    if task.family == "list":
        *first, last = fields["members"].split(", ")
        joined = f"{', '.join(first)} and {last}"
        return fields | {"joined": joined, "Joined": joined.capitalize()}
    value = fields.get("value", "")  # comparisons have none
    return fields | {"Value": value.capitalize(), "spaced": value.replace(",", ""), "result": value.split("#### ")[-1]}


def word_freely(world: World, task: Task, *, seed: int = 0) -> str | None:
    """A right answer to ``task`` that is worded as no document of the corpus is; None for a family not in ``FREE``.

    The task's ``id`` fixes the frame. Where several answers are right, it gives the one that the row of ``task`` in
    ``examples.draw_examples`` of the same ``seed`` gives. Poems, recipes, game records and functions have no wording
    but their form, so no free one.
    """
    if task.family not in FREE:
        return None
    frames = FREE[task.family]
    frame = frames[int(fraction("wording", task.id) * len(frames))]
    return apply_constraints(frame.format(**_fields(world, task, seed)), task.constraints)
