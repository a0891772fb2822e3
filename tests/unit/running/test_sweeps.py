"""Sweeps on the runner's toy project: what counts as one, where the runs go, and what the curve shows."""

import errno
import json
import os
import re

import numpy as np
import pytest
import toys
import yaml
from tacit.__main__ import main
from tacit.running import runner, sweeps
from tacit.running.metrics import write_metrics
from tacit.running.parameters import Parameter
from tacit.support import paths
from tacit.support.errors import TacitError

project = toys.project  # one notebook, n1_good, whose result is its parameter rate
FLOAT, TEXT = Parameter("rate", "float", 0.5), Parameter("name", "str", "a")


@pytest.mark.parametrize(
    ("annotation", "text", "values"),
    [
        ("float", "0,0.25,0.5,1", ["0", "0.25", "0.5", "1"]),
        ("float", " 0, 0.5 ", ["0", "0.5"]),
        ("float", "[0, 0.5, 1.0e-5]", ["0", "0.5", "1.0e-05"]),
        ("int", "1,2", ["1", "2"]),
        ("int | None", "1,null", ["1", "null"]),
        ("bool", "true,false", ["true", "false"]),
        ("str", "[a, 'b,c']", ['"a"', '"b,c"']),
        ("str | None", "[a, null]", ['"a"', "null"]),
        ("float", "0.5", None),
        ("str", "'a,b'", None),
        ("str", '"a,b"', None),
        ("str", "a", None),
        ("str", "[a]", None),  # one value, of the wrong type: the check of types says so
        ("list[int]", "1,2", None),
        ("list[int]", "[1, 2]", None),
        ("dict[str, float]", "{a: 1.0, b: 2.0}", None),
        ("int | list[int]", "[1, 2]", None),
    ],
)
def test_what_counts_as_a_sweep(annotation, text, values):
    assert sweeps.split_values(text, Parameter("x", annotation, None)) == values


@pytest.mark.parametrize(
    ("parameter", "text", "words"),
    [
        (TEXT, "a,b", ["one text", "'\"a,b\"'", "'[a, ...]'"]),
        (FLOAT, "0,,1", ["value 2 of the sweep is empty"]),
        (FLOAT, "0,1,", ["value 3 of the sweep is empty"]),
        (FLOAT, "[[0, 1], 2]", ["a list of single values"]),
        (FLOAT, "[0, 1", ["not a YAML list"]),
        (FLOAT, "[2020-13-01, 1]", ["not a YAML list"]),
        (FLOAT, "[2020-12-01, 1]", ["a list of single values"]),
    ],
)
def test_what_is_neither_is_said(parameter, text, words):
    with pytest.raises(TacitError) as caught:
        sweeps.split_values(text, parameter)
    assert all(word in str(caught.value) for word in [*words, f"-p {parameter.name}"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "rate", "0,half"], ["rate must be float", "'half'"]),
        (["-p", "rate", "0,2e-5"], ["rate must be float", "2.0e-5"]),
        (["-p", "rate", "0,1", "-p", "n", "1,2"], ["one parameter at a time", "rate", "n"]),
        (["-p", "rate", "0.5,0.50"], ["0.50 stands twice"]),
        (["-p", "seeds", "1,2"], ["seeds must be list[int]"]),
        (["-p", "name", "a,b"], ["one text with a comma"]),
        (["-p", "rte", "0,1"], ["unknown parameter 'rte'"]),
        (["n2_other", "n1_good", "-p", "rate", "0,1"], ["n2_other has no parameter 'rate'"]),
        (["-p", "rate", "0,1", "--jobs", "0"], ["--jobs must be at least 1"]),
    ],
)
def test_sweeps_that_cannot_be_are_refused_before_anything_runs(project, capsys, monkeypatch, arguments, words):
    toys.write_notebook(project / "notebooks/n2_other.ipynb", "x = 1", parameters="m: int = 1  # a number")
    (project / "params/toy/n2_other.yaml").write_text("m: 1\n")
    monkeypatch.setattr(runner, "run_notebook", lambda *args, **kwargs: pytest.fail("it ran"))
    message = toys.refused(project, capsys, *arguments)
    assert all(word in message for word in words), message


