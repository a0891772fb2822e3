"""One token per row from its scores, by inverse transform of a number that the caller brings."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256  # tokens whose weights are summed first


def sample_tokens(scores: Tensor, noise: Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """One token per row from softmax(scores / temperature), by inverse transform of ``noise`` in [0, 1).

    ``scores`` [B, V], ``noise`` [B] -> token ids [B]. ``top_p`` below 1 keeps the smallest set of likeliest
    tokens whose probability reaches it (nucleus sampling). Equal noise and scores give equal tokens.
    """
    probabilities = torch.softmax(scores.double() / temperature, dim=-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        dropped = ordered.cumsum(dim=-1) - ordered >= top_p
        probabilities = probabilities.scatter(1, order, ordered.masked_fill(dropped, 0.0))
    cumulative = probabilities.cumsum(dim=-1)
    target = noise.to(cumulative)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    last_possible = scores.shape[1] - 1 - (probabilities > 0).flip(-1).int().argmax(dim=-1)
    return torch.minimum(chosen, last_possible)  # rounding may put the target at the very end


def sample_in_blocks(scores: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The same law from float32 ``scores`` [B, V], which are overwritten, with little other memory: token ids [B].

    It finds the block of 256 tokens that holds the number, then the token in it: float64 is made for the sums of blocks
    and for one block a row, never [B, V]. It equals ``sample_tokens`` except where the number lies within float32's
    rounding of an edge between two tokens. It knows no ``top_p``.
    """
    rows, vocabulary = scores.shape
    n = vocabulary // BLOCK
    weights = scores.sub_(scores.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    sums = [weights[:, : n * BLOCK].view(rows, n, BLOCK).sum(dim=-1), weights[:, n * BLOCK :].sum(dim=-1, keepdim=True)]
    mass = torch.cat(sums, dim=1).double().cumsum(dim=1)  # [B, blocks]
    target = noise.to(mass)[:, None] * mass[:, -1:]
    block = _first_above(mass, target)
    before = mass.gather(1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    index = block * BLOCK + torch.arange(BLOCK, device=scores.device)
    inside = weights.gather(1, index.clamp(max=vocabulary - 1)).double().masked_fill(index >= vocabulary, 0.0)
    return (block * BLOCK + _first_above(inside.cumsum(dim=1), target - before)).squeeze(1)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Where [B, n] first exceeds ``target`` [B, 1]; should rounding leave none, the last place that adds: [B, 1]."""
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(cumulative, target, right=True), last)
