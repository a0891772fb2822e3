"""Finetuning: padding, learning, selection on validation, and repeatability."""

import torch
from datasets import Dataset
from tacit.finetuning import collate, finetune
from tacit.instructions import IGNORED, encode_example

ROWS = [
    {"id": str(i), "instruction": f"Say {word}.", "response": f"{word} {word}."}
    for i, word in enumerate(["moon", "sea", "key", "rain", "bell", "king", "boat", "hill"])
]
OPTIONS = {"learning_rate": 1e-2, "seed": 0, "batch_size": 4, "max_length": 64}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_collate_pads_right_and_masks_padding():
    batch = collate(
        [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}], pad_token_id=9
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_finetuning_lowers_the_response_loss_and_repeats(tiny, tokenizer):
    import copy

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


def test_the_best_validation_epoch_is_returned_the_earliest_of_equals(tiny, tokenizer):
    seen, given = [], iter([0.1, 0.7, 0.7, 0.2])

    def validate(model):
        assert not model.training
        seen.append(weights(model).clone())
        return next(given)

    tuned, history = finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=4, validate=validate, **OPTIONS)
    assert [row["validation"] for row in history] == [0.1, 0.7, 0.7, 0.2]
    assert torch.equal(weights(tuned), seen[1])
    assert not torch.equal(weights(tuned), seen[3])
