"""Rules as a linear model of log p_post - log p_pre: fitted on text, measured, and decoded with.

Hewitt et al. (2024) add hand-written scores to a pretrained model's logits; CoDIT (Ichinose et al. 2026) adds the
log-ratio of a post-trained and a pretrained model. The former has the form of a few terms of the latter, so their best
values can be fitted: for the next token v after t tokens of a response

    log p_post(v) - log p_pre(v)  ~  bias[v] + ramp * t * 1[v = end] + repetition * 1[v in the response so far] + c_t

by weighted least squares. What is constant in v (c_t: both normalisers, among others) changes no distribution, so
ratios and predictions count only as they differ within a position: both are centred there by their weighted mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from tacit.decoding.generation import MakeProcessors, Response
from tacit.decoding.rules import Diversity, EndRamp, TokenBias, resolve_tokens
from tacit.findings.logratios import LogRatios, join, log_ratios, pair_ratios
from tacit.scoring.scores import Estimate, from_draws
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint

__all__ = [
    "TERMS", "LinearRules", "LogRatios", "agreement", "along", "end_curve", "explained_by",
    "explained_variance", "fit_rules", "join", "log_ratios", "mean_rules", "pair_ratios", "strongest",
    "variance_left", "written_rules",
]  # fmt: skip
TERMS = ("bias", "ramp", "repetition")
ALIKE = 20  # tokens of about one spread, among which ``agreement`` draws


@dataclass(frozen=True)
class LinearRules:
    """Scores to add to a model's logits, in nats.

    ``bias`` [width] is added per token, ``ramp`` to the end token for each token of the response so far, and
    ``repetition`` once to every token that the response has used.
    """

    bias: np.ndarray
    ramp: float
    repetition: float

    def predicted(self, ratios: LogRatios) -> np.ndarray:
        """The scores of each entry, [E], not centred."""
        ramp = self.ramp * ratios.t[ratios.position] * (ratios.token == ratios.end)
        return self.bias[ratios.token] + ramp + self.repetition * ratios.used

    def key(self) -> dict:
        """What identifies the rules, for ``tacit.experiments.arms.cached_responses``."""
        return {"what": "linear rules", "scores": fingerprint([self.bias.tolist(), self.ramp, self.repetition])}

    def make_processors(self, tokenizer: PreTrainedTokenizerBase) -> MakeProcessors:
        """The rules for ``generate_responses``, as processors of ``tacit.decoding.rules``; terms of 0 are left out."""
        biases = {int(v): float(self.bias[v]) for v in np.flatnonzero(self.bias)}

        def make(prompt_mask: Tensor) -> list[LogitsProcessor]:
            processors: list[LogitsProcessor] = [TokenBias(biases)] if biases else []
            if self.ramp:
                place = {"eos_token_id": tokenizer.eos_token_id, "prompt_width": prompt_mask.shape[1]}
                processors.append(EndRamp(weight=self.ramp, horizon=1, **place))
            if self.repetition:
                processors.append(Diversity(prompt_mask=prompt_mask, weight=self.repetition))
            return processors

        return make


def written_rules(
    tokenizer: PreTrainedTokenizerBase,
    *,
    width: int,
    end_weight: float,
    end_horizon: int,
    uniform_tokens: Mapping[str, float],
    diversity_weight: float,
) -> LinearRules:
    """Hewitt et al.'s three rules in this form, from the options of ``tacit.decoding.rules.make_rules``.

    They are as in the paper's text: a ramp without end, and repetition of the response's tokens. Tokens that the
    vocabulary lacks are left out: ``tacit.decoding.rules.resolve_tokens`` reports them.
    """
    bias = np.zeros(width)
    for token, score in resolve_tokens(tokenizer, uniform_tokens)[0].items():
        bias[token] = score
    return LinearRules(bias, end_weight / end_horizon, diversity_weight)


def mean_rules(rules: Sequence[LinearRules]) -> LinearRules:
    """The mean of several rules' scores."""
    bias = np.mean([each.bias for each in rules], axis=0)
    return LinearRules(bias, *(float(np.mean([getattr(each, k) for each in rules])) for k in ("ramp", "repetition")))


