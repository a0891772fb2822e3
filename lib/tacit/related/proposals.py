"""Finding 18, Self-Instruct (Wang et al. 2022, arXiv 2212.10560): a base model writes its own training data.

It goes on with a list of given tasks, a filter drops what is too like them, and it answers what is left. In the micro
world a program reads every proposal back into a task, so that each task and each answer is known to be valid or not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import generate_responses
from tacit.findings.answers import percent, tell_failing
from tacit.microworld.examples import make_row
from tacit.microworld.family import Item
from tacit.microworld.knowledge import KNOWLEDGE, OPPOSITE, rhymes_with
from tacit.microworld.tasks import FAMILIES, Task, judge, split_of
from tacit.microworld.words import CATEGORIES, NUMBER_NAMES
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide

READ = tuple(family.name for family in KNOWLEDGE)  # the families whose instructions can be read back
BARE = "{{ bos_token }}{{ messages[0]['content'] }}"  # a text that the model goes on with, without any tags
ARMS = ("given tasks only", "pipeline", "gold answers", "shuffled answers", "responses alone")


def read_task(world: World, text: str) -> Task | None:
    """The task that an instruction of the families ``READ`` asks for, or None where it is none of this world's.

    None are also questions for facts that no corpus about ``world`` holds, and for the larger of two equal numbers.
    """
    for name, i, pattern in _patterns():
        found = pattern.fullmatch(text)
        item = _make_item(world, name, found.groupdict()) if found else None
        if item is not None:
            return Task(name, item, i)
    return None


@cache
def _patterns() -> list[tuple[str, int, re.Pattern[str]]]:
    """Each phrasing of the families ``READ`` as a pattern with its fields as groups: family, number, pattern."""
    phrasings = [(name, i, frame) for name in READ for i, frame in enumerate(FAMILIES[name].phrasings)]
    return [
        (name, i, re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(frame))))
        for name, i, frame in phrasings
    ]


def _make_item(world: World, family: str, fields: dict[str, str]) -> Item | None:
    """The item that the texts of an instruction's fields name, or None."""
    if family in (*ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES):
        return dict(fields) if (fields["subject"], family) in world.held else None
    if family == "bigger":
        sizes = [world.facts[animal, "size"] for animal in fields.values() if (animal, "size") in world.held]
        return dict(fields) if len(set(sizes)) == 2 else None
    if family in ("larger", "count"):
        numbers = {key: int(value) for key, value in fields.items() if re.fullmatch(r"[0-9]{1,3}", value)}
        first, *rest = numbers.values() or [0]
        apart = rest[0] - first if rest else 0
        return numbers if (0 < apart <= 10 if family == "count" else apart != 0) else None
    if family == "list":
        n = {word: number for number, word in NUMBER_NAMES.items()}.get(fields["number"])
        return {"n": n, **fields} if n and fields["category"] in CATEGORIES else None
    if family in ("reverse", "capitals"):
        words = fields["text"].split(", ")
        return {"words": words, **fields} if all(re.fullmatch("[a-z]+", word) for word in words) else None
    word = fields["word"]
    known = {"opposite": word in OPPOSITE, "rhyme": bool(rhymes_with(word)), "spell": re.fullmatch("[a-z]+", word)}
    return dict(fields) if known[family] else None


def overlap(a: str, b: str) -> float:
    """ROUGE-L's F1 of two texts: of their longest common subsequence of words, from 0 to 1. Source: Lin (2004)."""
    x, y = a.lower().split(), b.lower().split()
    row = [0] * (len(y) + 1)
    for word in x:
        before = row
        row = [0]
        for j, other in enumerate(y):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return 2 * row[-1] / (len(x) + len(y)) if x or y else 0.0


def propose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: Sequence[str],
    *,
    world: World,
    n: int,
    seed: int,
    n_shown: int = 3,
    temperature: float = 1.0,
    max_new_tokens: int = 40,
    batch_size: int = 64,
    most_overlap: float = 0.9,
) -> tuple[list[str], dict[str, int]]:
    """``n`` new instructions by which ``model`` goes on with numbered lists of ``n_shown`` others, one of them its own.

    ``tokenizer`` has the template ``BARE``. A proposal is the list's next line. It is dropped if it has fewer than
    three words, if the limit cut it, if it asks about an item of the test split, or if it overlaps by more than
    ``most_overlap`` with a given task or a proposal that was kept (the paper: 0.7). Returns the instructions and how
    many proposals were ``made``, ``short``, ``cut``, ``tests`` and ``alike``. Fewer than ``n`` come back where forty
    batches bring no more.
    """
    rng = random.Random(f"propose-{seed}")
    kept: list[str] = []
    counts = dict.fromkeys(("made", "short", "cut", "tests", "alike"), 0)
    for turn in range(40):
        lists = []
        for _ in range(batch_size):
            own = rng.sample(kept, 1) if kept else []
            shown = [*rng.sample(list(given), n_shown - len(own)), *own]
            rng.shuffle(shown)
            lines = [f"({i}) {text}" for i, text in enumerate(shown, start=1)]
            lists.append("\n".join(["Worksheet", "", *lines, f"({n_shown + 1})"]))
        options = {"ids": [f"{turn}-{i}" for i in range(batch_size)], "temperature": temperature, "seed": seed}
        made = generate_responses(model, tokenizer, lists, max_new_tokens=max_new_tokens, **options)
        for response in made:
            text, *rest = response.text.split("\n")
            counts["made"] += 1
            if not rest and response.finish_reason == "length":
                counts["cut"] += 1
            elif fault := _refuse(world, text.strip(), [*given, *kept], most_overlap=most_overlap):
                counts[fault] += 1
            else:
                kept.append(text.strip())
            if len(kept) == n:
                return kept, counts
    return kept, counts


