"""Configurations of the profiles' models, written by hand (no hub was asked), and how many parameters they have."""

from transformers import (
    BertConfig,
    Gemma3Config,
    LlamaConfig,
    OlmoConfig,
    Qwen2Config,
    Qwen3Config,
)

LLAMA_3 = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
QWEN_3 = Qwen3Config(
    vocab_size=151_936,
    hidden_size=4096,
    intermediate_size=12_288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
)
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}


def gemma_3(**text):
    shared = {"vocab_size": 262_208, "sliding_window": 1024, "sliding_window_pattern": 6}
    return Gemma3Config(text_config=shared | text, vision_config=SIGLIP, mm_tokens_per_image=256)


SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
SMOLLM2_360M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=960,
    intermediate_size=2560,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
GEMMA_3_27B = gemma_3(
    hidden_size=5376,
    intermediate_size=21_504,
    num_hidden_layers=62,
    num_attention_heads=32,
    num_key_value_heads=16,
    head_dim=128,
)
CONFIGS = {
    "meta-llama/Llama-2-7b-hf": LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
    ),
    "allenai/OLMo-7B-hf": OlmoConfig(
        vocab_size=50_304,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
    ),
    "meta-llama/Llama-3.1-8B": LLAMA_3,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3,
    "Qwen/Qwen3-8B": QWEN_3,
    "Qwen/Qwen3-8B-Base": QWEN_3,
    "google/gemma-3-27b-it": GEMMA_3_27B,
    "google/gemma-3-27b-pt": GEMMA_3_27B,
    "google/gemma-3-4b-pt": gemma_3(
        hidden_size=2560,
        intermediate_size=10_240,
        num_hidden_layers=34,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    ),
    "Qwen/Qwen2.5-7B-Instruct": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "Qwen/Qwen2.5-0.5B": Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "HuggingFaceTB/SmolLM2-135M": SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-360M": SMOLLM2_360M,
    "HuggingFaceTB/SmolLM2-360M-Instruct": SMOLLM2_360M,
    "sentence-transformers/all-MiniLM-L6-v2": BertConfig(
        vocab_size=30_522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12
    ),
}
PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "google/gemma-3-27b-it": 27_432_406_640,
    "google/gemma-3-4b-pt": 4_300_079_472,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
}