def fit_rules(
    ratios: LogRatios, *, terms: Sequence[str] = TERMS, ridge: float = 1.0, tokens: Sequence[int] | None = None
) -> LinearRules:
    """The ``terms`` that minimise sum of weight * (centred ratio - centred prediction)^2 + ridge * sum of bias^2.

    With ``tokens``, only these have a bias. ``ridge`` is in positions: a token's bias is halved, roughly, where its
    ``spread`` is as much. With a ridge on all tokens the biases sum to 0. Without one, tokens never seen have 0, and a
    constant added to the others is arbitrary. The normal equations are solved by conjugate gradients over the entries,
    so memory is that of the entries and O(width). Raises TacitError for unknown terms and for a fit that does not
    converge.
    """
    unknown = set(terms) - set(TERMS)
    if unknown:
        raise TacitError(f"unknown term {sorted(unknown)[0]!r}: the terms are {', '.join(TERMS)}")
    width = ratios.width
    allowed = np.zeros(width + 2, dtype=bool)
    if "bias" in terms:
        allowed[slice(width) if tokens is None else list(tokens)] = True
    allowed[width:] = ["ramp" in terms, "repetition" in terms]
    at_end = (ratios.t[ratios.position] * (ratios.token == ratios.end)).astype(float)

    def adjoint(values: np.ndarray) -> np.ndarray:  # [E], centred and weighted -> [width + 2]
        sums = [np.bincount(ratios.token, values, width), [values @ at_end, values @ ratios.used]]
        return np.where(allowed, np.concatenate(sums), 0.0)

    def normal(theta: np.ndarray) -> np.ndarray:
        predicted = LinearRules(theta[:width], theta[width], theta[width + 1]).predicted(ratios)
        return adjoint(ratios.weight * ratios.centred(predicted)) + penalty * theta

    penalty = np.concatenate([np.full(width, float(ridge)), np.zeros(2)])
    diagonal = penalty.copy()  # of the normal matrix: each column's weighted variance within positions, summed
    diagonal[:width] += ratios.spread()
    for i, column in enumerate((at_end, ratios.used.astype(float)), start=width):
        diagonal[i] += ratios.weight @ ratios.centred(column) ** 2
    inverse = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=diagonal > 1e-12)
    shape = (width + 2, width + 2)
    theta, failed = cg(
        LinearOperator(shape, matvec=normal, dtype=float),
        adjoint(ratios.weight * ratios.centred(ratios.ratio)),
        rtol=1e-10,
        maxiter=5_000,
        M=LinearOperator(shape, matvec=lambda x: inverse * x, dtype=float),
    )
    if failed:
        raise TacitError("the least squares did not converge: give a larger ridge")
    return LinearRules(theta[:width], float(theta[width]), float(theta[width + 1]))


def variance_left(ratios: LogRatios, rules: LinearRules | None = None) -> pd.Series:
    """Weighted sum of squares of the centred log-ratio that ``rules`` leave, by text; all there is without rules."""
    left = ratios.ratio if rules is None else ratios.ratio - rules.predicted(ratios)
    squares = np.bincount(ratios.position, ratios.weight * ratios.centred(left) ** 2, len(ratios.t))
    return pd.Series(squares).groupby(ratios.text).sum()


def explained_variance(
    left: ArrayLike, total: ArrayLike, *, less: ArrayLike | None = None, n_resamples: int = 2_000, seed: int = 0
) -> Estimate:
    """1 - sum of ``left`` / sum of ``total``, [seeds, texts] each, averaged over seeds, with its 95% interval.

    Seeds and texts are resampled independently, as in ``tacit.scoring.scores.estimate``. With ``less``, which is what
    another fit leaves of the same total, it is the difference, ours minus theirs, on the same resamples. Raises
    ValueError for unequal shapes and where there is no variance.
    """
    ours, everything = np.asarray(left, dtype=float), np.asarray(total, dtype=float)
    theirs = everything if less is None else np.asarray(less, dtype=float)
    if ours.ndim != 2 or not ours.shape == everything.shape == theirs.shape or 0 in ours.shape:
        raise ValueError(f"need [seeds, texts]: {ours.shape}, {everything.shape}, {theirs.shape}")
    if (everything.sum(axis=1) <= 0).any():
        raise ValueError("there is no variance to explain")
    n_seeds, n_texts = ours.shape
    rng = np.random.default_rng(seed)
    seeds = rng.integers(n_seeds, size=(n_resamples, n_seeds))
    counts = np.stack([np.bincount(rng.integers(n_texts, size=n_texts), minlength=n_texts) for _ in range(n_resamples)])
    shares = counts @ (theirs - ours).T / np.maximum(counts @ everything.T, 1e-12)  # [resamples, seeds]
    drawn = np.take_along_axis(shares, seeds, axis=1).mean(axis=1)
    value = float(((theirs - ours).sum(axis=1) / everything.sum(axis=1)).mean())
    return from_draws(value, drawn, n_seeds=n_seeds, n_prompts=n_texts)


def explained_by(
    rules: Sequence[LinearRules], ratios: Sequence[LogRatios], *, less: Sequence[LinearRules] | None = None
) -> Estimate:
    """``explained_variance`` of each seed's rules on its ratios; with ``less`` that of other rules subtracted.

    Every seed's ratios must be of the same texts, by id; only their number is checked. Raises ValueError as
    ``explained_variance`` does, and unless there are as many rules as ratios, of as many texts for each seed.
    """

    def leave(some: Sequence[LinearRules]) -> np.ndarray:
        return np.stack([variance_left(*pair) for pair in zip(ratios, some, strict=True)])

    total = np.stack([variance_left(each) for each in ratios])
    return explained_variance(leave(rules), total, less=None if less is None else leave(less))


