"""Corpora: documents and shares against the stream itself, comparisons against means by hand."""

from itertools import islice

import numpy as np
import pytest
from tacit.findings import corpora
from tacit.microworld.documents import write_documents
from tacit.scoring.scores import difference_of_groups


def record(base, *strict, knows="1111"):
    """A record of one arm and four prompts."""
    verdicts = {"narrow": {"strict": list(strict), "lenient": ["1111"] * len(strict)}}
    return {"base": base, "prompts": list("wxyz"), "knows": knows, "verdicts": verdicts}


GROUPS = {
    "many": [record("a", "1110", "1100"), record("b", "1111", "0111", knows="0011")],
    "none": [record("c", "1000", "0000"), record("d", "0001", "0001"), record("e", "0010", "0100")],
}


def test_documents_in_markup_are_the_streams_own(world):
    stream = islice(write_documents(world, seed=3), 60)
    expected = [text for genre, text in stream if genre == "markup"][:2]
    assert corpora.sample_markup(world, n=2, seed=3) == expected
    first = [text.split("\n")[0] for text in corpora.sample_markup(world, n=5, seed=3, one_markup=11)]
    assert first != [text.split("\n")[0] for text in corpora.sample_markup(world, n=5, seed=3)]


@pytest.mark.parametrize(
    "made", [{"seed": 5, "markup_share": 0.0}, {"seed": 5, "markup_share": 0.3, "one_markup": 2}, {"width": 4}]
)
def test_questions_are_measured_in_characters(world, made):
    options = {"seed": 1} | {name: value for name, value in made.items() if name != "width"}
    drawn = list(islice(write_documents(world, **options), 80))
    whole = len("".join(text for _, text in drawn))
    shares = corpora.measure_questions(world, made, n=80)
    assert list(shares) == ["markup", "faq", "forum", "worksheet", "tagged_page"]
    for genre, share in shares.items():
        assert share == len("".join(text for kind, text in drawn if kind == genre)) / whole
    assert (shares["markup"] == 0) == (made.get("markup_share") == 0.0)


def test_corpora_are_compared_by_their_base_models():
    gap = corpora.compare_corpora(GROUPS, "many", "none", "narrow")
    assert gap.value == pytest.approx((5 / 8 + 7 / 8) / 2 - (1 / 8 + 2 / 8 + 2 / 8) / 3)
    sides = [
        np.array([[[int(v) for v in text] for text in one["verdicts"]["narrow"]["strict"]] for one in group])
        for group in GROUPS.values()
    ]
    assert gap == difference_of_groups(*sides)
    known = corpora.compare_corpora(GROUPS, "many", "none", "narrow", known=True)
    assert known.value == pytest.approx((5 / 8 + 4 / 4) / 2 - 5 / 24)
    assert corpora.compare_corpora(GROUPS, "many", "none", "narrow", "lenient").value == 0


def test_demands_name_the_arm_and_what_is_compared():
    others = {"no markup": "none", "itself": "many"}
    gains = corpora.demand_gains(GROUPS, "narrow", most="many", others=others, threshold=0.1)
    assert [d.arm for d in gains] == ["narrow, fresh minus no markup", "narrow, fresh minus itself"]
    assert [d.estimate.value for d in gains] == pytest.approx([0.75 - 5 / 24, 0.0])
    assert {(d.metric, d.threshold, d.side) for d in gains} == {("strict", 0.1, "above")}
    levels = corpora.demand_levels(GROUPS, "narrow", "strict", threshold=0.4)
    assert [(d.arm, d.threshold) for d in levels] == [("narrow, many", 0.4), ("narrow, none", 0.4)]
    assert [d.estimate.value for d in levels] == pytest.approx([0.75, 5 / 24])
