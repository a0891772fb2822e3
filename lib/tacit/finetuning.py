"""Finetuning with the transformers Trainer on labels that mark the response."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from tacit.instructions import IGNORED, encode_examples


def collate(rows: list[dict[str, list[int]]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to ``input_ids``, ``labels`` and ``attention_mask``, each [batch, longest]."""
    ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


class _Selection(TrainerCallback):
    """After each epoch: record the loss, ask the validation score, keep the best epoch's weights."""

    def __init__(self, validate: Callable[[PreTrainedModel], float] | None):
        self.validate = validate
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        losses = [row["loss"] for row in state.log_history if "loss" in row and row["epoch"] > len(self.history)]
        self.history.append({"epoch": len(self.history) + 1, "loss": sum(losses) / max(1, len(losses))})
        if self.validate is None:
            return
        model.eval()
        score = self.history[-1]["validation"] = float(self.validate(model))
        model.train()
        if score > max((row["validation"] for row in self.history[:-1]), default=float("-inf")):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 32,
    schedule: str = "cosine",
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_length: int = 512,
    validate: Callable[[PreTrainedModel], float] | None = None,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Finetune all of ``model``'s parameters, in place, on instruction-response ``examples``.

    The loss is the mean cross-entropy of the response and end tokens; AdamW, ``schedule`` (a name that
    transformers knows) with the share ``warmup`` of the steps as warm-up, bf16 autocast. With ``validate`` (a score of the model, higher is better, on *validation* data)
    the best epoch's weights are returned, the earliest of equals; without it the last epoch's.

    Returns the model and one record per epoch: ``epoch``, ``loss`` (nats per token), ``validation``.
    Source: Hewitt et al. (2024, section 3). Does not touch the Trainer's global logging or save anything.
    """
    set_seed(seed)
    encoded = encode_examples(tokenizer, examples, max_length=max_length)
    encoded = encoded.add_column("length", [len(ids) for ids in encoded["input_ids"]])
    selection = _Selection(validate)
    cuda = torch.cuda.is_available() and model.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=warmup,  # below 1: a share of the steps
            weight_decay=weight_decay,
            bf16=True,
            use_cpu=not cuda,
            train_sampling_strategy="group_by_length",
            logging_steps=1,
            save_strategy="no",
            seed=seed,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=encoded,
            data_collator=lambda rows: collate(rows, pad_token_id=tokenizer.pad_token_id),
            callbacks=[selection],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if selection.best is not None:
        model.load_state_dict(selection.best)
    return model.eval(), selection.history
