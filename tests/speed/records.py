"""The small records that all benchmarks write: a heading, arms with their spread, and targets that are met or not."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.support import files, paths, provenance
from tacit.support.errors import TacitError


def heading(**more: Any) -> dict[str, Any]:
    """What was measured on, at which commit and when; ``more`` comes after the device."""
    made = {"commit": provenance.commit(), "dirty": provenance.dirty(), "library_sha256": provenance.library_hash()}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"device": provenance.device_name(), **more, **made, "packages": provenance.packages(), "started": started}


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median of ``values`` as ``name`` with the least and the most, to five digits; nothing without values."""
    if not values:
        return {}
    ends = {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    return {key: float(f"{value:.5g}") for key, value in ends.items()}


def ratios(fast: Sequence[float], slow: Sequence[float]) -> dict[str, float]:
    """The spread of ``ratio``, how many times as fast an arm was as another, run by run."""
    return spread("ratio", [a / b for a, b in zip(fast, slow, strict=False)])  # one may have run out of memory later


def judge(value: float, target: float, bound: str = "at least") -> dict[str, Any]:
    """The target with the answer whether ``value`` meets it; ``bound`` is "at least" or "at most"."""
    return {"target": target, "bound": bound, "met": value <= target if bound == "at most" else value >= target}


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a record, itself included."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(part)


def validate(record: Any, *, name: str) -> None:
    """Raise TacitError unless the heading is there, each value lies in its range and each ``met`` is true."""
    absent = {"device", "commit", "packages", "started"} - set(record if isinstance(record, dict) else ())
    if absent:
        raise TacitError(f"{name} is no record of a benchmark: it has no {', '.join(sorted(absent))}")
    for part in _parts(record):
        for key in [key for key in part if f"{key}_min" in part]:
            if not 0 < part[f"{key}_min"] <= part[key] <= part[f"{key}_max"]:
                raise TacitError(f"{name}: {part.get('name', key)}: {key} lies outside its range")
        value = part.get("ratio", part.get("value"))
        if (
            part.get("met") is not None
            and judge(value, part["target"], part.get("bound", "at least"))["met"] != part["met"]
        ):
            raise TacitError(f"{name}: {part['name']}: `met` does not say what value and target say")


def write(path: Path, record: dict[str, Any]) -> Path:
    """Validate ``record`` and write it whole or not at all."""
    validate(record, name=path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, record)
    return path


def read(path: Path) -> dict[str, Any]:
    """Read and validate a record; raises TacitError when it is missing or malformed."""
    return files.read_record(path, validate=validate)


def device_slug() -> str:
    """``cpu``, or the accelerator's name as a file name."""
    import torch  # takes seconds, for which scripts that only read records need not wait

    return re.sub(r"[^a-z0-9]+", "-", provenance.device_name().lower()) if torch.cuda.is_available() else "cpu"


def folder(*, dry: bool) -> Path:
    """``outputs/bench``; for runs that measure nothing a folder of the cache."""
    return paths.cache_root() / "bench" if dry else paths.OUTPUTS / "bench"


def run_script(work: Callable[[], Path], *, dry: bool) -> int:
    """A script's exit status: 0 once ``work`` has written its record, 2 after an error that is printed."""
    try:
        path = work()
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}" + (" (a dry run measures nothing)" if dry else ""))
    return 0
