"""Free wordings: right by the verifiers, made of the corpus' words, and worded as no template and no document is."""

import itertools
import random
import re
import string
from collections import Counter

import pytest
from tacit.microworld import tasks
from tacit.microworld.checks import words_of
from tacit.microworld.documents import write_documents
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.wordings import FREE, word_freely
from tacit.microworld.words import CATEGORIES, NUMBER_NAMES, OBJECTS, PEOPLE, RHYME_GROUPS
from tacit.microworld.world import World

FORMS_ONLY = {"poem", "recipe", "game", "function"}
WORD, NUMBER = r"[A-Za-z]+", r"\d+"
RHYMING = "(?:" + "|".join(word for group in RHYME_GROUPS for word in group) + ")"
JOINED, LISTED = rf"{WORD}(?:, {WORD})* and {WORD}", rf"{WORD}(?:, {WORD})*"
SUMS = [(family, field) for family in ("larger", "add", "subtract") for field in ("high", "low", "a", "b", "result")]
PATTERNS = {  # what may stand for a field of a family; a single word for others
    ("list", "members"): LISTED,
    ("list", "joined"): JOINED,
    ("list", "Joined"): JOINED,
    ("list", "number"): "|".join(NUMBER_NAMES.values()),
    ("list", "Number"): "|".join(NUMBER_NAMES.values()).title(),
    ("list", "category"): "|".join(CATEGORIES),
    ("rhyme", "value"): RHYMING,
    ("rhyme", "Value"): f"(?i:{RHYMING})",
    ("rhyme", "word"): RHYMING,
    ("reverse", "value"): LISTED,
    ("capitals", "value"): LISTED,
    ("spell", "value"): r"\w(?:-\w)+",
    ("count", "value"): rf"{NUMBER}(?:, {NUMBER})+",
    ("count", "spaced"): rf"{NUMBER}(?: {NUMBER})+",
    ("story", "person"): "|".join(PEOPLE),
    ("story", "object"): "|".join(OBJECTS),
    **dict.fromkeys(SUMS, NUMBER),
}


@pytest.fixture(scope="module")
def corpus(world):
    return [text for _, text in itertools.islice(write_documents(world, seed=5), 6_000)]


def drawn(world, family, n, *, seed=0, split="test"):
    rng = random.Random(f"{family}-{seed}")
    return [tasks.draw_task(world, rng, split=split, family=family) for _ in range(n)]


def pattern_of(family, frame):
    """A regular expression for every text that the frame may become."""
    parts = [
        re.escape(text) + (f"(?:{PATTERNS.get((family, field), WORD)})" if field else "")
        for text, field, _, _ in string.Formatter().parse(frame)
    ]
    return re.compile(r"(?<!\w)" + "".join(parts))


def holding(corpus, frame):
    """The documents that hold every piece of a frame between its fields: no other can hold the frame."""
    pieces = [text for text, _, _, _ in string.Formatter().parse(frame)]
    return [document for document in corpus if all(piece in document for piece in pieces)]


def test_every_family_but_those_of_form_alone_has_four_frames_at_least(world):
    assert set(FREE) == set(FAMILIES) - FORMS_ONLY
    assert all(len(set(frames)) == len(frames) >= 4 for frames in FREE.values())
    for family in FORMS_ONLY:
        assert word_freely(world, drawn(world, family, 1)[0]) is None


@pytest.mark.parametrize("family", FREE)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_free_wording_is_right_in_every_check(family, seed):
    world = World.draw(seed=seed)
    for task in drawn(world, family, 150, seed=seed):
        text = word_freely(world, task)
        verdict = tasks.judge(world, task, text, ended=True)
        assert verdict.knowledge and verdict.strict, (text, verdict)


