"""How similar the activations h and their reconstruction ĥ are: Procrustes, linear CKA, RSA.

All three are computed from moments of the centred samples, so no samples × samples matrix is ever made. All three restate
the reconstruction error; `mcc_decoder_features` says whether the SAE found the features. They are NaN where ĥ is constant:
there the source study's formulas give rounding noise (a dead SAE's Procrustes is 1 − √2 = −0.4142).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.metrics.moments import PairMoments

_Float = NDArray[np.float64]


def similarities(pair: PairMoments, constant_below: float) -> dict[str, _Float]:
    """`procrustes_hidden_recon`, `cka_hidden_recon`, `rsa_hidden_recon`, (R,) each, from the moments of h (X) and ĥ (Y).

    NaN where the variance of ĥ is less than `constant_below` times that of h.

    * Procrustes: 1 − √(2 − 2 Σσ(XᵀY)/(‖X‖‖Y‖)), in [1 − √2, 1], with Σσ the nuclear norm: one minus the distance that is
      left after the best rotation of the two centred matrices, each scaled to Frobenius norm 1.
    * CKA: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), in [0, 1] (Kornblith et al. 2019, linear kernel).
    * RSA: Pearson correlation, over all pairs of samples, of squared Euclidean distances, in [−1, 1].
    """
    x_total, y_total = np.trace(pair.XX, axis1=1, axis2=2), np.trace(pair.YY, axis1=1, axis2=2)  # ‖X‖², ‖Y‖²
    varies = (x_total > 0) & (y_total >= constant_below * x_total) & np.isfinite(y_total)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        nuclear = np.linalg.svd(np.where(varies[:, None, None], pair.XY, 0), compute_uv=False).sum(axis=1)
        columns = {
            "procrustes_hidden_recon": 1 - np.sqrt(np.maximum(2 - 2 * nuclear / np.sqrt(x_total * y_total), 0)),
            "cka_hidden_recon": _squared(pair.XY) / np.sqrt(_squared(pair.XX) * _squared(pair.YY)),
            "rsa_hidden_recon": _distance_correlation(pair, x_total, y_total),
        }
    return {name: np.where(varies, values, np.nan) for name, values in columns.items()}


def _distance_correlation(pair: PairMoments, x_total: _Float, y_total: _Float) -> _Float:
    """Pearson correlation of squared distances d = u_a + u_b − 2 x_a·x_b over pairs a < b, with u = ‖x‖².

    For centred samples Σ_{a<b} d d' = S Σ u u' + Σu Σu' + 2 ‖XᵀX'‖², and Σ_{a<b} d = S Σu.
    """
    samples = pair.samples
    pairs = samples * (samples - 1) / 2

    def covariance(norms: _Float, total: _Float, other_total: _Float, cross: _Float) -> _Float:
        products = samples * norms + total * other_total + 2 * _squared(cross)
        return products / pairs - (samples * total / pairs) * (samples * other_total / pairs)

    of_both = covariance(pair.norms_xy, x_total, y_total, pair.XY)
    of_x, of_y = covariance(pair.norms_x, x_total, x_total, pair.XX), covariance(pair.norms_y, y_total, y_total, pair.YY)
    return of_both / np.sqrt(of_x * of_y)


def _squared(matrices: _Float) -> _Float:
    return np.sum(matrices**2, axis=(1, 2))
