"""LoRA: low-rank adapters that are trained in the weights' place and added to them at the end (extra ``lora``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from transformers import PreTrainedModel

from tacit.support.errors import TacitError

DEFAULTS = {"r": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear"}


@contextmanager
def adapters(model: PreTrainedModel, settings: dict | None) -> Iterator[PreTrainedModel]:
    """``model`` with adapters to train. They are added to its weights at the end, and removed after an error.

    ``settings`` replace some of ``DEFAULTS``; with None the model itself is trained. Source: Hu et al. (2021, arXiv
    2106.09685). Raises TacitError without peft, for an unknown setting, and for targets that the model does not have.
    """
    if settings is None:
        yield model
        return
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    wrapped = _wrap(model, settings)
    try:
        yield wrapped
        wrapped.merge_and_unload()
    except BaseException:
        wrapped.unload()
        raise
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trained[name])


def _wrap(model: PreTrainedModel, settings: dict):
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TacitError("lora needs peft: pip install -e '.[lora]'") from None
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise TacitError(f"unknown lora setting {unknown[0]!r}: choose among {', '.join(DEFAULTS)}")
    r, alpha, dropout, targets = (DEFAULTS | settings).values()
    if not (r == r // 1 and r >= 1 and 0 < alpha < inf and 0 <= dropout < 1):
        raise TacitError(f"lora needs r of at least 1, alpha above 0 and dropout from 0 to below 1; it is {settings}")
    config = LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise TacitError(f"lora does not fit {type(model).__name__}: {error}") from None
