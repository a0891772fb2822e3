"""A toy project for tests of the runner: one notebook, its profile ``toy``, and an earlier output."""

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tacit.__main__ import main
from tacit.support import paths

PARAMETERS = """
n: int = 3  # how many
rate: float = 0.5
name: str = "a"
seeds: list[int] = [1]
base: str | None = None
output: str = "outputs/smoke"
""".strip()
RECORD = """
from tacit.running import metrics
from tacit.support import paths
folder = paths.output_folder(output)
(folder / "n1_good.png").write_bytes(b"png")
metrics.write_metrics(folder / "n1_good.json", {
    "finding": "A finding", "claim": "A claim.", "claim_holds": False, "headline": {"arm": "a", "metric": "strict"},
    "results": [{"arm": "a", "metric": "strict", "value": rate, "low": 0.0, "high": 1.0, "n_seeds": 1, "n_prompts": n}],
    "paper": [{"arm": "a", "metric": "strict", "value": 0.4, "source": "a paper"}], "figures": ["n1_good.png"],
})
"""
VALUES = {"n": 4, "rate": 0.25, "name": "b", "seeds": [1, 2], "base": None, "output": "outputs/toy"}


def write_notebook(path, *cells, parameters=PARAMETERS):
    notebook_cells = [new_markdown_cell("# A finding")]
    if parameters is not None:
        notebook_cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook_cells += [new_code_cell(source) for source in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=notebook_cells, metadata=kernel), path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in a folder with a space in its name: one good notebook, one profile, an earlier output."""
    root = tmp_path / "a project"
    for name in ("notebooks", "params/toy", "outputs/toy"):
        (root / name).mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", root)
    for name in ("NOTEBOOKS", "PARAMS", "OUTPUTS"):
        monkeypatch.setattr(paths, name, root / name.lower())
    monkeypatch.setenv("TACIT_CACHE", str(root / "cache"))
    write_notebook(root / "notebooks/n1_good.ipynb", RECORD)
    (root / "params/toy/n1_good.yaml").write_text(yaml.safe_dump(VALUES))
    (root / "outputs/toy/n1_good.json").write_text("earlier")
    return root


def outputs(project):
    return {p.name: p.read_text() for p in (project / "outputs/toy").iterdir()}


def refused(project, capsys, *arguments):
    """The message of a run that must be refused without a traceback and without touching the outputs."""
    before = outputs(project)
    assert main(["run", "--profile", "toy", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert outputs(project) == before
    return captured.err


def fails(project, capsys, *cells):
    """The message of a run that starts and fails: exit status 1, outputs untouched, the notebook kept for reading."""
    write_notebook(project / "notebooks/n1_good.ipynb", *cells)
    before = outputs(project)
    assert main(["run", "--profile", "toy"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "Traceback" not in printed
    assert outputs(project) == before
    return printed
