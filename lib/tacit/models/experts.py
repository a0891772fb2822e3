"""Several causal language models decoded as one, and the rules that combine their logits.

Combiners are pure functions of logits tensors, [batch, time, vocabulary] each. ``Experts`` runs its
models on the same tokens and returns the combination as its own logits, so that everything that
``generate`` knows works on it unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

Combiner = Callable[..., Tensor]


def plausible(logits: Tensor, *, alpha: float) -> Tensor:
    """Log-probabilities with -inf where p < ``alpha`` max p: the tokens that a model itself finds plausible.

    ``alpha`` 0 leaves all, 1 only the likeliest. Not normalised again. Logits [..., V] in, float32 [..., V] out. Source:
    contrastive decoding (Li et al. 2022, eq. 3).
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

    The others score -inf. ``beta`` 0 leaves the expert (mask aside). Tokens in ``exempt`` (the end tokens, say) keep the
    expert's probability among the plausible tokens, and the others share the rest in proportion to their contrast; the released
    decoder exempts none. Logits [..., V] in, float32 scores [..., V] out, to be sampled from as logits. Source: CoDIT
    (Ichinose et al. 2026, its released decoder).
    """
    scores = log_expert = plausible(expert, alpha=alpha)
    if beta:
        scores = log_expert - beta * torch.log_softmax(amateur.float(), dim=-1)
        scores = scores.masked_fill(log_expert == -torch.inf, -torch.inf)  # also where the amateur excludes the token
    if not exempt:
        return scores
    index = torch.tensor(sorted(set(exempt)), device=scores.device)
    kept = torch.log_softmax(log_expert, dim=-1)[..., index]  # [..., exempt]
    others = torch.log_softmax(scores.index_fill(-1, index, -torch.inf), dim=-1)  # NaN where no other is plausible
    left = torch.log1p(-kept.exp().sum(dim=-1, keepdim=True).clamp(max=1.0))  # log of what the others share
    return (others.nan_to_num(nan=-torch.inf, neginf=-torch.inf) + left).index_copy(-1, index, kept)


PIECE = 4096  # tokens of the vocabulary that a sum over it takes at once


def contrast_lean(
    expert: Tensor, amateur: Tensor | None, *, alpha: float = 0.1, beta: float = 1.0, exempt: Sequence[int] = ()
) -> Tensor:
    """``contrast`` up to one constant a row, which sampling does not see, with one float32 [..., V] and its boolean mask.

    The mask needs only the expert's largest logit, and both models' normalisers are constants: so nothing is normalised. With
    ``exempt`` the result is ``contrast``'s own; with ``beta`` 0 there need be no amateur. Holds nothing that a CUDA graph cannot. Logits [..., V] in, which stay as they
    are, float32 scores [..., V] out.
    """
    scores = expert.to(torch.float32, copy=True)
    least = scores.amax(dim=-1, keepdim=True) + math.log(alpha) if alpha else -torch.finfo(torch.float32).max
    out = scores < least
    if beta:
        scores.sub_(amateur, alpha=beta)
    scores.masked_fill_(out, -torch.inf)
    if not exempt:
        return scores
    pieces = range(0, scores.shape[-1], PIECE)

    def total(piece: Callable[[slice], Tensor]) -> Tensor:  # log of the sum of exp over the vocabulary, [..., 1]
        sums = [piece(slice(i, i + PIECE)).logsumexp(dim=-1, keepdim=True) for i in pieces]
        return torch.cat(sums, dim=-1).logsumexp(dim=-1, keepdim=True)

    own = sorted(set(exempt))
    kept = torch.stack([expert[..., i].float().masked_fill(out[..., i], -torch.inf) for i in own], dim=-1)
    kept -= total(lambda part: expert[..., part].float().masked_fill(out[..., part], -torch.inf))
    for i in own:
        scores[..., i].fill_(-torch.inf)
    scores.sub_(total(lambda part: scores[..., part])).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    scores.add_(torch.log1p(-kept.exp().sum(dim=-1, keepdim=True).clamp(max=1.0)))
    for place, i in enumerate(own):
        scores[..., i].copy_(kept[..., place])
    return scores


def lean(combine: Combiner) -> Combiner:
    """``contrast_lean`` with the settings of ``combine`` where that is ``contrast`` or ``plausible``; any other combiner as it is."""
    if isinstance(combine, partial) and not combine.args:
        if combine.func is contrast:
            return partial(contrast_lean, **combine.keywords)
        if combine.func is plausible:
            return partial(contrast_lean, amateur=None, beta=0.0, **combine.keywords)
    return contrast_lean if combine is contrast else combine


def product_of_experts(*logits: Tensor) -> Tensor:
    """Unnormalised log of the product of the experts' distributions: the sum of their log-probabilities.

    Source: Hewitt et al. (2024, section 6). Logits [..., V] in, float32 scores [..., V] out.
    """
    return torch.stack([torch.log_softmax(z.float(), dim=-1) for z in logits]).sum(dim=0)


def weighted_sum(*logits: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of the models' logits, each with its weight; float32 scores [..., V] out.

    DExperts (Liu et al. 2021) is base, expert, anti-expert with weights (1, a, -a); proxy-tuning (Liu et
    al. 2024) is large base, small tuned, small base with weights (1, 1, -1). Raises ValueError for another number of weights than of models.
    """
    if len(weights) != len(logits):
        raise ValueError(f"{len(logits)} models need as many weights, not {len(weights)}")
    return sum(w * z.float() for w, z in zip(weights, logits, strict=True))


