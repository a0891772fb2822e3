"""How large models are: parameters, bytes of keys and values, bytes of training. From configurations alone.

No weights are read: a model is built from its configuration on torch's meta device, where tensors hold no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROMPT = 512  # tokens that a prompt is taken to have beside max_new_tokens


class Size(NamedTuple):
    """A model's configuration and how many parameters it makes."""

    config: PreTrainedConfig
    parameters: int


class Phase(NamedTuple):
    """Something that a notebook does on the GPU: ``fixed`` bytes, and ``row`` more for each row decoded together."""

    what: str
    fixed: int
    row: int = 0


def layer_types(config: PreTrainedConfig) -> list[str]:
    """The cache that each layer needs, as transformers names it: ``full_attention``, ``sliding_attention``, ..."""
    text = config.get_text_config(decoder=True)
    kind = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    return list(getattr(text, "layer_types", None) or [kind] * text.num_hidden_layers)


def head_width(config: PreTrainedConfig) -> int:
    """The width of one attention head."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def layer_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of one token's keys and values in one layer: 2 x key-value heads x their width x ``itemsize``."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * heads * head_width(text) * itemsize


def count_parameters(config: PreTrainedConfig, *, encoder: bool = False) -> int:
    """How many parameters a causal language model (or a sentence ``encoder``) has. Tied ones count once."""
    with torch.device("meta"):
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    return sum(p.numel() for p in model.parameters())


def kv_cache_bytes(config: PreTrainedConfig, *, rows: int, tokens: int, dtype: str) -> int:
    """Bytes of the keys and values of ``rows`` rows of ``tokens`` tokens, over all layers.

    Layers with a sliding window keep no more tokens than it holds. What an allocator adds is not counted.
    """
    text = config.get_text_config(decoder=True)
    within = min(tokens, getattr(text, "sliding_window", None) or tokens)
    held = sum(tokens if kind == "full_attention" else within for kind in layer_types(text))
    return layer_bytes(text, BYTES[dtype]) * held * rows


def training_bytes(size: Size, *, dtype: str, micro_batch: int, max_length: int) -> int:
    """Bytes that ``finetune`` holds: weights, gradients and Adam's two moments in ``dtype``, and activations.

    Activations are those of ``micro_batch`` examples of ``max_length`` tokens that all bear loss. They are recomputed,
    so that each layer keeps its input, in ``dtype``; the logits take 2 bytes as they are, 4 in float32 and 4 as
    log-probabilities. Not counted are one layer's own activations, fragmentation, and that nothing is recomputed where
    ``micro_batch`` is the whole batch.
    """
    text = size.config.get_text_config(decoder=True)
    inputs = text.hidden_size * text.num_hidden_layers * BYTES[dtype]
    return 4 * BYTES[dtype] * size.parameters + micro_batch * max_length * (inputs + 10 * text.vocab_size)
