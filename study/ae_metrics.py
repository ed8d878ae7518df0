"""Metrics of the autoencoder, many replicates at once: R comes first here, one matrix product a replicate.

A product of the same shape for each replicate gives the same bits whatever the pack's size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study import theory

_Float = NDArray[np.float64]


def feature_dimensionality(W: _Float) -> _Float:
    """D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)², (…, N) from W (…, H, N): how much of a dimension feature i has for itself.

    In [0, 1], sums to at most H (to H for a tight frame); 0 for a zero column. Elhage et al. 2022, "The Geometry of
    Superposition"; the same as the capacity of Scherlis et al. 2022, (W_i · W_i)² / Σ_j (W_i · W_j)².
    """
    gram = np.swapaxes(W, -1, -2) @ W  # (…, N, N)
    squared_norms = np.diagonal(gram, axis1=-2, axis2=-1)
    shared = np.sum(gram**2, axis=-1)
    return np.divide(squared_norms**2, shared, out=np.zeros_like(shared), where=shared > 0)


def represented_features(W: _Float, protocol: Protocol) -> NDArray[np.bool_]:
    """F = {i : ‖W_i‖² > represented_above}, (R, N) from W (R, H, N)."""
    return np.sum(W**2, axis=-2) > protocol.represented_above


def reconstruct(W: _Float, b: _Float, h: _Float) -> _Float:
    """x̂ = ReLU(Wᵀ h + b), (R, S, N), from W (R, H, N), b (R, N), h (R, S, H)."""
    return np.maximum(h @ W + b[:, None, :], 0)


def ae_metrics(
    W: _Float, b: _Float, x: _Float, h: _Float, importances: _Float, sparsity: _Float, protocol: Protocol
) -> dict[str, _Float]:
    """The data and AE columns of the row schema, (R,) each.

    W (R, H, N), b (R, N), evaluation samples x (R, S, N) and their h = W x (R, S, H), sparsity (R,). Where a weight is
    not finite every AE column but the two baselines is NaN.
    """
    n_hidden, n_features = W.shape[1:]
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(W).all(axis=(1, 2)) & np.isfinite(b).all(axis=1))
    sane = np.where(finite[:, None, None], W, 0)
    reconstruction = reconstruct(W, b, h)
    error = (x - reconstruction) ** 2 @ importances[:, None]  # (R, S, 1)
    gram = np.swapaxes(sane, 1, 2) @ sane  # WᵀW (R, N, N)
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    off_diagonal = np.abs(gram).sum(axis=(1, 2)) - np.abs(diagonal).sum(axis=1)
    singular = np.linalg.svd(sane, compute_uv=False)  # (R, H), descending
    with np.errstate(divide="ignore", invalid="ignore"):
        condition = np.where(singular[:, -1] > 0, singular[:, 0] / singular[:, -1], np.inf)
        dimensions_per_feature = n_hidden / np.sum(sane**2, axis=(1, 2))
    columns = {
        "ae_loss": error.mean(axis=(1, 2)),
        "ae_diagonal_mean": diagonal.mean(axis=1),
        "ae_offdiagonal_mean": off_diagonal / (n_features * (n_features - 1)),
        "ae_condition_number": condition,
        "ae_dead_outputs": (~(reconstruction > 0).any(axis=1)).sum(axis=1).astype(np.float64),
        "ae_features_represented": represented_features(sane, protocol).sum(axis=1).astype(np.float64),
        "ae_dimensions_per_feature": dimensions_per_feature,
        "hidden_rms": np.sqrt((h**2).mean(axis=(1, 2))),
    }
    return {
        "empirical_sparsity": (x == 0).mean(axis=(1, 2)),
        "ae_loss_bias_only": theory.bias_only_loss(sparsity, importances),
        "ae_loss_dedicated": theory.dedicated_loss(sparsity, importances, n_hidden),
        **{name: np.where(finite, values, np.nan) for name, values in columns.items()},
    }
