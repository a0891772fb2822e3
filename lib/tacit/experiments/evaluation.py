"""Where an experiment's instructions come from and how responses to them are scored, at either scale.

At the micro scale a world gives training sets, prompts and exact verifiers. At the papers' scale training sets and
prompts are read from files or the hub, and a local model judges pairs of responses.
"""

from __future__ import annotations

import re
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
from tacit.microworld.world import read_world
from tacit.models.identity import weights_key
from tacit.models.loading import load_model, load_tokenizer, split_revision
from tacit.scoring import alpacaeval, lengths, scores
from tacit.scoring.judges import judge_pairs
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint

BROAD = "broad"  # the training set of instruction tuning; every other name is a narrow task's
# Style markers of the papers' narrow tasks in free text, for figures; the micro world's are exact (microworld/styles.py).
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


@dataclass(frozen=True)
class Evaluation:
    """Prompts, training sets and scores of one scale.

    ``draw(name, n, seed, short, blank)`` gives a training set, with responses that do not restate the instruction
    (``short``) or without instructions (``blank``); ``near(name, n, seed)`` instructions near a narrow task's domain;
    ``marker(name)`` tells by its style whether a text is that task's; ``score(examples, responses)`` gives a table with a row
    per example and the columns ``id``, ``family`` and ``kinds``; ``wins(examples, ours, theirs)`` head-to-head results
    from 0 to 1, [examples]. ``controlled(preferences, ours, theirs)`` gives win rates at equal lengths by their names, for
    the ``wins`` of responses [seeds][prompts] to the test prompts: none where verifiers judge, to whom length is nothing.
    """

    validation: Dataset
    test: Dataset
    kinds: tuple[str, ...]
    draw: Callable[..., Dataset]
    near: Callable[..., Dataset]
    marker: Callable[[str], Callable[[str], bool]]
    score: Callable[[Dataset, Sequence[Response]], pd.DataFrame]
    wins: Callable[[Dataset, Sequence[Response], Sequence[Response]], np.ndarray]
    controlled: Callable[..., dict[str, scores.Estimate]]

    @property
    def verified(self) -> bool:
        """Are there verifiers, and so strict scores?"""
        return "strict" in self.kinds

    def validate(
        self, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int, examples: Dataset | None = None
    ) -> Callable[[PreTrainedModel, dict], float]:
        """The validation score of a model given with its key: its strict rate, greedily, on ``examples`` (all by default).

        The score raises TacitError where there are no verifiers.
        """
        prompts = self.validation if examples is None else examples

        def strict_rate(model: PreTrainedModel, key: dict) -> float:
            if not self.verified:
                raise TacitError("choosing epochs needs verifiers: without a world, give one number of epochs per arm")
            options = {"ids": prompts["id"], "max_new_tokens": max_new_tokens}
            responses = cached_responses(model, key, tokenizer, prompts["instruction"], **options)
            return float(self.score(prompts, responses)["strict"].mean())

        return strict_rate


