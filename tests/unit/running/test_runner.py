"""The runner on small notebooks made here: what passes, what is refused, and what stays untouched."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tacit.__main__ import main
from tacit.running import runner
from tacit.running.metrics import read_metrics, write_metrics
from tacit.running.parameters import notebook_parameters
from tacit.support import paths
from tacit.support.errors import TacitError

PARAMETERS = 'n: int = 3  # how many\nrate: float = 0.5\nname: str = "a"\nseeds: list[int] = [1]\nbase: str | None = None\noutput: str = "outputs/smoke"'
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
    made = [new_markdown_cell("# A finding")]
    if parameters is not None:
        made.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [new_code_cell(source) for source in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=made, metadata=kernel), path)


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


def test_a_good_run_promotes_notebook_figure_and_metrics_with_a_manifest(project, capsys):
    assert main(["run", "--profile", "toy"]) == 0  # a claim that fails is no failure
    record = read_metrics(project / "outputs/toy/n1_good.json")
    manifest = record["manifest"]
    assert manifest["parameters"] == VALUES
    assert manifest["seeds"] == [1, 2]
    assert manifest["commit"] == "unknown"  # the toy project is no git checkout
    assert {"notebook_sha256", "library_sha256", "packages", "device", "wall_seconds"} <= set(manifest)
    executed = nbformat.read(project / "outputs/toy/n1_good.ipynb", as_version=4)
    code = [c for c in executed.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert str(project) not in (project / "outputs/toy/n1_good.ipynb").read_text()
    assert sorted(outputs(project)) == ["n1_good.ipynb", "n1_good.json", "n1_good.png"]
    printed = capsys.readouterr().out
    assert "[1/1] n1_good" in printed
    assert "| A finding | no | strict, a: 0.250 [0.000, 1.000] | 0.400 |" in printed
    assert runner.expected_seconds(project / "notebooks/n1_good.ipynb", "toy") > 0


def test_a_cache_that_cannot_be_written_is_named_before_anything_runs(project, capsys, monkeypatch):
    (project / "a file").touch()
    monkeypatch.setenv("TACIT_CACHE", str(project / "a file/cache"))
    assert "cannot write to the cache" in (said := refused(project, capsys)) and "TACIT_CACHE" in said


def test_the_manifest_names_the_code_that_ran_even_if_it_was_edited_since(project, monkeypatch):
    imported = runner.provenance.library_hash()
    monkeypatch.setattr(runner.provenance, "library_hash", lambda: "what this process imported before the edit")
    assert main(["run", "--profile", "toy"]) == 0
    assert read_metrics(project / "outputs/toy/n1_good.json")["manifest"]["library_sha256"] == imported


def test_plain_papermill_gives_the_same_metrics(project, tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_STAGING", str(tmp_path))
    papermill.execute_notebook(
        project / "notebooks/n1_good.ipynb", tmp_path / "out.ipynb", parameters=VALUES, progress_bar=False
    )
    assert read_metrics(tmp_path / "n1_good.json")["results"][0]["value"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "rte", "0.5"], ["unknown parameter 'rte'", "did you mean rate?"]),
        (["-p", "zzz", "0.5"], ["unknown parameter 'zzz': none of the chosen notebooks has it\n"]),
        (["-p", "seeds", "[1"], ["-p seeds", "not a YAML value"]),
        (["-p", "n", "many"], ["parameter n", "int", "'many'"]),
        (["-p", "n", "true"], ["parameter n", "int"]),
        (["-p", "rate", "2e-5"], ["parameter rate", "2.0e-5"]),
        (["-p", "seeds", "[1, two]"], ["parameter seeds", "list[int]"]),
        (["-p", "name", "null"], ["parameter name", "str"]),
        (["nothing"], ["no notebook 'nothing'", "n1_good"]),
        (["--profile", "nowhere"], ["unknown profile 'nowhere'", "toy"]),
    ],
)
def test_bad_arguments_are_named(project, capsys, arguments, words):
    message = refused(project, capsys, *arguments)
    assert all(word in message for word in words), message


def test_missing_params_file_is_named(project, capsys):
    (project / "params/toy/n1_good.yaml").rename(project / "params/toy/other.yaml")
    assert "params/toy/n1_good.yaml is missing" in refused(project, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must map"),
        ("a: [", "cannot read"),
        (yaml.safe_dump(VALUES | {"extra": 1}), "unknown parameter 'extra'"),
        (yaml.safe_dump({k: v for k, v in VALUES.items() if k != "rate"}), "'rate' is missing"),
        (yaml.safe_dump(VALUES | {"n": "4"}), "parameter n must be int"),
    ],
)
def test_bad_params_files_are_named(project, capsys, content, message):
    (project / "params/toy/n1_good.yaml").write_text(content)
    error = refused(project, capsys)
    assert message in error
    assert "params/toy/n1_good.yaml" in error


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "exactly one code cell tagged `parameters`"),
        ("n: int = 3\nm = 4", "line 2"),
        ("n: int = 3 + 4 * x", "not a literal"),
        ("n: int = 'three'", "parameter n must be int"),
        ("n: complex = 3", "complex is not supported"),
        ("n: int = (", "does not parse"),
    ],
)
def test_bad_parameters_cells_are_named(project, capsys, parameters, message):
    write_notebook(project / "notebooks/n1_good.ipynb", RECORD, parameters=parameters)
    error = refused(project, capsys)
    assert message in error
    assert "n1_good.ipynb" in error


def test_two_parameters_cells_and_broken_files_are_refused(project, capsys):
    path = project / "notebooks/n1_good.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_code_cell("m: int = 1", metadata={"tags": ["parameters"]}))
    nbformat.write(notebook, path)
    assert "it has 2" in refused(project, capsys)
    path.write_text("{")
    assert "is not a notebook" in refused(project, capsys)


def test_parameters_are_read_with_types_and_meanings(project):
    found = notebook_parameters(project / "notebooks/n1_good.ipynb")
    assert list(found) == list(VALUES)
    assert (found["n"].annotation, found["n"].default, found["n"].meaning) == ("int", 3, "how many")


def test_a_cell_that_raises_fails_the_run(project, capsys):
    printed = fails(project, capsys, "x = 1", "raise ValueError('the reason')", RECORD)
    assert "the reason" in printed
    assert (project / "cache/failed/n1_good.ipynb").exists()


def test_a_cell_that_exits_fails_the_run(project, capsys):
    assert "stopped before its end" in fails(project, capsys, RECORD, "import sys\nsys.exit(0)", "x = 1")


def test_a_killed_kernel_fails_the_run(project, capsys):
    assert "could not be executed" in fails(project, capsys, RECORD, "import os\nos.kill(os.getpid(), 9)")


def test_a_notebook_without_metrics_fails_the_run(project, capsys):
    assert "wrote no metrics" in fails(project, capsys, "x = 1")


def test_a_figure_that_was_not_written_fails_the_run(project, capsys):
    assert "n1_good.png" in fails(project, capsys, RECORD.replace('(folder / "n1_good.png").write_bytes(b"png")', ""))


def test_other_notebooks_still_run_after_a_failure(project, capsys):
    write_notebook(project / "notebooks/n0_bad.ipynb", "raise ValueError('no')")
    (project / "params/toy/n0_bad.yaml").write_text(yaml.safe_dump(VALUES))
    assert main(["run", "--profile", "toy"]) == 1
    assert read_metrics(project / "outputs/toy/n1_good.json")["finding"] == "A finding"
    assert "| n0_bad | no result yet | | |" in capsys.readouterr().out


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_folder_is_said(project, capsys, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    before = outputs(project)
    assert main(["run", "--profile", "toy"]) == 1
    printed = capsys.readouterr().out
    assert "cannot write to outputs/toy" in printed
    assert os.strerror(code) in printed
    assert outputs(project) == before


def test_a_disk_that_fills_during_the_run_leaves_the_outputs(project, capsys):
    printed = fails(project, capsys, RECORD, "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    assert "No space left" in printed


def test_a_disk_that_fills_at_the_very_end_is_said(project, capsys, monkeypatch):
    """Neither the outputs nor the copy of the failed notebook can be written: still one line, and the next notebook runs."""
    replace = os.replace

    def full(source, target):
        if "outputs" in str(target) and str(target).endswith(".ipynb"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(["run", "--profile", "toy"]) == 1
    printed = capsys.readouterr().out
    assert "cannot move the outputs" in printed
    assert "No space left" in printed


def test_the_table_is_written_between_its_markers(project):
    assert main(["run", "--profile", "toy"]) == 0
    readme = project / "README.md"
    readme.write_text("before\n<!-- table:toy -->\nSTALE\n<!-- /table -->\nafter\n")
    assert main(["table", "--profile", "toy", "--write", "README.md"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:toy -->\n| finding |")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "STALE" not in text
    with pytest.raises(TacitError, match="markers"):
        runner.write_table(readme, profile="micro")


def test_the_table_shows_a_papers_value_of_another_metric_by_name(project):
    (project / "outputs/toy").mkdir(parents=True, exist_ok=True)
    paper = {"b": 0.25, "c": 0.75, "not named": 0.1}
    record = {
        "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"}, "figures": [],
        "results": [{"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}],
        "paper": [{"arm": arm, "metric": "other", "value": v, "source": "S"} for arm, v in paper.items()],
        "beside": {"metric": "other", "arms": ["b", "c"]},
    }  # fmt: skip
    write_metrics(project / "outputs/toy/n1_good.json", record)
    assert runner.table(["n1_good"], profile="toy").splitlines()[-1] == (
        "| F | yes | m, a: 0.500 [0.400, 0.600] | (other: b 0.250; c 0.750) |"
    )


def test_metrics_are_validated_on_writing_and_reading(tmp_path):
    good = {
        "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"}, "paper": [], "figures": [],
        "results": [{"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}],
    }  # fmt: skip
    path = tmp_path / "m.json"
    write_metrics(path, good)
    assert read_metrics(path)["claim_holds"] is True
    written = path.read_text()
    wrong = [
        good | {"claim_holds": "yes"},
        good | {"extra": 1},
        good | {"results": [good["results"][0] | {"low": 0.55}]},
        good | {"results": [{k: v for k, v in good["results"][0].items() if k != "high"}]},
        good | {"headline": {"arm": "b", "metric": "m"}},
        good | {"beside": {"metric": "other", "arms": ["b"]}},
        good | {"parts": {"more wins": "yes"}},
        {k: v for k, v in good.items() if k != "claim"},
    ]
    for record in wrong:
        with pytest.raises(TacitError):
            write_metrics(path, record)
    with pytest.raises((TacitError, ValueError)):
        write_metrics(path, good | {"results": [good["results"][0] | {"value": float("nan")}]})
    assert path.read_text() == written
    path.write_text(json.dumps({"finding": "F"}))
    with pytest.raises(TacitError, match=r"m\.json"):
        read_metrics(path)


def test_time_left_counts_what_is_known(project, monkeypatch):
    assert runner.minutes(75.2) == "1:15"
    said = []
    monkeypatch.setattr(runner, "run_notebook", lambda *args, **kwargs: {})
    runner.run([], profile="toy", overrides={}, say=said.append)
    assert said[0] == "1 notebooks, 1 at a time; time left not known yet"
    (project / "outputs/toy/n1_good.json").write_text('{"manifest": {"wall_seconds": 130}}')
    runner.run([], profile="toy", overrides={}, say=said.append)
    assert "1 notebooks, 1 at a time; about 2:10 left" in said


def test_overridden_runs_never_replace_a_profiles_own_result(project, capsys):
    before = outputs(project)
    assert main(["run", "--profile", "toy", "-p", "rate", "0.75"]) == 0
    assert outputs(project) == before
    assert read_metrics(project / "outputs/toy-custom/n1_good.json")["manifest"]["parameters"]["rate"] == 0.75
    assert "strict, a: 0.750" in capsys.readouterr().out


def test_a_failed_run_marks_the_earlier_result(project, capsys):
    assert main(["run", "--profile", "toy"]) == 0
    capsys.readouterr()
    write_notebook(project / "notebooks/n1_good.ipynb", "raise ValueError('no')")
    assert main(["run", "--profile", "toy"]) == 1
    assert "| A finding | no (an earlier result: this run failed) |" in capsys.readouterr().out


MEETING = """
import os, pathlib, time
meeting = pathlib.Path(name)
(meeting / str(n)).touch()
started = time.monotonic()
while len(list(meeting.iterdir())) < 2:
    assert time.monotonic() - started < 120, "the other notebook is not running"
    time.sleep(0.1)