def strongest(rules: LinearRules, ratios: LogRatios, n: int) -> list[int]:
    """The ``n`` tokens whose biases matter most: bias^2 times the token's ``spread`` is largest."""
    effect = rules.bias**2 * ratios.spread()
    return np.argsort(-effect, kind="stable")[:n].tolist()


def agreement(
    rules: LinearRules,
    ratios: LogRatios,
    written: Mapping[int, float],
    *,
    n_strongest: int,
    n_permutations: int = 2_000,
    seed: int = 0,
) -> dict[str, float]:
    """Do fitted rules find the tokens of hand-written ones, ``written`` scores by id, and give them the same signs?

    Only tokens that the text can tell anything of are compared: those expected at one position at least. ``written`` is
    how many hand-written tokens there are, ``compared`` how many of them count, ``found`` how many of these are among
    the ``n_strongest``, and ``same sign`` on which share of these the signs agree. Chance is the mean over draws of as
    many tokens for the same scores, and p the share of draws that are at least as good (the observed one included). A
    token is drawn among those of about its own ``spread``: hand-written tokens are common ones, which rank high under
    any rules. NaN where nothing can be compared.
    """
    pool = np.flatnonzero(ratios.seen() >= 1)
    compared = [v for v in written if v in set(pool.tolist())]
    top = np.isin(np.arange(ratios.width), strongest(rules, ratios, n_strongest))
    signs = np.sign([written[v] for v in compared])
    counts = {"written": len(written), "compared": len(compared)}
    names = [f"{measure}{part}" for measure in ("found", "same sign") for part in ("", ", chance", ", p")]
    if not compared:
        return counts | dict.fromkeys(names, np.nan)
    by_spread = pool[np.argsort(ratios.spread()[pool], kind="stable")]
    groups = np.array_split(by_spread, max(1, len(pool) // ALIKE))
    alike = [group for group in groups if np.isin(group, compared).any()]
    places = [np.flatnonzero(np.isin(compared, group)) for group in alike]  # in ``compared``, by group

    def measure(tokens: Sequence[int]) -> tuple[float, float]:
        return float(top[tokens].sum()), float(np.mean(np.sign(rules.bias[tokens]) == signs))

    def draw() -> np.ndarray:
        tokens = np.empty(len(compared), dtype=int)
        for group, where in zip(alike, places, strict=True):
            tokens[where] = rng.choice(group, len(where), replace=False)
        return tokens

    observed = np.array(measure(compared))
    rng = np.random.default_rng(seed)
    drawn = np.array([measure(draw()) for _ in range(n_permutations)])
    p = ((drawn >= observed - 1e-12).sum(axis=0) + 1) / (n_permutations + 1)
    values = np.stack([observed, drawn.mean(axis=0), p], axis=1)  # [2 measures, 3 parts]
    return counts | dict(zip(names, values.ravel().tolist(), strict=True))


def along(
    rules: LinearRules, ratios: LogRatios, tokenizer: PreTrainedTokenizerBase, response: Response
) -> pd.DataFrame:
    """What models and rules make of each token of one response, whose ``ratios`` hold all entries.

    Columns: ``t``; ``token``, the response's own; ``log-ratio`` and ``rules``, both centred as in the fit, in nats; the
    same of the ``end`` token at that position. Raises ValueError for ratios of another text or with entries left out.
    """
    n = len(ratios.t)
    if n != len(response.tokens) or len(ratios.token) != n * ratios.width:
        raise ValueError("give the ratios of this response alone, with least=0")
    both = {"log-ratio": ratios.centred(ratios.ratio), "rules": ratios.centred(rules.predicted(ratios))}
    squares = {name: values.reshape(n, ratios.width) for name, values in both.items()}
    tokens = list(response.tokens)
    return pd.DataFrame(
        {
            "t": ratios.t,
            "token": [repr(tokenizer.decode([v])) for v in tokens],
            **{name: values[np.arange(n), tokens] for name, values in squares.items()},
            **{f"end: {name}": values[:, ratios.end] for name, values in squares.items()},
        }
    )


def end_curve(rules: LinearRules, ratios: LogRatios, *, step: int) -> pd.DataFrame:
    """The end token's score by length of the response so far: what the ratio asks for beside what ``rules`` give.

    There is one row per ``step`` response tokens: ``t``, its middle; ``ratio``, the weighted mean of the end token's
    log-ratio, measured from the level that the rules give the position; ``rules``, that of the rules; ``weight``, how
    often the end is expected there.
    """
    fitted = rules.predicted(ratios)
    asked = fitted + ratios.centred(ratios.ratio - fitted)
    ends = ratios.token == ratios.end
    bins = ratios.t[ratios.position[ends]] // step
    weight = pd.Series(ratios.weight[ends]).groupby(bins).sum()
    means = {
        name: pd.Series(values[ends] * ratios.weight[ends]).groupby(bins).sum() / weight
        for name, values in (("ratio", asked), ("rules", fitted))
    }
    return pd.DataFrame({"t": (weight.index + 0.5) * step - 0.5, **means, "weight": weight}).reset_index(drop=True)
