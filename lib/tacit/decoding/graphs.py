"""Fewer kernel launches for a step of decoding: a CUDA graph that replays it, and norms of one kernel each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tacit.support.errors import TacitError

NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Olmo2RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # weight x normed input


def capture_graph(step: Callable[[], None], *, state: Sequence[Tensor], pool: tuple[int, int]) -> torch.cuda.CUDAGraph:
    """The graph of ``step``, which works in place. The tensors of ``state``, on one GPU, are left as they were.

    Two steps run before it on a side stream, so that libraries set themselves up. Raises TacitError for a step that
    cannot be captured.
    """
    before = [tensor.clone() for tensor in state]
    with torch.cuda.device(state[0].device):
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise TacitError(
                f"a step of these models does not go into a CUDA graph: {error}; "
                "decode them by generate: pass make_processors=lambda mask: []"
            ) from error
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
    return graph


def _rms_norm(module: torch.nn.Module, hidden: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)


@contextmanager
def fused_norms(parts: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Compute the models' RMS norms by torch's own function while the context lasts: on a GPU one kernel, not eight.

    The results are equal up to rounding: in half precision torch rounds once where transformers rounds twice.
    """
    norms = [module for part in parts for module in part.modules() if type(module).__name__ in NORMS]
    for module in norms:
        module.forward = partial(_rms_norm, module)
    try:
        yield
    finally:
        for module in norms:
            del module.forward  # the class's own again
