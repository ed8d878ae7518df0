"""Figures of failure rates along one coordinate: one series per architecture, or per verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.figures.style import (
    SERIES_COLOURS,
    SERIES_LINES,
    SERIES_MARKERS,
    LineStyle,
    failure_text,
    log_ticks,
    nothing_to_show,
)
from analysis.rates.cells import per_autoencoder, rate_interval
from search_spaces.coordinates import SPARSITY, Coordinate
from search_spaces.failures import FailureKind, failed, failing_verdicts, verdict_named, verdicts

_Float = NDArray[np.float64]


def failure_curves(
    frame: pd.DataFrame, failure: str = "any", by: str = "architecture", along: Coordinate = SPARSITY
) -> pd.DataFrame:
    """Failure rates along a coordinate: one series per architecture, or (by = `failure`) one per kind of failure that occurs.

    Columns: series, x, replicates, failures, rate, low, high (Jeffreys, 95 %). A collapse counts once per autoencoder.
    """
    if by == "failure":
        kinds = [kind.name for kind in failing_verdicts() if (frame["failure"] == kind.name).any()]
        series = [(kind, frame, kind) for kind in kinds]
    else:
        names = dict.fromkeys(frame.sort_values(["n_features", "n_hidden"], kind="stable")["architecture"])
        series = [(str(name), frame[frame["architecture"] == name], failure) for name in names]
    parts = [_curve(name, rows, what, along) for name, rows, what in series]
    columns = ["series", "x", "replicates", "failures", "rate", "low", "high"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _curve(name: str, rows: pd.DataFrame, failure: str, along: Coordinate) -> pd.DataFrame:
    if failure == FailureKind.AE_COLLAPSED.value and not along.of_the_sae:
        rows = per_autoencoder(rows)
    counts = rows.assign(failed=failed(rows, failure)).groupby(along.name)["failed"].agg(["size", "sum"])
    k, n = counts["sum"].to_numpy(dtype=np.float64), counts["size"].to_numpy(dtype=np.int64)
    low, high = rate_interval(k, n)
    table = {"x": counts.index.to_numpy(dtype=np.float64), "replicates": n, "failures": k.astype(np.int64), "rate": k / n}
    return pd.DataFrame({"series": name, **table, "low": low, "high": high})


def curves_title(curves: pd.DataFrame, failure: str, along: Coordinate = SPARSITY) -> str:
    """The finding as a title: which series is highest, and where."""
    if curves.empty or curves["failures"].sum() == 0:
        return f"No {failure_text(failure).removeprefix('any ')} in any replicate"
    top = curves.loc[curves["rate"].idxmax()]
    subject = top["series"] if top["series"] in _verdict_names() else f"{failure_text(failure)}, {top['series']}"
    return f"Highest: {subject}, {top['rate']:.0%} at {along.symbol} = {top['x']:.3g}"


def plot_failure_curves(curves: pd.DataFrame, ax: Axes, failure: str = "any", along: Coordinate = SPARSITY) -> None:
    """Draw marks with interval bars at measured values, joined by thin lines; a verdict has its own colour and marker.

    Series are shifted sideways by fractions of a step, so that their bars do not hide each other.
    """
    names = list(dict.fromkeys(curves["series"]))
    for place, name in enumerate(names):
        own = curves[curves["series"] == name]
        colour, marker, line = _series_style(name, place)
        x = _dodged(own["x"].to_numpy(), place, len(names), along.scale == "log")
        bars = 100 * np.stack([own["rate"] - own["low"], own["high"] - own["rate"]])
        drawn = ax.errorbar(x, 100 * own["rate"], bars, capsize=1.5, elinewidth=1, label=name, color=colour, marker=marker)
        drawn.lines[0].set(linestyle=line, linewidth=0.8, markersize=4, clip_on=False)
    ax.set_xlabel(along.defined)
    ax.set_ylabel(f"{'each verdict' if set(names) & _verdict_names() else failure_text(failure)}, % of seeds")
    ax.set_ylim(0, min(100, 115 * curves["high"].max()) if len(curves) else 100)
    ax.set_title(curves_title(curves, failure, along), fontsize=9)
    if along.scale == "log" and len(curves):
        log_ticks(ax, "x")
    if len(names) > 1:
        ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1))
    if not names:
        nothing_to_show(ax, "nothing measured")


def plot_verdict_rates(frame: pd.DataFrame, ax: Axes) -> None:
    """Draw a bar for each verdict that occurs in a cell: its share of the seeds with a 95 % interval, success last."""
    there = [verdict for verdict in verdicts() if (frame["failure"] == verdict.name).any()]
    k = np.array([(frame["failure"] == verdict.name).sum() for verdict in there])
    low, high = rate_interval(k, len(frame))
    rate = k / max(len(frame), 1)
    bars = 100 * np.stack([rate - low, high - rate])
    looks: dict[str, Any] = {"color": [verdict.colour for verdict in there], "edgecolor": "#333333", "linewidth": 0.5}
    ax.barh(np.arange(len(there)), 100 * rate, xerr=bars, capsize=2, hatch=[verdict.pattern for verdict in there], **looks)
    ax.set_yticks(np.arange(len(there)), [f"{verdict.name} ({count})" for verdict, count in zip(there, k)])
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("% of seeds")
    failing = int((frame["failure"] != FailureKind.NONE.value).sum())
    ax.set_title(f"{failing} of {len(frame)} seeds fail ({failing / max(len(frame), 1):.0%})", fontsize=10)


def _verdict_names() -> set[str]:
    return {verdict.name for verdict in verdicts()}


def _series_style(name: str, place: int) -> tuple[str, str, LineStyle]:
    """Colour, marker and line: those of the verdict of that name, or those for the series' place."""
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
