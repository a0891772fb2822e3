"""Writing generated text into a page between its markers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tacit.support import files
from tacit.support.errors import TacitError


def table_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table; a ``|`` in a cell is escaped, and a line break in it becomes a space."""
    escaped = [cell.replace("|", r"\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def replace_between(path: Path, start: str, end: str, text: str) -> None:
    """Replace what stands between the markers ``start`` and ``end`` of the file by ``text``, on lines of its own.

    The markers stay. Raises TacitError, changing nothing, unless both are there, in this order.
    """
    before, found_start, rest = path.read_text(encoding="utf-8").partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise TacitError(f"{path.name} has no markers {start} and {end} to write between")
    files.write_whole(path, f"{before}{start}\n{text}\n{end}{after}")
