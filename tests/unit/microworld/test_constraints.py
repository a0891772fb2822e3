"""Pairs of constraints that are held out of training."""

import random

import pytest
from tacit.microworld.constraints import CONSTRAINTS, compatible, draw_constraints, held_out
from tacit.microworld.examples import asks_held_out, draw_examples


def test_held_out_pairs_occur_in_the_test_split_only(world):
    pairs = [(a, b) for a in CONSTRAINTS for b in CONSTRAINTS if a < b and compatible(a, b)]
    assert 0 < sum(held_out(*pair) for pair in pairs) < len(pairs) / 2
    assert all(held_out(a, b) == held_out(b, a) for a, b in pairs)
    drawn = {s: draw_examples(world, split=s, n=300, seed=1, constrained=1.0) for s in ("train", "test")}
    assert not any(asks_held_out(drawn["train"]))
    assert any(asks_held_out(drawn["test"]))
    only = next(pair for pair in pairs if held_out(*pair))
    with pytest.raises(ValueError, match="no 2 compatible"):
        draw_constraints(random.Random(1), "home", n=2, names=only, every_pair=False)
    assert {name for name, _ in draw_constraints(random.Random(1), "home", n=2, names=only)} == set(only)
