"""Questions about real facts, under response constraints, checked by a program; no judge is needed.

The questions are in ``notebooks/data/questions.jsonl``; the constraints and their verifiers are the micro world's.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.data.instructions import blank_instructions
from tacit.decoding.generation import Response
from tacit.experiments.evaluation import BROAD, Evaluation, micro_evaluation
from tacit.microworld.constraints import CONSTRAINTS, apply_constraints, draw_constraints, undo_constraints
from tacit.microworld.tasks import FAMILIES
from tacit.scoring import scores
from tacit.scoring.likelihoods import ranking_table
from tacit.support.errors import TacitError
from tacit.support.files import read_rows
from tacit.support.keyed import fraction

TEXTS = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
FIELDS = {name: {"type": "string", "minLength": 1} for name in ("id", "topic", "question", "response")}
QUESTION = {"type": "object", "properties": FIELDS | {"answers": TEXTS, "rivals": TEXTS}}
QUESTION |= {"required": list(QUESTION["properties"]), "additionalProperties": False}
KINDS = ("right", "constraints met", "knowledge", "ended")  # the scores of ``score_responses``


@dataclass(frozen=True)
class Question:
    """A question with one right answer: how it may be spelled, a whole right response, and wrong answers."""

    id: str
    topic: str
    question: str
    response: str
    answers: tuple[str, ...]
    rivals: tuple[str, ...]


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a JSONL file. Raises TacitError naming the line that is none, repeats an id, or is not right."""
    questions: dict[str, Question] = {}
    for place, row in read_rows(path, QUESTION, what="questions from", wrong="no question"):
        question = Question(**row | {key: tuple(row[key]) for key in ("answers", "rivals")})
        if question.id in questions:
            raise TacitError(f"{place}, repeats the id {question.id}")
        if not answers_rightly(question.response, question.answers, question.rivals):
            raise TacitError(f"{place}: its response has none of the answers, or one of the rivals")
        questions[question.id] = question
    if not questions:
        raise TacitError(f"{path} holds no question")
    return list(questions.values())


def mentions(text: str, phrase: str) -> bool:
    """Does ``phrase`` stand in ``text`` as whole words, in any case?"""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def answers_rightly(text: str, answers: Sequence[str], rivals: Sequence[str]) -> bool:
    """Does a text hold one of the ``answers`` and none of the ``rivals``?

    This is exact for what it asks and no more: a text that also says something else that is wrong passes, and one that
    names a rival beside the right answer does not.
    """
    return any(mentions(text, answer) for answer in answers) and not any(mentions(text, rival) for rival in rivals)


