"""Figures of phase transitions: the failure rate over sparsity × l1, its curves, and the autoencoder's order parameters.

What was measured is drawn as cells and marks, what was fitted as lines; grey hatch is what was not measured.
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
    SERIES_COLOURS,
    SERIES_LINES,
    SERIES_MARKERS,
    LineStyle,
    edges,
    failure_text,
    hatch_unmeasured,
    log_ticks,
    nothing_to_show,
)
from analysis.rates.cells import cell_rates, on_lattice, per_autoencoder, rate_interval
from analysis.transitions.critical_points import (
    ORDER_PARAMETERS,
    QUANTILES,
    CriticalPoint,
    ae_order_parameters,
    critical_points,
    death_predictions,
    importances_of,
    named_protocol,
)
from analysis.transitions.crossings import Answer
from search_spaces.failures import FailureKind, failed, failing_verdicts, verdict_named, verdicts
from search_spaces.protocol import Protocol

_Float = NDArray[np.float64]

SURE = 0.95
"""Probability from which a fitted surface is called sure of its side."""
WIDEST_INTERVAL = 0.35
"""Intervals longer than this share of the axis are not drawn into a phase diagram: they would cover it."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A failure rate that was fitted on a grid."""

    sparsities: _Float
    """(S,), ascending."""
    l1: _Float
    """(L,), ascending, above 0."""
    mean: _Float
    """Posterior mean of the rate, (L, S)."""
    sd: _Float
    """Its standard deviation, (L, S)."""
    q: _Float
    """P(rate ≥ level), (L, S)."""


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """The failure rate of one architecture over sparsity × l1."""

    architecture: str
    failure: str
    level: float
    sparsities: _Float
    """Of the measured cells, (S,)."""
    l1: _Float
    """(L,), above 0."""
    rate: _Float
    """(L, S); NaN where nothing was measured."""
    replicates: NDArray[np.int64]
    """(L, S)."""
    critical: tuple[CriticalPoint, ...]
    """Crossings of the level along either axis."""
    lines: dict[str, _Float]
    """The closed forms of the SAE's death by their names, each (S,) in l1; NaN where they are not known."""
    surface: Surface | None = None

    @property
    def share(self) -> float:
        """Share of the measured cells whose rate is at or above the level; NaN without cells."""
        measured = self.rate[np.isfinite(self.rate)]
        return float((measured >= self.level).mean()) if len(measured) else np.nan

    @property
    def title(self) -> str:
        """The finding."""
        if np.isnan(self.share):
            return f"{self.architecture}: nothing measured"
        return f"{self.architecture}: {failure_text(self.failure)} in ≥ {self.level:.0%} of seeds in {self.share:.0%} of cells"

    @property
    def caption(self) -> str:
        """What is drawn, and from how many replicates."""
        seeds = self.replicates[self.replicates > 0]
        each = "no" if len(seeds) == 0 else str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        fitted = (
            f" Line: fitted {self.level:.0%}; dashed: where the fit is {SURE:.0%} sure of either side."
            if self.surface is not None
            else f" Bars: 90 % intervals of where the rate crosses {self.level:.0%}, along l1 or S."
        )
        return f"{self.replicates.sum()} replicates, {each} seeds a cell.{fitted} Hatched: not measured."


