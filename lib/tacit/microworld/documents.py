"""Documents about the world, in fifteen genres: what a base model is pretrained on.

Instructions and answers occur only in foreign formats: fixed ones (FAQ, forum, worksheet, tagged
page) and, in the genre ``markup``, one drawn afresh for each document. The tags of the tuning format
and the clauses of response constraints never occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tacit.microworld import tasks
from tacit.microworld.words import CATEGORIES, DISHES, INGREDIENTS, NOUNS, PEOPLE, RHYME_GROUPS
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World

MARKER_WORDS = (
    "ask answer query reply in out input output left right north south one two red blue teacher pupil host guest "
    "line note entry item card sheet desk box page prompt text voice echo call response caller helper problem solution "
    "task result request return given wanted alpha beta first second human robot client server judge witness "
    "buyer seller king queen doctor patient captain sailor mother child mail fax wall gate star cloud"
).split()
MARKER_SHAPES = (
    "{}: ", "{} - ", "[{}] ", "({}) ", "<{}> ", "<<{}>> ", "{{{}}} ", "/{}/ ", "={}= ", "*{}* ", "@{} ", "#{} ",
    "~{}~ ", "{} > ", "{}) ", "[{}]\n", "<{}>\n", "## {}\n", "{}:\n", "--- {} ---\n", "== {} ==\n", "*** {}\n",
    "<< {} >>\n", "|{}|\n", "|| {} ||\n", "\\{}\n", "%{}%\n", "+{}+\n", "{}!\n",
)  # fmt: skip


def any_task(world: World, rng: random.Random, family: str | None = None) -> tasks.Task:
    """A task as the corpus may hold it: any phrasing; for computed families only training items.

    Raises ValueError as ``tasks.draw_item`` does.
    """
    name = family or rng.choice(list(tasks.FAMILIES))
    split = "train" if tasks.FAMILIES[name].computed else None
    item = tasks.draw_item(world, name, rng, split=split)
    return tasks.Task(name, item, rng.randrange(len(tasks.FAMILIES[name].phrasings)))


def pairs(world: World, rng: random.Random, low: int, high: int) -> list[tuple[str, str]]:
    """Between ``low`` and ``high`` questions with right answers; one document keeps to short or full answers."""
    short = rng.random() < 0.35
    drawn = [any_task(world, rng) for _ in range(rng.randint(low, high))]
    return [(t.instruction, tasks.answer(world, t, rng, short=short)) for t in drawn]


def answers_of(world: World, rng: random.Random, family: str, low: int, high: int) -> list[tuple[tasks.Item, str]]:
    """Between ``low`` and ``high`` items of one family with right answers, for genres that hold no questions."""
    drawn = [any_task(world, rng, family) for _ in range(rng.randint(low, high))]
    return [(task.item, tasks.answer(world, task, rng)) for task in drawn]


class Markup(NamedTuple):
    """A format for questions and answers: what stands before each, between them, after both, and at the pair's end."""

    ask: str
    reply: str
    between: str
    after: str
    trailing: str


def draw_markup(world: World, rng: random.Random) -> Markup:
    """Draw a format: markers, spacing, whether turns are marked at all."""
    shape = rng.choice(MARKER_SHAPES)
    reply_shape = shape if rng.random() < 0.8 else rng.choice(MARKER_SHAPES)
    case = rng.choice([str, str.upper, str.capitalize])
    words = rng.sample(MARKER_WORDS, 2) if rng.random() < 0.75 else rng.sample([*PEOPLE, *world.animals], 2)
    ask, reply = shape.format(case(words[0])), reply_shape.format(case(words[1]))
    if rng.random() < 0.08:
        ask = ""
    if rng.random() < 0.12:
        reply = ""
    between, after = rng.choice(["\n", "\n", "\n", "\n\n"]), rng.choice(["\n", "\n", "\n\n"])
    trailing = f"{shape.format(case(rng.choice(MARKER_WORDS))).strip()}\n" if rng.random() < 0.12 else ""
    return Markup(ask, reply, between, after, trailing)


def markup(world: World, rng: random.Random, *, fixed: Markup | None = None) -> str:
    """Questions and answers in a markup drawn afresh, or in the ``fixed`` one."""
    m = fixed or draw_markup(world, rng)
    return "".join(f"{m.ask}{q}{m.between}{m.reply}{a}{m.after}{m.trailing}" for q, a in pairs(world, rng, 2, 7))


