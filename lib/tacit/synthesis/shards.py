"""The files of a dataset made in shards, over several runs: written whole, checked by hash, shown when complete.

| path in the folder | what |
|---|---|
| README.md | the card; it names data/train-* as the only data, so that ``load_dataset`` takes nothing else for it |
| synthesis.json | the parameters, written before the first shard, and the environments that made the shards |
| data/train-00000-of-00007.parquet, ... | all shards; the folder ``data`` comes by one rename, never partly filled |
| .synthesis/ | ``data`` while a shard is missing, each shard's hash and environment, the lock, unfinished files |
| .synthesis/card.md | the card as it was before a shard had to be made again, unless it became the card again |

A file is written beside its place and renamed when its content is on disk. A shard counts only with its record, which
is written after it. A process may therefore be killed anywhere. This module knows no models and no columns. Whatever
reads or writes the folder raises TacitError when that fails, as on a full disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    """Write ``out``/``name`` so that it is there with all of ``content`` or as it was; ``hold`` makes ``out``."""
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

    Files that a killed run was writing are removed. Raises TacitError for a folder that holds something else, or that
    another process is at work in.
    """
    with _explained(out):
        if out.is_dir() and any(out.iterdir()) and not (out / HIDDEN).is_dir():
            raise TacitError(f"{out} is not empty and no synthesis made it here: choose another --out or empty it")
        for folder in ("records", "data"):
            (out / HIDDEN / folder).mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(out / HIDDEN / "lock").acquire(timeout=0)
        except Timeout:
            raise TacitError(f"another process is at work in {out}: wait for it or stop it") from None
    with lock:
        _remove_temporary(out)
        yield


def _remove_temporary(out: Path) -> None:
    with _explained(out):
        for path in (out / HIDDEN).glob("*.tmp"):
            path.unlink(missing_ok=True)


def cover(out: Path, card: str) -> None:
    """Put the unfinished folder's ``card`` in the place of another one, which is set aside for ``covered``."""
    path = out / "README.md"
    with _explained(out):
        old = path.read_bytes() if path.exists() else card.encode()
    if old != card.encode():
        write_whole(out, f"{HIDDEN}/card.md", old)
    write_whole(out, path.name, card.encode())


def covered(out: Path) -> str | None:
    """The card that ``cover`` set aside, or None. Bytes in it that are no UTF-8 are replaced."""
    path = out / HIDDEN / "card.md"
    with _explained(out):
        return path.read_bytes().decode("utf-8", errors="replace") if path.exists() else None


def uncover(out: Path, card: str) -> None:
    """Write the finished folder's ``card``; the one set aside is removed if it is the same."""
    write_whole(out, "README.md", card.encode())
    if covered(out) == card:
        with _explained(out):
            (out / HIDDEN / "card.md").unlink()


def begin(out: Path, what: str) -> int:
    """Count an attempt at ``what``; returns how many there were, this one included, since ``end`` was last called."""
    with _explained(out), (out / HIDDEN / f"{what}.attempts.tmp").open("ab") as file:
        file.write(b".")
        return file.tell()


def end(out: Path, what: str) -> None:
    """Forget the attempts at ``what``: the last one was not cut short."""
    with _explained(out):
        (out / HIDDEN / f"{what}.attempts.tmp").unlink(missing_ok=True)


