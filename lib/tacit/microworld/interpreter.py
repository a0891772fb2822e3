"""A restricted interpreter for the small Python functions that models write.

Model text is never given to ``exec`` or ``eval``: it is parsed, and a tree walker evaluates the few node types below
on plain integers, booleans, strings and lists. There are no attributes, imports, comprehensions, lambdas, format
strings, keyword arguments or builtins beyond ``CALLS``; steps, nesting, integers and sequence lengths are bounded.
It differs from Python in two things: ``+=`` on a list makes a new list, and a name that is assigned to is no builtin
any more from there on.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

MAX_STEPS = 2_000
MAX_INT = 10**12
MAX_LENGTH = 1_000
MAX_SOURCE = 2_000
MAX_DEPTH = 100  # of the tree; below what Python parses and walks wherever this is called from

BINARY = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip
COMPARE = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
CALLS: dict[str, Callable] = {"len": len, "max": max, "min": min, "sum": sum, "abs": abs}


class RestrictedError(Exception):
    """The program is not in the permitted language, ran too long, or failed."""


class _Return(Exception):
    def __init__(self, value: Any):
        self.value = value


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise RestrictedError("integer too large")
    if isinstance(value, (str, list)) and len(value) > MAX_LENGTH:
        raise RestrictedError("sequence too long")
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        raise RestrictedError("no lists inside lists")  # comparing deep ones takes exponential time
    return value


class _Run:
    """One call of one function: its variables and the steps it has left."""

    def __init__(self, variables: dict[str, Any]):
        self.variables = variables
        self.steps = MAX_STEPS

    def tick(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise RestrictedError("too many steps")

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.tick()
            match statement:
                case ast.Return(value=value):
                    raise _Return(None if value is None else self.value(value))
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.variables[name] = self.value(value)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    self.variables[name] = self.binary(op, self.lookup(name), self.value(value))
                case ast.If(test=test, body=body, orelse=orelse):
                    self.block(body if self.value(test) else orelse)
                case ast.For(target=ast.Name(id=name), iter=iterable, body=body, orelse=[]):
                    for item in self.items(iterable):
                        self.tick()
                        self.variables[name] = item
                        self.block(body)
                case ast.While(test=test, body=body, orelse=[]):
                    while self.value(test):
                        self.tick()
                        self.block(body)
                case ast.Pass():
                    pass
                case _:
                    raise RestrictedError(f"not permitted: {type(statement).__name__}")

    def items(self, node: ast.expr) -> list:
        value = self.value(node)
        if not isinstance(value, (list, str)):
            raise RestrictedError("can only loop over a list or a string")
        return list(value)

    def lookup(self, name: str) -> Any:
        if name not in self.variables:
            raise RestrictedError(f"unknown name {name}")
        return self.variables[name]

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if type(op) not in BINARY:
            raise RestrictedError(f"not permitted: {type(op).__name__}")
        if isinstance(op, ast.Mod) and isinstance(left, str):
            raise RestrictedError("no string formatting")
        if isinstance(op, ast.Mult) and not (isinstance(left, int) and isinstance(right, int)):
            if isinstance(right, (str, list)):
                left, right = right, left
            if not (isinstance(left, (str, list)) and isinstance(right, int) and len(left) * right <= MAX_LENGTH):
                raise RestrictedError("repetition too long")
        return _bounded(BINARY[type(op)](left, right))

    def value(self, node: ast.expr) -> Any:
        self.tick()
        match node:
            case ast.Constant(value=bool() | int() | str() | None as value):
                return _bounded(value)
            case ast.Name(id=name):
                return self.lookup(name)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(op, self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand)
            case ast.BoolOp(op=op, values=values):
                stop = isinstance(op, ast.Or)
                for item in values:
                    result = self.value(item)
                    if bool(result) == stop:
                        break
                return result
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARE:
                return COMPARE[type(op)](self.value(left), self.value(right))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self.value(test) else orelse)
            case ast.List(elts=elements):
                return _bounded([self.value(e) for e in elements])
            case ast.Subscript(value=sequence, slice=index) if not isinstance(index, ast.Slice):
                return self.value(sequence)[self.value(index)]
            case ast.Call(func=ast.Name(id=name)) if name in self.variables:
                raise RestrictedError(f"{name} is a value here, not a function")
            case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]):
                numbers = range(*[self.value(a) for a in args])
                if len(numbers) > MAX_LENGTH:
                    raise RestrictedError("range too long")
                return list(numbers)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS:
                return _bounded(CALLS[name](*[self.value(a) for a in args]))
        raise RestrictedError(f"not permitted: {type(node).__name__}")


def parse_function(source: str, *, name: str) -> ast.FunctionDef:
    """Parse ``source``, which must be exactly one function called ``name`` with plain arguments.

    Raises RestrictedError for anything else. Nothing is executed.
    """
    if len(source) > MAX_SOURCE:
        raise RestrictedError("program too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of a text such as "\\d", which is the model's affair
            body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RestrictedError(f"does not parse: {error}") from None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].name != name:
        raise RestrictedError(f"must be exactly one function called {name}")
    arguments = body[0].args
    extras = arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
    # type parameters, def f[T](x), are a syntax error before Python 3.12
    around = body[0].decorator_list or body[0].returns or getattr(body[0], "type_params", None)
    if extras or arguments.defaults or around or any(a.annotation for a in arguments.args):
        raise RestrictedError("only plain positional arguments are permitted")
    if len({a.arg for a in arguments.args}) < len(arguments.args):
        raise RestrictedError("two arguments of one name")  # Python refuses it after parsing
    level: list[ast.AST] = [body[0]]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise RestrictedError("nested too deep")
    return body[0]


def call_function(source: str, *, name: str, arguments: list) -> Any:
    """Evaluate the function ``name`` in ``source`` on ``arguments`` (ints, strings, lists of ints).

    Returns its value (None if it returns nothing). Raises RestrictedError for a program outside the
    permitted language, past ``MAX_STEPS`` evaluation steps, or that fails in any way.
    """
    function = parse_function(source, name=name)
    names = [a.arg for a in function.args.args]
    if len(names) != len(arguments):
        raise RestrictedError(f"takes {len(names)} arguments, not {len(arguments)}")
    run = _Run(dict(zip(names, arguments, strict=True)))
    try:
        run.block(function.body)
    except _Return as result:
        return result.value
    except (TypeError, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError, RecursionError) as error:
        raise RestrictedError(f"failed: {error}") from None
    return None
