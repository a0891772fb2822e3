"""What a result depends on and does not show: commit, code, packages, device."""

from __future__ import annotations

import hashlib
import io
import platform
import re
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from tacit.support import paths

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "papermill", "numpy", "scipy", "seaborn")
# What a cached model, response or dataset can depend on. ``running`` and the command line are not among them.
METHOD_ROOMS = tuple(
    "support models data decoding microworld training scoring synthesis experiments findings related".split()
)


def _git(*arguments: str) -> bytes | None:
    """What git answers in the checkout; None where it fails."""
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=paths.ROOT, capture_output=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str:
    """The checkout's commit, or ``unknown`` outside a git checkout."""
    return (_git("rev-parse", "HEAD") or b"unknown").decode().strip()


def dirty() -> bool | None:
    """Does the checkout differ from its commit, outputs aside? None outside a git checkout."""
    status = _git("status", "--porcelain", "--", ".", ":!outputs")
    return None if status is None else bool(status)


def file_hash(path: Path) -> str:
    """SHA-256 of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree_hash(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and contents of the files below ``folder`` that match ``pattern``."""
    files = (p for p in folder.rglob(pattern) if p.is_file() and "__pycache__" not in p.parts)
    return _hash_of({path.relative_to(folder).as_posix(): file_hash(path) for path in files})


def _hash_of(files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: name.split("/")):
        digest.update(f"{name}\0{files[name]}\0".encode())
    return digest.hexdigest()


def known_commit(commit: str) -> bool:
    """Is this commit, named by its 40 hex digits, HEAD or one of its ancestors? In any full clone it is."""
    named = bool(re.fullmatch("[0-9a-f]{40}", commit))
    return named and _git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def is_shallow() -> bool:
    """Does the checkout lack its older commits?"""
    return _git("rev-parse", "--is-shallow-repository") == b"true\n"


def file_at(commit: str, path: Path) -> bytes | None:
    """The content of a file below the repository's root as ``commit`` holds it; None where it does not."""
    return _git("cat-file", "blob", f"{commit}:./{path.relative_to(paths.ROOT).as_posix()}")


def library_hash_at(commit: str) -> str | None:
    """``library_hash`` of ``commit``: over the Python files of its ``lib/tacit``. None where git fails."""
    folder = paths.LIBRARY.relative_to(paths.ROOT).as_posix()
    archive = _git("archive", "--format=zip", commit, "--", folder)
    if archive is None:
        return None
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        names = [name for name in files.namelist() if name.endswith(".py")]
        hashes = {name: hashlib.sha256(files.read(name)).hexdigest() for name in names}
    return _hash_of({name.removeprefix(f"{folder}/"): value for name, value in hashes.items()})


def source_hash(folder: Path, rooms: Sequence[str]) -> str:
    """SHA-256 over the Python files of some rooms of a package that lies in ``folder``."""
    return _hash_of({room: tree_hash(folder / room, "*.py") for room in rooms})


# Taken at import, so that they say what this process runs, whatever is edited later.
_LIBRARY_HASH = tree_hash(paths.LIBRARY, "*.py")
_METHOD_HASH = source_hash(paths.LIBRARY, METHOD_ROOMS)


def library_hash() -> str:
    """SHA-256 of the package's source as this process imported it. Manifests name it."""
    return _LIBRARY_HASH


def method_hash() -> str:
    """SHA-256 of ``METHOD_ROOMS`` as imported: an edit of the site retrains nothing. Cache keys and cards name it."""
    return _METHOD_HASH


@cache  # every cache key and every shard of a synthesis asks for them
def packages() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def device_name() -> str:
    """The accelerator's name, or the processor's architecture and the threads that torch uses in this process."""
    import torch  # takes seconds, which commands that only read files need not wait

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    precision = "" if cpu_multiplies_bf16() else ", no bf16"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads{precision})"


def cpu_multiplies_bf16() -> bool:
    """Does torch multiply bf16 on this processor about as fast as float32, or faster?

    x86 processors without AVX-512 do not: one with AVX2 took 6 to 18 times as long. Others are taken to.
    """
    import torch

    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
