"""Finding 14, sequential instructions (SIT, Hu et al. 2024, arXiv 2403.07794): several steps in one instruction.

A chain begins with a question that one word answers; every further step changes what the step before it gave, such as
spelling it. A response has one numbered line a step, so that each step is checked exactly. Beside chains stand the same
steps as instructions of their own, and two unrelated ones in one prompt: the format without the dependence.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tacit.data.instructions import encode_example
from tacit.decoding.generation import Response
from tacit.findings.answers import percent, tell_failing
from tacit.microworld.tasks import FAMILIES, draw_item
from tacit.microworld.world import World
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.support.keyed import fraction


@dataclass(frozen=True)
class Change:
    """A step that changes a text: how it is asked of "it", and of a given text, and what it gives."""

    asked: str
    alone: str
    apply: Callable[[str], str]


CHANGES = {
    "capitals": Change("write it in capitals", "Write {text} in capitals.", str.upper),
    "twice": Change("say it twice", "Say {text} twice.", lambda text: f"{text} {text}"),
    "brackets": Change("put it in square brackets", "Put {text} in square brackets.", lambda text: f"[{text}]"),
    "quotes": Change("put it in double quotes", "Put {text} in double quotes.", lambda text: f'"{text}"'),
    "exclaimed": Change("add an exclamation mark to it", "Add an exclamation mark to {text}.", lambda t: f"{t}!"),
    "stars": Change("put a star on either side of it", "Put a star on either side of {text}.", lambda t: f"*{t}*"),
}
ARMS = ("singles", "chains", "split", "unrelated")
COUNTS = ("", "First", "Then", "After that", "At last")
CAVEAT = (
    'Only the chains arm ever read changes of "it"; the others read the same changes of a given word. Answers are one'
    " word, there are six changes, and held-out pairs are few."
)
SCORES = ("all correct", "attempted", "correct", "in order")


@dataclass(frozen=True)
class Chain:
    """A question that ``answer``, one word, answers, and the changes that follow.

    Where there is a ``start``, the chain has no question: its one change is applied to that text.
    """

    id: str
    family: str
    question: str
    answer: str
    changes: tuple[str, ...] = ()
    start: str = ""

    @property
    def results(self) -> list[str]:
        """What each step gives, the answer first, if there is a question."""
        results = [self.start or self.answer]
        for name in self.changes:
            results.append(CHANGES[name].apply(results[-1]))
        return results[1:] if self.start else results

    def instruct(self, *, backwards: bool = False) -> str:
        """The instruction. With ``backwards`` the second of two steps is asked before the first."""
        if self.start:
            return CHANGES[self.changes[0]].alone.format(text=self.start)
        if not self.changes:
            return self.question
        first = self.question[0].lower() + self.question[1:]
        if backwards:
            return f"Then, {CHANGES[self.changes[0]].asked}, but first: {first}"
        steps = [f"{COUNTS[i + 2]}, {CHANGES[name].asked}." for i, name in enumerate(self.changes)]
        return " ".join([f"{COUNTS[1]}: {first}", *steps])

    def row(self, *, backwards: bool = False) -> dict:
        """A row of a dataset: the instruction with its right response, the family and the steps' results."""
        instruction, response = self.instruct(backwards=backwards), number_lines(self.results)
        row = {"id": self.id, "instruction": instruction, "response": response}
        return row | {"family": self.family, "results": self.results}


def number_lines(results: Sequence[str]) -> str:
    """The response: a numbered line for each step."""
    return "\n".join(f"{i}. {result}" for i, result in enumerate(results, start=1))


def is_held_out(*names: str) -> bool:
    """Is this pair of neighbouring steps (a family and a change, or two changes) kept for tests? About a third are."""
    return fraction("held-out steps", *names) < 0.34


def draw_chains(
    world: World,
    families: Sequence[str],
    *,
    n: int,
    length: int,
    seed: int,
    split: str,
    held_out: bool | None = None,
) -> list[Chain]:
    """``n`` different chains of ``length`` steps, the first of them a question of one of the ``families`` in turn.

    Training chains hold no pair of neighbours that ``is_held_out``. In tests ``held_out`` asks for chains whose every
    pair is, or whose no pair is. Items are those of the split. Raises ValueError where there are too few.
    """
    rng, chains = random.Random(f"chains-{world.seed}-{split}-{length}-{seed}-{held_out}"), {}
    wanted = False if split == "train" else held_out
    for turn in range(400 * n):
        if len(chains) == n:
            break
        family = families[turn % len(families)]
        changes = tuple(rng.sample(sorted(CHANGES), length - 1))
        pairs = [is_held_out(*pair) for pair in itertools.pairwise((family, *changes))]
        if pairs and wanted is not None and any(held != wanted for held in pairs):
            continue
        item = draw_item(world, family, rng, split=split)
        phrasing = FAMILIES[family].phrasings[rng.randrange(FAMILIES[family].n_tuning_phrasings)]
        answer = FAMILIES[family].solve(world, item, rng)["value"]
        chain = Chain(f"{family}-{length}-{turn}", family, phrasing.format(**item), str(answer), changes)
        chains.setdefault(chain.instruct(), chain)
    if len(chains) < n:
        raise ValueError(f"the {split} split of {', '.join(families)} has only {len(chains)} chains of {length} steps")
    return list(chains.values())


def split_chain(chain: Chain) -> list[Chain]:
    """A chain's steps as instructions of their own: the question, and each change of the text that it is applied to."""
    singles = [Chain(f"{chain.id}-1", chain.family, chain.question, chain.answer)]
    for i, name in enumerate(chain.changes):
        start = chain.results[i]
        singles.append(Chain(f"{chain.id}-{i + 2}", chain.family, "", "", (name,), start))
    return singles


