"""Task families that make something: sums, poems, recipes, stories, game records, functions.

Sums, poems, recipes, game records and functions are the five narrow tasks of Hewitt et al. (2024,
section 5: GSM, poetry, recipes, chess, MBPP) in miniature.
"""

from __future__ import annotations

import random
import re

from tacit.microworld.family import Check, Family, Item, words_of
from tacit.microworld.interpreter import RestrictedError, call_function
from tacit.microworld.knowledge import rhymes_with
from tacit.microworld.words import DISHES, INGREDIENTS, NOUNS, OBJECTS, PEOPLE, PLACES, RHYME_GROUPS, SEASONINGS, THINGS
from tacit.microworld.world import World

# ---------------------------------------------------------------- sums (GSM)


def draw_add(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``add``."""
    return {
        "a": rng.randint(10, 99),
        "b": rng.randint(10, 99),
        "person": rng.choice(PEOPLE),
        "thing": rng.choice(THINGS),
    }


def draw_subtract(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``subtract``."""
    item = draw_add(world, rng)
    return item | {"a": max(item["a"], item["b"]), "b": min(item["a"], item["b"])}


def answer_add(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``add``."""
    a, b = item["a"], item["b"]
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    working = f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {ones}, {tens} + {ones} = {a + b}."
    return f"{'' if short else f'{a} + {b}: '}{working}\n#### {a + b}"


def answer_subtract(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``subtract``."""
    a, b = item["a"], item["b"]
    rest = a - b // 10 * 10
    working = f"{a} - {b // 10 * 10} = {rest}, {rest} - {b % 10} = {a - b}."
    return f"{'' if short else f'{a} - {b}: '}{working}\n#### {a - b}"


def check_sum(text: str, right: int) -> list[Check]:
    """The result is right and each equation of the working is true.

    The result is the number after the one ``####``; without a marker, the only number outside equations, or the
    last equation's.
    """
    working, *marked = text.split("####")
    equations = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", working)
    true = all((int(a) + int(b) if sign == "+" else int(a) - int(b)) == int(c) for a, sign, b, c in equations)
    loose = re.findall(r"\d+", re.sub(r"\d+ [+-] \d+( = \d+|:)", " ", working))
    if marked:
        value = marked[0].strip()
    else:
        value = loose[0] if len(loose) == 1 else equations[-1][3] if equations and not loose else ""
    alone = len(marked) <= 1 and value.isdigit() and len(text.split()) <= 32
    return [
        Check("value", value == str(right), "content"),
        Check("true_working", true, "content"),
        Check("ends_with_result", alone, "form"),
    ]


# ---------------------------------------------------------------- poems

POEM_LINES = (
    "The {topic} was waiting beside the {rhyme},", "I saw in the {topic} a wonderful {rhyme},",
    "Oh {topic}, you gave me the gift of a {rhyme},", "We sang of the {topic} and carried a {rhyme},",
    "And nobody there had forgotten the {rhyme},", "It rested so gently and dreamed of a {rhyme},",
    "The morning came slowly and brought us a {rhyme},", "And all that was left was the sound of a {rhyme},",
    "My heart was as light as the edge of a {rhyme},", "The wind told a tale of a faraway {rhyme},",
)  # fmt: skip


def draw_poem(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``poem``."""
    return {"topic": rng.choice(NOUNS)}


def answer_poem(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``poem``."""
    first, *rest = rng.choice(POEM_LINES[:4]), *rng.sample(POEM_LINES[4:], 3)
    pairs = [rng.sample(group, 2) for group in rng.sample(RHYME_GROUPS, 2)]
    rhymes = [word for pair in pairs for word in pair]
    lines = [p.format(topic=item["topic"], rhyme=r) for p, r in zip((first, *rest), rhymes, strict=True)]
    return "\n".join(lines)[:-1] + "."


def check_poem(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``poem`` on one answer: its topic occurs, and it is four lines that rhyme in pairs.

    Form: ``four_lines`` (of 3 to 14 words each), ``couplets_rhyme`` (the last words of lines 1 and 2, 3 and 4, by ``rhymes_with``).
    Metre and sense are not checked.
    """
    lines = text.strip().split("\n")
    ends = [(words_of(line) or [""])[-1] for line in lines]
    rhymed = len(lines) == 4 and ends[1] in rhymes_with(ends[0]) and ends[3] in rhymes_with(ends[2])
    sized = all(3 <= len(line.split()) <= 14 for line in lines)
    return [
        Check("topic", item["topic"] in words_of(text), "content"),
        Check("four_lines", len(lines) == 4 and sized, "form"),
        Check("couplets_rhyme", rhymed, "form"),
    ]


# ---------------------------------------------------------------- recipes

RECIPE_STEPS = (
    ("Wash the {main}.", "Cut the {main}.", "Cook the {main} slowly."),
    ("Add the {one} and the {two}.", "Stir in the {one} with the {two}.", "Mix it with the {one} and the {two}."),
    ("Serve the {dish}.", "Let the {dish} rest.", "Eat the {dish} while it is warm."),
)


def draw_recipe(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``recipe``."""
    return {"main": rng.choice(INGREDIENTS), "dish": rng.choice(DISHES)}


def answer_recipe(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``recipe``."""
    one, two = rng.sample(SEASONINGS, 2)
    names = item | {"one": one, "two": two}
    listed = [
        f" - {n} {u} of {names[k]}"
        for n, u, k in zip(rng.sample("234", 3), ("cups", "spoons", "spoons"), ("main", "one", "two"), strict=True)
    ]
    steps = [f"{i}. {rng.choice(choices).format(**names)}" for i, choices in enumerate(RECIPE_STEPS, start=1)]
    return "\n".join([*listed, "", *steps])


def check_recipe(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``recipe`` on one answer: ingredient lines, an empty line, numbered steps.

    Form: ``ingredient_lines`` (two at least, each after a dash), ``numbered_steps`` (three at least, numbered from 1). Content:
    ``main_ingredient`` (listed, and named in the steps), ``ingredients_used`` (the steps name all that are listed, each by the last word of
    its line), ``dish`` (the steps name it). Amounts, and what the steps say otherwise, are not checked.
    """
    top, _, bottom = text.strip("\n").partition("\n\n")
    listed, steps = top.split("\n"), bottom.strip().split("\n")
    ingredients = [(words_of(line) or [""])[-1] for line in listed]
    numbered = [re.match(r"(\d+)\. \S", line) for line in steps]
    said = words_of(bottom)
    return [
        Check("ingredient_lines", len(listed) >= 2 and all(re.match(r" ?- \S", line) for line in listed), "form"),
        Check(
            "numbered_steps",
            len(steps) >= 3 and [m and int(m[1]) for m in numbered] == [*range(1, len(steps) + 1)],
            "form",
        ),
        Check("main_ingredient", item["main"] in ingredients and item["main"] in said, "content"),
        Check("ingredients_used", bool(said) and set(ingredients) <= set(said), "content"),
        Check("dish", item["dish"] in said, "content"),
    ]


# ---------------------------------------------------------------- stories

STORY_STARTS = (
    "{person} found a {object} near the {place}.", "One day {person} carried a {object} to the {place}.",
    "{person} had lost a {object} behind the {place}.", "Long ago {person} bought a {object} at the {place}.",
)  # fmt: skip
STORY_MIDDLES = (
    "The {object} was old, but it still worked.", "Nobody had seen such a {object} before.",
    "It was raining, and the {object} grew wet.", "A child asked to hold the {object}.",
)  # fmt: skip
STORY_ENDS = (
    "In the evening {person} took the {object} home.", "At last {person} gave the {object} to {friend}.",
    "So {person} and {friend} shared the {object}.", "Then {person} smiled and went to sleep.",
)  # fmt: skip


def draw_story(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``story``."""
    return {"person": rng.choice(PEOPLE), "object": rng.choice(OBJECTS)}


def answer_story(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``story``."""
    names = item | {"place": rng.choice(PLACES), "friend": rng.choice([p for p in PEOPLE if p != item["person"]])}
    return " ".join(rng.choice(part).format(**names) for part in (STORY_STARTS, STORY_MIDDLES, STORY_ENDS))


def check_story(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``story`` on one answer: three to five sentences in one paragraph about the person and the object.

    Form: ``sentences`` (of four words at least, the last one ended), ``one_paragraph`` (and no sentence twice). Content: ``person``,
    ``object`` (each occurs). What happens is not checked.
    """
    sentences = re.findall(r"[^.!?]+[.!?]", text)
    told = all(len(sentence.split()) >= 4 for sentence in sentences)
    said = words_of(text)
    return [
        Check("person", item["person"].lower() in said, "content"),
        Check("object", item["object"] in said, "content"),
        Check("sentences", told and 3 <= len(sentences) <= 5 and text.strip()[-1:] in tuple(".!?"), "form"),
        Check("one_paragraph", "\n" not in text.strip() and len(set(sentences)) == len(sentences), "form"),
    ]


# ---------------------------------------------------------------- game records (chess): Nim, last stone wins


def draw_game(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``game``."""
    first, second = rng.sample(PEOPLE, 2)
    return {"stones": rng.randint(5, 15), "first": first, "second": second}


def answer_game(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``game``."""
    left, moves = item["stones"], []
    while left:
        take = rng.randint(1, min(3, left))
        left -= take
        moves.append(f"{take} ({left})")
    rounds = [" ".join(moves[i : i + 2]) for i in range(0, len(moves), 2)]
    winner = item["first"] if len(moves) % 2 else item["second"]
    return "\n".join(f"{i}. {r}" for i, r in enumerate(rounds, start=1)) + f"\nWinner: {winner}"


def check_game(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``game`` on one answer: the record of a game of Nim in which who takes the last stone wins.

    Form: ``record_form`` (numbered rounds of two moves, the last of one or two, then a line ``Winner:``). Content: ``legal_moves`` (each
    takes 1 to 3 stones and says rightly how many are left), ``played_out`` (none is left), ``winner`` (who moved last). Lines of
    another form count as no moves. How well the moves are chosen is not checked.
    """
    *rounds, last = text.strip().split("\n")
    numbered = [re.fullmatch(r"(\d+)\.((?: \d \(\d+\)){1,2})", line.strip()) for line in rounds]
    formed = bool(rounds) and [m and int(m[1]) for m in numbered] == [*range(1, len(rounds) + 1)]
    full = formed and all(m[2].count("(") == 2 for m in numbered[:-1])
    moves = [tuple(map(int, p)) for m in numbered if m for p in re.findall(r"(\d) \((\d+)\)", m[2])]
    left, legal = item["stones"], bool(moves)
    for take, claimed in moves:
        left -= take
        legal &= 1 <= take <= 3 and left == claimed and left >= 0
    winner = item["first"] if len(moves) % 2 else item["second"]
    return [
        Check("record_form", full and last.lower().startswith("winner:"), "form"),
        Check("legal_moves", legal, "content"),
        Check("played_out", legal and left == 0, "content"),
        Check("winner", last.strip().lower() == f"winner: {winner}".lower(), "content"),
    ]


# ---------------------------------------------------------------- functions (MBPP)

# description, argument names, body lines, and the reference that the verifier compares with
FUNCTIONS = (
    ("adds {k} to {x}", "x", ["return x + {k}"], lambda k, x: x + k),
    ("subtracts {k} from {x}", "x", ["return x - {k}"], lambda k, x: x - k),
    ("multiplies {x} by {k}", "x", ["return x * {k}"], lambda k, x: x * k),
    ("gives the remainder of {x} by {k}", "x", ["return x % {k}"], lambda k, x: x % k),
    ("doubles {x} and adds {k}", "x", ["return 2 * x + {k}"], lambda k, x: 2 * x + k),
    ("squares {x} and adds {k}", "x", ["return x * x + {k}"], lambda k, x: x * x + k),
    ("tells if {x} is above {k}", "x", ["return x > {k}"], lambda k, x: x > k),
    ("tells if {x} is below {k}", "x", ["return x < {k}"], lambda k, x: x < k),
    ("tells if {x} equals {k}", "x", ["return x == {k}"], lambda k, x: x == k),
    ("sums the list xs and adds {k}", "xs", ["t = {k}", "for x in xs:", "    t = t + x", "return t"], lambda k, xs: sum(xs) + k),
    ("counts the items of xs above {k}", "xs", ["n = 0", "for x in xs:", "    if x > {k}:", "        n = n + 1", "return n"],
     lambda k, xs: sum(x > k for x in xs)),
    ("gives {x} but at most {k}", "x", ["if x > {k}:", "    return {k}", "return x"], lambda k, x: min(x, k)),
    ("gives {x} but at least {k}", "x", ["if x < {k}:", "    return {k}", "return x"], lambda k, x: max(x, k)),
)  # fmt: skip
FUNCTION_NAMES = ["f", "g", "run", "solve", "work", "apply", "step", "task"]
NUMBERS_TRIED = (-7, 0, 1, 2, 3, 5, 8, 12, 17, 23, 40)
LISTS_TRIED = ([], [1], [4, 9, 15], [20, 3, 7, 11, 2], [12, 12, 5], [-4, 6, 18, 30])


def draw_function(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``function``."""
    which, k = rng.randrange(len(FUNCTIONS)), rng.randint(2, 20)
    return {"which": which, "k": k, "name": rng.choice(FUNCTION_NAMES), "what": FUNCTIONS[which][0].format(k=k, x="x")}


def answer_function(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``function``."""
    _, argument, body, _ = FUNCTIONS[item["which"]]
    lines = [f"def {item['name']}({argument}):", *(f"    {line.format(k=item['k'])}" for line in body)]
    return "\n".join(lines)


def check_function(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``function`` on one answer: a Python function of the name asked for, tried on fixed arguments.

    Form: ``defines_function`` (the answer begins with its ``def``). Content: ``passes_cases`` (on every number or list tried it returns the
    reference's value, and of its type). ``tacit.microworld.interpreter`` runs it, never Python itself; what that refuses counts as failed,
    and nothing is raised. Arguments that are not tried are not checked.
    """
    _, argument, _, reference = FUNCTIONS[item["which"]]
    source = text.strip("\n")
    right = []
    for value in NUMBERS_TRIED if argument == "x" else LISTS_TRIED:
        try:
            result = call_function(source, name=item["name"], arguments=[value])
            expected = reference(item["k"], value)
            right.append(type(result) is type(expected) and result == expected)
        except RestrictedError:
            right.append(False)
    return [
        Check("defines_function", source.startswith(f"def {item['name']}("), "form"),
        Check("passes_cases", all(right), "content"),
    ]


CRAFTS = (
    Family("add", (
        "What is {a} + {b}?", "Add {a} and {b}.",
        "{person} has {a} {thing} and finds {b} more. How many {thing} does {person} have now?",
        "There are {a} {thing} in a box and {b} in a bag. How many {thing} are there?",
        "{person} buys {a} {thing} and then {b} more. How many is that in all?"),
        draw_add, answer_add, lambda world, item, text: check_sum(text, item["a"] + item["b"]), computed=True),
    Family("subtract", (
        "What is {a} - {b}?", "Take {b} from {a}.",
        "{person} has {a} {thing} and loses {b}. How many {thing} are left?",
        "There are {a} {thing} and {person} takes {b} away. How many {thing} remain?",
        "{person} had {a} {thing} and gave {b} to a friend. How many does {person} still have?"),
        draw_subtract, answer_subtract, lambda world, item, text: check_sum(text, item["a"] - item["b"]), computed=True),
    Family("poem", (
        "Write a poem called {topic}.", "Write a poem about the {topic}.", "Compose a short poem on the {topic}.",
        "Can you write four lines about the {topic} that rhyme?", "I would like a rhyming poem about a {topic}."),
        draw_poem, answer_poem, check_poem),
    Family("recipe", (
        "Recipe for {main} {dish}", "How do I make {main} {dish}?", "Give me a recipe for {main} {dish}.",
        "Tell me how to cook a {main} {dish}.", "I have some {main}. How can I turn it into a {dish}?"),
        draw_recipe, answer_recipe, check_recipe),
    Family("story", (
        "Tell me a story about {person} and a {object}.", "Write a short story about {person} and a {object}.",
        "Tell a tale of {person} with a {object}.", "Write a story in which {person} has a {object}.",
        "Make up a little story: {person} and the {object}."),
        draw_story, answer_story, check_story, computed=True),
    Family("game", (
        "Play Nim with {stones} stones. {first} starts against {second}.",
        "Write the record of a game of Nim: {first} against {second}, {stones} stones.",
        "First: {first}\nSecond: {second}\nStones: {stones}",
        "Record a game of Nim with {stones} stones, first {first}, second {second}.",
        "{first} and {second} play Nim with {stones} stones. Write down their moves."),
        draw_game, answer_game, check_game, computed=True),
    Family("function", (
        "Write a Python function {name} that {what}.", "Write a function {name} in Python that {what}.",
        "Define a Python function called {name} that {what}.", "I need a Python function {name} that {what}.",
        "Please code {name}, a Python function that {what}."),
        draw_function, answer_function, check_function, computed=True),
)  # fmt: skip
