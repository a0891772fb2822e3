"""The runner with kernels on small notebooks made here: what passes, what fails, and what stays untouched."""

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import processes
import pytest
import tacit
import toys
import yaml
from tacit.__main__ import main
from tacit.running import execution, runner, tables
from tacit.running.metrics import read_metrics
from tacit.support import paths
from tacit.support.errors import TacitError
from toys import RECORD, VALUES, fails, outputs, refused, write_notebook

project = toys.project


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
    assert "| A finding | no | A claim. | strict, a: 0.250 [0.000, 1.000] | 0.400 |" in printed
    assert runner.expected_seconds(project / "notebooks/n1_good.ipynb", "toy") > 0


def test_the_manifest_names_the_code_that_ran_even_if_it_was_edited_since(project, monkeypatch):
    imported = execution.provenance.library_hash()
    monkeypatch.setattr(execution.provenance, "library_hash", lambda: "what this process imported before the edit")
    assert main(["run", "--profile", "toy"]) == 0
    assert read_metrics(project / "outputs/toy/n1_good.json")["manifest"]["library_sha256"] == imported


def test_plain_papermill_gives_the_same_metrics(project, tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_STAGING", str(tmp_path))
    papermill.execute_notebook(
        project / "notebooks/n1_good.ipynb", tmp_path / "out.ipynb", parameters=VALUES, progress_bar=False
    )
    assert read_metrics(tmp_path / "n1_good.json")["results"][0]["value"] == 0.25


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
    assert "| n0_bad | no result yet |" in capsys.readouterr().out


def test_a_disk_that_fills_during_the_run_leaves_the_outputs(project, capsys):
    printed = fails(project, capsys, RECORD, "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    assert "No space left" in printed


def test_a_disk_that_fills_at_the_very_end_is_said(project, capsys, monkeypatch):
    """Neither the outputs nor the copy of the failed notebook can be written: one line, and the next notebook runs."""
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


def test_the_table_is_written_between_its_markers(project, monkeypatch):
    monkeypatch.chdir(project)
    assert main(["run", "--profile", "toy"]) == 0
    readme = project / "README.md"
    readme.write_text("before\n<!-- table:toy -->\nSTALE\n<!-- /table -->\nafter\n")
    assert main(["table", "--profile", "toy", "--write", "README.md"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:toy -->\n| finding |")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "STALE" not in text
    with pytest.raises(TacitError, match="markers"):
        tables.write_findings_table(readme, ["n1_good"], profile="micro")


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
    done = processes.run(
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
    devices = {record["manifest"]["device"].split(", ")[1].rstrip(")") for record in records}
    assert devices == {f"{threads} threads"}  # of the kernels, not of who started them


def test_without_names_a_profile_runs_the_notebooks_that_it_has_parameters_for(project, capsys):
    write_notebook(project / "notebooks/n2_other.ipynb", "raise ValueError('not asked for')")
    assert "params/toy/n2_other.yaml is missing" in refused(project, capsys, "n2_other")
    assert main(["run", "--profile", "toy"]) == 0
    printed = capsys.readouterr().out
    assert "1 notebooks" in printed
    assert "n2_other" not in printed
    assert read_metrics(project / "outputs/toy/n1_good.json")["finding"] == "A finding"


def test_each_value_runs_into_its_own_output_and_the_curve_is_drawn(project, capsys):
    before = outputs(project)
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1", "-p", "n", "7"]) == 0
    assert outputs(project) == before
    custom = project / "outputs/toy-custom"
    for text, value in (("0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        folder = custom / f"rate={float(text)}"
        assert sorted(path.name for path in folder.iterdir()) == ["n1_good.ipynb", "n1_good.json", "n1_good.png"]
        record = read_metrics(folder / "n1_good.json")
        assert record["manifest"]["parameters"] == VALUES | {"rate": value, "n": 7}
        assert record["results"][0]["value"] == value
    curve = json.loads((custom / "n1_good-sweep-rate.json").read_text())
    assert [(p["parameter"], p["value"], p["low"], p["high"], p["folder"]) for p in curve["points"]] == [
        (value, value, 0.0, 1.0, f"outputs/toy-custom/rate={value}") for value in (0.0, 0.5, 1.0)
    ]
    assert (curve["notebook"], curve["parameter"], curve["profile"]) == ("n1_good", "rate", "toy")
    assert (curve["overrides"], curve["failed"]) == ({"n": "7"}, [])
    assert (custom / curve["figure"]).stat().st_size > 5_000
    printed = capsys.readouterr().out
    assert "a sweep of rate over 0, 0.5, 1" in printed
    assert "[3/3] n1_good, rate=" in printed
    assert "| 0.5 | no | strict, a: 0.500 [0.000, 1.000] | outputs/toy-custom/rate=0.5 |" in printed
    assert not list(custom.rglob(".staging-*"))


def test_a_reader_who_has_seen_enough_is_no_error():
    """`python -m tacit params NOTEBOOK | head`: the pipe closes while there is more to say."""
    call = [sys.executable, "-m", "tacit", "params", "00_micro_world"]
    process = processes.start(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


@pytest.mark.parametrize("command", [["params", "00_micro_world"], ["table"]])
def test_a_full_disk_under_the_output_is_said_in_a_line(command):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = processes.run([sys.executable, "-m", "tacit", *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device: free some space\n")


def test_the_template_itself_does_not_run(tmp_path, monkeypatch):
    source = paths.NOTEBOOKS / "template/finding.ipynb"
    first = nbformat.read(source, as_version=4).cells[0]
    assert "python -m tacit new" in first.source
    monkeypatch.setenv("TACIT_STAGING", str(tmp_path / "outputs"))
    with pytest.raises(papermill.PapermillExecutionError, match="this is a template: begin a notebook from it"):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", progress_bar=False)
    assert not (tmp_path / "outputs").exists()


def test_the_kernel_is_this_interpreter_without_kernels_profiles_and_start_up_files_of_others(project, monkeypatch):
    """As on a JupyterHub: ``python3`` is another program, and IPython, Jupyter, Python and matplotlib are set up."""
    others = project / "others"
    spec, profile = others / "jupyter/kernels/python3", others / "ipython/profile_default"
    spec.mkdir(parents=True)
    (profile / "startup").mkdir(parents=True)
    wrong = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "R"}
    (spec / "kernel.json").write_text(json.dumps(wrong))
    (profile / "startup/00.py").write_text("seen = ['a start-up file']")
    (profile / "ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['seen = [1]']")
    (profile / "ipython_kernel_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'none'")
    (project / "notebooks/ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['seen = [2]']")
    (others / "start.py").write_text("seen = ['PYTHONSTARTUP']")
    for name, value in {
        "JUPYTER_PATH": others / "jupyter", "IPYTHONDIR": others / "ipython", "PYTHONSTARTUP": others / "start.py",
        "MPLBACKEND": "agg", "JUPYTER_DEFAULT_PROVISIONER_NAME": "nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    own = "import sys, tacit\nfound = sys.executable, tacit.__file__, 'seen' in globals()"
    figure = "from matplotlib import pyplot as plt\nplt.subplots()[0]"
    write_notebook(project / "notebooks/n1_good.ipynb", own, "found", figure, RECORD)
    assert main(["run", "--profile", "toy"]) == 0
    cells = nbformat.read(project / "outputs/toy/n1_good.ipynb", as_version=4).cells
    shown = [output.data for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert ast.literal_eval(shown[0]["text/plain"]) == (sys.executable, tacit.__file__, False)
    assert "image/png" in shown[-1]
    assert sorted(outputs(project)) == ["n1_good.ipynb", "n1_good.json", "n1_good.png"]
