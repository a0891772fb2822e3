"""Finetuning with the transformers Trainer on labels that mark the response."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature

import torch
from accelerate import PartialState
from accelerate.utils import AutocastKwargs, broadcast_object_list
from datasets import Dataset
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset, DataLoader, Sampler
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from tacit.data.instructions import IGNORED, encode_examples
from tacit.models.loading import attention, without_progress_bars
from tacit.support.errors import TacitError
from tacit.training.optimizers import MasterAdamW
from tacit.training.packing import VARLEN, check_packing, collate_packed, has_varlen

OPTIMIZERS = ("adamw", "adamw-master")
LORA = {"r": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear"}


def collate(rows: list[dict[str, list[int]]], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to ``input_ids`` and ``attention_mask``, each [batch, longest], with labels where there are any.

    The head's logits are a fifth of a small model's work, and only those before a loss-bearing token matter: ``logits_to_keep`` holds
    the positions where some row's next token bears loss, and ``shift_labels`` [batch, kept] those next tokens (``labels`` are the same:
    without them a model computes no loss).
    """
    ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    following = pad_sequence([row[1:] for row in labels], batch_first=True, padding_value=IGNORED)
    kept = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not len(kept):  # rows without a loss-bearing token (see RankBatches): a position that weighs nothing
        kept = torch.tensor([0])
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
    """A Trainer's settings with what every training here has: bf16 autocast, each step's loss logged, nothing saved.

    A process trains on one device, as ``accelerate launch`` has it: without it the Trainer would multiply the batch by the GPUs it sees.
    """
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=cpu,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **{"bf16": True} | options,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def epoch_losses(log: list[dict], *, epochs: int) -> list[dict[str, float]]:
    """The mean of the steps' losses in each epoch, from a Trainer's log (whose ``epoch`` counts passes so far)."""
    steps = [row for row in log if "loss" in row]
    losses = [[row["loss"] for row in steps if epoch - 1 < row["epoch"] <= epoch] for epoch in range(1, epochs + 1)]
    return [{"epoch": i, "loss": sum(row) / len(row)} for i, row in enumerate(losses, start=1)]


class RankBatches(Sampler):
    """What one of several processes trains on, batch by batch of its Trainer, so that all together do what a single one does.

    ``order`` gives an epoch's indices, of which each run of ``batch_size`` is one step; the main process's order counts, whatever the
    others' random states are. A step's examples go round the processes, ``micro`` at a time to each, so that those of like length are
    handled at the same moment. Where a last step has too few for all, a process gets the row ``blank``, which bears no loss: every process
    makes as many steps as the others, and no example counts twice (as it does with accelerate's ``even_batches``).
    """

    def __init__(
        self, order: Callable[[], Sequence[int]], *, rows: int, batch_size: int, micro: int, rank: int, processes: int
    ) -> None:
        self.order, self.rows, self.batch_size, self.micro, self.blank = order, rows, batch_size, micro, rows
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        full, rest = divmod(self.rows, self.batch_size)
        at_once = self.micro * self.processes
        return full * (self.batch_size // at_once) + -(-rest // at_once)

    def __iter__(self) -> Iterator[list[int]]:
        order = broadcast_object_list([list(self.order())])[0]
        at_once = self.micro * self.processes
        for start in range(0, self.rows, self.batch_size):
            step = order[start : start + self.batch_size]
            for first in range(0, len(step), at_once):
                yield step[first : first + at_once][self.rank :: self.processes] or [self.blank]


class _RanksTrainer(Trainer):
    """A Trainer of which several processes see the batches that one would see, in its order."""

    def get_train_dataloader(self) -> DataLoader:
        rows, arguments = self.train_dataset, self.args
        batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        grouped = LengthGroupedSampler(batch_size, lengths=list(rows["length"]))  # as the Trainer's, of one process
        batches = RankBatches(
            lambda: list(grouped),
            rows=len(rows),
            batch_size=batch_size,
            micro=arguments.train_batch_size,
            rank=arguments.process_index,
            processes=arguments.world_size,
        )
        blank = {"input_ids": rows[0]["input_ids"][:2], "labels": [IGNORED, IGNORED]}
        return DataLoader(ConcatDataset([rows, [blank]]), batch_sampler=batches, collate_fn=self.data_collator)


@contextmanager
def _adapters(model: PreTrainedModel, lora: dict | None) -> Iterator[PreTrainedModel]:
    """``model`` with low-rank adapters to train instead of its weights, which they are added to at the end (not after an error)."""
    if lora is None:
        yield model
        return
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TacitError("lora needs peft: pip install 'tacit[lora]'") from None
    unknown = sorted(set(lora) - set(LORA))
    if unknown:
        raise TacitError(f"unknown lora setting {unknown[0]!r}: choose among {', '.join(LORA)}")
    values, trained = LORA | lora, {name: weight.requires_grad for name, weight in model.named_parameters()}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=values["r"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=values["targets"],
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise TacitError(f"lora does not fit {type(model).__name__}: {error}") from None
    try:
        yield wrapped
        wrapped.merge_and_unload()
    except BaseException:
        wrapped.unload()
        raise
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trained[name])


def _shard(trainer: Trainer, *, recompute: bool, autocast: bool) -> None:
    """Under FSDP: whole blocks recomputed inside their shards; bf16 gathers and products, gradients summed and weights kept in float32."""
    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise TacitError(
            "finetuning shards by FSDP2: set fsdp_version: 2 in accelerate's config (see params/accelerate/)"
        )
    trainer.args.activation_checkpointing = False  # the Trainer's stands outside the shards
    plugin.activation_checkpointing = recompute
    if autocast:  # accelerate makes float32 of the weights, which are then their own copies
        trainer.optimizer_cls_and_kwargs = None
    plugin.mixed_precision_policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if autocast else None
    )


