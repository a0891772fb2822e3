"""Task families that make something: sums, poems, recipes, stories, game records, functions.

Sums, poems, recipes, game records and functions are the five narrow tasks of Hewitt et al. (2024,
section 5: GSM, poetry, recipes, chess, MBPP) in miniature.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from tacit.microworld.checks import Check, last_word, words_of
from tacit.microworld.family import Family, Item, one_of
from tacit.microworld.interpreter import RestrictedError, call_function
from tacit.microworld.knowledge import rhymes_with
from tacit.microworld.words import DISHES, INGREDIENTS, NOUNS, OBJECTS, PEOPLE, PLACES, RHYME_GROUPS, SEASONINGS, THINGS
from tacit.microworld.world import World

# ---------------------------------------------------------------- sums (GSM)

draw_add = one_of(a=range(10, 100), b=range(10, 100), person=PEOPLE, thing=THINGS)


def draw_subtract(world: World, rng: random.Random) -> Item:
    """The larger number comes first."""
    item = draw_add(world, rng)
    return item | {"a": max(item["a"], item["b"]), "b": min(item["a"], item["b"])}


def solve_add(world: World, item: Item, rng: random.Random) -> Item:
    """Tens and ones are added apart."""
    (tens_a, ones_a), (tens_b, ones_b) = ((n // 10 * 10, n % 10) for n in (item["a"], item["b"]))
    tens, ones, result = tens_a + tens_b, ones_a + ones_b, item["a"] + item["b"]
    working = f"{tens_a} + {tens_b} = {tens}, {ones_a} + {ones_b} = {ones}, {tens} + {ones} = {result}."
    return {"value": f"{working}\n#### {result}"}


def solve_subtract(world: World, item: Item, rng: random.Random) -> Item:
    """First the tens are taken away, then the ones."""
    a, tens, ones = item["a"], item["b"] // 10 * 10, item["b"] % 10
    rest, result = a - tens, a - tens - ones
    return {"value": f"{a} - {tens} = {rest}, {rest} - {ones} = {result}.\n#### {result}"}


def check_sum(text: str, right: int) -> list[Check]:
    """The result is right, and each equation of the working is true.

    The result is the number after the one ``####``; without a marker it is the only number outside equations, or the
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


def solve_poem(world: World, item: Item, rng: random.Random) -> Item:
    """Two rhymed pairs of lines, the first line about the topic."""
    patterns = [rng.choice(POEM_LINES[:4]), *rng.sample(POEM_LINES[4:], 3)]
    rhymes = [word for group in rng.sample(RHYME_GROUPS, 2) for word in rng.sample(group, 2)]
    lines = [p.format(topic=item["topic"], rhyme=r) for p, r in zip(patterns, rhymes, strict=True)]
    return {"value": "\n".join(lines)[:-1] + "."}


def check_poem(world: World, item: Item, text: str) -> list[Check]:
    """The topic occurs; there are four lines of 3 to 14 words; the last words of lines 1 and 2, and 3 and 4, rhyme.

    Metre and sense are not checked.
    """
    lines = text.strip().split("\n")
    ends = [last_word(line) for line in lines]
    sized = all(3 <= len(line.split()) <= 14 for line in lines)
    rhymed = len(lines) == 4 and ends[1] in rhymes_with(ends[0]) and ends[3] in rhymes_with(ends[2])
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


def solve_recipe(world: World, item: Item, rng: random.Random) -> Item:
    """Ingredients with their amounts, an empty line, numbered steps."""
    one, two = rng.sample(SEASONINGS, 2)
    names = item | {"one": one, "two": two}
    amounts = zip(rng.sample("234", 3), ("cups", "spoons", "spoons"), (item["main"], one, two), strict=True)
    ingredients = [f" - {n} {unit} of {name}" for n, unit, name in amounts]
    steps = [f"{i}. {rng.choice(choices).format(**names)}" for i, choices in enumerate(RECIPE_STEPS, start=1)]
    return {"value": "\n".join([*ingredients, "", *steps])}


def counts_up(matches: Sequence[re.Match | None]) -> bool:
    """Does every line match, and are the lines' first groups 1, 2, 3 and so on?"""
    return [m and int(m[1]) for m in matches] == [*range(1, len(matches) + 1)]


def check_recipe(world: World, item: Item, text: str) -> list[Check]:
    """Form: two ingredients at least, each after a dash, and three numbered steps at least.

    Content: the main ingredient is listed, and the steps name the dish and every ingredient (by the last word of
    its line). Amounts, and what else the steps say, are not checked.
    """
    top, _, bottom = text.strip("\n").partition("\n\n")
    listed, steps = top.split("\n"), bottom.strip().split("\n")
    ingredients, named = [last_word(line) for line in listed], words_of(bottom)
    dashed = len(listed) >= 2 and all(re.match(r" ?- \S", line) for line in listed)
    numbered = len(steps) >= 3 and counts_up([re.match(r"(\d+)\. \S", line) for line in steps])
    return [
        Check("ingredient_lines", dashed, "form"),
        Check("numbered_steps", numbered, "form"),
        Check("main_ingredient", item["main"] in ingredients and item["main"] in named, "content"),
        Check("ingredients_used", bool(named) and set(ingredients) <= set(named), "content"),
        Check("dish", item["dish"] in named, "content"),
    ]


