"""Figure of an ablation: how much each difference changes the failure rate, with intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.style import SERIES_COLOURS, SERIES_MARKERS, failure_text


def plot_ablation(table: pd.DataFrame, ends: tuple[str, str], ax: Axes, failure: str = "any") -> None:
    """Draw the paired change of the rate of each row of `Ablation.table`, the largest at the top, with its 95 % interval.

    The two references differ in colour and marker. Filled marks are changes beyond chance (Holm).
    """
    for place, end in enumerate(ends):
        own = table[table["reference"] == end]
        colour, marker = SERIES_COLOURS[1 + place], SERIES_MARKERS[place]
        ax.hlines(own.index, 100 * own["low"], 100 * own["high"], color=colour, linewidth=1)
        for sure, face in ((True, colour), (False, "white")):
            part = own[(own["p_holm"] <= 0.05) == sure]
            label = f"changed in {end}" if sure or (own["p_holm"] > 0.05).all() else None
            ax.plot(100 * part["change"], part.index, marker, color=colour, markerfacecolor=face, label=label, linestyle="none")
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_yticks(
        table.index, table["difference"].mask((table["protocol"] == ends[1]) & (table["reference"] != ends[1]), ends[1]), fontsize=8
    )
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"change of the rate of {failure_text(failure)} [percentage points]")
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
