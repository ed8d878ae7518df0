"""Values as people write them and as Python holds them, made plain; and how messages show them, in one short line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, KeysView, Mapping, Set, ValuesView
from decimal import Decimal
from itertools import count
from numbers import Integral, Real
from typing import Any

from search_spaces.errors import MisuseError

MOST_CHARACTERS = 100
"""Longest value, or name, that a message shows whole."""
MOST_DEPTH = 20
"""Deepest nesting of lists and mappings in a specification."""
MOST_KEYS = 1_000
"""Most fields of one mapping."""
MOST_PARTS = 200_000
"""Most lists and mappings in a specification, inner ones included."""
MOST_LENGTH = 10_000_000
"""Longest list."""


class _Short(reprlib.Repr):
    """repr, shortened before it is made: safe for lists that hold themselves and for integers of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, MOST_CHARACTERS, MOST_CHARACTERS, 40

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**MOST_CHARACTERS else f"<an integer of {x.bit_length()} bits>"


_SHORT = _Short()


def quoted(value: object) -> str:
    """The value as messages show it: its repr, of at most some hundred characters, on one line.

    >>> quoted("10-5-9"), quoted(0.5), quoted(10**5000)
    ("'10-5-9'", '0.5', '<an integer of 16610 bits>')
    """
    return one_line(_SHORT.repr(value), MOST_CHARACTERS + 20)


def named(name: object) -> str:
    """The name of a field as messages show it: quoted unless it looks like one."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= MOST_CHARACTERS else quoted(name)


def one_line(text: str, most: int) -> str:
    """The text on one line, control characters escaped, its middle left out where it is longer than `most`."""
    line = " ".join(text.split())
    if len(line) > most:
        line = f"{line[: most - most // 3]}…{line[-(most // 3) :]}"
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


def whole(value: object) -> int | None:
    """The whole number that the value is, NumPy's included; None for anything else, also for True and 1.0."""
    value = plain(value)
    return None if isinstance(value, bool) or not isinstance(value, int) else value


def number(value: object) -> float | None:
    """The number that the value is, as a float: NumPy's, fractions and decimals included; None for anything else."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def plain(value: object) -> Any:
    """The value in Python's own types: arrays, series and tuples as lists, NumPy's scalars, fractions and decimals as numbers.

    What is neither a collection nor a number (a `Protocol`, a range, …) is returned as it is. Raises MisuseError for what has
    no order or can be read only once, and for collections nested too deeply or too large, before they are copied.
    """
    return _plain(value, 0, count(1))


def _plain(value: object, depth: int, parts: Iterator[int]) -> Any:
    if isinstance(value, Mapping):
        _refuse_excess(value, MOST_KEYS, depth, parts)
        return {_key(key): _plain(one, depth + 1, parts) for key, one in value.items()}
    if hasattr(value, "tolist") and not isinstance(value, type):  # NumPy's arrays and scalars, pandas' series and indexes
        _refuse_length(getattr(value, "size", 0), MOST_LENGTH)
        value = value.tolist()
    if isinstance(value, (list, KeysView, ValuesView)) or type(value) is tuple:
        _refuse_excess(value, MOST_LENGTH, depth, parts)
        return [_plain(one, depth + 1, parts) for one in value]
    if isinstance(value, (Set, Iterator)):
        kind = "set, which has no order" if isinstance(value, Set) else f"{type(value).__name__}, which can be read only once"
        raise MisuseError(f"{quoted(value)} is a {kind}. Give a list.")
    return _scalar(value)


def _scalar(value: object) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        try:
            return float(value) + 0.0  # −0.0 is 0.0: one value, one id
        except (OverflowError, ValueError):  # a fraction beyond floats, a signalling NaN
            return float("nan")
    return value


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise MisuseError(f"the key {quoted(key)} is not text. Fields have names, such as architectures.")
    return str.__str__(key)


def _refuse_excess(value: Any, most: int, depth: int, parts: Iterator[int]) -> None:
    _refuse_length(len(value), most)
    if depth >= MOST_DEPTH or next(parts) > MOST_PARTS:
        raise MisuseError(
            f"{quoted(value)} is nested too deeply, or holds too much: a specification has at most {MOST_DEPTH} levels and "
            f"{MOST_PARTS:,} lists and mappings."
        )


def _refuse_length(length: int, most: int) -> None:
    if length > most:
        raise MisuseError(f"a list or mapping of {length:,} is too long: at most {most:,} are read. Split the study.")