def phase_diagram(
    frame: pd.DataFrame,
    architecture: str,
    failure: str = "any",
    level: float = 0.5,
    surface: Surface | None = None,
    protocol: Protocol | None = None,
    deaths: Sequence[CriticalPoint] | None = None,
) -> PhaseDiagram:
    """The measured cells of one architecture, where the rate crosses the level, and the death lines of its autoencoders.

    Cells of l1 = 0 have no place on the logarithmic axis and are left out. Many distinct values are binned (`on_lattice`).

    deaths: this architecture's `critical_points` of one of DEATHS, where they are known already: the lines are then theirs,
    and so are the crossings if they are of this failure and level.
    """
    own = frame[(frame["architecture"] == architecture) & (frame["l1"] > 0)]
    own = on_lattice(own) if len(own) else own
    rates = cell_rates(own, failure)
    table = rates.pivot(index="l1", columns="sparsity", values="rate")
    counts = rates.pivot(index="l1", columns="sparsity", values="replicates").fillna(0)
    known = deaths is not None and (not deaths or (deaths[0].quantity, deaths[0].level) == (failure, level))
    if surface is not None:
        points: Sequence[CriticalPoint] = ()
    else:
        points = deaths if deaths is not None and known else critical_points(own, failure, level, protocol=protocol)
    return PhaseDiagram(
        architecture=architecture,
        failure=failure,
        level=level,
        sparsities=table.columns.to_numpy(dtype=np.float64),
        l1=table.index.to_numpy(dtype=np.float64),
        rate=table.to_numpy(dtype=np.float64),
        replicates=counts.to_numpy(dtype=np.int64),
        critical=tuple(point for point in points if point.crossing.answer is Answer.CROSSED),
        lines=_death_lines(own, protocol) if deaths is None else _lines_of(deaths, table.columns.to_numpy(dtype=np.float64)),
        surface=surface,
    )


def phase_diagrams(frame: pd.DataFrame, failure: str = "any", level: float = 0.5) -> list[PhaseDiagram]:
    """One for each architecture, in order of width."""
    return [phase_diagram(frame, name, failure, level) for name in dict.fromkeys(cell_rates(frame, failure)["architecture"])]


def _death_lines(own: pd.DataFrame, protocol: Protocol | None) -> dict[str, _Float]:
    """Each closed form's l1 at every sparsity."""
    protocol = protocol or named_protocol(own)
    found = [{p.name: p.value for p in death_predictions(column, protocol)} for _, column in own.groupby("sparsity")]
    return {name: np.array([at.get(name, np.nan) for at in found]) for name in dict.fromkeys(n for at in found for n in at)}


def _lines_of(deaths: Sequence[CriticalPoint], sparsities: _Float) -> dict[str, _Float]:
    """The closed forms that the points along l1 hold, at each sparsity."""
    at = {point.at: {p.name: p.value for p in point.predictions} for point in deaths if point.axis == "l1"}
    names = dict.fromkeys(name for predicted in at.values() for name in predicted)
    return {name: np.array([at.get(S, {}).get(name, np.nan) for S in sparsities]) for name in names}


def plot_phase_diagram(diagram: PhaseDiagram, ax: Axes, legend: bool = True) -> QuadMesh | None:
    """Measured cells as rectangles (light is safe, dark fails), crossings, death lines; returns the cells for a colour bar."""
    hatch_unmeasured(ax)
    ax.set_title(diagram.title, fontsize=9)
    ax.set_xlabel("sparsity S")
    ax.set_ylabel("l1")
    if diagram.rate.size == 0:
        nothing_to_show(ax, "nothing measured")
        return None
    x, y = edges(diagram.sparsities), edges(diagram.l1, logarithmic=True)
    mesh = ax.pcolormesh(x, y, diagram.rate, cmap="cividis_r", vmin=0, vmax=1, rasterized=True)
    log_ticks(ax, "y")
    top = _draw_death_lines(diagram, ax)
    if diagram.surface is None:
        _draw_critical(diagram, ax)
    else:
        draw_surface(diagram.surface, diagram.level, ax)
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
    """The closed forms, outlined in white; returns the l1 that the axis must reach to show them."""
    for name, line in diagram.lines.items():
        style = _LINE_STYLES.get(name, "-.")
        ax.plot(diagram.sparsities, line, color=_THEORY, linestyle=style, linewidth=1.6, path_effects=_OUTLINE)
    finite = [line[np.isfinite(line)] for line in diagram.lines.values()]
    return 1.4 * max((float(line.max()) for line in finite if len(line)), default=0.0)


