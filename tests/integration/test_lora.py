"""LoRA: adapters trained and added to plain weights. The first tests run where peft is missing too."""

import copy
import sys

import pytest
import torch
from datasets import Dataset
from tacit.models.loading import load_model
from tacit.support.errors import TacitError
from tacit.training.finetuning import finetune

ROWS = [
    {"id": str(i), "instruction": f"Say {w}.", "response": f"{w} {w}."}
    for i, w in enumerate(["moon", "sea", "key", "rain"])
]
OPTIONS = {"epochs": 4, "learning_rate": 1e-2, "seed": 0, "batch_size": 4, "max_length": 64}


def tune(model, tokenizer, **settings):
    return finetune(model, tokenizer, Dataset.from_list(ROWS), **OPTIONS, **settings)


def test_without_peft_the_error_says_what_to_install(tiny, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TacitError, match=r"pip install -e '.\[lora\]'"):
        tune(tiny, tokenizer, lora={"r": 2})


def test_adapters_are_merged_into_a_plain_model(tiny, tokenizer, tmp_path):
    pytest.importorskip("peft")
    before, kind = copy.deepcopy(tiny.state_dict()), type(tiny)
    tuned, history = tune(tiny, tokenizer, lora={"r": 2, "alpha": 4})
    assert type(tuned) is kind and tuned is tiny
    assert history[-1]["loss"] < history[0]["loss"]
    after = tuned.state_dict()
    assert set(after) == set(before)  # no adapter is left
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}  # all linear layers but the head
    for name in changed:  # the difference has the adapters' rank
        singular = torch.linalg.svdvals((after[name] - before[name]).double())
        assert singular[1] > 1e-6 * singular[0] > singular[2]
    assert all(weight.requires_grad for weight in tuned.parameters())
    tuned.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, tuned(ids).logits)


def test_targets_packing_and_micro_batches_go_with_adapters(tiny, tokenizer):
    pytest.importorskip("peft")
    before = copy.deepcopy(tiny.state_dict())
    lora = {"r": 2, "targets": ["q_proj"]}
    one, losses = tune(copy.deepcopy(tiny), tokenizer, lora=lora, autocast=False)
    two, others = tune(copy.deepcopy(tiny), tokenizer, lora=lora, autocast=False, packing=True, micro_batch=2)
    changed = {name for name in before if not torch.equal(before[name], one.state_dict()[name])}
    assert changed and all("q_proj" in name for name in changed)
    assert [row["loss"] for row in losses] == pytest.approx([row["loss"] for row in others], rel=1e-4)
    for name in changed:
        torch.testing.assert_close(one.state_dict()[name], two.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_wrong_settings_are_refused_and_an_error_leaves_the_model_plain(tiny, tokenizer):
    pytest.importorskip("peft")
    before = copy.deepcopy(tiny.state_dict())
    for lora, message in (
        ({"rank": 2}, "unknown lora setting 'rank'"),
        ({"targets": ["nowhere"]}, "lora does not fit Llama"),
    ):
        with pytest.raises(TacitError, match=message):
            tune(tiny, tokenizer, lora=lora)
    with pytest.raises(ValueError, match=r"(?i)schedul"):
        tune(tiny, tokenizer, lora={"r": 2}, schedule="nonsense")
    assert set(tiny.state_dict()) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert all(weight.requires_grad for weight in tiny.parameters())
