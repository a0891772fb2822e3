"""The papers' model shapes, whose weights are drawn here, and a tiny one for dry runs."""

_LAYERS = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4_096, "rms_norm_eps": 1e-5}
LLAMA2_7B = _LAYERS | {  # meta-llama/Llama-2-7b-hf's config.json
    "vocab_size": 32_000,
    "intermediate_size": 11_008,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4_096,
}
_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA31_8B = _LAYERS | {  # meta-llama/Llama-3.1-8B's
    "vocab_size": 128_256,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_parameters": _ROPE | {"original_max_position_embeddings": 8192},
}
TINY = {"vocab_size": 307, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
