"""What post-training did to a model's weights, as a vector: added, scaled, compared, and what it does to first order.

Ilharco et al. (2023, task arithmetic) take differences of weights; Huang et al. (2310.04799, the chat vector) add the
one of chat tuning to a base model whose pretraining went on; Zheng et al. (2404.16792, ExPO) go beyond the tuned model.
A vector maps each parameter's name to a tensor. Parameters that a model ties occur once, under their first name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from scipy import stats
from torch import Tensor
from torch.func import functional_call, jvp
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.experiments.arms import tuned_model
from tacit.experiments.distillation import student_tokenizer
from tacit.models.internals import attention
from tacit.models.limits import check_scores
from tacit.models.loading import load_model, split_revision
from tacit.scoring.likelihoods import in_batches
from tacit.scoring.scores import Estimate, from_draws
from tacit.support.errors import TacitError

Vector = Mapping[str, Tensor]
BATCH_TOKENS = 4096  # in one pass, padding included: forward-mode differentiation takes more memory than scoring
N_RESAMPLES = 2_000


def check_fit(model: PreTrainedModel, shapes: Mapping[str, torch.Size]) -> None:
    """Raise TacitError, naming the first parameter that differs, unless ``model`` has just those of ``shapes``."""
    own = {name: p.shape for name, p in model.named_parameters()}
    for name in [*own, *(name for name in shapes if name not in own)]:
        if own.get(name) != shapes.get(name):
            here, there = (f"has shape {list(side[name])}" if name in side else "is missing" for side in (own, shapes))
            raise TacitError(f"the architectures differ: parameter {name} {here} in one and {there} in the other")


def task_vector(post: PreTrainedModel, pre: PreTrainedModel) -> dict[str, Tensor]:
    """theta_post - theta_pre in float32, in main memory: the task vector, which for chat tuning is the chat vector.

    It compares names and shapes, not meanings: two pretrainings from different seeds have a difference too, and adding
    it elsewhere says nothing. Source: Ilharco et al. (2023). Raises TacitError, naming the first parameter that
    differs, when the architectures do.
    """
    check_fit(post, {name: p.shape for name, p in pre.named_parameters()})
    after = dict(post.named_parameters())
    return {name: after[name].detach().cpu().float() - p.detach().cpu().float() for name, p in pre.named_parameters()}


def moved(model: PreTrainedModel, vector: Vector, scale: float = 1.0) -> PreTrainedModel:
    """A copy of ``model`` at theta + scale x vector, in its own dtype; ``model`` stays as it is.

    At a scale above 1 from the pretrained model this is ExPO (Zheng et al. 2404.16792); on another checkpoint of the
    same architecture it is the chat vector's addition (Huang et al. 2310.04799). Raises TacitError where the vector
    does not fit.
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
        readings = []
        for row, (i, start) in enumerate(zip(batch, first, strict=True)):
            own = slice(start - dropped, len(inputs[i]) - dropped)
            chosen = torch.tensor([list(responses[i])], device=z.device).T
            check_scores((z[row, own] + change[row, own]).amax(dim=-1), rows=[i] * len(chosen), model=model)
            readings.append(read(z[row, own].float(), change[row, own].float(), chosen))
        return readings

    with torch.no_grad(), attention(model, "eager"):  # fused kernels know no forward-mode derivative
        return in_batches(inputs, score, models=[model], batch_tokens=BATCH_TOKENS)


def predicted_changes(
    model: PreTrainedModel,
    vector: Vector,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[int]],
) -> list[list[float]]:
    """grad log p(token) . vector at ``model``'s weights for every response token, in nats: [rows][tokens].

    First order predicts that a step of the whole vector changes log p by this, and a step of s times the vector by s
    times this. It takes one pass of forward-mode differentiation per batch (``torch.func.jvp``), so no gradient is
    stored: about two forward passes and a copy of the weights. ``prompts`` and ``responses`` are token ids, as for
    ``likelihoods.token_log_ratios``, which gives the true change. Raises TacitError where the vector does not fit, or a
    row does not fit into memory.
    """

    def slope(z: Tensor, change: Tensor, chosen: Tensor) -> list[float]:
        mean = (torch.softmax(z, dim=-1) * change).sum(dim=-1)  # [T]
        return (change.gather(1, chosen).squeeze(1) - mean).tolist()

    return _along(model, vector, tokenizer, prompts, responses, slope)


