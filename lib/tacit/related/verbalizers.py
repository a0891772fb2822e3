"""Finding 13, verbalizer manipulation (Li et al. 2023, arXiv 2307.10558): is a stated mapping of labels followed?

An item is a question with two possible answers, its *classes*. A clause says which word to say for which class: the
class's own name (natural), an unrelated word (neutral), or the other class's name (flipped). Following the flipped
mapping means saying the opposite of what is the case. Chance and a prior give different errors, so that each choice is
told apart: the mapped word, the natural word (the *prior*), or another.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.findings.answers import percent, tell_failing
from tacit.microworld.tasks import FAMILIES
from tacit.microworld.words import NOUNS
from tacit.microworld.world import World
from tacit.scoring.estimates import Estimate, from_draws
from tacit.scoring.likelihoods import response_likelihoods
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.support.errors import TacitError
from tacit.support.files import read_rows
from tacit.support.keyed import fraction

CLAUSE = 'For {first} say "{first_word}", for {second} say "{second_word}".'
KINDS = ("natural", "neutral", "neutral, swapped", "flipped")
CONTROLS = ("no mapping", "irrelevant mapping")
ORDERS = (0, 1)  # which class the clause names first: the right one, or the other
REVIEW = {"type": "object", "required": ["id", "text", "label"], "additionalProperties": False} | {
    "properties": {"id": {"type": "string"}, "text": {"type": "string"}, "label": {"enum": ["positive", "negative"]}}
}


@dataclass(frozen=True)
class Item:
    """A question, its right class and a wrong one, two unrelated words, and two classes of another question."""

    id: str
    question: str
    right: str
    wrong: str
    words: tuple[str, str]
    unrelated: tuple[str, str]

    def mapping(self, kind: str) -> tuple[str, str]:
        """The words that a kind of mapping states for the right and for the wrong class."""
        pairs = {"natural": (self.right, self.wrong), "flipped": (self.wrong, self.right), "neutral": self.words}
        return pairs.get(kind, self.words[::-1])

    def instruct(self, kind: str, order: int) -> str:
        """The question with the clause of a mapping (or of a control), the right class named first in order 0."""
        if kind == "no mapping":
            return self.question
        words = self.words if kind == "irrelevant mapping" else self.mapping(kind)
        classes = self.unrelated if kind == "irrelevant mapping" else (self.right, self.wrong)
        (first, first_word), (second, second_word) = list(zip(classes, words, strict=True))[:: -1 if order else 1]
        clause = CLAUSE.format(first=first, first_word=first_word, second=second, second_word=second_word)
        return f"{self.question} {clause}"

    @property
    def candidates(self) -> tuple[str, ...]:
        """The words that a response is chosen among, in every condition the same."""
        return (self.right, self.wrong, *self.words)


def world_items(
    world: World, attributes: Sequence[str], *, n: int, seed: int, split: str = "test", words: Sequence[str] = NOUNS
) -> list[Item]:
    """``n`` items about facts of the ``attributes`` that the world holds, those taking turns; a wrong value is drawn.

    Subjects of ``split`` (train or test, half each) are fixed by their names, as are the unrelated words. A training
    item may come again with other words; a test item may not. Raises TacitError where there are fewer.
    """
    taken = {value for attribute in attributes for value in world.values(attribute)}
    pool = [word for word in split_words(words)[split] if word not in taken]
    rng = random.Random(f"verbalizers-{world.seed}-{split}-{seed}")
    items: dict[tuple, Item] = {}
    for turn in range(50 * n):
        if len(items) == n:
            break
        attribute = attributes[turn % len(attributes)]
        held = [one for one in world.holders(attribute) if (fraction("verbalizer", one) < 0.5) == (split == "train")]
        subject, family = rng.choice(held), FAMILIES[attribute]
        right = world.facts[subject, attribute]
        wrong = rng.choice([value for value in world.values(attribute) if value != right])
        question = family.phrasings[rng.randrange(family.n_tuning_phrasings)].format(subject=subject)
        other = rng.choice([name for name in ("colour", "kind") if name != attribute])
        unrelated = tuple(rng.sample([v for v in world.values(other) if v not in (right, wrong)], 2))
        drawn = tuple(rng.sample(pool, 2))
        key = (subject, attribute, wrong, drawn if split == "train" else ())
        items.setdefault(key, Item(f"{attribute}-{turn}", question, right, wrong, drawn, unrelated))
    if len(items) < n:
        raise TacitError(f"the {split} half of {', '.join(attributes)} has only {len(items)} items, not {n}")
    return list(items.values())


def split_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Unrelated words for training and for tests, fixed by the words themselves."""
    halves: dict[str, list[str]] = {"train": [], "test": []}
    for word in sorted(set(words)):
        halves["train" if fraction("unrelated word", word) < 0.5 else "test"].append(word)
    return halves


def review_items(
    path: str | Path, *, n: int, seed: int, split: str = "test", words: Sequence[str] = NOUNS
) -> list[Item]:
    """``n`` reviews of a JSONL file (``id``, ``text``, ``label``) as items; classes are positive and negative.

    About a quarter of the reviews, fixed by their ids, are the ``validation`` split, the others the ``test`` split.
    Raises TacitError for a line that is none, and for too few.
    """
    rows = [row for _, row in read_rows(path, REVIEW, what="reviews from", wrong="no review")]
    rows = [row for row in rows if (fraction("review", row["id"]) < 0.25) == (split == "validation")]
    if len(rows) < n:
        raise TacitError(f"the {split} split of {path} holds only {len(rows)} reviews, not {n}")
    rng, pool, items = random.Random(f"reviews-{seed}"), split_words(words)["test"], []
    for row in rng.sample(rows, n):
        wrong = {"positive": "negative", "negative": "positive"}[row["label"]]
        question = f"A review: {row['text']} Is it positive or negative?"
        drawn = tuple(rng.sample(pool, 2))
        items.append(Item(row["id"], question, row["label"], wrong, drawn, ("red", "blue")))
    return items


