"""Padding-free batches: the rows of a batch after one another in one sequence, each attending to itself only."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, DataCollatorWithFlattening, PreTrainedModel

from tacit.data.instructions import IGNORED
from tacit.models import internals
from tacit.models.memory import head_width
from tacit.support.errors import TacitError

VARLEN = "tacit_varlen"  # the name under which transformers knows ``varlen_attention``


def mark_loss(following: Tensor) -> dict[str, Tensor]:
    """Where a model has to compute its loss, from the label that follows each position, [batch, time].

    ``logits_to_keep`` [kept] are the positions where some row's next token bears loss, ``shift_labels`` [batch, kept]
    those next tokens. ``labels`` are the same: without them a model computes no loss.
    """
    positions = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not len(positions):  # a row without loss (``processes.RankBatches``): its first position weighs nothing
        positions = torch.tensor([0])
    following = following[:, positions]
    return {"labels": following, "shift_labels": following, "logits_to_keep": positions}


def collate_packed(rows: list[dict[str, list[int]]], *, boundaries: bool = False) -> dict[str, Tensor]:
    """The rows of a batch as one of a single row, [1, sum of lengths], with ``mark_loss``.

    ``position_ids`` begin anew with every row. Without an attention mask and a cache, transformers' masks then let a
    token see its own row only. ``boundaries`` adds what kernels for unequal lengths read instead (``cu_seq_lens_q``,
    ``max_length_q`` and the same of keys).
    """
    batch = DataCollatorWithFlattening(return_flash_attn_kwargs=boundaries)(rows)  # a row's first label becomes IGNORED
    following = batch.pop("labels")[:, 1:]
    return batch | mark_loss(following) | {"use_cache": False}


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,  # [1, heads, length, width]
    key: Tensor,  # [1, key heads, length, width]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row by torch's own flash kernel for unequal lengths (CUDA, 16-bit).

    For ``collate_packed`` with ``boundaries``: ``cu_seq_lens_q`` [rows + 1] says where rows begin and end, and
    ``attention_mask`` is not read. Returns [1, length, heads, width] and no weights. Raises TacitError for a batch
    without boundaries, and for soft caps, sinks and attention dropout, which it does not have.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias", "dropout") if others.get(name)]
    if cu_seq_lens_q is None or unknown:
        what = f"has no {unknown[0]}" if unknown else "needs the boundaries of packed rows"
        raise TacitError(f"attention over packed rows {what}: finetune {type(module).__name__} with packing=False")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [length, heads, width]
    group, options = q.shape[1] // k.shape[1], {}
    if group > 1 and "enable_gqa" in signature(varlen_attn).parameters:
        options["enable_gqa"] = True
    elif group > 1:  # torch 2.11's kernel cannot let several heads of queries share one of keys
        k, v = (states.repeat_interleave(group, dim=1) for states in (k, v))
    out = varlen_attn(
        q.to(v.dtype).contiguous(),  # under autocast, rotary positions make float32 of queries and keys
        k.to(v.dtype).contiguous(),
        v.contiguous(),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **options,
    )
    return out.unsqueeze(0), None


AttentionInterface.register(VARLEN, varlen_attention)


def has_varlen(model: PreTrainedModel, *, autocast: bool) -> bool:
    """Can ``varlen_attention`` take the place of fused attention: CUDA, 16-bit, no soft caps, heads up to 256 wide?"""
    config = model.config.get_text_config()
    width = head_width(config)
    capped = getattr(config, "attn_logit_softcapping", None) or getattr(config, "attention_dropout", 0)
    short = autocast or model.dtype in (torch.bfloat16, torch.float16)
    plain = internals.attention_name(model.config) == "sdpa" and internals.calls_flash_kernels(model)
    return model.device.type == "cuda" and plain and short and not capped and width <= 256 and width % 8 == 0


@torch.no_grad()
def check_packing(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> None:
    """Raise TacitError unless two rows packed together have the logits that each has alone, whatever is in the other.

    Architectures fail whose positions do not begin anew, or which carry a state or a convolution across rows. Logits
    may differ by rounding: by 1e-3 of the largest in float32, 0.05 in 16 bits.
    """
    wrong = f"{type(model).__name__} cannot be tuned with packing: %s; use packing=False"
    if "position_ids" not in signature(model.forward).parameters:
        raise TacitError(wrong % "it takes no position_ids")
    model.eval()
    first, second = ({key: row[key] for key in ("input_ids", "labels")} for row in rows)

    def logits(*packed: dict) -> Tensor:  # [kept, vocabulary]
        batch = collate_packed(list(packed))
        inputs = {key: batch[key].to(model.device) for key in ("input_ids", "position_ids", "logits_to_keep")}
        return model(**inputs, use_cache=False).logits[0].float()

    together, alone = logits(first, second), torch.cat([logits(first), logits(second)])
    vocabulary = model.config.get_text_config().vocab_size
    changed = logits(first | {"input_ids": [(token + 1) % vocabulary for token in first["input_ids"]]}, second)
    n, scale = len(collate_packed([first])["logits_to_keep"]), alone.abs().max()
    if (together[n:] - changed[n:]).abs().max() > 1e-3 * scale:
        raise TacitError(wrong % "a token sees other rows of its batch")
    if (together - alone).abs().max() > (1e-3 if model.dtype == torch.float32 else 0.05) * scale:
        raise TacitError(wrong % "a row's logits depend on where it stands in its batch")
