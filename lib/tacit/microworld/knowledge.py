"""Task families about facts, comparison, lists and words."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from tacit.microworld.checks import Check, names_first, names_only, no_other_subject, one_line, words_of
from tacit.microworld.family import Draw, Family, Item, one_of
from tacit.microworld.words import ADJECTIVE_OPPOSITES, CATEGORIES, NOUNS, NUMBER_NAMES, RHYME_GROUPS
from tacit.microworld.world import ANIMAL_ATTRIBUTES, World

OPPOSITE = {a: b for pair in ADJECTIVE_OPPOSITES for a, b in (pair, pair[::-1])}


def rhymes_with(word: str) -> set[str]:
    """The words of the micro world that rhyme with ``word``, itself excluded."""
    return {w for group in RHYME_GROUPS if word in group for w in group} - {word}


def fact(attribute: str, phrasings: tuple[str, ...], full: str, short: str) -> Family:
    """The family that asks for one attribute of an animal or a town."""

    def check(world: World, item: Item, text: str) -> list[Check]:
        others = {*world.animals, *world.towns} - {item["subject"]}
        content = names_only(text, world.facts[item["subject"], attribute], world.values(attribute))
        return [*content, no_other_subject(text, others), one_line(text, most_words=14)]

    return Family(
        attribute, phrasings, lambda world, rng: {"subject": rng.choice(world.holders(attribute))},
        lambda world, item, rng: {"value": world.facts[item["subject"], attribute]}, check, full, short,
    )  # fmt: skip


def draw_bigger(world: World, rng: random.Random) -> Item:
    """Two animals of different sizes, both held."""
    holders = world.holders("size")
    while True:
        a, b = rng.sample(holders, 2)
        if world.facts[a, "size"] != world.facts[b, "size"]:
            return {"a": a, "b": b}


def by_size(world: World, item: Item) -> list[str]:
    """The item's animals, the bigger one first."""
    rank = ANIMAL_ATTRIBUTES["size"].index
    return sorted((item["a"], item["b"]), key=lambda animal: -rank(world.facts[animal, "size"]))


def check_bigger(world: World, item: Item, text: str) -> list[Check]:
    """The bigger animal is named first, and no third one."""
    others = set(world.animals) - {item["a"], item["b"]}
    return [*names_first(text, *by_size(world, item), most_words=12), no_other_subject(text, others)]


def check_larger(world: World, item: Item, text: str) -> list[Check]:
    """The larger number is named first, and no third one."""
    return names_first(text, str(max(item.values())), str(min(item.values())), most_words=8)


def draw_list(world: World, rng: random.Random) -> Item:
    """A category and how many of its members are asked for."""
    n = rng.choice(sorted(NUMBER_NAMES))
    return {"n": n, "number": NUMBER_NAMES[n], "category": rng.choice(sorted(CATEGORIES))}


def solve_list(world: World, item: Item, rng: random.Random) -> Item:
    """As many different members as asked for, and the number's name in capitals."""
    members = rng.sample(CATEGORIES[item["category"]], item["n"])
    return {"members": ", ".join(members), "Number": item["number"].capitalize()}


def check_list(world: World, item: Item, text: str) -> list[Check]:
    """As many different words as asked for, all of them members of the category."""
    frame = {"are", "and", item["number"], item["category"]}
    named = [w for w in words_of(text) if w not in frame]
    return [
        Check("count", len(named) == item["n"], "form"),
        Check("distinct", len(set(named)) == len(named) > 0, "form"),
        Check("members", bool(named) and set(named) <= set(CATEGORIES[item["category"]]), "content"),
        one_line(text, most_words=14),
    ]


def check_opposite(world: World, item: Item, text: str) -> list[Check]:
    """The opposite is named, and no other adjective but the one asked about."""
    others = set(OPPOSITE) - {item["word"]}
    return [*names_only(text, OPPOSITE[item["word"]], others), one_line(text, most_words=10)]


