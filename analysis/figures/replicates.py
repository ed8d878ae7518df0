"""Figures of single replicates: one metric against another, and the matrices WᵀW."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy.stats import spearmanr

from analysis.figures.style import log_ticks, nothing_to_show
from analysis.rates.cells import per_autoencoder
from search_spaces.failures import verdicts
from study.metrics.autoencoder import feature_dimensionality
from study.storage.schema import Group, names_of

_Float = NDArray[np.float64]

MOST_MARKS = 800
"""Largest number of marks per verdict in a scatter. Of more rows, every second, third … is drawn, and the caption says so."""


@dataclass(frozen=True, eq=False)
class MetricScatter:
    """Two metrics of the same replicates."""

    x: str
    y: str
    points: pd.DataFrame
    """Columns x, y, failure: the replicates in which both metrics are finite."""
    left_out: int
    """Number of replicates in which one is not."""

    @cached_property
    def correlation(self) -> float:
        """Spearman's correlation; NaN if one metric is constant or there are fewer than three replicates."""
        if len(self.points) < 3 or self.points["x"].nunique() < 2 or self.points["y"].nunique() < 2:
            return np.nan
        return float(spearmanr(self.points["x"], self.points["y"]).statistic)

    @property
    def _counted(self) -> str:
        return "autoencoders" if _of_autoencoders(self.x, self.y) else "replicates"

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """At most MOST_MARKS points per verdict, evenly thinned, so that rare verdicts stay."""
        groups = [own.iloc[:: -(-len(own) // MOST_MARKS)] for _, own in self.points.groupby("failure")]
        return pd.concat(groups) if groups else self.points

    @property
    def title(self) -> str:
        """The finding."""
        if np.isnan(self.correlation):
            return f"{self.y} against {self.x}"
        return f"{self.y} against {self.x}: rank correlation {self.correlation:.2f}"

    @property
    def caption(self) -> str:
        """How many replicates are drawn, and how many are left out."""
        drawn = str(len(self.points))
        if len(self.drawn) < len(self.points):
            drawn = f"{len(self.drawn)} (at most {MOST_MARKS} per verdict) of {len(self.points)}"
        return f"{drawn} {self._counted}; {self.left_out} without one of the two are not drawn."


def _of_autoencoders(*metrics: str) -> bool:
    return set(metrics) <= set(names_of(Group.AUTOENCODER))


def metric_scatter(frame: pd.DataFrame, x: str, y: str) -> MetricScatter:
    """Two columns of the rows against each other, with the verdicts; two metrics of the autoencoder count once per autoencoder."""
    if _of_autoencoders(x, y):
        frame = per_autoencoder(frame)
    points = pd.DataFrame({"x": frame[x].astype("float64"), "y": frame[y].astype("float64"), "failure": frame["failure"]})
    finite = np.isfinite(points["x"]) & np.isfinite(points["y"])
    return MetricScatter(x, y, points[finite].reset_index(drop=True), int((~finite).sum()))


def plot_metric_scatter(scatter: MetricScatter, ax: Axes, log_x: bool = False, log_y: bool = False) -> None:
    """Draw one mark per replicate in the colour and shape of its verdict; a logarithmic axis leaves out values not above 0."""
    drawn = scatter.drawn
    for kind in reversed(verdicts()):  # failures on top
        own = drawn[drawn["failure"] == kind.name]
        if len(own):
            style: dict[str, Any] = {"color": kind.colour, "marker": kind.marker, "label": kind.name}
            marks = ax.scatter(own["x"], own["y"], s=14, alpha=0.75, rasterized=True, **style)
            if kind.marker != "x":
                marks.set(edgecolor="#333333", linewidth=0.3)
    ax.set_xlabel(scatter.x)
    ax.set_ylabel(scatter.y)
    ax.set_title(scatter.title, fontsize=9)
    if drawn.empty:
        nothing_to_show(ax, "no replicate has both")
        return
    for which, logarithmic in (("x", log_x), ("y", log_y)):
        if logarithmic and (drawn[which] > 0).any():
            log_ticks(ax, which)
    ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1))


@dataclass(frozen=True, eq=False)
class Gram:
    """WᵀW of one autoencoder."""

    matrix: _Float
    """(n_features, n_features)."""
    dimensionality: _Float
    """(n_features,): D_i of each feature."""
    represented: int
    """Number of features with ‖W_i‖² above the threshold."""

    @property
    def title(self) -> str:
        """The finding."""
        return f"{self.represented} of {len(self.matrix)} features, ΣD = {self.dimensionality.sum():.2f}"


def gram(W: _Float, represented_above: float = 0.5) -> Gram:
    """WᵀW, D_i and the number of represented features for W (n_hidden, n_features); weights that are not finite count as 0."""
    sane = np.where(np.isfinite(W), W, 0).astype(np.float64)
    matrix = sane.T @ sane
    return Gram(matrix, feature_dimensionality(sane), int((np.diagonal(matrix) > represented_above).sum()))


def plot_gram_matrix(shown: Gram, ax: Axes, heading: str = "") -> AxesImage:
    """Draw WᵀW on the same diverging scale, −1 to 1, in every panel; features in order of importance from the top left."""
    image = ax.imshow(shown.matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    size = len(shown.matrix)
    ticks = np.unique(np.linspace(0, size - 1, min(size, 5)).astype(int))
    ax.set_xticks(ticks, [str(t + 1) for t in ticks], fontsize=7)
    ax.set_yticks(ticks, [str(t + 1) for t in ticks], fontsize=7)
    ax.set_title(f"{heading}\n{shown.title}" if heading else shown.title, fontsize=8)
    return image
