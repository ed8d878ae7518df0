"""The figure of an L1 search: the safe interval of l1 by sparsity, one panel per architecture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.style import MOST_PANELS_A_ROW, level_ticks, log_ticks
from search_spaces.coordinates import L1, SPARSITY
from search_spaces.failures import FailureKind, verdict_named
from search_spaces.learners.l1_search import L1Interval, UpperEdge

SAFE, LOW, HIGH = (verdict_named(kind).colour for kind in (FailureKind.NONE, FailureKind.SAE_DENSE, FailureKind.SAE_DEAD))
BOTH, BEST, HEALTHY, THEORY, UNKNOWN = "#999999", "#8C2D7F", "#1B7F5C", "#D55E00", "#666666"


def plot_l1_intervals(found: Sequence[L1Interval], limits: tuple[float, float], ax: Axes) -> None:
    """Draw one architecture: at each sparsity a bar from the lower to the upper edge, both with intervals, and the best l1.

    If SAEs die before the code is sparse, no value is safe: the bar is hatched and labelled "none". Edges beyond the searched
    range end at the axis' `limits`; a cell without a safe interval is labelled with the reason. A closed form is drawn where it
    has been found to hold.
    """
    for place, interval in enumerate(found):
        _draw_safe(place, interval, limits, ax)
        _draw_edges(place, interval, limits, ax)
        _draw_best(place, interval, ax)
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    log_ticks(ax, "y")
    level_ticks(ax, np.array([interval.sparsity for interval in found]), most=7)
    ax.set_xlim(-0.6, len(found) - 0.4)


def _draw_safe(place: int, interval: L1Interval, limits: tuple[float, float], ax: Axes) -> None:
    """Draw the bar between the edges, or write why there is none."""
    if interval.safe is not None:
        low, high = (limit if end is None else end for end, limit in zip(interval.safe, limits))
        ax.bar(place, high - low, bottom=low, width=0.7, color=SAFE, zorder=1)
        return
    if interval.lower_edge is not None and interval.upper_edge is not None:
        low, high = interval.upper_edge, interval.lower_edge
        ax.bar(place, high - low, bottom=low, width=0.7, fill=False, hatch="////", edgecolor=BOTH, linewidth=0, zorder=1)
    why = "undecided" if interval.undecided else "none" if interval.upper is UpperEdge.INSIDE else interval.upper
    ax.text(place, limits[0] * 1.3, why, rotation=90, ha="center", va="bottom", fontsize=7, color=UNKNOWN)


def _draw_edges(place: int, interval: L1Interval, limits: tuple[float, float], ax: Axes) -> None:
    """Draw both edges with their intervals, and the closed form of the upper one."""
    across = [place - 0.35, place + 0.35]
    for edge, (start, end), colour in (
        (interval.lower_edge, interval.lower_edge_interval, LOW),
        (interval.upper_edge, interval.upper_edge_interval, HIGH),
    ):
        if edge is not None:
            ends = [limits[0] if start is None else start, limits[1] if end is None else end]
            ax.plot(across, [edge, edge], color=colour, linewidth=1.8, zorder=3)
            ax.plot([place, place], ends, color=colour, linewidth=1, zorder=3)
    if interval.closed_form is not None:
        ax.plot(across, [interval.closed_form] * 2, color=THEORY, linestyle=":", linewidth=1.5, zorder=2)


def _draw_best(place: int, interval: L1Interval, ax: Axes) -> None:
    if interval.best_l1 is not None and interval.best_l1_interval is not None:
        ax.plot([place + 0.12] * 2, interval.best_l1_interval, color=BEST, linewidth=1, zorder=4)
        ax.plot(place + 0.12, interval.best_l1, "o", color=BEST, markersize=4, zorder=4)
    if interval.best_healthy_l1 is not None and interval.best_healthy_l1_interval is not None:
        ax.plot([place - 0.12] * 2, interval.best_healthy_l1_interval, color=HEALTHY, linewidth=1, zorder=4)
        ax.plot(place - 0.12, interval.best_healthy_l1, "D", color=HEALTHY, markersize=4, zorder=4)


WIDTH_OF_TITLE = 6.5
"""In inches; figures are not narrower."""


def l1_figure(found: Sequence[L1Interval]) -> Figure:
    """One panel per architecture, all with the same scale of l1."""
    names = list(dict.fromkeys(interval.architecture for interval in found))
    columns = min(MOST_PANELS_A_ROW, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(1.0 + 2.5 * columns, WIDTH_OF_TITLE), 1.5 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for spare in axes[len(names) :]:
        spare.set_axis_off()
    limits = _limits(found)
    for place, (ax, name) in enumerate(zip(axes, names)):
        own = sorted((interval for interval in found if interval.architecture == name), key=lambda interval: interval.sparsity)
        plot_l1_intervals(own, limits, ax)
        ax.set_title(name, fontsize=9)
        if place % columns == 0:
            ax.set_ylabel(L1.label)
        if place + columns >= len(names):
            ax.set_xlabel(SPARSITY.label)
    replicates = sum(interval.replicates for interval in found)
    title = textwrap.fill(f"{_title(found)}: {replicates:,} replicates", 28 + 28 * columns)
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=_legend(found), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _title(found: Sequence[L1Interval]) -> str:
    if found[0].safe_probability is None or found[0].level is None:
        return "Where SAEs neither die nor turn dense, and recover best"
    return f"Where at most {found[0].level:.0%} fail ({' or '.join(found[0].failure)}), and where recovery is best"


def _legend(found: Sequence[L1Interval]) -> list[Artist]:
    of = f"{found[0].interval_level:.0%} interval".replace("%", " %")
    one_rate = found[0].safe_probability is not None
    below, above = ("failing", "failing") if one_rate else ("dense", "dying")
    hatched = Patch(fill=False, hatch="////", edgecolor=BOTH, linewidth=0, label="dense and dying: none is safe")
    predicted = Line2D([], [], color=THEORY, linestyle=":", label="dying by closed form")
    return [
        Patch(color=SAFE, label="safe interval"),
        *([] if one_rate else [hatched]),
        Line2D([], [], color=LOW, linewidth=1.8, label=f"{below} below, {of}"),
        Line2D([], [], color=HIGH, linewidth=1.8, label=f"{above} above, {of}"),
        Line2D([], [], color=BEST, marker="o", markersize=4, label=f"best recovery, {of}"),
        Line2D([], [], color=HEALTHY, marker="D", markersize=4, label=f"best of the healthy, {of}"),
        *([predicted] if any(interval.closed_form is not None for interval in found) else []),
    ]


def _limits(found: Sequence[L1Interval]) -> tuple[float, float]:
    """The limits of l1 for all panels: the range of everything drawn, extended by a third of a decade."""
    values = [
        value
        for interval in found
        for value in (
            interval.lower_edge,
            interval.upper_edge,
            interval.best_l1,
            interval.best_healthy_l1,
            interval.closed_form,
            *interval.lower_edge_interval,
            *interval.upper_edge_interval,
            *(interval.best_l1_interval or ()),
            *(interval.best_healthy_l1_interval or ()),
        )
        if value is not None
    ]
    low, high = (min(values), max(values)) if values else (1e-3, 1.0)
    return float(low / np.cbrt(10)), float(high * np.cbrt(10))
