"""How large models are: parameters, bytes of keys and values, bytes of training. From configurations alone.

No weights are read: a model is built from its configuration on torch's meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

from tacit.models.experts import layer_bytes, layer_types

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


PROMPT = 512  # tokens that a prompt is taken to have beside max_new_tokens


class Size(NamedTuple):
    """A model's configuration and how many parameters it makes."""

    config: PreTrainedConfig
    parameters: int


class Phase(NamedTuple):
    """Something that a notebook does on the GPU: ``fixed`` bytes, and ``row`` bytes more for each row decoded together."""

    what: str
    fixed: int
    row: int = 0


def count_parameters(config: PreTrainedConfig, *, encoder: bool = False) -> int:
    """How many parameters a causal language model (or a sentence ``encoder``) of this configuration has; tied ones count once."""
    with torch.device("meta"):
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    return sum(p.numel() for p in model.parameters())


def kv_cache_bytes(config: PreTrainedConfig, *, rows: int, tokens: int, dtype: str) -> int:
    """Keys and values of ``rows`` rows of ``tokens`` tokens: 2 x heads that have their own x their width x tokens, over all layers.

    Layers with a sliding window keep no more tokens than it holds. What an allocator adds is not counted.
    """
    text = config.get_text_config(decoder=True)
    kept = sum(
        tokens if kind == "full_attention" else min(tokens, text.sliding_window or tokens) for kind in layer_types(text)
    )
    return layer_bytes(text, BYTES[dtype]) * kept * rows


def training_bytes(size: Size, *, dtype: str, micro_batch: int, max_length: int) -> int:
    """What ``finetuning.finetune`` holds: weights, gradients and Adam's two moments in ``dtype``, and a micro-batch's activations.

    So 16 bytes per parameter in float32 and 8 in bfloat16. Activations are recomputed, so that of each layer its input is kept, in
    float32 (or ``dtype``), and the logits, as they are (2 bytes), in float32 and as log-probabilities; ``micro_batch`` examples of
    ``max_length`` tokens that all bear loss, the most there can be. One layer's own activations and fragmentation are not counted,
    nor, where ``micro_batch`` is the whole batch, that nothing is recomputed then.
    """
    text = size.config.get_text_config(decoder=True)
    inputs = text.hidden_size * text.num_hidden_layers * BYTES[dtype]
    return 4 * BYTES[dtype] * size.parameters + micro_batch * max_length * (inputs + 10 * text.vocab_size)
