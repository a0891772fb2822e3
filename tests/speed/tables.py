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


ARMS = {"A2": "ours", "A5": "the expert alone", "A1": "`generate`, the amateur in a processor", "A0": "no cache"}


def decoding_table(part: dict[str, Any]) -> str:
    """The decoding of one pair: a row for each batch size on rows of one length, and one (0) for the length mix."""
    cells = {(cell["batch"] if cell["lengths"] == "fixed" else 0, cell["arm"]): cell for cell in part["cells"]}
    rows = []
    for batch in sorted({batch for batch, _ in cells}, key=lambda batch: batch or 10**9):
        row = [f"batch {batch}" if batch else "length mix"]
        for arm in ARMS:
            cell = cells.get((batch, arm), {})
            rate = cell.get("decode_rate" if batch else "rate", cell.get("rate"))
            row.append(f"{rate:,.0f}" if rate else cell.get("failed", ""))
        share = cells.get((batch, "A2"), {}).get("roofline_share")
        rows.append([*row, f"{share:.0%}" if share else ""])
    return _table(["", *(f"{name} ({arm})" for arm, name in ARMS.items()), "A2 of the roofline"], rows)


def training_table(arms: list[dict[str, Any]]) -> str:
    """The arms of training."""
    rows = []
    for arm in arms:
        shares = [arm.get("mfu_of_measured"), arm.get("mfu_of_datasheet")]
        rate = f"{arm['tokens_per_s']:,.0f}" if "tokens_per_s" in arm else arm["failed"]
        peak = f"{arm['peak_gib']:.0f}" if arm.get("peak_gib") else ""
        rows.append([arm["name"], rate, *(f"{share:.1%}" if share else "" for share in shares), peak])
    return _table(["", "tokens per second", "of the measured product", "of the datasheet", "peak GiB"], rows)


def _targets(targets: list[dict[str, Any]]) -> str:
    values = [f"{t['value']:.3g}" if t["value"] is not None else "no value" for t in targets]
    return "\n".join(f"- {t['name']}: {value}; target {_verdict(t)}" for t, value in zip(targets, values, strict=True))


def gpu_table(record: dict[str, Any]) -> str:
    """What ``gpubench.py`` measured on one device."""
    lines = [f"## {record['device']}{' (a dry run: no measurement)' if record['dry_run'] else ''}"]
    for pair, part in record.get("decoding", {}).items():
        runs = " or ".join(str(n) for n in sorted({cell["repeats"] for cell in part["cells"]}))
        kinds = "rows of one length, after their prompts, and a mix of lengths, prompts included"
        lines.append(f"Contrastive decoding, {pair} shapes, {part['dtype']}. Tokens per second: {kinds}. Runs: {runs}.")
        lines += [decoding_table(part), _targets(part["targets"])]
    if "training" in record:
        lines.append("Training a Llama-2-7B shape, bf16 weights with float32 masters:")
        lines += [training_table(record["training"]["arms"]), _targets(record["training"]["targets"])]
    if "tests" in record:
        tests = record["tests"]
        lines.append(f"Tests marked `gpu`: {tests['tests']}, of which {tests['skipped']} were skipped and none failed.")
    return "\n\n".join(lines)


def peer_table(record: dict[str, Any]) -> str:
    """What ``peerbench.py`` measured: a row per arm and number of threads."""
    rows = []
    for arm in record["arms"]:
        rate = f"{arm['rate']:.0f} [{arm['rate_min']:.0f}, {arm['rate_max']:.0f}]"
        rows.append([arm["name"], str(arm["threads"]), rate, f"{arm['peak_gb']:.1f}", f"{arm['equal_texts']:.0%}"])
    head = ["", "threads", "tokens per second, median [least, most]", "peak of memory, GB", "equal to the first"]
    about = (
        f"{record['model']} on {record['device']}, {record['started'][:10]}: greedy responses to {record['prompts']} "
        f"prompts of finding 20, at most {record['tokens']} new tokens; the time includes reading the prompts. "
        f"llama-cpp-python {record['llama-cpp-python']}, compiled for this processor. Runs: {record['repeats']}, in "
        "turns. The peak of memory is the whole process's, torch included, which llama.cpp alone does not need."
    )
    return f"{about}\n\n{_table(head, rows)}"


def make_tables(folder: Path) -> dict[str, str]:
    """The page's tables by their markers; raises TacitError where there is no record."""
    files = sorted(folder.glob("*.json"))
    ratios = [records.read(path) for path in files if not path.name.startswith(("gpu-", "peer-"))]
    if not ratios:
        raise TacitError(f"no bench results in {folder}: run `make bench`")
    gpus = [gpu_table(records.read(path)) for path in files if path.name.startswith("gpu-")]
    peers = [peer_table(records.read(path)) for path in files if path.name.startswith("peer-")]
    return {"bench": ratio_table(ratios), "gpu": "\n\n".join(gpus), "peer": "\n\n".join(peers)}


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
