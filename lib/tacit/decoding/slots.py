"""Decoding on a GPU: rows in fixed slots of one cache, refilled as they end, each step one replayed CUDA graph.

Why a graph captured here and not ``generate`` with a static cache and its compiled forward (transformers 5.23): a graph
holds the sampling too, which ``generate`` leaves outside; in eager mode ``sdpa`` packs the query heads of one key-value head
(``pack_gqa``), where the compiled path copies keys and values (``repeat_kv``), nine times their traffic; and rows at
different positions can share a step, so that a new prompt takes the place of a row that has ended.

Why not ``generate_batch``, transformers' own continuous batching: its paged cache is one pool addressed by each layer's
``layer_idx``, which two models both count from 0, so that requests to ``Experts`` fail in 5.23 (it would take changing the
amateur's layers); and it draws from its own generator, so that a row's noise cannot be keyed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tacit.decoding.caches import Place, SlotLayer
from tacit.decoding.sampling import sample_in_blocks, sample_tokens
from tacit.models.experts import Experts, layer_bytes, layer_types, lean
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction

SEGMENT = 8  # tokens between two looks at which rows have ended
ROUND = 128  # capacities, and how far attention reads, are multiples of this: one graph each
CHUNK = 16_384  # prompt tokens in one forward pass
MOST = 1024  # rows in one batch, whatever the memory
KNOWN = ("gpt2", "llama", "mistral", "olmo", "olmo2", "qwen2", "qwen3")  # what tests/test_decoding.py compares
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Olmo2RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # weight x normed input
NO_ROOM = "one prompt alone does not fit into memory: shorten it or lower max_new_tokens"
SPARE = 0.9  # share of the free memory that an estimate may take


def members(model: PreTrainedModel) -> list[PreTrainedModel]:
    """The models of a composite, or the one model."""
    return list(model.experts) if isinstance(model, Experts) else [model]


def _config(model: PreTrainedModel):
    return model.config.get_text_config(decoder=True)


def obstacle(model: PreTrainedModel) -> str | None:
    """Why ``model`` cannot be decoded in slots, in words, or None when it can.

    Slots need an architecture that they were tested with, full attention in every layer (no sliding window), ``sdpa`` or
    ``eager`` attention, which take a mask of any shape, positions whose rotation does not depend on the batch, and all weights
    on one device.
    """
    for part in members(model):
        config, name = _config(part), type(part).__name__
        if set(layer_types(config)) != {"full_attention"}:
            return f"{name} has layers other than full attention"
        if config.model_type not in KNOWN:
            return f"only {', '.join(KNOWN)} are known to work, not {config.model_type}"
        if config._attn_implementation not in ("sdpa", "eager"):
            return f"{name} uses {config._attn_implementation} attention, which takes no mask of our own"
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if "dynamic" in rope or rope == "longrope":
            return f"{name} has {rope} positions, which depend on the longest row"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "its weights are on several devices"
    return None


def cache_bytes(model: PreTrainedModel) -> int:
    """Bytes of keys and values that one token takes in all layers of all models."""
    return sum(
        _config(part).num_hidden_layers * layer_bytes(part.config, part.dtype.itemsize) for part in members(model)
    )


def round_up(n: int) -> int:
    """The next multiple of ``ROUND``."""
    return -(-n // ROUND) * ROUND


def reach_for(end: int) -> int:
    """How many places attention reads so that place ``end`` is among them: few different numbers, since each takes a graph of its own."""
    step = ROUND if end <= 8 * ROUND else 4 * ROUND
    return -(-end // step) * step


def fitting_batch(model: PreTrainedModel, *, prompt_tokens: int, max_new_tokens: int, free_bytes: int) -> int:
    """Rows whose decoding fits into ``free_bytes``, at least 1 and at most 1024, from the models' configurations alone.

    Counted per row: keys and values of ``prompt_tokens`` + ``max_new_tokens`` (rounded as they are allocated) in all layers of all
    models, each model's logits, the float32 scores with their mask and one copy, and a decoding step's activations.
    Counted once: the activations of a chunk of prompt. A tenth of the memory is left alone. It is an estimate: callers halve
    the batch when it fails.
    """
    parts = members(model)
    sizes = [(_config(part), part.dtype.itemsize) for part in parts]

    def inner(config) -> int:
        return getattr(config, "intermediate_size", None) or 4 * config.hidden_size

    activations = max((8 * c.hidden_size + 3 * inner(c)) * size for c, size in sizes)
    vocabulary = max(c.vocab_size for c, _ in sizes)
    row = round_up(prompt_tokens + max_new_tokens) * cache_bytes(model)
    row += vocabulary * (sum(size for _, size in sizes) + 4 + 1 + 4) + activations
    return max(1, min(MOST, int((SPARE * free_bytes - CHUNK * activations) // row)))


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that are free, those that torch holds without using them included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _rms_norm(module: torch.nn.Module, hidden: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)


@contextmanager
def fused_norms(parts: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Compute the models' RMS norms by torch's own, one kernel on a GPU, instead of eight, while the context lasts.

    The same up to rounding: in half precision torch rounds once where transformers rounds twice.
    """
    norms = [module for part in parts for module in part.modules() if type(module).__name__ in NORMS]
    for module in norms:
        module.forward = partial(_rms_norm, module)
    try:
        yield
    finally:
        for module in norms:
            del module.forward  # the class's again