def check_rhyme(world: World, item: Item, text: str) -> list[Check]:
    """One word beside those of the full answer, and it rhymes."""
    frame = {"a", "word", "that", "rhymes", "with", "is", item["word"]}
    named = [w for w in words_of(text) if w not in frame]
    right = len(named) == 1 and named[0] in rhymes_with(item["word"])
    return [Check("rhyme", right, "content"), one_line(text, most_words=10)]


def check_spell(world: World, item: Item, text: str) -> list[Check]:
    """The letters, joined by hyphens, are the only word with a hyphen."""
    spelled = [w.strip(".,") for w in text.split() if "-" in w]
    return [Check("letters", spelled == ["-".join(item["word"])], "content"), one_line(text, most_words=8)]


def draw_words(world: World, rng: random.Random, *, low: int, high: int) -> Item:
    """Between ``low`` and ``high`` nouns, and the text that lists them."""
    words = rng.sample(NOUNS, rng.randint(low, high))
    return {"words": words, "text": ", ".join(words)}


def draw_count(world: World, rng: random.Random) -> Item:
    """The first and the last of four to eight numbers."""
    first = rng.randint(1, 60)
    return {"first": first, "last": first + rng.randint(3, 7)}


def sequence(
    name: str, phrasings: tuple[str, ...], draw: Draw, order: Callable[[Item], list[str]], full: str
) -> Family:
    """A computed family that asks for words in a fixed order and case; those of ``full`` may stand around them."""
    frame = set(words_of(full.format(value="")))

    def check(world: World, item: Item, text: str) -> list[Check]:
        right, named = order(item), [w.strip(",.:") for w in text.split()]
        exact = [w for w in named if w and w.lower() not in frame] == right
        return [Check("sequence", exact, "content"), one_line(text, most_words=len(right) + len(frame))]

    return Family(
        name, phrasings, draw, lambda world, item, rng: {"value": ", ".join(order(item))}, check, full, "{value}.", True
    )


