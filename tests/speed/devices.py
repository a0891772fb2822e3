"""What the GPU benchmarks of decoding and of training share: the papers' shapes, a clock, and a device's measured ceilings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

LLAMA2_7B = {  # meta-llama/Llama-2-7b-hf's config.json
    "vocab_size": 32_000,
    "hidden_size": 4_096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4_096,
    "rms_norm_eps": 1e-5,
}
LLAMA31_8B = LLAMA2_7B | {  # meta-llama/Llama-3.1-8B's
    "vocab_size": 128_256,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def now(device: torch.device) -> float:
    """Seconds, after what the device has still to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _median(work: Callable[[], Any], device: torch.device, *, times: int = 10) -> float:
    """Seconds of one ``work``: the median of 5 runs of ``times`` in a row, after one unmeasured."""
    seconds = []
    for _ in range(6):
        began = now(device)
        for _ in range(times):
            work()
        seconds.append((now(device) - began) / times)
    return statistics.median(seconds[1:])


def measure_copy(n: int, *, device: torch.device) -> float:
    """Bandwidth of copying ``n`` bytes on the device, bytes per second read and written."""
    source = torch.zeros(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n / _median(lambda: target.copy_(source), device)


def measure_product(size: int, *, device: torch.device) -> float:
    """FLOP/s of a bf16 product of two ``size`` x ``size`` matrices."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _median(lambda: a @ b, device)