def layer_types(config: PreTrainedConfig) -> list[str]:
    """The kind of cache that each layer needs, as transformers names it: ``full_attention``, ``sliding_attention``, ..."""
    text = config.get_text_config(decoder=True)
    kind = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    return list(getattr(text, "layer_types", None) or [kind] * text.num_hidden_layers)


def head_width(config: PreTrainedConfig) -> int:
    """The width of one attention head."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def layer_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of one token's keys and values in one layer, numbers of ``itemsize`` bytes: 2 x heads that have their own x their width."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * heads * head_width(text) * itemsize


class ExpertsConfig(PreTrainedConfig):
    """The composite's configuration: the first model's tokens and the layers of all, in order."""

    model_type = "tacit_experts"


def experts_config(models: Sequence[PreTrainedModel]) -> ExpertsConfig:
    """Describe the composite of ``models`` so that ``generate`` allocates one cache for all their layers.

    Raises ValueError for sliding windows of different widths, which cannot share a cache.
    """
    configs = [m.config.get_text_config(decoder=True) for m in models]
    types = [kind for config in configs for kind in layer_types(config)]
    windows = {getattr(c, "sliding_window", None) for c in configs if "sliding_attention" in layer_types(c)}
    if len(windows) > 1:
        raise ValueError(f"models with different sliding windows cannot share a cache: {sorted(windows)}")
    first = configs[0]
    config = ExpertsConfig(
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
    return config


class Experts(PreTrainedModel, GenerationMixin):
    """N causal language models run on the same tokens, whose logits ``combine`` turns into one.

    ``combine`` takes one logits tensor [batch, time, vocabulary] per model, in order, and returns the
    composite's. The models share one key-value cache, of which each sees its own layers: dynamic and
    static caches and ragged left-padded batches work as with a single model. The composite cannot be
    trained or saved: keep the models themselves.
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
        """Each model's part of the shared cache (views: their updates are the cache's).

        Raises ValueError for a cache with another number of layers.
        """
        if cache is None:
            return [None] * len(self.experts)
        counts = [len(layer_types(m.config)) for m in self.experts]
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        if len(cache.layers) < ends[-1]:
            raise ValueError(
                f"the cache has {len(cache.layers)} layers and the models {ends[-1]}: make it from the composite's config"
            )
        return [Cache(layers=cache.layers[end - n : end]) for n, end in zip(counts, ends, strict=True)]

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
        """Run every model on ``input_ids`` [batch, time] and combine their logits: [batch, kept, vocabulary].

        ``attention_mask`` [batch, past + time] covers the cached tokens too. ``logits_to_keep`` is transformers': the last so many
        times, or those of a tensor [kept]; 0 keeps all. Further arguments are ignored, labels too: there is no loss. Raises ValueError
        where a cache is wanted and none is given, and as ``slices`` does.
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
