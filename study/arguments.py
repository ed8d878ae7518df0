"""Checks the types of arguments that Python users give, so that a wrong one is refused before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral
from types import NoneType
from typing import Any

import numpy as np

from search_spaces.errors import MisuseError

EXPECTED: dict[Any, str] = {
    str: "a text",
    os.PathLike: "a path",
    Integral: "a whole number",
    bool: "True or False",
    Callable: "a function",
    NoneType: "None",
}


def refuse_wrong_type(name: str, value: object, *kinds: Any) -> None:
    """Raise MisuseError unless the value is of one of these kinds. NumPy's integers and booleans count; True is no number."""
    one = bool(value) if isinstance(value, np.bool_) else value
    if not isinstance(one, kinds) or (isinstance(one, bool) and bool not in kinds):
        expected = " or ".join(EXPECTED[kind] for kind in kinds)
        raise MisuseError(f"{name}={value!r} is of type {type(value).__name__}. Expected {expected}.")
