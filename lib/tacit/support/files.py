"""Files that are there whole or not at all, JSON records read and checked, and strict YAML."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tacit.support.errors import TacitError


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 so that it holds all of ``text``, or what it held before if writing fails."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON value whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path, *, validate: Callable[..., None], what: str = "") -> dict[str, Any]:
    """Read a JSON record and ``validate(record, name=...)`` it; raises TacitError for a file that cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TacitError(f"cannot read {what + ' ' if what else ''}{path}: {error}") from None
    validate(record, name=str(path))
    return record


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key that stands twice, instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, as SafeLoader makes it; raises ConstructorError for a repeated key."""
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        twice = next((key for key, _ in node.value if keys.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice.value!r} stands twice", twice.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError, saying why, where it has none or a key stands twice."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except Exception as error:  # a date with a 13th month, a tag without its kind of value: many kinds, one meaning
        raise ValueError(f"{type(error).__name__}: {error}") from None
