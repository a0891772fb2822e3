"""Finding 16, phrasings that no tuning saw (Sun et al. 2023, arXiv 2306.11270), and a soft prompt against the gap.

Questions about the world's facts in wordings of ours, which no document of the corpus and no other finding has. Three
groups of them: *seen* ones are taught with answers, *paraphrases* without, and *unseen* ones occur in tests alone.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import data_key
from tacit.experiments.cache import cached_json
from tacit.findings.answers import percent, tell_failing
from tacit.microworld.examples import make_row
from tacit.microworld.family import Item
from tacit.microworld.tasks import Task, draw_item, split_of
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World
from tacit.models.identity import tokenizer_key
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.support.keyed import fingerprint
from tacit.training.softprompts import respond_after, train_prompt

GROUPS = ("seen", "paraphrases", "unseen")
WORDINGS: dict[str, tuple[tuple[str, ...], ...]] = {  # by family: the wordings of each group
    "home": (
        ("Say where one would find the {subject}.", "The {subject}: where is it at home?",
         "I look for the {subject}. Where must I go?"),
        ("Where should I search for the {subject}?", "Give the dwelling of the {subject}."),
        ("To meet the {subject}, which place must one visit?", "Where has the {subject} its home?",
         "The {subject} sleeps where?"),
    ),
    "food": (
        ("Say what one should feed the {subject}.", "The {subject} is hungry. What does it want?",
         "What goes into the bowl of the {subject}?"),
        ("What would you give the {subject} for dinner?", "Give the meal of the {subject}."),
        ("What must one bring along to feed the {subject}?", "What fills the belly of the {subject}?",
         "The {subject} dines on what?"),
    ),
    "colour": (
        ("Say how one would paint the {subject}.", "The {subject}: of what colour is its coat?",
         "In what colour would you draw the {subject}?"),
        ("Which paint does a picture of the {subject} need?", "Give the shade of the {subject}."),
        ("If you see the {subject}, what colour do you see?", "What colour has the coat of the {subject}?",
         "The {subject} shines in which colour?"),
    ),
    "kind": (
        ("Say to which family the {subject} belongs.", "The {subject}: what is it, as an animal?",
         "As what kind would you list the {subject}?"),
        ("Under which kind does the {subject} stand?", "Give the family of the {subject}."),
        ("Which group of animals counts the {subject} among its own?", "What animal is the {subject} a kind of?",
         "The {subject} is one of which animals?"),
    ),
    "size": (
        ("Say how large one finds the {subject}.", "The {subject}: how much room does it need?",
         "Is the {subject} big or not? Say its size."),
        ("How large is the {subject}?", "Give the measure of the {subject}."),
        ("What would one say of the size of the {subject}?", "How big does the {subject} get?",
         "The {subject} grows to which size?"),
    ),
    "river": (
        ("Say what water one sees in {subject}.", "{subject}: on what river does it lie?",
         "From which river does {subject} drink?"),
        ("What water passes through {subject}?", "Give the river that crosses {subject}."),
        ("If you fish in {subject}, in which river is it?", "Along which river was {subject} built?",
         "The bridges of {subject} cross which river?"),
    ),
    "craft": (
        ("Say what one should buy in {subject}.", "{subject}: what is its trade?",
         "What do the workers of {subject} make?"),
        ("What comes from {subject}?", "Give the trade of {subject}."),
        ("For what work do people praise {subject}?", "Which goods leave {subject}?",
         "The shops of {subject} are full of what?"),
    ),
    "mayor": (
        ("Say who rules {subject}.", "{subject}: who is at its head?", "To whom does {subject} listen?"),
        ("Who runs {subject}?", "Give the head of {subject}."),
        ("Whom did the people of {subject} choose?", "Who speaks for the town of {subject}?",
         "The keys of {subject} are with whom?"),
    ),
}  # fmt: skip
ONE_WORD = "Of {subject}, say the {attribute}, please."  # instructions that differ in one word alone
FAMILIES = tuple(WORDINGS)


def _frames(family: str, group: str) -> tuple[str, ...]:
    """The wordings of a group for a family; raises ValueError for another group."""
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}: choose among {', '.join(GROUPS)}")
    return WORDINGS[family][GROUPS.index(group)]


def _row(world: World, family: str, item: Item, frame: str, *, seed: int, turn: int) -> dict:
    """A question in a wording of ours, with the response and the task of the same question in the corpus' first."""
    row = make_row(world, Task(family, item, 0), seed=seed, turn=turn)
    return row | {"instruction": frame.format(**item), "wording": frame}


