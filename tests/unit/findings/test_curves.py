"""Curves over epochs against models tuned and scored by hand, and the odd one out on small numbers."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from tacit.decoding.generation import generate_responses
from tacit.findings import curves
from tacit.models import chat
from tacit.models.loading import load_model
from tacit.scoring import scores
from tacit.training.finetuning import finetune

TEST = Dataset.from_list([{"id": i, "instruction": f"Say {i}.", "response": f"It is {i}."} for i in "abc"])
SETTINGS = {"batch_size": 2, "learning_rate": 1.0e-2}


def test_a_tasks_own_families_are_left_out():
    families = ["add", "poem", "subtract", "list"]
    assert curves.mark_elsewhere(families, "add").tolist() == [False, True, False, True]
    assert curves.mark_elsewhere(families, "poem").tolist() == [True, False, True, True]
    assert curves.mark_elsewhere(families, "of no world").tolist() == [True] * 4


def draw(*, seed):
    return Dataset.from_list([{"id": str(i), "instruction": f"Say {i}.", "response": f"It is {seed}."} for i in "123"])


def count_tokens(examples, responses):
    return pd.DataFrame({"id": examples["id"], "strict": [float(r.n_tokens % 2) for r in responses]})


@torch.inference_mode()
def end_by_hand(model, tokenizer, example):
    """The end token's probability from one plain forward pass over prompt and response."""
    text = chat.render_prompt(tokenizer, example["instruction"]) + example["response"]
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return model(input_ids=ids).logits[0, -1].softmax(-1)[tokenizer.eos_token_id].item()


def test_each_point_of_a_curve_is_a_run_of_its_own(tmp_path, tiny, tokenizer, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tokenizer.chat_template = chat.tulu_template()
    base, bench = str(tmp_path / "base"), SimpleNamespace(test=TEST, score=count_tokens)
    trace = partial(curves.trace_epochs, base, tokenizer, draw, bench=bench, seeds=[1, 2], max_new_tokens=6)
    table, answers = trace(curve_epochs=[1, 3], **SETTINGS)
    assert table[["epochs", "seed"]].to_numpy().tolist() == [[1, 1], [1, 2], [3, 1], [3, 2]]
    assert table["steps"].tolist() == [2, 2, 6, 6]  # three examples in batches of two
    model, _ = finetune(load_model(base), tokenizer, draw(seed=2), epochs=3, seed=2, **SETTINGS)
    said = generate_responses(model, tokenizer, TEST["instruction"], ids=TEST["id"], max_new_tokens=6)
    assert answers[3][1] == said
    assert table["strict"].iloc[-1] == np.mean([r.n_tokens % 2 for r in said])
    by_hand = [end_by_hand(model, tokenizer, example) for example in TEST]
    assert table["p(end)"].iloc[-1] == pytest.approx(np.mean(by_hand), rel=1e-3)
    monkeypatch.setattr(curves, "response_likelihoods", lambda *_: pytest.fail("made again"))
    again, _ = trace(curve_epochs=[3], **SETTINGS)
    assert again.to_dict("records") == table[table["epochs"] == 3].to_dict("records")


def test_the_odd_one_is_held_against_the_mean_of_the_others():
    """By hand: 1/2 minus the mean of 1 and 3/4."""
    arms = {"a": [[1.0, 1, 1, 1]], "odd": [[1.0, 0, 1, 0]], "b": [[1.0, 1, 1, 0]]}
    found = curves.compare_odd_one(arms, "odd")
    assert found.value == 0.5 - 0.875
    assert found == scores.difference(arms["odd"], [[1.0, 1.0, 1.0, 0.5]])
    with pytest.raises(ValueError, match="'odd' has no other arm"):
        curves.compare_odd_one({"odd": arms["odd"]}, "odd")
