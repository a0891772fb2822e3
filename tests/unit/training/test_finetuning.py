"""Finetuning: padding, learning, repeatability, the record of losses, and the model's attention left as it was."""

import copy
import inspect

import pytest
import torch
from conftest import CONFIGS, make_model
from datasets import Dataset
from tacit.data.instructions import IGNORED, encode_example
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training import finetuning
from tacit.training.finetuning import collate, epoch_losses, finetune
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

ROWS = [
    {"id": str(i), "instruction": f"Say {word}.", "response": f"{word} {word}."}
    for i, word in enumerate(["moon", "sea", "key", "rain", "bell", "king", "boat", "hill"])
]
OPTIONS = {"learning_rate": 1e-2, "seed": 0, "batch_size": 4, "max_length": 64}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_collate_pads_right_and_keeps_the_positions_before_loss_bearing_tokens():
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8]},
        {"input_ids": [3, 4], "labels": [IGNORED, IGNORED]},
        {"input_ids": [1, 2, 9], "labels": [IGNORED, IGNORED, 9]},
    ]
    batch = collate(rows, pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [3, 4, 0, 0], [1, 2, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch["logits_to_keep"].tolist() == [1, 2]
    assert batch["labels"].tolist() == batch["shift_labels"].tolist() == [[7, 8], [IGNORED, IGNORED], [9, IGNORED]]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_batchs_loss_and_gradient_are_those_of_its_rows_without_padding(kind):
    model = make_model(CONFIGS[kind], seed=0)
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, IGNORED, 8, 9]},
        {"input_ids": [3, 4, 11], "labels": [IGNORED, 4, 11]},
    ]
    total = sum(
        torch.nn.functional.cross_entropy(
            model(torch.tensor([row["input_ids"]])).logits[0, :-1],
            torch.tensor(row["labels"][1:]),
            ignore_index=IGNORED,
            reduction="sum",
        )
        for row in rows
    )
    parameters = list(model.parameters())
    expected = torch.autograd.grad(total / 4, parameters)
    out = model(**collate(rows, pad_token_id=0))
    assert out.logits.shape[1] == 4  # of five positions: no row's loss needs the last
    assert out.loss.item() == pytest.approx(total.item() / 4, rel=1e-5)
    for a, b in zip(torch.autograd.grad(out.loss, parameters), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def test_finetuning_lowers_the_response_loss_and_repeats(tiny, tokenizer):
    data = Dataset.from_list(ROWS)

    def loss(model):
        batch = collate(
            [encode_example(tokenizer, r["instruction"], r["response"]) for r in ROWS],
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.no_grad():
            return float(model(**batch).loss)

    twin = copy.deepcopy(tiny)
    before = loss(tiny)
    tuned, history = finetune(tiny, tokenizer, data, epochs=3, **OPTIONS)
    assert loss(tuned) < 0.7 * before
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    again, _ = finetune(twin, tokenizer, data, epochs=3, **OPTIONS)
    assert torch.equal(weights(tuned), weights(again))


def test_epoch_losses_by_hand():
    """The step that ends an epoch counts as its last; the Trainer's closing summary is no step."""
    log = [
        {"loss": 4.0, "epoch": 0.5},
        {"loss": 2.0, "epoch": 1.0},
        {"loss": 1.5, "epoch": 1.5, "grad_norm": 1.0},
        {"loss": 0.5, "epoch": 2.0},
        {"train_runtime": 1.0, "train_loss": 2.0, "epoch": 2.0},
    ]
    assert epoch_losses(log, epochs=2) == [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.0}]
    assert epoch_losses(log[:2], epochs=1) == [{"epoch": 1, "loss": 3.0}]


def test_every_step_of_a_real_log_belongs_to_one_epoch(tiny, tokenizer, monkeypatch):
    """Three steps an epoch, so that the log's fractions of an epoch are no round numbers."""
    logs = []

    def noting(log, *, epochs):
        logs.extend(row["loss"] for row in log if "loss" in row)
        return epoch_losses(log, epochs=epochs)

    monkeypatch.setattr(finetuning, "epoch_losses", noting)
    _, history = finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=4, **(OPTIONS | {"batch_size": 3}))
    assert len(logs) == 12
    expected = [sum(logs[i : i + 3]) / 3 for i in range(0, 12, 3)]
    assert [row["loss"] for row in history] == pytest.approx(expected)


