"""Closed forms for the toy model of superposition and for an L1 SAE on it.

x_i = Bernoulli(p) · U(0, 1) with p = 1 − S; x̂ = ReLU(WᵀWx + b); loss E Σ_i I_i (x_i − x̂_i)².
Sources: Elhage et al. 2022, "Toy Models of Superposition"; the L1 results are derived from
‖h − ĥ‖² + l1 · Σ f with unit decoder columns (the LASSO's λ_max and soft threshold, per feature).
All functions take scalars or arrays; S in [0, 1), l1 >= 0. The examples use the importances I_i = 0.7^i of the
`dissertation` protocol.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr

_Float = NDArray[np.float64]


def feature_variance(sparsity: ArrayLike) -> _Float:
    """v(p) = p/3 − p²/4, the variance of one feature.

    >>> feature_variance([0.0, 0.5, 0.9]).round(4)
    array([0.0833, 0.1042, 0.0308])
    """
    p = 1 - np.asarray(sparsity, dtype=np.float64)
    return p / 3 - p**2 / 4


def bias_only_loss(sparsity: ArrayLike, importances: ArrayLike) -> _Float:
    """v(p) · Σ I: the loss of W = 0 and the best bias, b = p/2. An AE with a loss near it represents nothing.

    >>> print(bias_only_loss(0.9, 0.7 ** np.arange(10)).round(4))
    0.0999
    """
    return feature_variance(sparsity) * np.sum(importances)


def dedicated_loss(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int) -> _Float:
    """v(p) · Σ_{i ≥ n_hidden} I_i: the loss if the first n_hidden features are stored orthogonally, the rest by biases alone.

    >>> print(dedicated_loss(0.9, 0.7 ** np.arange(10), n_hidden=5).round(4))
    0.0144
    """
    return feature_variance(sparsity) * np.sum(np.asarray(importances)[n_hidden:])


def antipodal_loss(sparsity: ArrayLike, importances: ArrayLike) -> _Float:
    """(p²/6) · Σ I: the loss of n_features = 2 n_hidden unit columns in antipodal pairs, b = 0.

    A pair makes an error only if both of its features fire: E[min²] = 1/6.

    >>> print(antipodal_loss(0.9, 0.7 ** np.arange(10)).round(4))
    0.0054
    """
    p = 1 - np.asarray(sparsity, dtype=np.float64)
    return p**2 / 6 * np.sum(importances)


def most_pairs(n_features: int, n_hidden: int) -> int:
    """min(n_hidden, n_features − n_hidden): how many hidden dimensions can each hold a pair of features instead of one."""
    return min(n_hidden, n_features - n_hidden)


def paired_loss(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int, pairs: int) -> _Float:
    """(p²/6) · Σ I over the paired features + v(p) · Σ_{i ≥ n_hidden + pairs} I_i: unit columns, `pairs` dimensions shared.

    The n_hidden + pairs most important features are represented: the least important 2 · pairs of them antipodally, the
    others alone. With 0 pairs this is `dedicated_loss`; with n_features = 2 n_hidden and all pairs, `antipodal_loss`. It
    extends Elhage et al.'s two candidates for n_features = 2, n_hidden = 1 to any width. Importances must not increase.
    """
    weights = np.asarray(importances, dtype=np.float64)
    first, last = n_hidden - pairs, n_hidden + pairs
    return antipodal_loss(sparsity, weights[first:last]) + feature_variance(sparsity) * np.sum(weights[last:])


def pairing_sparsities(importances: ArrayLike, n_hidden: int) -> _Float:
    """S_k = 1 − 2/(2.5 + I_{n_hidden−k}/I_{n_hidden+k−1}), k = 1 … most_pairs: the sparsity from which the k-th pair pays.

    At S_k the `paired_loss` of k pairs equals that of k − 1: p²/6 · (I_a + I_b) = v(p) · I_b. Superposition begins at S_1,
    which is 3/7 for equal importances. A pair with a free scale and bias is slightly better than the one assumed here.

    >>> pairing_sparsities(0.7 ** np.arange(10), n_hidden=5).round(3)
    array([0.491, 0.631, 0.763, 0.863, 0.927])
    """
    weights = np.asarray(importances, dtype=np.float64)
    k = np.arange(1, most_pairs(len(weights), n_hidden) + 1)
    return 1 - 2 / (2.5 + weights[n_hidden - k] / weights[n_hidden + k - 1])


def features_represented(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int) -> NDArray[np.int64]:
    """n_hidden + the number of pairs that pay: a staircase in S.

    An underestimate if n_features > 2 n_hidden, where more than two features can share a dimension.

    >>> features_represented([0.3, 0.5, 0.9], 0.7 ** np.arange(10), n_hidden=5)
    array([5, 6, 9])
    """
    return n_hidden + np.searchsorted(pairing_sparsities(importances, n_hidden), np.asarray(sparsity), side="right")


def dimensions_per_feature(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int) -> _Float:
    """D* = n_hidden/‖W‖_F² with `features_represented` unit columns: 1 without superposition, ½ where all are paired.

    >>> dimensions_per_feature([0.3, 0.5, 0.98], 0.7 ** np.arange(10), n_hidden=5).round(3)
    array([1.   , 0.833, 0.5  ])
    """
    return n_hidden / features_represented(sparsity, importances, n_hidden)


def best_paired_loss(sparsity: ArrayLike, importances: ArrayLike, n_hidden: int) -> _Float:
    """The least `paired_loss` over the number of pairs, for each S: an upper bound on the loss of a good AE.

    >>> best_paired_loss([0.3, 0.9], 0.7 ** np.arange(10), n_hidden=5).round(4)
    array([0.0517, 0.0049])
    """
    pairs = range(most_pairs(len(np.asarray(importances)), n_hidden) + 1)
    return np.min([paired_loss(sparsity, importances, n_hidden, k) for k in pairs], axis=0)


def least_dimension_sum(condition_number: ArrayLike, n_hidden: int) -> _Float:
    """max(1 + (H − 1)/κ², 4 H κ²/(1 + κ²)²) ≤ ΣD_i ≤ H: the lower bound that the condition number κ of W sets on ΣD_i.

    ΣD_i ≥ ‖W‖_F⁴/‖WᵀW‖_F² (Cauchy and Schwarz) ≥ ‖W‖_F²/σ_max², and singular values lie in [σ_max/κ, σ_max]; the second
    term is Kantorovich's inequality. H for a tight frame (κ = 1), 1 for κ = ∞ (W ≠ 0).

    >>> least_dimension_sum([1, 2, np.inf], n_hidden=5)
    array([5. , 3.2, 1. ])
    """
    squared = np.asarray(condition_number, dtype=np.float64) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kantorovich = 4 * n_hidden / (1 / squared + 2 + squared)
    return np.maximum(1 + (n_hidden - 1) / squared, kantorovich)


def importance_decay(total: float, n_features: int) -> float:
    """The r in [0, ∞) with Σ_{i<N} r^i = total: inverts the sum in `bias_only_loss`. Raises ValueError for a total below 1.

    >>> round(importance_decay(sum(0.7 ** np.arange(10)), n_features=10), 6)
    0.7
    """
    if not total >= 1:
        raise ValueError(f"total={total} is below 1, the importance of the first feature. Give Σ r^i over all features.")
    return float(brentq(lambda r: np.sum(r ** np.arange(n_features)) - total, 0.0, max(1.0, total), xtol=1e-14))


def death_line(column_norm: ArrayLike) -> _Float:
    """2 ‖W_i‖: the l1 from which the latent of feature i is dead at the optimum (unit decoder columns).

    >>> death_line([0.5, 1.0])
    array([1., 2.])
    """
    return 2 * np.asarray(column_norm, dtype=np.float64)


def dictionary_death_threshold(dictionary: _Float, residuals: _Float) -> float:
    """2 · max_{j, sample} d_j · r: the l1 from which the all-zero code is optimal for a fixed dictionary.

    dictionary (n_hidden, n_latents), residuals r = h − b_dec (samples, n_hidden). At the start of training it is
    the l1 above which every latent is pushed down on every sample. 0 if no product is positive.

    >>> dictionary_death_threshold(np.eye(2), np.array([[0.3, -1.0], [0.1, 0.2]]))
    0.6
    """
    return max(0.0, 2 * float(np.max(residuals @ dictionary)))


def expected_largest(n: int) -> float:
    """Expectation of the largest of n independent standard normal numbers, ∫ x dΦ(x)^n by quadrature; 0 for n = 1.

    >>> round(expected_largest(2) * np.pi**0.5, 6)
    1.0
    """
    with np.errstate(under="ignore"):
        return float(quad(lambda x: 1 - ndtr(x) ** n, 0, 12)[0] - quad(lambda x: ndtr(x) ** n, -12, 0)[0])


def initial_death_line(init_std: float, column_norm: ArrayLike, n_latents: int, n_represented: int) -> _Float:
    """2 · init_std · ‖w‖ · E max of n_latents · n_represented normals: the expected `dictionary_death_threshold` at the start.

    Assumes W_dec ~ normal(0, init_std) and, as residuals, each represented feature alone at its full value. From this l1 on,
    all latents are pushed down at the first step. The edge is not sharp: decoders grow while latents die, and samples of
    several features are longer. The measured frontier for decoders with std 0.01 lies within a factor of 3.

    >>> print(initial_death_line(0.01, 1.0, n_latents=10, n_represented=5).round(4))
    0.045
    """
    return 2 * init_std * np.asarray(column_norm, dtype=np.float64) * expected_largest(n_latents * n_represented)


def l1_upper_bound(residuals: _Float) -> float:
    """λ_max = 2 · sup ‖h − b_dec‖: above this l1, firing never pays, whatever the dictionary and the encoder.

    >>> l1_upper_bound(np.array([[0.3, 0.4], [0.0, 0.1]]))
    1.0
    """
    return 2 * float(np.max(np.linalg.norm(residuals, axis=-1)))


def recall(l1: ArrayLike, column_norm: ArrayLike) -> _Float:
    """1 − u with u = l1/(2 ‖W_i‖), clipped to [0, 1]: the share of feature i's activations on which its latent fires.

    >>> recall([0.0, 0.5, 2.0], column_norm=1.0)
    array([1.  , 0.75, 0.  ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.asarray(l1, dtype=np.float64) / death_line(column_norm)
    return 1 - np.clip(np.nan_to_num(u, nan=1.0, posinf=1.0), 0, 1)


def feature_loss(l1: ArrayLike, column_norm: ArrayLike) -> _Float:
    """Loss per activation of feature i at the optimal latent, the soft threshold f = (s x − l1/2)₊.

    s² u³/3 + (l1²/4)(1 − u) + (l1 s/2)(1 − u)² with s = ‖W_i‖ and u = min(1, l1/(2 s)); dead: s²/3.

    >>> feature_loss([0.1, 1.0, 2.0], column_norm=1.0).round(4)
    array([0.0475, 0.2917, 0.3333])
    """
    l1, s = np.asarray(l1, dtype=np.float64), np.asarray(column_norm, dtype=np.float64)
    alive = recall(l1, s)
    return s**2 * (1 - alive) ** 3 / 3 + l1**2 / 4 * alive + l1 * s / 2 * alive**2


def expected_l0(l1: float, column_norms: _Float, sparsity: float) -> float:
    """L0(l1) ≈ Σ_i p (1 − l1/(2 ‖W_i‖))₊, the mean number of active latents, for column norms (n_features,).

    >>> round(expected_l0(0.2, np.ones(10), sparsity=0.9), 6)
    0.9
    """
    return float((1 - sparsity) * np.sum(recall(l1, column_norms)))


def l1_for_l0(target_l0: float, column_norms: _Float, sparsity: float) -> float:
    """The l1 at which `expected_l0` is target_l0. Raises ValueError if no l1 >= 0 reaches it.

    >>> round(l1_for_l0(0.9, np.ones(10), sparsity=0.9), 6)
    0.2
    """
    highest = expected_l0(0.0, column_norms, sparsity)
    if not 0 < target_l0 <= highest:
        raise ValueError(f"target_l0={target_l0} is out of reach: L0 lies in (0, {highest:.4g}] for these column norms.")
    top = float(np.max(death_line(column_norms)))
    return float(brentq(lambda l1: expected_l0(l1, column_norms, sparsity) - target_l0, 0.0, top, xtol=1e-12))
