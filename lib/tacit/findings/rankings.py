"""What a right response is ranked against: other responses of a test set, free wordings, and changed answers."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.microworld import tasks
from tacit.microworld.tasks import Task
from tacit.microworld.wordings import word_freely
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World
from tacit.scoring.likelihoods import BATCH_TOKENS, draw_others, ranking_table

FACTS = (*ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES)  # the families whose answer is one value of an attribute


@dataclass(frozen=True)
class Contest:
    """Items to rank: item i's right response is ``responses[i]``, its rivals those that ``others[i]`` names.

    ``others`` holds indices into ``responses``, which may go on after the items' own with texts that are rivals only.
    ``families`` holds each item's family.
    """

    instructions: list[str]
    responses: list[str]
    others: list[list[int]]
    families: list[str]


def draw_contest(
    examples: Dataset, *, n_others: int, seed: int, same_family: bool = False, world: World | None = None
) -> Contest:
    """Each example's response against ``n_others`` responses to other examples, drawn as ``draw_others`` does.

    With ``same_family`` the rivals answer examples of the same family. With a ``world``, rivals that its verifiers
    accept as right for the item too are taken out, since a model that prefers one is not wrong. Items that are left
    without rivals are dropped. Raises ValueError as ``draw_others`` does.
    """
    families = list(examples["family"])
    groups = families if same_family else None
    drawn = draw_others(len(examples), n_others=n_others, seed=seed, groups=groups)
    responses = list(examples["response"])
    if world is not None:
        asked = [Task.from_json(task) for task in examples["task"]]
        drawn = [
            [j for j in row if not tasks.judge(world, task, responses[j], ended=True).strict]
            for task, row in zip(asked, drawn, strict=True)
        ]
    kept = [i for i, row in enumerate(drawn) if row]
    order = kept + [i for i, row in enumerate(drawn) if not row]  # the dropped items' texts stay rivals
    place = {old: new for new, old in enumerate(order)}
    return Contest(
        [examples["instruction"][i] for i in kept],
        [responses[i] for i in order],
        [[place[j] for j in drawn[i]] for i in kept],
        [families[i] for i in kept],
    )


def word_examples(world: World, examples: Dataset, *, seed: int = 0) -> Dataset:
    """The ``examples`` that have a free wording, with it as their response (``wordings.word_freely``, its ``seed``).

    The columns stay as they are; examples of families without free wordings are left out.
    """
    rows = []
    for row in examples:
        text = word_freely(world, Task.from_json(row["task"]), seed=seed)
        if text is not None:
            rows.append(row | {"response": text})
    return Dataset.from_list(rows, features=examples.features)


def swap_answer(text: str, *, right: str, wrong: str) -> str:
    """``text`` with the word ``right`` replaced by ``wrong``, in capitals at the beginning where it was so.

    Raises ValueError where ``text`` does not hold the word.
    """
    found = re.compile(rf"\b{re.escape(right)}\b", re.IGNORECASE)
    if not found.search(text):
        raise ValueError(f"{text!r} does not hold the word {right!r}")
    return found.sub(lambda one: wrong[0].upper() + wrong[1:] if one[0][0].isupper() else wrong, text)


def draw_swaps(world: World, examples: Dataset, *, n_others: int, seed: int) -> Contest:
    """Each example about a fact: its response against the same words with another value of the attribute.

    Nothing but the answer differs, so that neither the wording nor a name taken from the instruction can help. The
    ``n_others`` values are drawn without repeats, all where there are fewer; examples that ask for no fact are left
    out.
    """
    items, rivals = [], []
    for row in examples:
        task = Task.from_json(row["task"])
        if task.family not in FACTS:
            continue
        right = world.facts[task.item["subject"], task.family]
        wrong = [value for value in world.values(task.family) if value != right]
        drawn = random.Random(f"{seed}-{row['id']}").sample(wrong, min(n_others, len(wrong)))
        items.append(row)
        rivals.append([swap_answer(row["response"], right=right, wrong=value) for value in drawn])
    responses, others = [row["response"] for row in items], []
    for texts in rivals:
        others.append(list(range(len(responses), len(responses) + len(texts))))
        responses += texts
    return Contest([row["instruction"] for row in items], responses, others, [row["family"] for row in items])


def rank_contest(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contest: Contest, *, batch_tokens: int = BATCH_TOKENS
) -> pd.DataFrame:
    """``likelihoods.ranking_table`` of a contest's items, with their ``family``; raises as that does.

    A row per item: ``summed`` and ``mean``, the share of its rivals that the right response beats by each
    log-probability, and ``likeliest``, the index in ``responses`` of what the model finds likeliest by the mean.
    """
    table = ranking_table(
        model, tokenizer, contest.instructions, contest.responses, others=contest.others, batch_tokens=batch_tokens
    )
    return table.assign(likeliest=table["likeliest"].astype(int), family=contest.families)


def likeliest_texts(contest: Contest, table: pd.DataFrame) -> list[str]:
    """What a model finds likeliest for each item, right or not, from its table of ``rank_contest``."""
    return [contest.responses[i] for i in table["likeliest"]]
