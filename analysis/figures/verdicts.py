"""Figures of verdicts: their shares along an axis, and a metric by sparsity with each replicate in its verdict's colour.

Both draw levels at equal distances. Sparsity runs from dense on the left to sparse on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures.style import counts_text, level_ticks
from analysis.rates.cells import per_autoencoder
from search_spaces.coordinates import COORDINATES
from search_spaces.failures import FailureKind, verdict_named, verdicts
from study.storage.schema import Group, names_of

_Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VerdictComposition:
    """Shares of verdicts by the levels of one axis."""

    by: str
    """`architecture`, or the name of a coordinate."""
    levels: tuple[float | str, ...]
    kinds: tuple[str, ...]
    """The verdicts that occur, in order of precedence."""
    shares: _Float
    """(kinds, levels); columns sum to 1."""
    replicates: NDArray[np.int64]
    """(levels,)."""
    searched: bool = False
    """Whether a search chose where to train. The shares are then no rates: they say where it looked."""

    @property
    def title(self) -> str:
        """The finding as a title: the commonest failure, and where it is commonest."""
        if self.searched:
            return "Verdicts where the search trained: no failure rates"
        failing = [i for i, kind in enumerate(self.kinds) if kind != FailureKind.NONE]
        if not failing:
            return "No replicate failed" if len(self.levels) else "No replicate"
        commonest = max(failing, key=lambda i: float(self.shares[i] @ self.replicates))
        share, at = float(self.shares[commonest].max()), self.levels[int(np.argmax(self.shares[commonest]))]
        where = f"{COORDINATES[self.by].symbol} = {at:.3g}" if isinstance(at, float) else str(at)
        return f"Most often {self.kinds[commonest]}: up to {share:.0%} (at {where})"

    @property
    def caption(self) -> str:
        """How many replicates the bars represent."""
        return f"{self.replicates.sum()} replicates, {counts_text(self.replicates)} per bar."


def verdict_composition(frame: pd.DataFrame, by: str = "sparsity", searched: bool = False) -> VerdictComposition:
    """Shares of each verdict by architecture or by a coordinate, over everything else in the frame."""
    frame = frame[list(dict.fromkeys(["n_features", "n_hidden", by, "failure"]))]
    if by == "architecture":
        frame = frame.sort_values(["n_features", "n_hidden"], kind="stable")
    counts = frame.groupby([by, "failure"], sort=by != "architecture").size().unstack(fill_value=0)
    kinds = tuple(verdict.name for verdict in verdicts() if verdict.name in counts.columns)
    table = counts[list(kinds)].to_numpy(dtype=np.float64).T
    totals = table.sum(axis=0)
    levels = tuple(str(v) if by == "architecture" else float(v) for v in counts.index)
    return VerdictComposition(by, levels, kinds, table / totals, totals.astype(np.int64), searched)


def plot_verdict_composition(composition: VerdictComposition, ax: Axes) -> None:
    """Draw stacked bars, one per level, with failures from below and success on top."""
    positions = np.arange(len(composition.levels))
    bottom = np.zeros(len(positions))
    for kind, shares in zip(composition.kinds, composition.shares, strict=True):
        verdict = verdict_named(kind)
        filled: dict[str, Any] = {"color": verdict.colour, "hatch": verdict.pattern, "edgecolor": "white", "linewidth": 0.6}
        ax.bar(positions, shares, bottom=bottom, width=0.82, label=kind, **filled)
        bottom += shares
    if composition.by == "architecture":
        ax.set_xticks(positions, [str(level) for level in composition.levels], rotation=30, ha="right", fontsize=8)
        ax.set_xlabel(composition.by)
    else:
        along = COORDINATES[composition.by]
        level_ticks(ax, np.array(composition.levels, dtype=np.float64))
        ax.set_xlabel(f"{along.defined} (one bar per level)" if along.scale == "log" else along.defined)
    ax.set_ylabel("share of replicates")
    ax.set_ylim(0, 1)
    ax.set_title(composition.title, fontsize=10)
    if composition.kinds:
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1), frameon=False, fontsize=8)


def plot_metric_by_sparsity(frame: pd.DataFrame, metric: str, ax: Axes) -> None:
    """Draw every replicate as a dot in the colour of its verdict, and the median of all as a bar.

    Metrics of the autoencoder are drawn once per autoencoder. Dots of a sparsity are spread sideways.
    """
    if metric in names_of(Group.AUTOENCODER):
        frame = per_autoencoder(frame)
    sparsities = np.sort(frame["sparsity"].unique())
    for kind in verdicts():
        own = frame[frame["failure"] == kind.name]
        if len(own) == 0:
            continue
        x = np.searchsorted(sparsities, own["sparsity"]) + 0.5 * ((np.arange(len(own)) * GOLDEN) % 1 - 0.5)
        ax.plot(x, own[metric].astype("float64"), ".", markersize=3, color=kind.colour, alpha=0.7, label=kind.name, rasterized=True)
    median = frame.groupby("sparsity")[metric].median().astype("float64")
    ax.plot(np.arange(len(sparsities)), median, "_", color="black", markersize=14, markeredgewidth=1.5)
    level_ticks(ax, sparsities, fontsize=7)
    ax.set_title(metric, fontsize=9)
    if metric in _LOGARITHMIC and (frame[metric].dropna() > 0).any():
        ax.set_yscale("log")


GOLDEN = 0.618_033_988_75
"""The golden ratio's fraction: its multiples, modulo 1, are spread evenly however many there are."""
_LOGARITHMIC = {"ae_loss", "ae_dimensions_per_feature", "sae_mse", "hidden_rms", "ae_condition_number", "sae_loss"}