def test_accumulated_micro_batches_are_as_the_whole_batch(tiny, tokenizer):
    """Responses of unequal length: a mean of the micro batches' means would differ."""
    rows = [row | {"response": row["response"] * (1 + i % 4)} for i, row in enumerate(ROWS)]
    runs = {}
    for micro in (None, 2, 1, 8):
        model, history = finetune(
            copy.deepcopy(tiny), tokenizer, Dataset.from_list(rows), epochs=2, micro_batch=micro, **OPTIONS
        )
        runs[micro] = (weights(model), [row["loss"] for row in history])
    for micro in (2, 1, 8):
        assert runs[micro][1] == pytest.approx(runs[None][1], rel=2e-3), micro
        assert (runs[micro][0] - runs[None][0]).abs().mean() < 2e-4
    assert (runs[None][0] - weights(tiny)).abs().mean() > 5e-3
    with pytest.raises(TacitError, match="micro_batch 3 does not divide batch_size 5"):
        finetune(tiny, tokenizer, Dataset.from_list(rows), epochs=1, micro_batch=3, **(OPTIONS | {"batch_size": 5}))


def test_the_attention_implementation_is_the_same_after_training_as_before(tiny, tokenizer):
    during = set()
    tiny.register_forward_pre_hook(lambda model, _: during.add(model.config._attn_implementation))
    assert tiny.config._attn_implementation == "sdpa"
    tuned, _ = finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, **OPTIONS)
    assert during == {"eager" if tiny.device.type == "cpu" else "sdpa"}
    assert tuned.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=r"(?i)schedul"):
        finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, schedule="nonsense", **OPTIONS)
    tiny._forward_pre_hooks.clear()
    tiny.register_forward_pre_hook(lambda model, _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, **OPTIONS)
    assert tiny.config._attn_implementation == "sdpa"


class ShiftsItself(LlamaForCausalLM):
    """A model that computes its loss from labels that are not shifted yet, whatever else it is given."""

    def forward(self, input_ids, attention_mask=None, labels=None, logits_to_keep=0, **kwargs):
        kwargs.pop("shift_labels", None)
        out = super().forward(input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, **kwargs)
        return (
            out
            if labels is None
            else CausalLMOutputWithPast(
                loss=self.loss_function(out.logits, labels, self.config.vocab_size), logits=out.logits
            )
        )


def test_an_architecture_whose_loss_is_another_is_refused(tiny, tokenizer):
    tiny.__class__ = ShiftsItself
    before = weights(tiny)
    with pytest.raises(TacitError, match="ShiftsItself cannot be tuned here"):
        finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, **OPTIONS)
    assert torch.equal(weights(tiny), before)


def test_autocast_keeps_no_copies_of_the_weights_while_micro_batches_accumulate(tiny, tokenizer, monkeypatch):
    """At seven billion parameters the copies are 13 GB, and weights that are used once a pass gain nothing."""
    monkeypatch.setattr(provenance, "cpu_multiplies_bf16", lambda: True)
    seen, usual = [], LlamaForCausalLM.forward

    def forward(self, *args, **kwargs):
        if torch.is_autocast_enabled("cpu") and self.training:
            seen.append(torch.is_autocast_cache_enabled())
        return usual(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(usual)
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    for micro, kept in ((4, True), (2, False)):
        seen.clear()
        finetune(copy.deepcopy(tiny), tokenizer, Dataset.from_list(ROWS), epochs=1, micro_batch=micro, **OPTIONS)
        assert seen
        assert set(seen) == {kept}
