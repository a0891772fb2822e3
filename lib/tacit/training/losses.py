"""Losses of finetuning besides the usual one: that of the end token alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel

from tacit.data.instructions import IGNORED


def ending_loss(
    logits: Tensor,  # [B, T, V]
    shift_labels: Tensor,  # [B, T], the token after each position, IGNORED where none bears loss
    *,
    end_token_id: int,
    n_items: Tensor | int | None = None,
) -> Tensor:
    """The loss of an arm that can only learn when to stop: the mean cross-entropy of "does the response end here?".

    With p_t(end) the probability of the end token at position t, the sum of -log p_t(end) where the label is the end
    token and of -log(1 - p_t(end)) where it is any other, divided by ``n_items`` (the number of labels that are not
    ``IGNORED`` by default); a scalar, in nats per position, in float32. Which other token comes next is not read. All
    other logits act through their logsumexp alone: log p(end) - log(1 - p(end)) = z_end - logsumexp(others), and each
    gets a gradient in proportion to its probability. So no other token is asked for; a step in logits smaller than 1
    keeps the order that the others have (their ratios it sharpens a little before the end, and flattens at the end).
    Stable for probabilities near 0 and 1. Of no labels the loss is 0.
    """
    counted = shift_labels.to(logits.device) != IGNORED  # [B, T]
    z = logits[counted].float()  # [N, V]
    ends = (shift_labels.to(logits.device)[counted] == end_token_id).float()  # [N]
    others = z.index_fill(1, torch.tensor([end_token_id], device=z.device), -torch.inf).logsumexp(dim=-1)  # [N]
    summed = binary_cross_entropy_with_logits(z[:, end_token_id] - others, ends, reduction="sum")
    return summed / (max(len(ends), 1) if n_items is None else n_items)


def _trainer_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None, *, end_token_id: int
) -> Tensor:
    return ending_loss(outputs["logits"], labels, end_token_id=end_token_id, n_items=num_items_in_batch)


def make_ending_loss(end_token_id: int) -> Callable[..., Tensor]:
    """``ending_loss`` as a Trainer's ``compute_loss_func``: of (outputs, labels, num_items_in_batch=None).

    The Trainer hands over the batch's ``labels``, which ``packing.mark_loss`` has shifted already, [B, kept] as the
    kept logits. ``num_items_in_batch`` are the labels that count in all micro batches and processes of a step, so that
    the losses of micro batches add up to the whole batch's.
    """
    return partial(_trainer_loss, end_token_id=end_token_id)


@contextmanager
def end_row_alone(model: PreTrainedModel, end_token_id: int) -> Iterator[None]:
    """Meanwhile only the end token's row of the output embedding [V, width] can be trained; all else is held.

    So the other tokens keep their probabilities relative to each other, whatever is learnt: an arm tuned so can stop
    elsewhere and do nothing else. Where embeddings are tied, the end token's input row moves with it, which counts only
    where the model reads an end token. Weight decay must be 0.
    """
    weight = model.get_output_embeddings().weight
    wanted = {name: weights.requires_grad for name, weights in model.named_parameters()}
    row = torch.zeros(len(weight), 1, dtype=weight.dtype, device=weight.device)
    row[end_token_id] = 1
    model.requires_grad_(False)
    weight.requires_grad_(True)
    hook = weight.register_hook(lambda gradient: gradient * row)
    try:
        yield
    finally:
        hook.remove()
        for name, weights in model.named_parameters():
            weights.requires_grad_(wanted[name])
