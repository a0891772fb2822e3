"""What finetuning refuses before it begins, and what stops it: settings out of range, dtypes, losses that diverge."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from tacit.support.errors import TacitError
from tacit.support.ranges import Range, check_range

CHOICES = {"optimizer": ("adamw", "adamw-master"), "loss_on": ("response", "end", "end row")}  # of ``finetune``'s names
TRAINED = (torch.float32, torch.bfloat16)
_COUNT: Range = ("a whole number of at least 1", lambda x: x == x // 1 and x >= 1)
RANGES: dict[str, Range] = {  # of ``finetune``'s numbers
    "epochs": ("a whole number from 1 to 10000", lambda x: x == x // 1 and 1 <= x <= 10_000),
    "batch_size": _COUNT,
    "micro_batch": _COUNT,
    "max_length": _COUNT,
    "learning_rate": ("above 0", lambda x: 0 < x < inf),
    "warmup": ("from 0 to below 1, a share of the steps", lambda x: 0 <= x < 1),
    "weight_decay": ("at least 0", lambda x: 0 <= x < inf),
    "seed": ("a whole number from 0 to 4294967295", lambda x: x == x // 1 and 0 <= x < 2**32),
}


def check_settings(**settings: Any) -> None:
    """Raise TacitError for a setting of ``finetune`` that is out of its range, or no known choice.

    None passes for a number, and so do other settings.
    """
    for name, values in RANGES.items():
        if settings.get(name) is not None:
            check_range(name, settings[name], values)
    for name, known in CHOICES.items():
        if settings.get(name, known[0]) not in known:
            raise TacitError(f"unknown {name} {settings[name]!r}: choose one of {', '.join(known)}")


def check_dtype(dtypes: Iterable[torch.dtype]) -> None:
    """Raise TacitError for weights in another dtype than float32 or bfloat16: updates would vanish or overflow."""
    others = sorted({str(dtype)[6:] for dtype in dtypes} - {str(dtype)[6:] for dtype in TRAINED})
    if others:
        raise TacitError(
            f"weights in {others[0]} are not trained here, since AdamW's small numbers vanish in it: use float32, or "
            "bfloat16 with the optimizer adamw-master"
        )


class Divergence(TrainerCallback):
    """Stops a training, by a TacitError, as soon as a loss or the gradients' norm is no finite number."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Look at what the Trainer logs."""
        for name in ("loss", "grad_norm", "eval_loss"):
            if not isfinite(value := (logs or {}).get(name, 0.0)):
                raise TacitError(
                    f"the training diverged: {name} is {value} at step {state.global_step}; nothing is saved: lower "
                    "the learning rate, or look for odd examples"
                )


def check_weights(model: PreTrainedModel) -> None:
    """Raise TacitError for a weight that is not finite, as after a last step that diverged."""
    for name, weight in model.named_parameters():
        if not weight.is_meta and not weight.isfinite().all():
            raise TacitError(f"the training diverged in its last step: {name} is not finite; lower the learning rate")
