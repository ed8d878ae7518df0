"""The domain on which a failure surface is defined, and the counts to which it is fitted, in units of its axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.cells import Architecture
from search_spaces.coordinates import Axis, Plane
from search_spaces.errors import MisuseError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRID = 128
"""Grid cells per axis when an architecture's plane is mapped."""


@dataclass(frozen=True)
class Domain:
    """Ordered architectures and the ranges of two coordinates.

    Raises MisuseError if no architecture is named, or one twice.
    """

    architectures: tuple[str, ...]
    """Written as "10-5-10"; the surface shares what it learns between neighbours in this order."""
    x: Axis
    y: Axis

    def __post_init__(self) -> None:
        names = tuple(str(Architecture.parse(name)) for name in self.architectures)
        if not names or len(set(names)) < len(names):
            raise MisuseError(f"architectures={list(names)} must name at least one architecture, and none twice.")
        object.__setattr__(self, "architectures", names)

    @property
    def plane(self) -> Plane:
        """The two coordinates."""
        return Plane(self.x.coordinate, self.y.coordinate)

    @property
    def varies(self) -> tuple[bool, bool]:
        """Whether x, and whether y, has more than one value."""
        return self.x.varies, self.y.varies

    def index(self, architectures: ArrayLike | Iterable[Architecture | str]) -> Ints:
        """Indices (n,) of architectures that are given as names or indices; MisuseError for one that is not in the domain."""
        given = np.atleast_1d(np.asarray(architectures if isinstance(architectures, np.ndarray) else list(_many(architectures))))
        if given.dtype.kind in "iu":
            unknown = given[(given < 0) | (given >= len(self.architectures))]
            found = given.astype(np.int64)
        else:
            places = {name: place for place, name in enumerate(self.architectures)}
            found = np.array([places.get(name, -1) for name in given.tolist()], dtype=np.int64)
            unknown = given[found < 0]
        if len(unknown):
            raise MisuseError(f"architecture {unknown[0]!s} is not in this surface, which has {', '.join(self.architectures)}.")
        return found

    def centres(self, size: int = GRID) -> tuple[Floats, Floats]:
        """u and v at the middles of the grid cells: `size` per axis, or one if the axis has a single value."""
        u, v = ((np.arange(cells) + 0.5) / cells for cells in self.shape(size)[1:])
        return u, v

    def shape(self, size: int = GRID) -> tuple[int, int, int]:
        """(A, U, V): the grid's shape."""
        rows, columns = (size if varies else 1 for varies in self.varies)
        return len(self.architectures), rows, columns


def _many(architectures: object) -> Iterable[object]:
    single = isinstance(architectures, (str, Architecture)) or not isinstance(architectures, Iterable)
    return (str(a) if isinstance(a, Architecture) else a for a in ([architectures] if single else architectures))  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Counts:
    """Numbers of replicates and of failures at points; all arrays have shape (n,)."""

    architecture: Ints
    """Index a."""
    u: Floats
    """x, in units of its axis."""
    v: Floats
    """y, in units of its axis."""
    failures: Ints
    """0 … replicates."""
    replicates: Ints
    """1 or more."""

    @classmethod
    def of(
        cls,
        domain: Domain,
        architecture: ArrayLike | Iterable[Architecture | str],
        x: ArrayLike,
        y: ArrayLike,
        failures: ArrayLike,
        replicates: ArrayLike = 1,
    ) -> Counts:
        """Counts at points (x, y) of a domain. Points without replicates are left out; MisuseError for impossible counts."""
        index = domain.index(architecture)
        u, v = (np.broadcast_to(part, index.shape) for part in (domain.x.to_unit(x), domain.y.to_unit(y)))
        whole = whole_numbers("failures", failures), whole_numbers("replicates", replicates)
        k, n = (np.broadcast_to(part, index.shape) for part in whole)
        if (k > n).any():
            raise MisuseError(f"{k[k > n][0]} failures in {n[k > n][0]} replicates. A replicate fails at most once.")
        return cls(index, u, v, k, n).take(n > 0)

    def __len__(self) -> int:
        return len(self.u)

    def take(self, rows: NDArray[np.bool_] | Ints) -> Counts:
        """The chosen rows."""
        return Counts(self.architecture[rows], self.u[rows], self.v[rows], self.failures[rows], self.replicates[rows])

    def plus(self, other: Counts) -> Counts:
        """The sum of both, with points that occur twice added up, in an order that depends only on the points."""
        columns: Any = (np.concatenate(pair) for pair in zip(self._columns(), other._columns()))
        return Counts(*columns).merged()

    def merged(self) -> Counts:
        """One row per point, sorted."""
        order = np.lexsort((self.v, self.u, self.architecture))
        a, u, v, k, n = (column[order] for column in self._columns())
        if len(order) == 0:
            return self
        first = np.concatenate([[True], (np.diff(a) != 0) | (np.diff(u) != 0) | (np.diff(v) != 0)])
        starts = np.flatnonzero(first)
        return Counts(a[first], u[first], v[first], np.add.reduceat(k, starts), np.add.reduceat(n, starts))

    def gathered(self) -> Counts:
        """These counts; if they have more than MOST_POINTS points, the counts are summed at the middles of the grid cells.

        A grid cell is smaller than the tree resolves, and a sixth of the process's shortest length scale.
        """
        if len(self) <= MOST_POINTS:
            return self
        u, v = ((grid_cell(x, GRID) + 0.5) / GRID for x in (self.u, self.v))
        return replace(self, u=u, v=v).merged()

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.architecture, self.u, self.v, self.failures, self.replicates


MOST_POINTS = 20_000


def whole_numbers(name: str, values: ArrayLike) -> Ints:
    given = np.asarray(values)
    whole = given.astype(np.int64)
    if (whole != given).any() or (whole < 0).any():
        raise MisuseError(f"{name} must be whole numbers >= 0, got {given[(whole != given) | (whole < 0)].flat[0]}.")
    return whole


def grid_cell(x: Floats, side: int) -> Ints:
    """The index of the cell in which each x lies, of `side` equal cells of [0, 1]."""
    return np.minimum((x * side).astype(np.int64), side - 1)