def _write_settings(out: Path, record: dict[str, Any]) -> None:
    write_whole(out, "synthesis.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def settle(out: Path, parameters: dict[str, Any], *, shard_size: int, card: str, made_with: dict[str, str]) -> int:
    """Note ``parameters`` in a folder without shards, or compare them with those noted; returns the rows per shard.

    Shards that are there keep their size, unless it is among the parameters. ``card`` is written first. Raises
    TacitError, naming the first parameter that differs from the folder's, and when the folder's cannot be read.
    """
    path = out / "synthesis.json"
    if not path.exists() or not any((out / HIDDEN / "records").iterdir()):
        cover(out, card)
        _write_settings(out, {"parameters": parameters, "shard_size": shard_size, "made_with": [made_with]})
        return shard_size
    try:
        record = json.loads(path.read_text("utf-8"))
        noted, size = dict(record["parameters"]), int(record["shard_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TacitError(f"cannot read {path} ({error!r:.120}): choose another --out or delete the folder") from None
    for name in parameters | noted:
        ours, theirs = (values.get(name, "of another version") for values in (parameters, noted))
        if ours != theirs:
            raise TacitError(
                f"{out} holds a synthesis with {name} {theirs!s:.80}, not {ours!s:.80}: choose another --out or "
                "delete it"
            )
    return size


def note_environments(out: Path, made_with: list[dict[str, str]]) -> None:
    """Note all of a folder's environments with its parameters, which must be there."""
    record = json.loads((out / "synthesis.json").read_text("utf-8"))
    if record.get("made_with") != made_with:
        _write_settings(out, record | {"made_with": made_with})


def row_keys(rows: Sequence[Any], *, size: int) -> list[str]:
    """The key of each shard's ``size`` consecutive rows, JSON values."""
    return [fingerprint(rows[start : start + size]) for start in range(0, len(rows), size)]


@dataclass(frozen=True)
class Shards:
    """The shards of one run in the folder ``out``, which ``hold`` keeps open meanwhile.

    ``keys`` holds a key of each shard's rows (``row_keys``), ``run`` is that of the parameters.
    """

    out: Path
    keys: Sequence[str]
    run: str

    def name(self, index: int) -> str:
        """A shard's file name."""
        return shard_name(index, len(self.keys))

    def _data(self) -> Path:
        """Where the shards lie now."""
        return self.out / "data" if (self.out / "data").is_dir() else self.out / HIDDEN / "data"

    def _read_record(self, index: int) -> dict[str, Any]:
        return json.loads((self.out / HIDDEN / "records" / f"{index:05d}.json").read_text("utf-8"))

    def files(self) -> list[Path]:
        """The shards' paths, in order."""
        data = self._data()
        return [data / self.name(index) for index in range(len(self.keys))]

    def write(self, index: int, content: bytes, *, made_with: dict[str, str]) -> None:
        """Write a shard and then its record: its hash, what it is made of and with.

        ``reopen`` must have opened the folder. Several processes may write shards at once, even the same one.
        """
        record = {"run": self.run, "rows": self.keys[index], "sha256": hashlib.sha256(content).hexdigest()}
        record |= {"made_with": made_with}
        write_whole(self.out, f"{HIDDEN}/data/{self.name(index)}", content)
        write_whole(self.out, f"{HIDDEN}/records/{index:05d}.json", (json.dumps(record) + "\n").encode())

    def _fault(self, index: int, path: Path) -> str | None:
        """What is wrong with a shard: None if nothing, empty if it was not made yet."""
        try:
            record = self._read_record(index)
            run, key, sha256 = (record[name] for name in ("run", "rows", "sha256"))
        except FileNotFoundError:
            return "has no record" if path.exists() else ""
        except (OSError, ValueError, KeyError, TypeError):
            return "has an unreadable record"
        if not path.is_file():
            return "is missing"
        if (run, key) != (self.run, self.keys[index]):
            return "was made of other rows or parameters"
        return None if sha256 == file_hash(path) else "does not match its SHA-256"

    def faults(self) -> dict[int, str]:
        """What keeps the dataset from being whole: a shard's index -> what is wrong, empty if it was not made yet.

        Raises TacitError for files among the shards that are none.
        """
        paths = self.files()
        strays = sorted(set(os.listdir(self._data())) - {path.name for path in paths})
        if strays:
            raise TacitError(f"{self._data() / strays[0]} is no part of this synthesis: move it away")
        faults = {index: self._fault(index, path) for index, path in enumerate(paths)}
        return {index: fault for index, fault in faults.items() if fault is not None}

    def environments(self, indices: Iterable[int]) -> list[dict[str, str]]:
        """What made these shards, each environment once, in the order of ``indices``."""
        noted: list[dict[str, str]] = []
        try:
            for index in indices:
                made_with = self._read_record(index)["made_with"]
                noted += [made_with] if made_with not in noted else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TacitError(f"cannot read what made {self.out} ({error!r:.120})") from None
        return noted

    def reopen(self) -> None:
        """Take the data out of sight while shards are missing; it may be so already."""
        with _explained(self.out):
            if (self.out / "data").is_dir():
                shutil.rmtree(self.out / HIDDEN / "data", ignore_errors=True)
                os.rename(self.out / "data", self.out / HIDDEN / "data")
                _sync(self.out)

    def show(self) -> None:
        """Put the finished data where ``load_dataset`` finds it, in one step, and remove files that were being written.

        This does not check that the data is whole (``faults`` does).
        """
        with _explained(self.out):
            if not (self.out / "data").is_dir():
                os.rename(self.out / HIDDEN / "data", self.out / "data")
                _sync(self.out)
        _remove_temporary(self.out)