def join_unrelated(first: Chain, second: Chain) -> dict:
    """A row that asks two unrelated single instructions in one prompt, each answered on a line of its own."""
    parts = [one.instruct() for one in (first, second)]
    lowered = [text[0].lower() + text[1:] for text in parts]
    results = [first.results[0], second.results[0]]
    row = {"id": f"{first.id}+{second.id}", "instruction": f"First: {lowered[0]} Then: {lowered[1]}"}
    return row | {"response": number_lines(results), "family": first.family, "results": results}


def draw_lessons(
    arm: str,
    world: World,
    families: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_tokens: int,
    seed: int,
) -> Dataset:
    """Training rows of an arm, as many as have ``n_tokens`` response tokens together.

    ``singles``: questions, and changes of words, as instructions of their own. In the other arms half of the tokens are
    those. The other half are ``chains`` of two steps, the same chains ``split`` into singles, or ``unrelated`` singles,
    two in one prompt. Raises ValueError for another arm.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose among {', '.join(ARMS)}")
    rng = random.Random(f"lessons-{seed}")
    chains = draw_chains(world, families, n=n_tokens // 5, length=2, seed=seed, split="train")
    half = len(chains) // 2
    pool = [single.row() for chain in chains[:half] for single in split_chain(chain)]
    rest = chains[half:]
    singles = [single for chain in rest for single in split_chain(chain)]
    more = {
        "singles": [],
        "chains": [chain.row() for chain in rest],
        "split": [single.row() for single in singles],
        "unrelated": [join_unrelated(*pair) for pair in zip(singles[0::2], reversed(singles[1::2]), strict=True)],
    }[arm]
    rng.shuffle(pool)
    rows = take_tokens(pool, tokenizer, n_tokens if arm == "singles" else n_tokens // 2)
    rows += take_tokens(more, tokenizer, n_tokens // 2) if more else []
    rng.shuffle(rows)
    return Dataset.from_list([{key: row[key] for key in ("id", "instruction", "response")} for row in rows])


def take_tokens(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> list[dict]:
    """The first rows whose responses have ``n_tokens`` tokens together, or just more. Raises ValueError for too few."""
    taken, total = [], 0
    for row in rows:
        if total >= n_tokens:
            return taken
        labels = encode_example(tokenizer, row["instruction"], row["response"])["labels"]
        total += sum(label >= 0 for label in labels)
        taken.append(row)
    if total < n_tokens:
        raise ValueError(f"{len(rows)} examples have only {total} response tokens, not {n_tokens}")
    return taken


def measure_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """How many examples a training set has, how many different instructions, and how many response tokens."""
    pairs = zip(rows["instruction"], rows["response"], strict=True)
    labels = [encode_example(tokenizer, *pair)["labels"] for pair in pairs]
    tokens = sum(label >= 0 for row in labels for label in row)
    return {"examples": len(rows), "instructions": len(set(rows["instruction"])), "response tokens": tokens}


def score_lines(examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
    """A table with a row per example: ``id``, ``family`` and scores from 0 to 1.

    ``attempted``: the share of the steps that have a numbered line; ``correct``: the share whose line is right;
    ``in order``: the lines are numbered 1, 2, ... in this order and there are no others; ``all correct``: the response
    is right from the first line to the last, nothing else is said, and it ended by itself.
    """
    rows = []
    for results, response in zip(examples["results"], responses, strict=True):
        lines = [re.fullmatch(r"(\d)\. (.*)", line) for line in response.text.strip().split("\n")]
        numbered = {int(line[1]): line[2] for line in lines if line}
        right = [numbered.get(i) == result for i, result in enumerate(results, start=1)]
        order = [int(line[1]) if line else 0 for line in lines] == list(range(1, len(lines) + 1))
        whole = response.text.strip() == number_lines(results) and response.finish_reason == "eos"
        there = np.mean([i in numbered for i in range(1, len(results) + 1)])
        rows.append([float(whole), float(there), float(np.mean(right)), float(order and len(lines) == len(results))])
    table = pd.DataFrame(rows, columns=list(SCORES))
    return pd.concat([pd.DataFrame({"id": examples["id"], "family": examples["family"]}), table], axis=1)


def describe_sequences(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    levels: Mapping[str, Estimate],
    longer: Mapping[str, Estimate],
) -> dict[str, str]:
    """Finding 14's answer from its rule (chains minus each other arm, on held-out chains of two) and its controls.

    ``levels`` holds how often all steps are correct on held-out chains of two, by arm; ``longer`` the same of the
    chains arm by what else is asked.
    """
    gaps = ", ".join(f"{one.arm} {percent(one.estimate)}" for one in rule)
    claim = (
        "tuning on chains of two steps makes a model follow both steps of new chains of two more often, by more than"
        f" {rule[0].threshold:g}, than as many response tokens of other data"
    )
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: {gaps}.",
        REFUTED: f"It is not so that {claim}: {gaps}.",
        UNDECIDED: f"Whether {claim} is open: {gaps}.",
        FAILS: f"Nothing is said of chains, because a positive control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    by_arm = ", ".join(f"{arm} {percent(level)}" for arm, level in levels.items())
    by_kind = ", ".join(f"{kind} {percent(level)}" for kind, level in longer.items())
    reason = (
        f"All steps are correct on held-out chains of two, by arm: {by_arm}. After tuning on chains of two: {by_kind}."
    )
    return {"found": found, "reason": reason, "caveat": CAVEAT}
