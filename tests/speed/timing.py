"""Arms that are timed in turns, and a device's clock and measured ceilings."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from records import spread

Say = Callable[[str], None]


def device_here() -> torch.device:
    """The CUDA device, or the processor where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Run:
    """What one run of an arm did: its useful tokens, and those among them that were decoded after the prompts."""

    tokens: int
    result: Any = None
    setup: float = 0.0  # seconds that count in no rate
    decoded: int = 0
    decoding: float = 0.0  # seconds

    @classmethod
    def of(cls, rows: list[list[int]], **more: Any) -> Run:
        """The run that made these rows of tokens, all of them useful."""
        return cls(sum(map(len, rows)), rows, **more)


class Arm:
    """One way of doing the work: ``work`` makes its run number ``repeat``; ``record`` describes it."""

    def __init__(self, name: str, work: Callable[[int], Run], /, **record: Any):
        self.name, self.work, self.record, self.failed = name, work, record, False
        self.runs: list[Run] = []
        self.rates: list[float] = []  # useful tokens per second
        self.last, self.peak = 0.0, 0.0  # seconds of the last run, GiB

    def measure(self, device: torch.device) -> None:
        """Time one more run. An arm that has never fit into memory has failed; later it is one run less."""
        began = now(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            run = self.work(len(self.runs))
            self.rates.append(run.tokens / (now(device) - began - run.setup))
            self.runs.append(run)
        except torch.OutOfMemoryError:
            self.failed = not self.runs
        if device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device) / 2**30)
            gc.collect()
            torch.cuda.empty_cache()  # or one arm's fragments of memory would be the next one's
        self.last = now(device) - began

    def to_record(self) -> dict[str, Any]:
        """The arm as it is written: medians of tokens per second, of all tokens and of those after the prompts."""
        if self.failed:
            return self.record | {"repeats": 0, "failed": "out of memory"}
        record = self.record | {"repeats": len(self.runs)} | spread("rate", self.rates)
        record |= spread("decode_rate", [run.decoded / run.decoding for run in self.runs if run.decoding])
        setup = {"setup_seconds": round(max(run.setup for run in self.runs), 2)} if self.runs else {}
        return record | setup | ({"peak_gib": round(self.peak, 2)} if self.peak else {})


def run_rounds(
    groups: Sequence[Sequence[Arm]], *, device: torch.device, repeats: int, until: float = math.inf, say: Say = print
) -> None:
    """Run each arm until it has ``repeats`` runs: groups in order, arms of a group in turns, every other time back.

    Every arm runs once. A group that would not end before ``until`` (of ``time.perf_counter``) gets no further round.
    """
    for repeat in range(repeats):
        for group in groups:
            live = [arm for arm in group if not arm.failed and len(arm.runs) <= repeat]
            if repeat and time.perf_counter() + sum(arm.last for arm in live) > until:
                continue
            for arm in live[:: -1 if repeat % 2 else 1]:
                arm.measure(device)
                rate = f"{arm.rates[-1]:.4g} tokens/s" if arm.rates else "out of memory"
                say(f"{arm.name}: {rate} ({arm.last:.1f} s)")


def _seconds(work: Callable[[], Any], device: torch.device, *, times: int = 10) -> float:
    """Seconds of one ``work``: the median of 5 runs of ``times`` in a row, after one that does not count."""
    seconds = []
    for _ in range(6):
        began = now(device)
        for _ in range(times):
            work()
        seconds.append((now(device) - began) / times)
    return statistics.median(seconds[1:])


def measure_copy(n: int, *, device: torch.device) -> float:
    """Bandwidth of copying ``n`` bytes on the device, in bytes per second read and written."""
    source = torch.zeros(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n / _seconds(lambda: target.copy_(source), device)


def measure_product(size: int, *, device: torch.device) -> float:
    """FLOP/s of a bf16 product of two ``size`` x ``size`` matrices."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, device)
