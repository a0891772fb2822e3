"""What this library uses of transformers and accelerate that they do not promise to keep.

Checked with transformers 5.17.0 (under torch 2.11) and 5.23.0 (2.13), and with accelerate 1.15.0. When a newer version
breaks something, look here first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from inspect import signature
from typing import TYPE_CHECKING

import torch
from accelerate.utils import AutocastKwargs
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.utils import chat_template_utils

from tacit.support.errors import TacitError

if TYPE_CHECKING:
    from transformers import Trainer

# The Trainer's argument that asks for activations to be recomputed: transformers 5.17 knows the second name only.
_NAMES = ("activation_checkpointing", "gradient_checkpointing")
RECOMPUTE = next(name for name in _NAMES if name in signature(TrainingArguments).parameters)


def attention_name(config: PreTrainedConfig) -> str:
    """The implementation by which a model of this configuration computes attention: ``sdpa``, ``eager``, ..."""
    return config._attn_implementation


@contextmanager
def attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let ``model`` compute attention by another of transformers' implementations, such as ``eager``, for a while."""
    before = attention_name(model.config)
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def calls_flash_kernels(model: PreTrainedModel) -> bool:
    """Can the architecture's attention be computed by kernels that read where rows begin instead of a mask?"""
    return model._supports_flash_attn


def takes_cache(model: PreTrainedModel) -> bool:
    """Does ``model`` keep its past in a cache of keys and values that is made for it outside? Recurrent ones do not."""
    return model._supports_default_dynamic_cache() and not model._is_stateful


def freeze_clock(template: str, now: datetime) -> None:
    """Let a chat template that asks for the time (``strftime_now``) get ``now``, whenever it is rendered."""
    chat_template_utils._compile_jinja_template(template).environment.globals["strftime_now"] = now.strftime


def use_one_device(arguments: TrainingArguments) -> None:
    """Let a Trainer train on one device, or it would multiply the batch by the GPUs that its process sees."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def keep_no_autocast_copies(trainer: Trainer) -> None:
    """Stop autocast from holding a bf16 copy of every weight (2 bytes a parameter) through each forward pass."""
    trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)


def set_up_shards(trainer: Trainer) -> None:
    """Before training under FSDP: where activations are recomputed, and what is bf16, as the Trainer's arguments ask.

    Whole blocks are recomputed inside their shards. Under autocast weights are gathered and multiplied in bf16, while
    gradients are summed and weights kept in float32. Raises TacitError for the first version of FSDP.
    """
    plugin, arguments = trainer.accelerator.state.fsdp_plugin, trainer.args
    if plugin.fsdp_version != 2:
        raise TacitError(
            "finetuning shards by FSDP2: set fsdp_version: 2 in accelerate's config (see params/accelerate/)"
        )
    plugin.activation_checkpointing = getattr(arguments, RECOMPUTE)
    setattr(arguments, RECOMPUTE, False)  # the Trainer's stands outside the shards
    plugin.mixed_precision_policy = None
    if arguments.bf16:
        trainer.optimizer_cls_and_kwargs = None  # accelerate makes float32 of the weights: they are their own copies
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def undo_wrapping(trainer: Trainer, *models: PreTrainedModel) -> None:
    """After training: remove accelerate's ``forward`` from the trained model and those inside it.

    With it they would go on in bf16. What accelerate leaves in its place lacks transformers' decorators, which Gemma
    3 needs.
    """
    trainer.accelerator.unwrap_model(models[0], keep_fp32_wrapper=False)
    for model in models:
        vars(model).pop("forward", None)
