"""The metrics file of a notebook: its schema, and writing and reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import read_record, write_json

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Headline(_Strict):
    """Which of the results is the main number."""

    arm: str
    metric: str


class Result(Headline):
    """An arm's value of a metric with its 95% interval."""

    value: Number
    low: Number
    high: Number
    n_seeds: Count
    n_prompts: Count


class PaperValue(Headline):
    """A value that a paper reports, and where it stands there."""

    value: Number
    source: str


class Beside(_Strict):
    """What of the paper's values is shown beside the main number where none is of its arm and metric."""

    metric: str
    arms: list[str]


class Manifest(BaseModel):
    """What of a manifest is read again; it may lack these, and hold more."""

    model_config = ConfigDict(strict=True, extra="allow")
    parameters: dict = {}
    packages: dict = {}
    commit: str = ""
    started: str = ""
    device: str = ""
    wall_seconds: Number = 0


class Metrics(_Strict):
    """A metrics file. ``parts`` are those of the claim's rule, and whether each was met: why a claim does not hold."""

    finding: Text
    claim: Text
    claim_holds: bool
    headline: Headline
    results: list[Result]
    paper: list[PaperValue]
    figures: list[str]
    manifest: Manifest
    beside: Beside = Field(default=None)
    parts: dict[str, bool] = {}
    details: dict = {}


def validate_metrics(record: Any, *, name: str) -> None:
    """Raise TacitError, saying where, unless ``record`` is a valid metrics record with ordered intervals.

    It must be what a JSON file in UTF-8 can hold: no NaN, no infinite number, no half of a surrogate pair.
    """
    try:
        json.dumps(record, allow_nan=False, ensure_ascii=False).encode("utf-8")
        Metrics.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its top"
        raise TacitError(f"{name} is not a metrics file: at {place}: {first['msg']}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise TacitError(f"{name} is not a metrics file: {error}") from None
    for row in record["results"]:
        if not row["low"] <= row["value"] <= row["high"]:
            raise TacitError(f"{name}: {row['arm']}, {row['metric']}: the value lies outside its interval")
    if find_result(record, **record["headline"]) is None:
        raise TacitError(f"{name}: its headline names no result: {record['headline']}")
    known = {(row["arm"], row["metric"]) for row in record["paper"]}
    for arm, metric in _named_beside(record):
        if (arm, metric) not in known:
            raise TacitError(f"{name}: its beside names no value of a paper: {metric}, {arm}")


def made_by() -> dict[str, str]:
    """What this process alone knows of how its numbers were made: the code that it imported, its device and threads."""
    return {"library_sha256": provenance.library_hash(), "device": provenance.device_name()}


def write_metrics(path: str | Path, record: dict) -> None:
    """Validate ``record`` (its ``manifest`` may still be missing) and write it whole or not at all.

    Raises TacitError as ``validate_metrics`` does, and then writes nothing.
    """
    if "manifest" not in record:
        record = record | {"manifest": made_by()}
    validate_metrics(record, name=Path(path).name)
    write_json(path, record)


def read_metrics(path: str | Path) -> dict:
    """Read and validate a metrics file; raises TacitError when it is missing or malformed."""
    return read_record(Path(path), what="metrics", validate=validate_metrics)


def describe_result(row: Mapping[str, Any]) -> str:
    """A result row in one line: metric, arm, value and 95% interval."""
    return f"{row['metric']}, {row['arm']}: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def paper_beside(record: dict) -> list[dict]:
    """The papers' values to read beside the main number: those of its arm and metric, else those of ``beside``."""
    main = [(record["headline"]["arm"], record["headline"]["metric"])]
    same, other = (
        [row for row in record["paper"] if (row["arm"], row["metric"]) in wanted]
        for wanted in (main, _named_beside(record))
    )
    return same or other


def _named_beside(record: dict) -> list[tuple[str, str]]:
    beside = record.get("beside")
    return [(arm, beside["metric"]) for arm in beside["arms"]] if beside else []


def find_result(record: dict, *, arm: str, metric: str) -> dict | None:
    """The result row of one arm and metric, or None."""
    return next((r for r in record["results"] if r["arm"] == arm and r["metric"] == metric), None)
