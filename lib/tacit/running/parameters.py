"""The parameters of a notebook: its one tagged cell of literals, and checking values against it."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import nbformat
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tacit.support import paths
from tacit.support.errors import TacitError, first_line
from tacit.support.files import read_yaml

if TYPE_CHECKING:
    import pandas as pd

SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
DTYPES = ("float32", "bfloat16", "float16")  # what a parameter that ends in ``dtype`` may be
SIZES = ("batch_size", "micro_batch", "epochs", "max_length", "max_new_tokens")  # whose numbers are at least 1


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, annotation as written, default, and the comment that explains it."""

    name: str
    annotation: str
    default: Any
    meaning: str = ""


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook; raises TacitError when it is missing or malformed."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)  # which reading only logs
        return notebook
    except FileNotFoundError:
        known = ", ".join(p.stem for p in sorted(paths.NOTEBOOKS.glob("*.ipynb")))
        raise TacitError(f"no notebook {path.name}: there are {known or 'none'}") from None
    except Exception as error:  # nbformat raises several kinds for a malformed file
        raise TacitError(f"{path} is not a notebook: {first_line(error):.200}") from None


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name.

    It must have exactly one code cell tagged ``parameters``, of annotated assignments of literals and
    nothing else. Raises TacitError otherwise.
    """
    everything = read_notebook(path).cells
    cells = [c for c in everything if "parameters" in c.metadata.get("tags", [])]
    if any("injected-parameters" in c.metadata.get("tags", []) for c in everything):
        raise TacitError(f"{path.name} has a cell tagged `injected-parameters`, as executed copies have: take it away")
    if len(cells) != 1 or cells[0].cell_type != "code":
        raise TacitError(f"{path.name} needs exactly one code cell tagged `parameters`; it has {len(cells)}")
    source = cells[0].source
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise TacitError(f"{path.name}: the parameters cell does not parse: {error}") from None
    declared = {}
    for node in statements:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise TacitError(
                f"{path.name}, parameters cell, line {node.lineno}: only `name: type = literal` may stand there"
            )
        name, annotation = node.target.id, ast.unparse(node.annotation)
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise TacitError(f"{path.name}: the default of parameter {name} is not a literal") from None
        comment = source.splitlines()[node.end_lineno - 1].partition("  # ")[2]
        declared[name] = Parameter(name, annotation, default, comment)
        convert_value(declared[name], default, where=f"{path.name}, default")
    return declared


def _python_type(annotation: ast.expr, *, scalars: dict[str, Any]) -> Any:
    """The type that an annotation of these ``scalars`` names. Raises TacitError for one that is not supported."""
    match annotation:
        case ast.Name(id=name) if name in scalars:
            return scalars[name]
        case ast.Constant(value=None):
            return type(None)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _python_type(left, scalars=scalars) | _python_type(right, scalars=scalars)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return list[_python_type(item, scalars=scalars)]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), item])):
            return dict[str, _python_type(item, scalars=scalars)]  # papermill and JSON make texts of other keys
    use = "use str, int, float, bool, None, list[...], dict[str, ...]"
    raise TacitError(f"annotation {ast.unparse(annotation)} is not supported: {use}")


@functools.cache  # notebooks have few different annotations
def _adapter(annotation: str, least: int | None) -> TypeAdapter:
    bounded = {} if least is None else {name: Annotated[SCALARS[name], Field(ge=least)] for name in ("int", "float")}
    kind = _python_type(ast.parse(annotation, mode="eval").body, scalars=SCALARS | bounded)
    return TypeAdapter(kind, config=ConfigDict(strict=True))


def convert_value(parameter: Parameter, value: Any, *, where: str) -> Any:
    """``value`` as the annotated type, with a float for each int that stands for one.

    Raises TacitError, naming the parameter and the place, for a value of another type, a negative number in a parameter
    ``n_...``, a number below 1 in one of ``SIZES`` and a data type that is none of ``DTYPES``.
    """
    if parameter.name.endswith("dtype") and value not in DTYPES:
        raise TacitError(f"{where}: parameter {parameter.name} must be one of {', '.join(DTYPES)}, not {value!r:.200}")
    least = 1 if parameter.name in SIZES else 0 if parameter.name.startswith("n_") else None
    try:
        return _adapter(parameter.annotation, least).validate_python(value)
    except TacitError as error:
        raise TacitError(f"{where}: parameter {parameter.name}: {error}") from None
    except ValidationError as error:
        if any(detail["type"] == "greater_than_equal" for detail in error.errors()):
            rule = "must be at least 1" if least else "must not be negative"
            raise TacitError(f"{where}: parameter {parameter.name} {rule}: {value}") from None
    hint = ""
    if isinstance(value, str) and "list" in parameter.annotation:
        hint = f" (a list is written [{value}])"
    elif isinstance(value, str):
        try:
            float(value)
            hint = f" (YAML reads {value} as a text: write a point before the exponent, such as 2.0e-5)"
        except ValueError:
            pass
    raise TacitError(f"{where}: parameter {parameter.name} must be {parameter.annotation}, not {value!r:.200}{hint}")


def profiles() -> list[str]:
    """The names of the profiles: the folders of ``params/`` with parameters of notebooks, in order."""
    others = ("accelerate", "models")  # files of a launcher, and recipes of models
    return sorted(p.name for p in paths.PARAMS.iterdir() if any(p.glob("*.yaml")) and p.name not in others)


def read_params(profile: str, notebook: str) -> dict[str, Any]:
    """The values in ``params/<profile>/<notebook>.yaml``; raises TacitError when there are none."""
    folder = paths.PARAMS / profile
    if not folder.is_dir():
        raise TacitError(f"unknown profile {profile!r}: there are {', '.join(profiles())}")
    path = folder / f"{notebook}.yaml"
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = [name for name in profiles() if (paths.PARAMS / name / path.name).exists()]
        others = f"; these profiles have some: {', '.join(there)}" if there else ""
        raise TacitError(
            f"profile {profile!r} has no parameters for {notebook}: params/{profile}/{notebook}.yaml is missing{others}"
        ) from None
    except (OSError, ValueError) as error:
        raise TacitError(f"cannot read params/{profile}/{notebook}.yaml: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise TacitError(f"params/{profile}/{notebook}.yaml must map parameter names to values")
    return values


def read_first_params(profiles: Sequence[str], notebook: str) -> dict[str, Any]:
    """``read_params`` of the first of ``profiles`` that has a file for the notebook, else of the last."""
    there = (profile for profile in profiles if (paths.PARAMS / profile / f"{notebook}.yaml").exists())
    return read_params(next(there, profiles[-1]), notebook)


def complete_parameters(path: Path, values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """``values`` checked against the notebook at ``path``: every parameter is there, none is unknown, types agree.

    Ints given for floats become floats, in lists and dicts too. Raises TacitError naming the first offending parameter,
    also for one that the manifest, a JSON file in UTF-8, could not hold: an infinite number, half of a surrogate pair.
    """
    declared = notebook_parameters(path)
    unknown = [name for name in values if name not in declared]
    if unknown:
        raise TacitError(f"{where}: unknown parameter {unknown[0]!r}; {path.name} has {', '.join(declared)}")
    missing = [name for name in declared if name not in values]
    if missing:
        raise TacitError(f"{where}: parameter {missing[0]!r} is missing; a profile is a complete set")
    converted = {}
    for name, value in values.items():
        converted[name] = convert_value(declared[name], value, where=where)
        try:
            json.dumps(converted[name], allow_nan=False, ensure_ascii=False).encode("utf-8")
        except ValueError as error:
            raise TacitError(f"{where}: parameter {name} cannot be written down: {error}") from None
    return converted


def tabulate_used(stem: str, values: Mapping[str, Any]) -> pd.DataFrame:
    """The parameters of notebook ``stem`` with the values that a run used, taken by name from ``values``.

    One row each, in the notebook's order, with columns ``parameter``, ``used`` (as ``-p`` takes it) and ``meaning``.
    Raises TacitError as ``notebook_parameters`` does.
    """
    import pandas as pd  # not for the commands that only read parameters

    declared = notebook_parameters(paths.NOTEBOOKS / f"{stem}.ipynb")
    rows = [(name, as_yaml(values[name]), parameter.meaning) for name, parameter in declared.items()]
    return pd.DataFrame(rows, columns=["parameter", "used", "meaning"]).set_index("parameter")


def as_yaml(value: Any) -> str:
    """A parameter's value in one line of YAML, as it may stand after ``-p NAME``; every text is quoted."""
    match value:
        case dict():
            return "{" + ", ".join(f"{as_yaml(key)}: {as_yaml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_yaml, value)) + "]"
        case float():  # 1.0e-05, where JSON's 1e-05 is a text to YAML
            return yaml.safe_dump(value).split("\n")[0]
    text = json.dumps(value, ensure_ascii=False)  # in which YAML takes some characters for line breaks or refuses them
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda one: f"\\u{ord(one[0]):04x}", text)


def describe_parameters(path: Path) -> str:
    """A page on the parameters of the notebook at ``path``: type, default, meaning, and each profile's value.

    Profiles with the same value stand together; one that has no parameters for the notebook is left out. Values are
    written as ``-p`` takes them. Raises TacitError for a malformed notebook or parameters file.
    """
    declared = notebook_parameters(path)
    known = [name for name in profiles() if (paths.PARAMS / name / f"{path.stem}.yaml").exists()]
    values = {
        name: complete_parameters(path, read_params(name, path.stem), where=f"params/{name}/{path.stem}.yaml")
        for name in known
    }
    lines = [f"{path.stem}: {len(declared)} parameters, profiles {', '.join(known) or 'none'}"]
    for name, parameter in declared.items():
        lines += ["", f"{name}: {parameter.annotation} = {as_yaml(parameter.default)}"]
        lines += [f"    {parameter.meaning}"] * bool(parameter.meaning)
        alike: dict[str, list[str]] = {}
        for profile in known:
            alike.setdefault(as_yaml(values[profile][name]), []).append(profile)
        lines += [f"    {', '.join(group)}: {text}" for text, group in alike.items()]
    return "\n".join(lines)
