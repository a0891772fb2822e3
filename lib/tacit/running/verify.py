"""Checking a profile's outputs: executed to their end, clean, and made from what the commits that they name hold."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat

from tacit.running.answers import TAG, write_answer
from tacit.running.metrics import read_metrics
from tacit.running.parameters import read_notebook, read_params
from tacit.running.plan import WHOLE, find_notebooks, list_shown, was_run
from tacit.running.staging import raise_links
from tacit.running.tables import findings_table
from tacit.support import paths, provenance
from tacit.support.errors import TacitError

ROOTS = "home|Users|tmp|root|work|opt|usr|mnt|data|srv|var|private|scratch|workspaces?|content|kaggle"
MACHINE_PATH = re.compile(rf"(?<![\w.<~])/(?:{ROOTS})(?=[/'\x22])|\b[A-Z]:\\")
WARNING = re.compile(r"\b\w*Warning: ")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, images aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/"):
                yield key
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def path_fault(value: Any, *, name: str) -> list[str]:
    """The first absolute path of a machine in a JSON value's texts, as a fault; images are not looked into."""
    here = re.compile(f"{MACHINE_PATH.pattern}|{re.escape(str(paths.ROOT))}")
    hits = (here.search(text) for text in _texts(value))
    return next(([f"{name} holds a path of a machine: {hit.string[hit.start() :][:40]!r}"] for hit in hits if hit), [])


def figure_fault(path: Path) -> str | None:
    """What is wrong with a figure's file: missing, no PNG, or cut off before its last chunk (none is decoded)."""
    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "missing or no PNG file"
    return None if content.endswith(b"IEND\xaeB`\x82") else "cut off before its end"


def execution_faults(executed: nbformat.NotebookNode, *, name: str) -> list[str]:
    """What an executed notebook has that it should not: cells out of order or not run, errors, warnings, paths."""
    faults = []
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        faults.append(f"{name} was not executed from its first cell to its last: its execution counts are {counts}")
    for number, cell in enumerate(code, start=1):
        plain = [output for output in cell.outputs if output.output_type != "error" and output.get("name") != "stderr"]
        if any(output.output_type == "error" for output in cell.outputs):
            faults.append(f"{name}, code cell {number} ended in an error")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            faults.append(f"{name}, code cell {number} wrote to stderr")
        if any(WARNING.search(text) for text in _texts(plain)):
            faults.append(f"{name}, code cell {number} shows a warning")
    return faults + path_fault(executed, name=name)


def _parse_notebook(content: bytes) -> nbformat.NotebookNode:
    """A notebook from the content of its file. Raises TacitError where it is none."""
    try:
        return nbformat.reads(content.decode("utf-8"), as_version=4)
    except Exception as error:  # nbformat raises several kinds for a malformed file
        raise TacitError(f"the notebook of the manifest's commit cannot be read: {error!r:.120}") from None


