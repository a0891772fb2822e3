"""A notebook of one's own, begun from ``notebooks/template/finding.ipynb``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from tacit.running.parameters import as_yaml, notebook_parameters, read_notebook
from tacit.support import files, paths
from tacit.support.errors import TacitError

# What the template's micro run does beyond its defaults, in seconds on two cores; a finding chooses its own values.
MICRO = {"seeds": [1, 2, 3], "n_test": 96, "output": "outputs/micro"}

# What params/README.md's table says of a new notebook in the papers' profiles; its legend explains it.
ELSEWHERE = "micro only"


def fill_notebook(template: Path, *, name: str) -> nbformat.NotebookNode:
    """The template with ``{{name}}`` and ``{{title}}`` filled in and ids for its cells; without outputs.

    Its cells tagged ``template-only``, which say that it is one and keep it from running as it stands, are left out.
    """
    number, words = int(name[:2]), name[3:].replace("_", " ")
    notebook = read_notebook(template)
    notebook.cells = [cell for cell in notebook.cells if "template-only" not in cell.metadata.get("tags", [])]
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{number:02d}-{i:02d}"
        cell.source = cell.source.replace("{{name}}", name)
        cell.source = cell.source.replace("{{title}}", f"{number}. {words[0].upper()}{words[1:]}")
    return notebook


def render_values(values: Mapping[str, Any], *, comment: str) -> str:
    """The text of a parameters file: a comment, then one value a line."""
    lines = [f"# {comment}", *(f"{name}: {as_yaml(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def write_together(texts: Mapping[Path, str]) -> None:
    """Write new files and, last, one that may be there, all or none: where one fails, the earlier are removed.

    Raises TacitError, saying what to do, for a file that cannot be written.
    """
    *new, _ = texts
    try:
        for path, text in texts.items():
            files.write_whole(path, text)
    except BaseException as error:
        for written in new:
            written.unlink(missing_ok=True)
        if isinstance(error, OSError):
            name = path.relative_to(paths.ROOT)
            raise TacitError(
                f"cannot write {name}: {error.strerror or error}; nothing was written: "
                f"see that {name.parent}/ is there and writable and that the disk has space, then try again"
            ) from None
        raise


def begin_notebook(name: str) -> list[Path]:
    """Write ``notebooks/<name>.ipynb``, its parameters for ``smoke`` and ``micro``, and a row of ``params/README.md``.

    The notebook runs as it stands: it tunes a model on one task and compares it with its base model, to be replaced.
    Returns the paths written to, relative to the repository. Raises TacitError, writing nothing, for a name that is
    not two digits and lower-case words with ``_`` between them, a number that another notebook has, files that are
    already there, and a file that cannot be written.
    """
    if not re.fullmatch(r"[0-9]{2}(_[a-z0-9]+)+", name) or len(name) > 80:
        raise TacitError(f"a notebook's name is two digits and lower-case words, such as 90_my_finding, not {name!r}")
    taken = next((p for p in sorted(paths.NOTEBOOKS.glob("*.ipynb")) if p.stem.split("_")[0] == name[:2]), None)
    if taken is not None:
        free = 1 + max(int(p.stem[:2]) for p in paths.NOTEBOOKS.glob("*.ipynb") if p.stem[:2].isdigit())
        raise TacitError(f"the number {name[:2]} is {taken.stem}'s; {free:02d} is free")
    source = paths.NOTEBOOKS / f"{name}.ipynb"
    files = {profile: paths.PARAMS / profile / f"{name}.yaml" for profile in ("smoke", "micro")}
    there = next((path for path in files.values() if path.exists()), None)
    if there is not None:
        raise TacitError(f"{there.relative_to(paths.ROOT)} is there already, from another notebook: move it away")
    readme = paths.PARAMS / "README.md"
    try:
        lines = readme.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"cannot read params/README.md, which gets a row: {error}") from None
    rows = [i for i, line in enumerate(lines) if re.match(r"\| \d\d_", line)]
    if not rows:
        raise TacitError("params/README.md has no table of notebooks and profiles to add a row to")
    template = paths.NOTEBOOKS / "template" / "finding.ipynb"
    defaults = {key: parameter.default for key, parameter in notebook_parameters(template).items()}
    smoke = "Seconds: does it run? The same values as the notebook's own defaults."
    micro = "Say here what this run is, and how its values were chosen."
    cells = lines[rows[-1]].count("|") - 2
    lines.insert(rows[-1] + 1, f"| {name} |" + f" {ELSEWHERE} |" * cells)
    texts = {
        source: nbformat.writes(fill_notebook(template, name=name)) + "\n",
        files["smoke"]: render_values(defaults, comment=smoke),
        files["micro"]: render_values(defaults | MICRO, comment=micro),
        readme: "\n".join(lines),
    }
    write_together(texts)
    return [path.relative_to(paths.ROOT) for path in texts]
