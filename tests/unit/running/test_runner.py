"""The runner on small notebooks made here, without a kernel: what is refused, what metrics and table hold."""

import errno
import io
import json
import os
import signal
import subprocess
import tempfile

import nbformat
import pytest
import toys
import yaml
from nbformat.v4 import new_code_cell
from tacit.__main__ import main
from tacit.running import runner, tables
from tacit.running.metrics import read_metrics, write_metrics
from tacit.running.parameters import notebook_parameters
from tacit.support.errors import TacitError
from toys import RECORD, VALUES, outputs, refused, write_notebook

project = toys.project


def test_a_cache_that_cannot_be_written_is_named_before_anything_runs(project, capsys, monkeypatch):
    (project / "a file").touch()
    monkeypatch.setenv("TACIT_CACHE", str(project / "a file/cache"))
    assert "cannot write to the cache" in (said := refused(project, capsys)) and "TACIT_CACHE" in said


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
        (["-p", "output", "elsewhere"], ["-p output has no effect", "outputs/toy-custom/"]),
        (["-p", "n", "5", "-p", "n", "6"], ["-p n is given twice, as '5' and '6'"]),
        (["-p", "n", "010"], ["-p n", "010 is no plain number"]),
        (["-p", "n", "1,000"], ["-p n", "000 is no plain number"]),  # no sweep over 1 and 0
        (["-p", "n", "[" * 100_000], ["-p n", "not a YAML value", "recursion"]),
        (["-p", "rate", "[" * 100_000 + ","], ["-p rate", "not a YAML list"]),
    ],
)
def test_bad_arguments_are_named(project, capsys, arguments, words):
    message = refused(project, capsys, *arguments)
    assert all(word in message for word in words), message
    assert message.count("\n") == 1 and len(message) < 1_000


@pytest.mark.parametrize("profile", ["toy/", "./toy", "../params/toy", "/tmp", "", " ", ".", "..", ".hidden"])
@pytest.mark.parametrize("command", ["run", "check", "verify", "table", "site"])
def test_a_profile_is_the_plain_name_of_a_folder(project, capsys, command, profile):
    assert main([command, "--profile", profile]) == 2
    assert f"error: profile {profile!r}: this is not the plain name of a folder" in capsys.readouterr().err
    assert [path.name for path in (project / "outputs").iterdir()] == ["toy"]


def test_overrides_are_for_notebooks_that_have_the_parameter(project, capsys, monkeypatch):
    write_notebook(project / "notebooks/n2_other.ipynb", "x = 1", parameters="m: int = 1  # a number")
    (project / "params/toy/n2_other.yaml").write_text("m: 1\n")
    message = refused(project, capsys, "n1_good", "n2_other", "-p", "rate", "0.5")
    assert "n2_other has no parameter 'rate', which -p gives" in message
    ran = []
    monkeypatch.setattr(runner, "run_notebook", lambda path, *args, **kwargs: ran.append(path.stem))
    assert main(["run", "--profile", "toy", "-p", "rate", "0.5"]) == 0
    assert ran == ["n1_good"]


def test_a_parameters_file_of_no_notebook_is_named(project, capsys):
    (project / "params/toy/n1_godo.yaml").write_text("n: 4\n")
    assert "params/toy/n1_godo.yaml is of no notebook" in refused(project, capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table", "--profile", "typo"], "unknown profile 'typo'"),
        (["table", "--profile", "toy", "--write", "nofile.md"], "nofile.md, to write into it: [Errno 2]"),
        (["table", "--profile", "toy", "--write", ""], "Is a directory"),
        (["table", "--profile", "toy", "--write", "bytes.md"], "bytes.md, to write into it: 'utf-8'"),
        (["table", "--profile", "p" * 300], "File name too long"),
        (["new", "12_" + "a" * 300], "a notebook's name is two digits"),
        (["new", "١٢_x"], "a notebook's name is two digits"),
        (["compare", "deep.json", "deep.json"], "deep.json: maximum recursion depth exceeded"),
        (["compare", "nested.json", "flat.json"], "nested too deeply"),
        (["compare", "flat.json", "wrong.json"], "wrong.json is not a metrics file: at manifest.parameters"),
        (["compare", "flat.json", "a\nb"], "cannot read metrics a b: No such file"),
    ],
)
def test_what_a_person_can_mend_is_said_in_a_line(project, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(project)
    (project / "bytes.md").write_bytes(b"\xff")
    (project / "deep.json").write_text("[" * 100_000)
    row = {"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}
    record = {"finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"}}
    record |= {"results": [row], "paper": [], "figures": []}
    nested: list = []
    for _ in range(600):
        nested = [nested]
    for name, parameters in (("flat", {}), ("nested", {"x": nested}), ("wrong", 5)):
        text = json.dumps(record | {"manifest": {"parameters": parameters}})
        (project / f"{name}.json").write_text(text)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert words in captured.err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_letters_that_the_terminal_lacks_do_not_end_a_command(project, monkeypatch, encoding):
    """As under LANG=C or PYTHONIOENCODING=ascii."""
    write_notebook(project / "notebooks/n1_good.ipynb", RECORD, parameters=toys.PARAMETERS.replace('"a"', '"é😀"'))
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["params", "n1_good"]) == 0
    shown = {"ascii": r"\xe9\U0001f600", "utf-8": "é😀"}[encoding]
    assert f'name: str = "{shown}"' in stream.buffer.getvalue().decode(encoding)


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
    assert tables.findings_table(["n1_good"], profile="toy").splitlines()[-1] == (
        "| F | yes | C | m, a: 0.500 [0.400, 0.600] | (other: b 0.250; c 0.750) |"
    )


def test_metrics_are_validated_on_writing_and_reading(tmp_path):
    good = {
        "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"},
        "results": [{"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}],
        "paper": [], "figures": [],
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


def test_children_of_a_run_get_default_signals_where_it_ignores_them():
    """As in a shell's background: an interrupt has no effect on the run, and ends what it starts."""
    call = ["sh", "-c", "kill -INT $$; exit 3"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert subprocess.run(call).returncode == 3
        with runner._handled(runner._ending()):
            assert subprocess.run(call).returncode == -signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_fewer_jobs_than_one_are_refused(project, capsys):
    for jobs in ("0", "-1"):
        assert f"--jobs must be at least 1, not {jobs}" in refused(project, capsys, "--jobs", jobs)
