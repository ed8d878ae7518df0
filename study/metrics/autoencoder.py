"""Metrics of autoencoders, many at once, from their weights and their moments (`moments.py`) over the evaluation samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study import theory
from study.engines.contract import Autoencoders
from study.metrics.moments import autoencoder_moments

_Float = NDArray[np.float64]


def feature_dimensionality(W: _Float) -> _Float:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², (…, N) from W (…, H, N): how much of a dimension feature i has to itself.

    Each D_i is in [0, 1], and 0 for a zero column. Their sum is at most H (exactly H for a tight frame). Elhage et al.
    2022, "The Geometry of Superposition"; the same as the capacity of Scherlis et al. 2022, (W_i · W_i)² / Σ_j (W_i · W_j)².
    """
    gram = np.swapaxes(W, -1, -2) @ W  # (…, N, N)
    squared_norms = np.diagonal(gram, axis1=-2, axis2=-1)
    shared = np.sum(gram**2, axis=-1)
    return np.divide(squared_norms**2, shared, out=np.zeros_like(shared), where=shared > 0)


def finite_lanes(*weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Of which replicates, the last axis, all weights are finite: (R,)."""
    return np.logical_and.reduce([np.isfinite(array).all(axis=tuple(range(array.ndim - 1))) for array in weights])


def replicates_first(weights: NDArray[Any]) -> _Float:
    """(…, R) → (R, …) in float64, contiguous, so that sums over a replicate's numbers have one order whatever the pack's size."""
    return np.ascontiguousarray(np.moveaxis(weights, -1, 0), dtype=np.float64)


def represented_features(W: _Float, protocol: Protocol) -> NDArray[np.bool_]:
    """F = {i : ‖W_i‖² > represented_above}, (R, N) from W (R, H, N)."""
    return np.sum(W**2, axis=-2) > protocol.represented_above


def ae_metrics(
    autoencoders: Autoencoders, x: _Float, importances: _Float, sparsity: _Float, protocol: Protocol
) -> dict[str, _Float]:
    """The data and AE columns of the row schema, (A,) each.

    W (H, N, A), b (N, A), evaluation samples x (A, S, N), sparsity (A,). If a weight of an AE is not finite, all of its AE
    columns except the two baselines are NaN.
    """
    n_hidden, samples, n_features = len(autoencoders.W), *x.shape[1:]
    finite = finite_lanes(autoencoders.W, autoencoders.b)
    sane = Autoencoders(np.where(finite, autoencoders.W, 0), np.where(finite, autoencoders.b, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        moments = autoencoder_moments(sane, x, importances)
    columns = {
        "ae_loss": moments.loss / samples,
        "ae_dead_outputs": (moments.fires == 0).sum(axis=1).astype(np.float64),
        "hidden_rms": np.sqrt(moments.hidden_squares / (samples * n_hidden)),
        **_weight_columns(replicates_first(sane.W), protocol),
    }
    return {
        "empirical_sparsity": moments.zeros / (samples * n_features),
        "ae_loss_bias_only": theory.bias_only_loss(sparsity, importances),
        "ae_loss_dedicated": theory.dedicated_loss(sparsity, importances, n_hidden),
        **{name: np.where(finite, values, np.nan) for name, values in columns.items()},
    }


def _weight_columns(W: _Float, protocol: Protocol) -> dict[str, _Float]:
    """The columns that W (A, H, N) alone decides."""
    n_hidden, n_features = W.shape[1:]
    gram = np.swapaxes(W, 1, 2) @ W  # WᵀW (A, N, N)
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    off_diagonal = np.abs(gram).sum(axis=(1, 2)) - np.abs(diagonal).sum(axis=1)
    singular = np.linalg.svd(W, compute_uv=False)  # (A, H), descending
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "ae_diagonal_mean": diagonal.mean(axis=1),
            "ae_offdiagonal_mean": off_diagonal / (n_features * (n_features - 1)),
            "ae_condition_number": np.where(singular[:, -1] > 0, singular[:, 0] / singular[:, -1], np.inf),
            "ae_features_represented": represented_features(W, protocol).sum(axis=1).astype(np.float64),
            "ae_dimensions_per_feature": n_hidden / np.sum(W**2, axis=(1, 2)),
        }
