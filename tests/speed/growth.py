"""What a synthesis costs as it grows: the engine's own time and memory, measured without models.

``python tests/speed/growth.py`` writes ``outputs/scaling/engine.json`` and the table of ``docs/many_machines.md``. It
says nothing about how fast a model decodes: that is measured by the benches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import records
from tacit.running.tables import replace_between, table_row
from tacit.support import paths
from tacit.support.files import write_json
from tacit.support.keyed import fingerprint
from tacit.synthesis import shards
from tacit.synthesis.rows import read_rows, write_rows

STAGES = ("read", "key", "write", "check", "gather")


def _peak_bytes() -> int:
    """The process's largest resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def measure_engine(n: int, *, folder: Path, shard_size: int = 512, words: int = 60) -> dict[str, Any]:
    """Seconds and peak bytes of what the engine does around decoding, for ``n`` rows of ``words`` words each.

    Stages: ``read`` instructions into rows, ``key`` their shards, ``write`` shards and records, ``check`` every hash
    as a second run does, ``gather`` the dataset into memory as ``synthesize`` returns it. ``bytes`` is the process's
    peak after each stage less what it was before the first, so each size needs a process of its own. Files stay in
    ``folder``.
    """
    start, before, seconds, peaks = time.perf_counter(), _peak_bytes(), {}, {}

    def end(stage: str) -> None:
        nonlocal start
        seconds[stage], peaks[stage] = time.perf_counter() - start, _peak_bytes() - before
        start = time.perf_counter()

    rows = read_rows({"id": i, "instruction": f"Tell me about number {i}, in a few sentences."} for i in range(n))
    end("read")
    parts = shards.Shards(folder, shards.row_keys(rows, size=shard_size), fingerprint(rows))
    end("key")
    common = {"finish_reason": "eos", "prompt_tokens": 20, "response_tokens": words, "mean_log_ratio": 0.0}
    text = "word " * words
    with shards.hold(folder):
        shards.settle(folder, {"rows": parts.run}, shard_size=shard_size, card="measured", made_with={})
        for index in range(len(parts.keys)):
            part = rows[index * shard_size : (index + 1) * shard_size]
            responses = [{"id": i, "instruction": ask, "response": f"{text}{i}"} | common for i, ask in part]
            write_rows(parts, index, responses)
        parts.show()
        end("write")
        faults = parts.faults()
        end("check")
        table = pa.concat_tables([pq.read_table(path) for path in parts.files()])
        end("gather")
    return {"rows": n, "seconds": seconds, "bytes": peaks, "faults": len(faults), "gathered": table.num_rows}


def _measure_in_folder(n: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return measure_engine(n, folder=Path(folder) / "out")


def measure_growth(sizes: Sequence[int], *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """``measure_engine`` at each of ``sizes``, one fresh process each, with what it was measured on."""
    rows = []
    for n in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(_measure_in_folder, (n,)))
        peak = max(rows[-1]["bytes"].values()) / 2**20
        say(f"{n} rows: {sum(rows[-1]['seconds'].values()):.1f} s, at most {peak:.0f} MiB")
    return records.heading(what="the engine without models", sizes=rows)


def growth_table(growth: dict[str, Any]) -> str:
    """``measure_growth``'s record as a Markdown table."""
    lines = [table_row(["rows", "seconds", *STAGES, "peak MiB"]), "|---" * (len(STAGES) + 3) + "|"]
    for size in growth["sizes"]:
        seconds = [size["seconds"][stage] for stage in STAGES]
        peak = f"{max(size['bytes'].values()) / 2**20:,.0f}"
        lines.append(table_row([f"{size['rows']:,}", f"{sum(seconds):.1f}", *(f"{s:.2f}" for s in seconds), peak]))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure the sizes of the command line; the simulated fleets that the file holds stay in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000], metavar="ROWS")
    options = parser.parse_args(arguments)
    path, page = paths.OUTPUTS / "scaling" / "engine.json", paths.ROOT / "docs" / "many_machines.md"
    record = json.loads(path.read_text("utf-8")) | {"growth": measure_growth(options.sizes)}
    write_json(path, record)
    replace_between(page, "<!-- growth -->", "<!-- /growth -->", growth_table(record["growth"]))
    print(f"written: {path} and {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
