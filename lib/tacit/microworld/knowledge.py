"""Task families about facts, comparison, lists and words."""

from __future__ import annotations

import random

from tacit.microworld.family import DENIALS, Check, Family, Item, names_only, one_line, words_of
from tacit.microworld.words import ADJECTIVE_OPPOSITES, CATEGORIES, NOUNS, NUMBER_NAMES, RHYME_GROUPS
from tacit.microworld.world import ANIMAL_ATTRIBUTES, World


def fact_family(attribute: str, full: str, short: str, phrasings: tuple[str, ...]) -> Family:
    """A family that asks for one attribute of an entity; ``full`` and ``short`` are answer templates."""

    def draw(world: World, rng: random.Random) -> Item:
        return {"subject": rng.choice(world.holders(attribute))}

    def answer(world: World, item: Item, rng: random.Random, is_short: bool) -> str:
        value = world.facts[item["subject"], attribute]
        return (short if is_short else full).format(subject=item["subject"], value=value)

    def check(world: World, item: Item, text: str) -> list[Check]:
        subject = item["subject"]
        others = (set(world.animals) | set(world.towns)) - {subject}
        no_other = Check("no_other_subject", not {o.lower() for o in others} & set(words_of(text)), "content")
        right = world.facts[subject, attribute]
        return [*names_only(text, right, world.values(attribute)), no_other, one_line(text, most_words=14)]

    return Family(attribute, phrasings, draw, answer, check)


FACTS = (
    fact_family("home", "The {subject} lives in the {value}.", "In the {value}.", (
        "Where does the {subject} live?", "What is the home of the {subject}?", "Tell me where the {subject} lives.",
        "In which place does the {subject} live?", "Name the place that the {subject} calls home.")),
    fact_family("food", "The {subject} eats {value}.", "{value}.", (
        "What does the {subject} eat?", "What is the food of the {subject}?", "Tell me what the {subject} eats.",
        "Which food does the {subject} like?", "Name the thing that the {subject} feeds on.")),
    fact_family("colour", "The {subject} is {value}.", "{value}.", (
        "What colour is the {subject}?", "Which colour does the {subject} have?", "Tell me the colour of the {subject}.",
        "What is the colour of the {subject}?", "Name the colour that the {subject} has.")),
    fact_family("kind", "The {subject} is a kind of {value}.", "A {value}.", (
        "What kind of animal is the {subject}?", "What sort of creature is the {subject}?",
        "Tell me what kind of animal the {subject} is.", "Which kind of animal is the {subject}?",
        "Name the kind of animal that the {subject} belongs to.")),
    fact_family("size", "The {subject} is {value} in size.", "{value}.", (
        "How big is the {subject}?", "What size is the {subject}?", "Tell me the size of the {subject}.",
        "What is the size of the {subject}?", "Name the size that the {subject} has.")),
    fact_family("river", "The {value} flows through {subject}.", "The {value}.", (
        "Which river flows through {subject}?", "What is the river of {subject}?", "Tell me the river of {subject}.",
        "What river runs through {subject}?", "Name the river that {subject} lies on.")),
    fact_family("craft", "{subject} is known for its {value}.", "For its {value}.", (
        "What is {subject} known for?", "Which craft is {subject} known for?", "Tell me what {subject} is known for.",
        "What do people make in {subject}?", "Name the thing that {subject} is famous for.")),
    fact_family("mayor", "The mayor of {subject} is {value}.", "{value}.", (
        "Who is the mayor of {subject}?", "What is the name of the mayor of {subject}?",
        "Tell me who the mayor of {subject} is.", "Who leads the town of {subject}?",
        "Name the person who is mayor of {subject}.")),
)  # fmt: skip


def draw_bigger(world: World, rng: random.Random) -> Item:
    """Two animals of different held sizes."""
    holders = world.holders("size")
    while True:
        a, b = rng.sample(holders, 2)
        if world.facts[a, "size"] != world.facts[b, "size"]:
            return {"a": a, "b": b}


def by_size(world: World, item: Item) -> tuple[str, str]:
    """The item's animals, the bigger one first."""
    rank = ANIMAL_ATTRIBUTES["size"].index
    a, b = sorted((item["a"], item["b"]), key=lambda animal: -rank(world.facts[animal, "size"]))
    return a, b


