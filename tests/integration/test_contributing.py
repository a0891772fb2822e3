"""CONTRIBUTING.md's five steps, performed as they stand there in a copy of the repository."""

import re

import nbformat
import pytest
from pages import NAME, ROOT, blocks, copy_repository, find_row, free_name, perform
from tacit.running.metrics import read_metrics
from tacit.running.plan import list_shown
from tacit.running.tables import findings_table
from tacit.scoring.verdicts import VERDICTS
from tacit.support import provenance


def test_there_are_five_steps_each_with_its_commands():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = re.split(r"^\*\*(\d)\. ", page, flags=re.MULTILINE)[1:]
    assert steps[::2] == list("12345")
    assert all(text.count("```sh\n") == 1 for text in steps[1::2])
    assert len(blocks(ROOT / "CONTRIBUTING.md", "sh")) == 5


@pytest.mark.slow
def test_the_five_steps_lead_to_a_finding_in_the_table(tmp_path, session_cache, monkeypatch):
    if not (ROOT / ".git").is_dir() or provenance.commit() == "unknown" or provenance.is_shallow():
        pytest.skip("no git history here: the steps commit, and verify reads commits")
    root = copy_repository(tmp_path / "a copy", history=True)
    name = free_name(root)
    before = {path for path in root.rglob("*") if not {".cache", ".git"} & {*path.parts}}
    begin, smoke, parameters, micro, check = (
        perform(root, step.replace(NAME, name), cache=session_cache) for step in blocks(root / "CONTRIBUTING.md", "sh")
    )
    assert f"written: notebooks/{name}.ipynb" in begin
    title = f"{int(name[:2])}. My finding"
    for printed in (smoke, micro):
        verdict, found, main, *_ = find_row(printed, title)
        assert verdict in VERDICTS
        assert "the tuned models' win rate is " in found
        assert re.match(r"win rate, (instruction-)?tuned: \d\S+ \[\S+, \S+\]; asked: above 0\.5$", main)
    assert "training_set: str" in parameters
    for profile in ("micro", "full"):
        assert re.search(rf"^\d+ notebooks of the profile {profile}, 0 faults$", check, re.MULTILINE)
    assert re.search(r"\d+ passed", check)
    assert "failed" not in check
    ends = (".ipynb", ".json", ".png", "_levels.png")
    made = {f"outputs/{profile}/{name}{end}" for profile in ("smoke", "micro") for end in ends}
    made |= {f"params/{profile}/{name}.yaml" for profile in ("smoke", "micro")} | {f"notebooks/{name}.ipynb"}
    after = {path for path in root.rglob("*") if path.is_file() and not {".cache", ".git"} & {*path.parts}}
    new = {path.relative_to(root).as_posix() for path in after - before}
    assert {path for path in new if not re.search(r"__pycache__|^\.pytest|^\.ruff|\.lock$", path)} == made
    record = read_metrics(root / f"outputs/micro/{name}.json")
    assert record["finding"] == title
    executed = nbformat.read(root / f"outputs/micro/{name}.ipynb", as_version=4)
    [box] = [cell.source for cell in executed.cells if "answer" in cell.metadata.get("tags", [])]
    assert box.startswith(f"> **Answer: {record['verdict']}.** {record['answer']['found']}")
    source = nbformat.read(root / f"notebooks/{name}.ipynb", as_version=4)
    assert "{{" not in "".join(cell.source for cell in source.cells)
    monkeypatch.setattr("tacit.support.paths.OUTPUTS", root / "outputs")
    monkeypatch.setattr("tacit.support.paths.PARAMS", root / "params")
    monkeypatch.setattr("tacit.support.paths.NOTEBOOKS", root / "notebooks")
    page = (root / "README.md").read_text(encoding="utf-8")
    assert findings_table(list_shown("full"), profile="full") in page
    assert find_row(page, title)[0] == f"{record['verdict']} (micro)"
