"""What a notebook asks of a machine, as its metadata states it: models, memory on the GPU, tuned models on the disk.

A notebook's metadata has an object ``tacit``, which ``Needs`` describes. It names parameters of the notebook; their
values in a profile then give the models. No weights are read: sizes come from the models' configurations
(``tacit.models.memory``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tacit.models.memory import BYTES, PROMPT, Phase, Size, kv_cache_bytes, training_bytes
from tacit.running.parameters import notebook_parameters, read_notebook
from tacit.support.errors import TacitError

ANNOTATOR = "alpaca_eval:"  # a judge that is an annotator of that package
NO_MODELS = ("tfidf", f"{ANNOTATOR}*", "*.json")  # an encoder, a judge and a measurement that load none
Values = Mapping[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Held(_Strict):
    """Models that are on the GPU together: ``models`` names their parameters, ``A or B`` is the first that has a value.

    ``dtype`` names the parameter of their data type. Where they decode (``rows``), each row has keys and values.
    """

    what: str
    models: list[str]
    dtype: str = "dtype"
    rows: bool = True


class Tuned(_Strict):
    """Models that the notebook tunes and the cache keeps, by model, arm and seed.

    ``model`` names a parameter, and ``students[0]`` the first of its models. ``arms`` are names, or the parameter whose
    keys (those ``like`` a pattern) they are. ``each`` says how often an arm is tuned: for each seed, once, or for each
    ``choice`` in the arm's value where there are several. ``over`` names parameters with whose values it is tuned each
    time. ``when`` and ``unless`` name a parameter that must, or must not, have a value. ``examples`` and ``dtype`` name
    those of the size of the training set and the data type; models named ``beside`` stay on the GPU meanwhile.
    """

    model: str
    arms: list[str] | str
    like: str = "*"
    each: Literal["seed", "choice", "once"] = "seed"
    over: list[str] = []
    when: str = ""
    unless: str = ""
    examples: str = "n_train"
    dtype: str = "dtype"
    beside: list[str] = []

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if self.each == "choice" and not isinstance(self.arms, str):
            raise ValueError("each: choice needs arms to be a parameter, whose values are the choices")
        return self


class Needs(_Strict):
    """What a notebook loads: parameters by kind, those of a model's revision, what is held together, what is tuned."""

    loads: dict[str, Literal["model", "judge", "encoder", "datasets", "world"]] = {}
    revisions: dict[str, str] = {}
    holds: list[Held] = []
    tunes: list[Tuned] = []

    def parameters(self) -> set[str]:
        """Every parameter that the statement names."""
        names = {*self.loads, *self.revisions, *self.revisions.values()}
        for held in self.holds:
            names |= {held.dtype, *(name for text in held.models for name in text.split(" or "))}
        for tuned in self.tunes:
            arms = [tuned.arms] if isinstance(tuned.arms, str) else []
            names |= {tuned.model.removesuffix("[0]"), *arms, *tuned.over, *tuned.beside}
            names |= {tuned.examples, tuned.dtype, tuned.when, tuned.unless} - {""}
            names |= {"seeds"} if tuned.each == "seed" else set()
        return names

    def of_kind(self, kind: str, values: Values) -> list[tuple[str, Any]]:
        """The parameters of one kind that have a value, with it."""
        return [(name, values[name]) for name, known in self.loads.items() if known == kind and values.get(name)]


def read_needs(path: Path) -> Needs:
    """What the notebook at ``path`` states; raises TacitError where it states none, or other parameters."""
    where = f"{path.name}, `tacit` in its metadata"
    stated = read_notebook(path).metadata.get("tacit")
    if stated is None:
        raise TacitError(
            f"{where}: missing, so that models and memory cannot be checked; copy the template's and adapt it"
        )
    try:
        needs = Needs.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        raise TacitError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    unknown = sorted(needs.parameters() - set(notebook_parameters(path)))
    if unknown:
        raise TacitError(f"{where}: {unknown[0]!r} is no parameter of the notebook")
    return needs


def find_models(needs: Needs, values: Values) -> list[tuple[str, str]]:
    """The models that the parameters name, as (parameter, folder or hub id with @revision); no annotators and such."""
    named = []
    for parameter, kind in needs.loads.items():
        value = values.get(parameter) or []
        revision = values.get(needs.revisions.get(parameter), "main")
        pinned = "" if revision in (None, "main") else f"@{revision}"
        if kind in ("model", "judge", "encoder"):
            names = [value] if isinstance(value, str) else list(value)
            named += [(parameter, name + pinned) for name in names if not any(fnmatch(name, p) for p in NO_MODELS)]
    return named


