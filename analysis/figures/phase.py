"""Phase diagrams: the failure rate over two coordinates, where it crosses a level, and the closed forms of the SAE's death.

Measured rates are drawn as cells and marks, fitted ones as lines; grey hatch means not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.style import (
    LineStyle,
    counts_text,
    edges,
    failure_text,
    hatch_unmeasured,
    log_ticks,
    nothing_to_show,
)
from analysis.rates.cells import cell_rates, on_lattice
from analysis.transitions.critical_points import (
    CriticalPoint,
    critical_points,
    death_predictions,
    named_protocol,
)
from analysis.transitions.crossings import Answer
from search_spaces.coordinates import L1, PLANE, Coordinate, Plane

_Float = NDArray[np.float64]

SURE = 0.95
"""Probability from which on a fitted rate counts as certain to be on its side of the level."""
FEW_SEEDS = 10
"""Cells of fewer seeds, and of less than a quarter of the most, are marked: the colour of their rate says little."""
WIDEST_INTERVAL = 0.35
"""Intervals longer than this share of the axis are not drawn into a phase diagram, which they would cover."""


@dataclass(frozen=True, eq=False)
class FittedRate:
    """A fitted failure rate on a grid of one architecture's plane."""

    x: _Float
    """(X,), ascending."""
    y: _Float
    """(Y,), ascending."""
    mean: _Float
    """(Y, X): posterior mean of the rate."""
    q: _Float
    """(Y, X): P(rate ≥ level)."""


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """The failure rate of one architecture over two coordinates."""

    architecture: str
    failure: str
    level: float
    plane: Plane
    x: _Float
    """(X,): the values of the measured cells."""
    y: _Float
    """(Y,)."""
    rate: _Float
    """(Y, X): the measured rates, NaN where nothing was measured."""
    replicates: NDArray[np.int64]
    """(Y, X)."""
    critical: tuple[CriticalPoint, ...]
    """Crossings of the level along either axis."""
    lines: dict[str, _Float]
    """The closed forms of the SAE's death by name, each (X,) in l1; NaN where they are unknown."""
    fitted: FittedRate | None = None

    @property
    def share(self) -> float:
        """The share of measured cells whose rate is at or above the level; NaN without cells."""
        measured = self.rate[np.isfinite(self.rate)]
        return float((measured >= self.level).mean()) if len(measured) else np.nan

    @property
    def few(self) -> NDArray[np.bool_]:
        """(Y, X): which measured cells have few seeds for this diagram."""
        return few_seeds(self.replicates)

    @property
    def title(self) -> str:
        """The finding as a title."""
        if np.isnan(self.share):
            return f"{self.architecture}: nothing measured"
        return f"{self.architecture}: {failure_text(self.failure)} in ≥ {self.level:.0%} of seeds in {self.share:.0%} of cells"

    @property
    def caption(self) -> str:
        """What the diagram shows, and from how many replicates."""
        seeds = self.replicates[self.replicates > 0]
        each = counts_text(seeds, none="no")
        x, y = (coordinate.symbol for coordinate in self.plane)
        lines = (
            f" Line: fitted {self.level:.0%}; dashed: where the fit is {SURE:.0%} sure of either side."
            if self.fitted is not None
            else f" Bars: 90 % intervals of where the rate crosses {self.level:.0%}, along {y} or {x}."
        )
        few = f" Ringed: fewer than {FEW_SEEDS} seeds." if self.few.any() else ""
        return f"{self.replicates.sum()} replicates, {each} seeds per cell.{lines}{few} Hatched: not measured."


def phase_diagram(
    frame: pd.DataFrame,
    architecture: str,
    failure: str = "any",
    level: float = 0.5,
    fitted: FittedRate | None = None,
    deaths: Sequence[CriticalPoint] | None = None,
    plane: Plane = PLANE,
) -> PhaseDiagram:
    """The measured cells of one architecture, where the rate crosses the level, and the death lines of its autoencoders.

    Cells at 0 of a logarithmic axis are left out. Many distinct values are binned (`on_lattice`).

    deaths: this architecture's `critical_points` for one of DEATHS, if they are already known. The lines are then taken from
    them, and so are the crossings if failure and level are the same.
    """
    own = _drawable(frame[frame["architecture"] == architecture], plane)
    x, y, rate, replicates = measured_rates(own, failure, plane)
    critical = _crossed(own, failure, level, deaths, plane) if fitted is None else ()
    lines = _death_lines(own, plane) if deaths is None else _lines_of(deaths, x)
    return PhaseDiagram(architecture, failure, level, plane, x, y, rate, replicates, critical, lines, fitted)


def measured_rates(own: pd.DataFrame, failure: str, plane: Plane) -> tuple[_Float, _Float, _Float, NDArray[np.int64]]:
    """x (X,), y (Y,), the rate of each cell (Y, X), NaN where nothing was measured, and its replicates (Y, X)."""
    rates = cell_rates(own, failure, plane)
    table, counts = (rates.pivot(index=plane.y.name, columns=plane.x.name, values=value) for value in ("rate", "replicates"))
    x, y = (values.to_numpy(dtype=np.float64) for values in (table.columns, table.index))
    return x, y, table.to_numpy(dtype=np.float64), counts.fillna(0).to_numpy(dtype=np.int64)


