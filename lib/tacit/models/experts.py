"""Several causal language models decoded as one, and the rules that combine their logits.

Combiners are pure functions of logits tensors, [batch, time, vocabulary] each. ``Experts`` runs its models on the same
tokens and returns the combination as its own logits, so that all that ``generate`` knows works on it unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tacit.models.internals import takes_cache
from tacit.models.memory import layer_types
from tacit.support.errors import TacitError

Combiner = Callable[..., Tensor]
HELD = {"full_attention", "sliding_attention"}  # the kinds of layers that a composite's cache holds
PIECE = 4096  # tokens of the vocabulary that a sum over it takes at once


def plausible(logits: Tensor, *, alpha: float) -> Tensor:
    """Log-probabilities with -inf where p < ``alpha`` max p: the tokens that a model itself finds plausible.

    ``alpha`` 0 leaves all tokens, 1 only the likeliest. What is left is not normalised again. Logits [..., V] in,
    float32 [..., V] out. Source: contrastive decoding (Li et al. 2022, eq. 3).
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    if not alpha:
        return log_p
    least = log_p.amax(dim=-1, keepdim=True) + math.log(alpha)
    return log_p.masked_fill(log_p < least, -torch.inf)


def contrast(
    expert: Tensor, amateur: Tensor, *, alpha: float = 0.1, beta: float = 1.0, exempt: Sequence[int] = ()
) -> Tensor:
    """Contrastive scores of the next token: log p_expert - beta log p_amateur on the expert's ``plausible`` tokens.

    The other tokens score -inf. ``beta`` 0 leaves the expert with its mask. Tokens in ``exempt`` (the end tokens, say)
    keep the expert's probability among the plausible tokens, and the others share the rest in proportion to their
    contrast. The released decoder exempts none. Logits [..., V] in, float32 scores [..., V] out, to be sampled from as
    logits. Source: CoDIT (Ichinose et al. 2026, its released decoder).
    """
    scores = log_expert = plausible(expert, alpha=alpha)
    if beta:
        scores = log_expert - beta * torch.log_softmax(amateur.float(), dim=-1)
        scores = scores.masked_fill(log_expert == -torch.inf, -torch.inf)  # also where the amateur excludes the token
    if not exempt:
        return scores
    index = torch.tensor(sorted(set(exempt)), device=scores.device)
    own = torch.log_softmax(log_expert, dim=-1)[..., index]  # [..., exempt]
    masked = scores.index_fill(-1, index, -torch.inf)
    none = masked.amax(dim=-1, keepdim=True) == -torch.inf  # no other token is plausible
    others = torch.log_softmax(masked, dim=-1).masked_fill(none, -torch.inf)  # NaN stays where scores are not finite
    left = torch.log1p(-own.exp().sum(dim=-1, keepdim=True).clamp(max=1.0))  # log of what the others share
    return (others + left).index_copy(-1, index, own)


def contrast_lean(
    expert: Tensor, amateur: Tensor | None, *, alpha: float = 0.1, beta: float = 1.0, exempt: Sequence[int] = ()
) -> Tensor:
    """``contrast`` up to one constant a row, which sampling does not see, in one float32 [..., V] and its boolean mask.

    The mask needs only the expert's largest logit, and both models' normalisers are constants. With ``exempt`` the
    result is ``contrast``'s own. With ``beta`` 0 there need be no amateur. A CUDA graph can capture it. The logits
    given stay as they are.
    """
    scores = expert.to(torch.float32, copy=True)
    least = scores.amax(dim=-1, keepdim=True) + math.log(alpha) if alpha else -torch.finfo(torch.float32).max
    out = scores < least
    if beta:
        assert amateur is not None
        scores.sub_(amateur, alpha=beta).add_(amateur.amax(dim=-1, keepdim=True).float() * 0)  # NaN for infinite ones
    scores.masked_fill_(out, -torch.inf)
    if not exempt:
        return scores
    pieces = range(0, scores.shape[-1], PIECE)

    def total(piece: Callable[[slice], Tensor]) -> Tensor:  # log of the sum of exp over the vocabulary, [..., 1]
        sums = [piece(slice(i, i + PIECE)).logsumexp(dim=-1, keepdim=True) for i in pieces]
        return torch.cat(sums, dim=-1).logsumexp(dim=-1, keepdim=True)

    tokens = sorted(set(exempt))
    own = torch.stack([expert[..., i].float().masked_fill(out[..., i], -torch.inf) for i in tokens], dim=-1)
    own -= total(lambda part: expert[..., part].float().masked_fill(out[..., part], -torch.inf))
    for i in tokens:
        scores[..., i].fill_(-torch.inf)
    rest = total(lambda part: scores[..., part])
    scores.sub_(rest.masked_fill(rest == -torch.inf, 0.0))  # no other token is plausible: they stay at -inf
    scores.add_(torch.log1p(-own.exp().sum(dim=-1, keepdim=True).clamp(max=1.0)))
    for place, i in enumerate(tokens):
        scores[..., i].copy_(own[..., place])
    return scores


