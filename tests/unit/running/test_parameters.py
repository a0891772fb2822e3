"""Parameters listed for a reader, and values as YAML."""

import json
import math

import nbformat
import pytest
import toys
import yaml
from papermill.translators import translate_parameters
from tacit.__main__ import main
from tacit.running.parameters import (
    as_yaml,
    complete_parameters,
    describe_parameters,
    profiles,
    read_first_params,
    read_params,
    tabulate_used,
)
from tacit.running.plan import find_notebooks
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import read_yaml

project = toys.project


@pytest.mark.parametrize(
    "value",
    [
        1,
        0.5,
        1e-5,
        3e20,
        -2.0,
        True,
        None,
        "",
        "no",
        "2e-5",
        "a, b",
        'a "b"',
        "\n\n",
        "é ▁ 😀",
        "\x00\x7f\x85\u2028\u2029\ufeff\uffff",
        [1, [2.5]],
        {"<\n": -4.0, "a": []},
    ],
)
def test_values_as_yaml_read_back_as_they_were(value):
    text = as_yaml(value)
    assert len(text.splitlines()) == 1
    again = yaml.safe_load(text)
    assert again == value
    assert type(again) is type(value)


def test_a_notebooks_parameters_are_listed_with_each_profiles_value(project, capsys):
    other = project / "params/other"
    other.mkdir()
    (other / "n1_good.yaml").write_text(yaml.safe_dump(toys.VALUES | {"rate": 0.75}))
    (project / "params/none").mkdir()
    (project / "params/accelerate").mkdir()
    (project / "params/accelerate/gpu.yaml").write_text("a: 1")
    (project / "params/README.md").write_text("a page")
    assert profiles() == ["other", "toy"]
    assert main(["params", "n1_good"]) == 0
    assert capsys.readouterr().out == (
        "n1_good: 6 parameters, profiles other, toy\n"
        "\nn: int = 3\n    how many\n    other, toy: 4\n"
        "\nrate: float = 0.5\n    other: 0.75\n    toy: 0.25\n"
        '\nname: str = "a"\n    other, toy: "b"\n'
        "\nseeds: list[int] = [1]\n    other, toy: [1, 2]\n"
        "\nbase: str | None = null\n    other, toy: null\n"
        '\noutput: str = "outputs/smoke"\n    other, toy: "outputs/toy"\n'
    )
    assert main(["params", "nothing"]) == 2
    assert "no notebook 'nothing'" in capsys.readouterr().err


def test_a_profile_that_does_not_fit_is_named(project, capsys):
    (project / "params/toy/n1_good.yaml").write_text("n: 4\n")
    assert main(["params", "n1_good"]) == 2
    assert "params/toy/n1_good.yaml: parameter 'rate' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stem", "name", "value", "words"),
    [
        ("00_micro_world", "n_train", -5, "must not be negative: -5"),
        ("00_micro_world", "batch_size", 0, "must be at least 1: 0"),
        ("00_micro_world", "epochs", -2, "must be at least 1: -2"),
        ("00_micro_world", "max_new_tokens", 0, "must be at least 1: 0"),
        ("03_single_task", "epochs", {"instruction-tuned": [1], "add": [1, 0]}, "must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(stem, name, value, words):
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    good = read_params("smoke", stem)
    assert complete_parameters(path, good, where="here") == good
    with pytest.raises(TacitError, match=f"here: parameter {name} {words}"):
        complete_parameters(path, good | {name: value}, where="here")


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        ("float", 1, 1.0),
        ("list[float]", [1, 0.5], [1.0, 0.5]),
        ("dict[str, float]", {"a": 2}, {"a": 2.0}),
        ("float | None", 3, 3.0),
        ("float | None", None, None),
        ("int | float", 3, 3),
        ("dict[str, str | int | bool | dict[str, float]]", {"b": {"c": 1}, "d": True}, {"b": {"c": 1.0}, "d": True}),
        ("dict[str, int | dict[str, float]]", {"a": 1}, {"a": 1}),
        ("list[int]", [1], [1]),
    ],
)  # fmt: skip
def test_ints_become_the_floats_that_they_stand_for(tmp_path, annotation, given, expected):
    """1 and 1.0 must not be two settings to the cache."""
    path = tmp_path / "n.ipynb"
    toys.write_notebook(path, parameters=f"x: {annotation} = {given!r}")
    found = complete_parameters(path, {"x": given}, where="here")["x"]
    assert repr(found) == repr(expected)


def test_a_notebook_may_be_named_by_its_number_with_or_without_the_nought():
    assert find_notebooks(["7", "00", "0", "11"]) == [
        *sorted(paths.NOTEBOOKS.glob("07_*.ipynb")),
        *sorted(paths.NOTEBOOKS.glob("00_*.ipynb")),  # once
        *sorted(paths.NOTEBOOKS.glob("11_*.ipynb")),
    ]


def test_a_notebook_may_be_named_by_its_path_and_not_by_that_of_another(monkeypatch):
    wanted = [paths.NOTEBOOKS / "00_micro_world.ipynb"]
    for name in ("00_micro_world.ipynb", "notebooks/00_micro_world.ipynb", str(wanted[0])):
        assert find_notebooks([name]) == wanted
    monkeypatch.chdir(paths.NOTEBOOKS)
    assert find_notebooks(["./00_micro_world.ipynb"]) == wanted
    for name in ("outputs/micro/00_micro_world.ipynb", "mine/00_micro_world.ipynb", "/00_micro_world.ipynb"):
        with pytest.raises(TacitError, match="no notebook '"):
            find_notebooks([name])


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_is_described(path):
    text = describe_parameters(path)
    assert text.startswith(f"{path.stem}: ")
    profile = "smollm2-135m" if path.stem == "20_real_model" else "micro"
    assert profile in text.splitlines()[0] and "smoke" in text.splitlines()[0]
    assert text.count(f'outputs/{profile}"') >= 1