def _drawable(own: pd.DataFrame, plane: Plane) -> pd.DataFrame:
    """The rows that lie on both axes, on a lattice."""
    for coordinate in plane:
        if coordinate.scale == "log":
            own = own[own[coordinate.name] > 0]
    return on_lattice(own, plane) if len(own) else own


def _crossed(
    own: pd.DataFrame, failure: str, level: float, deaths: Sequence[CriticalPoint] | None, plane: Plane
) -> tuple[CriticalPoint, ...]:
    """Where the rate crosses the level, taken from `deaths` if these have the same failure and level."""
    if deaths is None or (deaths and (deaths[0].quantity, deaths[0].level) != (failure, level)):
        deaths = critical_points(own, failure, level, plane=plane)
    return tuple(point for point in deaths if point.crossing.answer is Answer.CROSSED)


def _death_lines(own: pd.DataFrame, plane: Plane) -> dict[str, _Float]:
    """The l1 of each closed form at every x."""
    if plane.y != L1:
        return {}
    protocol = named_protocol(own)
    found = [{p.name: p.value for p in death_predictions(column, protocol)} for _, column in own.groupby(plane.x.name)]
    return {name: np.array([at.get(name, np.nan) for at in found]) for name in dict.fromkeys(n for at in found for n in at)}


def _lines_of(deaths: Sequence[CriticalPoint], x: _Float) -> dict[str, _Float]:
    """The closed forms of the points along l1, at each x."""
    at = {point.at: {p.name: p.value for p in point.predictions} for point in deaths if point.axis == L1}
    names = dict.fromkeys(name for predicted in at.values() for name in predicted)
    return {name: np.array([at.get(value, {}).get(name, np.nan) for value in x]) for name in names}


