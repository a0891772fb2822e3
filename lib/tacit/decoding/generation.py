"""Prompts in, responses out, in order: batched, greedy or sampled, each row independent of the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tacit.decoding.caches import make_cache
from tacit.decoding.capacity import decode_within_memory, fitting_batch, free_memory
from tacit.decoding.probes import check_decoding
from tacit.decoding.sampling import sample_tokens
from tacit.decoding.slots import SEGMENT, decode_rows, obstacle
from tacit.models.chat import encode_prompt
from tacit.models.experts import Combiner, members
from tacit.models.internals import takes_cache
from tacit.models.limits import check_rows, check_scores
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction
from tacit.support.ranges import HEAT, NUCLEUS, check_range

MakeProcessors = Callable[[Tensor], Sequence[LogitsProcessor]]  # from the prompts' attention mask [B, W]


@dataclass(frozen=True)
class Response:
    """A response's text, why it ended (``eos`` or ``length``), and its tokens, the end token included."""

    text: str
    finish_reason: str
    n_tokens: int
    tokens: tuple[int, ...] = ()


class KeyedSampling(LogitsProcessor):
    """Samples each row's next token with noise keyed by (seed, row id, step), whatever batch the row is in.

    This is inverse-transform sampling: it takes the token at which the cumulative probability passes the row's number.
    The chosen token is left as the only possible one, so that a greedy ``generate`` takes it.
    """

    def __init__(self, *, row_ids: Sequence[str], prompt_width: int, temperature: float, top_p: float, seed: int):
        self.row_ids, self.prompt_width = list(row_ids), prompt_width
        self.temperature, self.top_p, self.seed = temperature, top_p, seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        step = input_ids.shape[1] - self.prompt_width
        noise = torch.tensor([fraction("sample", self.seed, row, step) for row in self.row_ids], dtype=torch.float64)
        chosen = sample_tokens(scores, noise, temperature=self.temperature, top_p=self.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class TwoPrompts(LogitsProcessor):
    """Every other row is the second prompt of the row before it; both get the scores that ``combine`` makes of theirs.

    The rows' own scores come from one model.
    """

    def __init__(self, combine: Combiner):
        self.combine = combine

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [2 B, time], [2 B, V] -> [2 B, V]
        return self.combine(scores[0::2], scores[1::2]).repeat_interleave(2, dim=0)


class SameScores(LogitsProcessor):
    """Every other row gets the scores of the row before it, so that both go on with the same token and end together.

    It stands behind rules, which may look at a row's own prompt: those of the first prompt count.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [2 B, time], [2 B, V] -> [2 B, V]
        return scores[0::2].repeat_interleave(2, dim=0)


class FiniteScores(LogitsProcessor):
    """Leaves scores as they are. Raises TacitError, naming the row, where they are no finite numbers."""

    def __init__(self, model: PreTrainedModel, row_ids: Sequence[str]):
        self.model, self.row_ids = model, list(row_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        check_scores(scores.amax(dim=-1), rows=self.row_ids, model=self.model)
        return scores


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Left-padded ids and attention mask, [B, longest] each."""
    width = max(map(len, rows))
    ids = [[pad_token_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's end token and those of the checkpoint's generation settings."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *([own] if isinstance(own, int) else own or [])})


@contextmanager
def plain_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Make ``model.generate`` decode greedily from the model's own distribution, until one of ``end_tokens``.

    Of a checkpoint's own generation settings only the end tokens stay. Sampling, beams, penalties, forced or forbidden
    tokens and stop strings would change the texts silently, since ``generate`` merges them into whatever it is given.
    """
    before = model.generation_config
    ends = end_tokens(model, tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    try:
        yield
    finally:
        model.generation_config = before


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    row_ids: Sequence[str],
    *,
    max_new_tokens: int,
    sampling: dict[str, Any],
    make_processors: MakeProcessors | None,
    combine: Combiner | None,
) -> list[list[int]]:
    """The new tokens of one batch by ``generate``, with whatever follows a row's end in its last segment.

    A segment is decoded at a time: rows that have ended leave the batch and its cache.
    """
    ids, mask = pad_left(prompts, tokenizer.pad_token_id, model.device)
    ends = end_tokens(model, tokenizer)
    width, alive, rows = ids.shape[1], list(range(len(prompts))), [[] for _ in prompts]
    cache = make_cache(model) if takes_cache(model) else None
    while alive:
        names = [row_ids[i] for i in alive]
        processors = LogitsProcessorList([TwoPrompts(combine)] if combine else [])
        processors += make_processors(mask[:, :width]) if make_processors else []
        processors += [SameScores()] if combine and make_processors else []
        processors.append(FiniteScores(model, names))
        if sampling["temperature"] > 0:
            processors.append(KeyedSampling(row_ids=names, prompt_width=width, **sampling))
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=min(SEGMENT, max_new_tokens - ids.shape[1] + width),
            logits_processor=processors,
            use_cache=True,
            past_key_values=cache,
            return_dict_in_generate=True,
        )
        ids = out.sequences  # [alive, width + tokens so far]
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)
        for i, row in zip(alive, ids[:, width:].tolist(), strict=True):
            rows[i] = row
        full = ids.shape[1] - width >= max_new_tokens
        going = [place for place, i in enumerate(alive) if not full and set(rows[i]).isdisjoint(ends)]
        if 0 < len(going) < len(alive):
            keep = torch.tensor(going, device=ids.device)
            ids, mask = ids[keep], mask[keep]
            if cache is not None:  # a model without a cache of its own starts over from the tokens
                cache.batch_select_indices(keep)
        alive = [alive[place] for place in going]
    return rows


def finish(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], *, ends: Sequence[int]) -> Response:
    """Cut a row of new tokens at its first end token and decode it."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:stop], skip_special_tokens=True)
    if stop is None:
        return Response(text, "length", len(tokens), tuple(tokens))
    return Response(text, "eos", stop + 1, tuple(tokens[: stop + 1]))


def _decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    columns: Sequence[Sequence[list[int]]],
    row_ids: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int | None,
    sampling: dict[str, Any],
    make_processors: MakeProcessors | None,
    combine: Combiner | None,
) -> list[list[int]]:
    """The new tokens of each response, whose prompts ``columns`` hold: one column, or with ``combine`` two."""
    each, rows = len(columns), [prompt for together in zip(*columns, strict=True) for prompt in together]
    names = [name for name in row_ids for _ in columns]
    on_gpu = model.device.type == "cuda"
    if on_gpu and rows:
        longest, free = max(map(len, rows)), free_memory(model.device)
        room = fitting_batch(model, prompt_tokens=longest, max_new_tokens=max_new_tokens, free_bytes=free)
        room = max(1, room // each)
        batch_size = min(room, batch_size or room)
    batch_size = batch_size or 128
    if on_gpu and make_processors is None and obstacle(model) is None:
        limits, ends = [max_new_tokens] * len(rows), end_tokens(model, tokenizer)
        options = {"limits": limits, "ends": ends, "batch_size": batch_size, **sampling}
        return decode_rows(model, rows, row_ids=names, pairs=combine, **options)

    def decode(left: list[int], batch_size: int, tokens: dict[int, list[int]]) -> None:
        batch = left[:batch_size]
        chosen = [each * i + k for i in batch for k in range(each)]
        texts, of_rows = [rows[i] for i in chosen], [names[i] for i in chosen]
        options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "make_processors": make_processors}
        with plain_generation(model, tokenizer):
            made = _generate_batch(model, tokenizer, texts, of_rows, combine=combine, **options)
        tokens.update(zip(batch, made[::each], strict=True))

    lengths = [max(map(len, together)) for together in zip(*columns, strict=True)]
    return decode_within_memory(decode, lengths, batch_size=batch_size)


def generate_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    make_processors: MakeProcessors | None = None,
    against: Sequence[str] | None = None,
    combine: Combiner | None = None,
) -> list[Response]:
    """Respond to each instruction in the tokenizer's chat format; one Response each, in order.

    ``temperature`` 0 is greedy. Above it the noise is keyed by (``seed``, the row's id, step), so that a row's text
    does not depend on batch, order or resumption (up to rounding of the logits); ``ids`` default to positions.
    ``make_processors`` (see ``tacit.decoding.rules``) gets each batch's prompt mask. Works on any model that
    ``generate`` knows, ``tacit.models.experts.Experts`` included.

    ``against`` holds a second instruction for each. The model then reads both, each in a row of its own, and the next
    token's scores are ``combine`` of the two rows' logits, such as ``contrast`` (Instructive Decoding, Kim et al. 2023;
    classifier-free guidance). Rules come after that, and see the first prompt. Twice as many rows are decoded;
    ``batch_size`` counts the pairs. A composite may not mask tokens then: what it masks for one prompt alone is lost.

    A ``batch_size`` of None is 128. On a GPU it is what ``fitting_batch`` finds room for, which also limits a larger
    one. Batches hold prompts of similar length, and one that does not fit into memory is halved. A GPU decodes in
    slots, by ``decode_rows``, where ``obstacle`` finds nothing against it and there are no processors: equal texts, up
    to rounding. Raises TacitError for impossible settings, prompts that exceed the model's context or embedding, scores
    that are not finite, an architecture that ``check_decoding`` refuses, and when one row does not fit into memory.
    """
    check_range("temperature", temperature, HEAT)
    check_range("top_p", top_p, NUCLEUS)
    if max_new_tokens < 1:
        raise TacitError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    texts = [instructions] if against is None else [instructions, against]
    if (against is None) != (combine is None) or len(texts[-1]) != len(instructions):
        raise ValueError("give combine together with as many second instructions as instructions")
    row_ids = [str(i) for i in (range(len(instructions)) if ids is None else ids)]
    columns = [[encode_prompt(tokenizer, text) for text in of_one] for of_one in texts]
    for part, (column, prompts) in itertools.product(members(model), enumerate(columns)):
        names = [f"{name}, second instruction" for name in row_ids] if column else row_ids
        check_rows(tokenizer, prompts, names=names, config=part.config, new_tokens=max_new_tokens)
    check_decoding(model)
    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "sampling": sampling}
    rows = _decode(model, tokenizer, columns, row_ids, make_processors=make_processors, combine=combine, **options)
    return [finish(tokenizer, row, ends=end_tokens(model, tokenizer)) for row in rows]
