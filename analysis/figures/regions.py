"""Small maps of failure regions: the measured rates of one architecture, and the ends of the region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.figures.phase import measured_rates, ring_few, scale_axes
from analysis.figures.style import edges, failure_text, hatch_unmeasured
from analysis.rates.regions import Region
from search_spaces.coordinates import COORDINATES, Plane

_Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionMap:
    """A region in the plane of its middle architecture."""

    region: Region
    architecture: str
    plane: Plane
    x: _Float
    """(X,): the values of the measured cells."""
    y: _Float
    """(Y,)."""
    rate: _Float
    """(Y, X): the measured rates of the region's failure, NaN where nothing was measured."""
    replicates: NDArray[np.int64]
    """(Y, X)."""

    @property
    def title(self) -> str:
        """What fails, and how often at the peak."""
        low, high = self.region.peak_interval
        return f"{failure_text(self.region.failure)}\n{self.architecture}, peak {self.region.peak_rate:.0%} [{low:.0%}, {high:.0%}]"


def region_map(frame: pd.DataFrame, region: Region) -> RegionMap:
    """The map of a region, from the rows in which it was found."""
    architecture, plane = region.architectures[len(region.architectures) // 2], Plane(*map(COORDINATES.__getitem__, region.extents))
    slim = frame[["n_features", "n_hidden", "failure", "sae_all_dead", *plane.cell]]
    x, y, rate, replicates = measured_rates(slim[slim["architecture"] == architecture], region.failure, plane)
    return RegionMap(region, architecture, plane, x, y, rate, replicates)


def plot_region_map(shown: RegionMap, ax: Axes) -> None:
    """Draw the measured cells, light safe and dark failing, and a frame around the region."""
    hatch_unmeasured(ax)
    x, y = (edges(values, c.scale == "log") for values, c in zip((shown.x, shown.y), shown.plane))
    ax.pcolormesh(x, y, shown.rate, cmap="cividis_r", vmin=0, vmax=1, rasterized=True)
    ring_few(shown.x, shown.y, shown.replicates, ax, 2)
    if (shown.y > 0).all():
        scale_axes(ax, shown.plane)
    (left, right), (bottom, top) = (_around(ends, shown.region.extents[c.name]) for ends, c in zip((x, y), shown.plane))
    frame = Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="#D55E00", linewidth=2, clip_on=False)
    ax.add_patch(frame)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    ax.tick_params(labelsize=7)
    ax.set_title(shown.title, fontsize=8)


def _around(ends: _Float, extent: tuple[float, float]) -> tuple[float, float]:
    """The edges of the cells in which a region begins and ends."""
    first, last = (int(np.clip(np.searchsorted(ends, value, "right") - 1, 0, len(ends) - 2)) for value in extent)
    return float(ends[first]), float(ends[last + 1])