def group_of(name: str) -> str:
    """The part of a model that a parameter belongs to: ``embeddings``, ``layer 3 mlp``, ``norms``, ``head`` and so on.

    It goes by the names that transformers gives (Llama's, GPT-2's and their kin); what they do not cover is ``other``.
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
    values = {}
    for group, names in groups.items():
        sizes = dot(a, a, names=names) * dot(b, b, names=names)
        values[group] = dot(a, b, names=names) / sizes**0.5 if sizes else 0.0
    return values


def alignment(update: Vector, vector: Vector) -> dict[str, float]:
    """``cosines`` of an update with a vector, and two more numbers, whose quotient is the cosine.

    ``along`` is the share of the vector that the update covers, ``length`` the update's length over the vector's.
    """
    whole = dot(vector, vector)
    along, length = dot(update, vector) / whole, (dot(update, update) / whole) ** 0.5
    return cosines(update, vector) | {"along": along, "length": length}


def tuned_update(student: str, data: Dataset, *, seed: int, dtype: str = "float32", **settings) -> dict[str, Tensor]:
    """The task vector of ``student`` (a folder, or a hub id with @revision) tuned on ``data``.

    The tuned model is that of ``distillation.teach``: equal arguments find the same one in the cache. ``settings`` are
    ``finetune``'s. Raises as ``student_tokenizer``, ``tuned_model`` and ``task_vector`` do.
    """
    name, revision = split_revision(student)
    pairs = data.select_columns(["id", "instruction", "response"])
    options = {"revision": revision, "dtype": dtype}
    model, _, _ = tuned_model(name, student_tokenizer(student), pairs, seed=seed, **options, **settings)
    return task_vector(model, load_model(name, **options))


def _moments(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> np.ndarray:
    """n, sums, squares and products of each row's pairs, [rows, 6], centred over all, as large means cost digits."""
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


def _draws(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> tuple[float, np.ndarray]:
    """r over all tokens, and over the tokens of resampled rows [N_RESAMPLES]; each call draws the same rows."""
    moments = _moments(x, y)
    n = len(moments)
    counts = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=N_RESAMPLES)  # [N_RESAMPLES, rows]
    return float(_correlations(moments.sum(axis=0))), _correlations(counts @ moments)


def correlation(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> Estimate:
    """Pearson's correlation over all tokens of [rows][tokens], with a 95% bootstrap interval over *rows*.

    The tokens of one response are not independent. A correlation says nothing of scale: a prediction that is everywhere
    twice too large correlates perfectly.
    """
    return from_draws(*_draws(x, y), n_seeds=1, n_prompts=len(x))


def over_seeds(values: Sequence[float], *, widest: float | None = None) -> Estimate:
    """Mean of one number per seed with Student's 95% interval, which is honest with few seeds, unlike a bootstrap.

    It takes the seeds' numbers as independent and near normal. Equal numbers of several seeds give no width. One seed
    tells nothing of others: the interval then runs from minus ``widest`` to it, the most that the number can be;
    without it low and high are the mean.
    """
    numbers = np.asarray(values, dtype=float)
    value, spread = float(numbers.mean()), float(stats.sem(numbers)) if len(numbers) > 1 else 0.0
    if len(numbers) == 1 and widest is not None:
        return Estimate(value, -widest, widest, 1, 1)
    low, high = stats.t.interval(0.95, len(numbers) - 1, value, spread) if spread else (value, value)
    return Estimate(value, float(low), float(high), len(numbers), 1)


def correlate_responses(
    x: Sequence[Sequence[float]], y: Sequence[Sequence[float]], *, partial_out: bool = True
) -> Estimate:
    """Pearson's correlation of the sums over responses [rows][tokens], with a bootstrap interval over rows.

    With ``partial_out`` it is the partial correlation given the number of tokens: longer responses change more for any
    reason. 0 where a side does not vary beyond its length.
    """
    sums = np.array([[np.sum(a), np.sum(b), len(a)] for a, b in zip(x, y, strict=True)], dtype=float)  # [rows, 3]
    rng = np.random.default_rng(0)
    draws = [_partial(sums[rng.integers(len(sums), size=len(sums))], partial_out) for _ in range(N_RESAMPLES)]
    return from_draws(_partial(sums, partial_out), draws, n_seeds=1, n_prompts=len(sums))


def _partial(sums: np.ndarray, partial_out: bool) -> float:
    """The correlation of the first two columns of ``sums`` [rows, 3], given the third if asked."""
    design = np.stack([np.ones(len(sums)), sums[:, 2]], axis=1)[:, : 1 + partial_out]
    left = sums[:, :2] - design @ np.linalg.lstsq(design, sums[:, :2], rcond=None)[0]
    spread = (left**2).sum(axis=0)
    if (spread <= 1e-12 * (sums[:, :2] ** 2).sum(axis=0)).any():
        return 0.0
    return float(left[:, 0] @ left[:, 1] / np.sqrt(spread.prod()))


def measure_parts(vector: Vector, model: PreTrainedModel) -> pd.DataFrame:
    """The length of a vector and of the weights it is added to, in each part of the model (``group_of``) and in all.

    Columns ``vector``, ``weights`` and ``share``, their quotient.
    """
    weights = {name: p.detach().cpu().float() for name, p in model.named_parameters()}
    parts: dict[str, list[str]] = {}
    for name in vector:
        parts.setdefault(group_of(name), []).append(name)
    parts["all"] = list(vector)
    rows = {part: [dot(v, v, names=names) ** 0.5 for v in (vector, weights)] for part, names in parts.items()}
    table = pd.DataFrame(rows, index=["vector", "weights"]).T
    return table.assign(share=table["vector"] / table["weights"])