"""
TWO = RECORD.replace('"figures"', '"details": {"worker": os.getppid()}, "figures"')


@pytest.mark.slow
def test_two_jobs_run_two_notebooks_at_a_time_in_processes_of_their_own(tmp_path):
    """On a copy of the library, whose paths are its own: each notebook waits until the other runs too."""
    root = tmp_path / "a project"
    shutil.copytree(
        Path(runner.__file__).parents[2], root / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for folder in ("notebooks", "params/toy", "meeting"):
        (root / folder).mkdir(parents=True)
    for i, stem in enumerate(("n1_good", "n2_good")):
        write_notebook(root / f"notebooks/{stem}.ipynb", MEETING, TWO.replace("n1_good", stem))
        values = VALUES | {"n": i + 1, "name": str(root / "meeting")}
        (root / f"params/toy/{stem}.yaml").write_text(yaml.safe_dump(values))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TACIT_")}
    environment |= {"PYTHONPATH": str(root / "lib"), "OMP_NUM_THREADS": "7"}  # each job has its share, whatever is set
    environment["CUDA_VISIBLE_DEVICES"] = ""  # the manifest then tells the threads
    done = subprocess.run(
        [sys.executable, "-m", "tacit", "run", "--profile", "toy", "--jobs", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 notebooks, 2 at a time" in done.stdout
    assert "[2/2]" in done.stdout
    names = [f"{stem}.{kind}" for stem in ("n1_good", "n2_good") for kind in ("ipynb", "json", "png")]
    assert sorted(path.name for path in (root / "outputs/toy").iterdir()) == names
    records = [read_metrics(root / f"outputs/toy/n{i}_good.json") for i in (1, 2)]
    assert [record["manifest"]["parameters"]["n"] for record in records] == [1, 2]
    assert len({record["details"]["worker"] for record in records}) == 2
    threads = max(1, os.cpu_count() // 2)
    devices = {record["manifest"]["device"].split(", ")[-1] for record in records}
    assert devices == {f"{threads} threads)"}  # of the kernels, not of who started them


def test_fewer_jobs_than_one_are_refused(project, capsys):
    for jobs in ("0", "-1"):
        assert f"--jobs must be at least 1, not {jobs}" in refused(project, capsys, "--jobs", jobs)


def test_without_names_a_profile_runs_the_notebooks_that_it_has_parameters_for(project, capsys):
    write_notebook(project / "notebooks/n2_other.ipynb", "raise ValueError('not asked for')")
    assert "params/toy/n2_other.yaml is missing" in refused(project, capsys, "n2_other")
    assert main(["run", "--profile", "toy"]) == 0
    printed = capsys.readouterr().out
    assert "1 notebooks" in printed
    assert "n2_other" not in printed
    assert read_metrics(project / "outputs/toy/n1_good.json")["finding"] == "A finding"
