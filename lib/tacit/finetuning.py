"""Finetuning with the transformers Trainer on labels that mark the response."""

from __future__ import annotations

import tempfile
from inspect import signature

import torch
from accelerate.utils import AutocastKwargs
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tacit.errors import TacitError
from tacit.instructions import IGNORED, encode_examples
from tacit.models import attention


def collate(rows: list[dict[str, list[int]]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to ``input_ids`` and ``attention_mask``, each [batch, longest], with labels where there are any.

    The head's logits are a fifth of a small model's work, and only those before a loss-bearing token matter: ``logits_to_keep`` holds
    the positions where some row's next token bears loss, and ``shift_labels`` [batch, kept] those next tokens (``labels`` are the same:
    without them a model computes no loss).
    """
    ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    following = pad_sequence([row[1:] for row in labels], batch_first=True, padding_value=IGNORED)
    kept = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": following[:, kept],
        "shift_labels": following[:, kept],
        "logits_to_keep": kept,
    }


@torch.no_grad()
def _check_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    """Raise TacitError unless the model's loss for a batch of ``collate`` is its response's mean cross-entropy."""
    right = False
    if "logits_to_keep" in signature(model.forward).parameters:
        out = model.eval()(**{name: value.to(model.device) for name, value in batch.items()})
        logits, labels = out.logits.float(), batch["shift_labels"].to(out.logits.device)
        if logits.shape[:2] == labels.shape:
            true = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            right = torch.allclose(out.loss.float(), true, rtol=0.02, atol=1e-3, equal_nan=True)
    if not right:
        raise TacitError(
            f"{type(model).__name__} cannot be tuned here: the loss it computes is not that of the response's tokens; "
            "choose an architecture with transformers' usual causal loss (Llama, Qwen, Gemma, OLMo, GPT-2, ...)"
        )


def training_arguments(folder: str, *, cpu: bool, **options) -> TrainingArguments:
    """A Trainer's settings with what every training here has: bf16 autocast, each step's loss logged, nothing saved."""
    return TrainingArguments(
        output_dir=folder,
        bf16=True,
        use_cpu=cpu,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )


def epoch_losses(log: list[dict], *, epochs: int) -> list[dict[str, float]]:
    """The mean of the steps' losses in each epoch, from a Trainer's log (whose ``epoch`` counts passes so far)."""
    steps = [row for row in log if "loss" in row]
    losses = [[row["loss"] for row in steps if epoch - 1 < row["epoch"] <= epoch] for epoch in range(1, epochs + 1)]
    return [{"epoch": i, "loss": sum(row) / len(row)} for i, row in enumerate(losses, start=1)]


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 32,
    micro_batch: int | None = None,
    schedule: str = "cosine",
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_length: int = 512,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Finetune all of ``model``'s parameters, in place, on instruction-response ``examples``.

    The loss is the mean cross-entropy of the response and end tokens; AdamW, ``schedule`` (a name that
    transformers knows) with the share ``warmup`` of the steps as warm-up, bf16 autocast; batches of examples of
    similar length, so that little is padding. With ``micro_batch``, fewer examples than ``batch_size`` are in memory at once:
    gradients accumulate, normalised by tokens over the whole batch, and activations are recomputed. Returns the model after
    the last epoch (the number of epochs is chosen by ``arms.select_epochs``) and one record per epoch: ``epoch``, ``loss``
    (nats per token). Raises TacitError when ``micro_batch`` does not divide ``batch_size``, and for an architecture whose own
    loss makes something else of ``collate``'s labels (one that shifts them itself, say).

    Source: Hewitt et al. (2024, section 3). Does not touch the Trainer's global logging or save anything.
    """
    accumulated, rest = divmod(batch_size, min(micro_batch or batch_size, batch_size))
    if rest:
        raise TacitError(f"micro_batch {micro_batch} does not divide batch_size {batch_size}")
    set_seed(seed)
    encoded = encode_examples(tokenizer, examples, max_length=max_length)
    encoded = encoded.add_column("length", [len(ids) for ids in encoded["input_ids"]])
    cuda = torch.cuda.is_available() and model.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder,
            cpu=not cuda,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size // accumulated,
            gradient_accumulation_steps=accumulated,
            activation_checkpointing=accumulated > 1,
            learning_rate=learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=warmup,  # below 1: a share of the steps
            weight_decay=weight_decay,
            train_sampling_strategy="group_by_length",
            seed=seed,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=encoded,
            data_collator=lambda rows: collate(rows, pad_token_id=tokenizer.pad_token_id),
        )
        trainer.remove_callback(PrinterCallback)
        if (
            accumulated > 1
        ):  # else autocast keeps a bf16 copy of every weight through each forward pass: 2 bytes a parameter
            trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
        usual = model.config._attn_implementation
        # on a CPU plain attention trains about a sixth faster than the fused kernel (LOG.md)
        with attention(model, "eager" if model.device.type == "cpu" and usual == "sdpa" else usual):
            _check_loss(model, trainer.data_collator([min(encoded, key=lambda row: row["length"])]))
            trainer.train()
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # or it would go on in bf16
        vars(model).pop(
            "forward", None
        )  # left by accelerate, without transformers' decorators (Gemma 3 needs them to generate)
    return model.eval(), epoch_losses(trainer.state.log_history, epochs=epochs)
