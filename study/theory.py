"""Closed forms for the toy model of superposition and for an L1 SAE on it.

x_i = Bernoulli(p) · U(0, 1) with p = 1 − S; x̂ = ReLU(WᵀWx + b); loss E Σ_i I_i (x_i − x̂_i)².
Sources: Elhage et al. 2022, "Toy Models of Superposition"; the L1 results are derived from
‖h − ĥ‖² + l1 · Σ f with unit decoder columns (the LASSO's λ_max and soft threshold, per feature).
Scalars or arrays alike; S in [0, 1), l1 >= 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

_Float = NDArray[np.float64]


def feature_variance(sparsity: ArrayLike) -> _Float:
    """v(p) = p/3 − p²/4, the variance of one feature."""
    p = 1 - np.asarray(sparsity, dtype=np.float64)
    return p / 3 - p**2 / 4


def bias_only_loss(sparsity: ArrayLike, importances: ArrayLike) -> _Float:
    """v(p) · Σ I: the loss of W = 0 and the best bias, b = p/2. An AE near it represents nothing."""
    return feature_variance(sparsity) * np.sum(importances)


def dedicated_loss(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int) -> _Float:
    """v(p) · Σ_{i ≥ n_hidden} I_i: the n_hidden first features stored orthogonally, biases for the rest."""
    return feature_variance(sparsity) * np.sum(np.asarray(importances)[n_hidden:])


def antipodal_loss(sparsity: ArrayLike, importances: ArrayLike) -> _Float:
    """(p²/6) · Σ I: n_features = 2 n_hidden unit columns in antipodal pairs, b = 0.

    A pair errs only when both of its features fire: E[min²] = 1/6.
    """
    p = 1 - np.asarray(sparsity, dtype=np.float64)
    return p**2 / 6 * np.sum(importances)


def death_line(column_norm: ArrayLike) -> _Float:
    """l1 = 2 ‖W_i‖, from which on the latent of feature i is dead at the optimum (unit decoder columns)."""
    return 2 * np.asarray(column_norm, dtype=np.float64)


def dictionary_death_threshold(dictionary: _Float, residuals: _Float) -> float:
    """2 · max_{j, sample} d_j · r: from this l1 on the all-zero code is optimal for a fixed dictionary.

    dictionary (n_hidden, n_latents), residuals r = h − b_dec (samples, n_hidden). At the start of training it is
    the l1 above which every latent is pushed down on every sample. 0 where no residual has a positive product.
    """
    return max(0.0, 2 * float(np.max(residuals @ dictionary)))


def l1_upper_bound(residuals: _Float) -> float:
    """λ_max = 2 · sup ‖h − b_dec‖: above it firing never pays, whatever the dictionary and the encoder."""
    return 2 * float(np.max(np.linalg.norm(residuals, axis=-1)))


def recall(l1: ArrayLike, column_norm: ArrayLike) -> _Float:
    """1 − u with u = l1/(2 ‖W_i‖), clipped to [0, 1]: the share of feature i's activations that its latent sees."""
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.asarray(l1, dtype=np.float64) / death_line(column_norm)
    return 1 - np.clip(np.nan_to_num(u, nan=1.0, posinf=1.0), 0, 1)


def feature_loss(l1: ArrayLike, column_norm: ArrayLike) -> _Float:
    """Loss per activation of feature i at the optimal latent, the soft threshold f = (s x − l1/2)₊.

    s² u³/3 + (l1²/4)(1 − u) + (l1 s/2)(1 − u)² with s = ‖W_i‖ and u = min(1, l1/(2 s)); dead: s²/3.
    """
    l1, s = np.asarray(l1, dtype=np.float64), np.asarray(column_norm, dtype=np.float64)
    alive = recall(l1, s)
    return s**2 * (1 - alive) ** 3 / 3 + l1**2 / 4 * alive + l1 * s / 2 * alive**2


def expected_l0(l1: float, column_norms: _Float, sparsity: float) -> float:
    """L0(l1) ≈ Σ_i p (1 − l1/(2 ‖W_i‖))₊, the mean number of active latents, for column norms (n_features,)."""
    return float((1 - sparsity) * np.sum(recall(l1, column_norms)))


def l1_for_l0(target_l0: float, column_norms: _Float, sparsity: float) -> float:
    """The l1 at which `expected_l0` is target_l0; ValueError where no l1 >= 0 reaches it."""
    highest = expected_l0(0.0, column_norms, sparsity)
    if not 0 < target_l0 <= highest:
        raise ValueError(f"target_l0={target_l0} is out of reach: L0 lies in (0, {highest:.4g}] for these column norms.")
    top = float(np.max(death_line(column_norms)))
    return float(brentq(lambda l1: expected_l0(l1, column_norms, sparsity) - target_l0, 0.0, top, xtol=1e-12))
