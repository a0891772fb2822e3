"""The restricted interpreter: Python's own results where permitted, and no way out."""

import time

import pytest
from tacit.microworld.interpreter import RestrictedError, call_function

PROGRAMS = {
    "arithmetic": ("def f(x):\n    return 3 * x + x % 4 - x // 3", [5]),
    "branches": (
        "def f(x):\n    if x > 3:\n        return 'big'\n    elif x == 3:\n        return 'three'\n    return -x",
        [3],
    ),
    "loop": (
        "def f(xs):\n    t = 0\n    for x in xs:\n        if x > 2:\n            t += x\n    return t",
        [[1, 2, 3, 4]],
    ),
    "while": ("def f(n):\n    t = 1\n    while n > 1:\n        t = t * n\n        n = n - 1\n    return t", [6]),
    "logic": ("def f(x):\n    return x and (not x or 7)", [2]),
    "calls": ("def f(xs):\n    return max(xs) - min(xs) + len(xs) + sum(range(3)) + abs(-2)", [[4, 9]]),
    "lists": ("def f(xs):\n    return [xs[0], xs[-1]] + xs", [[4, 9]]),
    "nothing": ("def f(x):\n    pass", [1]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_python(name):
    source, arguments = PROGRAMS[name]
    scope = {}
    exec(source, scope)  # our own text, above
    ours = call_function(source, name="f", arguments=arguments)
    assert ours == scope["f"](*arguments)
    assert type(ours) is type(scope["f"](*arguments))


ESCAPES = {
    "attribute walk": "def f(x):\n    return x.__class__.__bases__",
    "string attribute walk": "def f(x):\n    return ''.__class__.__mro__[1].__subclasses__()",
    "import": "def f(x):\n    import os\n    return os",
    "dunder import": "def f(x):\n    return __import__('os')",
    "eval": "def f(x):\n    return eval('1')",
    "open": "def f(x):\n    return open('/etc/passwd')",
    "method": "def f(x):\n    return 'a'.upper()",
    "format": "def f(x):\n    return '{0.__class__}'.format(x)",
    "f-string": "def f(x):\n    return f'{x.__class__}'",
    "percent formatting": "def f(x):\n    return '%999999999d' % x",
    "lambda": "def f(x):\n    return (lambda: x)()",
    "comprehension": "def f(x):\n    return [y for y in range(10)]",
    "generator": "def f(x):\n    yield x",
    "walrus": "def f(x):\n    return (y := x)",
    "power": "def f(x):\n    return 9 ** 9 ** 9",
    "shift": "def f(x):\n    return 1 << 10000000",
    "huge product": "def f(x):\n    t = 10\n    while True:\n        t = t * t",
    "long string": "def f(x):\n    return 'a' * 1000000000",
    "long list": "def f(x):\n    t = [1]\n    while True:\n        t = t + t",
    "negative repetition twice": "def f(x):\n    return ['a'] * 999999999",
    "long range": "def f(x):\n    return len(range(1000000000))",
    "deep lists": "def f(x):\n    t = [1]\n    while True:\n        t = [t, t]",
    "endless loop": "def f(x):\n    while True:\n        pass",
    "recursion": "def f(x):\n    return f(x)",
    "decorator": "@print\ndef f(x):\n    return x",
    "default": "def f(x=open('/etc/passwd')):\n    return x",
    "annotation": "def f(x: open('/etc/passwd')):\n    return x",
    "module code": "print('hello')\ndef f(x):\n    return x",
    "class": "class f:\n    pass",
    "global": "def f(x):\n    global y\n    y = x",
    "try": "def f(x):\n    try:\n        return 1\n    except Exception:\n        return 2",
    "delete": "def f(x):\n    del x",
    "assert": "def f(x):\n    assert x",
    "nested function": "def f(x):\n    def g():\n        return 1\n    return g()",
    "deep nesting": "def f(x):\n    return " + "(" * 900 + "x" + ")" * 900,
    "many signs": "def f(x):\n    return " + "-" * 1900 + "x",
    "float": "def f(x):\n    return 1.5",
    "bytes": "def f(x):\n    return b'a'",
    "division by zero": "def f(x):\n    return x // 0",
    "wrong index": "def f(x):\n    return [1][5]",
    "null byte": "def f(x):\n    return '\0'",
    "too long": "def f(x):\n    return x" + " " * 5000,
}


@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_are_refused_quickly(name):
    started = time.perf_counter()
    with pytest.raises(RestrictedError):
        call_function(ESCAPES[name], name="f", arguments=[3])
    assert time.perf_counter() - started < 1.0


def test_wrong_number_of_arguments_is_refused():
    with pytest.raises(RestrictedError, match="takes 2 arguments"):
        call_function("def f(x, y):\n    return x", name="f", arguments=[3])