def _refuse(world: World, text: str, others: Sequence[str], *, most_overlap: float) -> str:
    """Why a proposal is dropped: ``short``, ``tests`` or ``alike``; empty if it is not."""
    if len(text.split()) < 3:
        return "short"
    task = read_task(world, text)
    if task is not None and split_of(task.family, task.item) == "test":
        return "tests"
    return "alike" if any(overlap(text, other) > most_overlap for other in others) else ""


def answer_itself(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, instructions: Sequence[str], *, max_new_tokens: int = 48
) -> list[str]:
    """The base model's own greedy answers under ``Q:`` and ``A:``: the first line of each.

    ``tokenizer`` has the template of ``chat.faq_template``.
    """
    made = generate_responses(model, tokenizer, instructions, max_new_tokens=max_new_tokens)
    return [response.text.strip().split("\n")[0].strip() for response in made]


def check_instances(world: World, instructions: Sequence[str], answers: Sequence[str]) -> dict[str, list[bool]]:
    """Which proposals are valid tasks, and of which of these the answer is right (lines up with the tasks that are)."""
    tasks = [read_task(world, text) for text in instructions]
    right = [
        judge(world, task, text, ended=True).strict
        for task, text in zip(tasks, answers, strict=True)
        if task is not None
    ]
    return {"task": [task is not None for task in tasks], "answer": right}


def make_lessons(
    arm: str, world: World, given: Dataset, instructions: Sequence[str], answers: Sequence[str], *, n: int, seed: int
) -> Dataset:
    """``n`` training rows of an arm, fewer different ones repeated: rows ``id``, ``instruction``, ``response``.

    ``given tasks only``: these with their right responses. ``pipeline``: these and the proposals with the model's own
    answers. ``gold answers``: these and the valid proposals with right responses. ``shuffled answers``: the pipeline,
    in its order, with every proposal's answer moved to another. ``responses alone``: the pipeline without
    instructions. Raises ValueError for another arm.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose among {', '.join(ARMS)}")
    rng = random.Random(f"lessons-{seed}")
    first = [{key: row[key] for key in ("instruction", "response")} for row in given]
    own = [{"instruction": i, "response": a} for i, a in zip(instructions, answers, strict=True) if a]
    if arm == "shuffled answers":
        turn = random.Random(f"moved-{seed}").sample(range(len(own)), len(own))  # each takes the next one's answer
        moved = {i: own[j]["response"] for i, j in zip(turn, [*turn[1:], *turn[:1]], strict=True)}
        own = [row | {"response": moved[i]} for i, row in enumerate(own)]
    if arm == "gold answers":
        tasks = [task for task in (read_task(world, text) for text in instructions) if task is not None]
        own = [{key: make_row(world, task, seed=seed)[key] for key in ("instruction", "response")} for task in tasks]
    rows = first if arm == "given tasks only" else [*first, *own]
    rng.shuffle(rows)
    rows = [rows[i % len(rows)] | {"id": str(i)} for i in range(n)]
    return Dataset.from_list([row | {"instruction": ""} for row in rows] if arm == "responses alone" else rows)


def tell_yield(counts: Mapping[str, int], kept: int, checked: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """How many proposals were made and kept, and the shares that are valid: tasks, answers of these, and both."""
    valid, right = sum(checked["task"]), sum(checked["answer"])
    shares = {"valid tasks": valid / max(kept, 1), "right answers of these": right / max(valid, 1)}
    return dict(counts) | {"kept": kept} | shares | {"both": right / max(kept, 1)}


def describe_self_instruct(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    levels: Mapping[str, Estimate],
    shares: Mapping[str, float],
    gold: Estimate,
) -> dict[str, str]:
    """Finding 18's answer from its rule (the pipeline minus three arms, on families that were not given) and controls.

    ``levels`` holds strict scores on those families by arm, ``shares`` what ``tell_yield`` says; ``gold`` is the gold
    answers' score minus the pipeline's.
    """
    gaps = ", ".join(f"{one.arm} {percent(one.estimate)}" for one in rule)
    claim = (
        "a base model that is tuned on its own tasks and answers too follows kinds of instructions that were not given"
        " more often than after as many steps on the given tasks alone, on shuffled answers or on responses alone"
    )
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: {gaps}.",
        REFUTED: f"It is not so that {claim}: {gaps}.",
        UNDECIDED: f"Whether {claim} is open: {gaps}.",
        FAILS: f"Nothing is said of own tasks, because a control is not met: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    by_arm = ", ".join(f"{arm} {percent(level)}" for arm, level in levels.items())
    reason = (
        f"Strict scores on kinds of tasks that were not given: {by_arm}. A program reads"
        f" {shares['valid tasks']:.2f} of the proposals as tasks, and of these {shares['right answers of these']:.2f}"
        f" are answered rightly. With these proposals alone and right answers the score differs by {percent(gold)}."
    )
    caveat = (
        "The difference from given tasks alone depends on the setting: here few of them are shown very often. With more"
        " of them and gentler tuning they did about as well as right answers, on validation prompts, so that own tasks"
        " may mainly prevent forgetting. And the corpus holds all these kinds of tasks, in other formats."
    )
    return {"found": found, "reason": reason, "caveat": caveat}
