"""The figure of a failure map: the learned rate over two coordinates, with the border of the region and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.phase import SURE, FittedRate, draw_fitted, scale_axes
from analysis.figures.style import MOST_PANELS_A_ROW, edges, failure_text
from search_spaces.coordinates import PLANE, Plane
from search_spaces.surface.surface import Surface

COLOURS = "cividis_r"


def fitted_rates(learned: Surface, level: float) -> dict[str, FittedRate]:
    """The learned rate on a grid, by the name of the architecture."""
    domain, posterior = learned.domain, learned.on_grid()
    u, v = domain.centres()
    x, y = domain.x.from_unit(u), domain.y.from_unit(v)
    mean, q = posterior.mean, posterior.exceedance(level)
    return {name: FittedRate(x, y, mean[place].T, q[place].T) for place, name in enumerate(domain.architectures)}


def plot_map(fitted: FittedRate, level: float, ax: Axes, plane: Plane = PLANE) -> None:
    """Draw one architecture: light is safe, dark fails. A line marks the level, dashed lines where the side is SURE."""
    x, y = (edges(values, c.scale == "log") for values, c in zip((fitted.x, fitted.y), plane))
    ax.pcolormesh(x, y, fitted.mean, cmap=COLOURS, vmin=0, vmax=1, rasterized=True)
    scale_axes(ax, plane)
    if min(fitted.mean.shape) > 1:
        draw_fitted(fitted, level, ax)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])


def map_figure(learned: Surface, failure: str, level: float) -> Figure:
    """One panel per architecture; each title says in which share of the plane the rate is at or above the level."""
    fitted, plane = fitted_rates(learned, level), learned.domain.plane
    columns = min(MOST_PANELS_A_ROW, len(fitted))
    rows = -(-len(fitted) // columns)
    figure = Figure(figsize=(1.2 + 2.7 * columns, 0.9 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[len(fitted) :]:
        spare.set_axis_off()
    for place, (ax, (name, rate)) in enumerate(zip(axes, fitted.items())):
        plot_map(rate, level, ax, plane)
        ax.set_title(f"{name}: {(rate.mean >= level).mean():.0%} of the plane fails", fontsize=9)
        if place % columns == 0:
            ax.set_ylabel(plane.y.label)
        if place + columns >= len(fitted):
            ax.set_xlabel(plane.x.label)
            ax.tick_params(labelbottom=True)
    _label_figure(figure, list(axes), failure, level, int(learned.counts.replicates.sum()))
    return figure


def _label_figure(figure: Figure, axes: Sequence[Axes], failure: str, level: float, replicates: int) -> None:
    """Add the title, the colour bar and the legend."""
    title = f"{failure_text(failure)}: where {level:.0%} of seeds or more fail, learned from {replicates:,} replicates"
    figure.suptitle(title, fontsize=10)
    bar = ScalarMappable(Normalize(0, 1), COLOURS)
    figure.colorbar(bar, ax=axes, label=f"{failure_text(failure)}, share of seeds", shrink=0.8)
    lines = [
        Line2D([], [], color="black", label=f"rate {level:.0%}"),
        Line2D([], [], color="black", linestyle="--", linewidth=1.1, label=f"{SURE:.0%} sure of the side"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