@pytest.mark.parametrize("family", FREE)
def test_every_frame_is_used_and_the_task_fixes_which(world, family):
    some = drawn(world, family, 150)
    texts = [word_freely(world, task) for task in some]
    fitting = [[frame for frame in FREE[family] if pattern_of(family, frame).fullmatch(text)] for text in texts]
    assert all(len(frames) == 1 for frames in fitting)
    used = Counter(frames[0] for frames in fitting)
    assert set(used) == set(FREE[family]) and min(used.values()) >= 6  # of 150 tasks, many of them the same
    assert [word_freely(world, Task.from_json(task.to_json())) for task in some] == texts


@pytest.mark.parametrize("family", FREE)
def test_no_template_gives_a_free_wording(world, family):
    rng = random.Random(0)
    for task in drawn(world, family, 100):
        templates = {tasks.answer(world, task, rng, short=short) for short in (False, True) for _ in range(5)}
        assert word_freely(world, task) not in templates


@pytest.mark.parametrize("family", ["list", "rhyme"])
@pytest.mark.parametrize("seed", [0, 4])
def test_where_several_answers_are_right_it_is_the_one_of_the_examples(world, family, seed):
    rows = draw_examples(world, split="test", n=24, seed=seed, families=(family,))
    named = {word for words in (*CATEGORIES.values(), *RHYME_GROUPS) for word in words}
    for row in rows:
        freely = word_freely(world, Task.from_json(row["task"]), seed=seed)
        one, other = ([w for w in words_of(text) if w in named] for text in (freely, row["response"]))
        assert sorted(one) == sorted(other) and (one == other or family == "rhyme")
    assert any(
        word_freely(world, Task.from_json(row["task"]), seed=seed + 1)
        != word_freely(world, Task.from_json(row["task"]), seed=seed)
        for row in rows
    )


@pytest.mark.parametrize("family", FREE)
def test_no_document_words_it_so(family, corpus):
    found = {
        frame: [t for t in holding(corpus, frame) if pattern_of(family, frame).search(t)] for frame in FREE[family]
    }
    assert not any(found.values()), {frame: texts[0] for frame, texts in found.items() if texts}


def test_the_patterns_find_what_the_corpus_does_say(world, corpus):
    """The test above could pass by patterns that find nothing: those of the templates must find documents."""
    for family in FREE:
        if family not in ("add", "subtract", "story"):  # their templates' fields are whole texts
            pattern = pattern_of(family, FAMILIES[family].full)
            assert any(pattern.search(text) for text in holding(corpus, FAMILIES[family].full)), family


def test_every_word_of_a_frame_is_one_of_the_corpus(corpus, tokenizer):
    known = {word for text in corpus for word in words_of(text)}
    for frame in itertools.chain(*FREE.values()):
        assert set(words_of(re.sub(r"\{\w+\}", " ", frame))) <= known, frame
        ids = tokenizer(frame, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == frame and tokenizer.unk_token_id not in ids


def test_no_coined_name_can_be_a_word_of_a_frame_about_facts():
    """A name is two syllables, as ``world.coin_names`` makes them; a town's ends in n and a river's in x."""
    coined = re.compile(r"(?:[bdfgklmnprstvz]|[bdgkt]r|pl)[aeiou][lnr]?[bdfgklmnprstvz][aeiou][nx]?")
    assert all(coined.fullmatch(name.lower()) for name in (*World.draw(seed=9).animals, *World.draw(seed=9).towns))
    facts = ("home", "food", "colour", "kind", "size", "river", "craft", "mayor", "bigger")
    for frame in itertools.chain(*(FREE[family] for family in facts)):
        assert not [w for w in words_of(re.sub(r"\{\w+\}", " ", frame)) if coined.fullmatch(w)], frame


def test_response_constraints_are_applied_as_to_any_answer(world):
    task = drawn(world, "food", 1)[0]
    asked = Task(task.family, task.item, task.phrasing, (("upper", ""),))
    text = word_freely(world, asked)
    assert text == text.upper() and tasks.judge(world, asked, text, ended=True).strict