def _gather(trainer: Trainer, plain: type[PreTrainedModel], *, implementation: str) -> PreTrainedModel:
    """The whole model from its shards, on the main process's CPU; on the other processes a model without values (device ``meta``)."""
    weights = trainer.accelerator.get_state_dict(trainer.model)
    config = copy.deepcopy(trainer.model.config)
    config._attn_implementation = implementation
    if not trainer.accelerator.is_main_process:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    held = next(iter(weights.values())).dtype
    with without_progress_bars():
        whole = plain.from_pretrained(None, config=config, state_dict=weights, dtype=held)
    whole.generation_config = copy.deepcopy(trainer.model.generation_config)
    return whole


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
    optimizer: str = "adamw",
    autocast: bool = True,
    recompute: bool | None = None,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Finetune all of ``model``'s parameters, in place, on instruction-response ``examples``.

    The loss is the mean cross-entropy of the response and end tokens; AdamW, ``schedule`` (a name that
    transformers knows) with the share ``warmup`` of the steps as warm-up, bf16 autocast; batches of examples of
    similar length, so that little is padding. With ``micro_batch``, fewer examples than ``batch_size`` are in memory at once:
    gradients accumulate, normalised by tokens over the whole batch, and activations are recomputed (``recompute`` overrides the latter).
    Returns the model after the last epoch (the number of epochs is chosen by ``arms.select_epochs``) and one record per epoch:
    ``epoch``, ``loss`` (nats per token).

    **Memory and rounding.** A weight, its gradient and AdamW's two moments are held in the model's dtype. float32, as ``load_model`` loads:
    16 bytes per weight, and bf16 only in products, by autocast, which holds a bf16 copy of the weights while it runs (``autocast=False``:
    float32 throughout). bfloat16 with ``optimizer="adamw"``: 8 bytes, and updates below half of a weight's last bit (about 1/512 of it) are
    dropped; finetuning's are mostly smaller. bfloat16 with ``"adamw-master"``: 16 bytes, of which a float32 copy of the weights and float32
    moments (``optimizers.MasterAdamW``), and nothing is dropped but what bf16 gradients round, also where micro batches sum up in them.

    ``packing`` puts a (micro) batch's rows after one another in one sequence instead of padding them (``tacit.training.packing``): the same
    examples in every batch, the same loss and gradient up to rounding. ``lora`` trains low-rank adapters instead of the weights (Hu et
    al. 2021, arXiv 2106.09685, by peft) and adds them to the weights at the end: ``r`` (16), ``alpha`` (32), ``dropout`` (0), ``targets`` (names of
    linear layers, or ``all-linear``); adapters are float32, the sum is rounded to the model's dtype.

    **Several processes** (``accelerate launch``): each takes ``batch_size`` / processes examples of every step, ``micro_batch`` at a time,
    and loads the model for itself on its own device. The loss is the mean over the tokens of the whole batch, and each step has the
    examples that a single process would give it. Without FSDP every process returns the tuned model. With FSDP2, weights, gradients
    and moments are float32 shards whatever the model's dtype was (unless ``autocast`` is off), gathered and multiplied in bf16 and reduced in
    float32; the main process returns the whole model on its CPU and the others one without values (device ``meta``).

    Raises TacitError when the processes do not divide ``batch_size``, or ``micro_batch`` a process's share of it; for an architecture whose own
    loss makes something else of ``collate``'s labels (one that shifts them itself, say), or on which ``packing`` would change the result;
    for ``lora`` without peft or with FSDP; for an unknown ``optimizer``; and for an example whose prompt alone fills ``max_length``.

    Source: Hewitt et al. (2024, section 3). Does not touch the Trainer's global logging or save anything. With dropout, several
    processes draw other noise than one.
    """
    if optimizer not in OPTIMIZERS:
        raise TacitError(f"unknown optimizer {optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    cuda = torch.cuda.is_available() and model.device.type == "cuda"
    processes = PartialState(cpu=not cuda).num_processes
    share, rest = divmod(batch_size, processes)
    if rest:
        raise TacitError(f"{processes} processes do not divide batch_size {batch_size}: choose a multiple")
    accumulated, rest = divmod(share, min(micro_batch or share, share))
    if rest:
        per = "" if processes == 1 else f" / {processes} processes"
        raise TacitError(f"micro_batch {micro_batch} does not divide batch_size {batch_size}{per}")
    recompute = (micro_batch or batch_size) < batch_size if recompute is None else recompute
    set_seed(seed)
    encoded = encode_examples(tokenizer, examples, max_length=max_length)
    encoded = encoded.add_column("length", [len(ids) for ids in encoded["input_ids"]])
    # on a CPU plain attention trains about a sixth faster than the fused kernel (LOG.md); packed rows are too long for it
    usual = model.config._attn_implementation
    chosen = "eager" if model.device.type == "cpu" and usual == "sdpa" and not packing else usual
    padded = partial(collate, pad_token_id=tokenizer.pad_token_id)
    shortest = sorted(encoded, key=lambda row: row["length"])[:2]
    with attention(model, chosen):
        if packing:
            chosen = VARLEN if has_varlen(model, autocast=autocast) else chosen
            check_packing(model, [shortest[0], shortest[-1]])
        _check_loss(model, padded(shortest[:1]))
    kernel = packing and (chosen == VARLEN or "flash" in chosen)
    with (
        tempfile.TemporaryDirectory() as folder,
        _adapters(model, lora) as trained,
        attention(model, chosen),
    ):
        arguments = training_arguments(
            folder,
            cpu=not cuda,
            bf16=autocast,
            num_train_epochs=epochs,
            per_device_train_batch_size=share // accumulated,
            gradient_accumulation_steps=accumulated,
            activation_checkpointing=recompute,
            learning_rate=learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=warmup,  # below 1: a share of the steps
            weight_decay=weight_decay,
            train_sampling_strategy="group_by_length",
            seed=seed,
        )
        trainer = (Trainer if processes == 1 else _RanksTrainer)(
            model=trained,
            args=arguments,
            train_dataset=encoded,
            data_collator=partial(collate_packed, boundaries=kernel) if packing else padded,
            optimizer_cls_and_kwargs=(MasterAdamW, {"lr": learning_rate}) if optimizer == "adamw-master" else None,
        )
        trainer.remove_callback(PrinterCallback)
        if (
            accumulated > 1
        ):  # else autocast keeps a bf16 copy of every weight through each forward pass: 2 bytes a parameter
            trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
        if trainer.is_fsdp_enabled:
            if lora is not None:
                raise TacitError("lora is not sharded here: launch without FSDP (the base model must fit each device)")
            _shard(trainer, recompute=recompute, autocast=autocast)
            whole = type(model)
            trainer.train()
            model = _gather(trainer, whole, implementation=usual)
        else:
            trainer.train()
            trainer.accelerator.unwrap_model(trained, keep_fp32_wrapper=False)  # or it would go on in bf16
            for wrapped in (trained, model):
                vars(wrapped).pop(
                    "forward", None
                )  # left by accelerate, without transformers' decorators (Gemma 3 needs them)
    return model.eval(), epoch_losses(trainer.state.log_history, epochs=epochs)
