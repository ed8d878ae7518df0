"""The figure of a failure map: the learned rate over two coordinates, the border of the region, and what fails where."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, maximum_filter, zoom

from analysis.figures.phase import SURE, FittedRate, draw_fitted, scale_axes
from analysis.figures.style import MOST_PANELS_A_ROW, edges, failure_text, hatch_unmeasured
from search_spaces.coordinates import COORDINATES, Plane
from search_spaces.failures import failing_verdicts
from search_spaces.surface.domain import Counts, Domain, grid_cell
from search_spaces.surface.surface import Surface

_Float = NDArray[np.float64]
_Bools = NDArray[np.bool_]

COLOURS = "cividis_r"
NEAR = 16
"""A place counts as measured if there is a replicate in its cell of a grid of this many cells per axis, or in one next to it."""
KIND_BINS = 32
"""Bins per axis in which kinds of failure are counted."""
LEAST_AREA = 0.02
"""Smallest share of the plane that is labelled with its kind of failure."""


@dataclass(frozen=True, eq=False)
class MapDiagram:
    """A failure map on a grid, as it is drawn and stored."""

    failure: str
    level: float
    replicates: int
    """The number of replicates that it was learned from."""
    plane: Plane
    fitted: dict[str, FittedRate]
    """By the name of the architecture. The mean is NaN where nothing was measured near; q says how sure the side is at the border
    and where outcomes are mixed, and is 0 or 1 elsewhere."""
    shares: dict[str, dict[str, _Float]]
    """By architecture and kind of failure, (KIND_BINS, KIND_BINS) with y first: how much of the nearby failures it is. Empty for
    a map of a single kind."""

    def share(self, architecture: str) -> float:
        """The share of the measured plane in which the rate is at or above the level."""
        mean = self.fitted[architecture].mean
        return float((mean[np.isfinite(mean)] >= self.level).mean())

    @property
    def title(self) -> str:
        """The finding."""
        named = {name: self.share(name) for name in self.fitted}
        low, high = min(named.values()), max(named.values())
        shares = f"{low:.0%}" if len(named) == 1 else f"{low:.0%} to {high:.0%}"
        what = "fail" if self.failure == "any" else f"fail by {self.failure}"
        return f"{self.level:.0%} of seeds or more {what} in {shares} of the plane, learned from {self.replicates:,} replicates"

    def to_bytes(self) -> bytes:
        """The diagram as an .npz file."""
        plane = [coordinate.name for coordinate in self.plane]
        kinds = {name: list(own) for name, own in self.shares.items()}
        head = {"failure": self.failure, "level": self.level, "replicates": self.replicates, "plane": plane, "kinds": kinds}
        arrays: dict[str, Any] = {f"{name}:{part}": getattr(own, part) for name, own in self.fitted.items() for part in _PARTS}
        arrays |= {f"{name}:kinds": np.array(list(own.values())) for name, own in self.shares.items()}
        file = io.BytesIO()
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> MapDiagram:
        """What `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            names = [key.removesuffix(":mean") for key in stored.files if key.endswith(":mean")]
            fitted = {name: FittedRate(*(stored[f"{name}:{part}"] for part in _PARTS)) for name in names}
            shares = {name: dict(zip(kinds, stored[f"{name}:kinds"])) for name, kinds in head.pop("kinds").items()}
        plane = Plane(*(COORDINATES[name] for name in head.pop("plane")))
        return cls(**head, plane=plane, fitted=fitted, shares=shares)


_PARTS = ("x", "y", "mean", "q")


def map_diagram(learned: Surface, failure: str, level: float, rows: pd.DataFrame) -> MapDiagram:
    """The map of a learned surface. rows: those that it was learned from, which say what kind of failure occurs where."""
    domain, posterior = learned.domain, learned.on_grid()
    u, v = domain.centres()
    x, y = domain.x.from_unit(u), domain.y.from_unit(v)
    mean, q = posterior.mean, posterior.exceedance(level)
    fitted = {}
    for place, name in enumerate(domain.architectures):
        own = learned.counts.take(learned.counts.architecture == place)
        at_border = borderline(mean[place].T, q[place].T, level, own)
        fitted[name] = FittedRate(x, y, np.where(_measured(own, mean[place].T.shape), mean[place].T, np.nan), at_border)
    shares = {name: _kind_shares(rows, name, domain) for name in domain.architectures} if failure == "any" else {}
    return MapDiagram(failure, level, int(learned.counts.replicates.sum()), domain.plane, fitted, shares)


def borderline(mean: _Float, q: _Float, level: float, counts: Counts) -> _Float:
    """q, rounded to 0 or 1 in every unsure area that neither holds the border nor has mixed outcomes: there, only the prior is
    unsure. All (Y, X)."""
    fails = mean >= level
    areas, number = label((q > 1 - SURE) & (q < SURE), np.ones((3, 3)))
    at = areas[grid_cell(counts.v, mean.shape[0]), grid_cell(counts.u, mean.shape[1])]
    kept = np.zeros(number + 1, dtype=bool)
    for area in range(1, number + 1):
        inside, own = fails[areas == area], counts.take(at == area)
        mixed = 0 < own.failures.sum() < own.replicates.sum()
        kept[area] = mixed or inside.min() != inside.max()
    kept[0] = True
    return np.where(kept[areas], q, fails)


def _measured(counts: Counts, shape: tuple[int, ...]) -> _Bools:
    """(Y, X): where replicates are near."""
    sides = [NEAR if cells > 1 else 1 for cells in shape]
    there = np.zeros(sides, dtype=bool)
    there[grid_cell(counts.v, sides[0]), grid_cell(counts.u, sides[1])] = True
    near: _Bools = np.asarray(maximum_filter(there, 3))
    return near.repeat(shape[0] // sides[0], 0).repeat(shape[1] // sides[1], 1)


def _kind_shares(rows: pd.DataFrame, architecture: str, domain: Domain) -> dict[str, _Float]:
    """Of the failures near each bin, the share of each kind that occurs."""
    own = rows[rows["architecture"] == architecture]
    at = [grid_cell(axis.to_unit(own[axis.coordinate.name].to_numpy()), KIND_BINS) for axis in (domain.y, domain.x)]
    counts = {}
    for kind in failing_verdicts():
        which = (own["failure"] == kind.name).to_numpy()
        if which.any():
            bins = np.histogram2d(at[0][which], at[1][which], KIND_BINS, [[0, KIND_BINS], [0, KIND_BINS]])[0]
            counts[kind.name] = gaussian_filter(bins, 1.5, mode="nearest")
    total = np.maximum(sum(counts.values(), np.zeros((KIND_BINS, KIND_BINS))), 1e-12)
    return {kind: found / total for kind, found in counts.items()}


def plot_map(diagram: MapDiagram, architecture: str, ax: Axes) -> None:
    """Draw one architecture: light is safe, dark fails. A line marks the level, dashed lines where the side is SURE.

    Dotted lines part the kinds of failure, which are named. Hatched: nothing was measured near.
    """
    fitted, plane = diagram.fitted[architecture], diagram.plane
    x, y = (edges(values, c.scale == "log") for values, c in zip((fitted.x, fitted.y), plane))
    hatch_unmeasured(ax)
    ax.pcolormesh(x, y, fitted.mean, cmap=COLOURS, vmin=0, vmax=1, rasterized=True)
    scale_axes(ax, plane)
    if min(fitted.mean.shape) > 1:
        _draw_kinds(diagram, architecture, ax)
        draw_fitted(fitted, diagram.level, ax)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    ax.set_title(f"{architecture}: {diagram.share(architecture):.0%} of the plane fails", fontsize=9)


def _draw_kinds(diagram: MapDiagram, architecture: str, ax: Axes) -> None:
    """Draw the lines between kinds of failure, and the name of each in the middle of its area."""
    fitted, shares = diagram.fitted[architecture], diagram.shares.get(architecture, {})
    fails = np.nan_to_num(fitted.mean) >= diagram.level
    fine = {kind: zoom(share, np.array(fails.shape) / KIND_BINS, order=1, mode="nearest") for kind, share in shares.items()}
    for kind, share in fine.items():
        ahead = share - np.max([other for name, other in fine.items() if name != kind] or [np.zeros_like(share)], axis=0)
        if len(fine) > 1 and ahead[fails].size and ahead[fails].min() < 0 < ahead[fails].max():
            lines = np.where(fails, ahead, np.nan)
            ax.contour(fitted.x, fitted.y, lines, levels=[0], colors="white", linestyles=":", linewidths=0.9)
        areas, number = label(fails & (ahead > 0))
        for area in range(1, number + 1):
            if (areas == area).mean() >= LEAST_AREA:
                _name_area(kind, areas == area, fitted, ax)


def _name_area(kind: str, area: _Bools, fitted: FittedRate, ax: Axes) -> None:
    """Write the name where the area is widest."""
    inside = distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    row, middle = np.unravel_index(int(inside.argmax()), area.shape)
    column = int(np.clip(middle, 0.18 * area.shape[1], 0.82 * area.shape[1]))  # a name is a third of a panel wide
    name = ax.text(fitted.x[column], fitted.y[row], kind, fontsize=7.5, color="white", ha="center", va="center")
    name.set_path_effects([patheffects.withStroke(linewidth=1.5, foreground="black")])


def map_figure(diagram: MapDiagram) -> Figure:
    """One panel per architecture; each title says in which share of the plane the rate is at or above the level."""
    names, plane = list(diagram.fitted), diagram.plane
    columns = min(MOST_PANELS_A_ROW, len(names))
    rows = -(-len(names) // columns)
    panel = 3.0 if columns > 2 else 4.4
    figure = Figure(figsize=(max(1.4 + panel * columns, 6.8), 1.1 + 0.9 * panel * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    for place, (ax, name) in enumerate(zip(axes, names)):
        plot_map(diagram, name, ax)
        if place % columns == 0:
            ax.set_ylabel(plane.y.label)
        if place + columns >= len(names):
            ax.set_xlabel(plane.x.label)
            ax.tick_params(labelbottom=True)
    _label_figure(figure, list(axes), diagram)
    return figure


def _label_figure(figure: Figure, axes: Sequence[Axes], diagram: MapDiagram) -> None:
    """Add the title, the colour bar and the legend."""
    figure.suptitle(diagram.title, fontsize=10)
    bar = ScalarMappable(Normalize(0, 1), COLOURS)
    figure.colorbar(bar, ax=axes, label=f"{failure_text(diagram.failure)}, share of seeds", shrink=0.8)
    lines = [
        Line2D([], [], color="black", label=f"rate {diagram.level:.0%}"),
        Line2D([], [], color="black", linestyle="--", linewidth=1.1, label=f"{SURE:.0%} sure of the side"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