def _draw_critical(diagram: PhaseDiagram, ax: Axes) -> None:
    """Crossings along l1 as upright bars, along sparsity as level ones; only those whose interval is short enough to say where."""
    for point in diagram.critical:
        if point.at is None:  # of the autoencoder, which does not see l1
            ax.axvline(point.crossing.estimate, color="black", linewidth=1.3, path_effects=_OUTLINE)
            continue
        found, along_l1 = point.crossing, point.axis == "l1"
        values = diagram.l1 if along_l1 else diagram.sparsities
        low, high = np.clip([found.low, found.high], values[0], values[-1])
        span = np.log(high / low) / np.log(values[-1] / values[0]) if along_l1 else (high - low) / (values[-1] - values[0])
        if span > WIDEST_INTERVAL:
            continue
        ends = ([point.at, point.at], [low, high]) if along_l1 else ([low, high], [point.at, point.at])
        at = (point.at, found.estimate) if along_l1 else (found.estimate, point.at)
        ax.plot(*ends, "-", color="black", linewidth=1.3, path_effects=_OUTLINE)
        ax.plot(*at, "o", markersize=4, color="black", markeredgecolor="white", markeredgewidth=0.6)


def draw_surface(surface: Surface, level: float, ax: Axes) -> None:
    """The fitted level as a line, its 5 % and 95 % as dashed ones."""
    for values, at, style, width in (
        (surface.mean, level, "-", 1.8),
        (surface.q, SURE, "--", 1.1),
        (surface.q, 1 - SURE, "--", 1.1),
    ):
        if values.min() < at < values.max():
            drawn = ax.contour(
                surface.sparsities, surface.l1, values, levels=[at], colors="black", linestyles=style, linewidths=width
            )
            drawn.set_path_effects(_OUTLINE)


def phase_legend(diagram: PhaseDiagram) -> list[Line2D]:
    """One entry for each kind of line in the diagram."""
    entries = [Line2D([], [], color=_THEORY, linestyle=_LINE_STYLES.get(name, "-."), label=name) for name in diagram.lines]
    if diagram.surface is not None:
        entries.append(Line2D([], [], color="black", label=f"fitted {diagram.level:.0%}"))
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=1.1, label=f"{SURE:.0%} sure of the side"))
    elif diagram.critical:
        entries.append(Line2D([], [], color="black", marker="o", markersize=3, label=f"rate crosses {diagram.level:.0%}"))
    return entries


def plot_phase_diagrams(diagrams: Sequence[PhaseDiagram], axes: Sequence[Axes]) -> None:
    """Small multiples on at least as many Axes of one figure, with common limits, one colour bar and one legend."""
    drawn = [plot_phase_diagram(diagram, ax, legend=False) for diagram, ax in zip(diagrams, axes, strict=False)]
    for ax in axes[len(diagrams) :]:
        ax.set_axis_off()
    for diagram, ax in zip(diagrams, axes):
        if np.isfinite(diagram.share):
            ax.set_title(f"{diagram.architecture}: in {diagram.share:.0%} of cells", fontsize=9)
    measured = [ax for ax, mesh in zip(axes, drawn) if mesh is not None]
    if not measured:
        return
    _share_limits(measured)
    _label_outer(axes[: len(diagrams)])
    figure = axes[0].figure
    bar = f"{failure_text(diagrams[0].failure)}, share of seeds"
    figure.colorbar(next(mesh for mesh in drawn if mesh is not None), ax=list(axes), label=bar, shrink=0.8)
    entries = {str(entry.get_label()): entry for diagram in diagrams for entry in phase_legend(diagram)}
    if entries and isinstance(figure, Figure):
        figure.legend(handles=list(entries.values()), loc="outside lower center", ncols=len(entries), frameon=False, fontsize=8)


def _share_limits(axes: Sequence[Axes]) -> None:
    """The widest limits of any for all."""
    lows, highs = zip(*(ax.get_xlim() for ax in axes)), zip(*(ax.get_ylim() for ax in axes))
    (left, right), (bottom, top) = ((min(low), max(high)) for low, high in (lows, highs))
    for ax in axes:
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)


def _label_outer(axes: Sequence[Axes]) -> None:
    """Axis labels at the left of each row and below the last panel of each column, which may stand above an empty place."""
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


# Curves


