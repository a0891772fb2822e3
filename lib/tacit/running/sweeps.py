"""One parameter over several values: a run for each, and the curve of the notebook's main number over them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tacit.running import figures, runner
from tacit.running.metrics import describe_result, find_result, read_metrics, verdict_of
from tacit.running.parameters import Parameter, as_yaml, notebook_parameters
from tacit.running.plan import choose_notebooks, plan_runs
from tacit.running.staging import promote
from tacit.running.tables import text_row
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.support.files import read_yaml, write_json


def split_values(text: str, parameter: Parameter) -> list[str] | None:
    """The values of a sweep in ``-p NAME TEXT``, each as YAML, or None where ``text`` is one value.

    A parameter of one number or truth value is swept by values with commas between them (``0,0.25,1``), or by a YAML
    list (``[0, 0.25, 1]``). One that may be a text needs the list: a comma can be part of a text. A parameter that
    takes a list or a mapping keeps its YAML and is never swept. Raises TacitError for an empty value, a list of
    anything but single values, and a comma that could mean both.
    """
    kinds = set(re.findall(r"\w+", parameter.annotation))
    if kinds & {"list", "dict"} or "," not in text or text.lstrip().startswith(('"', "'", "{")):
        return None
    where = f"-p {parameter.name} {text:.200}"
    if text.lstrip().startswith("["):
        try:
            given = read_yaml(text)
        except ValueError:
            raise TacitError(f"{where}: this is not a YAML list") from None
        if not isinstance(given, list) or not all(isinstance(v, str | int | float | None) for v in given):
            raise TacitError(f"{where}: a sweep of {parameter.name} is a list of single values")
        return [as_yaml(value) for value in given]
    if "str" in kinds:
        ways = f"write '\"{text}\"' for the text, '[{text.split(',')[0]}, ...]' for the sweep"
        raise TacitError(f"{where}: this is one text with a comma in it, or a sweep: {ways}")
    values = [value.strip() for value in text.split(",")]
    if "" in values:
        raise TacitError(f"{where}: value {values.index('') + 1} of the sweep is empty")
    return values


def find_sweep(notebooks: Sequence[Path], overrides: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The one parameter that ``overrides`` sweep over these notebooks, with its values as YAML, or None.

    Raises TacitError as ``split_values`` does, for a parameter that is single in one notebook and a list in another,
    and for more than one sweep at a time.
    """
    sweeps = {}
    for name, text in overrides.items():
        having = {path.stem: declared for path in notebooks if name in (declared := notebook_parameters(path))}
        ways = {stem: split_values(text, declared[name]) for stem, declared in having.items()}
        swept = [stem for stem, values in ways.items() if values]
        if swept and len(swept) < len(ways):
            other = next(stem for stem in ways if stem not in swept)
            raise TacitError(
                f"-p {name} {text}: {name} is one value in {swept[0]} and not in {other}; name one of them"
            )
        if swept:
            sweeps[name] = ways[swept[0]]
    if len(sweeps) > 1:
        raise TacitError(f"a sweep is over one parameter at a time, not over {' and '.join(sweeps)}")
    return next(iter(sweeps.items()), None)


def name_folders(name: str, values: Sequence[Any]) -> list[str]:
    """A folder's name for each value, ``name=value``, in characters that every file system takes.

    No two are the same, also where a file system does not tell ``A`` from ``a``.
    """
    folders: list[str] = []
    for value in values:
        folder = plain = f"{name}={re.sub(r'[^A-Za-z0-9_.+-]+', '-', str(value))[:60]}"
        number = 1
        while folder.lower() in {other.lower() for other in folders}:
            number += 1
            folder = f"{plain}-{number}"
        folders.append(folder)
    return folders


def draw_curve(points: Sequence[Mapping[str, Any]], *, parameter: str, title: str) -> Figure:
    """The main numbers and intervals over the values of ``parameter``; numbers lie to scale, others side by side.

    ``points`` are ``read_point``'s. Those with the same arm and metric are one line: a notebook may choose its main
    arm by its parameters. Positive values whose largest is at least 100 times the smallest are drawn to a logarithmic
    scale.
    """
    figures.set_theme()
    figure, axes = plt.subplots(figsize=(7, 4.2))
    values = [point["parameter"] for point in points]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    groups: dict[str, list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault(f"{point['metric']}, {point['arm']}", []).append(i)
    lines = []
    for label, members in groups.items():
        places = sorted(members, key=lambda i: values[i]) if numeric else members
        rows = [points[i] for i in places]
        errors = [[r["value"] - r["low"] for r in rows], [r["high"] - r["value"] for r in rows]]
        across = [values[i] for i in places] if numeric else places
        label = figures.as_written(label)
        lines.append(axes.errorbar(across, [r["value"] for r in rows], yerr=errors, fmt="o-", capsize=3, label=label))
    if not numeric:
        axes.set_xticks(range(len(values)), [figures.as_written(str(v)) for v in values], rotation=20, ha="right")
    elif min(values) > 0 and max(values) >= 100 * min(values):
        axes.set_xscale("log")
    axes.set(xlabel=parameter, ylabel="main number (95% interval)", title=figures.as_written(title))
    axes.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.1))  # so that a label may begin with _
    return figure


def curve_table(curve: Mapping[str, Any]) -> str:
    """A Markdown table of a sweep: one row per value, in the order given; runs that failed are marked."""
    rows = [text_row([curve["parameter"], "verdict", "main number, 95% interval", "outputs"]), "|---|---|---|---|"]
    for point in curve["points"]:
        main = describe_result(point)
        rows.append(text_row([as_yaml(point["parameter"]), point["verdict"], main, point["folder"]]))
    rows += [text_row([as_yaml(value), "failed", "", ""]) for value in curve["failed"]]
    return "\n".join(rows)


