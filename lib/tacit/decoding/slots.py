"""Decoding on a GPU: rows in fixed slots of one cache, refilled as they end, each step one replayed CUDA graph.

Why a graph is captured here, and not ``generate`` with a static cache and its compiled forward (transformers 5.23):

- A graph holds the sampling too, which ``generate`` leaves outside.
- In eager mode ``sdpa`` packs the query heads of one key-value head (``pack_gqa``). The compiled path copies keys and
  values instead (``repeat_kv``), which is nine times their traffic.
- Rows at different positions can share a step, so that a new prompt takes the place of a row that has ended.

Why not ``generate_batch``, transformers' own continuous batching: its paged cache is one pool addressed by each layer's
``layer_idx``, which two models both count from 0, so that requests to ``Experts`` fail in 5.23. It also draws from its
own generator, so that a row's noise cannot be keyed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tacit.decoding.caches import Place, SlotLayer
from tacit.decoding.capacity import CHUNK, decode_within_memory, reach_for, round_up
from tacit.decoding.graphs import capture_graph, fused_norms
from tacit.decoding.sampling import sample_in_blocks, sample_tokens
from tacit.models.experts import Combiner, Experts, lean, members
from tacit.models.internals import attention_name
from tacit.models.limits import not_finite
from tacit.models.memory import layer_types
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction

SEGMENT = 8  # tokens between two looks at which rows have ended
KNOWN = ("gpt2", "llama", "mistral", "olmo", "olmo2", "qwen2", "qwen3")  # compared in tests/unit/decoding/test_slots.py


def obstacle(model: PreTrainedModel) -> str | None:
    """Why ``model`` cannot be decoded in slots, in words, or None when it can.

    Slots need an architecture that they were tested with, full attention in every layer (no sliding window), ``sdpa``
    or ``eager`` attention, which take a mask of any shape, positions whose rotation does not depend on the batch, and
    all weights on one device.
    """
    for part in members(model):
        config, name = part.config.get_text_config(decoder=True), type(part).__name__
        if set(layer_types(config)) != {"full_attention"}:
            return f"{name} has layers other than full attention"
        if config.model_type not in KNOWN:
            return f"only {', '.join(KNOWN)} are known to work, not {config.model_type}"
        if attention_name(config) not in ("sdpa", "eager"):
            return f"{name} uses {attention_name(config)} attention, which takes no mask of our own"
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if "dynamic" in rope or rope == "longrope":
            return f"{name} has {rope} positions, which depend on the longest row"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "its weights are on several devices"
    return None


@dataclass
class Row:
    """One prompt while it is decoded: its place among the prompts, the most new tokens it may get, and those it has."""

    index: int
    name: str
    prompt: list[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    noise: Tensor | None = None  # [SEGMENT], of the next segment, if it is drawn already
    ended: bool = False

    def draw_noise(self, first: int, *, seed: int) -> Tensor:
        """The noise of ``SEGMENT`` steps from step ``first`` on."""
        noise = [fraction("sample", seed, self.name, first + i) for i in range(SEGMENT)]
        return torch.tensor(noise, dtype=torch.float64)

    def append(self, tokens: list[int], *, ends: Collection[int]) -> None:
        """Take a segment's tokens up to the first end token, or to the limit."""
        tokens = tokens[: self.limit - len(self.tokens)]
        stop = next((i for i, token in enumerate(tokens, start=1) if token in ends), None)
        self.tokens += tokens[:stop]
        self.ended = stop is not None or len(self.tokens) == self.limit


