"""Failure rates of cells, with intervals: what every other part of the analysis starts from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm

from search_spaces.failures import failed

_Float = NDArray[np.float64]
Interval = Callable[[ArrayLike, ArrayLike], tuple[_Float, _Float]]
"""Failures and replicates to the low and high end of a 95 % interval."""

CELL = ["architecture", "sparsity", "l1"]
MOST_LEVELS, BINS = 60, 12


def rate_interval(
    failures: ArrayLike, replicates: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Jeffreys interval of a rate: quantiles of Beta(k + ½, n − k + ½), with 0 where k = 0 and 1 where k = n.

    Brown, Cai, DasGupta 2001, "Interval Estimation for a Binomial Proportion". Without replicates: (0, 1).
    """
    k, n = np.asarray(failures, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    tail = (1 - confidence) / 2
    low = np.where(k == 0, 0.0, beta.ppf(tail, k + 0.5, n - k + 0.5))
    high = np.where(k == n, 1.0, beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    return low, high


def wilson_interval(failures: ArrayLike, replicates: ArrayLike, confidence: float = 0.95) -> tuple[_Float, _Float]:
    """Wilson's score interval: the rates p with |k/n − p| ≤ z √(p(1 − p)/n).

    ((k + z²/2) ± z √(k(n − k)/n + z²/4)) / (n + z²), Wilson 1927; a little wider than Jeffreys' near 0 and 1, where it
    keeps its level in more single points. Without replicates: (0, 1).
    """
    k, n = np.asarray(failures, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    z = norm.ppf((1 + confidence) / 2)
    middle, half = k + z**2 / 2, z * np.sqrt(k * (n - k) / np.maximum(n, 1) + z**2 / 4)
    low, high = (middle - half) / (n + z**2), (middle + half) / (n + z**2)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def on_lattice(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with sparsity and l1 on few levels, so that cells can be neighbours and hold several seeds.

    An axis of at most MOST_LEVELS values stays as it is; one of more (drawn at random, say) is cut into BINS bins of
    equal width, logarithmic for l1, and each value becomes the middle of its bin.
    """
    changed = {}
    for column, forward, back in (("sparsity", _same, _same), ("l1", _log10, _power10)):
        values = frame[column].to_numpy(dtype=np.float64)
        if len(np.unique(values)) <= MOST_LEVELS:
            continue
        scaled = forward(np.maximum(values, values[values > 0].min()))
        low, width = scaled.min(), (scaled.max() - scaled.min()) / BINS
        bins = np.minimum((scaled - low) // width, BINS - 1)
        changed[column] = np.round(back(low + (bins + 0.5) * width), 12)
    return frame.assign(**changed)


def _same(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(values)


def _power10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10**values


def per_autoencoder(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each autoencoder: its SAEs share it, and count once where the AE is what is asked about."""
    return frame.drop_duplicates(["architecture", "sparsity", "data_seed", "ae_seed"])


def cell_rates(frame: pd.DataFrame, failure: str = "any", interval: Interval = rate_interval) -> pd.DataFrame:
    """Per cell: replicates, failures, rate and its 95 % interval (low, high), ordered by architecture, sparsity, l1.

    interval: `rate_interval` (Jeffreys) or `wilson_interval`.
    """
    counts = (
        frame.assign(failures=failed(frame, failure).astype("int64"))
        .groupby([*CELL, "n_features", "n_hidden"], sort=True)["failures"]
        .agg(["size", "sum"])
        .rename(columns={"size": "replicates", "sum": "failures"})
        .reset_index()
        .sort_values(["n_features", "n_hidden", "architecture", "sparsity", "l1"], ignore_index=True)
        .drop(columns=["n_features", "n_hidden"])
    )
    low, high = interval(counts["failures"], counts["replicates"])
    return counts.assign(rate=counts["failures"] / counts["replicates"], low=low, high=high)
