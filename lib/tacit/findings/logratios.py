"""log p_post - log p_pre of possible next tokens, at every position of given responses.

All arrays are over *entries*, the pairs of a position and a token whose weight is worth keeping. Nothing has the size
positions x vocabulary, unless every entry is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import Response
from tacit.experiments.arms import cached_responses
from tacit.models.chat import encode_prompt
from tacit.scoring.likelihoods import in_batches, next_logits
from tacit.support.errors import TacitError


@dataclass(frozen=True)
class LogRatios:
    """log p_post - log p_pre of possible next tokens at positions of responses, in nats.

    P positions: ``text`` is the response's id, ``t`` its tokens so far, and ``kept`` the share of the position's weight
    that is in the entries. E entries: ``position``, ``token``, ``ratio``, ``weight``, and ``used``, which says whether
    the response so far holds the token. ``width`` is the number of tokens of the vocabulary (of the logits), ``end``
    the tokenizer's end token.
    """

    text: np.ndarray  # [P] of str
    t: np.ndarray  # [P] of int
    kept: np.ndarray  # [P] of float
    position: np.ndarray  # [E] of int
    token: np.ndarray  # [E] of int
    ratio: np.ndarray  # [E] of float
    weight: np.ndarray  # [E] of float
    used: np.ndarray  # [E] of bool
    width: int
    end: int

    def centred(self, values: np.ndarray) -> np.ndarray:
        """``values`` [E] less their weighted mean at each position, [E]."""
        sums, weights = (np.bincount(self.position, w, len(self.t)) for w in (self.weight * values, self.weight))
        return values - (sums / np.maximum(weights, 1e-300))[self.position]  # a position may have no entry

    def seen(self) -> np.ndarray:
        """Each token's total weight, [width]: at how many positions it is expected, where weights are probabilities."""
        return np.bincount(self.token, self.weight, self.width)

    def spread(self) -> np.ndarray:
        """Each token's weighted variance within positions, summed over them, [width]: what a fit of its bias rests on.

        A position at which the token is certain adds nothing: no bias could change what is said there.
        """
        mass = np.bincount(self.position, self.weight, len(self.t))[self.position]
        return np.bincount(self.token, self.weight - self.weight**2 / mass, self.width)


@torch.inference_mode()
def log_ratios(
    post: PreTrainedModel,
    pre: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    responses: Sequence[Response],
    *,
    ids: Sequence[str],
    least: float = 1e-5,
) -> LogRatios:
    """The log-ratios at every position of ``responses`` to ``instructions``, the end token's position included.

    An entry's weight is (p_post + p_pre) / 2: what decoding with either model meets. Entries with a weight below
    ``least`` are left out (0 keeps all of them: P x V entries). There is one forward pass of each model per batch, and
    softmax is in float32. Only real positions become entries, never padding. What exceeds a model's context is not
    cut. Raises TacitError where there is no position, and as ``in_batches`` and ``next_logits`` do.
    """
    rows = [i for i, response in enumerate(responses) if response.tokens]
    if not rows:
        raise TacitError("there is no text to fit on: every response is empty")
    prompts = [encode_prompt(tokenizer, instructions[i]) for i in rows]
    texts = [responses[i].tokens for i in rows]
    inputs = [[*prompt, *tokens][:-1] for prompt, tokens in zip(prompts, texts, strict=True)]

    def score(batch: list[int]) -> list[dict[str, np.ndarray]]:
        tokens, first = [inputs[j] for j in batch], [len(prompts[j]) - 1 for j in batch]
        pairs = zip(*(next_logits(m, tokenizer, tokens, first, names=batch) for m in (post, pre)), strict=True)
        return [_entries(*pair, tokens=texts[j], least=least) for j, pair in zip(batch, pairs, strict=True)]

    parts = in_batches(inputs, score, models=[post, pre])
    lengths = [len(tokens) for tokens in texts]
    starts = np.cumsum([0, *lengths[:-1]])
    names = ("kept", "token", "ratio", "weight", "used")
    return LogRatios(
        text=np.repeat([str(ids[i]) for i in rows], lengths),
        t=np.concatenate([np.arange(n) for n in lengths]),
        position=np.concatenate([part["position"] + start for part, start in zip(parts, starts, strict=True)]),
        width=parts[0]["width"],
        end=tokenizer.eos_token_id,
        **{name: np.concatenate([part[name] for part in parts]) for name in names},
    )


def _entries(post: Tensor, pre: Tensor, *, tokens: Sequence[int], least: float) -> dict[str, np.ndarray]:
    """The entries of one response with these ``tokens`` from both models' logits [T, V] at its positions."""
    ours, theirs = (torch.log_softmax(z.float(), dim=-1) for z in (post, pre))
    n, width = ours.shape
    weight = (ours.exp() + theirs.exp()) / 2
    keep = weight >= least
    position, token = (x.cpu().numpy() for x in keep.nonzero(as_tuple=True))
    first = np.full(width, n)  # where each token first occurs
    for t, v in reversed(list(enumerate(tokens))):
        first[v] = t
    return {
        "kept": ((weight * keep).sum(dim=-1) / weight.sum(dim=-1)).double().cpu().numpy(),
        "position": position,
        "token": token,
        "ratio": (ours - theirs)[keep].double().cpu().numpy(),
        "weight": weight[keep].double().cpu().numpy(),
        "used": first[token] < position,
        "width": width,
    }


def join(*parts: LogRatios, balanced: bool = False) -> LogRatios:
    """Several tables as one; positions of the same id count as one text's.

    If ``balanced``, each part weighs the same in total.
    """
    starts = np.cumsum([0, *(len(part.t) for part in parts)])
    scales = [starts[-1] / len(parts) / len(part.t) if balanced else 1.0 for part in parts]
    names = ("text", "t", "kept", "token", "ratio", "used")
    return replace(
        parts[0],
        position=np.concatenate([part.position + start for part, start in zip(parts, starts[:-1], strict=True)]),
        weight=np.concatenate([part.weight * scale for part, scale in zip(parts, scales, strict=True)]),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def pair_ratios(
    post: PreTrainedModel,
    post_key: dict,
    pre: PreTrainedModel,
    pre_key: dict,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    max_new_tokens: int,
    seed: int,
    **options,
) -> dict[str, LogRatios]:
    """``log_ratios`` on both models' own responses to ``examples``, sampled at T = 1: ``tuned``, ``base``, ``mixture``.

    ``tuned`` is on p_post's text, which never goes past its end token; ``base`` on p_pre's, which does. ``mixture``
    weighs both the same in total. Both texts are cut after ``max_new_tokens``, and the responses are kept in the cache.
    ``options`` are ``log_ratios``'s. Raises TacitError as ``log_ratios`` and ``generate_responses`` do.
    """
    instructions, ids = list(examples["instruction"]), list(examples["id"])
    sampling = {"max_new_tokens": max_new_tokens, "temperature": 1.0, "seed": seed}
    ratios = {}
    for kind, model, key in (("tuned", post, post_key), ("base", pre, pre_key)):
        responses = cached_responses(model, key, tokenizer, instructions, ids=ids, **sampling)
        ratios[kind] = log_ratios(post, pre, tokenizer, instructions, responses, ids=ids, **options)
    return ratios | {"mixture": join(ratios["tuned"], ratios["base"], balanced=True)}