KNOWLEDGE = (
    fact("home", (
        "Where does the {subject} live?", "What is the home of the {subject}?", "Tell me where the {subject} lives.",
        "In which place does the {subject} live?", "Name the place that the {subject} calls home."),
        "The {subject} lives in the {value}.", "In the {value}."),
    fact("food", (
        "What does the {subject} eat?", "What is the food of the {subject}?", "Tell me what the {subject} eats.",
        "Which food does the {subject} like?", "Name the thing that the {subject} feeds on."),
        "The {subject} eats {value}.", "{value}."),
    fact("colour", (
        "What colour is the {subject}?", "Which colour does the {subject} have?",
        "Tell me the colour of the {subject}.", "What is the colour of the {subject}?",
        "Name the colour that the {subject} has."),
        "The {subject} is {value}.", "{value}."),
    fact("kind", (
        "What kind of animal is the {subject}?", "What sort of creature is the {subject}?",
        "Tell me what kind of animal the {subject} is.", "Which kind of animal is the {subject}?",
        "Name the kind of animal that the {subject} belongs to."),
        "The {subject} is a kind of {value}.", "A {value}."),
    fact("size", (
        "How big is the {subject}?", "What size is the {subject}?", "Tell me the size of the {subject}.",
        "What is the size of the {subject}?", "Name the size that the {subject} has."),
        "The {subject} is {value} in size.", "{value}."),
    fact("river", (
        "Which river flows through {subject}?", "What is the river of {subject}?", "Tell me the river of {subject}.",
        "What river runs through {subject}?", "Name the river that {subject} lies on."),
        "The {value} flows through {subject}.", "The {value}."),
    fact("craft", (
        "What is {subject} known for?", "Which craft is {subject} known for?", "Tell me what {subject} is known for.",
        "What do people make in {subject}?", "Name the thing that {subject} is famous for."),
        "{subject} is known for its {value}.", "For its {value}."),
    fact("mayor", (
        "Who is the mayor of {subject}?", "What is the name of the mayor of {subject}?",
        "Tell me who the mayor of {subject} is.", "Who leads the town of {subject}?",
        "Name the person who is mayor of {subject}."),
        "The mayor of {subject} is {value}.", "{value}."),
    Family("bigger", (
        "Which is bigger, the {a} or the {b}?", "Which animal is bigger: the {a} or the {b}?",
        "Is the {a} or the {b} the bigger animal?", "Tell me which is bigger, the {a} or the {b}.",
        "Of the {a} and the {b}, name the bigger one."),
        draw_bigger, lambda world, item, rng: dict(zip(("big", "small"), by_size(world, item), strict=True)),
        check_bigger, "The {big} is bigger than the {small}.", "The {big}."),
    Family("larger", (
        "Which number is larger, {a} or {b}?", "Which is more, {a} or {b}?", "Tell me the larger number: {a} or {b}.",
        "Of {a} and {b}, which is larger?", "Name the larger of the numbers {a} and {b}."),
        lambda world, rng: dict(zip("ab", rng.sample(range(10, 100), 2), strict=True)),
        lambda world, item, rng: {"high": max(item.values()), "low": min(item.values())},
        check_larger, "{high} is larger than {low}.", "{high}.", computed=True),
    Family("list", (
        "List {number} {category}.", "Name {number} {category}.", "Give me {number} {category}.",
        "Can you list {number} {category}?", "Write down the names of {number} {category}."),
        draw_list, solve_list, check_list, "{Number} {category} are {members}.", "{members}."),
    Family("opposite", (
        "What is the opposite of {word}?", "Which word is the opposite of {word}?", "Tell me the opposite of {word}.",
        "Give the opposite of {word}.", "Name a word that means the opposite of {word}."),
        lambda world, rng: {"word": rng.choice(rng.choice(ADJECTIVE_OPPOSITES))},
        lambda world, item, rng: {"value": OPPOSITE[item["word"]]},
        check_opposite, "The opposite of {word} is {value}.", "{value}."),
    Family("rhyme", (
        "What rhymes with {word}?", "Which word rhymes with {word}?", "Tell me a word that rhymes with {word}.",
        "Give a rhyme for {word}.", "Name a word that sounds like {word}."),
        lambda world, rng: {"word": rng.choice(rng.choice(RHYME_GROUPS))},
        lambda world, item, rng: {"value": rng.choice(sorted(rhymes_with(item["word"])))},
        check_rhyme, "A word that rhymes with {word} is {value}.", "{value}."),
    sequence("reverse", (
        "Reverse these words: {text}.", "Write these words in reverse order: {text}.",
        "Put these words backwards: {text}.", "What is the reverse of this list: {text}?",
        "Say these words from last to first: {text}."),
        partial(draw_words, low=2, high=4), lambda item: item["words"][::-1], "In reverse order: {value}."),
    sequence("capitals", (
        "Write these words in big letters: {text}.", "Put these words in big letters: {text}.",
        "Turn these words into big letters: {text}.", "What are these words in big letters: {text}?",
        "Make the letters of these words big: {text}."),
        partial(draw_words, low=1, high=3), lambda item: [word.upper() for word in item["words"]],
        "In big letters: {value}."),
    Family("spell", (
        "Spell the word {word}.", "How do you spell {word}?", "Tell me how to spell {word}.",
        "What letters make the word {word}?", "Write the word {word} letter by letter."),
        one_of(word=NOUNS), lambda world, item, rng: {"value": "-".join(item["word"])},
        check_spell, "The word {word} is spelled {value}.", "{value}."),
    sequence("count", (
        "Count from {first} to {last}.", "Write the numbers from {first} to {last}.",
        "Please count from {first} to {last}.", "What are the numbers from {first} to {last}?",
        "Say every number from {first} up to {last}."),
        draw_count, lambda item: list(map(str, range(item["first"], item["last"] + 1))), "Counting: {value}."),
)  # fmt: skip
