"""The recipes of the models that this repository pretrains and post-trains: strict YAML files in ``params/models``.

A file is one model's and named after it. ``readiness.yaml`` holds finding 6's, which share most of their settings:
``shared``, and under ``models`` what each has of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import read_yaml
from tacit.training.posttraining import PostTraining
from tacit.training.pretraining import Pretraining

COMMITTED = ("micro-base", "micro-student", "micro-sibling")  # pretrained models in outputs/models
LESS_READY = "markup-30-seed-1"  # one of finding 6's, in outputs/models too: the second base model of 1, 3 and 5


def _strict(settings: type, **more: Any) -> type[BaseModel]:
    """What checks a file: the fields of a settings class and ``more``, all required. The file's name is the model's."""
    fields = {key: (kind, ...) for key, kind in (get_type_hints(settings) | more).items() if key != "name"}
    return create_model(settings.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


_PRETRAINING = _strict(Pretraining, tokenizer_from=str | None, start_from=str | None)
_POST_TRAINING = _strict(PostTraining, base=str)


def _read(name: str) -> dict[str, Any]:
    try:
        values = read_yaml((paths.PARAMS / "models" / f"{name}.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TacitError(f"cannot read params/models/{name}.yaml: {error}") from None
    if not isinstance(values, dict):
        raise TacitError(f"params/models/{name}.yaml must map names to values")
    return values


def _checked(schema: type[BaseModel], values: dict[str, Any], *, file: str) -> dict[str, Any]:
    """``values`` as options; raises TacitError naming the file and the first key that is wrong."""
    try:
        return schema.model_validate(values).model_dump()
    except ValidationError as error:
        wrong = error.errors()[0]
        key, given = ".".join(map(str, wrong["loc"])), f"{wrong['input']!r:.60}"
        given = "" if wrong["type"] == "missing" else f", not {given}"
        raise TacitError(f"params/models/{file}: {key}: {wrong['msg'].lower()}{given}") from None


def _pretraining(values: dict[str, Any], *, file: str, out: Path) -> dict[str, Any]:
    options = _checked(_PRETRAINING, values, file=file)
    sources = {role: options[role] for role in ("tokenizer_from", "start_from")}
    places = {role: None if place is None else paths.resolve(place) for role, place in sources.items()}
    return options | places | {"out": out}


def pretraining_recipes() -> dict[str, dict[str, Any]]:
    """The options of ``pretrain`` for each model by name, with the folder ``out`` that it goes to.

    The models of ``COMMITTED`` and ``LESS_READY`` go to ``outputs/models``, the others of readiness into the cache.
    Raises TacitError, naming the file and the key, for one that is unknown, missing or of another type.
    """
    recipes = {name: _pretraining(_read(name), file=f"{name}.yaml", out=paths.MODELS / name) for name in COMMITTED}
    readiness = _read("readiness")
    shared, models = (readiness.pop(name, None) for name in ("shared", "models"))
    if readiness or not isinstance(shared, dict) or not isinstance(models, dict):
        raise TacitError("params/models/readiness.yaml needs shared and models, two mappings, and nothing else")
    for name, own in models.items():
        file = f"readiness.yaml: models.{name}"
        if not isinstance(own, dict) or set(own) & set(shared):
            raise TacitError(f"params/models/{file} must map names to values, none of which is among the shared ones")
        folder = paths.MODELS if name == LESS_READY else paths.cache_root() / "readiness"
        recipes[name] = _pretraining(shared | own, file=file, out=folder / name)
    return recipes


def teacher_recipe() -> dict[str, Any]:
    """The options of ``post_train`` for the micro teacher. Raises TacitError as ``pretraining_recipes`` does."""
    options = _checked(_POST_TRAINING, _read("micro-teacher"), file="micro-teacher.yaml")
    return options | {"out": paths.MODELS / "micro-teacher"}
