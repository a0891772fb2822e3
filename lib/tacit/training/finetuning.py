"""Finetuning on instruction rows: the loss of the responses alone, or of their ends, by the transformers Trainer.

Bytes per weight, with its gradient and AdamW's two moments: 16 in float32 (bf16 in products only, by autocast), 8 in
bfloat16, which drops updates below half of a weight's last bit, and most of finetuning's are; 16 in bfloat16 with
``optimizer="adamw-master"`` (``optimizers.MasterAdamW``).

Under ``accelerate launch`` every process loads the model and takes its share of each step's examples. The loss is the
mean over the tokens of the whole batch, as in one process; dropout's noise is another. Every process returns the tuned
model, but with FSDP2 the main one alone, on its CPU (``processes.gather_model``, ``internals.set_up_shards``).
Source: Hewitt et al. (2024, section 3).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from inspect import signature
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments, set_seed

from tacit.data.instructions import IGNORED, encode_examples
from tacit.models import internals
from tacit.models.limits import check_rows, context_of
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training.adapters import adapters
from tacit.training.limits import Divergence, check_dtype, check_settings, check_weights
from tacit.training.losses import end_row_alone, make_ending_loss
from tacit.training.optimizers import MasterAdamW
from tacit.training.packing import VARLEN, check_packing, collate_packed, has_varlen, mark_loss
from tacit.training.processes import RanksTrainer, gather_model


def collate(rows: list[dict[str, list[int]]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to ``input_ids`` and ``attention_mask``, each [batch, longest], with ``packing.mark_loss``.

    The head's logits are a fifth of a small model's work, and only those before a loss-bearing token matter.
    """
    ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    following = pad_sequence([row[1:] for row in labels], batch_first=True, padding_value=IGNORED)
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        **mark_loss(following),
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
    """A Trainer's settings for one device; every loss is logged and nothing saved, unless ``options`` say otherwise.

    Products are bf16, but float32 on a processor that multiplies bf16 slowly (``provenance.cpu_multiplies_bf16``).
    """
    common = {"logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    common["logging_nan_inf_filter"] = False  # a loss of NaN would be logged as 0
    common["bf16"] = not cpu or provenance.cpu_multiplies_bf16()
    arguments = TrainingArguments(folder, use_cpu=cpu, **common | options)
    internals.use_one_device(arguments)
    return arguments


def epoch_losses(log: list[dict], *, epochs: int) -> list[dict[str, float]]:
    """The mean of the steps' losses in each epoch, from a Trainer's log (whose ``epoch`` counts passes so far)."""
    steps = [row for row in log if "loss" in row]
    losses = [[row["loss"] for row in steps if epoch - 1 < row["epoch"] <= epoch] for epoch in range(1, epochs + 1)]
    return [{"epoch": i, "loss": sum(row) / len(row)} for i, row in enumerate(losses, start=1)]


def _split_batch(batch_size: int, micro_batch: int | None, *, processes: int) -> tuple[int, int]:
    """How many examples a process has in memory at once, and how many times that makes its share of a step."""
    share, rest = divmod(batch_size, processes)
    if rest:
        raise TacitError(f"{processes} processes do not divide batch_size {batch_size}: choose a multiple")
    times, rest = divmod(share, min(micro_batch or share, share))
    if rest:
        per = "" if processes == 1 else f" / {processes} processes"
        raise TacitError(f"micro_batch {micro_batch} does not divide batch_size {batch_size}{per}")
    return share // times, times


def _prepare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, *, packing: bool, autocast: bool
) -> tuple[str, Callable]:
    """The attention to train with and the function that makes batches of ``rows``, both tried on the shortest two."""
    check_dtype(weight.dtype for weight in model.parameters())
    check_rows(tokenizer, rows["input_ids"], names=range(len(rows)), config=model.config)
    attention = internals.attention_name(model.config)
    make_batch = partial(collate, pad_token_id=tokenizer.pad_token_id)
    if model.device.type == "cpu" and attention == "sdpa" and not packing:
        attention = "eager"  # a sixth faster than the fused kernel there (LOG.md); packed rows are too long for it
    shortest = sorted(rows, key=lambda row: len(row["input_ids"]))[:2]
    with internals.attention(model, attention):
        if packing:
            check_packing(model, [shortest[0], shortest[-1]])
        _check_loss(model, make_batch(shortest[:1]))
    if packing:
        attention = VARLEN if has_varlen(model, autocast=autocast) else attention
        make_batch = partial(collate_packed, boundaries=attention == VARLEN or "flash" in attention)
    return attention, make_batch


