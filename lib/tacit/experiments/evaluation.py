"""Where an experiment's instructions come from and how responses to them are scored, at either scale.

At the micro scale a world gives training sets, prompts and exact verifiers. At the papers' scale training sets and
prompts are read from files or the hub, and a local model judges pairs of responses.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, Features, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.data.instructions import blank_instructions
from tacit.data.sources import load_source, split_source
from tacit.decoding.generation import Response
from tacit.experiments.arms import cached_responses
from tacit.experiments.cache import cached_json
from tacit.microworld.constraints import CONSTRAINTS
from tacit.microworld.examples import draw_examples, score_responses
from tacit.microworld.styles import MARKERS, draw_near_domain
from tacit.microworld.tasks import FAMILIES
from tacit.microworld.world import World, read_world
from tacit.models.identity import weights_key
from tacit.models.loading import load_model, load_tokenizer, split_revision
from tacit.scoring import alpacaeval, lengths, scores
from tacit.scoring.judges import judge_pairs
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint

BROAD = "broad"  # the training set of instruction tuning; every other name is a narrow task's
# Style markers of the papers' narrow tasks in free text, for figures; the micro world's own are exact.
TEXT_MARKERS = {
    "mbpp": r"^\s*def \w+\(",
    "gsm": r"^#### ?-?[\d,.]+",
    "poetry": r"\A(?:(?! ?[-*#]|\d+[.)]|\s|def )[^\n]{3,60}\n+){3}",
    "recipes": r"\A(?: ?- [^\n]+\n)+\n",
    "chess": r"^1\. ?(?:[KQRBN]?[a-h]?[1-8]?x?[a-h][1-8]|O-O)",
}


def find_marker(markers: Mapping[str, Any], name: str) -> Any:
    """The style marker of the narrow task ``name``; raises TacitError, saying which tasks have one, for another."""
    if name not in markers:
        raise TacitError(f"no marker of style for the narrow task {name!r}: there are markers for {', '.join(markers)}")
    return markers[name]


@dataclass(frozen=True, eq=False)
class Evaluation(ABC):
    """Prompts, training sets and scores of one scale.

    ``validation`` and ``test`` are the prompts; ``kinds`` names the scores in the tables of ``score``.
    """

    validation: Dataset
    test: Dataset
    kinds: tuple[str, ...]

    @abstractmethod
    def draw(self, name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        """The training set ``name`` with ``n`` examples: ``BROAD``, or a narrow task's.

        With ``short`` its responses do not restate the instruction; with ``blank`` it has no instructions.
        """

    @abstractmethod
    def near(self, name: str, *, n: int, seed: int) -> Dataset:
        """Instructions near a narrow task's domain, with ``family``, and whether each has ``deserved`` the style."""

    @abstractmethod
    def marker(self, name: str) -> Callable[[str], bool]:
        """What tells by its style whether a text is a narrow task's; raises TacitError where there is none."""

    @abstractmethod
    def score(self, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        """A table with a row per example: the columns ``id``, ``family`` and ``kinds``."""

    @abstractmethod
    def wins(self, examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        """Head-to-head results from 0 to 1, a tie 0.5: [examples]."""

    def controlled(
        self, preferences: np.ndarray, ours: Sequence[Sequence[Response]], theirs: Sequence[Sequence[Response]]
    ) -> dict[str, scores.Estimate]:
        """Win rates at equal lengths by their names, for the ``wins`` of responses [seeds][prompts] to ``test``.

        There are none where verifiers judge, to whom length is nothing.
        """
        return {}

    @property
    def verified(self) -> bool:
        """Are there verifiers, and so strict scores?"""
        return "strict" in self.kinds

    def validate(
        self, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int, examples: Dataset | None = None
    ) -> Callable[[PreTrainedModel, dict], float]:
        """The validation score of a model given with its key: its greedy strict rate on ``examples`` (all by default).

        The score raises TacitError where there are no verifiers.
        """
        prompts = self.validation if examples is None else examples

        def validated(model: PreTrainedModel, key: dict) -> float:
            if not self.verified:
                raise TacitError("choosing epochs needs verifiers: without a world, give one number of epochs per arm")
            options = {"ids": prompts["id"], "max_new_tokens": max_new_tokens}
            responses = cached_responses(model, key, tokenizer, prompts["instruction"], **options)
            return strict_rate(self, prompts, responses)

        return validated


def strict_rate(bench: Evaluation, examples: Dataset, responses: Sequence[Response]) -> float:
    """The mean strict score of one response per example. Raises KeyError where there are no verifiers."""
    return float(bench.score(examples, responses)["strict"].mean())


@dataclass(frozen=True, eq=False)
class VerifiedEvaluation(Evaluation):
    """The micro world's: tasks of ``families``, judged by their verifiers. Ties are half a win.

    ``asked`` says which constraints instructions carry (options of ``draw_examples``). The training set ``BROAD``
    holds all families, any other name is one family.
    """

    world: World
    families: tuple[str, ...]
    asked: Mapping[str, Any]

    def draw(self, name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        """Examples of the training split, repeated where it is small. Raises TacitError for an unknown set."""
        if name != BROAD and name not in FAMILIES:
            raise TacitError(f"no training set {name!r}: there are {BROAD} and the families {', '.join(FAMILIES)}")
        options = {"families": self.families if name == BROAD else (name,), "short": short, "repeat": True}
        drawn = draw_examples(self.world, split="train", n=n, seed=seed, **options, **self.asked)
        return blank_instructions(drawn) if blank else drawn

    def near(self, name: str, *, n: int, seed: int) -> Dataset:
        return draw_near_domain(family=name, n=n, seed=seed)

    def marker(self, name: str) -> Callable[[str], bool]:
        return find_marker(MARKERS, name)

    def score(self, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        return score_responses(self.world, examples, responses)

    def wins(self, examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        """Who meets the larger share of a task's constraints."""
        return scores.wins(*(self.score(examples, side)["graded"].to_numpy() for side in (ours, theirs)))


def micro_evaluation(
    world: str,
    *,
    n_validation: int,
    n_test: int,
    families: Sequence[str] = tuple(FAMILIES),
    constraints: Sequence[str] = (),
    test_seed: int = 0,
) -> VerifiedEvaluation:
    """The evaluation in the world of the file ``world``, on tasks of ``families`` (all by default).

    With ``constraints``, each instruction carries one or two of them. Another ``test_seed`` draws other test prompts of
    the same split. Raises TacitError for an unknown family or constraint.
    """
    the_world, families = read_world(world), tuple(families)
    for what, given, known in (("family", families, FAMILIES), ("constraint", constraints, CONSTRAINTS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TacitError(f"there is no {what} {unknown[0]!r}: choose among {', '.join(known)}")
    asked = {"constrained": 1.0, "constraints": tuple(constraints)} if constraints else {}
    prompts = {
        split: draw_examples(the_world, split=split, n=n, seed=seed, families=families, **asked)
        for split, n, seed in (("validation", n_validation, 0), ("test", n_test, test_seed))
    }
    kinds = ("strict", "lenient", "knowledge", "following", "ended", *(["constraints met"] if constraints else []))
    return VerifiedEvaluation(**prompts, kinds=kinds, world=the_world, families=families, asked=asked)


@dataclass(frozen=True, eq=False)
class JudgedEvaluation(Evaluation):
    """The papers': training sets from ``sources`` (``BROAD``, the narrow tasks), pairs that ``judge`` compares.

    ``judge`` is a local model (a folder, or a hub id with @revision) loaded with ``dtype``, or ``alpaca_eval:`` and
    an annotator of that package's (``tacit.scoring.alpacaeval``), or empty. Methods raise TacitError for a set that
    ``sources`` lacks.
    """

    sources: Mapping[str, str]
    judge: str
    dtype: str

    def draw(self, name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        """The first ``n`` rows of its source, whatever the seed; the short one is a source of its own."""
        rows = read_set(self.sources, f"{name}, short" if short else name, n)
        return blank_instructions(rows) if blank else rows

    def near(self, name: str, *, n: int, seed: int) -> Dataset:
        """The first ``n`` rows of the source "near NAME"; none where there is no such source."""
        near = f"near {name}"
        rows = read_set(self.sources, near, n).to_list() if near in self.sources else []
        columns = {key: [row[key] for row in rows] for key in ("id", "instruction")}
        columns |= {"family": [near] * len(rows), "deserved": [False] * len(rows)}
        kinds = {key: Value("string") for key in ("id", "instruction", "family")} | {"deserved": Value("bool")}
        return Dataset.from_dict(columns, features=Features(kinds))

    def marker(self, name: str) -> Callable[[str], bool]:
        pattern = re.compile(find_marker(TEXT_MARKERS, name), re.MULTILINE)
        return lambda text: pattern.search(text) is not None

    def score(self, examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        """Only whether and where a response ended."""
        family = examples["family"] if "family" in examples.column_names else "all"
        ended = [float(response.finish_reason == "eos") for response in responses]
        tokens = [float(response.n_tokens) for response in responses]
        return pd.DataFrame({"id": examples["id"], "family": family, "ended": ended, "tokens": tokens})

    @property
    def annotator(self) -> str | None:
        """The annotator of alpaca_eval's that judges; None where a local model or nobody does."""
        package, _, annotator = self.judge.partition(":")
        return annotator if package == "alpaca_eval" else None

    def wins(self, examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        """How far the judge prefers ours. Raises TacitError without a judge."""
        if not self.judge:
            raise TacitError("without verifiers win rates need a judge: give parameter judge a chat model")
        texts = [list(examples["instruction"]), *([response.text for response in side] for side in (ours, theirs))]
        if self.annotator is not None:  # the package keeps its own cache
            return alpacaeval.judge_pairs(*texts, annotator=self.annotator)
        name, revision = split_revision(self.judge)
        key = {"what": "preferences", "judge": weights_key(name, revision), "dtype": self.dtype}
        key["texts"] = fingerprint(texts)

        def ask() -> list[float]:
            model = load_model(name, revision=revision, dtype=self.dtype)
            return judge_pairs(model, load_tokenizer(name, revision=revision), *texts).tolist()

        return np.array(cached_json(key, ask))

    def controlled(
        self, preferences: np.ndarray, ours: Sequence[Sequence[Response]], theirs: Sequence[Sequence[Response]]
    ) -> dict[str, scores.Estimate]:
        """The rate of ``scoring.lengths``, where length can be told from quality at all, and perhaps alpaca_eval's.

        That needs one of its annotators on AlpacaEval's own 805 prompts. Its regression gives no interval, and the
        spread of its predictions leaves out the fit's own uncertainty: it gets the interval of our rate.
        """
        sides = [lengths.text_lengths(side) for side in (ours, theirs)]
        rates = {}
        if lengths.is_separable(*sides):
            rates[lengths.METRIC] = lengths.controlled_win_rate(preferences, *sides)
        official = split_source(self.sources["test"])[0] == "alpaca_eval" and len(self.test) == alpacaeval.N_PROMPTS
        if self.annotator is not None and official:  # the annotations come from its cache, as wins has asked for them
            prompts = list(self.test["instruction"])
            tables = [
                alpacaeval.annotate(prompts, *([r.text for r in side] for side in pair), annotator=self.annotator)
                for pair in zip(ours, theirs, strict=True)
            ]
            predicted = np.mean([alpacaeval.length_controlled_preferences(table) for table in tables])
            like = rates.get(lengths.METRIC) or scores.estimate(preferences)
            rates[alpacaeval.METRIC] = scores.around(float(predicted), like)
        return rates


def read_set(sources: Mapping[str, str], name: str, n: int | None) -> Dataset:
    """The first ``n`` rows of a source, or as many as it names itself; raises TacitError for one that is missing."""
    if name not in sources:
        raise TacitError(f"parameter sources has no {name!r}: it has {', '.join(sources) or 'nothing'}")
    kind, where, most = split_source(sources[name])
    return load_source(kind, where=where, n=min(filter(None, (n, most)), default=None))


def judged_evaluation(
    sources: Mapping[str, str], *, n_validation: int, n_test: int, judge: str, dtype: str = "bfloat16"
) -> JudgedEvaluation:
    """The evaluation on the prompts of the source ``test``: the first ``n_test``, then ``n_validation`` to validate.

    Raises TacitError where there are fewer than ``n_test``.
    """
    prompts = read_set(sources, "test", n_test + n_validation)
    prompts = prompts.add_column("family", ["all"] * len(prompts))
    if len(prompts) < n_test:
        raise TacitError(f"{sources['test']} holds {len(prompts)} prompts, fewer than n_test = {n_test}")
    return JudgedEvaluation(
        validation=prompts.select(list(range(n_test, len(prompts)))),
        test=prompts.select(range(n_test)),
        kinds=("ended", "tokens"),
        sources=sources,
        judge=judge,
        dtype=dtype,
    )


def make_evaluation(
    *, world: str, sources: Mapping[str, str], judge: str, n_validation: int, n_test: int, **tasks
) -> Evaluation:
    """``micro_evaluation`` where there is a ``world``, with the ``tasks`` (families, constraints); else the judged one.

    With a world ``sources`` and ``judge`` are not read, without one ``tasks`` are not.
    """
    if world:
        return micro_evaluation(world, n_validation=n_validation, n_test=n_test, **tasks)
    return judged_evaluation(sources, n_validation=n_validation, n_test=n_test, judge=judge)
