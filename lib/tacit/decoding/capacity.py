"""How many rows fit into a GPU's memory together, and what is done when they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from tacit.models.experts import members
from tacit.models.memory import layer_bytes, layer_types
from tacit.support.errors import TacitError

ROUND = 128  # slots hold, and attention reads, a multiple of this many tokens: each number takes its own CUDA graph
CHUNK = 16_384  # prompt tokens in one forward pass
MOST = 1024  # rows in one batch, whatever the memory
SPARE = 0.9  # share of the free memory that an estimate may take

Decode = Callable[[list[int], int, dict[int, list[int]]], None]  # of rows, a batch size and the tokens by row


def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token, in all layers of all models."""
    return sum(len(layer_types(m.config)) * layer_bytes(m.config, m.dtype.itemsize) for m in members(model))


def round_up(n: int) -> int:
    """The next multiple of ``ROUND``."""
    return -(-n // ROUND) * ROUND


def reach_for(end: int) -> int:
    """How many places attention reads so that it sees ``end`` of them. There are few such numbers, so few graphs."""
    step = ROUND if end <= 8 * ROUND else 4 * ROUND
    return -(-end // step) * step


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that are free, with those that torch holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def fitting_batch(model: PreTrainedModel, *, prompt_tokens: int, max_new_tokens: int, free_bytes: int) -> int:
    """How many rows can be decoded together in ``free_bytes``, from 1 to 1024, by the models' configurations alone.

    A row takes the keys and values of ``prompt_tokens`` + ``max_new_tokens`` tokens (rounded up as slots are) in all
    layers of all models, each model's logits, the float32 scores with their mask and one copy, and the activations of
    one step. A chunk of prompt takes its activations once. A tenth of the memory stays free. This is an estimate:
    callers halve a batch that does not fit after all.
    """
    sizes = [(part.config.get_text_config(decoder=True), part.dtype.itemsize) for part in members(model)]
    widths = [getattr(c, "intermediate_size", None) or 4 * c.hidden_size for c, _ in sizes]
    activations = max((8 * c.hidden_size + 3 * wide) * size for (c, size), wide in zip(sizes, widths, strict=True))
    vocabulary = max(c.vocab_size for c, _ in sizes)
    row = round_up(prompt_tokens + max_new_tokens) * cache_bytes(model)
    row += vocabulary * (sum(size for _, size in sizes) + 4 + 1 + 4) + activations
    return max(1, min(MOST, int((SPARE * free_bytes - CHUNK * activations) // row)))


def decode_within_memory(decode: Decode, lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """The new tokens of each prompt, in order, by a ``decode`` whose batches are halved when they do not fit.

    ``lengths`` are the prompts', in tokens. ``decode`` gets the rows that are left, shortest prompt first, and the
    batch size, and writes the tokens of some of them into a dictionary. What it wrote before memory ran out stays.
    Raises TacitError when one row does not fit alone.
    """
    tokens: dict[int, list[int]] = {}
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while left := [row for row in order if row not in tokens]:
        batch_size = min(batch_size, len(left))
        try:
            decode(left, batch_size, tokens)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                message = "one prompt alone does not fit into memory: shorten it or lower max_new_tokens"
                raise TacitError(message) from None
            batch_size //= 2
        torch.cuda.empty_cache()  # does nothing without a GPU
    return [tokens[row] for row in range(len(lengths))]
