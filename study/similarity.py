"""How alike are the activations h and their reconstruction ĥ: Procrustes, linear CKA, RSA.

All three from moments of the centred samples, so no samples × samples matrix is ever made. All three restate the
reconstruction error; whether the SAE found the features is `mcc_decoder_features`. They are NaN where ĥ is constant:
there the source's formulas give rounding noise (a dead SAE's Procrustes is 1 − √2 = −0.4142).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

_Float = NDArray[np.float64]


def similarities(h: _Float, reconstruction: _Float, constant_below: float) -> dict[str, _Float]:
    """`procrustes_hidden_recon`, `cka_hidden_recon`, `rsa_hidden_recon`, (R,) each, from h and ĥ (R, S, H).

    NaN where the variance of ĥ is under `constant_below` times that of h.
    Procrustes 1 − √(2 − 2 Σσ(XᵀY)/(‖X‖‖Y‖)), in [1 − √2, 1], with Σσ the nuclear norm: what is left after the best
    rotation of the two centred matrices, each at Frobenius norm 1.
    CKA ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), in [0, 1] (Kornblith et al. 2019, linear kernel).
    RSA: Pearson correlation, over all pairs of samples, of squared Euclidean distances, in [−1, 1].
    """
    X = h - h.mean(axis=1, keepdims=True)  # (R, S, H)
    Y = reconstruction - reconstruction.mean(axis=1, keepdims=True)
    X_t, Y_t = np.swapaxes(X, 1, 2), np.swapaxes(Y, 1, 2)
    XX, YY, XY = X_t @ X, Y_t @ Y, X_t @ Y  # (R, H, H)
    x_norms, y_norms = np.sum(X * X, axis=2), np.sum(Y * Y, axis=2)  # (R, S)
    x_total, y_total = x_norms.sum(axis=1), y_norms.sum(axis=1)  # ‖X‖², ‖Y‖²
    varies = (x_total > 0) & (y_total >= constant_below * x_total) & np.isfinite(y_total)
    with np.errstate(divide="ignore", invalid="ignore"):
        nuclear = np.linalg.svd(np.where(varies[:, None, None], XY, 0), compute_uv=False).sum(axis=1)
        columns = {
            "procrustes_hidden_recon": 1 - np.sqrt(np.maximum(2 - 2 * nuclear / np.sqrt(x_total * y_total), 0)),
            "cka_hidden_recon": _squared(XY) / np.sqrt(_squared(XX) * _squared(YY)),
            "rsa_hidden_recon": _distance_correlation(x_norms, y_norms, XX, YY, XY),
        }
    return {name: np.where(varies, values, np.nan) for name, values in columns.items()}


def _distance_correlation(x_norms: _Float, y_norms: _Float, XX: _Float, YY: _Float, XY: _Float) -> _Float:
    """Pearson correlation of squared distances d = u_a + u_b − 2 x_a·x_b over pairs a < b, from moments.

    For centred samples Σ_{a<b} d d' = S Σ u u' + Σu Σu' + 2 ‖XᵀX'‖², and Σ_{a<b} d = S Σu.
    """
    samples = x_norms.shape[1]
    pairs = samples * (samples - 1) / 2

    def covariance(u: _Float, v: _Float, cross: _Float) -> _Float:
        total_u, total_v = u.sum(axis=1), v.sum(axis=1)
        products = samples * (u * v).sum(axis=1) + total_u * total_v + 2 * _squared(cross)
        return products / pairs - (samples * total_u / pairs) * (samples * total_v / pairs)

    return covariance(x_norms, y_norms, XY) / np.sqrt(covariance(x_norms, x_norms, XX) * covariance(y_norms, y_norms, YY))


def _squared(matrices: _Float) -> _Float:
    return np.sum(matrices**2, axis=(1, 2))


def rsa_plain_distances(h: _Float, reconstruction: _Float) -> float:
    """The source's RSA of one replicate: Pearson correlation of plain Euclidean distances, h and ĥ (S, H).

    Has no closed form in moments: O(S²) time and memory. For comparison with published figures only.
    """
    return float(np.corrcoef(pdist(h), pdist(reconstruction))[0, 1])
