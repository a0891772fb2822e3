"""A notebook begun from the template; tests/integration/test_contributing.py runs one."""

import errno
import os
import shutil

import pytest
import toys
from tacit.__main__ import main
from tacit.running import templates
from tacit.running.answers import TAG
from tacit.running.needs import read_needs
from tacit.running.parameters import complete_parameters, notebook_parameters, read_notebook, read_params
from tacit.support import paths
from tacit.support.errors import TacitError

SOURCE = paths.NOTEBOOKS / "template" / "finding.ipynb"
project = toys.project
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
    assert notebook.cells[0].source == "# Finding 12. My own finding"
    assert 'folder / "12_my_own_finding.json"' in text
    assert "{{" not in text
    assert "a template" not in text
    assert "This is the template" not in text
    assert len(notebook.cells) == len(read_notebook(SOURCE).cells) - 2
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code")
    defaults = {name: parameter.default for name, parameter in notebook_parameters(source).items()}
    assert read_params("smoke", "12_my_own_finding") == defaults
    micro = complete_parameters(source, read_params("micro", "12_my_own_finding"), where="micro")
    assert {name for name in micro if micro[name] != defaults[name]} == set(templates.MICRO)
    assert all(parameter.meaning for parameter in notebook_parameters(source).values())
    assert read_needs(source) == read_needs(SOURCE)
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


def test_what_cannot_be_written_whole_is_not_begun(ready, capsys, monkeypatch):
    replace, before = os.replace, files(ready)
    for full in ("12_mine.ipynb", "smoke/12_mine.yaml", "micro/12_mine.yaml", "params/README.md"):

        def move(source, target, full=full):
            if str(target).endswith(full):
                raise OSError(errno.ENOSPC, "No space left on device")
            return replace(source, target)

        monkeypatch.setattr(os, "replace", move)
        assert main(["new", "12_mine"]) == 2
        message = capsys.readouterr().err
        assert full in message
        assert "No space left on device; nothing was written" in message
        assert files(ready) == before

    def interrupt(source, target):
        if str(target).endswith("micro/12_mine.yaml"):
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    assert main(["new", "12_mine"]) == 130
    assert files(ready) == before
    monkeypatch.setattr(os, "replace", replace)
    (ready / "params/smoke").rmdir()
    assert main(["new", "12_mine"]) == 2
    assert "see that params/smoke/ is there" in capsys.readouterr().err
    assert files(ready) == before
    (ready / "params/smoke").mkdir()
    assert main(["new", "12_mine"]) == 0


def test_a_page_of_parameters_that_is_missing_is_said(ready, capsys):
    (ready / "params/README.md").unlink()
    before = files(ready)
    assert main(["new", "12_mine"]) == 2
    assert "cannot read params/README.md" in capsys.readouterr().err
    assert files(ready) == before


def test_a_new_notebook_has_the_cells_that_the_answer_and_the_figures_ask_for():
    cells = templates.fill_notebook(SOURCE, name="12_mine").cells
    assert [cell.metadata.get("tags", []) for cell in cells[:4]] == [[], [TAG], [], ["parameters"]]
    assert [cell.cell_type for cell in cells[:4]] == ["markdown"] * 3 + ["code"]
    drawing = [cell.source for cell in cells if "figures.draw_demands(" in cell.source]
    assert len(drawing) == 1 and 'path=folder / "12_mine.png"' in drawing[0]
    [verdict] = [cell.source for cell in cells if "metrics.write_metrics(" in cell.source]
    assert "**verdicts.conclude(rule, controls)," in verdict
    assert '"figures": [figure_name, levels_name]' in verdict  # the one that decides comes first
    sentences = "\n".join(cell.source for cell in cells)
    assert all(f"verdicts.{name}: " in sentences for name in ("HOLDS", "REFUTED", "UNDECIDED", "FAILS"))


def test_a_new_notebook_shows_a_papers_values(ready):
    """They are listed in one place, and reach the figure's open marks and the metrics."""
    cells = templates.fill_notebook(SOURCE, name="12_mine").cells
    [figure] = [cell.source for cell in cells if "figures.compare_arms(" in cell.source]
    assert figure.startswith("paper = []")
    assert "paper=paper" in figure
    assert any('"paper": paper,' in cell.source for cell in cells)