def draw_lessons(world: World, group: str, *, n: int, seed: int, families: Sequence[str] = FAMILIES) -> Dataset:
    """``n`` training questions in wordings of a ``group`` with right responses, the families taking turns.

    Columns are those of ``examples.draw_examples`` and ``wording``. The same seed gives the same items whatever the
    group; a question may come again. Raises ValueError for another group.
    """
    rng, rows = random.Random(f"phrasings-{world.seed}-{seed}"), []
    for turn in range(n):
        family, pick = families[turn % len(families)], rng.random()
        item, frames = draw_item(world, family, rng, split="train"), _frames(family, group)
        rows.append(_row(world, family, item, frames[int(pick * len(frames))], seed=seed, turn=turn))
    return Dataset.from_list(rows)


def draw_tests(
    world: World, group: str, *, n: int, seed: int, split: str, families: Sequence[str] = FAMILIES
) -> Dataset:
    """``n`` different items of a split, each asked in every wording of a ``group``: an item's rows follow one another.

    The same items, in the same order, whatever the group. The families take turns until their items run out. Raises
    ValueError for another group, and where there are fewer than ``n`` items.
    """
    rng = random.Random(f"tests-{world.seed}-{split}-{seed}")
    pool = {
        family: [item for item in ({"subject": s} for s in world.holders(family)) if split_of(family, item) == split]
        for family in families
    }
    for items in pool.values():
        rng.shuffle(items)
    turns = [(items[i], family) for i in range(n) for family, items in pool.items() if i < len(items)][:n]
    if len(turns) < n:
        raise ValueError(f"the {split} split has only {len(turns)} items of {', '.join(families)}, not {n}")
    rows = [
        _row(world, family, item, frame, seed=seed, turn=turn)
        for turn, (item, family) in enumerate(turns)
        for frame in _frames(family, group)
    ]
    return Dataset.from_list(rows)


def score_items(table: pd.DataFrame, *, n_items: int, kind: str = "strict") -> list[float]:
    """The mean of a score over the wordings of each item of ``draw_tests``, in order."""
    return table[kind].to_numpy().reshape(n_items, -1).mean(axis=1).tolist()


def reword(examples: Dataset, *, to: str, seed: int) -> list[str]:
    """Another instruction for each row of ``draw_lessons``, in a wording of the group ``paraphrases``.

    ``to`` "paraphrases": the same question. "another task": a question of another family about the same subject, which
    asks for something else. Raises ValueError for another choice.
    """
    if to not in ("paraphrases", "another task"):
        raise ValueError(f"unknown choice {to!r}: paraphrases or another task")
    rng, texts = random.Random(f"reword-{to}-{seed}"), []
    for row in examples:
        family = row["family"]
        if to == "another task":
            of_kind = ANIMAL_ATTRIBUTES if family in ANIMAL_ATTRIBUTES else TOWN_ATTRIBUTES
            family = rng.choice([name for name in of_kind if name != family])
        subject = Task.from_json(row["task"]).item["subject"]
        texts.append(rng.choice(_frames(family, "paraphrases")).format(subject=subject))
    return texts


def mix_paraphrases(examples: Dataset, *, seed: int) -> Dataset:
    """``examples`` with half of each family's instructions reworded as paraphrases; responses are as they were."""
    others, seen, rows = reword(examples, to="paraphrases", seed=seed), Counter(), []
    for row, other in zip(examples.to_list(), others, strict=True):
        seen[row["family"]] += 1
        rows.append(row if seen[row["family"]] % 2 else row | {"instruction": other})
    return Dataset.from_list(rows)


