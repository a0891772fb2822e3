"""Markdown tables of results, and writing generated text into a page between its markers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tacit.running.metrics import describe_main, find_result, paper_beside, read_metrics, verdict_of
from tacit.scoring.verdicts import HOLDS, REFUTED
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


HEAD = ["finding", "verdict", "what was found", "the number that decides, 95% interval", "paper"]
MICRO = " (micro)"  # the mark of a result that a profile shows in the place of its own


def _paper_cell(record: dict) -> str:
    """A paper's values; those of another metric than the main number's in brackets, with the metric and the arms."""
    arm, metric = record["headline"]["arm"], record["headline"]["metric"]
    beside = paper_beside(record)
    same = all((p["arm"], p["metric"]) == (arm, metric) for p in beside)
    values = "; ".join(f"{p['value']:z.3f}" if same else f"{p['arm']} {p['value']:z.3f}" for p in beside)
    return values if same else f"({beside[0]['metric']}: {values})"


def compare_verdicts(ours: dict, theirs: dict) -> str:
    """Do two runs of a finding agree? ``yes`` where their verdicts are equal.

    Else ``within intervals`` where both intervals of ``theirs`` main number have a point in common, and no verdict is
    the other's opposite (a part of the rule then lies on both sides of its threshold). Else ``no``, as where ``ours``
    has no such number.
    """
    verdicts = {verdict_of(ours), verdict_of(theirs)}
    if len(verdicts) == 1:
        return "yes"
    if verdicts == {HOLDS, REFUTED}:
        return "no"
    rows = [find_result(record, **theirs["headline"]) for record in (ours, theirs)]
    if None in rows or rows[0]["low"] > rows[1]["high"] or rows[1]["low"] > rows[0]["high"]:
        return "no"
    return "within intervals"


def find_metrics(stem: str, *, profile: str) -> tuple[Path, str]:
    """The metrics file of a finding in a profile, and a mark for its row; the executed notebook lies beside the file.

    A finding that has no parameters for ``full`` is shown as ``micro`` has it, and its row says so. One that has them
    and was not run there is not: its row says that there is no result yet.
    """
    if profile == "full" and not (paths.PARAMS / profile / f"{stem}.yaml").exists():
        return paths.OUTPUTS / "micro" / f"{stem}.json", MICRO
    return paths.OUTPUTS / profile / f"{stem}.json", ""


def _finding_row(stem: str, *, profile: str, failed: Collection[str], beside: str | None) -> list[str]:
    """The cells of one finding's row of ``findings_table``, in Markdown; what was found is Markdown as it is."""
    more = [] if beside is None else ["", ""]
    path, where = find_metrics(stem, profile=profile)
    if not path.exists():
        return [as_written(stem), "no result yet", "", "", "", *more]
    try:
        record = read_metrics(path)
    except TacitError as error:
        return [as_written(stem), as_written(f"unreadable: {error}"), "", "", "", *more]
    verdict = verdict_of(record) + where + (" (an earlier result: this run failed)" if stem in failed else "")
    found = " ".join(record["answer"]["found"].split()) if "answer" in record else as_written(record["claim"])
    if beside is not None:
        more = [as_written(cell) for cell in _reference_cells(record, stem, profile=beside)]
    first, main, paper = map(as_written, (record["finding"], describe_main(record), _paper_cell(record)))
    return [first, verdict, found, main, paper, *more]


def _reference_cells(record: dict, stem: str, *, profile: str) -> list[str]:
    """What the outputs of ``profile`` say of a finding, and whether ``record`` agrees; empty where there are none."""
    path = paths.OUTPUTS / profile / f"{stem}.json"
    if not path.exists():
        return ["", ""]
    try:
        reference = read_metrics(path)
    except TacitError as error:
        return [f"unreadable: {error}", ""]
    return [f"{verdict_of(reference)}: {describe_main(reference)}", compare_verdicts(record, reference)]


def findings_table(
    stems: Sequence[str], *, profile: str, failed: Collection[str] = (), beside: str | None = None
) -> str:
    """A Markdown table of the findings whose metrics lie in ``outputs/<profile>/``; ``failed`` runs are marked.

    A row has the finding, its verdict, what was found (the claim, where a finding has no answer), the number that
    decides, and the paper's. With ``beside``, the verdict and number of the committed outputs of that profile, and
    whether they agree (``compare_verdicts``).
    """
    more = [] if beside is None else [f"{beside} says", "agree"]
    rows = [table_row([*HEAD, *more]), "|" + "---|" * (len(HEAD) + len(more))]
    rows += [table_row(_finding_row(stem, profile=profile, failed=failed, beside=beside)) for stem in stems]
    return "\n".join(rows)


def write_findings_table(readme: Path, stems: Sequence[str], *, profile: str) -> None:
    """Replace what stands between the table markers of ``readme`` by the table of ``profile``."""
    replace_between(readme, f"<!-- table:{profile} -->", "<!-- /table -->", findings_table(stems, profile=profile))
