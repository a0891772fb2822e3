"""Files that are there whole or not at all, JSON records read and checked, and strict YAML."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tacit.support import paths
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


def check_room(folder: str | Path, *, n_bytes: int = 0) -> None:
    """Raise TacitError unless ``folder``, which need not exist, can be written to and its disk has ``n_bytes`` free.

    Tries it in the nearest folder above that exists. What else fills the disk meanwhile is not foreseen.
    """
    near: Path | str = "its name"
    try:
        near = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=near).close()
        free = shutil.disk_usage(near).free
    except (OSError, ValueError) as error:  # ValueError: a null character
        why = getattr(error, "strerror", None) or error
        raise TacitError(f"cannot write to {folder}: {why} ({near}); choose another folder") from None
    if free < n_bytes:
        raise TacitError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free, and {n_bytes / 1e9:.1f} GB are needed: make room, or "
            "choose another folder"
        )


def read_text(path: str | Path, *, what: str = "") -> str:
    """A text file in UTF-8 (found by ``paths.resolve``), without a byte order mark.

    Raises TacitError, calling it ``what``, if it cannot be read.
    """
    try:
        return paths.resolve(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = f"{error.strerror} ({paths.searched(path)})" if isinstance(error, OSError) else error
        raise TacitError(f"cannot read {what + ' ' if what else ''}{path}: {why}") from None


def read_rows(
    path: str | Path, schema: dict[str, Any], *, what: str, wrong: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file that fit a JSON ``schema``, each with its place, such as ``rows.jsonl, line 3``.

    Blank lines are passed over. Raises TacitError as ``read_text`` does, and for a line that is not JSON or does not
    fit: its place is ``wrong``, such as "no question".
    """
    import jsonschema  # not where a command only starts

    for number, line in enumerate(read_text(path, what=what).split("\n"), start=1):  # not at a text's U+2028
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            jsonschema.validate(row, schema)
        except ValueError as error:
            raise TacitError(f"{place}, is not JSON: {error}") from None
        except jsonschema.ValidationError as error:
            raise TacitError(f"{place}, is {wrong}: at {error.json_path}: {error.message}") from None
        yield place, row


def check_profile_name(name: str) -> str:
    """``name``; raises TacitError unless it is that of a folder here, and no path to another."""
    if Path(name).name != name or name.startswith(".") or not name.strip():
        raise TacitError(f"profile {name!r}: this is not the plain name of a folder, such as micro")
    return name


def read_record(path: Path, *, validate: Callable[..., None], what: str = "") -> dict[str, Any]:
    """Read a JSON record and ``validate(record, name=...)`` it; raises TacitError for a file that cannot be read."""
    try:
        record = json.loads(read_text(path, what=what))
    except (ValueError, RecursionError) as error:
        raise TacitError(f"cannot read {what + ' ' if what else ''}{path}: {error}") from None
    validate(record, name=str(path))
    return record


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key that stands twice, instead of taking the last, and 010, instead of taking it for 8."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, as SafeLoader makes it; raises ConstructorError for a repeated key."""
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        twice = next((key for key, _ in node.value if keys.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice.value!r} stands twice", twice.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """A number, as SafeLoader makes it; raises ConstructorError for what YAML 1.1 reads to base 8 or 60."""
        if ":" in node.value or re.match(r"[-+]?0[0-7_]", node.value):
            problem = f"{node.value} is no plain number: write it without leading zeros, or as a text in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_yaml_int(node) if node.tag.endswith("int") else super().construct_yaml_float(node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _UniqueKeys.add_constructor(_tag, _UniqueKeys.construct_number)


def read_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError, saying why, where it has none or a key stands twice."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except Exception as error:  # a date with a 13th month, a tag without its kind of value: many kinds, one meaning
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
