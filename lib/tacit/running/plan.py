"""Which notebooks run, and with which parameters: both are settled before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tacit.running.parameters import complete_parameters, notebook_parameters, read_params
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import read_yaml

WHOLE = ("micro", "full")  # profiles of which every notebook is run: an output that they lack is a fault


def find_notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks called ``names`` (with or without ``.ipynb``, or their number), each once, or all, in order.

    Raises TacitError for a name that no notebook has.
    """
    everything = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    if not names:
        return everything
    chosen = []
    for name in names:
        folder = Path(name).parent  # of another folder's notebook the name is not enough
        ours = folder == Path() or paths.NOTEBOOKS in (folder.resolve(), paths.resolve(folder).resolve())
        stem = Path(name).stem if name.endswith(".ipynb") and ours else name
        number = stem.zfill(2) if stem.isdigit() else stem
        hits = [p for p in everything if p.stem == stem or p.stem.split("_")[0] == number]
        if not hits:
            raise TacitError(f"no notebook {name!r}: there are {', '.join(p.stem for p in everything)}")
        chosen += hits
    return list(dict.fromkeys(chosen))


def was_run(stem: str, *, profile: str) -> bool:
    """Has the profile outputs of this notebook: metrics or an executed copy?"""
    return any((paths.OUTPUTS / profile / f"{stem}.{suffix}").exists() for suffix in ("json", "ipynb"))


def list_shown(profile: str) -> list[str]:
    """The notebooks that a profile's table shows: those that it has parameters for; for ``full`` also those of micro.

    A profile that need not be run as a ``WHOLE`` shows those that were, if any. All of them, where a profile that has
    outputs has no parameters. Raises TacitError for a profile that has neither.
    """
    if not any((folder / profile).is_dir() for folder in (paths.PARAMS, paths.OUTPUTS)):
        raise TacitError(f"unknown profile {profile!r}: outputs/{profile} is not there")
    folders = [profile, "micro"] if profile == "full" else [profile]
    known = {path.stem for folder in folders for path in (paths.PARAMS / folder).glob("*.yaml")}
    if profile not in WHOLE:
        known = {stem for stem in known if was_run(stem, profile=profile)} or known
    stems = [path.stem for path in find_notebooks([])]
    return [stem for stem in stems if stem in known] or stems


def choose_notebooks(names: Sequence[str], *, profile: str, overrides: Collection[str] = ()) -> list[Path]:
    """``find_notebooks``; without ``names``, those that the profile has parameters for (all, where it has none).

    Of the latter, those that have one of the parameters ``overrides``. Raises TacitError for a name that no notebook
    has, for a parameters file of no notebook, and for an override without effect: ``output``, since a run stages what
    it writes, or a parameter that one of ``names``, or every notebook, lacks.
    """
    if "output" in overrides:
        raise TacitError(f"-p output has no effect: a run with -p writes to outputs/{profile}-custom/; leave it out")
    chosen = find_notebooks(names)
    if not names:
        files = {path.stem for path in (paths.PARAMS / profile).glob("*.yaml")}
        stray = sorted(files - {path.stem for path in chosen})
        if 0 < len(stray) < len(files):
            raise TacitError(f"params/{profile}/{stray[0]}.yaml is of no notebook: rename it or take it away")
        chosen = [path for path in chosen if path.stem in files] or chosen
    if not overrides:
        return chosen
    declared = {path: notebook_parameters(path) for path in chosen}
    known = sorted({name for own in declared.values() for name in own})
    for name in overrides:
        having = [path for path in chosen if name in declared[path]]
        if not having:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise TacitError(f"unknown parameter {name!r}: none of the chosen notebooks has it{hint}")
        if names and having != chosen:
            other = next(path.stem for path in chosen if path not in having)
            raise TacitError(f"{other} has no parameter {name!r}, which -p gives: name the notebooks that have it")
    return [path for path in chosen if declared[path].keys() & set(overrides)]


def collect_overrides(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The texts given by ``-p``, by parameter; raises TacitError for a parameter that is given twice."""
    overrides: dict[str, str] = {}
    for name, text in given:
        if name in overrides:
            raise TacitError(f"-p {name} is given twice, as {overrides[name]!r:.80} and {text!r:.80}: give it once")
        overrides[name] = text
    return overrides


def plan_runs(
    notebooks: Sequence[Path], *, profile: str, overrides: Mapping[str, str]
) -> list[tuple[Path, dict[str, Any]]]:
    """Every notebook with its complete, checked parameters; raises TacitError before anything runs.

    An override goes to each notebook that has the parameter.
    """
    parsed = {}
    for name, text in overrides.items():
        try:
            parsed[name] = read_yaml(text)
        except ValueError as error:
            raise TacitError(f"-p {name}: {text!r:.200} is not a YAML value: {error}") from None
    planned = []
    for path in notebooks:
        declared = notebook_parameters(path)
        here = {name: value for name, value in parsed.items() if name in declared}
        where = f"params/{profile}/{path.stem}.yaml" + (" with -p" if here else "")
        planned.append((path, complete_parameters(path, read_params(profile, path.stem) | here, where=where)))
    return planned