def few_seeds(replicates: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which measured cells have few seeds, in absolute numbers and beside the others."""
    return (replicates > 0) & (replicates < min(FEW_SEEDS, replicates.max(initial=0) / 4))


def ring_few(x: _Float, y: _Float, replicates: NDArray[np.int64], ax: Axes, size: float = 4) -> None:
    """Draw a ring in each cell (Y, X) of few seeds."""
    rows, columns = np.nonzero(few_seeds(replicates))
    ax.plot(x[columns], y[rows], "o", color="white", markeredgecolor="black", markeredgewidth=0.15 * size, markersize=size)


def scale_axes(ax: Axes, plane: Plane) -> None:
    """Make those axes logarithmic whose coordinates are."""
    for which, coordinate in zip("xy", plane):
        if coordinate.scale == "log":
            log_ticks(ax, which)


def plot_phase_diagram(diagram: PhaseDiagram, ax: Axes, legend: bool = True) -> QuadMesh | None:
    """Draw measured cells (light is safe, dark fails), crossings and death lines; returns the cells for a colour bar."""
    hatch_unmeasured(ax)
    ax.set_title(diagram.title, fontsize=9)
    ax.set_xlabel(diagram.plane.x.label)
    ax.set_ylabel(diagram.plane.y.label)
    if diagram.rate.size == 0:
        nothing_to_show(ax, "nothing measured")
        return None
    x, y = (edges(values, c.scale == "log") for values, c in zip((diagram.x, diagram.y), diagram.plane))
    mesh = ax.pcolormesh(x, y, diagram.rate, cmap="cividis_r", vmin=0, vmax=1, rasterized=True)
    scale_axes(ax, diagram.plane)
    ring_few(diagram.x, diagram.y, diagram.replicates, ax)
    top = _draw_death_lines(diagram, ax)
    if diagram.fitted is None:
        _draw_critical(diagram, ax)
    else:
        draw_fitted(diagram.fitted, diagram.level, ax)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], max(y[-1], top))
    if legend:
        ax.legend(
            handles=phase_legend(diagram), fontsize=7, ncols=2, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14)
        )
    return mesh


_THEORY = "#D55E00"
_LINE_STYLES: dict[str, LineStyle] = {"death line 2‖w‖": "-", "initial pull on W_dec": (0, (2, 1.5))}
_OUTLINE: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=3, foreground="white")]


def _draw_death_lines(diagram: PhaseDiagram, ax: Axes) -> float:
    """Draw the closed forms, outlined in white; returns the l1 that the axis must reach to show them."""
    for name, line in diagram.lines.items():
        style = _LINE_STYLES.get(name, "-.")
        ax.plot(diagram.x, line, color=_THEORY, linestyle=style, linewidth=1.6, path_effects=_OUTLINE)
    finite = [line[np.isfinite(line)] for line in diagram.lines.values()]
    return 1.4 * max((float(line.max()) for line in finite if len(line)), default=0.0)


def _draw_critical(diagram: PhaseDiagram, ax: Axes) -> None:
    """Draw crossings along y as vertical bars and along x as horizontal ones, if their interval is short enough to be useful."""
    for point in diagram.critical:
        if point.at is None:  # a crossing of the autoencoder, on which y has no effect
            ax.axvline(point.crossing.estimate, color="black", linewidth=1.3, path_effects=_OUTLINE)
            continue
        found, upright = point.crossing, point.axis == diagram.plane.y
        values = diagram.y if upright else diagram.x
        low, high = np.clip([found.low, found.high], values[0], values[-1])
        if _share(low, high, values, point.axis) > WIDEST_INTERVAL:
            continue
        ends = ([point.at, point.at], [low, high]) if upright else ([low, high], [point.at, point.at])
        at = (point.at, found.estimate) if upright else (found.estimate, point.at)
        ax.plot(*ends, "-", color="black", linewidth=1.3, path_effects=_OUTLINE)
        ax.plot(*at, "o", markersize=4, color="black", markeredgecolor="white", markeredgewidth=0.6)


def _share(low: float, high: float, values: _Float, axis: Coordinate) -> float:
    """The share that low … high takes of the axis from the first to the last value."""
    if axis.scale == "log":
        return float(np.log(high / low) / np.log(values[-1] / values[0]))
    return float((high - low) / (values[-1] - values[0]))


def draw_fitted(fitted: FittedRate, level: float, ax: Axes) -> None:
    """Draw the fitted level as a line, and P(rate ≥ level) of 5 % and 95 % as dashed lines."""
    for values, at, style, width in (
        (fitted.mean, level, "-", 1.8),
        (fitted.q, SURE, "--", 1.1),
        (fitted.q, 1 - SURE, "--", 1.1),
    ):
        if values.min() < at < values.max():
            drawn = ax.contour(fitted.x, fitted.y, values, levels=[at], colors="black", linestyles=style, linewidths=width)
            drawn.set_path_effects(_OUTLINE)


def phase_legend(diagram: PhaseDiagram) -> list[Line2D]:
    """One entry per kind of line in the diagram."""
    entries = [Line2D([], [], color=_THEORY, linestyle=_LINE_STYLES.get(name, "-."), label=name) for name in diagram.lines]
    if diagram.fitted is not None:
        entries.append(Line2D([], [], color="black", label=f"fitted {diagram.level:.0%}"))
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=1.1, label=f"{SURE:.0%} sure of the side"))
    elif diagram.critical:
        entries.append(Line2D([], [], color="black", marker="o", markersize=3, label=f"rate crosses {diagram.level:.0%}"))
    return entries


def plot_phase_diagrams(diagrams: Sequence[PhaseDiagram], axes: Sequence[Axes]) -> None:
    """Draw small multiples on as many or more Axes of one figure, with shared limits, one colour bar and one legend."""
    drawn = [plot_phase_diagram(diagram, ax, legend=False) for diagram, ax in zip(diagrams, axes, strict=False)]
    for ax in axes[len(diagrams) :]:
        ax.set_axis_off()
    for diagram, ax in zip(diagrams, axes):
        if np.isfinite(diagram.share):
            ax.set_title(f"{diagram.architecture}: in {diagram.share:.0%} of cells", fontsize=9)
    measured = [ax for ax, mesh in zip(axes, drawn) if mesh is not None]
    if not measured:
        return
    axes[0].figure.suptitle(shares_title(diagrams), fontsize=10)
    _share_limits(measured)
    _label_outer(axes[: len(diagrams)])
    figure = axes[0].figure
    bar = f"{failure_text(diagrams[0].failure)}, share of seeds"
    figure.colorbar(next(mesh for mesh in drawn if mesh is not None), ax=list(axes), label=bar, shrink=0.8)
    entries = {str(entry.get_label()): entry for diagram in diagrams for entry in phase_legend(diagram)}
    if entries and isinstance(figure, Figure):
        figure.legend(handles=list(entries.values()), loc="outside lower center", ncols=len(entries), frameon=False, fontsize=8)


def shares_title(diagrams: Sequence[PhaseDiagram]) -> str:
    """The finding of small multiples: in which share of the cells the rate is at or above the level, over all architectures."""
    shares = [diagram.share for diagram in diagrams if np.isfinite(diagram.share)]
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    where = low if low == high else f"{low} to {high}"
    return f"{failure_text(diagrams[0].failure)} in {diagrams[0].level:.0%} of seeds or more: {where} of cells"


def _share_limits(axes: Sequence[Axes]) -> None:
    """Give all Axes the widest limits of any."""
    lows, highs = zip(*(ax.get_xlim() for ax in axes)), zip(*(ax.get_ylim() for ax in axes))
    (left, right), (bottom, top) = ((min(low), max(high)) for low, high in (lows, highs))
    for ax in axes:
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)


def _label_outer(axes: Sequence[Axes]) -> None:
    """Label the axes only at the left of each row and below the last panel of each column."""
    places = [spec for spec in (ax.get_subplotspec() for ax in axes) if spec is not None]
    if len(places) < len(axes):
        return
    lowest = {
        spec.colspan.start: max(other.rowspan.start for other in places if other.colspan.start == spec.colspan.start)
        for spec in places
    }
    for ax, spec in zip(axes, places):
        if spec.colspan.start > 0:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        if spec.rowspan.start < lowest[spec.colspan.start]:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
