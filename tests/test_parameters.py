"""Parameters listed for a reader, and values as YAML."""

import pytest
import test_runner
import yaml
from tacit import paths
from tacit.__main__ import main
from tacit.parameters import as_yaml, describe_parameters, profiles

project = test_runner.project


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
    (other / "n1_good.yaml").write_text(yaml.safe_dump(test_runner.VALUES | {"rate": 0.75}))
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


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_is_described(path):
    text = describe_parameters(path)
    assert text.startswith(f"{path.stem}: ")
    assert "micro" in text.splitlines()[0] and "smoke" in text.splitlines()[0]
    assert text.count('outputs/micro"') >= 1