def test_a_parameter_that_is_single_in_one_notebook_and_a_list_in_another(project, capsys):
    toys.write_notebook(project / "notebooks/n2_other.ipynb", "x = 1", parameters="rate: list[float] = [1.0]")
    (project / "params/toy/n2_other.yaml").write_text("rate: [1.0]\n")
    message = toys.refused(project, capsys, "-p", "rate", "0,1")
    assert "one value in n1_good and not in n2_other" in message


def fake_run(monkeypatch, *, bad=()):
    """Runs without a kernel: the notebook's record straight into its folder, or a failure for the ``bad`` rates."""

    def run_notebook(path, parameters, *, profile, folder):
        rate = parameters["rate"]
        if rate in bad:
            raise TacitError("the reason")
        (paths.OUTPUTS / folder).mkdir(parents=True, exist_ok=True)
        row = {
            "arm": "a|b",
            "metric": "m",
            "value": rate,
            "low": rate - 1,
            "high": rate + 2,
            "n_seeds": 1,
            "n_prompts": 2,
        }
        record = {"finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a|b", "metric": "m"}}
        write_metrics(
            paths.OUTPUTS / folder / f"{path.stem}.json",
            record | {"results": [row], "paper": [], "figures": [], "manifest": {"parameters": parameters}},
        )

    monkeypatch.setattr(runner, "run_notebook", run_notebook)


def test_a_failed_value_is_left_out_of_the_curve_and_named(project, capsys, monkeypatch):
    fake_run(monkeypatch)
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1"]) == 0
    whole = (project / "outputs/toy-custom/n1_good-sweep-rate.json").read_text()
    fake_run(monkeypatch, bad=(0.0, 0.5, 1.0))
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1"]) == 1
    assert (project / "outputs/toy-custom/n1_good-sweep-rate.json").read_text() == whole  # nothing to draw: as it was
    fake_run(monkeypatch, bad=(0.5,))
    capsys.readouterr()
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1"]) == 1
    curve = json.loads((project / "outputs/toy-custom/n1_good-sweep-rate.json").read_text())
    assert [point["parameter"] for point in curve["points"]] == [0.0, 1.0]  # not the earlier sweep's 0.5
    assert curve["failed"] == [0.5]
    printed = capsys.readouterr().out
    assert "the reason" in printed
    assert "| 0.5 | failed |  |  |" in printed
    assert "| 0.0 | yes | m, a\\|b: 0.000 [-1.000, 2.000] | outputs/toy-custom/rate=0.0 |" in printed


def test_a_point_that_another_sweep_replaced_is_not_drawn(project, capsys, monkeypatch):
    fake_run(monkeypatch)
    ours = runner.run_notebook

    def raced(path, parameters, *, profile, folder):
        ours(path, parameters, profile=profile, folder=folder)
        if parameters["rate"] == 1.0:  # meanwhile a sweep with another n ends over the same value as our first
            ours(path, parameters | {"rate": 0.0, "n": 99}, profile=profile, folder=folder.replace("1.0", "0.0"))

    monkeypatch.setattr(runner, "run_notebook", raced)
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1", "-p", "n", "7"]) == 1
    curve = json.loads((project / "outputs/toy-custom/n1_good-sweep-rate.json").read_text())
    assert [point["parameter"] for point in curve["points"]] == [0.5, 1.0]
    assert curve["failed"] == [0.0]
    printed = capsys.readouterr().out
    assert "outputs/toy-custom/rate=0.0/n1_good.json is of a run with other parameters" in printed


