"""A run's outputs are staged beside their folder and moved there together, or not at all; links fit their new place."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock

from tacit.support import paths
from tacit.support.errors import TacitError

UP = re.compile(r"\]\(\.\./(?!\.\./)")  # a Markdown link from notebooks/ to a file elsewhere in the repository


@contextmanager
def stage(folder: str) -> Iterator[Path]:
    """A folder within ``outputs/<folder>/``, where notebooks write meanwhile; what is left in it at the end is removed.

    Raises TacitError where the outputs cannot be written.
    """
    target = paths.OUTPUTS / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target))
    except OSError as error:
        raise TacitError(
            f"cannot write to outputs/{folder}: {error.strerror}; make the folder writable or free some space"
        ) from None
    told = {"TACIT_STAGING": str(staging), "TACIT_HERE": str(paths.here())}  # a kernel runs in the notebook's folder
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield staging
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(staging, ignore_errors=True)


def promote(staging: Path, target: Path) -> None:
    """Move every file of ``staging`` into ``target``, all or none: a full disk or interrupt puts back what was there.

    Of two runs that promote to the same folder at once one waits, so that a notebook, its metrics and its figures are
    always those of one run. Raises OSError.
    """
    files = sorted(path for path in staging.iterdir() if path.is_file())
    with FileLock(target.parent / f".{target.name}.lock"):
        earlier = Path(tempfile.mkdtemp(dir=staging))
        for path in files:
            if (target / path.name).exists():
                shutil.copy2(target / path.name, earlier)
        try:
            for path in files:
                os.replace(path, target / path.name)
        except BaseException:
            for path in files:
                if (earlier / path.name).exists():
                    os.replace(earlier / path.name, target / path.name)
                elif not path.exists():  # moved, and new there
                    (target / path.name).unlink(missing_ok=True)
            raise


def deepen_links(text: str, *, folder: str) -> str:
    """Markdown of a cell in ``notebooks/`` with its links as they are right in ``outputs/<folder>/``."""
    return UP.sub("](" + "../" * (1 + len(PurePosixPath(folder).parts)), text)


def raise_links(text: str) -> str:
    """The inverse of ``deepen_links`` in folders up to three deep. A link that leads further up stays as it is."""
    return re.sub(r"\]\((?:\.\./){2,4}(?!\.\./)", "](../", text)