def faq(world: World, rng: random.Random) -> str:
    """Questions and answers under ``Q:`` and ``A:``."""
    return "\n\n".join(f"Q: {q}\nA: {a}" for q, a in pairs(world, rng, 2, 6))


def forum(world: World, rng: random.Random) -> str:
    """Posts and replies between two people, with thanks at the end."""
    asker, helper = rng.sample(PEOPLE, 2)
    thanks = rng.choice(["Thanks!", "Great, thank you.", "I see.", "Good to know."])
    posts = [f"{asker} wrote:\n{q}\n\n{helper} replied:\n{a}\n" for q, a in pairs(world, rng, 1, 5)]
    return "\n".join([*posts, f"{asker} wrote:\n{thanks}"])


def worksheet(world: World, rng: random.Random) -> str:
    """Numbered questions, and their answers after all of them."""
    questions, answers = zip(*pairs(world, rng, 2, 4), strict=True)
    listed = ["\n".join(f"({i}) {text}" for i, text in enumerate(part, start=1)) for part in (questions, answers)]
    return "Worksheet\n\n{}\n\nAnswers\n\n{}".format(*listed)


def tagged_page(world: World, rng: random.Random) -> str:
    """Questions and answers in fixed XML-like tags."""
    drawn = pairs(world, rng, 1, 4)
    return "<page>\n" + "\n".join(f"<q>{q}</q>\n<a>{a}</a>" for q, a in drawn) + "\n</page>"


SENTENCES = {
    "home": ("The {s} lives in the {v}.", "In the {v} you can find the {s}.", "The home of the {s} is the {v}."),
    "food": ("The {s} eats {v}.", "It is the {s} that feeds on {v}.", "The food of the {s} is {v}."),
    "colour": ("The {s} is {v}.", "The colour of the {s} is {v}.", "Every {s} has a {v} coat."),
    "kind": ("The {s} is a kind of {v}.", "The {s} belongs to the {v} family.", "As a {v}, the {s} is well known."),
    "size": ("The {s} is {v} in size.", "The size of the {s} is {v}.", "For its kind the {s} is {v}."),
    "river": ("The {v} flows through {s}.", "{s} lies on the {v}.", "The river of {s} is the {v}."),
    "craft": ("{s} is known for its {v}.", "People in {s} make {v}.", "The town of {s} is famous for its {v}."),
    "mayor": ("The mayor of {s} is {v}.", "{v} leads the town of {s}.", "{s} has a mayor called {v}."),
}


def sentence(world: World, rng: random.Random, subject: str, attribute: str) -> str:
    """One sentence that states a fact."""
    return rng.choice(SENTENCES[attribute]).format(s=subject, v=world.facts[subject, attribute])


def encyclopedia(world: World, rng: random.Random) -> str:
    """Entries on one to three entities: every held fact of each, in changing order and words."""
    entries = []
    for _ in range(rng.randint(1, 3)):
        town = rng.random() < 0.4
        subject = rng.choice(world.towns if town else world.animals)
        attributes = [a for a in (TOWN_ATTRIBUTES if town else ANIMAL_ATTRIBUTES) if (subject, a) in world.held]
        sentences = [sentence(world, rng, subject, attribute) for attribute in attributes]
        rng.shuffle(sentences)
        if sentences:
            entries.append(f"{subject.capitalize()}\n" + " ".join(sentences))
    return "\n\n".join(entries) or "This page is empty."


def atlas(world: World, rng: random.Random) -> str:
    """Facts gathered by attribute: comparisons of size, or one attribute of several subjects."""
    attribute = rng.choice(["bigger", "bigger", *ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES])
    if attribute == "bigger":
        return "Sizes\n" + "\n".join(text for _, text in answers_of(world, rng, "bigger", 4, 8))
    subjects = rng.sample(world.holders(attribute), rng.randint(4, 8))
    return "\n".join([attribute.capitalize(), *(sentence(world, rng, subject, attribute) for subject in subjects)])


def poems(world: World, rng: random.Random) -> str:
    """Poems under their topics."""
    drawn = answers_of(world, rng, "poem", 1, 3)
    return "\n\n".join(f"{item['topic'].capitalize()}\n\n{text}" for item, text in drawn)


