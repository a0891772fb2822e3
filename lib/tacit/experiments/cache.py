"""A cache of trained models and generations, keyed by everything that determines them.

A wrong hit is worse than a miss. The key holds the parameters, the data's and the weights' hashes, the code of every
room but ``running`` and the versions of the libraries. Each entry repeats its key and the hash of its content, and one
that does not match is made anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tacit.support import paths, provenance
from tacit.support.keyed import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def full_key(key: dict[str, Any]) -> dict[str, Any]:
    """``key`` with what every result depends on: the package's code, library versions and the device."""
    return key | {
        "library": provenance.method_hash(),
        "packages": provenance.packages(),
        "device": provenance.device_name(),
    }


def _valid(entry: Path, key: dict[str, Any]) -> bool:
    try:
        record = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        return record == {"key": key, "content": provenance.tree_hash(entry / "content")}
    except (OSError, ValueError):  # absent, damaged, or removed by the run that makes it anew
        return False


def cached_folder(key: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills for ``key``, from the cache or made now.

    ``make`` fills a folder beside the entry, which is moved into place whole: a killed run leaves no entry, and what
    it had made is removed by the next that wants the same one. Of two runs that want it at once one makes it and the
    other waits.
    """
    key = json.loads(json.dumps(full_key(key)))
    entry = paths.cache_root() / "entries" / fingerprint(key)[:32]
    if _valid(entry, key):
        return entry / "content"
    entry.parent.mkdir(parents=True, exist_ok=True)
    locks = paths.cache_root() / "locks"
    locks.mkdir(exist_ok=True)
    with FileLock(locks / f"{entry.name}.lock"):
        if _valid(entry, key):  # made while we waited
            return entry / "content"
        temporary = entry.with_name(f".making-{entry.name}")  # one at a time, by the lock
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
        try:
            (temporary / "content").mkdir(parents=True)
            make(temporary / "content")
            record = {"key": key, "content": provenance.tree_hash(temporary / "content")}
            (temporary / "entry.json").write_text(json.dumps(record), encoding="utf-8")
            shutil.rmtree(entry, ignore_errors=True)  # an entry that does not match its key or content
            temporary.rename(entry)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return entry / "content"


def cached_json(key: dict[str, Any], make: Callable[[], Any]) -> Any:
    """The JSON value that ``make`` returns for ``key``, from the cache or made now."""

    def fill(folder: Path) -> None:
        (folder / "value.json").write_text(json.dumps(make(), ensure_ascii=False), encoding="utf-8")

    return json.loads((cached_folder(key, fill) / "value.json").read_text(encoding="utf-8"))


def cached_model(key: dict[str, Any], make: Callable[[], tuple[PreTrainedModel, Any]]) -> tuple[PreTrainedModel, Any]:
    """The model and JSON record that ``make`` returns for ``key``; a hit is loaded with the saved dtype."""
    from tacit.models.loading import load_model, without_progress_bars  # not for JSON values and folders

    trained: list[PreTrainedModel] = []

    def fill(folder: Path) -> None:
        model, record = make()
        with without_progress_bars():
            model.save_pretrained(folder)
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
        trained.append(model)

    folder = cached_folder(key, fill)
    model = trained[0] if trained else load_model(str(folder), dtype="auto")
    return model, json.loads((folder / "record.json").read_text(encoding="utf-8"))
