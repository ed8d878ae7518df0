"""What a page is made of (sections, panels, tables), and figures of a given number of panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Panel:
    """A figure with its caption."""

    name: str
    """The name of its files."""
    figure: Figure
    caption: str
    wide: bool = False
    """Whether it takes the page's whole width, so that a narrow screen scrolls it."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table: the whole of it for a CSV file, and the part that the page shows."""

    name: str
    data: pd.DataFrame
    shown: pd.DataFrame | None = None
    """The table on the page; None: `data` itself."""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page: a heading and what is below it."""

    title: str
    anchor: str
    text: str = ""
    sentences: Sequence[str] = ()
    """Further findings, shown as a list."""
    panels: Sequence[Panel] = ()
    sheets: Sequence[Sheet] = ()
    folded: bool = False
    """Whether sentences and tables open only on demand."""


Margins: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom, top, in inches. Fixed margins take half the time of Matplotlib's constrained layout."""
WITH_LEGEND: Margins = (0.62, 1.35, 0.78, 0.3)
WITH_BAR: Margins = (0.65, 0.15, 0.95, 0.3)
WHOLE_WIDTH = 10.8
"""Of the page, in inches."""


def single(margins: Margins = WITH_LEGEND, size: tuple[float, float] = (5.4, 3.5)) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure, (ax,) = grid(1, 1, (size[0] - margins[0] - margins[1], size[1] - margins[2] - margins[3]), (0, 0), margins)
    return figure, ax


def grid(
    count: int, columns: int, panel: tuple[float, float], gap: tuple[float, float], margins: Margins
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of one size, in rows; all lengths in inches."""
    rows = -(-count // columns)
    left, right, bottom, top = margins
    width = left + columns * panel[0] + (columns - 1) * gap[0] + right
    height = bottom + rows * panel[1] + (rows - 1) * gap[1] + top
    figure = Figure(figsize=(width, height))
    spaces = {"wspace": gap[0] / panel[0], "hspace": gap[1] / panel[1]}
    edges = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces | edges).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, list(axes[:count])


def column_width(columns: int) -> float:
    """The width in inches of a panel, for a number of columns."""
    return min(4.2, WHOLE_WIDTH / columns)


def cell_text(value: Any) -> str:
    """A value as text in a table: four significant figures, or – if it is missing."""
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(v) for v in value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
