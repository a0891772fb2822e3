"""The files of a dataset that is made in shards over several runs: written whole, checked by hash, shown only when complete.

| path in the folder | what |
|---|---|
| README.md | the card; it names data/train-* as the only data, so that ``load_dataset`` takes nothing else for it |
| synthesis.json | the parameters, written before the first shard, and the environments that made the shards |
| data/train-00000-of-00007.parquet, ... | all shards; the folder ``data`` comes by one rename, never partly filled |
| .synthesis/ | ``data`` as long as a shard is missing, a record of each shard's hash and environment, the lock, files being written |
| .synthesis/card.md | the card as it was before a shard had to be made again, unless it became the card again |

A file is written beside and renamed, after its content is on disk; a shard counts only with its record, which is written after
it. A process may therefore be killed anywhere. This module knows no models and no columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint
from tacit.support.provenance import file_hash

HIDDEN = ".synthesis"


def shard_name(index: int, n: int) -> str:
    """The file name of shard ``index`` of ``n``, as ``datasets`` names them."""
    return f"train-{index:05d}-of-{n:05d}.parquet"


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TacitError(f"cannot write to {out}: {error} (finished shards are kept)") from error


def _sync(folder: Path) -> None:
    """Make renames in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(out: Path, name: str, content: bytes) -> None:
    """Write ``out``/``name`` so that it is either there with all of ``content`` or as it was.

    ``out`` must be one that ``hold`` has made. Raises TacitError when it cannot be written, as on a full disk.
    """
    temporary = out / HIDDEN / f"{uuid.uuid4().hex}.tmp"
    with _explained(out):
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out / name)
        _sync((out / name).parent)


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Make the folder ``out`` or take an earlier run's, and keep other processes out of it meanwhile.

    Files that a killed run was writing are removed. Raises TacitError for a folder that holds something else, that
    another process is at work in, or that cannot be written.
    """
    with _explained(out):
        if out.is_dir() and any(out.iterdir()) and not (out / HIDDEN).is_dir():
            raise TacitError(f"{out} is not empty and no synthesis made it here: choose another --out or empty it")
        for folder in ("records", "data"):
            (out / HIDDEN / folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / HIDDEN / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TacitError(f"another process is at work in {out}: wait for it or stop it") from None
    try:
        _remove_temporary(out)
        yield
    finally:
        lock.release()


def _remove_temporary(out: Path) -> None:
    with _explained(out):
        for path in (out / HIDDEN).glob("*.tmp"):
            path.unlink(missing_ok=True)


def _write_settings(out: Path, record: dict[str, Any]) -> None:
    write_whole(out, "synthesis.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def cover(out: Path, card: str) -> None:
    """Put the unfinished folder's ``card`` in the place of another one, which is set aside for ``covered``.

    Raises TacitError when the folder cannot be read or written.
    """
    path = out / "README.md"
    with _explained(out):
        old = path.read_bytes() if path.exists() else card.encode()
    if old != card.encode():
        write_whole(out, f"{HIDDEN}/card.md", old)
    write_whole(out, path.name, card.encode())


def covered(out: Path) -> str | None:
    """The card that ``cover`` set aside, or None; bytes in it that are no UTF-8 are replaced. Raises TacitError when it cannot be read."""
    path = out / HIDDEN / "card.md"
    with _explained(out):
        return path.read_bytes().decode("utf-8", errors="replace") if path.exists() else None


def uncover(out: Path, card: str) -> None:
    """Write the finished folder's ``card``; the one set aside is removed if it is the same.

    Raises TacitError when the folder cannot be read or written.
    """
    write_whole(out, "README.md", card.encode())
    if covered(out) == card:
        with _explained(out):
            (out / HIDDEN / "card.md").unlink()


def settle(out: Path, parameters: dict[str, Any], *, shard_size: int, card: str, made_with: dict[str, str]) -> int:
    """Note ``parameters`` in a folder without shards, or compare them with those noted; returns the folder's rows per shard.

    The rows per shard of shards that are there stay, unless they are among the parameters. ``card`` is written first. Raises TacitError, naming the first
    parameter that differs from the folder's, and when the folder's cannot be read or written.
    """
    path = out / "synthesis.json"
    if not path.exists() or not any((out / HIDDEN / "records").iterdir()):
        cover(out, card)
        _write_settings(out, {"parameters": parameters, "shard_size": shard_size, "made_with": [made_with]})
        return shard_size
    try:
        record = json.loads(path.read_text("utf-8"))
        found, size = dict(record["parameters"]), int(record["shard_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TacitError(f"cannot read {path} ({error!r:.120}): choose another --out or delete the folder") from None
    for name in parameters | found:
        ours, theirs = (values.get(name, "of another version") for values in (parameters, found))
        if ours != theirs:
            raise TacitError(
                f"{out} holds a synthesis with {name} {theirs!s:.80}, not {ours!s:.80}: choose another --out or delete it"
            )
    return size


def _data(out: Path) -> Path:
    """Where the shards lie now."""
    return out / "data" if (out / "data").is_dir() else out / HIDDEN / "data"


def shard_files(out: Path, n: int) -> list[Path]:
    """The shards' paths, in order."""
    return [_data(out) / shard_name(index, n) for index in range(n)]


