"""The recipes are what the committed models and measurements record, and a file that is wrong is named with its key."""

import json

import pytest
import yaml
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training.pretraining import pretrain
from tacit.training.recipes import COMMITTED, LESS_READY, pretraining_recipes, teacher_recipe

BASE = paths.MODELS / "micro-base"
RECIPES = pretraining_recipes()
READINESS = [name for name in RECIPES if name not in COMMITTED]


def settings_of(recipe):
    """A recipe less what its record does not hold under the same name."""
    return {name: value for name, value in recipe.items() if name not in ("out", "tokenizer_from", "start_from")}


def recorded(record, recipe):
    """The same settings in a record; the oldest models were made before there was ``one_markup``."""
    return {name: record.get(name) if name == "one_markup" else record[name] for name in settings_of(recipe)}


@pytest.mark.parametrize("name", [*COMMITTED, LESS_READY])
def test_the_committed_models_record_their_recipes(name):
    record, recipe = json.loads((paths.MODELS / name / "pretraining.json").read_text()), RECIPES[name]
    assert settings_of(recipe) == recorded(record, recipe)
    assert recipe["out"] == paths.MODELS / name
    assert recipe["start_from"] == (BASE if name == "micro-sibling" else None)
    assert recipe["tokenizer_from"] == (None if name == "micro-base" else BASE)


def test_the_base_models_of_finding_6_are_three_corpora_times_six_seeds():
    corpora = {"markup-00": (0.0, False), "markup-30": (0.3, False), "markup-30-one": (0.3, True)}
    expected = {f"{name}-seed-{seed}": (*kind, seed) for seed in range(1, 7) for name, kind in corpora.items()}
    keys = ("markup_share", "one_markup", "seed")
    drawn = {name: tuple(RECIPES[name][key] for key in keys) for name in READINESS}
    assert list(drawn) == list(expected)  # a seed's three beside each other, so that a part of them can be compared
    assert drawn == {name: (share, seed if one else None, seed) for name, (share, one, seed) in expected.items()}
    others = [settings_of(RECIPES[name]) | dict.fromkeys(keys) for name in READINESS]
    assert all(other == others[0] for other in others)


def test_the_measured_base_models_record_their_recipes():
    files = {path.stem: path for path in (paths.OUTPUTS / "readiness").glob("*.json")}
    assert {"markup-00-seed-1", "markup-30-seed-1", "markup-30-one-seed-1"} <= set(files) <= set(READINESS)
    for name in files:
        record, recipe = json.loads(files[name].read_text())["pretraining"], RECIPES[name]
        assert settings_of(recipe) == recorded(record, recipe), name
        assert (recipe["tokenizer_from"], recipe["start_from"]) == (BASE, None)
        folder = paths.MODELS if name == LESS_READY else paths.cache_root() / "readiness"
        assert recipe["out"] == folder / name
        one = name.split("-")[2] == "one"
        assert recipe["one_markup"] == (recipe["seed"] if one else None)
        assert recipe["markup_share"] == int(name.split("-")[1]) / 100


def test_the_teacher_records_its_recipe():
    record, recipe = json.loads((paths.MODELS / "micro-teacher/posttraining.json").read_text()), teacher_recipe()
    assert {recipe.pop("out"), paths.resolve(recipe.pop("base"))} == {paths.MODELS / "micro-teacher", BASE}
    assert recipe == {name: record[name] for name in recipe}


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """A function that changes the values of one file in a copy of params/models."""
    folder = tmp_path / "params" / "models"
    folder.mkdir(parents=True)
    for path in (paths.PARAMS / "models").glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")

    def change(name, act):
        values = yaml.safe_load((folder / name).read_text())
        act(values)
        (folder / name).write_text(yaml.safe_dump(values))

    return change


@pytest.mark.parametrize(
    ("name", "act", "message"),
    [
        ("micro-base.yaml", lambda v: v.update(widht=3), r"models/micro-base\.yaml: widht: extra inputs"),
        ("micro-base.yaml", lambda v: v.update(name="mine"), "name: extra inputs"),
        ("micro-base.yaml", lambda v: v.pop("width"), r"micro-base\.yaml: width: field required"),
        ("micro-base.yaml", lambda v: v.update(width="256"), r"width: input should be a valid integer, not '256'"),
        ("micro-base.yaml", lambda v: v.update(width=256.5), "width: input should be a valid integer"),
        ("micro-base.yaml", lambda v: v.update(seed=True), "seed: input should be a valid integer"),
        ("micro-sibling.yaml", lambda v: v.update(learning_rate="1e-3"), "learning_rate: .* number, not '1e-3'"),
        ("readiness.yaml", lambda v: v["models"]["markup-30-seed-1"].pop("seed"), r"markup-30-seed-1: seed: field req"),
        (
            "readiness.yaml",
            lambda v: v["models"]["markup-30-seed-1"].update(width=1),
            "markup-30-seed-1 .* shared ones",
        ),
        ("readiness.yaml", lambda v: v.update(seeds=[1]), "shared and models, two mappings, and nothing else"),
        ("readiness.yaml", lambda v: v.pop("shared"), "shared and models"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_key(edit, name, act, message):
    edit(name, act)
    with pytest.raises(TacitError, match=message) as caught:
        pretraining_recipes()
    assert "\n" not in str(caught.value) and f"params/models/{name}" in str(caught.value)


@pytest.mark.parametrize("role", ["tokenizer_from", "start_from"])
@pytest.mark.parametrize("place", ["nowhere/x", ""])
def test_a_model_to_start_from_that_is_not_there_is_named(edit, role, place, tmp_path):
    edit("micro-sibling.yaml", lambda values: values.update({role: place}))
    options = pretraining_recipes()["micro-sibling"] | {"out": tmp_path / "out"}
    with pytest.raises(TacitError, match=r"has no (tokenizer\.json|model\.safetensors): correct tokenizer_from"):
        pretrain("micro-sibling", work=tmp_path / "work", **options)
    assert not (tmp_path / "out").exists()


def test_a_key_that_stands_twice_and_a_missing_file_are_refused(edit, monkeypatch, tmp_path):
    path = paths.PARAMS / "models/micro-teacher.yaml"
    text = path.read_text()
    path.write_text(f"{text}seed: 101\n")
    with pytest.raises(TacitError, match=r"params/models/micro-teacher\.yaml: .*'seed' stands twice"):
        teacher_recipe()
    path.write_text(text.replace("mayor", "7"))
    with pytest.raises(TacitError, match=r"families\.7: input should be a valid string, not 7"):
        teacher_recipe()
    path.unlink()
    with pytest.raises(TacitError, match=r"cannot read params/models/micro-teacher\.yaml"):
        teacher_recipe()
