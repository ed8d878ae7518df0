"""The figure of a failure map: the rate as it was learned, over sparsity × l1, with the border and how sure of it one may be."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.phase import SURE, Surface, draw_surface
from analysis.figures.style import edges, failure_text, log_ticks
from search_spaces.surface import surface as failure_surface
from search_spaces.surface.posterior import Posterior

COLOURS = "cividis_r"
MOST_COLUMNS = 4


def map_surfaces(learned: failure_surface.Surface, level: float) -> dict[str, Surface]:
    """The learned rate of each architecture on a grid, by name."""
    domain, posterior = learned.domain, learned.on_grid()
    shape = domain.shape()
    sparsities, l1s = domain.sparsity_at(_middles(shape[1])), domain.l1_at(_middles(shape[2]))
    return {name: _one(posterior, place, sparsities, l1s, level) for place, name in enumerate(domain.architectures)}


def _middles(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _one(posterior: Posterior, place: int, sparsities: np.ndarray, l1s: np.ndarray, level: float) -> Surface:
    mean, sd, q = (of[place].T for of in (posterior.mean, posterior.sd, posterior.exceedance(level)))
    return Surface(sparsities, l1s, mean, sd, q)


def plot_map(surface: Surface, level: float, ax: Axes) -> None:
    """One architecture: light is safe, dark fails; the border at the level, dashed where it is SURE to be on either side."""
    x, y = edges(surface.sparsities), edges(surface.l1, logarithmic=True)
    ax.pcolormesh(x, y, surface.mean, cmap=COLOURS, vmin=0, vmax=1, rasterized=True)
    log_ticks(ax, "y")
    if min(surface.mean.shape) > 1:
        draw_surface(surface, level, ax)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])


def map_figure(learned: failure_surface.Surface, failure: str, level: float) -> Figure:
    """A panel an architecture; each title says in how much of the plane the rate is at or above the level."""
    surfaces = map_surfaces(learned, level)
    columns = min(MOST_COLUMNS, len(surfaces))
    rows = -(-len(surfaces) // columns)
    figure = Figure(figsize=(1.2 + 2.7 * columns, 0.9 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[len(surfaces) :]:
        spare.set_axis_off()
    for place, (ax, (name, surface)) in enumerate(zip(axes, surfaces.items())):
        plot_map(surface, level, ax)
        ax.set_title(f"{name}: {(surface.mean >= level).mean():.0%} of the plane fails", fontsize=9)
        if place % columns == 0:
            ax.set_ylabel("l1")
        if place + columns >= len(surfaces):
            ax.set_xlabel("sparsity S")
            ax.tick_params(labelbottom=True)
    replicates = f"{learned.counts.replicates.sum():,} replicates"
    figure.suptitle(f"{failure_text(failure)}: where {level:.0%} of seeds or more fail, learned from {replicates}", fontsize=10)
    bar = ScalarMappable(Normalize(0, 1), COLOURS)
    figure.colorbar(bar, ax=list(axes), label=f"{failure_text(failure)}, share of seeds", shrink=0.8)
    lines = [
        Line2D([], [], color="black", label=f"rate {level:.0%}"),
        Line2D([], [], color="black", linestyle="--", linewidth=1.1, label=f"{SURE:.0%} sure of the side"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