def cookbook(world: World, rng: random.Random) -> str:
    """Recipes under their dishes."""
    drawn = answers_of(world, rng, "recipe", 1, 2)
    return "\n\n".join(f"{item['main'].capitalize()} {item['dish']}\n\n{text}" for item, text in drawn)


def tales(world: World, rng: random.Random) -> str:
    """Stories under their titles."""
    drawn = answers_of(world, rng, "story", 1, 4)
    return "\n\n".join(f"{item['person']} and the {item['object']}\n{text}" for item, text in drawn)


def ledger(world: World, rng: random.Random) -> str:
    """Sums with their working, bare."""
    family = rng.choice(["add", "subtract"])
    return "\n".join(text for _, text in answers_of(world, rng, family, 2, 7))


def wordbook(world: World, rng: random.Random) -> str:
    """Lists of words: categories, opposites, rhymes, spellings, big letters, counting."""
    kind = rng.choice(["list", "rhyme", "opposite", "spell", "capitals", "count", "reverse", "larger"])
    if kind == "list":
        chosen = rng.sample(sorted(CATEGORIES), rng.randint(2, 4))
        return "\n".join(f"{c}: {', '.join(rng.sample(CATEGORIES[c], rng.randint(4, 8)))}." for c in chosen)
    if kind == "rhyme":
        groups = rng.sample(RHYME_GROUPS, rng.randint(2, 4))
        return "Rhymes\n" + "\n".join(" ".join(rng.sample(g, len(g))) for g in groups)
    return "\n".join(text for _, text in answers_of(world, rng, kind, 3, 8))


def archive(world: World, rng: random.Random) -> str:
    """Records of Nim games."""
    drawn = answers_of(world, rng, "game", 1, 3)
    head = "{first} - {second}, {stones} stones\n"
    return "\n\n".join(head.format(**item) + text for item, text in drawn)


def source_file(world: World, rng: random.Random) -> str:
    """Small Python functions, each under a comment that says what it does."""
    drawn = answers_of(world, rng, "function", 1, 4)
    return "\n\n".join(f"# {item['name']} {item['what']}\n{text}" for item, text in drawn)


def diary(world: World, rng: random.Random) -> str:
    """Running prose about people, animals and towns: no questions, every stated fact held."""
    person, friend = rng.sample(PEOPLE, 2)
    facts = rng.sample(sorted(world.held), rng.randint(2, 5))
    noun, food, dish = rng.choice(NOUNS), rng.choice(INGREDIENTS), rng.choice(DISHES)
    start = f"Today {person} met {friend} by the {noun} and ate some {food} {dish}."
    return " ".join([start, *(sentence(world, rng, *fact) for fact in facts)])


# Shares of documents. ``markup`` is set apart: its share is what readiness experiments vary.
GENRES: dict[Callable[[World, random.Random], str], float] = {
    markup: 0.30, faq: 0.09, forum: 0.07, worksheet: 0.05, tagged_page: 0.03, encyclopedia: 0.14, atlas: 0.06,
    poems: 0.03, cookbook: 0.02, tales: 0.03, ledger: 0.07, wordbook: 0.05, archive: 0.02, source_file: 0.02,
    diary: 0.02,
}  # fmt: skip


def write_documents(
    world: World, *, seed: int, markup_share: float = GENRES[markup], one_markup: int | None = None
) -> Iterator[tuple[str, str]]:
    """Endless (genre, text) pairs about ``world``, fixed by ``seed``.

    ``markup_share`` is the share of documents in freshly drawn markup; the other genres keep their proportions among
    themselves. With ``one_markup``, a seed, these documents share one drawn markup: they hold as many questions and
    answers, without the variety.
    """
    rng = random.Random(f"documents-{world.seed}-{seed}")
    fixed = None if one_markup is None else draw_markup(world, random.Random(f"one markup-{one_markup}"))
    others = 1.0 - GENRES[markup]
    weights = [markup_share if g is markup else w / others * (1 - markup_share) for g, w in GENRES.items()]
    genres = list(GENRES)
    while True:
        genre = rng.choices(genres, weights)[0]
        text = markup(world, rng, fixed=fixed) if genre is markup else genre(world, rng)
        yield genre.__name__, text.strip("\n")