def _draw_noise(name: str, first: int, *, seed: int) -> Tensor:
    """The noise of a row's next ``SEGMENT`` steps."""
    return torch.tensor([fraction("sample", seed, name, first + i) for i in range(SEGMENT)], dtype=torch.float64)


class Slots:
    """A model, or a composite, with room for ``slots`` rows of ``capacity`` tokens, that decodes any number of prompts.

    ``ends`` are the tokens that end a row; ``temperature``, ``top_p`` are those of ``tacit.decoding.generation``. With ``graphs`` (on a
    GPU by default) a step is captured once per number of rows and reach and replayed; without, the same step runs eagerly, on any
    device. ``seconds`` adds up what capturing, prompts and decoding took. Raises TacitError for a model with an ``obstacle``.
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
        graphs: bool | None = None,
    ):
        if (why := obstacle(model)) is not None:
            raise TacitError(f"this model cannot be decoded in slots: {why}; decode it with static=False")
        self.parts, self.combine = members(model), lean(model.combine) if isinstance(model, Experts) else None
        self.device, self.ends = model.device, frozenset(ends)
        self.temperature, self.top_p = temperature, top_p
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] | None = None
        if graphs if graphs is not None else self.device.type == "cuda":
            self.graphs, self.pool = {}, torch.cuda.graph_pool_handle()
        self.slots, self.capacity, self.last = slots, round_up(capacity), capacity - 1
        self.place = Place(slots=slots, capacity=self.capacity, device=self.device)
        self.caches = [
            Cache(layers=[SlotLayer(self.place) for _ in range(_config(part).num_hidden_layers)]) for part in self.parts
        ]
        # What a step reads and writes; graphs keep these addresses.
        self.token = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.at = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.noise = torch.zeros(SEGMENT, slots, dtype=torch.float64, device=self.device)
        self.said = torch.zeros(SEGMENT, slots, dtype=torch.long, device=self.device)
        self.step = torch.zeros(1, dtype=torch.long, device=self.device)
        self.seconds = {"capture": 0.0, "prompts": 0.0, "decoding": 0.0}

    def _logits(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> list[Tensor]:  # [n, V] each
        return [
            part(
                input_ids=ids,
                attention_mask=None if mask is None else mask.to(part.dtype),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for part, cache in zip(self.parts, self.caches, strict=True)
        ]

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Put prompts into the slots ``rows``: all but their last token into the cache, in chunks; the last is the next to run.

        Prompts begin at position 0 and are padded at the right, where causal attention never looks back from a real token, so
        that the first chunk needs no mask; what padding leaves in the cache is overwritten before it is read.
        """
        self.token[list(rows)] = torch.tensor([prompt[-1] for prompt in prompts], device=self.device)
        self.at[list(rows)] = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        order = sorted(range(len(rows)), key=lambda i: -len(prompts[i]))
        while order:
            width = len(prompts[order[0]]) - 1
            group = order[: max(1, CHUNK // max(width, 1))]
            order = order[len(group) :]
            padded = [prompts[i][:-1] + [prompts[i][-1]] * (width + 1 - len(prompts[i])) for i in group]
            ids = torch.tensor(padded, dtype=torch.long, device=self.device).view(len(group), width)
            self.place.rows = torch.tensor([rows[i] for i in group], device=self.device)
            for start in range(0, width, CHUNK):
                chunk = ids[:, start : start + CHUNK]
                self.place.start = start
                self._logits(chunk, None, torch.arange(start, start + chunk.shape[1], device=self.device)[None])

    def advance(self, n: int, reach: int) -> None:
        """One token for each of the first ``n`` slots, whose attention reads the first ``reach`` places.

        Reads each slot's last token and its position (``token``, ``at`` [slots]) and, above temperature 0, row ``step`` of ``noise``
        [SEGMENT, slots]; writes the new token into ``token`` and row ``step`` of ``said`` [SEGMENT, slots], and moves ``at`` and
        ``step`` on by one. All in place, so that a CUDA graph can replay it, and so without a look at what was said: rows that have ended
        go on (``at`` stays within the capacity), and that ``reach`` lies behind every slot's position is not checked.
        """
        self.place.start, self.place.reach, self.place.at = None, reach, self.at[:n]
        at = self.at[:n]
        dtype = self.parts[0].dtype
        hidden = torch.arange(reach, device=self.device) > at[:, None]
        mask = torch.zeros(n, reach, dtype=dtype, device=self.device)
        mask = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]
        logits = self._logits(self.token[:n, None], mask, at[:, None])
        scores = self.combine(*logits) if self.combine else logits[0].float()
        noise = self.noise.index_select(0, self.step)[0, :n]
        if self.temperature == 0:
            token = scores.argmax(dim=-1)
        elif self.top_p < 1:
            token = sample_tokens(scores, noise, temperature=self.temperature, top_p=self.top_p)
        else:
            token = sample_in_blocks(scores.float(), noise, temperature=self.temperature)
        self.token[:n].copy_(token)
        self.said[:, :n].index_copy_(0, self.step, token[None])
        self.at[:n].add_(1).clamp_(max=self.last)  # rows that have ended go on until the segment does
        self.step.add_(1)

    def _capture(self, n: int, reach: int) -> torch.cuda.CUDAGraph:
        """The graph of one step, after two steps on a side stream that let libraries set themselves up."""
        state = [self.token, self.at, self.said, self.step]
        kept = [tensor.clone() for tensor in state]
        self.step.zero_()
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):  # what they write into the cache is written again
                self.advance(n, reach)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                self.advance(n, reach)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise TacitError(
                f"a step of these models does not go into a CUDA graph: {error}; decode with static=False"
            ) from error
        for tensor, old in zip(state, kept, strict=True):
            tensor.copy_(old)
        return graph

    def run(self, n: int, steps: int, reach: int) -> None:
        """Start ``steps`` tokens, at most ``SEGMENT``, for each of the first ``n`` slots: into ``said``. ``noise`` must be set."""
        if self.graphs is not None and (n, reach) not in self.graphs:
            began = self._clock()
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                self.graphs[n, reach] = self._capture(n, reach)
            self.seconds["capture"] += self._clock() - began
        self.step.zero_()
        for _ in range(steps):
            if self.graphs is None:
                self.advance(n, reach)
            else:
                self.graphs[n, reach].replay()

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _gather(self, rows: Sequence[int]) -> None:
        """Bring the slots ``rows`` to the front."""
        index = torch.tensor(rows, device=self.device)
        for cache in self.caches:
            for layer in cache.layers:
                layer.move(index)
        for tensor in (self.token, self.at):
            tensor[: len(rows)] = tensor[index]

    @torch.inference_mode()
    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        limits: Sequence[int],
        row_ids: Sequence[str],
        seed: int = 0,
        done: dict[int, list[int]] | None = None,
    ) -> dict[int, list[int]]:
        """Each prompt's new tokens, its end token included, by the prompt's position.

        Row i gets at most ``limits[i]`` tokens. A free slot waits for others, an eighth of all, so that prompts are read
        together; when none are left to be read, the rows that go on move together and steps shrink to a quarter. ``done`` is
        filled as rows end: what it holds survives an OutOfMemoryError.
        """
        done = {} if done is None else done
        with fused_norms(self.parts):
            self._decode(prompts, limits=limits, row_ids=row_ids, seed=seed, done=done)
        return done

    def _decode(self, prompts, *, limits, row_ids, seed: int, done: dict[int, list[int]]) -> None:
        ahead: dict[int, Tensor] = {}  # by row, the noise of its next segment
        queue, filled, said = deque(range(len(prompts))), {}, {}  # filled: from slot to row
        prompts = [list(prompt) for prompt in prompts]
        longest = max((len(p) + n for p, n in zip(prompts, limits, strict=True)), default=0)
        if longest > self.capacity:
            raise TacitError(f"a row of {longest} tokens does not fit into slots of {self.capacity}")
        n = min(self.slots, len(prompts))
        while queue or filled:
            free = [slot for slot in range(n) if slot not in filled]
            if queue and free and (len(free) * 8 >= n or not filled):
                began = self._clock()
                new = {slot: queue.popleft() for slot in free[: len(queue)]}
                self.fill(list(new), [prompts[row] for row in new.values()])
                filled |= new
                said |= {row: [] for row in new.values()}
                self.seconds["prompts"] += self._clock() - began
            elif not queue and 4 * len(filled) <= n:
                n = -(-n // 4)
                slots = sorted(filled)
                self._gather(slots)
                filled = {place: filled[slot] for place, slot in enumerate(slots)}
            steps = min(SEGMENT, max(limits[row] - len(said[row]) for row in filled.values()))
            starts = {row: len(said[row]) for row in filled.values()}
            began, captured = self._clock(), self.seconds["capture"]
            if self.temperature > 0:  # a segment's noise is sent at once
                noise = torch.zeros(SEGMENT, self.slots, dtype=torch.float64)
                for slot, row in filled.items():
                    noise[:, slot] = ahead[row] if row in ahead else _draw_noise(row_ids[row], starts[row], seed=seed)
                self.noise.copy_(noise)
            end = max(len(prompts[row]) + len(said[row]) for row in filled.values()) + steps
            reach = min(self.capacity, reach_for(end))
            self.run(n, steps, reach)
            if self.temperature > 0:  # that of the next segment is hashed while a GPU works on this one
                goes_on = [row for row, start in starts.items() if start + steps < limits[row]]
                ahead = {row: _draw_noise(row_ids[row], starts[row] + steps, seed=seed) for row in goes_on}
            new_tokens = self.said[:steps, :n].t().tolist()
            for slot, row in list(filled.items()):
                kept = new_tokens[slot][: limits[row] - starts[row]]
                stop = next((i for i, token in enumerate(kept, start=1) if token in self.ends), None)
                said[row] += kept[:stop]
                if stop is not None or len(said[row]) == limits[row]:
                    done[row] = said.pop(row)
                    del filled[slot]
            self.seconds["decoding"] += self._clock() - began - (self.seconds["capture"] - captured)


def decode_rows(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    row_ids: Sequence[str],
    limits: Sequence[int],
    ends: Sequence[int],
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    graphs: bool | None = None,
) -> list[list[int]]:
    """``Slots.decode`` with slots made for these prompts: each prompt's new tokens, in order.

    A batch that does not fit into memory is halved; rows that had ended by then are kept. Raises TacitError when one row does
    not fit alone.
    """
    done: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while left := [i for i in order if i not in done]:
        batch_size, ended = min(batch_size, len(left)), {}
        try:
            Slots(
                model,
                slots=batch_size,
                capacity=max(len(prompts[i]) + limits[i] for i in left),
                ends=ends,
                temperature=temperature,
                top_p=top_p,
                graphs=graphs,
            ).decode(
                [prompts[i] for i in left],
                limits=[limits[i] for i in left],
                row_ids=[row_ids[i] for i in left],
                seed=seed,
                done=ended,
            )
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise TacitError(NO_ROOM) from None
            batch_size //= 2
        torch.cuda.empty_cache()  # nothing without a GPU
        done |= {left[place]: tokens for place, tokens in ended.items()}
    return [done[i] for i in range(len(prompts))]