class Slots:
    """A model, or a composite, with room for ``slots`` rows of ``capacity`` tokens, that decodes any number of prompts.

    ``ends`` are the tokens that end a row. ``temperature`` and ``top_p`` are those of ``generate_responses``. With
    ``pairs`` every other row is the second prompt of the row before it: both get the scores that it makes of theirs, so
    they go on alike, end together and stay neighbours; numbers of rows and slots are even. With
    ``graphs`` (on a GPU by default) a step is captured once for each number of rows and reach, and replayed. Without,
    the same step runs eagerly, on any device. Raises TacitError for a model with an ``obstacle``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        capacity: int,
        ends: Sequence[int] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        pairs: Combiner | None = None,
        graphs: bool | None = None,
    ):
        if (why := obstacle(model)) is not None:
            raise TacitError(f"this model cannot be decoded in slots: {why}; generate_responses decodes it otherwise")
        self.model, self.parts = model, members(model)
        self.combine = lean(model.combine) if isinstance(model, Experts) else None
        self.pairs = lean(pairs) if pairs else None
        self.device, self.ends = model.device, frozenset(ends)
        self.temperature, self.top_p = temperature, top_p
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] | None = None
        if graphs if graphs is not None else self.device.type == "cuda":
            self.graphs, self.pool = {}, torch.cuda.graph_pool_handle()
        self.slots, self.capacity, self.last = slots, round_up(capacity), capacity - 1
        self.place = Place(slots=slots, capacity=self.capacity, device=self.device)
        self.caches = [Cache(layers=[SlotLayer(self.place) for _ in layer_types(part.config)]) for part in self.parts]
        # What a step reads and writes. Graphs keep these addresses.
        self.token = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.at = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.noise = torch.zeros(SEGMENT, slots, dtype=torch.float64, device=self.device)
        self.chosen = torch.zeros(SEGMENT, slots, dtype=torch.long, device=self.device)
        self.step = torch.zeros(1, dtype=torch.long, device=self.device)

    def _logits(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> list[Tensor]:  # [n, V] each
        options = {"input_ids": ids, "position_ids": positions, "use_cache": True, "logits_to_keep": 1}
        logits = []
        for part, cache in zip(self.parts, self.caches, strict=True):
            own_mask = None if mask is None else mask.to(part.dtype)
            logits.append(part(**options, attention_mask=own_mask, past_key_values=cache).logits[:, -1])
        return logits

    def fill(self, slots: Sequence[int], prompts: Sequence[list[int]]) -> None:
        """Put prompts into slots: all but their last token into the cache, in chunks. The last one is the next to run.

        Prompts begin at position 0 and are padded at the right, where causal attention never looks from a real token,
        so that the first chunk needs no mask. What padding leaves in the cache is overwritten before it is read.
        """
        self.token[list(slots)] = torch.tensor([prompt[-1] for prompt in prompts], device=self.device)
        self.at[list(slots)] = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        order = sorted(range(len(slots)), key=lambda i: -len(prompts[i]))
        while order:
            width = len(prompts[order[0]]) - 1
            group = order[: max(1, CHUNK // max(width, 1))]
            order = order[len(group) :]
            padded = [prompts[i][:-1] + [prompts[i][-1]] * (width + 1 - len(prompts[i])) for i in group]
            ids = torch.tensor(padded, dtype=torch.long, device=self.device).view(len(group), width)
            self.place.rows = torch.tensor([slots[i] for i in group], device=self.device)
            for start in range(0, width, CHUNK):
                chunk = ids[:, start : start + CHUNK]
                self.place.start = start
                self._logits(chunk, None, torch.arange(start, start + chunk.shape[1], device=self.device)[None])

    def advance(self, n: int, reach: int) -> None:
        """Choose one token for each of the first ``n`` slots, whose attention reads the first ``reach`` places.

        This reads each slot's last token and its position (``token`` and ``at``, [slots]) and, above temperature 0, row
        ``step`` of ``noise`` [SEGMENT, slots]. It writes the new tokens into ``token`` and into row ``step`` of
        ``chosen`` [SEGMENT, slots], where -1 says that the scores were not finite, and moves ``at`` and ``step`` on by
        one. All of it happens in place, so that a CUDA graph can replay it, and without a look at the tokens: rows that
        have ended go on (``at`` stays within the capacity). That ``reach`` lies behind every slot's position is not
        checked.
        """
        self.place.start, self.place.reach, self.place.at = None, reach, self.at[:n]
        at, dtype = self.at[:n], self.parts[0].dtype
        hidden = torch.arange(reach, device=self.device) > at[:, None]
        mask = torch.zeros(n, reach, dtype=dtype, device=self.device)
        mask = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]
        logits = self._logits(self.token[:n, None], mask, at[:, None])
        scores = self.combine(*logits) if self.combine else logits[0].float()
        if self.pairs:
            scores = self.pairs(scores[0::2], scores[1::2]).repeat_interleave(2, dim=0)
        noise = self.noise.index_select(0, self.step)[0, :n]
        finite = scores.amax(dim=-1).isfinite()  # sampling in blocks overwrites the scores
        if self.temperature == 0:
            token = scores.argmax(dim=-1)
        elif self.top_p < 1:
            token = sample_tokens(scores, noise, temperature=self.temperature, top_p=self.top_p)
        else:
            token = sample_in_blocks(scores.float(), noise, temperature=self.temperature)
        self.token[:n].copy_(token.masked_fill(~finite, 0))
        self.chosen[:, :n].index_copy_(0, self.step, token.masked_fill(~finite, -1)[None])
        self.at[:n].add_(1).clamp_(max=self.last)
        self.step.add_(1)

    def capture(self, n: int, reach: int) -> torch.cuda.CUDAGraph:
        """The graph of ``advance``. What capturing writes into the cache is written again."""
        state = [self.token, self.at, self.chosen, self.step]
        return capture_graph(partial(self.advance, n, reach), state=state, pool=self.pool)

    def run(self, n: int, steps: int, reach: int) -> None:
        """Run ``advance`` ``steps`` times, at most ``SEGMENT``, from row 0 of ``noise`` and ``chosen`` on."""
        self.step.zero_()
        step = partial(self.advance, n, reach)
        if self.graphs is not None:
            if (n, reach) not in self.graphs:
                self.graphs[n, reach] = self.capture(n, reach)
            step = self.graphs[n, reach].replay
        for _ in range(steps):
            step()

    def gather(self, slots: Sequence[int]) -> None:
        """Bring these slots to the front, in their order."""
        index = torch.tensor(slots, device=self.device)
        for cache in self.caches:
            for layer in cache.layers:
                layer.move(index)
        for tensor in (self.token, self.at):
            tensor[: len(slots)] = tensor[index]

    def _refill(self, n: int, filled: dict[int, Row], waiting: deque[Row]) -> int:
        """Put waiting rows into free slots of the first ``n``; returns how many slots to go on with.

        A free slot waits for others, an eighth of all, so that prompts are read together. When no row waits, those that
        go on move together, and steps shrink to a quarter.
        """
        free = [slot for slot in range(n) if slot not in filled]
        if waiting and free and (len(free) * 8 >= n or not filled):
            new = {slot: waiting.popleft() for slot in free[: len(waiting)]}
            self.fill(list(new), [row.prompt for row in new.values()])
            filled.update(new)
        elif not waiting and 4 * len(filled) <= n:
            n = -(-n // 4)
            n += n % 2 if self.pairs else 0
            slots = sorted(filled)
            self.gather(slots)
            filled.update(enumerate([filled.pop(slot) for slot in slots]))
        return n

    def decode_segment(self, n: int, filled: dict[int, Row], *, seed: int) -> None:
        """Give the rows in ``filled``, all among the first ``n`` slots, up to ``SEGMENT`` tokens each."""
        rows = filled.values()
        steps = min(SEGMENT, max(row.limit - len(row.tokens) for row in rows))
        if self.temperature > 0:  # a segment's noise is sent at once
            noise = torch.zeros(SEGMENT, self.slots, dtype=torch.float64)
            for slot, row in filled.items():
                noise[:, slot] = row.draw_noise(len(row.tokens), seed=seed) if row.noise is None else row.noise
            self.noise.copy_(noise)
        end = max(len(row.prompt) + len(row.tokens) for row in rows) + steps
        self.run(n, steps, min(self.capacity, reach_for(end)))
        if self.temperature > 0:  # the next segment's noise is hashed while a GPU works on this one
            for row in rows:
                first = len(row.tokens) + steps
                row.noise = row.draw_noise(first, seed=seed) if first < row.limit else None
        chosen = self.chosen[:steps, :n].t().tolist()
        for slot, row in filled.items():
            row.append(chosen[slot], ends=self.ends)
            if -1 in row.tokens[-steps:]:  # what follows an end token in the segment is not looked at
                raise not_finite(row.name, nan, model=self.model)

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[Sequence[int]], *, limits: Sequence[int], row_ids: Sequence[str], seed: int = 0
    ) -> Iterator[tuple[int, list[int]]]:
        """Each prompt's position and its new tokens, the end token included, as rows end.

        Row i gets at most ``limits[i]`` tokens. Raises TacitError for a row that is longer than a slot.
        """
        rows = [Row(i, *row) for i, row in enumerate(zip(row_ids, map(list, prompts), limits, strict=True))]
        longest = max((len(row.prompt) + row.limit for row in rows), default=0)
        if longest > self.capacity:
            raise TacitError(f"a row of {longest} tokens does not fit into slots of {self.capacity}")
        waiting, filled, n = deque(rows), {}, min(self.slots, len(rows))
        with fused_norms(self.parts):
            while waiting or filled:
                n = self._refill(n, filled, waiting)
                self.decode_segment(n, filled, seed=seed)
                for slot in [slot for slot, row in filled.items() if row.ended]:
                    row = filled.pop(slot)
                    yield row.index, row.tokens


def decode_rows(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    row_ids: Sequence[str],
    limits: Sequence[int],
    batch_size: int,
    seed: int = 0,
    **options: Any,
) -> list[list[int]]:
    """``Slots.decode`` with slots made for these prompts: each prompt's new tokens, in order.

    ``options`` are those of ``Slots``: what ends a row, and how tokens are drawn. With ``pairs`` every other prompt is
    the second one of the prompt before it, the result has one row for both, and ``batch_size`` counts the pairs. A
    batch that does not fit into memory is halved, and rows that had ended by then are kept. Raises TacitError when one
    row does not fit alone, ValueError for pairs that are none.
    """
    each = 2 if options.get("pairs") else 1
    if len(prompts) % each or (each == 2 and list(limits[0::2]) != list(limits[1::2])):
        raise ValueError("with pairs every prompt needs a second one behind it, with the same limit")

    def decode(left: list[int], slots: int, tokens: dict[int, list[int]]) -> None:
        chosen = [each * i + k for i in left for k in range(each)]
        capacity = max(len(prompts[i]) + limits[i] for i in chosen)
        texts, names, most = ([values[i] for i in chosen] for values in (prompts, row_ids, limits))
        filled = Slots(model, slots=slots * each, capacity=capacity, **options)
        for place, row in filled.decode(texts, limits=most, row_ids=names, seed=seed):
            tokens[left[place // each]] = row  # of a pair, twice the same

    longest = [max(map(len, prompts[i : i + each])) for i in range(0, len(prompts), each)]
    return decode_within_memory(decode, longest, batch_size=batch_size)
