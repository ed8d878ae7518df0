"""From a study's rows to what a failure surface takes: its domain, its cells, their counts."""

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
"""Replicates from which a cell's own rate is reported in place of the surface's. With fewer the surface is nearer to the truth and
its intervals hold it; with as many a cell's own interval is narrow and needs no neighbour, while on fine lattices the surface's
becomes too narrow (docs/regions.md)."""
PREDICTIVE_FITS = 2
"""Batches that a lattice is dealt into: as good as eight there (docs/regions.md), and four times as fast."""


def on_axes(frame: pd.DataFrame, plane: Plane = PLANE) -> Bools:
    """Which rows have a place on both axes, (rows,): all but those at 0 of a logarithmic one, unless 0 is its only value."""
    has = np.ones(len(frame), dtype=bool)
    for coordinate in plane:
        zero = (frame[coordinate.name] == 0).to_numpy()
        if coordinate.scale == "log" and not zero.all():
            has &= ~zero
    return has


def plane_of(domain: Domain | None) -> Plane:
    """Its coordinates; sparsity and l1 without a domain."""
    return PLANE if domain is None else domain.plane


def domain_of(frame: pd.DataFrame, plane: Plane = PLANE) -> Domain:
    """What the rows span: architectures by width, both coordinates from lowest to highest. The frame has a row, all `on_axes`."""
    architectures = sorted(map(Architecture.parse, frame["architecture"].unique()))
    x, y = (Axis(c, float(frame[c.name].min()), float(frame[c.name].max())) for c in plane)
    return Domain(tuple(map(str, architectures)), x, y)


@dataclass(frozen=True, eq=False)
class Tally:
    """The cells of a frame; which of them each row is of."""

    domain: Domain
    cells: Counts
    """Every cell, its replicates, and no failures."""
    row: Ints
    """(rows,): the cell of each."""

    @classmethod
    def of(cls, frame: pd.DataFrame, domain: Domain | None = None) -> Tally:
        """The tally of a frame with rows, all of them `on_axes`. domain: a search's own; by default what the rows span."""
        domain = domain or domain_of(frame)
        columns = [architecture_index(frame, domain), *(frame[axis.name].to_numpy(np.float64) for axis in domain.plane)]
        parts = [np.unique(column, return_inverse=True) for column in columns]
        code = np.ravel_multi_index([inverse for _, inverse in parts], [len(values) for values, _ in parts])
        found, row, replicates = np.unique(code, return_inverse=True, return_counts=True)
        at = np.unravel_index(found, [len(values) for values, _ in parts])
        index, x, y = (values[place] for (values, _), place in zip(parts, at))
        return cls(domain, Counts.of(domain, index, x, y, 0, replicates), row)

    def counts(self, failed: Bools) -> Counts:
        """The cells' counts; failed has shape (rows,)."""
        failures = np.bincount(self.row, weights=failed, minlength=len(self.cells)).astype(np.int64)
        return Counts(self.cells.architecture, self.cells.u, self.cells.v, failures, self.cells.replicates)

    def surface(self, failed: Bools) -> Surface:
        """P(failure) fitted to the cells."""
        counts = self.counts(failed).gathered()
        return fit_surface(self.domain, counts, dealt(counts) * PREDICTIVE_FITS // FOLDS)


def architecture_index(frame: pd.DataFrame, domain: Domain) -> Ints:
    """Each row's architecture as its place in the domain, (rows,)."""
    code, names = pd.factorize(frame["architecture"])
    return domain.index([str(Architecture.parse(name)) for name in names])[code]
