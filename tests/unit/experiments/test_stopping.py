"""Stopping as a control: the end token's constant, its choice, and how a gain is split, against values by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from tacit.decoding.generation import Response, generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments import stopping
from tacit.models.loading import load_model
from tacit.scoring import scores
from tacit.support.errors import TacitError
from transformers import LogitsProcessor

VALIDATION = Dataset.from_list([{"id": i, "instruction": f"Validate {i}."} for i in "abcd"])
TEST = Dataset.from_list([{"id": i, "instruction": f"Test {i}."} for i in "efg"])


def short(examples, responses):
    """A response is right where it has ended within six tokens."""
    right = [float(r.finish_reason == "eos" and r.n_tokens <= 6) for r in responses]
    return pd.DataFrame({"id": examples["id"], "family": "all", "strict": right, "lenient": 1.0})


def make_bench(score=short, **changed):
    return SimpleNamespace(**({"validation": VALIDATION, "test": TEST, "score": score, "verified": True} | changed))


class AddToEnd(LogitsProcessor):
    def __init__(self, end, constant):
        self.end, self.constant = end, constant

    def __call__(self, input_ids, scores):
        return scores + self.constant * (torch.arange(scores.shape[1], device=scores.device) == self.end)


@pytest.mark.parametrize("constant", [-3.0, 0.0, 2.5, 6.0])
def test_the_constant_is_added_to_the_end_token_alone(tiny, tokenizer, constant):
    options = stopping.bias_end(tokenizer, constant)
    vocabulary = len(tokenizer)
    scores_before = torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(0))
    after = scores_before
    for processor in make_rules(tokenizer, **options)(torch.ones(2, 3, dtype=torch.long)):
        after = processor(torch.zeros(2, 3, dtype=torch.long), after)
    expected = scores_before.clone()
    expected[:, tokenizer.eos_token_id] += constant
    assert torch.equal(after, expected)


def test_a_spelling_that_two_tokens_share_is_refused(tokenizer):
    """As the end of a byte-level vocabulary and its twin with the mark for a space undone."""
    twins = {"a▁b": 5, "aĠb": 6}
    fake = SimpleNamespace(eos_token_id=5, convert_ids_to_tokens=lambda i: "a▁b", get_vocab=lambda: twins)
    with pytest.raises(TacitError, match=r"another token .* 'a b'"):
        stopping.bias_end(fake, 1.0)
    fake.get_vocab = lambda: {"a▁b": 5, "ab": 6}
    assert stopping.bias_end(fake, 1.0) == {"rules": ["uniform"], "uniform_tokens": {"a b": 1.0}}


def test_the_constant_with_the_best_strict_score_is_the_first_of_equals():
    """By hand: 2, 3, 3 and 0 of the four validation prompts are right."""
    right = {0.0: 2, 2.0: 3, 4.0: 3, 8.0: 0}
    asked = []

    def respond(*, constant, instructions, ids):
        asked.append((constant, list(instructions), list(ids)))
        return [Response("", "eos", 1 if i < right[constant] else 9) for i in range(len(ids))]

    for constants, expected in (([0.0, 2.0, 4.0, 8.0], 2.0), ([8.0, 4.0, 2.0], 4.0), ([8.0], 8.0)):
        asked.clear()
        chosen, table = stopping.fit_end_constant(respond, bench=make_bench(), constants=constants)
        assert chosen == expected
        assert table.to_dict("records") == [{"constant": c, "strict": right[c] / 4} for c in constants]
        assert asked == [(c, list(VALIDATION["instruction"]), list("abcd")) for c in constants]


@pytest.mark.parametrize(("changed", "constants"), [({"verified": False}, [1.0]), ({}, [])])
def test_a_choice_needs_verifiers_and_constants(changed, constants):
    with pytest.raises(TacitError, match="give a world, and constants"):
        stopping.fit_end_constant(lambda **_: pytest.fail("asked"), bench=make_bench(**changed), constants=constants)


def test_an_untuned_models_answers_are_its_own_and_those_with_the_constant(tmp_path, tiny, tokenizer, monkeypatch):
    """Against ``generate_responses`` with a processor of the test's own; a second call makes nothing."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base, constants = str(tmp_path / "base"), [0.0, 3.0, 40.0]

    def by_hand(prompts, constant):
        def processors(mask):
            return [AddToEnd(tokenizer.eos_token_id, constant)]

        model, asked = load_model(base), prompts["instruction"]
        return generate_responses(model, tokenizer, asked, max_new_tokens=12, make_processors=processors)

    def ended_later(examples, responses):  # 40 ends at once, 0 seldom
        table = short(examples, responses)
        return table.assign(strict=[float(r.finish_reason == "eos" and r.n_tokens > 1) for r in responses])

    bench = make_bench(ended_later)
    strict = [ended_later(VALIDATION, by_hand(VALIDATION, c))["strict"].mean() for c in constants]
    options = {"bench": bench, "constants": constants, "max_new_tokens": 12}
    answers, record = stopping.answer_untuned(base, tokenizer, **options)
    assert record["selection"] == [{"constant": c, "strict": s} for c, s in zip(constants, strict, strict=True)]
    assert record["constant"] == constants[int(np.argmax(strict))]
    assert list(answers) == ["base", "constant end"]
    assert answers["base"] == [generate_responses(load_model(base), tokenizer, TEST["instruction"], max_new_tokens=12)]
    assert answers["constant end"] == [by_hand(TEST, record["constant"])]
    monkeypatch.setattr("tacit.experiments.arms.generate_responses", lambda *a, **o: pytest.fail("made again"))
    assert stopping.answer_untuned(base, tokenizer, **options) == (answers, record)
    always = make_bench(lambda examples, responses: short(examples, responses).assign(strict=1.0))
    monkeypatch.undo()
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    answers, record = stopping.answer_untuned(
        base, tokenizer, **(options | {"bench": always, "constants": [40.0, 3.0]})
    )
    assert record["constant"] == 40.0
    assert [r.n_tokens for r in answers["constant end"][0]] == [1, 1, 1]


