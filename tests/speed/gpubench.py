"""Tests and speed on a GPU: the tests marked ``gpu``, decoding (``decodebench``) and training (``trainbench``).

``python tests/speed/gpubench.py`` writes ``outputs/bench/gpu-<device>.json``; ``--dry-run`` shows anywhere that it runs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import records
from decodebench import PAIRS, measure_decoding
from tacit.support import paths
from tacit.support.errors import TacitError
from timing import Say
from trainbench import measure_training

PARTS = ("tests", "decoding", "training")


def run_tests() -> dict[str, Any]:
    """Run the tests marked ``gpu``; how many passed, failed and were skipped. Raises TacitError when one failed."""
    began = time.monotonic()
    marked = [
        path for path in sorted((paths.ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()
    ]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run([*command, *map(str, marked)], cwd=paths.ROOT, check=False)
        if done.returncode:
            raise TacitError(f"the tests marked gpu failed (pytest ended with {done.returncode}): see above")
        suite = ElementTree.parse(report).getroot().find("testsuite")
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    return counts | {"seconds": round(time.monotonic() - began, 1)}


def run_part(
    part: str, *, pair: str, dry_run: bool, budget_s: float, out: Path | None = None, say: Say = print
) -> Path:
    """Run one part and add it to the result file, whose path it returns.

    Parts of the same commit, source and device stay; a file of another is begun anew. A part that fails writes nothing.
    """
    out = records.folder(dry=dry_run) / f"gpu-{records.device_slug()}.json" if out is None else out
    earlier = records.read(out) if out.exists() else {}  # before the measurement: an unreadable one would cost it
    record, options = records.heading(dry_run=dry_run), {"dry_run": dry_run, "budget_s": budget_s, "say": say}
    same = all(earlier.get(key) == record[key] for key in ("device", "dry_run", "commit", "library_sha256"))
    if earlier and not same:
        say(f"{out.name} is of another commit or device: begun anew")
    record |= {key: earlier[key] for key in ("started", *PARTS) if same and key in earlier}
    if part == "tests":
        record["tests"] = run_tests()
    elif part == "training":
        record["training"] = measure_training(**options)
    else:
        record["decoding"] = record.get("decoding", {}) | {pair: measure_decoding(pair, **options)}
    return records.write(out, record)


def main(arguments: list[str] | None = None) -> int:
    """Run the wanted parts with the options of the command line; each is added to the result file as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="all of them in this order by default")
    parser.add_argument("--pair", choices=list(PAIRS), help="the shape of the decoded models; both by default")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on any device: shows that it runs, no more")
    parser.add_argument(
        "--budget-s", type=float, default=420.0, help="seconds for a part or pair; repeats shrink to it (default: 420)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="another file; parts of the same commit are merged")
    options = parser.parse_args(arguments)
    settings = {"dry_run": options.dry_run, "budget_s": options.budget_s, "out": options.out}

    def work() -> Path:
        for part in [options.part] if options.part else PARTS:
            pairs = [options.pair] if options.pair or part != "decoding" else list(PAIRS)
            for pair in pairs:
                path = run_part(part, pair=pair, say=partial(print, flush=True), **settings)
        return path

    return records.run_script(work, dry=options.dry_run)


if __name__ == "__main__":
    sys.exit(main())
