"""Every module, public class and public function says what it does, what it raises, and the shapes of the arrays it takes."""

import ast
import re
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "lib" / "tacit"
MODULES = sorted(LIBRARY.rglob("*.py"))
ARRAYS = {"Tensor", "ArrayLike", "ndarray"}
SHAPE = re.compile(r"(?<!\w)\[[^\[\]()]+\]")  # [seeds, prompts], but neither [0, 1) nor limits[i]


def public(node, prefix=""):
    """The public functions and classes of a module or class, with their names; none that are inside a function."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def raises(function):
    """Does the function itself raise an exception of its own making? What functions inside it raise does not count."""
    inside = {
        id(n) for f in ast.walk(function) if isinstance(f, ast.FunctionDef) and f is not function for n in ast.walk(f)
    }
    return any(isinstance(n, ast.Raise) and n.exc is not None and id(n) not in inside for n in ast.walk(function))


def takes_arrays(function):
    """Has the function a parameter annotated as a tensor or an array, alone or within (``Tensor | None``, a dict of them)?"""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    parts = [n for p in parameters if p is not None and p.annotation is not None for n in ast.walk(p.annotation)]
    return any(getattr(n, "id", getattr(n, "attr", None)) in ARRAYS for n in parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_docstrings_are_there_and_say_shapes_and_what_is_raised(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for name, node in public(tree):
        text = ast.get_docstring(node)
        assert text, f"{name} has no docstring"
        assert text.split("\n\n")[0].rstrip()[-1] in ".?:", f"{name}: the first paragraph is no sentence"
        if isinstance(node, ast.FunctionDef) and raises(node):
            assert any(word in text for word in ("aises", "aise ", "efuse")), f"{name} does not say what it raises"
        if isinstance(node, ast.FunctionDef) and takes_arrays(node):
            assert SHAPE.search(text), f"{name} names no shape, such as [seeds, prompts]"


def test_the_check_sees_what_it_should():
    tree = ast.parse(
        "def a():\n    raise ValueError\ndef b():\n    def c():\n        raise ValueError\nclass D:\n    def e(self): ..."
    )
    found = dict(public(tree))
    assert list(found) == ["a", "b", "D", "D.e"]
    assert (raises(found["a"]), raises(found["b"])) == (True, False)


def test_the_check_knows_arrays_and_shapes():
    tree = ast.parse(
        "def a(x: Tensor | None): ...\ndef b(*, x: dict[str, torch.Tensor]): ...\ndef c(*x: np.ndarray): ...\n"
        "def d(x: Sequence[float]) -> Tensor: ...\ndef e(x, **y): ..."
    )
    assert [takes_arrays(node) for _, node in public(tree)] == [True, True, True, False, False]
    assert all(SHAPE.search(text) for text in ("scores [seeds, prompts] in", "of ``x`` [n]", "[rows][tokens]"))
    assert not any(SHAPE.search(text) for text in ("from [0, 1)", "``limits[i]`` tokens", "tacit[lora]", "none"))
