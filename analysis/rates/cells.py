"""Failure rates of cells, with intervals. Every other part of the analysis builds on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from search_spaces.coordinates import PLANE, Plane
from search_spaces.failures import failed

_Float = NDArray[np.float64]
CELL = PLANE.cell
MOST_LEVELS, BINS = 60, 12


def rate_interval(failures: ArrayLike, replicates: ArrayLike, confidence: float = 0.95) -> tuple[_Float, _Float]:
    """Jeffreys interval of a rate: quantiles of Beta(k + ½, n − k + ½), with 0 where k = 0 and 1 where k = n.

    Brown, Cai, DasGupta 2001, "Interval Estimation for a Binomial Proportion". Without replicates: (0, 1).
    """
    k, n = np.asarray(failures, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    tail = (1 - confidence) / 2
    low = np.where(k == 0, 0.0, beta.ppf(tail, k + 0.5, n - k + 0.5))
    high = np.where(k == n, 1.0, beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    return low, high


def on_lattice(frame: pd.DataFrame, plane: Plane = PLANE) -> pd.DataFrame:
    """The frame with both coordinates on few levels, so that cells have neighbours and hold several seeds.

    A coordinate of at most MOST_LEVELS values stays as it is. One of more values (drawn at random, for instance) is cut into
    BINS bins of equal width, in logarithms on a logarithmic scale, and each value is replaced by the middle of its bin.
    """
    changed = {}
    for coordinate in plane:
        values = frame[coordinate.name].to_numpy(dtype=np.float64)
        if len(np.unique(values)) > MOST_LEVELS:
            changed[coordinate.name] = _binned(values, logarithmic=coordinate.scale == "log")
    return frame.assign(**changed)


def _binned(values: _Float, logarithmic: bool) -> _Float:
    """For each value the middle of its bin."""
    positive = np.maximum(values, values[values > 0].min())
    scaled = np.log10(positive) if logarithmic else positive
    low, width = scaled.min(), (scaled.max() - scaled.min()) / BINS
    middles = low + (np.minimum((scaled - low) // width, BINS - 1) + 0.5) * width
    return np.asarray(np.round(10**middles if logarithmic else middles, 12))


def per_autoencoder(frame: pd.DataFrame, plane: Plane = PLANE) -> pd.DataFrame:
    """One row per autoencoder: the SAEs that share one count once when the question is about the autoencoder."""
    return frame.drop_duplicates(["architecture", *(c.name for c in plane if not c.of_the_sae), "data_seed", "ae_seed"])


def cell_rates(frame: pd.DataFrame, failure: str = "any", plane: Plane = PLANE) -> pd.DataFrame:
    """Per cell: replicates, failures, rate and its 95 % interval (low, high), ordered by architecture, x, y."""
    counts = (
        frame.assign(failures=failed(frame, failure).astype("int64"))
        .groupby([*plane.cell, "n_features", "n_hidden"], sort=True)["failures"]
        .agg(["size", "sum"])
        .rename(columns={"size": "replicates", "sum": "failures"})
        .reset_index()
        .sort_values(["n_features", "n_hidden", *plane.cell], ignore_index=True)
        .drop(columns=["n_features", "n_hidden"])
    )
    low, high = rate_interval(counts["failures"], counts["replicates"])
    return counts.assign(rate=counts["failures"] / counts["replicates"], low=low, high=high)


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    >>> counted(1, "seed"), counted(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
