"""What kernels share: laying replicates out as lanes and back, and the sums that training and metrics both compute.

Arrays of a kernel are (rows, lanes), one vector of `study.kernels.simd` per row. Samples (A, S, N) become (S·N, lanes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from study.kernels.compilation import inlined, kernel
from study.kernels.simd import everywhere, lanes_of, load, store, where_at_most, zero_rows


def groups(count: int, dtype: DTypeLike) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of each group's replicates, (lanes,); the last group is filled up with its last replicate."""
    lanes = lanes_of(dtype)
    for start in range(0, count, lanes):
        yield np.minimum(np.arange(start, start + lanes), count - 1)


def rows_of(columns: NDArray[Any], lanes: NDArray[np.int64]) -> NDArray[Any]:
    """The columns of (P, R) that belong to a group: (P, lanes), aligned."""
    out = zero_rows(len(columns), columns.dtype)
    out[:] = columns[:, lanes]
    return out


class Constants(NamedTuple):
    """Vectors that hold one number in every lane, and a variant's own numbers."""

    zero: Any
    one: Any
    two: Any
    minus_one: Any
    settings: Any
    """The array of numbers that the variant's lane code reads."""


@inlined
def constants_of(array, settings):
    """The constants in the dtype of an array."""
    number = array.dtype.type
    return Constants(everywhere(number(0)), everywhere(number(1)), everywhere(number(2)), everywhere(number(-1)), settings)


@kernel
def lay_out(samples, sources, out):
    """samples (A, S, N) → out (S·N, lanes), cast to its dtype; lane r holds samples[sources[r]]."""
    for lane in range(out.shape[1]):
        source = samples[sources[lane]]
        row = 0
        for s in range(source.shape[0]):
            for i in range(source.shape[1]):
                out[row, lane] = source[s, i]
                row += 1


@kernel
def take_back(values, lanes, out):
    """values (S·H, lanes) → out (A, S, H); out[lanes[r]] gets lane r."""
    for lane in range(len(lanes)):
        target = out[lanes[lane]]
        row = 0
        for s in range(target.shape[0]):
            for k in range(target.shape[1]):
                target[s, k] = values[row, lane]
                row += 1


@inlined
def product(P, p, X, x, count):
    """Σ_i P[p + i] X[x + i]; the sum starts at its first term."""
    total = load(P, p) * load(X, x)
    for i in range(1, count):
        total = total + load(P, p + i) * load(X, x + i)
    return total


@inlined
def product_from(start, P, p, X, x, count):
    """start + Σ_i P[p + i] X[x + i]."""
    for i in range(count):
        start = start + load(P, p + i) * load(X, x + i)
    return start


@inlined
def relu(value, zero):
    """max(value, 0); NaN stays NaN."""
    return where_at_most(value, zero, zero, value)


@kernel
def hidden(P, X, out, n_features, n_hidden):
    """h = W x for samples X (S·N, lanes) → (S·H, lanes); P holds W (H·N, lanes)."""
    for s in range(X.shape[0] // n_features):
        for k in range(n_hidden):
            store(out, s * n_hidden + k, product(P, k * n_features, X, s * n_features, n_features))