def lean(combine: Combiner) -> Combiner:
    """``contrast_lean`` in place of ``contrast`` or ``plausible``, with its settings; any other combiner as it is."""
    if isinstance(combine, partial) and not combine.args:
        if combine.func is contrast:
            return partial(contrast_lean, **combine.keywords)
        if combine.func is plausible:
            return partial(contrast_lean, amateur=None, beta=0.0, **combine.keywords)
    return contrast_lean if combine is contrast else combine


class ExpertsConfig(PreTrainedConfig):
    """The composite's configuration: the first model's tokens and the layers of all, in order."""

    model_type = "tacit_experts"


def experts_config(models: Sequence[PreTrainedModel]) -> ExpertsConfig:
    """Describe the composite of ``models`` so that ``generate`` allocates one cache for all their layers.

    Raises TacitError for what one such cache cannot hold: a model whose past is no keys and values (state-space and
    recurrent models, convolutions), and sliding windows of different widths.
    """
    configs = [m.config.get_text_config(decoder=True) for m in models]
    types = [kind for config in configs for kind in layer_types(config)]
    windows: set[Any] = {getattr(c, "sliding_window", None) for c in configs if "sliding_attention" in layer_types(c)}
    for model, config in zip(models, configs, strict=True):
        if not takes_cache(model) or not set(layer_types(config)) <= HELD:
            raise TacitError(
                f"{type(model).__name__} keeps its past in something else than keys and values of attention: models "
                "decoded together share one cache of those; choose a pair of transformers"
            )
    if len(windows) > 1:
        raise TacitError(
            f"models with different sliding windows {sorted(windows)} cannot share a cache: choose a pair of one window"
        )
    first = configs[0]
    return ExpertsConfig(
        vocab_size=first.vocab_size,
        num_hidden_layers=len(types),
        layer_types=types,
        sliding_window=next(iter(windows), None),
        hidden_size=first.hidden_size,
        num_attention_heads=first.num_attention_heads,
        num_key_value_heads=getattr(first, "num_key_value_heads", first.num_attention_heads),
        bos_token_id=first.bos_token_id,
        eos_token_id=first.eos_token_id,
        pad_token_id=first.pad_token_id,
    )


class Experts(PreTrainedModel, GenerationMixin):
    """N causal language models run on the same tokens, whose logits ``combine`` turns into one.

    ``combine`` takes one logits tensor [batch, time, vocabulary] per model, in order, and returns the composite's. The
    models share one key-value cache, of which each sees its own layers. The composite cannot be trained or saved.
    """

    config_class = ExpertsConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, *models: PreTrainedModel, combine: Combiner):
        if not models:
            raise ValueError("a composite needs at least one model")
        super().__init__(experts_config(models))
        self.experts = torch.nn.ModuleList(models)
        self.combine = combine
        self.generation_config.eos_token_id = models[0].generation_config.eos_token_id
        self.eval()

    def slices(self, cache: Cache | None) -> list[Cache | None]:
        """Each model's part of the shared cache, as views. Raises ValueError for a cache with too few layers."""
        if cache is None:
            return [None] * len(self.experts)
        counts = [len(layer_types(m.config)) for m in self.experts]
        if len(cache.layers) < sum(counts):
            message = f"the cache has {len(cache.layers)} layers and the models {sum(counts)}"
            raise ValueError(f"{message}: make it from the composite's config")
        layers = iter(cache.layers)
        return [Cache(layers=list(islice(layers, n))) for n in counts]

    @staticmethod
    def create_masks_for_generate(*, attention_mask: Tensor | None, **kwargs) -> Tensor | None:
        """Leave the mask as it is, [batch, length]: each model makes its own from it in ``forward``."""
        return attention_mask

    def forward(
        self,
        input_ids: Tensor,  # [batch, time]
        attention_mask: Tensor | None = None,  # [batch, past + time]
        position_ids: Tensor | None = None,  # [batch, time]
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Run every model on ``input_ids`` [batch, time] and combine their logits: [batch, times kept, vocabulary].

        ``logits_to_keep`` is transformers': how many of the last times keep their logits, or a tensor of times; 0 keeps
        all. Further arguments are ignored, labels too. Raises ValueError where a cache is wanted and none is given.
        """
        if use_cache and past_key_values is None:
            raise ValueError("pass a cache made from the composite's config, or use_cache=False")
        logits = [
            model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
            ).logits
            for model, cache in zip(self.experts, self.slices(past_key_values), strict=True)
        ]
        return CausalLMOutputWithPast(logits=self.combine(*logits), past_key_values=past_key_values)


def members(model: PreTrainedModel) -> list[PreTrainedModel]:
    """The models of a composite, or the one model."""
    return list(model.experts) if isinstance(model, Experts) else [model]