def answer_bigger(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``bigger``."""
    big, small = by_size(world, item)
    return f"The {big}." if short else f"The {big} is bigger than the {small}."


def check_first_named(text: str, right: str, other: str, *, most_words: int) -> list[Check]:
    """A comparison: the answer names ``right`` first, the other at most after it, and says nothing to the contrary."""
    words = words_of(text)
    said = [w for w in words if w in (right.lower(), other.lower())]
    named = said in ([right.lower()], [right.lower(), other.lower()])
    compared = len(said) < 2 or bool({"bigger", "larger", "greater", "more"} & set(words))
    contrary = ({"less", "smaller", "fewer"} | DENIALS) & set(words)
    strangers = [w for w in words if w.isdigit() and w not in said]
    return [
        Check("value", named and compared and not contrary, "content"),
        Check("no_other_value", not strangers, "content"),
        one_line(text, most_words=most_words),
    ]


def check_bigger(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``bigger`` on one answer."""
    others = set(world.animals) - {item["a"], item["b"]}
    no_other = Check("no_other_subject", not others & set(words_of(text)), "content")
    return [*check_first_named(text, *by_size(world, item), most_words=12), no_other]


def draw_larger(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``larger``."""
    a, b = rng.sample(range(10, 100), 2)
    return {"a": a, "b": b}


def answer_larger(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``larger``."""
    high, low = max(item.values()), min(item.values())
    return f"{high}." if short else f"{high} is larger than {low}."


def check_larger(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``larger`` on one answer."""
    return check_first_named(text, str(max(item.values())), str(min(item.values())), most_words=8)


def draw_list(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``list``."""
    n = rng.choice(sorted(NUMBER_NAMES))
    return {"n": n, "number": NUMBER_NAMES[n], "category": rng.choice(sorted(CATEGORIES))}


def answer_list(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``list``."""
    chosen = ", ".join(rng.sample(CATEGORIES[item["category"]], item["n"]))
    return f"{chosen}." if short else f"{item['number'].capitalize()} {item['category']} are {chosen}."


def check_list(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``list`` on one answer."""
    frame = {"are", "and", item["number"], item["category"]}
    named = [w for w in words_of(text) if w not in frame]
    members = set(CATEGORIES[item["category"]])
    return [
        Check("count", len(named) == item["n"], "form"),
        Check("distinct", len(set(named)) == len(named) > 0, "form"),
        Check("members", bool(named) and set(named) <= members, "content"),
        one_line(text, most_words=14),
    ]


def draw_opposite(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``opposite``."""
    return {"word": rng.choice(rng.choice(ADJECTIVE_OPPOSITES))}


OPPOSITE = {a: b for pair in ADJECTIVE_OPPOSITES for a, b in (pair, pair[::-1])}


def answer_opposite(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``opposite``."""
    word = OPPOSITE[item["word"]]
    return f"{word}." if short else f"The opposite of {item['word']} is {word}."


def check_opposite(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``opposite`` on one answer."""
    others = set(OPPOSITE) - {item["word"]}
    return [*names_only(text, OPPOSITE[item["word"]], others), one_line(text, most_words=10)]


def draw_rhyme(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``rhyme``."""
    return {"word": rng.choice(rng.choice(RHYME_GROUPS))}


def rhymes_with(word: str) -> set[str]:
    """The words of the micro world that rhyme with ``word``, itself excluded."""
    return {w for group in RHYME_GROUPS if word in group for w in group} - {word}


def answer_rhyme(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``rhyme``."""
    rhyme = rng.choice(sorted(rhymes_with(item["word"])))
    return f"{rhyme}." if short else f"A word that rhymes with {item['word']} is {rhyme}."


def check_rhyme(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``rhyme`` on one answer."""
    frame = {"a", "word", "that", "rhymes", "with", "is", item["word"]}
    named = [w for w in words_of(text) if w not in frame]
    right = len(named) == 1 and named[0] in rhymes_with(item["word"])
    return [Check("rhyme", right, "content"), one_line(text, most_words=10)]


def draw_words(world: World, rng: random.Random, *, low: int, high: int) -> Item:
    """Draw an item of the family ``words``."""
    words = rng.sample(NOUNS, rng.randint(low, high))
    return {"words": words, "text": ", ".join(words)}


def sequence_check(text: str, right: list[str], *, frame: set[str]) -> list[Check]:
    """Content: the words outside ``frame`` are exactly ``right``, in order and in case."""
    named = [w.strip(",.:") for w in text.split()]
    exact = [w for w in named if w and w.lower() not in frame] == right
    return [Check("sequence", exact, "content"), one_line(text, most_words=len(right) + len(frame))]


def answer_reverse(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``reverse``."""
    reverse = ", ".join(item["words"][::-1])
    return f"{reverse}." if short else f"In reverse order: {reverse}."


def check_reverse(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``reverse`` on one answer."""
    return sequence_check(text, item["words"][::-1], frame={"in", "reverse", "order"})


def answer_capitals(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``capitals``."""
    upper = item["text"].upper()
    return f"{upper}." if short else f"In big letters: {upper}."


def check_capitals(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``capitals`` on one answer."""
    return sequence_check(text, [w.upper() for w in item["words"]], frame={"in", "big", "letters"})


def draw_spell(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``spell``."""
    return {"word": rng.choice(NOUNS)}


def answer_spell(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``spell``."""
    letters = "-".join(item["word"])
    return f"{letters}." if short else f"The word {item['word']} is spelled {letters}."


def check_spell(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``spell`` on one answer."""
    spelled = [w.strip(".,") for w in text.split() if "-" in w]
    right = spelled == ["-".join(item["word"])]
    return [Check("letters", right, "content"), one_line(text, most_words=8)]


def draw_count(world: World, rng: random.Random) -> Item:
    """Draw an item of the family ``count``."""
    first = rng.randint(1, 60)
    return {"first": first, "last": first + rng.randint(3, 7)}


def answer_count(world: World, item: Item, rng: random.Random, short: bool) -> str:
    """A right answer to an item of the family ``count``."""
    numbers = ", ".join(map(str, range(item["first"], item["last"] + 1)))
    return f"{numbers}." if short else f"Counting: {numbers}."


def check_count(world: World, item: Item, text: str) -> list[Check]:
    """The checks of the family ``count`` on one answer."""
    return sequence_check(text, [str(n) for n in range(item["first"], item["last"] + 1)], frame={"counting"})


KNOWLEDGE = (
    *FACTS,
    Family("bigger", (
        "Which is bigger, the {a} or the {b}?", "Which animal is bigger: the {a} or the {b}?",
        "Is the {a} or the {b} the bigger animal?", "Tell me which is bigger, the {a} or the {b}.",
        "Of the {a} and the {b}, name the bigger one."), draw_bigger, answer_bigger, check_bigger),
    Family("larger", (
        "Which number is larger, {a} or {b}?", "Which is more, {a} or {b}?", "Tell me the larger number: {a} or {b}.",
        "Of {a} and {b}, which is larger?", "Name the larger of the numbers {a} and {b}."),
        draw_larger, answer_larger, check_larger, computed=True),
    Family("list", (
        "List {number} {category}.", "Name {number} {category}.", "Give me {number} {category}.",
        "Can you list {number} {category}?", "Write down the names of {number} {category}."),
        draw_list, answer_list, check_list),
    Family("opposite", (
        "What is the opposite of {word}?", "Which word is the opposite of {word}?", "Tell me the opposite of {word}.",
        "Give the opposite of {word}.", "Name a word that means the opposite of {word}."),
        draw_opposite, answer_opposite, check_opposite),
    Family("rhyme", (
        "What rhymes with {word}?", "Which word rhymes with {word}?", "Tell me a word that rhymes with {word}.",
        "Give a rhyme for {word}.", "Name a word that sounds like {word}."),
        draw_rhyme, answer_rhyme, check_rhyme),
    Family("reverse", (
        "Reverse these words: {text}.", "Write these words in reverse order: {text}.", "Put these words backwards: {text}.",
        "What is the reverse of this list: {text}?", "Say these words from last to first: {text}."),
        lambda world, rng: draw_words(world, rng, low=2, high=4), answer_reverse, check_reverse, computed=True),
    Family("capitals", (
        "Write these words in big letters: {text}.", "Put these words in big letters: {text}.",
        "Turn these words into big letters: {text}.", "What are these words in big letters: {text}?",
        "Make the letters of these words big: {text}."),
        lambda world, rng: draw_words(world, rng, low=1, high=3), answer_capitals, check_capitals, computed=True),
    Family("spell", (
        "Spell the word {word}.", "How do you spell {word}?", "Tell me how to spell {word}.",
        "What letters make the word {word}?", "Write the word {word} letter by letter."),
        draw_spell, answer_spell, check_spell),
    Family("count", (
        "Count from {first} to {last}.", "Write the numbers from {first} to {last}.", "Please count from {first} to {last}.",
        "What are the numbers from {first} to {last}?", "Say every number from {first} up to {last}."),
        draw_count, answer_count, check_count, computed=True),
)  # fmt: skip
