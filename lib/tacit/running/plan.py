"""Which notebooks run, and with which parameters: both are settled before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tacit.running.parameters import complete_parameters, notebook_parameters, read_params
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import read_yaml


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks called ``names`` (with or without ``.ipynb``, or their number), each once, or all, in order.

    Raises TacitError for a name that no notebook has.
    """
    everything = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    if not names:
        return everything
    chosen = []
    for name in names:
        stem = Path(name).stem if name.endswith(".ipynb") else name
        number = stem.zfill(2) if stem.isdigit() else stem
        hits = [p for p in everything if p.stem == stem or p.stem.split("_")[0] == number]
        if not hits:
            raise TacitError(f"no notebook {name!r}: there are {', '.join(p.stem for p in everything)}")
        chosen += hits
    return list(dict.fromkeys(chosen))


def choose_notebooks(names: Sequence[str], *, profile: str) -> list[Path]:
    """``find_notebooks``; without ``names``, those that the profile has parameters for (all, where it has none)."""
    chosen = find_notebooks(names)
    if names:
        return chosen
    return [path for path in chosen if (paths.PARAMS / profile / f"{path.stem}.yaml").exists()] or chosen


def plan_runs(
    notebooks: Sequence[Path], *, profile: str, overrides: Mapping[str, str]
) -> list[tuple[Path, dict[str, Any]]]:
    """Every notebook with its complete, checked parameters; raises TacitError before anything runs.

    An override goes to each notebook that has the parameter; one that no notebook has is an error.
    """
    parsed = {}
    for name, text in overrides.items():
        try:
            parsed[name] = read_yaml(text)
        except ValueError:
            raise TacitError(f"-p {name}: {text!r} is not a YAML value") from None
    planned, known = [], set()
    for path in notebooks:
        declared = notebook_parameters(path)
        known |= set(declared)
        here = {name: value for name, value in parsed.items() if name in declared}
        where = f"params/{profile}/{path.stem}.yaml" + (" with -p" if here else "")
        planned.append((path, complete_parameters(path, read_params(profile, path.stem) | here, where=where)))
    refuse_unknown(parsed, known)
    return planned


def refuse_unknown(overrides: Collection[str], known: Collection[str]) -> None:
    """Raise TacitError, naming a near one of the ``known`` parameters, for the first override that is none of them."""
    unknown = next((name for name in overrides if name not in known), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, sorted(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TacitError(f"unknown parameter {unknown!r}: none of the chosen notebooks has it{hint}")