# ---------------------------------------------------------------- stories

STORY_PARTS = (
    ("{person} found a {object} near the {place}.", "One day {person} carried a {object} to the {place}.",
     "{person} had lost a {object} behind the {place}.", "Long ago {person} bought a {object} at the {place}."),
    ("The {object} was old, but it still worked.", "Nobody had seen such a {object} before.",
     "It was raining, and the {object} grew wet.", "A child asked to hold the {object}."),
    ("In the evening {person} took the {object} home.", "At last {person} gave the {object} to {friend}.",
     "So {person} and {friend} shared the {object}.", "Then {person} smiled and went to sleep."),
)  # fmt: skip


def solve_story(world: World, item: Item, rng: random.Random) -> Item:
    """A start, a middle and an end."""
    names = item | {"place": rng.choice(PLACES), "friend": rng.choice([p for p in PEOPLE if p != item["person"]])}
    return {"value": " ".join(rng.choice(sentences).format(**names) for sentences in STORY_PARTS)}


def check_story(world: World, item: Item, text: str) -> list[Check]:
    """Both names occur; each sentence has four words at least and stands once; the last one is ended.

    What happens is not checked.
    """
    sentences, words = re.findall(r"[^.!?]+[.!?]", text), words_of(text)
    whole = all(len(sentence.split()) >= 4 for sentence in sentences) and text.strip()[-1:] in tuple(".!?")
    return [
        Check("person", item["person"].lower() in words, "content"),
        Check("object", item["object"] in words, "content"),
        Check("sentences", whole and 3 <= len(sentences) <= 5, "form"),
        Check("one_paragraph", "\n" not in text.strip() and len(set(sentences)) == len(sentences), "form"),
    ]


# ---------------------------------------------------------------- game records (chess): Nim


def draw_game(world: World, rng: random.Random) -> Item:
    """Two different players and a number of stones."""
    first, second = rng.sample(PEOPLE, 2)
    return {"stones": rng.randint(5, 15), "first": first, "second": second}


def winner_of(item: Item, moves: Sequence) -> str:
    """The player who made the last move."""
    return item["first"] if len(moves) % 2 else item["second"]


def solve_game(world: World, item: Item, rng: random.Random) -> Item:
    """A game of random legal moves. In Nim each move takes 1 to 3 stones, and who takes the last one wins."""
    left, moves = item["stones"], []
    while left:
        take = rng.randint(1, min(3, left))
        left -= take
        moves.append(f"{take} ({left})")
    rounds = [f"{i // 2 + 1}. {' '.join(moves[i : i + 2])}" for i in range(0, len(moves), 2)]
    return {"value": "\n".join([*rounds, f"Winner: {winner_of(item, moves)}"])}


def check_game(world: World, item: Item, text: str) -> list[Check]:
    """Form: numbered rounds of two moves, the last of one or two, and then a line ``Winner:``.

    Content: each move takes 1 to 3 stones and says rightly how many are left, none is left at the end, and the
    winner moved last. Lines of another form count as no moves. How well the moves are chosen is not checked.
    """
    *rounds, last = text.strip().split("\n")
    numbered = [re.fullmatch(r"(\d+)\.((?: \d \(\d+\)){1,2})", line.strip()) for line in rounds]
    full = bool(rounds) and counts_up(numbered) and all(m[2].count("(") == 2 for m in numbered[:-1])
    moves = [tuple(map(int, p)) for m in numbered if m for p in re.findall(r"(\d) \((\d+)\)", m[2])]
    left, legal = item["stones"], bool(moves)
    for take, claimed in moves:
        left -= take
        legal &= 1 <= take <= 3 and left == claimed and left >= 0
    winner = f"winner: {winner_of(item, moves).lower()}"
    return [
        Check("record_form", full and last.lower().startswith("winner:"), "form"),
        Check("legal_moves", legal, "content"),
        Check("played_out", legal and left == 0, "content"),
        Check("winner", last.strip().lower() == winner, "content"),
    ]


# ---------------------------------------------------------------- functions (MBPP)

# Each function: description, argument name, lines of its body, and the reference that the verifier compares with.
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
    ("sums the list xs and adds {k}", "xs", ["t = {k}", "for x in xs:", "    t = t + x", "return t"],
     lambda k, xs: sum(xs) + k),
    ("counts the items of xs above {k}", "xs",
     ["n = 0", "for x in xs:", "    if x > {k}:", "        n = n + 1", "return n"],
     lambda k, xs: sum(x > k for x in xs)),
    ("gives {x} but at most {k}", "x", ["if x > {k}:", "    return {k}", "return x"], lambda k, x: min(x, k)),
    ("gives {x} but at least {k}", "x", ["if x < {k}:", "    return {k}", "return x"], lambda k, x: max(x, k)),
)  # fmt: skip
FUNCTION_NAMES = ["f", "g", "run", "solve", "work", "apply", "step", "task"]
NUMBERS_TRIED = (-7, 0, 1, 2, 3, 5, 8, 12, 17, 23, 40)
LISTS_TRIED = ([], [1], [4, 9, 15], [20, 3, 7, 11, 2], [12, 12, 5], [-4, 6, 18, 30])


