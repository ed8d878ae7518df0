"""Turns a study's rows into what a failure surface is fitted to: its domain, and the counts of its cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.coordinates import PLANE, Axis, Plane
from search_spaces.surface.domain import Counts, Domain
from search_spaces.surface.surface import FOLDS, Surface, dealt, fit_surface

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ENOUGH = 50
"""Number of replicates from which on a cell's own rate is reported instead of the surface's. With fewer, the surface is nearer to
the truth and its intervals hold it. With this many, the cell's own interval is narrow and needs no neighbours, while the surface's
becomes too narrow on fine lattices (docs/regions.md)."""
PREDICTIVE_FITS = 2
"""Number of batches into which a lattice is dealt: as good as eight for a lattice (docs/regions.md), and four times as fast."""


def on_axes(frame: pd.DataFrame, plane: Plane = PLANE) -> Bools:
    """Which rows lie on both axes, (rows,): all except those at 0 of a logarithmic axis, unless 0 is its only value."""
    has = np.ones(len(frame), dtype=bool)
    for coordinate in plane:
        zero = (frame[coordinate.name] == 0).to_numpy()
        if coordinate.scale == "log" and not zero.all():
            has &= ~zero
    return has


def plane_of(domain: Domain | None) -> Plane:
    """The coordinates of a domain; sparsity and l1 if there is none."""
    return PLANE if domain is None else domain.plane


def domain_of(frame: pd.DataFrame, plane: Plane = PLANE) -> Domain:
    """The domain that the rows span: architectures by width, both coordinates from lowest to highest.

    The frame has at least one row, and all its rows are `on_axes`.
    """
    architectures = sorted(map(Architecture.parse, frame["architecture"].unique()))
    x, y = (Axis(c, float(frame[c.name].min()), float(frame[c.name].max())) for c in plane)
    return Domain(tuple(map(str, architectures)), x, y)


@dataclass(frozen=True, eq=False)
class Tally:
    """The cells of a frame, and the cell of each row."""

    domain: Domain
    cells: Counts
    """Every cell with its number of replicates, and no failures."""
    row: Ints
    """(rows,): the index of each row's cell."""

    @classmethod
    def of(cls, frame: pd.DataFrame, domain: Domain | None = None) -> Tally:
        """The tally of a frame that has rows, all of them `on_axes`. domain: that of a search; by default what the rows span."""
        domain = domain or domain_of(frame)
        columns = [architecture_index(frame, domain), *(frame[axis.name].to_numpy(np.float64) for axis in domain.plane)]
        parts = [np.unique(column, return_inverse=True) for column in columns]
        code = np.ravel_multi_index([inverse for _, inverse in parts], [len(values) for values, _ in parts])
        found, row, replicates = np.unique(code, return_inverse=True, return_counts=True)
        at = np.unravel_index(found, [len(values) for values, _ in parts])
        index, x, y = (values[place] for (values, _), place in zip(parts, at))
        return cls(domain, Counts.of(domain, index, x, y, 0, replicates), row)

    def counts(self, failed: Bools) -> Counts:
        """The counts of the cells; failed has shape (rows,)."""
        failures = np.bincount(self.row, weights=failed, minlength=len(self.cells)).astype(np.int64)
        return Counts(self.cells.architecture, self.cells.u, self.cells.v, failures, self.cells.replicates)

    def surface(self, failed: Bools) -> Surface:
        """P(failure) fitted to the cells."""
        counts = self.counts(failed).gathered()
        return fit_surface(self.domain, counts, dealt(counts) * PREDICTIVE_FITS // FOLDS)


def architecture_index(frame: pd.DataFrame, domain: Domain) -> Ints:
    """(rows,): the index of each row's architecture in the domain."""
    code, names = pd.factorize(frame["architecture"])
    return domain.index([str(Architecture.parse(name)) for name in names])[code]
