"""What a synthesis costs as it grows: the engine's own time and memory, measured without models, and a fleet's time, simulated.

Neither says anything about how fast a model decodes: tokens per second are measured by the benches, and given here.
"""

from __future__ import annotations

import heapq
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tacit.running.tables import replace_between
from tacit.support import provenance
from tacit.support.files import write_json
from tacit.support.keyed import fingerprint
from tacit.synthesis import shards
from tacit.synthesis.engine import read_rows, write_rows

STAGES = ("read", "key", "write", "check", "gather")


def _peak_bytes() -> int:
    """The process's largest resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def measure_engine(n: int, *, folder: Path, shard_size: int = 512, words: int = 60) -> dict[str, Any]:
    """Seconds and peak bytes of what the engine does around decoding, for ``n`` rows whose responses have ``words`` words.

    Stages: ``read`` instructions into rows, ``key`` their shards, ``write`` shards and records, ``check`` every hash as a second run does, ``gather``
    the dataset into memory as ``synthesize`` returns it. ``bytes`` is the process's peak after each stage less what it was before the
    first; so measure each size in a process of its own. Files go to ``folder`` and stay there.
    """
    start, before, seconds, peaks = time.perf_counter(), _peak_bytes(), {}, {}

    def done(stage: str) -> None:
        nonlocal start
        seconds[stage], peaks[stage] = time.perf_counter() - start, _peak_bytes() - before
        start = time.perf_counter()

    rows = read_rows({"id": i, "instruction": f"Tell me about number {i}, in a few sentences."} for i in range(n))
    done("read")
    keys, run = shards.row_keys(rows, size=shard_size), fingerprint(rows)
    done("key")
    text = "word " * words
    with shards.hold(folder):
        shards.settle(folder, {"rows": run}, shard_size=shard_size, card="measured", made_with={})
        for index in range(len(keys)):
            part = rows[index * shard_size : (index + 1) * shard_size]
            counts = {"prompt_tokens": 20, "response_tokens": words, "mean_log_ratio": 0.0}
            made = [
                {"id": a, "instruction": b, "response": f"{text}{a}", "finish_reason": "eos"} | counts for a, b in part
            ]
            write_rows(folder, index, made, keys=keys, run=run)
        shards.show(folder)
        done("write")
        faults = shards.find_faults(folder, rows=keys, run=run)
        done("check")
        table = pa.concat_tables([pq.read_table(path) for path in shards.shard_files(folder, len(keys))])
        done("gather")
    return {"rows": n, "seconds": seconds, "bytes": peaks, "faults": len(faults), "gathered": table.num_rows}


def _measure_in_folder(n: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return measure_engine(n, folder=Path(folder) / "out")


def measure_growth(sizes: Sequence[int], *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """``measure_engine`` at each of ``sizes``, one fresh process each, with what it was measured on.

    Adds ``per_row`` of the largest: seconds and bytes of each stage over its rows, the slopes that a plan can be made with.
    """
    found = []
    for n in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_measure_in_folder, (n,)))
        row = found[-1]
        say(f"{n} rows: {sum(row['seconds'].values()):.1f} s, at most {max(row['bytes'].values()) / 2**20:.0f} MiB")
    last = found[-1]
    slopes = {kind: {stage: last[kind][stage] / last["rows"] for stage in STAGES} for kind in ("seconds", "bytes")}
    made = {"device": provenance.device_name(), "packages": provenance.packages()}
    return {"what": "the engine without models", "sizes": found, "per_row": slopes, **made}


def simulate_fleet(
    *,
    rows: int,
    tokens_per_row: float,
    tokens_per_second: float,
    workers: int,
    deaths_per_hour: float = 0.0,
    restart_seconds: float = 300.0,
    shard_size: int = 512,
    seed: int = 0,
) -> dict[str, float]:
    """How long ``workers`` take for ``rows`` responses when each dies by chance, and how much decoding is lost by it.

    A worker takes shards of ``shard_size`` rows one after the other, ``tokens_per_second`` useful tokens each. Deaths come at
    ``deaths_per_hour`` per worker (exponential); the shard at work is lost and made again from its beginning by whoever is free, and the worker is back after
    ``restart_seconds``, which is what the first start costs too. Returns ``hours`` until the last shard is there, ``worker_hours``
    (workers times that), ``decoding_hours`` (without loss, all workers together) and ``lost``, the share of the decoding that was lost. Not simulated: shared file systems, stragglers,
    Ray's own limits. Raises ValueError for a shard that is hardly ever finished before a death.
    """
    shard_seconds = shard_size * tokens_per_row / tokens_per_second
    rate = deaths_per_hour / 3600
    if rate * shard_seconds > 3:
        raise ValueError(
            f"a shard takes {shard_seconds / 3600:.2f} hours and a worker lives {1 / deaths_per_hour:.2f}: use smaller shards"
        )
    rng = np.random.default_rng(seed)
    full, rest = divmod(rows, shard_size)
    todo = [shard_seconds] * full + [shard_seconds * rest / shard_size] * bool(rest)
    free = [(restart_seconds, i) for i in range(workers)]
    heapq.heapify(free)
    lost = end = 0.0
    waiting: list[tuple[float, float]] = []  # (when its worker died, seconds of decoding) of shards to be made again
    while todo or waiting:
        now, worker = heapq.heappop(free)
        if waiting and (waiting[0][0] <= now or not todo):
            died, needs = heapq.heappop(waiting)
            now = max(now, died)
        else:
            needs = todo.pop()
        lives = rng.exponential(1 / rate) if rate else np.inf  # exponential: however long it has lived before
        if lives < needs:
            lost += lives
            heapq.heappush(waiting, (now + lives, needs))
            heapq.heappush(free, (now + lives + restart_seconds, worker))
        else:
            end = max(end, now + needs)
            heapq.heappush(free, (now + needs, worker))
    decoding = rows * tokens_per_row / tokens_per_second
    return {
        "hours": end / 3600,
        "worker_hours": workers * end / 3600,
        "decoding_hours": decoding / 3600,
        "lost": lost / (decoding + lost),
    }


FLEETS = {  # what the plan past one machine is made with: a pair of Llama-3.1-8B's shape
    "tokens_per_row": 400.0,  # assumed
    "tokens_per_second": 8_141.0,  # 0.7 of the computed roofline of an H200, 11,630 at 128 rows of 512 tokens
    "deaths_per_hour": 0.1,  # assumed, and pessimistic: each worker dies every ten hours
    "shard_size": 256,
}
PLANS = [(1_000, 1), (250_333, 8), (250_333, 32), (10_000_000, 32), (100_000_000, 128)]  # rows, workers


def write_scaling(path: Path, *, sizes: Sequence[int], say: Callable[[str], None] = print) -> Path:
    """Measure the engine at ``sizes``, simulate the fleets of ``PLANS``, and write both as JSON."""
    growth = measure_growth(sizes, say=say)
    fleets = [
        {"rows": rows, "workers": workers} | simulate_fleet(rows=rows, workers=workers, **FLEETS)
        for rows, workers in PLANS
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"growth": growth, "assumed": FLEETS, "fleets": fleets})
    return path


def write_scaling_tables(page: Path, record: dict[str, Any]) -> None:
    """Put ``write_scaling``'s record into ``page`` as two Markdown tables, between its markers ``growth`` and ``fleet``."""
    rows = ["| rows | seconds | " + " | ".join(STAGES) + " | peak MiB |", "|---" * (len(STAGES) + 3) + "|"]
    for size in record["growth"]["sizes"]:
        seconds = size["seconds"]
        cells = [f"{size['rows']:,}", f"{sum(seconds.values()):.1f}", *(f"{seconds[stage]:.2f}" for stage in STAGES)]
        rows.append(f"| {' | '.join(cells)} | {max(size['bytes'].values()) / 2**20:,.0f} |")
    replace_between(page, "<!-- growth -->", "<!-- /growth -->", "\n".join(rows))
    rows = ["| responses | GPUs | hours | GPU hours | of them lost to deaths |", "|---|---|---|---|---|"]
    for fleet in record["fleets"]:
        cells = [f"{fleet['rows']:,}", f"{fleet['workers']}", f"{fleet['hours']:.2f}", f"{fleet['worker_hours']:,.1f}"]
        rows.append(f"| {' | '.join(cells)} | {fleet['lost']:.3%} |")
    replace_between(page, "<!-- fleet -->", "<!-- /fleet -->", "\n".join(rows))
