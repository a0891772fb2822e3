"""Relative links of a notebook, which an executed copy needs from where it lies, some folders deeper."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

UP = re.compile(r"\]\(\.\./(?!\.\./)")  # a Markdown link from notebooks/ to a file elsewhere in the repository


def deepen_links(text: str, *, folder: str) -> str:
    """Markdown of a cell in ``notebooks/`` with its links as they are right in ``outputs/<folder>/``."""
    return UP.sub("](" + "../" * (1 + len(PurePosixPath(folder).parts)), text)


def raise_links(text: str) -> str:
    """The inverse of ``deepen_links``, whatever the folder: links as they are right in ``notebooks/``."""
    return re.sub(r"\]\((?:\.\./){2,}", "](../", text)