@pytest.mark.parametrize("place", ["drawing", "writing", "moving"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_stop_leaves_the_earlier_curve_whole(project, capsys, monkeypatch, place, error):
    fake_run(monkeypatch)
    custom = project / "outputs/toy-custom"

    def curve_files():
        return {path.name: path.read_bytes() for path in custom.iterdir() if path.is_file() and path.suffix != ".lock"}

    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5"]) == 0
    before = curve_files()
    assert sorted(before) == ["n1_good-sweep-rate.json", "n1_good-sweep-rate.png"]
    replace = os.replace

    def stop(*args, **kwargs):
        raise error

    def move(source, target):
        if str(target) == str(custom / "n1_good-sweep-rate.png") and "/.staging-" in str(source) and not stopped:
            stopped.append(target)
            raise error
        return replace(source, target)

    stopped = []
    if place == "moving":
        monkeypatch.setattr(os, "replace", move)  # the JSON has been moved by then
    else:
        monkeypatch.setattr(*((sweeps.figures, "save_figure") if place == "drawing" else (sweeps, "write_json")), stop)
    assert main(["run", "--profile", "toy", "-p", "rate", "0,0.5,1"]) == (2 if isinstance(error, OSError) else 130)
    assert place != "moving" or stopped
    if isinstance(error, OSError):
        assert "cannot write the curve n1_good-sweep-rate" in capsys.readouterr().err
    assert curve_files() == before
    assert not list(custom.glob(".staging-*"))


def test_without_names_only_the_notebooks_with_the_parameter_run(project, monkeypatch, capsys):
    toys.write_notebook(project / "notebooks/n2_other.ipynb", "x = 1", parameters="m: int = 1  # a number")
    toys.write_notebook(project / "notebooks/n3_more.ipynb", toys.RECORD)
    (project / "params/toy/n2_other.yaml").write_text("m: 1\n")
    (project / "params/toy/n3_more.yaml").write_text(yaml.safe_dump(toys.VALUES))
    fake_run(monkeypatch, bad=())
    assert main(["run", "--profile", "toy", "-p", "rate", "0.25,0.75"]) == 0
    assert "4 notebooks, 1 at a time" in capsys.readouterr().out
    for stem in ("n1_good", "n3_more"):
        curve = json.loads((project / f"outputs/toy-custom/{stem}-sweep-rate.json").read_text())
        assert [point["value"] for point in curve["points"]] == [0.25, 0.75]


def test_folders_have_plain_names_and_no_two_the_same():
    names = sweeps.name_folders("base", ["a/b", "a b", "x" * 200, -1.5e-05, True, "ä"])
    assert names == ["base=a-b", "base=a-b-2", f"base={'x' * 60}", "base=-1.5e-05", "base=True", "base=-"]


@pytest.mark.parametrize(
    "values", [["x--3", "x!", "x?"], ["x-2", "x", "X", "x!"], ["A", "a"], ["a", "a!", "a-2", "a?"], list("!?*ä")]
)
def test_folders_differ_on_any_disk(values):
    names = sweeps.name_folders("n", values)
    assert len({name.casefold() for name in names}) == len(values)
    assert all(re.fullmatch(r"n=[A-Za-z0-9_.+-]+", name) for name in names)


def point(at, value, arm="a"):
    return {"parameter": at, "arm": arm, "metric": "m", "value": value, "low": value - 0.1, "high": value + 0.2}


def drawn(points):
    """The lines of the curve: label -> [x, y, low, high]."""
    axes = sweeps.draw_curve(points, parameter="x", title="t").axes[0]
    lines = {}
    for bars in axes.containers:
        line, _, (errors,) = bars.lines
        ends = np.array(errors.get_segments())  # [points, 2, (x, y)]
        lines[bars.get_label()] = [
            *(a.tolist() for a in line.get_data()),
            ends[:, 0, 1].tolist(),
            ends[:, 1, 1].tolist(),
        ]
    return axes, lines


def test_the_curve_shows_values_and_intervals_in_order():
    axes, lines = drawn([point(1.0, 0.3), point(0.0, 0.5), point(0.25, 0.4)])
    x, y, low, high = lines["m, a"]
    assert (x, y) == ([0.0, 0.25, 1.0], [0.5, 0.4, 0.3])
    np.testing.assert_allclose([low, high], [[0.4, 0.3, 0.2], [0.7, 0.6, 0.5]])
    assert (axes.get_xscale(), axes.get_xlabel()) == ("linear", "x")
    assert drawn([point(0.0001, 0.3), point(0.01, 0.5)])[0].get_xscale() == "log"


def test_values_that_are_no_numbers_stand_side_by_side_and_each_arm_has_its_line():
    axes, lines = drawn([point("b", 0.3), point("a", 0.5, arm="other"), point("c", 0.4)])
    assert {label: line[:2] for label, line in lines.items()} == {
        "m, a": [[0, 2], [0.3, 0.4]],
        "m, other": [[1], [0.5]],
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a", "c"]
    assert [t.get_text() for t in drawn([point(True, 0.3), point(False, 0.5)])[0].get_xticklabels()] == [
        "True",
        "False",
    ]