def failure_curves(frame: pd.DataFrame, failure: str = "any", by: str = "architecture", axis: str = "sparsity") -> pd.DataFrame:
    """Failure rates along `sparsity` or `l1`, one series for each architecture, or (by = `failure`) for each kind that occurs.

    Columns: series, x, replicates, failures, rate, low, high (Jeffreys, 95 %). A collapse counts once for each autoencoder.
    """
    if by == "failure":
        kinds = [kind.name for kind in failing_verdicts() if (frame["failure"] == kind.name).any()]
        series = [(kind, frame, kind) for kind in kinds]
    else:
        names = dict.fromkeys(frame.sort_values(["n_features", "n_hidden"], kind="stable")["architecture"])
        series = [(str(name), frame[frame["architecture"] == name], failure) for name in names]
    parts = [_curve(name, rows, what, axis) for name, rows, what in series]
    columns = ["series", "x", "replicates", "failures", "rate", "low", "high"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _curve(name: str, rows: pd.DataFrame, failure: str, axis: str) -> pd.DataFrame:
    if failure == FailureKind.AE_COLLAPSED.value and axis == "sparsity":
        rows = per_autoencoder(rows)
    counts = rows.assign(failed=failed(rows, failure)).groupby(axis)["failed"].agg(["size", "sum"])
    k, n = counts["sum"].to_numpy(dtype=np.float64), counts["size"].to_numpy(dtype=np.int64)
    low, high = rate_interval(k, n)
    table = {"x": counts.index.to_numpy(dtype=np.float64), "replicates": n, "failures": k.astype(np.int64), "rate": k / n}
    return pd.DataFrame({"series": name, **table, "low": low, "high": high})


def curves_title(curves: pd.DataFrame, failure: str, axis: str) -> str:
    """The finding: which series is highest, and where."""
    if curves.empty or curves["failures"].sum() == 0:
        return f"No {failure_text(failure).removeprefix('any ')} in any replicate"
    top = curves.loc[curves["rate"].idxmax()]
    subject = top["series"] if top["series"] in _verdict_names() else f"{failure_text(failure)}, {top['series']}"
    return f"Highest: {subject}, {top['rate']:.0%} at {'S' if axis == 'sparsity' else axis} = {top['x']:.3g}"


def plot_failure_curves(curves: pd.DataFrame, ax: Axes, failure: str = "any", axis: str = "sparsity") -> None:
    """Marks with interval bars where something was measured, joined by thin lines; a verdict in its own colour and marker.

    Series are shifted sideways by fractions of a step, so that their bars do not hide each other.
    """
    names = list(dict.fromkeys(curves["series"]))
    for place, name in enumerate(names):
        own = curves[curves["series"] == name]
        colour, marker, line = _series_style(name, place)
        x = _dodged(own["x"].to_numpy(), place, len(names), axis == "l1")
        bars = 100 * np.stack([own["rate"] - own["low"], own["high"] - own["rate"]])
        drawn = ax.errorbar(x, 100 * own["rate"], bars, capsize=1.5, elinewidth=1, label=name, color=colour, marker=marker)
        drawn.lines[0].set(linestyle=line, linewidth=0.8, markersize=4, clip_on=False)
    ax.set_xlabel("sparsity S = P(feature = 0)" if axis == "sparsity" else "l1")
    ax.set_ylabel(f"{'each verdict' if set(names) & _verdict_names() else failure_text(failure)}, % of seeds")
    ax.set_ylim(0, min(100, 115 * curves["high"].max()) if len(curves) else 100)
    ax.set_title(curves_title(curves, failure, axis), fontsize=9)
    if axis == "l1" and len(curves):
        log_ticks(ax, "x")
    if len(names) > 1:
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1))
    if not names:
        nothing_to_show(ax, "nothing measured")


def _verdict_names() -> set[str]:
    return {verdict.name for verdict in verdicts()}


def _series_style(name: str, place: int) -> tuple[str, str, LineStyle]:
    """Colour, marker, line: of the verdict of that name, or the place's."""
    turn = place % len(SERIES_LINES)
    if name in _verdict_names():
        verdict = verdict_named(name)
        return verdict.colour, verdict.marker, SERIES_LINES[turn]
    return SERIES_COLOURS[turn], SERIES_MARKERS[turn], SERIES_LINES[turn]


def _dodged(x: _Float, place: int, places: int, logarithmic: bool) -> _Float:
    """x moved by up to a quarter of its smallest step to either side."""
    if logarithmic and (x <= 0).any():
        return x
    scaled = np.log10(x) if logarithmic else x
    step = float(np.diff(scaled).min()) if len(scaled) > 1 else 0.02
    moved = scaled + 0.5 * step * (place - (places - 1) / 2) / max(places, 1)
    return np.asarray(10**moved if logarithmic else moved)


