"""Two runs side by side: rows of their metrics files, differences beyond the intervals, what they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tacit.running.metrics import read_metrics, verdict_of
from tacit.running.parameters import as_yaml
from tacit.running.tables import as_written, text_row

RULE = (
    "beyond: the two 95% intervals have no point in common. This is conservative: intervals that overlap do not show\n"
    "that two runs are equal, and runs on the same seeds and prompts are paired, so that the interval of their\n"
    "difference (a notebook can compute it, two metrics files cannot) is often narrower. Of many rows a few may\n"
    "differ by chance."
)


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """The result rows of two metrics records, matched by arm and metric, in ``a``'s order; ``b``'s alone come last.

    Columns: ``arm``, ``metric``; ``value``, ``low``, ``high`` of each, with the suffixes `` a`` and `` b`` (NaN where
    the run has no such row); ``difference``, b minus a; ``beyond``, whether the two intervals have no point in common.
    Nothing is resampled: a metrics file does not hold the scores.
    """
    shown = ["arm", "metric", "value", "low", "high"]
    tables = (pd.DataFrame(record["results"], columns=shown) for record in (a, b))
    left, right = (table.drop_duplicates(["arm", "metric"]) for table in tables)  # the first, as metrics.find_result
    order = pd.concat([left, right])[["arm", "metric"]].drop_duplicates()
    rows = order.merge(left, how="left", on=["arm", "metric"])
    rows = rows.merge(right, how="left", on=["arm", "metric"], suffixes=(" a", " b"))
    rows["difference"] = rows["value b"] - rows["value a"]
    rows["beyond"] = (rows["low b"] > rows["high a"]) | (rows["high b"] < rows["low a"])  # NaN compares as False
    return rows


def compare_manifests(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What two runs were made with, where it differs: (name, value in a, value in b), parameters first.

    Values are as ``as_yaml`` writes them, ``-`` where a run has none. How long a run took and when it began are left
    out, as is the list of seeds, which is a parameter.
    """

    def flat(record: Mapping[str, Any]) -> dict[str, Any]:
        manifest = dict(record["manifest"])
        parts = {f"parameter {name}": value for name, value in manifest.pop("parameters", {}).items()}
        parts |= {f"package {name}": value for name, value in manifest.pop("packages", {}).items()}
        return parts | {k: v for k, v in manifest.items() if k not in ("seeds", "started", "wall_seconds")}

    left, right = flat(a), flat(b)
    names = [name for name in left | right if left.get(name) != right.get(name) or (name in left) != (name in right)]
    names.sort(key=lambda name: not name.startswith("parameter "))  # stable: the order of the notebook otherwise
    return [(n, *(as_yaml(side[n]) if n in side else "-" for side in (left, right))) for n in names]


def _interval(row: pd.Series, side: str) -> str:
    value, low, high = (row[f"{part} {side}"] for part in ("value", "low", "high"))
    return "" if pd.isna(value) else f"{value:z.3f} [{low:z.3f}, {high:z.3f}]"


def compare_runs(a: str | Path, b: str | Path) -> str:
    """A page of Markdown on two metrics files: what differs in how they were made, then every row of both.

    Raises TacitError for a file that is missing or no metrics file.
    """
    records = read_metrics(a), read_metrics(b)
    lines = [f"A: {as_written(str(a))}", f"B: {as_written(str(b))}", ""]
    if records[0]["finding"] != records[1]["finding"]:
        titles = [as_written(repr(record["finding"])) for record in records]
        lines += [f"Two findings: A is {titles[0]}, B is {titles[1]}.", ""]
    changes = compare_manifests(*records)
    if changes:
        lines += ["| made with | A | B |", "|---|---|---|", *map(text_row, changes), ""]
    elif not records[0]["manifest"]:
        lines += ["Neither file says what it was made with: they were not written by `python -m tacit run`.", ""]
    else:
        lines += ["Both were made with the same parameters, code, packages and device.", ""]
    rows = compare_results(*records)
    lines += ["| arm | metric | A | B | B - A | |", "|---|---|---|---|---|---|"]
    for _, row in rows.iterrows():
        sides = _interval(row, "a"), _interval(row, "b")
        verdict = "beyond" if row["beyond"] else f"only in {'B' if sides[1] else 'A'}" if "" in sides else ""
        change = "" if "" in sides else f"{row['difference']:+.3f}"
        lines.append(text_row([row["arm"], row["metric"], *sides, change, verdict]))
    shared = int(rows["difference"].notna().sum())
    lines += ["", f"The verdict in A: {verdict_of(records[0])}; in B: {verdict_of(records[1])}."]
    lines += [f"{int(rows['beyond'].sum())} of {shared} differences are beyond their intervals.", "", RULE]
    return "\n".join(lines)
