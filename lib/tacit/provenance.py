"""What a result depends on and cannot say by itself: commit, code, packages, device."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from tacit import paths

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "papermill", "numpy", "scipy", "seaborn")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> str:
    """The checkout's commit, or ``unknown`` outside a git checkout."""
    return _git("rev-parse", "HEAD") or "unknown"


def dirty() -> bool | None:
    """Does the code differ from the commit (outputs aside)? None outside a git checkout."""
    status = _git("status", "--porcelain", "--", ".", ":!outputs")
    return None if status is None else bool(status)


def file_hash(path: Path) -> str:
    """SHA-256 of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree_hash(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and contents of the files below ``folder`` that match ``pattern``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob(pattern) if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_hash(path)}\0".encode())
    return digest.hexdigest()


_LIBRARY_HASH = tree_hash(paths.LIBRARY, "*.py")  # at import: what this process runs, whatever is edited later


def library_hash() -> str:
    """SHA-256 of the package's source as it was when this process imported it."""
    return _LIBRARY_HASH


@cache  # a process's versions do not change; every cache key and every shard of a synthesis asks for them
def packages() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def device_name() -> str:
    """The accelerator's name, or the processor's architecture and the threads that torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