def _injected_values(cell: nbformat.NotebookNode) -> dict[str, Any]:
    """What papermill's cell assigns; raises ValueError where it does more than that."""
    values = {}
    for node in ast.parse(cell.source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            raise ValueError(f"line {node.lineno} is no assignment")
        values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def _story(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Kinds and sources of the cells that say what is done.

    Not those of parameters, whose values the manifest has. The run writes the source of the answer's Markdown cell
    (``answer_faults``), which counts as empty, and makes links right for the copy's folder.
    """
    story = []
    for cell in notebook.cells:
        tags = {*cell.metadata.get("tags", [])}
        if not tags & {"parameters", "injected-parameters"}:
            text = raise_links(cell.source) if cell.cell_type == "markdown" else cell.source
            story.append((cell.cell_type, "" if cell.cell_type == "markdown" and TAG in tags else text))
    return story


def answer_faults(executed: nbformat.NotebookNode, record: dict[str, Any], *, name: str) -> list[str]:
    """Whether an executed notebook has one box with the answer, which says what its metrics say, or neither has one."""
    boxes = [cell.source for cell in executed.cells if TAG in cell.metadata.get("tags", [])]
    if boxes == ([write_answer(record)] if "answer" in record else []):
        return []
    if "answer" in record and not boxes:
        return [f"{name}: its metrics have an answer, and no Markdown cell tagged `{TAG}` is there to show it"]
    return [f"{name}: the box with the answer is not what its metrics give: run it again"]


def source_faults(
    executed: nbformat.NotebookNode, source: nbformat.NotebookNode | None, *, parameters: Any, name: str
) -> list[str]:
    """Whether an executed notebook has the cells of ``source`` and one more, which sets ``parameters``.

    The cell of the defaults may differ, in a comment for example: the injected one sets every parameter anew. With
    ``source`` None, only the injected cell is looked at.
    """
    injected = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    faults = []
    if source is not None and _story(executed) != _story(source):
        faults.append(f"{name} is not the notebook of the commit that its manifest names: their cells differ")
    try:
        if len(injected) != 1 or _injected_values(injected[0]) != parameters:
            faults.append(f"{name} was not executed with its manifest's parameters")
    except (ValueError, SyntaxError) as error:
        faults.append(f"{name}: its cell of injected parameters cannot be read: {error}")
    return faults


def output_faults(source: Path, *, profile: str) -> list[str]:
    """The faults of the files that one notebook has in ``outputs/<profile>/``; one line each.

    The executed copy is held against the notebook of the commit that its manifest names, so that a later edit of the
    notebook is no fault (``find_changes`` notes it). Where git does not know the commit, cells are not compared.
    """
    folder, faults = paths.OUTPUTS / profile, []
    try:
        record = read_metrics(folder / f"{source.stem}.json")
        parameters = record["manifest"].get("parameters")
        if parameters != read_params(profile, source.stem):
            faults.append(f"{source.stem}.json: its parameters are not those of params/{profile}/{source.stem}.yaml")
        for name in record["figures"]:
            fault = figure_fault(folder / name)
            faults += [f"{source.stem}.json names the figure {name}, which is {fault}"] if fault else []
        faults += path_fault(record, name=f"{source.stem}.json")
    except TacitError as error:
        faults, parameters, record = [str(error)], None, None
    if not (folder / source.name).exists():
        return [*faults, f"outputs/{profile}/{source.name} is missing: the notebook has no executed copy"]
    try:
        executed = read_notebook(folder / source.name)
        faults += execution_faults(executed, name=source.name)
        commit = record["manifest"].get("commit") if record else None
        content = provenance.file_at(str(commit), source)
        origin = None if content is None else _parse_notebook(content)
        faults += source_faults(executed, origin, parameters=parameters, name=source.name)
        faults += answer_faults(executed, record, name=source.name) if record else []
    except TacitError as error:
        faults.append(str(error))
    return faults


def read_manifests(notebooks: Sequence[Path], *, profile: str) -> dict[Path, dict[str, Any]]:
    """The manifests of the notebooks whose metrics can be read; ``output_faults`` names the others."""
    manifests = {}
    for source in notebooks:
        with suppress(TacitError):
            manifests[source] = read_metrics(paths.OUTPUTS / profile / f"{source.stem}.json")["manifest"]
    return manifests


def origin_faults(source: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Whether the hashes in one notebook's manifest are those of the files at the commit that it names."""
    commit, name = str(manifest.get("commit")), f"{source.stem}.json"
    if not provenance.known_commit(commit):
        return [f"{name}: HEAD has no ancestor {commit} here (in a shallow clone: `git fetch --unshallow`)"]
    faults = []
    content = provenance.file_at(commit, source)
    if content is None or manifest.get("notebook_sha256") != hashlib.sha256(content).hexdigest():
        faults.append(f"{name}: its notebook's hash is not that of notebooks/{source.name} at commit {commit[:12]}")
    if manifest.get("library_sha256") != provenance.library_hash_at(commit):
        faults.append(f"{name}: its library's hash is not that of lib/ at commit {commit[:12]}")
    return faults


def table_faults(profile: str) -> list[str]:
    """Whether README.md shows the table of the outputs, if it has a place for this profile's."""
    try:
        text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot read README.md: {error}"]
    _, marker, rest = text.partition(f"<!-- table:{profile} -->")
    stems = list_shown(profile)
    if not marker or rest.partition("<!-- /table -->")[0].strip() == findings_table(stems, profile=profile):
        return []
    return [f"README.md does not show the table of outputs/{profile}: write it with `make table`"]


def orphan_faults(profile: str) -> list[str]:
    """The executed notebooks of a profile whose source in ``notebooks/`` or parameters are gone."""
    executed = sorted((paths.OUTPUTS / profile).glob("*.ipynb"))
    needed = {"notebooks": lambda path: paths.NOTEBOOKS / path.name}
    needed[f"params/{profile}"] = lambda path: paths.PARAMS / profile / f"{path.stem}.yaml"
    return [
        f"outputs/{profile}/{path.name} has no counterpart in {folder}: take it away"
        for path in executed
        for folder, counterpart in needed.items()
        if not counterpart(path).exists()
    ]


def find_changes(manifests: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """What is no fault but worth knowing: a notebook or lib/ that changed since, or changes that were not committed."""
    now, notes = provenance.library_hash_at("HEAD"), []
    for source, manifest in manifests.items():
        made = f"{source.stem} was made at {str(manifest.get('commit'))[:12]}"
        if manifest.get("library_sha256") != now:
            notes.append(f"{made}, and lib/ has changed since")
        if manifest.get("notebook_sha256") != provenance.file_hash(source):
            notes.append(f"{made}, and its notebook has changed since: run it again for outputs with the same cells")
        if manifest.get("dirty"):
            notes.append(f"{source.stem} was made in a checkout with changes that were not committed")
    return notes


def report(profile: str, *, say: Callable[[str], None] = print) -> int:
    """Check every notebook that the profile has parameters for, say one line per fault, and return how many there are.

    A notebook without any output is a fault of ``plan.WHOLE``'s profiles; of others a note says that it was not run.
    Reads files and git's objects only: nothing is executed, so it does not tell whether a second run would give the
    same numbers (tests/notebooks compares two). Raises TacitError for a profile that there is none of, or that
    was never run.
    """
    notebooks = [path for path in find_notebooks([]) if (paths.PARAMS / profile / f"{path.stem}.yaml").exists()]
    if not notebooks:
        raise TacitError(f"no notebook has parameters in params/{profile}")
    if not any((paths.OUTPUTS / profile).glob("*.[ij]*")):  # notebooks and metrics
        raise TacitError(
            f"outputs/{profile} has no executed notebook: run `python -m tacit run --profile {profile}` first"
        )
    lacking = [path for path in notebooks if profile not in WHOLE and not was_run(path.stem, profile=profile)]
    if lacking:
        say(f"note: not run here: {', '.join(path.stem for path in lacking)}")
    notebooks = [path for path in notebooks if path not in lacking]
    faults = [fault for source in notebooks for fault in output_faults(source, profile=profile)]
    if provenance.commit() == "unknown":
        faults.append("git does not answer here (not installed, no checkout, or another user's): commits go unchecked")
    else:
        manifests = read_manifests(notebooks, profile=profile)
        faults += [fault for source, manifest in manifests.items() for fault in origin_faults(source, manifest)]
        for line in find_changes(manifests):
            say(f"note: {line}")
    faults += orphan_faults(profile) + table_faults(profile)
    for fault in faults:
        say(f"fault: {fault}")
    say(f"{len(notebooks)} notebooks of the profile {profile}, {len(faults)} faults")
    return len(faults)