# Order parameters


@dataclass(frozen=True, eq=False)
class OrderParameterCurve:
    """One order parameter of one architecture by sparsity, over its autoencoders, beside its closed form."""

    architecture: str
    label: str
    sparsities: _Float
    quantiles: _Float
    """(quantiles, sparsities), those of QUANTILES; NaN where nothing finite was measured."""
    replicates: NDArray[np.int64]
    """Autoencoders with a finite value, (sparsities,)."""
    theory_sparsities: _Float
    theory: _Float
    """The closed form on a fine grid; NaN without known importances."""

    @property
    def title(self) -> str:
        """The finding: where the median is farthest from its closed form."""
        at = np.searchsorted(self.theory_sparsities, self.sparsities)
        gap = self.quantiles[len(QUANTILES) // 2] - self.theory[at] if len(at) else np.array([])
        if not np.isfinite(gap).any():
            return f"{self.architecture}: {self.label}"
        worst = int(np.nanargmax(np.abs(gap)))
        return f"{self.architecture}: {self.label}\nfarthest from theory, {gap[worst]:+.2g}, at S = {self.sparsities[worst]:.3g}"

    @property
    def caption(self) -> str:
        """How many autoencoders the bands stand for."""
        if len(self.replicates) == 0:
            return "No autoencoder."
        fewest, most = self.replicates.min(), self.replicates.max()
        each = fewest if fewest == most else f"{fewest} to {most}"
        return f"{self.replicates.sum()} autoencoders, {each} a sparsity; boxes: 5 to 95 % and the middle half."


def order_parameter_curve(frame: pd.DataFrame, architecture: str, column: str) -> OrderParameterCurve:
    """Quantiles of one of ORDER_PARAMETERS, by the name of its column."""
    (parameter,) = (p for p in ORDER_PARAMETERS if p.column == column)
    own = frame[frame["architecture"] == architecture]
    table = ae_order_parameters(own, (parameter,))
    sparsities = table["sparsity"].to_numpy(dtype=np.float64)
    importances = importances_of(own) if len(own) else None
    fine = (
        np.unique(np.concatenate([np.linspace(sparsities.min(), sparsities.max(), 200), sparsities]))
        if len(sparsities)
        else sparsities
    )
    theory = [
        np.nan if importances is None else parameter.theory(float(S), importances, int(own["n_hidden"].iloc[0])) for S in fine
    ]
    quantiles = table[[f"q{round(100 * q):02d}" for q in QUANTILES]].to_numpy(dtype=np.float64).T
    return OrderParameterCurve(
        architecture, parameter.label, sparsities, quantiles, table["replicates"].to_numpy(dtype=np.int64), fine, np.array(theory)
    )


def plot_order_parameter(curve: OrderParameterCurve, ax: Axes) -> None:
    """Boxes of 5–95 % and 25–75 % at each sparsity that was measured, the median, and the closed form as a line."""
    ax.set_title(curve.title, fontsize=9)
    ax.set_xlabel("sparsity S")
    ax.set_ylabel(curve.label)
    if not np.isfinite(curve.quantiles).any():
        nothing_to_show(ax, "nothing measured")
        return
    width = 0.6 * np.diff(edges(curve.sparsities))
    for low, high, colour in ((0, -1, "#cfe3f1"), (1, -2, "#7db6da")):
        height = curve.quantiles[high] - curve.quantiles[low]
        ax.bar(curve.sparsities, height, width, curve.quantiles[low], color=colour, edgecolor="#0072B2", linewidth=0.4)
    ax.plot(curve.sparsities, curve.quantiles[len(QUANTILES) // 2], "o", color="#003f63", markersize=4, label="median")
    if np.isfinite(curve.theory).any():
        ax.plot(curve.theory_sparsities, curve.theory, "-", color="#D55E00", linewidth=1.5, label="closed form")
    ax.use_sticky_edges = False  # room below the bars
    ax.autoscale_view()
    ax.legend(frameon=False, fontsize=7)
