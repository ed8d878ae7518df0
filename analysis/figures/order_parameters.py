"""Figures of the autoencoder's order parameters by sparsity, beside their closed forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures.style import counts_text, edges, nothing_to_show
from analysis.transitions.critical_points import ORDER_PARAMETERS, QUANTILES, ae_order_parameters, importances_of
from search_spaces.coordinates import SPARSITY

_Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OrderParameterCurve:
    """One order parameter of one architecture by sparsity, summarised over autoencoders, beside its closed form."""

    architecture: str
    label: str
    sparsities: _Float
    quantiles: _Float
    """(quantiles, sparsities), at QUANTILES; NaN if there is no finite value."""
    replicates: NDArray[np.int64]
    """(sparsities,): number of autoencoders with a finite value."""
    theory_sparsities: _Float
    theory: _Float
    """The closed form on a fine grid; NaN without known importances."""

    @property
    def title(self) -> str:
        """The finding as a title: where the median is farthest from its closed form."""
        at = np.searchsorted(self.theory_sparsities, self.sparsities)
        gap = self.quantiles[len(QUANTILES) // 2] - self.theory[at] if len(at) else np.array([])
        if not np.isfinite(gap).any():
            return f"{self.architecture}: {self.label}"
        worst = int(np.nanargmax(np.abs(gap)))
        return f"{self.architecture}: {self.label}\noff theory by {gap[worst]:+.2g} at S = {self.sparsities[worst]:.3g}"

    @property
    def caption(self) -> str:
        """How many autoencoders the boxes summarise."""
        if len(self.replicates) == 0:
            return "No autoencoder."
        each = counts_text(self.replicates)
        return f"{self.replicates.sum()} autoencoders, {each} per sparsity; boxes: 5 to 95 % and the middle half."


def order_parameter_curve(frame: pd.DataFrame, architecture: str, column: str) -> OrderParameterCurve:
    """The quantiles of one of ORDER_PARAMETERS, chosen by the name of its column."""
    (parameter,) = (p for p in ORDER_PARAMETERS if p.column == column)
    own = frame[frame["architecture"] == architecture]
    table = ae_order_parameters(own, (parameter,))
    sparsities = table[SPARSITY.name].to_numpy(dtype=np.float64)
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
    """Draw boxes of 5–95 % and 25–75 % and the median at each measured sparsity, and the closed form as a line."""
    ax.set_title(curve.title, fontsize=9)
    ax.set_xlabel(SPARSITY.label)
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