BASE = {"strict": [[0, 0, 1, 0, 0, 0, 0, 0]], "lenient": [[1, 1, 1, 0, 1, 0, 0, 0]]}
TUNED = {
    "strict": [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]],
    "lenient": [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]],
}


def as_tables(arm):
    return [pd.DataFrame({"strict": s, "lenient": n}) for s, n in zip(arm["strict"], arm["lenient"], strict=True)]


def test_a_gain_is_split_at_the_base_models_lenient_score():
    """Strict 1/8 and 11/16, lenient 4/8 and 13/16."""
    split = stopping.split_gain(TUNED, BASE)
    values = {name: getattr(split, name).value for name in ("gain", "stopping", "beyond", "lenient_gain")}
    assert values == pytest.approx({"gain": 9 / 16, "stopping": 6 / 16, "beyond": 3 / 16, "lenient_gain": 5 / 16})
    twice = {kind: rows * 2 for kind, rows in BASE.items()}
    assert split.gain == scores.difference(TUNED["strict"], twice["strict"])
    assert split.stopping == scores.difference(BASE["lenient"], BASE["strict"])
    assert split.beyond == scores.difference(TUNED["strict"], twice["lenient"])
    assert split.lenient_gain == scores.difference(TUNED["lenient"], twice["lenient"])
    assert stopping.split_gain(as_tables(TUNED), as_tables(BASE)) == split
    assert stopping.split_gain(as_tables(TUNED), BASE) == split


def test_only_the_prompts_that_count_are_split():
    counted = np.array([True, False, True, False, True, False, True, False])
    kept = [{kind: np.array(rows)[:, ::2] for kind, rows in arm.items()} for arm in (TUNED, BASE)]
    assert stopping.split_gain(TUNED, BASE, prompts=counted) == stopping.split_gain(*kept)


def test_beyond_stopping_is_measured_from_the_base_models_lenient_score():
    base = as_tables({"strict": [[0, 0, 0]], "lenient": [[1, 1, 0]]})
    tuned = as_tables({"strict": [[1, 1, 1], [0, 1, 0]], "lenient": [[1, 1, 1], [0, 1, 0]]})
    assert stopping.split_gain(tuned, base).beyond == scores.difference([[1, 1, 1], [0, 1, 0]], [[1, 1, 0]] * 2)
    counted = np.array([False, True, True])
    beyond = stopping.split_gain(tuned, base, prompts=counted).beyond
    assert beyond == scores.difference([[1, 1], [1, 0]], [[1, 0]] * 2)
    with pytest.raises(KeyError, match="strict"):
        stopping.split_gain([t.drop(columns=["strict", "lenient"]) for t in tuned], base)


def test_an_arm_that_only_ends_its_base_models_answers_gains_nothing_beyond_stopping():
    stops = {"strict": BASE["lenient"], "lenient": BASE["lenient"]}
    split = stopping.split_gain(stops, BASE)
    assert split.gain == split.stopping
    assert split.beyond.value == split.lenient_gain.value == 0.0


def test_the_parts_are_rows_of_a_metrics_file():
    split = stopping.split_gain(TUNED, BASE)
    rows = split.as_results("tuned")
    assert [(row["arm"], row["metric"]) for row in rows] == [
        ("tuned minus base", "strict"),
        ("base", "lenient minus strict"),
        ("tuned", "strict minus base lenient"),
        ("tuned minus base", "lenient"),
    ]
    assert rows[2] == split.beyond.as_result("tuned", "strict minus base lenient")