def environments(out: Path, indices: Iterable[int]) -> list[dict[str, str]]:
    """What made these shards, each once, in the order of ``indices``: as noted with each, else with the parameters.

    Raises TacitError for records that cannot be read.
    """
    found: list[dict[str, str]] = []
    try:
        noted = json.loads((out / "synthesis.json").read_text("utf-8")).get("made_with", [])
        noted = (
            noted if isinstance(noted, list) else [noted]
        )  # one of an earlier version, which noted none with a shard
        for index in indices:
            made = json.loads((out / HIDDEN / "records" / f"{index:05d}.json").read_text()).get("made_with")
            found += [one for one in (noted if made is None else [made]) if one not in found]
    except (OSError, ValueError, AttributeError) as error:
        raise TacitError(f"cannot read what made {out} ({error!r:.120})") from None
    return found


def note_environments(out: Path, made_with: list[dict[str, str]]) -> None:
    """Note all of a folder's environments with its parameters, which must be there. Raises TacitError when they cannot be written."""
    record = json.loads((out / "synthesis.json").read_text("utf-8"))
    if record.get("made_with") != made_with:
        _write_settings(out, record | {"made_with": made_with})


def begin(out: Path, what: str) -> int:
    """Count an attempt at ``what``; returns how many there were, this one included, since the last that was ended by ``end``.

    Raises TacitError when the folder cannot be written.
    """
    with _explained(out), (out / HIDDEN / f"{what}.attempts.tmp").open("ab") as file:
        file.write(b".")
        return file.tell()


def end(out: Path, what: str) -> None:
    """Forget the attempts at ``what``: the last one was not cut short. Raises TacitError when the folder cannot be written."""
    with _explained(out):
        (out / HIDDEN / f"{what}.attempts.tmp").unlink(missing_ok=True)


def write_shard(
    out: Path, index: int, *, rows: Sequence[str], run: str, content: bytes, made_with: dict[str, str]
) -> None:
    """Write shard ``index`` and then its record: its hash, the run's, of which ``rows`` (a key per shard) and what it is made with.

    The folder must be opened by ``reopen``. Several processes may write shards at once, even the same one. Raises TacitError as
    ``write_whole`` does.
    """
    name = f"{HIDDEN}/data/{shard_name(index, len(rows))}"
    record = {"run": run, "rows": rows[index], "sha256": hashlib.sha256(content).hexdigest()}
    record |= {"made_with": made_with}
    write_whole(out, name, content)
    write_whole(out, f"{HIDDEN}/records/{index:05d}.json", (json.dumps(record) + "\n").encode())


def _fault(out: Path, index: int, *, rows: Sequence[str], run: str) -> str | None:
    """What is wrong with a shard: None if nothing, empty if it was not made yet."""
    path = _data(out) / shard_name(index, len(rows))
    try:
        record = json.loads((out / HIDDEN / "records" / f"{index:05d}.json").read_text())
        said = [record[key] for key in ("run", "rows", "sha256")]
    except FileNotFoundError:
        return "has no record" if path.exists() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return "has an unreadable record"
    if not path.is_file():
        return "is missing"
    if said[:2] != [run, rows[index]]:
        return "was made of other rows or parameters"
    return None if said[2] == file_hash(path) else "does not match its SHA-256"


def find_faults(out: Path, *, rows: Sequence[str], run: str) -> dict[int, str]:
    """What keeps the dataset from being whole: index of a shard -> what is wrong with it, empty if it was not made yet.

    ``rows`` holds a key of each shard's input, ``run`` is that of the parameters. Raises TacitError for files among the
    shards that are none.
    """
    strays = sorted(set(os.listdir(_data(out))) - {path.name for path in shard_files(out, len(rows))})
    if strays:
        raise TacitError(f"{_data(out) / strays[0]} is no part of this synthesis: move it away")
    found = {index: _fault(out, index, rows=rows, run=run) for index in range(len(rows))}
    return {index: fault for index, fault in found.items() if fault is not None}


def row_keys(rows: Sequence[Any], *, size: int) -> list[str]:
    """The key of each shard's ``size`` consecutive rows, JSON values."""
    return [fingerprint(rows[start : start + size]) for start in range(0, len(rows), size)]


def reopen(out: Path) -> None:
    """Take the data out of sight while shards are missing; nothing where it is so already.

    Raises TacitError when the folder cannot be written.
    """
    with _explained(out):
        if (out / "data").is_dir():
            shutil.rmtree(out / HIDDEN / "data", ignore_errors=True)
            os.rename(out / "data", out / HIDDEN / "data")
            _sync(out)


def show(out: Path) -> None:
    """Put the finished data where ``load_dataset`` finds it, in one step, and remove files that were being written.

    Does not check that it is whole (``find_faults`` does). Raises TacitError when the folder cannot be written.
    """
    with _explained(out):
        if not (out / "data").is_dir():
            os.rename(out / HIDDEN / "data", out / "data")
            _sync(out)
    _remove_temporary(out)
