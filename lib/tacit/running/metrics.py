"""The metrics file of a notebook: its schema, and writing and reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tacit.scoring.verdicts import Demand, conclude, find_deciding, read_demand
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


class DemandRecord(Headline):
    """A part of a rule: the whole interval of the result of this arm and metric lies on a side of the threshold."""

    threshold: Number
    side: Literal["above", "below"]


class Answer(_Strict):
    """The answer of a finding in sentences: what was found, the main reason, the main caveat."""

    found: Text
    reason: Text
    caveat: Text


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
    """A metrics file. Its verdict follows from ``rule`` and ``controls``, demands on its results (``check_verdict``).

    A record without a rule says ``claim_holds``, and in ``parts`` which parts of the claim's rule were met.
    """

    finding: Text
    claim: Text
    headline: Headline
    results: list[Result]
    paper: list[PaperValue]
    figures: list[str]
    manifest: Manifest
    verdict: Text = Field(default=None)
    rule: Annotated[list[DemandRecord], Field(min_length=1)] = Field(default=None)
    controls: list[DemandRecord] = []
    at_least: Count = Field(default=None)
    answer: Answer = Field(default=None)
    claim_holds: bool = Field(default=None)
    parts: dict[str, bool] = {}
    beside: Beside = Field(default=None)
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
    check_verdict(record, name=name)
    known = {(row["arm"], row["metric"]) for row in record["paper"]}
    for arm, metric in _named_beside(record):
        if (arm, metric) not in known:
            raise TacitError(f"{name}: its beside names no value of a paper: {metric}, {arm}")


def check_verdict(record: Mapping[str, Any], *, name: str) -> None:
    """Raise TacitError unless a record's verdict and headline are those that its rule gives for its results.

    A record has a rule with verdict and answer, or ``claim_holds``.
    """
    if "rule" not in record:
        if "claim_holds" not in record or any(record.get(key) for key in ("verdict", "answer", "controls", "at_least")):
            raise TacitError(f"{name}: it needs rule, verdict and answer, or claim_holds")
        return
    missing = [key for key in ("verdict", "answer") if key not in record]
    if missing or "claim_holds" in record:
        wrong = f"no {missing[0]}" if missing else "claim_holds too"
        raise TacitError(f"{name}: it has a rule and {wrong}: give rule, verdict and answer")
    try:
        true = conclude(*read_demands(record, name=name), at_least=record.get("at_least"))
    except ValueError as error:
        raise TacitError(f"{name}: {error}") from None
    for key in ("verdict", "headline"):
        if record[key] != true[key]:
            raise TacitError(f"{name}: its {key} is {record[key]}, but its rule and results give {true[key]}")


def read_demands(record: Mapping[str, Any], *, name: str = "the record") -> tuple[list[Demand], list[Demand]]:
    """The demands of a record's rule and its positive controls, with their estimates from its results.

    Raises TacitError, calling the record ``name``, for a demand on what is no result. Both are empty without a rule.
    """
    read: list[list[Demand]] = []
    for key in ("rule", "controls"):
        read.append([])
        for part in record.get(key, []):
            row = find_result(record, arm=part["arm"], metric=part["metric"])
            if row is None:
                raise TacitError(f"{name}: its {key} names no result: {part['metric']}, {part['arm']}")
            read[-1].append(read_demand(part, row))
    return read[0], read[1]


def verdict_of(record: Mapping[str, Any]) -> str:
    """A record's verdict in words: one of ``scoring.verdicts.VERDICTS``, or ``yes``/``no`` where it has no rule."""
    return record["verdict"] if "rule" in record else "yes" if record["claim_holds"] else "no"


def describe_main(record: Mapping[str, Any]) -> str:
    """The main number in a line: metric, arm, value, interval, and the threshold that it is held against."""
    if "rule" in record:
        return find_deciding(*read_demands(record), at_least=record.get("at_least")).sentence()
    return describe_result(find_result(record, **record["headline"]))


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
    return f"{row['metric']}, {row['arm']}: {row['value']:z.3f} [{row['low']:z.3f}, {row['high']:z.3f}]"


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
