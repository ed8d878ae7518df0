"""Sums in a stated order: the definition that every engine of the `exact` family matches to the bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]


def ordered_sum(terms: Iterable[_Array], start: _Array | None = None) -> _Array:
    """start + first + second + …, added one by one in this order."""
    remaining = iter(terms)
    first = next(remaining)
    total = first if start is None else start + first
    for term in remaining:
        total += term  # in place: `total` is a temporary array, a product or the sum of two terms
    return total


def mean_over_batch(out: _Array, terms: Iterable[_Array], count: int) -> None:
    """out ← (first + second + …)/count, added in order; not divided if count is 1."""
    remaining = iter(terms)
    out[...] = next(remaining)
    for term in remaining:
        out += term
    if count > 1:
        out *= out.dtype.type(1 / count)