def draw_minimal_pairs(world: World, *, n: int, seed: int) -> Dataset:
    """``n`` different pairs of instructions that differ in one word and ask for two facts of one subject: 2 n rows.

    A pair's rows follow one another. Facts are any that the world holds, those of training questions too; the wording
    is in no training. A model that treats all wordings alike cannot answer both.
    """
    rng = random.Random(f"minimal pairs-{world.seed}-{seed}")
    kinds = dict.fromkeys(world.animals, ANIMAL_ATTRIBUTES) | dict.fromkeys(world.towns, TOWN_ATTRIBUTES)
    pairs = [
        (subject, pair)
        for subject, of in kinds.items()
        for pair in itertools.combinations([kind for kind in of if (subject, kind) in world.held], 2)
    ]
    rows = []
    for turn, (subject, pair) in enumerate(rng.sample(pairs, n)):
        for attribute in rng.sample(pair, 2):
            row = make_row(world, Task(attribute, {"subject": subject}, 0), seed=seed, turn=turn)
            named = f"the {subject}" if subject in world.animals else subject
            text = ONE_WORD.format(subject=named, attribute=attribute)
            rows.append(row | {"instruction": text, "wording": ONE_WORD})
    return Dataset.from_list(rows)


def score_pairs(table: pd.DataFrame, kind: str = "strict") -> list[float]:
    """For each pair of rows of a score table whether both are right: 1 or 0. Source: rows of ``draw_minimal_pairs``."""
    values = table[kind].to_numpy()
    return (values[0::2] * values[1::2]).tolist()


def soft_responses(
    model: PreTrainedModel,
    model_key: dict,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    asked: Mapping[str, Dataset],
    *,
    others: Sequence[str] | None,
    max_new_tokens: int,
    **settings,
) -> tuple[dict[str, list[Response]], list[dict]]:
    """A soft prompt trained on ``examples`` before ``model``, and what the two then answer to each set ``asked``.

    ``settings`` are those of ``train_prompt``. From the cache or made now; ``model_key`` names the model there. Returns
    the responses by set, and the history. The model itself stays as it is. Raises as ``train_prompt`` does.
    """
    key = {
        "what": "responses after a soft prompt",
        "model": [model_key, str(model.dtype)],
        "tokenizer": tokenizer_key(tokenizer),
        "data": [data_key(examples), fingerprint(list(others or []))],
        "asked": {name: fingerprint(list(rows["instruction"])) for name, rows in asked.items()},
        "settings": settings | {"max_new_tokens": max_new_tokens},
    }

    def make() -> dict:
        own = copy.deepcopy(model)  # peft changes what it wraps
        prompted, history = train_prompt(own, tokenizer, examples, others=others, **settings)
        texts = {
            name: respond_after(prompted, tokenizer, rows["instruction"], max_new_tokens=max_new_tokens)
            for name, rows in asked.items()
        }
        return {"history": history, "texts": {name: [asdict(r) for r in said] for name, said in texts.items()}}

    made = cached_json(key, make)
    responses = {
        name: [Response(**row | {"tokens": tuple(row["tokens"])}) for row in said]
        for name, said in made["texts"].items()
    }
    return responses, made["history"]


def describe_phrasings(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    levels: Mapping[str, Estimate],
    pairs: Mapping[str, Estimate],
) -> dict[str, str]:
    """Finding 16's answer from its rule (the gap, the second loss' gain twice, minimal pairs) and its controls.

    ``levels`` holds the strict score on unseen wordings by arm, ``pairs`` the share of minimal pairs answered rightly.
    """
    asked = {"above": "more", "below": "less"}
    parts = ", ".join(
        f"{one.metric}, {one.arm} {one.estimate} ({one.verdict}; asked {asked[one.side]} than {one.threshold:g})"
        for one in rule
    )
    gap, helps = (
        "wordings that tuning did not see are followed less",
        "a soft prompt helps if it is trained to agree on paraphrases",
    )
    found = {
        HOLDS: f"{gap[0].upper()}{gap[1:]}, and {helps}. Part by part: {parts}.",
        REFUTED: f"It is not so that {gap} and that {helps}, as the rule asks. Part by part: {parts}.",
        UNDECIDED: f"Whether {gap} and {helps} is open. Part by part: {parts}.",
        FAILS: f"Nothing is said of phrasings, because a control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    by_arm = ", ".join(f"{arm} {percent(level)}" for arm, level in levels.items())
    both = ", ".join(f"{arm} {percent(share)}" for arm, share in pairs.items())
    reason = f"Strict scores on unseen wordings: {by_arm}. Both questions of a minimal pair are right: {both}."
    caveat = "Hand-written wordings, a few for each of eight kinds of fact; the phrasings of a large collection differ."
    return {"found": found, "reason": reason, "caveat": caveat}
