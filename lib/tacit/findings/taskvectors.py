"""What post-training did to a model's weights, as a vector: added, scaled, compared, and what it does to first order.

Ilharco et al. (2023, task arithmetic) take differences of weights; Huang et al. (2310.04799, the chat vector) add the one of chat
tuning to a base model whose pretraining went on; Zheng et al. (2404.16792, ExPO) go beyond the tuned model. A vector maps each
parameter's name to a tensor; parameters that a model ties occur once, under the first of their names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from scipy import stats
from torch import Tensor
from torch.func import functional_call, jvp
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.experiments.arms import tuned_model
from tacit.experiments.distillation import student_tokenizer
from tacit.models.internals import attention
from tacit.models.loading import load_model, split_revision
from tacit.scoring.likelihoods import in_batches
from tacit.scoring.scores import Estimate, from_draws
from tacit.support.errors import TacitError

Vector = Mapping[str, Tensor]


def check_fit(model: PreTrainedModel, shapes: Mapping[str, torch.Size]) -> None:
    """Raise TacitError, naming the first parameter that differs, unless ``model`` has just the parameters of ``shapes``."""
    own = {name: p.shape for name, p in model.named_parameters()}
    for name in [*own, *(name for name in shapes if name not in own)]:
        if own.get(name) != shapes.get(name):
            here, there = (f"has shape {list(side[name])}" if name in side else "is missing" for side in (own, shapes))
            raise TacitError(f"the architectures differ: parameter {name} {here} in one and {there} in the other")


def task_vector(post: PreTrainedModel, pre: PreTrainedModel) -> dict[str, Tensor]:
    """theta_post - theta_pre, the task vector (Ilharco et al. 2023) that for chat tuning is the chat vector; float32, in main memory.

    Compares names and shapes, not meanings: two pretrainings from different seeds have a difference too, and adding it elsewhere
    says nothing. Raises TacitError, naming the first parameter that differs, when the architectures do.
    """
    check_fit(post, {name: p.shape for name, p in pre.named_parameters()})
    after = dict(post.named_parameters())
    return {name: after[name].detach().cpu().float() - p.detach().cpu().float() for name, p in pre.named_parameters()}


def moved(model: PreTrainedModel, vector: Vector, scale: float = 1.0) -> PreTrainedModel:
    """A copy of ``model`` at theta + scale x vector, in its own dtype; ``model`` stays as it is.

    At a scale above 1 from the pretrained model this is ExPO (Zheng et al. 2404.16792); on another checkpoint of the same
    architecture, the chat vector's addition (Huang et al. 2310.04799). Raises TacitError where the vector does not fit.
    """
    check_fit(model, {name: v.shape for name, v in vector.items()})
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            parameter.copy_(parameter.float() + scale * vector[name].to(parameter.device))
    return copied.eval()


def _along(
    model: PreTrainedModel,
    vector: Vector,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[int]],
    read: Callable[[Tensor, Tensor, Tensor], list],
    *,
    batch_tokens: int,
) -> list[list]:
    """``read(logits, their derivative along vector, tokens)`` of every response, [T, V], [T, V] and [T, 1]; float32."""
    check_fit(model, {name: v.shape for name, v in vector.items()})
    inputs = [[*prompt, *response][:-1] for prompt, response in zip(prompts, responses, strict=True)]
    weights = {name: p.detach() for name, p in model.named_parameters()}
    tangents = {name: vector[name].to(p) for name, p in weights.items()}

    def score(batch: list[int]) -> list[list]:
        width, first = max(len(inputs[i]) for i in batch), [len(prompts[i]) - 1 for i in batch]
        padded = [inputs[i] + [tokenizer.pad_token_id] * (width - len(inputs[i])) for i in batch]
        mask = [[1] * len(inputs[i]) + [0] * (width - len(inputs[i])) for i in batch]
        ids, mask = (torch.tensor(rows, device=model.device) for rows in (padded, mask))  # [B, W]
        arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False, "logits_to_keep": width - min(first)}

        def logits(parameters: dict[str, Tensor]) -> Tensor:  # [B, kept, V]; tied parameters are replaced together
            return functional_call(model, parameters, args=(), kwargs=arguments).logits

        z, change = jvp(logits, (weights,), (tangents,))
        dropped = width - z.shape[1]  # none where a model ignores logits_to_keep
        found = []
        for row, (i, start) in enumerate(zip(batch, first, strict=True)):
            own = slice(start - dropped, len(inputs[i]) - dropped)
            chosen = torch.tensor([list(responses[i])], device=z.device).T
            found.append(read(z[row, own].float(), change[row, own].float(), chosen))
        return found

    with torch.no_grad(), attention(model, "eager"):  # fused kernels know no forward-mode derivative
        return in_batches(inputs, score, batch_tokens=batch_tokens)


def predicted_changes(
    model: PreTrainedModel,
    vector: Vector,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 4096,
) -> list[list[float]]:
    """grad log p(token) . vector at ``model``'s weights for every response token, in nats: [rows][tokens].

    What first order predicts that a step of the whole vector changes; a step of s times the vector, s times that. One pass of
    forward-mode differentiation per batch (``torch.func.jvp``), so no gradient is stored; ``prompts`` and ``responses`` are token
    ids, as for ``likelihoods.token_log_ratios``, which gives the true change. Costs about two forward passes and a copy of the
    weights. Raises TacitError where the vector does not fit, or a row not into memory.
    """

    def slope(z: Tensor, change: Tensor, chosen: Tensor) -> list[float]:
        mean = (torch.softmax(z, dim=-1) * change).sum(dim=-1)  # [T]
        return (change.gather(1, chosen).squeeze(1) - mean).tolist()

    return _along(model, vector, tokenizer, prompts, responses, slope, batch_tokens=batch_tokens)


def linearised_changes(
    model: PreTrainedModel,
    vector: Vector,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[int]],
    *,
    scales: Sequence[float],
    batch_tokens: int = 4096,
) -> list[list[list[float]]]:
    """The changes at theta + s x vector of a model whose *logits* are linear in its weights: [scales][rows][tokens].

    ``predicted_changes`` with softmax left as it is: what this misses of the true change is the network's curvature, what it has and that
    misses is softmax's. It allows what a linear log-probability does not, that probabilities saturate. Raises TacitError likewise.
    """

    def changes(z: Tensor, change: Tensor, chosen: Tensor) -> list[list[float]]:
        before = torch.log_softmax(z, dim=-1)
        return [
            (torch.log_softmax(z + s * change, dim=-1) - before).gather(1, chosen).squeeze(1).tolist() for s in scales
        ]

    rows = _along(model, vector, tokenizer, prompts, responses, changes, batch_tokens=batch_tokens)
    return [list(of_scale) for of_scale in zip(*rows, strict=True)]


def group_of(name: str) -> str:
    """The part of a model that a parameter belongs to: ``embeddings``, ``layer 3 attention``, ``layer 3 mlp``, ``norms``, ``head``.

    By the names that transformers gives (Llama's, GPT-2's and their kin); ``other`` for what they do not cover.
    """
    if re.search(r"vision|multi_modal", name):
        return "other"
    layer = re.search(r"\.(?:layers|h)\.(\d+)\.([^.]+)\.", f".{name}")
    part = layer[2] if layer else name
    if re.search(r"norm|(^|\.|_)ln_", part):
        return "norms"
    if layer and re.search(r"attn|attention", part):
        return f"layer {layer[1]} attention"
    if layer and re.search(r"mlp|feed_forward|moe", part):
        return f"layer {layer[1]} mlp"
    if re.search(r"embed_tokens|embed_in|wte|wpe", part):
        return "embeddings"
    return "head" if re.search(r"lm_head|embed_out", part) else "other"


def dot(a: Vector, b: Vector, *, names: Sequence[str] | None = None) -> float:
    """Inner product of two vectors over ``names`` (all by default), added up in float64."""
    return sum(float((a[n].double() * b[n].to(a[n].device).double()).sum()) for n in (a if names is None else names))


def cosines(a: Vector, b: Vector) -> dict[str, float]:
    """Cosine of two vectors: ``all`` parameters, then those of each group (``group_of``), in the model's order.

    0 where one of them is zero. Between unrelated directions it is about 1 / sqrt(number of parameters).
    """
    groups: dict[str, list[str]] = {"all": list(a)}
    for name in a:
        groups.setdefault(group_of(name), []).append(name)
    found = {}
    for group, names in groups.items():
        sizes = dot(a, a, names=names) * dot(b, b, names=names)
        found[group] = dot(a, b, names=names) / sizes**0.5 if sizes else 0.0
    return found


def alignment(update: Vector, vector: Vector) -> dict[str, float]:
    """``cosines`` of an update with a vector, and with them ``along``, the share of the vector that the update covers, and
    ``length``, the update's length over the vector's (their quotient is the cosine)."""
    whole = dot(vector, vector)
    more = {"along": dot(update, vector) / whole, "length": (dot(update, update) / whole) ** 0.5}
    return cosines(update, vector) | more


def tuned_update(student: str, data: Dataset, *, seed: int, dtype: str = "float32", **settings) -> dict[str, Tensor]:
    """The task vector of ``student`` (a folder, or a hub id with @revision) tuned on ``data``; the model is ``distillation.teach``'s.

    Equal arguments find the same model in the cache. ``settings`` are ``finetune``'s. Raises as ``student_tokenizer``, ``tuned_model``
    and ``task_vector`` do.
    """
    name, revision = split_revision(student)
    pairs = data.select_columns(["id", "instruction", "response"])
    options = {"revision": revision, "dtype": dtype}
    model, _, _ = tuned_model(name, student_tokenizer(student), pairs, seed=seed, **options, **settings)
    return task_vector(model, load_model(name, **options))


def _moments(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> np.ndarray:
    """n, sums, squares and products of each row's pairs, centred over all: [rows, 6]. Means of few large numbers lose digits."""
    centres = [np.concatenate([np.asarray(row, dtype=float) for row in side]).mean() for side in (x, y)]
    rows = [
        [np.asarray(side, dtype=float) - c for side, c in zip(pair, centres, strict=True)]
        for pair in zip(x, y, strict=True)
    ]
    return np.array([[len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b] for a, b in rows])


