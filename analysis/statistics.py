"""Failure rates with their uncertainty. A cell is never reported from one seed without its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from search_spaces.errors import MisuseError
from search_spaces.protocol import closest
from study.failures import FailureKind

CELL = ["architecture", "sparsity", "l1"]
FAILURES = ("any", *(kind.value for kind in FailureKind if kind is not FailureKind.NONE), "sae_all_dead")
"""What may be asked for: any failure, one kind, or what the source called one (all latents dead, whatever the reason)."""


def failed(frame: pd.DataFrame, failure: str = "any") -> pd.Series[bool]:
    """Whether each row failed in the way asked for; MisuseError for an unknown one."""
    if failure not in FAILURES:
        raise MisuseError(f"failure={failure!r} is unknown.{closest(failure, FAILURES)} Expected one of {', '.join(FAILURES)}.")
    if failure == "any":
        return frame["failure"] != FailureKind.NONE.value
    if failure == "sae_all_dead":
        return frame["sae_all_dead"]
    return frame["failure"] == failure


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


MOST_LEVELS, BINS = 60, 12


def _same(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _log10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log10(values)


def _power10(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10**values


def per_autoencoder(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each autoencoder: its SAEs share it, and count once where the AE is what is asked about."""
    return frame.drop_duplicates(["architecture", "sparsity", "data_seed", "ae_seed"])


def cell_rates(frame: pd.DataFrame, failure: str = "any") -> pd.DataFrame:
    """Per cell: replicates, failures, rate and its 95 % interval (low, high), ordered by architecture, sparsity, l1."""
    counts = (
        frame.assign(failures=failed(frame, failure).astype("int64"))
        .groupby([*CELL, "n_features", "n_hidden"], sort=True)["failures"]
        .agg(["size", "sum"])
        .rename(columns={"size": "replicates", "sum": "failures"})
        .reset_index()
        .sort_values(["n_features", "n_hidden", "architecture", "sparsity", "l1"], ignore_index=True)
        .drop(columns=["n_features", "n_hidden"])
    )
    low, high = rate_interval(counts["failures"], counts["replicates"])
    return counts.assign(rate=counts["failures"] / counts["replicates"], low=low, high=high)
