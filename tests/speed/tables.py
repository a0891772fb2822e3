"""The tables of ``docs/speed.md``, from the records in ``outputs/bench``.

``python tests/speed/tables.py`` prints them; ``--write docs/speed.md`` puts them between the page's markers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import records
from tacit.running.tables import replace_between, table_row
from tacit.support import paths
from tacit.support.errors import TacitError


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    return "\n".join([table_row(head), "|---" * len(head) + "|", *map(table_row, rows)])


def _verdict(target: dict[str, Any]) -> str:
    bound = "at most " if target.get("bound") == "at most" else ""
    return f"{bound}{target['target']:g}, {({True: 'met', False: 'missed', None: 'not decided'})[target['met']]}"


def ratio_table(found: list[dict[str, Any]]) -> str:
    """The ratios of every device that ``bench.py`` measured, and how they were measured."""
    rows, notes = [], []
    for record in found:
        device = record["device"] + (" (quick: no measurement)" if record["quick"] else "")
        for bench in record["benches"]:
            fast, slow = bench["arms"]
            ratio = f"{fast['name']}: {bench['ratio']:.3g} [{bench['ratio_min']:.3g}, {bench['ratio_max']:.3g}]"
            rows.append([device, f"{bench['name']}: {bench['what']}", ratio, slow["name"], _verdict(bench)])
            arms = "; ".join(f"{arm['name']}: {arm['rate']:,.0f} tokens/s, {arm['measured']}" for arm in bench["arms"])
            notes.append(f"- **{bench['name']}.** Check: {bench['gate']}. {arms}.")
        notes.insert(-len(record["benches"]), f"\n## How it was measured: {record['device']}\n")
    head = ["device", "what", "times as fast, median [least, most]", "as", "target"]
    return "\n".join([_table(head, rows), *notes])


def _decoding_rows(cells: list[dict[str, Any]]) -> Iterable[list[str]]:
    """A row for each batch size of one length, then one for the length mix."""
    batches = sorted({cell["batch"] for cell in cells if cell["lengths"] == "fixed"})
    groups = [
        (f"batch {batch}", [c for c in cells if (c["lengths"], c["batch"]) == ("fixed", batch)]) for batch in batches
    ]
    for name, group in [*groups, ("length mix, prompts included", [c for c in cells if c["lengths"] == "lognormal"])]:
        of = {cell["arm"]: cell for cell in group}
        values = [
            of[arm].get("decode_rate", of[arm].get("rate")) if arm in of else None for arm in ("A2", "A5", "A1", "A0")
        ]
        if name.startswith("length"):
            values = [of[arm].get("rate") if arm in of else None for arm in ("A2", "A5", "A1", "A0")]
        share = of.get("A2", {}).get("roofline_share")
        yield [name, *(f"{value:,.0f}" if value else "" for value in values), f"{share:.0%}" if share else ""]


def gpu_table(record: dict[str, Any]) -> str:
    """What ``gpubench.py`` measured on one device."""
    lines = [f"## {record['device']}{' (a dry run: no measurement)' if record['dry_run'] else ''}"]
    for pair, part in record.get("decoding", {}).items():
        lines.append(f"Contrastive decoding, {pair} shapes, random weights, {part['dtype']}; tokens per second:")
        head = [
            "",
            "ours",
            "the expert alone",
            "`generate`, amateur in a processor",
            "no cache",
            "ours of the roofline",
        ]
        lines += [_table(head, _decoding_rows(part["cells"])), _targets(part["targets"])]
    if "training" in record:
        lines.append("Training a Llama-2-7B shape, bf16 weights with float32 masters:")
        lines += [_training_table(record["training"]["arms"]), _targets(record["training"]["targets"])]
    if "tests" in record:
        lines.append(
            "Tests marked `gpu`: {tests}, of which {failures} failed and {skipped} were skipped.".format(
                **record["tests"]
            )
        )
    return "\n\n".join(lines)


def _training_table(arms: list[dict[str, Any]]) -> str:
    rows = []
    for arm in arms:
        if "failed" in arm:
            rows.append([arm["name"], arm["failed"], "", "", ""])
            continue
        shares = [arm["mfu_of_measured"], arm["mfu_of_datasheet"]]
        cells = [f"{share:.1%}" if share else "" for share in shares]
        rows.append([arm["name"], f"{arm['tokens_per_s']:,.0f}", *cells, f"{arm.get('peak_gib') or 0:.0f}"])
    return _table(["", "tokens per second", "of the measured product", "of the datasheet", "peak GiB"], rows)


def _targets(targets: list[dict[str, Any]]) -> str:
    values = [f"{t['value']:.3g}" if t["value"] is not None else "no value" for t in targets]
    return "\n".join(f"- {t['name']}: {value}; target {_verdict(t)}" for t, value in zip(targets, values, strict=True))


def make_tables(folder: Path) -> dict[str, str]:
    """The page's tables by their markers; raises TacitError where there is no record."""
    files = sorted(folder.glob("*.json"))
    ratios = [records.read(path) for path in files if not path.name.startswith("gpu-")]
    if not ratios:
        raise TacitError(f"no bench results in {folder}: run `make bench`")
    gpus = [gpu_table(records.read(path)) for path in files if path.name.startswith("gpu-")]
    return {"bench": ratio_table(ratios), "gpu": "\n\n".join(gpus)}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", metavar="PAGE", help="the page to write into, such as docs/speed.md")
    parser.add_argument("--folder", type=Path, default=records.folder(dry=False), help="default: outputs/bench")
    options = parser.parse_args(arguments)
    try:
        for marker, text in make_tables(options.folder).items():
            if options.write:
                replace_between(paths.resolve(options.write), f"<!-- {marker} -->", f"<!-- /{marker} -->", text)
            else:
                print(text)
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