def _models_of(text: str, needs: Needs, values: Values) -> list[str]:
    """The models of ``parameter``, ``parameter[0]`` or ``one or another``."""
    named = find_models(needs, values)
    for option in text.split(" or "):
        models = [name for parameter, name in named if parameter == option.removesuffix("[0]")]
        if models:
            return models[:1] if option.endswith("[0]") else models
    return []


def find_pairs(needs: Needs, values: Values) -> list[tuple[str, str]]:
    """The two different models, of each phase that has two, which decode together and so must share a vocabulary."""
    decoding = [held.models for held in needs.holds if held.rows]
    named = [[name for text in texts for name in _models_of(text, needs, values)] for texts in decoding]
    return [(names[0], names[1]) for names in named if len(names) == 2 and names[0] != names[1]]


def _arms_of(tuned: Tuned, values: Values) -> Iterator[tuple[str, list]]:
    """Each arm of ``tuned`` with what it is tuned for: seeds, choices, or once."""
    arms = values[tuned.arms] if isinstance(tuned.arms, str) else tuned.arms
    for arm in arms:
        match tuned.each:
            case "seed":
                times = values["seeds"]
            case "choice":
                times = [f"choice {value}" for value in arms[arm]] if len(arms[arm]) > 1 else []
            case _:
                times = ["once"]
        if fnmatch(str(arm), tuned.like):
            yield str(arm), times


def tuned_models(needs: Needs, values: Values) -> set[tuple]:
    """The models that a notebook tunes, one key each: (model, arm, settings, seed or choice, examples, dtype).

    Notebooks share models by equal keys. It is a close guess for the disk; the cache has keys of its own.
    """
    keys = set()
    for tuned in needs.tunes:
        if (tuned.when and not values[tuned.when]) or (tuned.unless and values[tuned.unless]):
            continue
        settings = product(*(value if isinstance(value := values[name], list) else [value] for name in tuned.over))
        models = _models_of(tuned.model, needs, values)
        for model, (arm, times), setting in product(models, _arms_of(tuned, values), list(settings)):
            keys |= {(model, arm, str(setting), t, values[tuned.examples], values[tuned.dtype]) for t in times}
    return keys


def memory_needed(needs: Needs, values: Values, sizes: Mapping[str, Size]) -> list[Phase]:
    """The phases of a notebook on the GPU; what has no size in ``sizes`` (by ``find_models``' names) is left out.

    Decoding takes the weights and, for each row, keys and values of ``max_new_tokens`` and a prompt of 512. Batches are
    halved until they fit, so that one row is what must fit. A judge is in bfloat16 and an encoder in float32.
    """
    tokens = values.get("max_new_tokens", 0) + PROMPT

    def hold(what: str, names: list[str], dtype: str, *, rows: bool) -> list[Phase]:
        if not names or any(name not in sizes for name in names):
            return []
        fixed = sum(sizes[name].parameters for name in names) * BYTES[dtype]
        row = sum(kv_cache_bytes(sizes[name].config, rows=1, tokens=tokens, dtype=dtype) for name in names if rows)
        return [Phase(what, fixed, row)]

    phases = []
    for held in needs.holds:
        names = [name for text in held.models for name in _models_of(text, needs, values)]
        phases += hold(held.what, names, values[held.dtype], rows=held.rows)
    phases += _tuning(needs, values, sizes)
    for kind, what, dtype in (("judge", "judging", "bfloat16"), ("encoder", "encoding", "float32")):
        for parameter, _ in needs.of_kind(kind, values):
            phases += hold(what, _models_of(parameter, needs, values), dtype, rows=False)
    return phases


def _tuning(needs: Needs, values: Values, sizes: Mapping[str, Size]) -> list[Phase]:
    """A phase for each tuned model, beside those that stay on the GPU; none without a micro-batch and a length."""
    lengths = {name: values[name] for name in ("micro_batch", "max_length") if values.get(name)}
    beside = [name for tuned in needs.tunes for text in tuned.beside for name in _models_of(text, needs, values)]
    if len(lengths) < 2 or any(name not in sizes for name in beside):
        return []
    staying = sum(sizes[name].parameters for name in {*beside}) * BYTES[values.get("dtype", "float32")]
    wanted = sorted({(model, dtype) for model, *_, dtype in tuned_models(needs, values) if model in sizes})
    return [
        Phase(f"tuning {model.partition('@')[0]}", training_bytes(sizes[model], dtype=dtype, **lengths) + staying)
        for model, dtype in wanted
    ]