def _correlations(totals: np.ndarray) -> np.ndarray:
    """Pearson's r from moments [..., 6]; 0 where a side does not vary, which leaves nothing to correlate."""
    n, a, b, aa, bb, ab = np.moveaxis(totals, -1, 0)
    spread = (n * aa - a * a) * (n * bb - b * b)
    # Rounding of the sums can leave a tiny spread, even a negative one, where there is none.
    varies = (n * aa - a * a > 1e-12 * n * aa) & (n * bb - b * b > 1e-12 * n * bb)
    return np.where(varies, (n * ab - a * b) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)


def _draws(x: Sequence, y: Sequence, *, n_resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """r over all tokens, and over the tokens of resampled rows [n_resamples]; equal seeds draw equal rows."""
    moments = _moments(x, y)
    n = len(moments)
    counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=n_resamples)  # [n_resamples, rows]
    return float(_correlations(moments.sum(axis=0))), _correlations(counts @ moments)


def _interval(value: float, drawn: np.ndarray, n: int) -> Estimate:
    return from_draws(value, drawn, n_seeds=1, n_prompts=n)


def correlation(
    x: Sequence[Sequence[float]], y: Sequence[Sequence[float]], *, n_resamples: int = 2_000, seed: int = 0
) -> Estimate:
    """Pearson's correlation over all tokens of [rows][tokens], with a 95% bootstrap interval over *rows* (tokens of one response
    are not independent). Says nothing of scale: a prediction that is everywhere twice too large correlates perfectly."""
    return _interval(*_draws(x, y, n_resamples=n_resamples, seed=seed), len(x))


def correlation_change(
    x: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    *,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """``correlation`` of ``x`` with ``after`` minus that with ``before``, paired: each resample draws the same rows for both."""
    (one, ones), (other, others) = (_draws(x, y, n_resamples=n_resamples, seed=seed) for y in (after, before))
    return _interval(one - other, ones - others, len(x))


def ranked(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Each number's rank among all of them (ties share their mean rank): ``correlation`` of ranks is Spearman's."""
    ranks = stats.rankdata(np.concatenate([np.asarray(row, dtype=float) for row in rows]))
    return [part.tolist() for part in np.split(ranks, np.cumsum([len(row) for row in rows])[:-1])]


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Mean of one number per seed with Student's t interval, which is honest with few seeds as a bootstrap of them is not.

    It takes the seeds' numbers as independent and near normal. One seed, or equal numbers, give no interval: low and high are the mean.
    """
    numbers = np.asarray(values, dtype=float)
    value, spread = float(numbers.mean()), float(stats.sem(numbers)) if len(numbers) > 1 else 0.0
    low, high = stats.t.interval(level, len(numbers) - 1, value, spread) if spread else (value, value)
    return Estimate(value, float(low), float(high), len(numbers), 1)
