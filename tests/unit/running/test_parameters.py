"""Parameters listed for a reader, and values as YAML."""

import pytest
import toys
import yaml
from tacit.__main__ import main
from tacit.running.parameters import as_yaml, complete_parameters, describe_parameters, profiles, read_params
from tacit.running.plan import find_notebooks
from tacit.support import paths
from tacit.support.errors import TacitError

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
        "é ▁",
        [1, [2.5]],
        {"<\n": -4.0, "a": []},
    ],
)
def test_values_as_yaml_read_back_as_they_were(value):
    text = as_yaml(value)
    assert "\n" not in text
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


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_is_described(path):
    text = describe_parameters(path)
    assert text.startswith(f"{path.stem}: ")
    assert "micro" in text.splitlines()[0] and "smoke" in text.splitlines()[0]
    assert text.count('outputs/micro"') >= 1
