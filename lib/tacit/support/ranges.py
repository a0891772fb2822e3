"""The values that a number or a word may have: each range in words, and as a test."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from tacit.support.errors import TacitError

Range = tuple[str, Callable[[Any], bool]]

COLDEST = 1e-4  # the lowest temperature but 0: below it float32 scores overflow when they are divided
HEAT: Range = (f"0 (greedy) or at least {COLDEST}", lambda x: x == 0 or COLDEST <= x < inf)
NUCLEUS: Range = ("above 0 and at most 1", lambda x: 0 < x <= 1)


def check_range(name: str, value: Any, values: Range) -> None:
    """Raise TacitError, with the range in words, unless ``value`` lies in it."""
    words, holds = values
    try:
        right = holds(value)
    except TypeError:  # a text where a number belongs
        right = False
    if not right:
        raise TacitError(f"{name} must be {words}; it is {value!r}")
