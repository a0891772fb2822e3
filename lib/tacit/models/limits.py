"""What a model can take and give: ids within its embedding, rows within its context, scores that are finite numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tacit.models.experts import members
from tacit.support.errors import TacitError


def name_model(model: PreTrainedModel) -> str:
    """A model's place and dtype, or those of a composite's models, for an error message."""
    named = [f"{part.name_or_path or type(part).__name__} in {str(part.dtype)[6:]}" for part in members(model)]
    return " and ".join(dict.fromkeys(named))


def check_scores(peaks: Tensor, *, rows: Sequence[object], model: PreTrainedModel) -> None:
    """Raise TacitError, naming the first such row, unless every row's largest score ``peaks`` [n] is a finite number.

    The largest of scores is NaN where one of them is, and infinite where one is or where none is possible.
    """
    finite = torch.isfinite(peaks)
    if not finite.all():
        place = int((~finite).nonzero()[0, 0])
        raise not_finite(rows[place], peaks[place].item(), model=model)


def not_finite(row: object, peak: float, *, model: PreTrainedModel) -> TacitError:
    """The error for a ``row`` whose largest score is ``peak``."""
    return TacitError(
        f"row {str(row)!r}: the scores of its next token are not finite numbers ({peak}), from {name_model(model)}: "
        "use bfloat16 or float32, smaller weights (rules, contrast), or another checkpoint"
    )


def context_of(config: PreTrainedConfig) -> int | None:
    """How many tokens a model has positions for, or None where its configuration names no limit."""
    room = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return room if room and room > 0 else None


def check_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    *,
    names: Sequence[str],
    config: PreTrainedConfig,
    new_tokens: int = 0,
    role: str = "model",
) -> None:
    """Raise TacitError where a row of token ids, or ``new_tokens`` after it, is more than a model can read.

    Every id must lie within the model's embedding, the pad and end tokens' too, and every row within its context.
    Empty rows are refused: nothing can be predicted from them.
    """
    n_ids, room = getattr(config.get_text_config(decoder=True), "vocab_size", inf), context_of(config)
    special = [i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]
    for name, row in zip(["special tokens", *names], [special, *rows], strict=True):
        if not row:
            raise TacitError(f"row {name!r} is an empty prompt: the chat template and the instruction give no token")
        if max(row) >= n_ids:
            token = tokenizer.convert_ids_to_tokens(max(row))
            raise TacitError(
                f"row {name!r}: the token {token!r} has id {max(row)}, and the {role}'s embedding ends at {n_ids - 1}: "
                "use the tokenizer that belongs to it, or resize its embedding (resize_token_embeddings)"
            )
        if room is not None and len(row) + new_tokens > room:
            raise TacitError(
                f"row {name!r} has {len(row)} tokens, and with {new_tokens} new ones that exceeds the {role}'s context "
                f"of {room}: lower max_new_tokens, shorten the row or leave it out"
            )