def micro_evaluation(
    world: str,
    *,
    n_validation: int,
    n_test: int,
    families: Sequence[str] = tuple(FAMILIES),
    constraints: Sequence[str] = (),
) -> Evaluation:
    """The micro world's: tasks of ``families`` (all by default), judged by their verifiers.

    With ``constraints``, each instruction carries one or two of them. The training set ``broad`` holds all families, any other
    name is one family. Ties are half a win. Raises TacitError for an unknown family or constraint.
    """
    the_world = read_world(world)
    for what, given, known in (("family", families, FAMILIES), ("constraint", constraints, CONSTRAINTS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TacitError(f"there is no {what} {unknown[0]!r}: choose among {', '.join(known)}")
    asked = {"constrained": 1.0, "constraints": tuple(constraints)} if constraints else {}

    def draw(name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        if name != BROAD and name not in FAMILIES:
            raise TacitError(f"no training set {name!r}: there are {BROAD} and the families {', '.join(FAMILIES)}")
        options = {"families": tuple(families) if name == BROAD else (name,), "short": short, "repeat": True}
        drawn = draw_examples(the_world, split="train", n=n, seed=seed, **options, **asked)
        return blank_instructions(drawn) if blank else drawn

    def near(name: str, *, n: int, seed: int) -> Dataset:
        return draw_near_domain(family=name, n=n, seed=seed)

    def score(examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        return score_responses(the_world, examples, responses)

    def wins(examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        return scores.wins(*(score(examples, responses)["graded"].to_numpy() for responses in (ours, theirs)))

    def marker(name: str) -> Callable[[str], bool]:
        return find_marker(MARKERS, name)

    return Evaluation(
        validation=draw_examples(
            the_world, split="validation", n=n_validation, seed=0, families=tuple(families), **asked
        ),
        test=draw_examples(the_world, split="test", n=n_test, seed=0, families=tuple(families), **asked),
        kinds=("strict", "lenient", "knowledge", "following", "ended", *(["constraints met"] if constraints else [])),
        draw=draw,
        near=near,
        marker=marker,
        score=score,
        wins=wins,
        controlled=lambda preferences, ours, theirs: {},
    )


def judged_evaluation(
    sources: Mapping[str, str], *, n_validation: int, n_test: int, judge: str, dtype: str = "bfloat16"
) -> Evaluation:
    """The papers': training sets from ``sources`` (``broad``, the narrow tasks' names) and prompts from its ``test``.

    The first ``n_test`` prompts are the test set and the following ``n_validation`` the validation set. ``score`` says only
    whether and where a response ended; ``wins`` asks ``judge``: a local model (a folder, or a hub id with @revision), or
    ``alpaca_eval:`` and an annotator of that package's (``tacit.scoring.alpacaeval``). ``controlled`` is ``lengthcontrol``'s rate, where
    length can be told from quality at all, and with such an annotator on AlpacaEval's own 805 prompts also that package's.
    Raises TacitError for a set that ``sources`` lacks, and when ``wins`` is asked without a judge.
    """
    package, _, annotator = judge.partition(":")
    by_alpaca_eval = package == "alpaca_eval"

    def read(name: str, n: int | None) -> Dataset:
        if name not in sources:
            raise TacitError(f"parameter sources has no {name!r}: it has {', '.join(sources) or 'nothing'}")
        kind, where, most = split_source(sources[name])
        return load_source(kind, where=where, n=min(filter(None, (n, most)), default=None))

    def draw(name: str, *, n: int, seed: int, short: bool = False, blank: bool = False) -> Dataset:
        rows = read(f"{name}, short" if short else name, n)
        return blank_instructions(rows) if blank else rows

    def near(name: str, *, n: int, seed: int) -> Dataset:
        rows = read(f"near {name}", n).to_list() if f"near {name}" in sources else []
        columns = {key: [row[key] for row in rows] for key in ("id", "instruction")}
        columns |= {"family": [f"near {name}"] * len(rows), "deserved": [False] * len(rows)}
        kinds = {key: Value("string") for key in ("id", "instruction", "family")} | {"deserved": Value("bool")}
        return Dataset.from_dict(columns, features=Features(kinds))

    def marker(name: str) -> Callable[[str], bool]:
        pattern = re.compile(find_marker(TEXT_MARKERS, name), re.MULTILINE)
        return lambda text: pattern.search(text) is not None

    def score(examples: Dataset, responses: Sequence[Response]) -> pd.DataFrame:
        family = examples["family"] if "family" in examples.column_names else "all"
        ended = [float(r.finish_reason == "eos") for r in responses]
        lengths = [float(r.n_tokens) for r in responses]
        return pd.DataFrame({"id": examples["id"], "family": family, "ended": ended, "tokens": lengths})

    def wins(examples: Dataset, ours: Sequence[Response], theirs: Sequence[Response]) -> np.ndarray:
        if not judge:
            raise TacitError("without verifiers win rates need a judge: give parameter judge a chat model")
        texts = [list(examples["instruction"]), [r.text for r in ours], [r.text for r in theirs]]
        if by_alpaca_eval:  # which keeps its own cache
            return alpacaeval.judge_pairs(*texts, annotator=annotator)
        name, revision = split_revision(judge)
        key = {"what": "preferences", "judge": weights_key(name, revision), "dtype": dtype}
        key["texts"] = fingerprint([list(t) for t in texts])

        def ask() -> list[float]:
            model = load_model(name, revision=revision, dtype=dtype)
            return judge_pairs(model, load_tokenizer(name, revision=revision), *texts).tolist()

        return np.array(cached_json(key, ask))

    def controlled(
        preferences: np.ndarray, ours: Sequence[Sequence[Response]], theirs: Sequence[Sequence[Response]]
    ) -> dict[str, scores.Estimate]:
        lengths = [lengths.text_lengths(side) for side in (ours, theirs)]
        found = {}
        if lengths.is_separable(*lengths):
            found[lengths.METRIC] = lengths.controlled_win_rate(preferences, *lengths)
        official = split_source(sources["test"])[0] == "alpaca_eval" and n_test == alpacaeval.N_PROMPTS
        if by_alpaca_eval and official:  # the annotations come from its cache, as wins has asked for them
            asked = list(prompts["instruction"])[:n_test]
            tables = [
                alpacaeval.annotate(asked, *([r.text for r in side] for side in pair), annotator=annotator)
                for pair in zip(ours, theirs, strict=True)
            ]
            predicted = np.mean([alpacaeval.length_controlled_preferences(table) for table in tables])
            # Its regression gives no interval, and the spread of its predictions leaves out the fit's own uncertainty.
            like = found.get(lengths.METRIC) or scores.estimate(preferences)
            found[alpacaeval.METRIC] = scores.around(float(predicted), like)
        return found

    prompts = read("test", n_test + n_validation)
    prompts = prompts.add_column("family", ["all"] * len(prompts))
    if len(prompts) < n_test:
        raise TacitError(f"{sources['test']} holds {len(prompts)} prompts, fewer than n_test = {n_test}")
    return Evaluation(
        validation=prompts.select(list(range(n_test, len(prompts)))),
        test=prompts.select(range(n_test)),
        kinds=("ended", "tokens"),
        draw=draw,
        near=near,
        marker=marker,
        score=score,
        wins=wins,
        controlled=controlled,
    )


def make_evaluation(
    *, world: str, sources: Mapping[str, str], judge: str, n_validation: int, n_test: int, **tasks
) -> Evaluation:
    """``micro_evaluation`` when ``world`` is not empty, of the ``tasks`` (families, constraints) given; else ``judged_evaluation``.

    With a world ``sources`` and ``judge`` are not read, without one ``tasks`` are not. Raises TacitError as the one called does.
    """
    if world:
        return micro_evaluation(world, n_validation=n_validation, n_test=n_test, **tasks)
    return judged_evaluation(sources, n_validation=n_validation, n_test=n_test, judge=judge)
