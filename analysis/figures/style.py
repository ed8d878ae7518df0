"""Shared by all figures: the styles of series, the ticks of axes and the edges of cells.

The colour, pattern and marker of a verdict are in the table of verdicts, `search_spaces.failures.VERDICTS`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter
from numpy.typing import NDArray

_Float = NDArray[np.float64]

SERIES_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7f7f7f")
SERIES_MARKERS = "osD^vPX*"
LineStyle: TypeAlias = 'Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]'
SERIES_LINES: tuple[LineStyle, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))
"""Colours, markers and lines of series that are not verdicts (architectures, for instance); they repeat after eight."""

MOST_PANELS_A_ROW = 4
"""Of a figure with one panel per architecture."""


def failure_text(failure: str) -> str:
    """The failure as a phrase: `any failure`, or its kind."""
    return "any failure" if failure == "any" else failure


def counts_text(counts: NDArray[np.int64], none: str = "0") -> str:
    """The counts from the least to the most, `none` where there are none.

    >>> counts_text(np.array([50, 12])), counts_text(np.array([50, 50]))
    ('12 to 50', '50')
    """
    if len(counts) == 0:
        return none
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def edges(values: _Float, logarithmic: bool = False) -> _Float:
    """(n + 1,): edges of the cells around ascending values, midway between neighbours; the outer cells are symmetric.

    A single value has a cell of ± 0.02 (on a logarithmic axis, a quarter of a decade in all).
    """
    scaled = np.log10(values) if logarithmic else np.asarray(values, dtype=np.float64)
    half = np.diff(scaled) / 2 if len(scaled) > 1 else np.array([0.125 if logarithmic else 0.02])
    found = np.concatenate([scaled[:1] - half[:1], scaled[:-1] + half[: len(scaled) - 1], scaled[-1:] + half[-1:]])
    return np.asarray(10**found if logarithmic else found)


def hatch_unmeasured(ax: Axes) -> None:
    """Grey hatch behind everything, which shows through where nothing was measured."""
    ax.set_facecolor("#e4e4e4")
    ax.patch.set_hatch("////")
    ax.patch.set_edgecolor("#b5b5b5")
    ax.patch.set_linewidth(0)


def log_ticks(ax: Axes, which: str) -> None:
    """Labelled ticks at decades and unlabelled ones between them, on `x` or `y`."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis.set_major_locator(LogLocator(base=10, numticks=12))
    axis.set_major_formatter(LogFormatterSciNotation())
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)), numticks=12))
    axis.set_minor_formatter(NullFormatter())


def level_ticks(ax: Axes, values: _Float, most: int = 13, fontsize: int = 8) -> None:
    """Levels at 0, 1, 2 … on x, with a label for each, or for every second, third … so that there are at most `most`."""
    step = max(1, -(-len(values) // most))
    digits = 2 if len(values) and np.max(values) > 20 * np.min(values) else 3  # two suffice on a logarithmic axis
    labels = [f"{value:.{digits}g}" for value in values[::step]]
    crowded = sum(map(len, labels)) > 28
    ax.set_xticks(np.arange(len(values))[::step], labels, rotation=45 if crowded else 0, fontsize=fontsize)


def nothing_to_show(ax: Axes, reason: str) -> None:
    """Write a sentence into an empty panel."""
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", fontsize=8, color="#444444", wrap=True)
