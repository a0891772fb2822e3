"""Markdown tables of results, and writing generated text into a page between its markers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tacit.running.metrics import describe_result, find_result, paper_beside, read_metrics
from tacit.support import files, paths
from tacit.support.errors import TacitError

# What Markdown takes for a mark, where it stands: code, emphasis, mathematics, HTML, an entity, a link, an escape.
MARKS = re.compile(r"[`*~$]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|](?=[\[(])|(?<![^\W_])_|_(?![^\W_])|\\(?=[!-/:-@\[-`{-~]|$)")


def as_written(text: str) -> str:
    """``text`` as one line of Markdown that shows it as it is."""
    return MARKS.sub(r"\\\g<0>", " ".join(text.splitlines()))


def table_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table; a ``|`` in a cell is escaped, and a line break in it becomes a space."""
    escaped = [cell.replace("|", r"\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def text_row(cells: Iterable[str]) -> str:
    """``table_row`` of texts, each ``as_written``."""
    return table_row(map(as_written, cells))


def replace_between(path: Path, start: str, end: str, text: str) -> None:
    """Replace what stands between the markers ``start`` and ``end`` of the file by ``text``, on lines of its own.

    The markers stay. Raises TacitError, changing nothing, unless both are there, in this order.
    """
    try:
        before, has_start, rest = path.read_text(encoding="utf-8").partition(start)
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"cannot read {path}, to write into it: {error}") from None
    _, has_end, after = rest.partition(end)
    if not (has_start and has_end):
        raise TacitError(f"{path.name} has no markers {start} and {end} to write between")
    files.write_whole(path, f"{before}{start}\n{text}\n{end}{after}")


def findings_table(stems: Sequence[str], *, profile: str, failed: Collection[str] = ()) -> str:
    """A Markdown table of the findings whose metrics lie in ``outputs/<profile>/``; ``failed`` runs are marked.

    A paper's value of another metric than the main number's stands in brackets, with the metric's and the arm's name.
    """
    rows = ["| finding | claim holds | main number, 95% interval | paper |", "|---|---|---|---|"]
    for stem in stems:
        path = paths.OUTPUTS / profile / f"{stem}.json"
        if not path.exists():
            rows.append(f"| {stem} | no result yet | | |")
            continue
        try:
            record = read_metrics(path)
        except TacitError as error:
            rows.append(text_row([stem, f"unreadable: {error}", "", ""]))
            continue
        arm, metric = record["headline"]["arm"], record["headline"]["metric"]
        main = describe_result(find_result(record, arm=arm, metric=metric))
        beside = paper_beside(record)
        same = all((p["arm"], p["metric"]) == (arm, metric) for p in beside)
        paper = "; ".join(f"{p['value']:.3f}" if same else f"{p['arm']} {p['value']:.3f}" for p in beside)
        if not same:
            paper = f"({beside[0]['metric']}: {paper})"
        holds = ("yes" if record["claim_holds"] else "no") + (
            " (an earlier result: this run failed)" if stem in failed else ""
        )
        rows.append(text_row([record["finding"], holds, main, paper]))
    return "\n".join(rows)


def write_findings_table(readme: Path, stems: Sequence[str], *, profile: str) -> None:
    """Replace what stands between the table markers of ``readme`` by the table of ``profile``."""
    replace_between(readme, f"<!-- table:{profile} -->", "<!-- /table -->", findings_table(stems, profile=profile))