ODD_TEXT = "'\"\\ \\n\n\r\t\x00{n}%s\\N{DASH} \u2028é😀 '''' # $x"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("str", ODD_TEXT),
        ("dict[str, dict[str, list[str | None]]]", {ODD_TEXT: {"": [ODD_TEXT, None]}}),
        ("list[int | bool | None]", [2**80, -1, True, False, None]),
        ("list[float]", [-0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]),
        ("dict[str, int | float]", {"1": 1, "1.0": 1.0}),
    ],
)
def test_values_arrive_in_the_notebook_and_the_manifest_as_they_were_checked(tmp_path, annotation, value):
    toys.write_notebook(tmp_path / "n.ipynb", parameters=f"x: {annotation} = {value!r}")
    checked = complete_parameters(tmp_path / "n.ipynb", {"x": value}, where="here")
    arrived: dict = {}
    exec(translate_parameters("python3", "python", checked, "Parameters"), arrived)
    assert repr(arrived["x"]) == repr(value) == repr(json.loads(json.dumps(checked))["x"])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("float", math.nan),
        ("dict[str, list[float]]", {"a": [-math.inf]}),
        ("float", 10**400),
        ("str", "half of a pair: \ud83d"),
        ("dict[str, int]", {"\udc00": 1}),
        ("dict[str, int]", {1: 1}),
        ("dict[str, int]", {None: 1}),
        ("list[int]", (1, 2)),
        ("list[int]", [1, None]),
        ("int", True),
        ("bool", 1),
        ("float", True),
    ],
)
def test_values_that_would_arrive_as_others_are_refused(tmp_path, annotation, value):
    default = {"float": 1.0, "str": "", "int": 1, "bool": True, "list[int]": []}.get(annotation, {})
    toys.write_notebook(tmp_path / "n.ipynb", parameters=f"x: {annotation} = {default!r}")
    with pytest.raises(TacitError, match="here: parameter x ") as caught:
        complete_parameters(tmp_path / "n.ipynb", {"x": value}, where="here")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("annotation", ["dict[int, float]", "list[dict[float, str]]", "dict[str | int, int]"])
def test_keys_other_than_texts_are_refused(tmp_path, annotation):
    """Papermill and the manifest would make texts of them."""
    toys.write_notebook(tmp_path / "n.ipynb", parameters=f"x: {annotation} | None = None")
    with pytest.raises(TacitError, match=r"parameter x: annotation dict\[.*dict\[str, \.\.\.\]"):
        complete_parameters(tmp_path / "n.ipynb", {"x": None}, where="here")


@pytest.mark.parametrize("value", ["auto", "flaot32", "", None])
def test_a_data_type_is_one_of_those_whose_size_is_known(tmp_path, value):
    toys.write_notebook(tmp_path / "n.ipynb", parameters='student_dtype: str | None = "float32"')
    assert complete_parameters(tmp_path / "n.ipynb", {"student_dtype": "bfloat16"}, where="here")
    with pytest.raises(TacitError, match="student_dtype must be one of float32, bfloat16, float16, not "):
        complete_parameters(tmp_path / "n.ipynb", {"student_dtype": value}, where="here")


def test_a_copy_of_an_executed_notebook_is_refused(tmp_path):
    """Papermill would put its values where the earlier ones stand, which may be after their use."""
    toys.write_notebook(tmp_path / "n.ipynb", "n = 5")
    notebook = nbformat.read(tmp_path / "n.ipynb", as_version=4)
    notebook.cells[-1].metadata["tags"] = ["injected-parameters"]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    with pytest.raises(TacitError, match=r"n\.ipynb has a cell tagged `injected-parameters`"):
        complete_parameters(tmp_path / "n.ipynb", {}, where="here")


@pytest.mark.parametrize("text", ["010", "-017", "000", "0_7", "1:30", "[1, 1:30.5]", "{a: 10:00}", "00.5"])
def test_numbers_that_yaml_reads_to_another_base_are_refused(text):
    with pytest.raises(ValueError, match="no plain number"):
        read_yaml(text)


def test_plain_numbers_are_read():
    assert read_yaml("[0, -7, 1_000, 0x10, 0.5, 1.0e-5, '010', 10.0]") == [0, -7, 1000, 16, 0.5, 1e-5, "010", 10.0]


def test_the_first_profile_that_has_the_notebook_gives_its_parameters(project):
    for name, rate in (("first", 0.25), ("second", 0.5)):
        (project / "params" / name).mkdir()
        (project / "params" / name / "n1_good.yaml").write_text(yaml.safe_dump(toys.VALUES | {"rate": rate}))
    assert read_first_params(("first", "second"), "n1_good")["rate"] == 0.25
    assert read_first_params(("nowhere", "second", "first"), "n1_good")["rate"] == 0.5
    (project / "params/first/n1_good.yaml").unlink()
    assert read_first_params(("first", "second"), "n1_good")["rate"] == 0.5
    with pytest.raises(TacitError, match=r"params/first/n1_good\.yaml is missing"):
        read_first_params(("nowhere", "first"), "n1_good")


def test_the_values_that_a_run_used_stand_in_a_table(project):
    toys.write_notebook(project / "notebooks/n1_good.ipynb", toys.RECORD)
    table = tabulate_used("n1_good", toys.VALUES | {"other": 1})
    assert list(table.index) == list(toys.VALUES)
    assert table.loc["seeds", "used"] == "[1, 2]" and table.loc["name", "used"] == '"b"'
    assert table.loc["n", "meaning"] == "how many"
