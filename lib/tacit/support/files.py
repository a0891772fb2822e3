"""Files that are there whole or not at all, and JSON records read and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from tacit.support.errors import TacitError

Validate = Callable[..., None]  # of a record and its ``name``


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file so that it is either there with all of ``text`` or as it was, in UTF-8.

    What a full disk or an interrupt leaves half-written beside it is removed.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_schema(record: Any, schema: dict[str, Any], *, name: str, what: str) -> None:
    """Raise TacitError, saying where, unless ``record``, read from ``name``, is ``what`` the JSON schema describes."""
    try:
        jsonschema.validate(record, schema)
    except jsonschema.ValidationError as error:
        raise TacitError(f"{name} is not {what}: at {error.json_path}: {error.message}") from None


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON value whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, record: dict[str, Any], *, validate: Validate) -> Path:
    """Write ``record`` whole or not at all, after ``validate(record, name=...)``, into a folder that is made for it."""
    validate(record, name=path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return path


def read_record(path: Path, *, validate: Validate, what: str = "") -> dict[str, Any]:
    """Read a JSON record and ``validate(record, name=...)`` it; raises TacitError, also for a file that is missing or no JSON."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TacitError(f"cannot read {what + ' ' if what else ''}{path}: {error}") from None
    validate(record, name=str(path))
    return record
