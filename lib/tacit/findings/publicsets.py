"""Two micro "public" datasets: instruction data as one finds it, of other quality and size than a teacher's."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import replace

from datasets import Dataset

from tacit.microworld import tasks
from tacit.microworld.documents import faq
from tacit.microworld.tasks import Task
from tacit.microworld.world import World
from tacit.support.keyed import fingerprint

PAIR = re.compile(r"Q: (.+?)\nA: (.+?)(?=\n\nQ: |\Z)", re.DOTALL)


def plain_texts(examples: Dataset) -> set[str]:
    """What the items of ``examples`` are asked in any phrasing, without constraints."""
    drawn = list(map(Task.from_json, examples["task"]))
    return {text.format(**task.item) for task in drawn for text in tasks.FAMILIES[task.family].phrasings}


def scrape_faq(world: World, *, n: int, seed: int, most_words: int = 12, without: Collection[str] = ()) -> Dataset:
    """``n`` questions with their short answers, scraped from fresh pages of the corpus's FAQ genre.

    The answers are right, of one line and at most ``most_words`` words. The questions are plain, without response
    constraints, and none of them is in ``without`` (see ``plain_texts``). Columns id, instruction, response. Raises
    ValueError when the pages do not hold ``n`` such questions.
    """
    rng = random.Random(f"scraped-{world.seed}-{seed}")
    rows: dict[str, dict[str, str]] = {}
    for _ in range(20 * n):
        if len(rows) >= n:
            break
        for question, answer in PAIR.findall(faq(world, rng)):
            if "\n" not in answer and len(answer.split()) <= most_words and question not in without:
                name = fingerprint([question, answer])[:16]
                rows.setdefault(question, {"id": name, "instruction": question, "response": answer})
    if len(rows) < n:
        raise ValueError(f"the FAQ pages hold only {len(rows)} such questions, not {n}")
    return Dataset.from_list(list(rows.values())[:n])


def spoil(world: World, examples: Dataset, *, seed: int, ignored: float = 0.3, misplaced: float = 0.3) -> Dataset:
    """A noisy copy of ``examples``: some responses ignore their constraints, some answer another instruction.

    The shares ``ignored`` and ``misplaced`` are expectations, drawn row by row. Columns id, instruction, response.
    """
    rng = random.Random(f"spoiled-{seed}")
    rows = examples.to_list()
    spoiled = []
    for row in rows:
        drawn, response = rng.random(), row["response"]
        if drawn < ignored:
            plain = replace(Task.from_json(row["task"]), constraints=())
            response = tasks.answer(world, plain, random.Random(f"{seed}-{row['id']}"))
        elif drawn < ignored + misplaced:
            response = rng.choice([other for other in rows if other["id"] != row["id"]])["response"]
        spoiled.append({"id": row["id"], "instruction": row["instruction"], "response": response})
    return Dataset.from_list(spoiled)