def split_questions(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """``train`` (about half), ``validation`` (about an eighth) and ``test``, fixed by the questions' ids."""
    splits: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
    for question in questions:
        share = fraction("real question", question.id)
        splits["train" if share < 0.5 else "validation" if share < 0.65 else "test"].append(question)
    return splits


def draw_prompts(questions: Sequence[Question], *, n: int, seed: int, constraints: Sequence[str] = ()) -> Dataset:
    """``n`` instructions with right responses, the questions taking turns in an order that ``seed`` draws.

    Each carries one of the ``constraints``, if any are given; a question that comes again carries one drawn anew.
    A constraint that would change the answer itself ("3.14" without full stops) is drawn again. Columns ``id``,
    ``instruction``, ``response``, ``family`` (the topic) and ``task`` (JSON, for ``score_responses``). Raises
    TacitError when there are fewer than ``n`` different instructions.
    """
    rng = random.Random(f"real-{seed}")
    order = list(questions)
    rng.shuffle(order)
    rows: dict[str, dict[str, str]] = {}
    for question in itertools.chain(*[order] * 50):
        if len(rows) == n:
            break
        drawn = draw_constraints(rng, "", n=1, names=tuple(constraints)) if constraints else ()
        clauses = [CONSTRAINTS[name].clause.format(parameter=parameter) for name, parameter in drawn]
        instruction = " ".join([question.question, *clauses])
        row = {"id": f"{question.id}-{len(rows)}", "instruction": instruction, "family": question.topic}
        row["response"] = apply_constraints(question.response, drawn)
        task = {"answers": question.answers, "rivals": question.rivals, "constraints": drawn}
        content, _ = undo_constraints(row["response"], drawn)
        if answers_rightly(content, question.answers, question.rivals):
            rows.setdefault(instruction, row | {"task": json.dumps(task)})
    if len(rows) < n:
        raise TacitError(f"there are only {len(rows)} different instructions for {len(order)} questions, not {n}")
    names = ("id", "instruction", "family", "response", "task")
    return Dataset.from_dict({name: [row[name] for row in rows.values()] for name in names})


def score_responses(examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
    """A table with a row per example: ``id``, ``family`` and scores of 0 or 1.

    ``constraints met``: the response meets the constraint that its instruction carries (1 where there is none), and
    has letters or digits beside it.
    ``knowledge``: what is left without the constraint answers rightly (``answers_rightly``). ``right``: both.
    ``ended``: the model stopped by itself.
    """
    rows = []
    for task, response in zip(map(json.loads, examples["task"]), responses, strict=True):
        drawn = tuple((name, parameter) for name, parameter in task["constraints"])
        content, checks = undo_constraints(response.text.strip(), drawn)
        met = all(check.passed for check in checks) and re.search(r"\w", content) is not None
        known = answers_rightly(content, task["answers"], task["rivals"])
        row = {"right": met and known, "constraints met": met, "knowledge": known}
        rows.append(row | {"ended": response.finish_reason == "eos"})
    table = pd.DataFrame(rows).astype(float)
    return pd.concat([pd.DataFrame({"id": examples["id"], "family": examples["family"]}), table], axis=1)


def put_rivals(response: str, answers: Sequence[str], rivals: Sequence[str]) -> list[str]:
    """``response`` with each of the ``rivals`` in the place of its longest answer; raises ValueError if it has none."""
    named = [answer for answer in answers if mentions(response, answer)]
    if not named:
        raise ValueError(f"{response!r} names none of {', '.join(answers)}")
    pattern = rf"(?<!\w){re.escape(max(named, key=len))}(?!\w)"
    return [re.sub(pattern, lambda _, rival=rival: rival, response, flags=re.IGNORECASE) for rival in rivals]


def rank_above_rivals(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset
) -> dict[str, np.ndarray]:
    """The share of its rivals that each right response beats, [examples], by ``summed`` and ``mean`` log-probability.

    ``examples`` are rows of ``draw_prompts`` without constraints. A rival's response has a wrong answer in the right
    one's place and is otherwise the same, so that only the answer can tell. Chance is 0.5.
    """
    tasks = [json.loads(task) for task in examples["task"]]
    rivals = [
        put_rivals(right, task["answers"], task["rivals"])
        for right, task in zip(examples["response"], tasks, strict=True)
    ]
    starts = itertools.accumulate(map(len, rivals), initial=len(examples))  # they follow the right responses
    others = [list(range(*ends)) for ends in itertools.pairwise(starts)]
    texts = [*examples["response"], *itertools.chain(*rivals)]
    table = ranking_table(model, tokenizer, examples["instruction"], texts, others=others)
    return {kind: table[kind].to_numpy() for kind in ("summed", "mean")}


@dataclass(frozen=True, eq=False)
class RealEvaluation(Evaluation):
    """Real questions under response constraints, judged by a program, in the shape that the micro world's tasks have.

    ``lessons`` are the questions that may be trained on. ``strict``: a response is right and ended by itself. There are
    no narrow tasks.
    """

    lessons: tuple[Question, ...]
    constraints: tuple[str, ...]

    def draw(self, name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        """``n`` constrained training questions with right responses; with ``blank`` without the questions.

        Raises TacitError for another set than ``BROAD``, and where the questions are too few.
        """
        if name != BROAD or short:
            raise TacitError(f"real questions have the training set {BROAD} alone, and no short responses")
        drawn = draw_prompts(self.lessons, n=n, seed=seed, constraints=self.constraints)
        return blank_instructions(drawn) if blank else drawn

    def near(self, name: str, *, n: int, seed: int) -> Dataset:
        raise TacitError(f"real questions have no narrow task {name!r}")

    def marker(self, name: str) -> Callable[[str], bool]:
        raise TacitError(f"real questions have no narrow task {name!r}")

    def score(self, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        table = score_responses(examples, responses)
        return table.assign(strict=table["right"] * table["ended"])

    def wins(self, examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        """Who passes more of the three checks: constraint, knowledge, ending."""
        checks = ["constraints met", "knowledge", "ended"]
        return scores.wins(*(self.score(examples, side)[checks].mean(axis=1).to_numpy() for side in (ours, theirs)))


def real_evaluation(
    path: str | Path, *, n_validation: int, n_test: int, constraints: Sequence[str], test_seed: int = 0
) -> RealEvaluation:
    """The evaluation on the questions of a file, each with one of the ``constraints``. Raises as ``draw_prompts`` does.

    Without constraints the prompts are the questions themselves.
    """
    splits = split_questions(read_questions(path))
    return RealEvaluation(
        validation=draw_prompts(splits["validation"], n=n_validation, seed=0, constraints=constraints),
        test=draw_prompts(splits["test"], n=n_test, seed=test_seed, constraints=constraints),
        kinds=("strict", "constraints met", "knowledge", "ended"),
        lessons=tuple(splits["train"]),
        constraints=tuple(constraints),
    )


def verified_evaluation(*, world: str, questions: str, families: Sequence[str] = (), **options) -> Evaluation:
    """``micro_evaluation`` where there is a ``world``, else ``real_evaluation`` of ``questions``: checked by programs.

    ``options`` are what both know. Raises TacitError where neither is given, or both.
    """
    if world and questions:
        raise TacitError(f"there are a world, {world}, and questions, {questions}: leave one of the two empty")
    if world:
        return micro_evaluation(world, families=tuple(families) or tuple(FAMILIES), **options)
    if not questions:
        raise TacitError("give a world (world.json), or a file of questions (parameter questions)")
    return real_evaluation(questions, **options)