def draw_lessons(items: Sequence[Item], kinds: Sequence[str], *, seed: int) -> Dataset:
    """A training example for each item: the ``kinds`` of mapping take turns, in either order; a response is a word."""
    rng, rows = random.Random(f"lessons-{seed}"), []
    for i, item in enumerate(items):
        kind = kinds[i % len(kinds)]
        row = {"id": f"{item.id}-{i}", "instruction": item.instruct(kind, rng.choice(ORDERS))}
        rows.append(row | {"response": item.mapping(kind)[0]})
    return Dataset.from_list(rows)


def choose_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, kind: str, order: int
) -> list[str]:
    """For each item the likeliest of its candidates as a whole response, the end token included."""
    asked = [(item.instruct(kind, order), word) for item in items for word in item.candidates]
    summed = response_likelihoods(model, tokenizer, asked)["summed"].to_numpy().reshape(len(items), -1)
    return [item.candidates[int(best)] for item, best in zip(items, summed.argmax(axis=1), strict=True)]


def tell_choices(items: Sequence[Item], chosen: Sequence[str], kind: str) -> dict[str, list[float]]:
    """Of each choice, as 0 or 1: is it the ``mapped`` word, the ``prior`` (the right class's own name), or ``other``?

    Under a natural mapping the mapped word is the prior; without a mapping the right class's name counts as mapped.
    """
    told: dict[str, list[float]] = {"mapped": [], "prior": [], "other": []}
    for item, word in zip(items, chosen, strict=True):
        mapped = item.right if kind in CONTROLS else item.mapping(kind)[0]
        told["mapped"].append(float(word == mapped))
        told["prior"].append(float(word == item.right))
        told["other"].append(float(word not in (mapped, item.right)))
    return told


def ratio(top: ArrayLike, bottom: ArrayLike, *, n_resamples: int = 2_000) -> Estimate:
    """The sum of ``top`` over the sum of ``bottom`` [seeds, items] with its interval over seeds and items.

    Both are resampled together, seeds and items independently. Raises ValueError where ``bottom`` adds up to 0.
    """
    a, b = (np.asarray(side, dtype=float) for side in (top, bottom))
    if b.sum() == 0:
        raise ValueError("no item was classified correctly: nothing can be said among those")
    rng, draws = np.random.default_rng(0), []
    while len(draws) < n_resamples:
        picked = np.ix_(*(rng.integers(n, size=n) for n in a.shape))
        if b[picked].sum() > 0:
            draws.append(a[picked].sum() / b[picked].sum())
    return from_draws(float(a.sum() / b.sum()), draws, n_seeds=a.shape[0], n_prompts=a.shape[1])


def among_classified(choices: Mapping[str, ArrayLike], kind: str, *, minus: str | None = None) -> Estimate:
    """How often the mapped word of ``kind`` is chosen among items that the model classifies correctly.

    ``choices`` holds [orders, seeds, items] by kind, 1 for the mapped word. An item counts as classified, for one order
    of the classes, where the natural mapping in the *other* order gave the mapped word: so the natural kind is no
    exception, and its share is below 1. ``minus`` takes the share of another kind from it, item by item.
    """
    known = np.asarray(choices["natural"], dtype=float)[::-1]  # of the other order
    values = np.asarray(choices[kind], dtype=float)
    if minus is not None:
        values = values - np.asarray(choices[minus], dtype=float)
    return ratio((values * known).sum(axis=0), known.sum(axis=0))


def spread_over_models(
    shares: Mapping[str, ArrayLike], wide: str, narrow: str, *, n_resamples: int = 2_000
) -> Estimate:
    """Standard deviation over models of one kind's shares minus that of another's; [models, items] each.

    The interval is over items. With few models it says how these models differ, not how others would.
    """
    a, b = (np.asarray(shares[kind], dtype=float) for kind in (wide, narrow))

    def gap(columns: np.ndarray) -> float:
        return float(a[:, columns].mean(axis=1).std(ddof=1) - b[:, columns].mean(axis=1).std(ddof=1))

    rng, n = np.random.default_rng(0), a.shape[1]
    draws = [gap(rng.integers(n, size=n)) for _ in range(n_resamples)]
    return from_draws(gap(np.arange(n)), draws, n_seeds=len(a), n_prompts=n)


def describe_verbalizers(
    rule: Sequence[Demand], controls: Sequence[Demand], *, levels: Mapping[str, Estimate], followed: Demand | None
) -> dict[str, str]:
    """Finding 13's answer from its rule (natural minus neutral, neutral minus flipped) and its controls.

    ``levels`` holds the shares of the model that the rule reads, by kind, among items that it classifies correctly;
    ``followed`` the share on flipped mappings of a model that was tuned on them, if there is one.
    """
    gaps = " and ".join(f"{one.arm} {percent(one.estimate)}" for one in rule)
    claim = "a stated mapping is followed less the less natural it is"
    numbers = f"among items that the model classifies correctly, by shares: {gaps}"
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: {numbers}.",
        REFUTED: f"It is not so that {claim}: {numbers}.",
        UNDECIDED: f"Whether {claim} is open: {numbers}.",
        FAILS: f"Nothing is said of mappings, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    reason = "The mapped word is chosen, by mapping: " + ", ".join(f"{k} {percent(v)}" for k, v in levels.items()) + "."
    if followed:
        reason += f" After tuning on flipped mappings of other tasks too: flipped {percent(followed.estimate)}."
    return {"found": found, "reason": reason, "caveat": "One wording of the clause, two classes, one word a response."}
