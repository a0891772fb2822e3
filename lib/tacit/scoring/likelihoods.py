"""How likely a model finds given responses, by teacher forcing, and how often the true one beats others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.data.instructions import IGNORED, encode_example
from tacit.models.experts import members
from tacit.models.limits import check_scores, context_of
from tacit.support.errors import TacitError

BATCH_TOKENS = 8192  # in one forward pass, padding included


def in_batches(
    rows: Sequence[list[int]],
    score: Callable[[list[int]], Sequence[Any]],
    *,
    models: Sequence[PreTrainedModel],
    batch_tokens: int = BATCH_TOKENS,
) -> list:
    """One result per row of tokens, in order: ``score`` is called with the indices of each batch's rows.

    Rows go longest first, so that what does not fit into memory shows at once. As many go together as keep rows x
    longest within ``batch_tokens``, one at least. A batch that does not fit is halved, and so are those after it.
    Raises TacitError when a row does not fit alone, or exceeds the context of one of the ``models`` that score it.
    """
    room = min([room for model in models for part in members(model) if (room := context_of(part.config))], default=inf)
    todo = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    results: dict[int, Any] = {}
    while todo:
        longest = len(rows[todo[0]])
        if longest > room:
            raise TacitError(f"row {todo[0]} has {longest} tokens, more than the model's context of {room}: shorten it")
        batch = todo[: max(1, batch_tokens // longest)]
        try:
            done = score(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise TacitError(f"one row of {longest} tokens alone does not fit into memory: shorten it") from None
            torch.cuda.empty_cache()
            batch_tokens = len(batch) // 2 * longest
            continue
        results.update(zip(batch, done, strict=True))
        todo = todo[len(batch) :]
    return [results[i] for i in range(len(rows))]


@torch.inference_mode()
def next_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    first: Sequence[int],
    *,
    names: Sequence[object] | None = None,
) -> list[Tensor]:
    """Logits of the token after each position of each row, from position ``first`` of that row on.

    One forward pass over right-padded ``rows`` of tokens; row i gives [len(row i) - first i, V], in the model's own
    dtype. The head is applied only from the earliest ``first`` on, and nothing is cached. Raises TacitError, naming the
    row (its place, or that in ``names``), for logits that are not finite.
    """
    width, pad = max(map(len, rows)), tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)  # [B, W]
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)  # [B, W]
    logits = model(
        input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - min(first)
    ).logits  # [B, kept, V]
    dropped = width - logits.shape[1]  # none where a model ignores logits_to_keep
    own = [z[start - dropped : len(row) - dropped] for z, row, start in zip(logits, rows, first, strict=True)]
    check_scores(torch.stack([z.amax() for z in own]), rows=names or range(len(rows)), model=model)
    return own


def response_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> pd.DataFrame:
    """Log-probability of each response given its prompt; one row per (instruction, response) pair, in order.

    Columns: ``summed``, the log-probabilities of the response's tokens and its end token added up, in nats; ``mean``,
    that over ``n_tokens`` (whose exponential Hewitt et al.'s released code compares); ``n_tokens``, the end token
    included; ``end``, the log-probability of the end token alone after the whole response, in nats. Tokens are those
    of ``tacit.data.instructions.encode_example``, in the tokenizer's chat format.

    Equal pairs are scored once and are exactly equal; a row depends on its batch only by rounding. Softmax and
    sum are in float32, one row at a time, whatever the model's dtype. Works on any model of
    ``generate_responses``, ``tacit.models.experts.Experts`` included. Cuts nothing. Raises TacitError as ``in_batches``
    and ``next_logits`` do.
    """
    keys = [(prompt, response) for prompt, response in pairs]  # of lists too
    distinct = list(dict.fromkeys(keys))
    encoded = [encode_example(tokenizer, prompt, response) for prompt, response in distinct]
    inputs = [row["input_ids"][:-1] for row in encoded]  # nothing is predicted from the end token
    targets = [[label for label in row["labels"] if label != IGNORED] for row in encoded]

    def score(batch: list[int]) -> list[list[float]]:
        rows, first = [inputs[i] for i in batch], [len(inputs[i]) - len(targets[i]) for i in batch]
        scored = []  # [B][2], the sum over all tokens and the end token's
        for i, logits in zip(batch, next_logits(model, tokenizer, rows, first, names=batch), strict=True):
            each = -cross_entropy(logits.float(), torch.tensor(targets[i], device=logits.device), reduction="none")
            scored.append(torch.stack([each.sum(), each[-1]]))
        return torch.stack(scored).tolist()

    results = dict(zip(distinct, in_batches(inputs, score, models=[model], batch_tokens=batch_tokens), strict=True))
    lengths = dict(zip(distinct, map(len, targets), strict=True))
    summed, end = np.array([results[key] for key in keys], dtype=float).reshape(-1, 2).T
    n_tokens = np.array([lengths[key] for key in keys], dtype=int)
    return pd.DataFrame({"summed": summed, "mean": summed / n_tokens, "n_tokens": n_tokens, "end": end})


def token_log_ratios(
    expert: PreTrainedModel,
    amateur: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[int]],
) -> list[list[float]]:
    """log p_expert - log p_amateur of every token of each response given its prompt, in nats: [rows][tokens].

    ``prompts`` and ``responses`` are token ids, the end token one of the response's; one forward pass of each model
    per batch, softmax in float32. Full distributions, unmasked. Raises TacitError as ``in_batches`` and
    ``next_logits`` do, and where a chosen token is impossible for one of the two.
    """
    inputs = [[*prompt, *response][:-1] for prompt, response in zip(prompts, responses, strict=True)]

    def score(batch: list[int]) -> list[list[float]]:
        rows, first = [inputs[i] for i in batch], [len(prompts[i]) - 1 for i in batch]
        both = [next_logits(model, tokenizer, rows, first, names=batch) for model in (expert, amateur)]
        ratios = []
        for i, *logits in zip(batch, *both, strict=True):
            chosen = torch.tensor([responses[i]], device=logits[0].device).T  # [T, 1]
            ours, theirs = (torch.log_softmax(z.float(), dim=-1).gather(1, chosen).squeeze(1) for z in logits)  # [T]
            check_scores((ours - theirs).abs().amax(dim=0, keepdim=True), rows=[i], model=amateur)
            ratios.append((ours - theirs).tolist())
        return ratios

    return in_batches(inputs, score, models=[expert, amateur])


def draw_others(n_items: int, *, n_others: int, seed: int, groups: Sequence[object] | None = None) -> list[list[int]]:
    """For each item the indices of ``n_others`` other items, drawn uniformly without repeats: [n_items][n_others].

    Never the item itself (Hewitt et al.'s released code lets it be drawn). With ``groups``, one label per item, only
    items of the same group are drawn, as many as it has where these are fewer. That two items' responses differ in
    text is not looked at. Raises ValueError unless 0 < n_others < n_items.
    """
    if not 0 < n_others < n_items:
        raise ValueError(f"{n_items} items have {max(n_items - 1, 0)} others each: cannot draw {n_others}")
    generator = np.random.default_rng(seed)
    labels = np.zeros(n_items) if groups is None else np.unique(list(groups), return_inverse=True)[1]
    drawn = []
    for i in range(n_items):
        others = np.flatnonzero(labels == labels[i])
        others = others[others != i]
        drawn.append(generator.choice(others, size=min(n_others, len(others)), replace=False).tolist())
    return drawn


def rank_response(true: float, others: ArrayLike) -> float:
    """Share of the ``others`` [n] that the true response's score beats, ties half: 0.5 by chance.

    Scores are log-probabilities given the same prompt, summed or mean. Source: Hewitt et al. (2024, section 4), which
    reports the mean over items. Raises ValueError for NaN and where there are no others.
    """
    scores = np.asarray(others, dtype=float)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any() or np.isnan(true):
        raise ValueError(f"cannot rank {true} among {scores}: need numbers, and one other at least")
    return float(np.mean((np.sign(true - scores) + 1) / 2))


def ranking_table(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    responses: Sequence[str],
    *,
    others: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> pd.DataFrame:
    """How often each item's true response is likelier than those of the items ``others`` names, given its instruction.

    ``others`` [items][others of the item] are indices, as of ``draw_others``. One row per item with columns ``summed``
    and ``mean``: ``rank_response`` by each log-probability; and ``likeliest``: the index of the response with the
    highest mean, the true one's where it ties. All are NaN for an item without others. Raises TacitError as
    ``response_likelihoods`` does, ValueError for a log-probability that is NaN.
    """
    chosen = [[i, *row] for i, row in enumerate(others)]  # the true response first
    pairs = [(instructions[i], responses[j]) for i, row in enumerate(chosen) for j in row]
    table = response_likelihoods(model, tokenizer, pairs, batch_tokens=batch_tokens)
    starts = np.cumsum([0, *map(len, chosen)])
    ranks = {
        kind: [
            rank_response(table[kind][a], table[kind][a + 1 : b]) if b > a + 1 else np.nan
            for a, b in itertools.pairwise(starts)
        ]
        for kind in ("summed", "mean")
    }
    best = [  # of equals the first, which is the true response
        row[int(np.argmax(table["mean"][a:b]))] if b > a + 1 else np.nan
        for row, (a, b) in zip(chosen, itertools.pairwise(starts), strict=True)
    ]
    return pd.DataFrame(ranks | {"likeliest": best})