def read_point(path: Path, parameters: Mapping[str, Any], folder: str, *, name: str) -> dict[str, Any]:
    """The point of one finished run on the curve: the value of ``name``, the verdict, and the main number's result row.

    Raises TacitError where the metrics in ``outputs/<folder>/`` are not of a run with ``parameters``: another sweep
    over the same value, with other parameters beside it, may have replaced them meanwhile.
    """
    record = read_metrics(paths.OUTPUTS / folder / f"{path.stem}.json")
    if record["manifest"].get("parameters") != json.loads(json.dumps(parameters)):
        place = f"outputs/{folder}/{path.stem}.json"
        raise TacitError(f"{place} is of a run with other parameters, which replaced this sweep's; sweep again")
    row = find_result(record, **record["headline"])
    return {"parameter": parameters[name], "verdict": verdict_of(record), "folder": f"outputs/{folder}", **row}


def write_curve(path: Path, points: Sequence[Mapping[str, Any]], *, name: str, profile: str, **about) -> dict[str, Any]:
    """Write one notebook's curve as JSON and PNG into ``outputs/<profile>-custom/``, both or none; returns it.

    ``points`` are ``read_point``'s; ``about`` is kept in the JSON. Raises TacitError where the files cannot be written.
    """
    stem, target = f"{path.stem}-sweep-{name}", paths.OUTPUTS / f"{profile}-custom"
    figure = draw_curve(points, parameter=name, title=path.stem)
    curve = {"notebook": path.stem, "parameter": name, "profile": profile, **about, "points": list(points)}
    try:
        with tempfile.TemporaryDirectory(prefix=".staging-", dir=target, ignore_cleanup_errors=True) as folder:
            curve["figure"] = figures.save_figure(figure, Path(folder) / f"{stem}.png")
            write_json(Path(folder) / f"{stem}.json", curve)
            promote(Path(folder), target)
    except OSError as error:
        raise TacitError(
            f"cannot write the curve {stem} to outputs/{profile}-custom: {error.strerror or error}; "
            "make the folder writable or free some space, and sweep again"
        ) from None
    return curve


def sweep(
    notebooks: Sequence[Path],
    *,
    name: str,
    values: Sequence[str],
    profile: str,
    overrides: Mapping[str, str],
    jobs: int = 1,
    say: runner.Say = print,
) -> int:
    """Run each notebook once for each of the ``values`` (YAML) of the parameter ``name``; returns how many runs failed.

    The runs' outputs go to ``outputs/<profile>-custom/<name>=<value>/``, replacing those of an earlier sweep over the
    same value; the curve, of this sweep's runs alone, is ``<notebook>-sweep-<name>.json`` and ``.png`` in the folder
    above. ``overrides`` are the other parameters given, the same in all runs. A run that failed, or whose output
    another run replaced, is left out of the curve and named; where none is left, an earlier curve stays as it is.
    Raises TacitError, before anything runs, for a value of another type and a value given twice; afterwards for a curve
    that cannot be written.
    """
    plans = [plan_runs(notebooks, profile=profile, overrides={**overrides, name: value}) for value in values]
    typed = [[parameters[name] for _, parameters in plan] for plan in plans]
    twice = next((values[i] for i, value in enumerate(typed) if value in typed[:i]), None)
    if twice is not None:
        raise TacitError(f"-p {name}: the value {twice} stands twice in the sweep")
    folders = [f"{profile}-custom/{folder}" for folder in name_folders(name, [value[0] for value in typed])]
    planned = [(path, given, folder) for plan, folder in zip(plans, folders, strict=True) for path, given in plan]
    say(f"a sweep of {name} over {', '.join(values)}")
    failed = set(runner.run_planned(planned, profile=profile, jobs=jobs, say=say))
    about = {"profile": profile, "overrides": dict(overrides), "commit": provenance.commit()}
    for k, path in enumerate(notebooks):
        points, lost = [], []
        for i in range(k, len(planned), len(notebooks)):
            _, parameters, folder = planned[i]
            try:
                if i not in failed:
                    points.append(read_point(path, parameters, folder, name=name))
            except TacitError as error:
                failed.add(i)
                say(f"    {error}")
            if i in failed:
                lost.append(parameters[name])
        if points:
            curve = write_curve(path, points, name=name, failed=lost, **about)
            say(f"\n{path.stem}\n{curve_table(curve)}\nthe curve: outputs/{profile}-custom/{curve['figure']}")
    return len(failed)


def run(
    names: Sequence[str], *, profile: str, overrides: Mapping[str, str], jobs: int = 1, say: runner.Say = print
) -> int:
    """``runner.run``, or a sweep where ``overrides`` hold one; returns how many runs failed.

    A sweep without ``names`` is of the profile's notebooks that have the parameter.
    """
    notebooks = choose_notebooks(names, profile=profile, overrides=overrides)
    swept = find_sweep(notebooks, overrides)
    if swept is None:
        return runner.run(names, profile=profile, overrides=dict(overrides), jobs=jobs, say=say)
    name, values = swept
    if not names:
        notebooks = [path for path in notebooks if name in notebook_parameters(path)]
    others = {key: text for key, text in overrides.items() if key != name}
    return sweep(notebooks, name=name, values=values, profile=profile, overrides=others, jobs=jobs, say=say)
