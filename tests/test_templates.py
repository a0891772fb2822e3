"""A notebook begun from the template; tests/test_contributing.py runs one."""

import shutil

import pytest
import test_runner
from tacit import paths, templates
from tacit.__main__ import main
from tacit.errors import TacitError
from tacit.parameters import complete_parameters, notebook_parameters, read_notebook, read_params

SOURCE = paths.NOTEBOOKS / "template" / "finding.ipynb"
project = test_runner.project
TABLE = "# Parameters\n\n| notebook | toy | other |\n|---|---|---|\n| 00_first | yes | world |\n\nMore.\n"


@pytest.fixture
def ready(project):
    """The toy project with the template, the two profiles and a table."""
    (project / "notebooks/template").mkdir()
    shutil.copy(SOURCE, project / "notebooks/template/finding.ipynb")
    (project / "notebooks/n1_good.ipynb").rename(project / "notebooks/11_good.ipynb")
    for profile in ("smoke", "micro"):
        (project / "params" / profile).mkdir()
    (project / "params/README.md").write_text(TABLE)
    return project


def files(project):
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_it_writes_notebook_parameters_and_row(ready, capsys):
    assert main(["new", "12_my_own_finding"]) == 0
    printed = capsys.readouterr().out
    source = ready / "notebooks/12_my_own_finding.ipynb"
    notebook = read_notebook(source)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "# 12. My own finding\n" in text
    assert 'folder / "12_my_own_finding.json"' in text
    assert "{{" not in text
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")
    defaults = {name: parameter.default for name, parameter in notebook_parameters(source).items()}
    assert read_params("smoke", "12_my_own_finding") == defaults
    micro = complete_parameters(source, read_params("micro", "12_my_own_finding"), where="micro")
    assert {name for name in micro if micro[name] != defaults[name]} == set(templates.MICRO)
    assert all(parameter.meaning for parameter in notebook_parameters(source).values())
    row = "| 00_first | yes | world |\n| 12_my_own_finding | micro only | micro only |\n\nMore.\n"
    assert (ready / "params/README.md").read_text() == TABLE.split("| 00")[0] + row
    for path in ("notebooks/12_my_own_finding.ipynb", "params/smoke/12_my_own_finding.yaml", "params/README.md"):
        assert f"written: {path}" in printed


@pytest.mark.parametrize(
    "name", ["my_finding", "12", "12_", "12_My", "12 mine", "1_mine", "../12_mine", "12_a/b", "12_mine.ipynb"]
)
def test_other_names_are_refused(ready, name):
    before = files(ready)
    with pytest.raises(TacitError, match="two digits and lower-case words"):
        templates.begin_notebook(name)
    assert files(ready) == before


def test_what_is_there_is_never_overwritten(ready, capsys):
    before = files(ready)
    assert main(["new", "11_mine"]) == 2
    assert "the number 11 is 11_good's; 12 is free" in capsys.readouterr().err
    assert files(ready) == before
    (ready / "params/micro/12_mine.yaml").write_text("n: 1\n")
    before = files(ready)
    with pytest.raises(TacitError, match=r"params/micro/12_mine\.yaml is there already"):
        templates.begin_notebook("12_mine")
    (ready / "params/README.md").write_text("no table\n")
    with pytest.raises(TacitError, match="no table"):
        templates.begin_notebook("13_mine")
    assert files(ready) == before | {ready / "params/README.md": b"no table\n"}