def draw_function(world: World, rng: random.Random) -> Item:
    """One of ``FUNCTIONS`` with its number, and the name to give it."""
    which, k = rng.randrange(len(FUNCTIONS)), rng.randint(2, 20)
    what = FUNCTIONS[which][0].format(k=k, x="x")
    return {"which": which, "k": k, "name": rng.choice(FUNCTION_NAMES), "what": what}


def solve_function(world: World, item: Item, rng: random.Random) -> Item:
    """The function's source."""
    _, argument, body, _ = FUNCTIONS[item["which"]]
    lines = [f"def {item['name']}({argument}):", *(line.format(k=item["k"]) for line in body)]
    return {"value": "\n    ".join(lines)}


def check_function(world: World, item: Item, text: str) -> list[Check]:
    """The answer begins with the function's ``def``, and on fixed arguments it returns the right values and types.

    ``tacit.microworld.interpreter`` runs it, never Python itself. What that refuses counts as failed, and nothing
    is raised. Other arguments are not tried.
    """
    _, argument, _, reference = FUNCTIONS[item["which"]]
    source = text.strip("\n")

    def is_right(tried: int | list[int]) -> bool:
        expected = reference(item["k"], tried)
        try:
            result = call_function(source, name=item["name"], arguments=[tried])
        except RestrictedError:
            return False
        return type(result) is type(expected) and result == expected

    passes = all(map(is_right, NUMBERS_TRIED if argument == "x" else LISTS_TRIED))
    return [
        Check("defines_function", source.startswith(f"def {item['name']}("), "form"),
        Check("passes_cases", passes, "content"),
    ]


CRAFTS = (
    Family("add", (
        "What is {a} + {b}?", "Add {a} and {b}.",
        "{person} has {a} {thing} and finds {b} more. How many {thing} does {person} have now?",
        "There are {a} {thing} in a box and {b} in a bag. How many {thing} are there?",
        "{person} buys {a} {thing} and then {b} more. How many is that in all?"),
        draw_add, solve_add, lambda world, item, text: check_sum(text, item["a"] + item["b"]),
        full="{a} + {b}: {value}", computed=True),
    Family("subtract", (
        "What is {a} - {b}?", "Take {b} from {a}.",
        "{person} has {a} {thing} and loses {b}. How many {thing} are left?",
        "There are {a} {thing} and {person} takes {b} away. How many {thing} remain?",
        "{person} had {a} {thing} and gave {b} to a friend. How many does {person} still have?"),
        draw_subtract, solve_subtract, lambda world, item, text: check_sum(text, item["a"] - item["b"]),
        full="{a} - {b}: {value}", computed=True),
    Family("poem", (
        "Write a poem called {topic}.", "Write a poem about the {topic}.", "Compose a short poem on the {topic}.",
        "Can you write four lines about the {topic} that rhyme?", "I would like a rhyming poem about a {topic}."),
        one_of(topic=NOUNS), solve_poem, check_poem),
    Family("recipe", (
        "Recipe for {main} {dish}", "How do I make {main} {dish}?", "Give me a recipe for {main} {dish}.",
        "Tell me how to cook a {main} {dish}.", "I have some {main}. How can I turn it into a {dish}?"),
        one_of(main=INGREDIENTS, dish=DISHES), solve_recipe, check_recipe),
    Family("story", (
        "Tell me a story about {person} and a {object}.", "Write a short story about {person} and a {object}.",
        "Tell a tale of {person} with a {object}.", "Write a story in which {person} has a {object}.",
        "Make up a little story: {person} and the {object}."),
        one_of(person=PEOPLE, object=OBJECTS), solve_story, check_story, computed=True),
    Family("game", (
        "Play Nim with {stones} stones. {first} starts against {second}.",
        "Write the record of a game of Nim: {first} against {second}, {stones} stones.",
        "First: {first}\nSecond: {second}\nStones: {stones}",
        "Record a game of Nim with {stones} stones, first {first}, second {second}.",
        "{first} and {second} play Nim with {stones} stones. Write down their moves."),
        draw_game, solve_game, check_game, computed=True),
    Family("function", (
        "Write a Python function {name} that {what}.", "Write a function {name} in Python that {what}.",
        "Define a Python function called {name} that {what}.", "I need a Python function {name} that {what}.",
        "Please code {name}, a Python function that {what}."),
        draw_function, solve_function, check_function, computed=True),
)  # fmt: skip