def _train(
    model: PreTrainedModel,
    rows: Dataset,
    make_batch: Callable,
    *,
    attention: str,
    lora: dict | None,
    optimizer: str,
    compute_loss: Callable | None,
    **options,
) -> tuple[PreTrainedModel, list[dict]]:
    """Train ``model`` on ``rows`` by a Trainer with ``options``; returns the tuned model and the Trainer's log.

    The loss is the model's own, or ``compute_loss`` of its outputs and the labels.
    """
    usual, kind = internals.attention_name(model.config), type(model)
    masters = (MasterAdamW, {"lr": options["learning_rate"]}) if optimizer == "adamw-master" else None
    with (
        tempfile.TemporaryDirectory() as folder,
        adapters(model, lora) as trained,
        internals.attention(model, attention),
    ):
        arguments = training_arguments(folder, train_sampling_strategy="group_by_length", **options)
        rows = rows.add_column("length", [len(ids) for ids in rows["input_ids"]])  # what batches are grouped by
        trainer = (Trainer if arguments.world_size == 1 else RanksTrainer)(
            trained,
            arguments,
            make_batch,
            train_dataset=rows,
            compute_loss_func=compute_loss,
            optimizer_cls_and_kwargs=masters,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Divergence)
        if arguments.gradient_accumulation_steps > 1:
            internals.keep_no_autocast_copies(trainer)
        if trainer.is_fsdp_enabled:
            if lora is not None:
                raise TacitError("lora is not sharded here: launch without FSDP (the base model must fit each device)")
            internals.set_up_shards(trainer)
        trainer.train()
        if trainer.is_fsdp_enabled:
            model = gather_model(trainer, kind, attention=usual)
        else:
            internals.undo_wrapping(trainer, trained, model)
    check_weights(model)
    return model, trainer.state.log_history


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
    packing: bool = False,
    lora: dict | None = None,
    loss_on: str = "response",
    optimizer: str = "adamw",
    autocast: bool = True,
    recompute: bool | None = None,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Finetune all of ``model``'s parameters, in place, on instruction-response ``examples``; saves nothing.

    The loss is the mean cross-entropy of the response and end tokens; with ``loss_on="end"`` that of whether a response
    ends at each of its positions (``losses.ending_loss``), which asks for no token but the end; with ``"end row"`` the
    same, and nothing but the end token's output row is trained (``losses.end_row_alone``), so that the model can learn
    to stop and nothing else. ``schedule`` is one of transformers', ``warmup`` the share of steps as warm-up. Batches
    hold examples of like length. With ``micro_batch`` fewer than ``batch_size`` are in memory at once: gradients add
    up, and activations are recomputed unless ``recompute`` says otherwise. ``packing`` puts a batch's rows after one
    another (``training.packing``); ``lora`` trains ``adapters``.

    Returns the model after the last epoch and a record per epoch: ``epoch``, ``loss`` (nats per token). Raises
    TacitError for settings, dtypes and ids that ``limits`` and ``check_rows`` refuse, a prompt that fills the context
    or ``max_length`` (what is longer is cut), sizes that do not divide, architectures with a loss of their own,
    results that ``packing`` would change, a training that diverges, and as ``adapters`` does.
    """
    check_settings(epochs=epochs, learning_rate=learning_rate, seed=seed, batch_size=batch_size, max_length=max_length)
    check_settings(micro_batch=micro_batch, warmup=warmup, weight_decay=weight_decay)
    check_settings(optimizer=optimizer, loss_on=loss_on)
    cuda = torch.cuda.is_available() and model.device.type == "cuda"
    at_once, times = _split_batch(batch_size, micro_batch, processes=PartialState(cpu=not cuda).num_processes)
    if loss_on == "end row" and (lora is not None or weight_decay):
        raise TacitError('loss_on "end row" trains one row of one matrix: leave out lora and weight_decay')
    recompute = (micro_batch or batch_size) < batch_size if recompute is None else recompute
    recompute = recompute and loss_on != "end row"  # nothing before the head needs a gradient
    set_seed(seed)
    rows = encode_examples(tokenizer, examples, max_length=min(max_length, context_of(model.config) or max_length))
    attention, make_batch = _prepare(model, tokenizer, rows, packing=packing, autocast=autocast)
    arguments: dict[str, Any] = {"num_train_epochs": epochs, "learning_rate": learning_rate, "seed": seed}
    arguments |= {"lr_scheduler_type": schedule, "warmup_steps": warmup}  # warm-up below 1: a share of the steps
    arguments |= {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": times}
    arguments |= {"weight_decay": weight_decay, internals.RECOMPUTE: recompute, "cpu": not cuda}
    if not (autocast and model.dtype == torch.float32):
        arguments["bf16"] = autocast
    arguments["compute_loss"] = None if loss_on == "response" else make_ending_loss(tokenizer.eos_token_id)
    with end_row_alone(model, tokenizer.eos_token_id) if loss_on == "end row" else nullcontext():
        tuned, log = _train(model, rows, make_batch, attention=attention, lora=lora, optimizer=optimizer, **arguments)
    return tuned.eval(), epoch_losses(log, epochs=epochs)
