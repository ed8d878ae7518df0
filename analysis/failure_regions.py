"""Where failures are: connected sets of cells whose failure rate is above a level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import label
from scipy.stats import beta

from analysis.statistics import cell_rates, on_lattice, rate_interval
from study.failures import FailureKind


@dataclass(frozen=True)
class Region:
    """A connected set of cells whose failure rate is at or above the level."""

    name: str
    """The failure and the cell of the peak: stays while the peak does."""
    failure: str
    architectures: list[str]
    sparsity: tuple[float, float]
    """Lowest and highest sparsity of its cells."""
    l1: tuple[float, float]
    volume: float
    """Its share of the study's cells, in [0, 1]."""
    peak_rate: float
    peak_interval: tuple[float, float]
    """95 % interval of the failure rate in the peak's cell."""
    replicates: int
    confidence: float
    """Probability that the rate in the peak's cell is at or above the level, given its replicates alone.

    The peak was chosen because it is high: in a large map of few seeds some cell always is. The claim that a region
    exists needs more seeds at its peak."""


def failure_regions(frame: pd.DataFrame, failure: str = "any", level: float = 0.5) -> list[Region]:
    """Regions of one failure, the surest first.

    Cells lie on the lattice of the study's architectures (by width), sparsities and l1 values (binned where they are
    many: `on_lattice`); neighbours along any of the three belong together. A cell is in when its Jeffreys posterior mean,
    (k + ½)/(n + 1), is at or above the level.
    """
    if frame.empty:
        return []
    cells = cell_rates(on_lattice(frame), failure)
    axes = [list(dict.fromkeys(cells["architecture"])), sorted(cells["sparsity"].unique()), sorted(cells["l1"].unique())]
    at = tuple(
        pd.Index(axis).get_indexer(pd.Index(cells[column]))
        for axis, column in zip(axes, ("architecture", "sparsity", "l1"), strict=True)
    )
    failures, replicates = np.zeros([len(axis) for axis in axes]), np.zeros([len(axis) for axis in axes])
    failures[at], replicates[at] = cells["failures"], cells["replicates"]
    inside = (replicates > 0) & ((failures + 0.5) / (replicates + 1) >= level)
    labels, count = label(inside)
    probability = beta.sf(level, failures + 0.5, replicates - failures + 0.5)

    regions = []
    for number in range(1, count + 1):
        members = np.argwhere(labels == number)
        peak = tuple(max(members, key=lambda cell: probability[tuple(cell)]))
        low, high = rate_interval(failures[peak], replicates[peak])
        architectures, sparsities, l1s = (sorted({int(i) for i in members[:, axis]}) for axis in range(3))
        regions.append(
            Region(
                name=f"{failure}@{axes[0][peak[0]]},S={axes[1][peak[1]]:g},l1={axes[2][peak[2]]:g}",
                failure=failure,
                architectures=[axes[0][i] for i in architectures],
                sparsity=(float(axes[1][sparsities[0]]), float(axes[1][sparsities[-1]])),
                l1=(float(axes[2][l1s[0]]), float(axes[2][l1s[-1]])),
                volume=len(members) / len(cells),
                peak_rate=float(failures[peak] / replicates[peak]),
                peak_interval=(float(low), float(high)),
                replicates=int(replicates[labels == number].sum()),
                confidence=float(probability[peak]),
            )
        )
    return sorted(regions, key=lambda region: (-region.confidence, -region.volume, region.name))


def all_regions(frame: pd.DataFrame, level: float = 0.5) -> list[Region]:
    """Regions of any failure, then of each kind that occurs."""
    kinds = [
        "any",
        *(kind.value for kind in FailureKind if kind is not FailureKind.NONE and (frame["failure"] == kind.value).any()),
    ]
    return [region for kind in kinds for region in failure_regions(frame, kind, level)]
