"""Finding 6's corpora: their documents in markup, their questions, and their base models compared.

Records are those of ``tacit.findings.readiness``, grouped by the names of their corpora.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from tacit.findings.readiness import estimate_mean, stack_verdicts
from tacit.microworld.documents import write_documents
from tacit.microworld.world import World
from tacit.scoring.estimates import Estimate
from tacit.scoring.scores import difference_of_groups
from tacit.scoring.verdicts import Demand

ASKING = ("markup", "faq", "forum", "worksheet", "tagged_page")  # the genres that hold questions with answers
Groups = Mapping[str, Sequence[dict[str, Any]]]


def sample_markup(world: World, *, n: int, seed: int, one_markup: int | None = None) -> list[str]:
    """The first ``n`` documents in markup of a corpus, each in its own or all in the one of seed ``one_markup``."""
    drawn = write_documents(world, seed=seed, one_markup=one_markup)
    return list(islice((text for genre, text in drawn if genre == "markup"), n))


def measure_questions(world: World, pretraining: Mapping[str, Any], *, n: int) -> dict[str, float]:
    """The share of characters that each genre of ``ASKING`` has in the first ``n`` documents of a recorded pretraining.

    A record that lacks the seed or the markup's share or kind is read as of the defaults: 1, ``write_documents``' own.
    """
    made = {name: pretraining[name] for name in ("seed", "markup_share", "one_markup") if name in pretraining}
    sizes, whole = dict.fromkeys(ASKING, 0), 0
    for genre, text in islice(write_documents(world, **{"seed": 1} | made), n):
        whole += len(text)
        if genre in sizes:
            sizes[genre] += len(text)
    return {genre: size / whole for genre, size in sizes.items()}


def compare_corpora(
    groups: Groups, ours: str, theirs: str, arm: str, kind: str = "strict", *, known: bool = False
) -> Estimate:
    """How much more an arm scores with base models of one corpus than with another's, not paired.

    With ``known``, over the prompts whose answers each base model knows. Raises ValueError as ``stack_verdicts`` and
    ``difference_of_groups`` do.
    """
    sides = [stack_verdicts(groups[corpus], arm, kind, known=known) for corpus in (ours, theirs)]
    return difference_of_groups(*sides)


def demand_gains(groups: Groups, arm: str, *, most: str, others: Mapping[str, str], threshold: float) -> list[Demand]:
    """An arm, strict, with the corpus ``most`` minus with each of ``others``, by the name to show."""
    return [
        Demand(f"{arm}, fresh minus {name}", "strict", compare_corpora(groups, most, corpus, arm), threshold)
        for name, corpus in others.items()
    ]


def demand_levels(groups: Groups, arm: str, kind: str, *, threshold: float) -> list[Demand]:
    """The level of an arm with the base models of each corpus. Raises ValueError as ``estimate_mean`` does."""
    return [
        Demand(f"{arm}, {corpus}", kind, estimate_mean(stack_verdicts(records, arm, kind)), threshold)
        for corpus, records in groups.items()
    ]
