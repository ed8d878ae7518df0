"""Metrics of the sparse autoencoder, many replicates at once: R comes first here, one matrix product a replicate."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from search_spaces.protocol import Protocol
from study.ae_metrics import represented_features
from study.data import direction_draws
from study.similarity import similarities

_Float = NDArray[np.float64]

SAE_COLUMNS = (
    "sae_loss",
    "sae_mse",
    "explained_variance",
    "l0",
    "active_fraction",
    "dead_latents",
    "max_firing_rate",
    "procrustes_hidden_recon",
    "cka_hidden_recon",
    "rsa_hidden_recon",
    "mcc_decoder_features",
    "mcc_chance",
    "mmcs_decoder_features",
    "f1_latents_features",
)
"""What a replicate without an SAE has NaN in."""


def encode(W_enc: _Float, b_enc: _Float, b_dec: _Float, h: _Float, protocol: Protocol) -> _Float:
    """The code f = ReLU(W_enc u + b_enc), (R, S, L); u = h, or h − b_dec where the protocol subtracts it."""
    u = h - b_dec[:, None, :] if protocol.sae_subtract_decoder_bias else h
    return np.maximum(u @ np.swapaxes(W_enc, 1, 2) + b_enc[:, None, :], 0)


def sae_metrics(
    W_enc: _Float, b_enc: _Float, W_dec: _Float, b_dec: _Float, x: _Float, h: _Float, W: _Float, l1: _Float, protocol: Protocol
) -> dict[str, _Float]:
    """The SAE and similarity columns of the row schema, (R,) each.

    W_enc (R, L, H), b_enc (R, L), W_dec by columns (R, L, H), b_dec (R, H); evaluation samples x (R, S, N), their
    h (R, S, H), the AE's W (R, H, N), l1 (R,). Where a weight, of the SAE or the AE, is not finite all are NaN.
    """
    parameters = (W_enc, b_enc, W_dec, b_dec, W)
    finite = np.logical_and.reduce([np.isfinite(p).all(axis=tuple(range(1, p.ndim))) for p in parameters])
    W_enc, b_enc, W_dec, b_dec, W = (np.where(finite.reshape(-1, *[1] * (p.ndim - 1)), p, 0) for p in parameters)
    h = np.where(finite[:, None, None], h, 0)
    samples, n_latents = h.shape[1], W_enc.shape[1]

    f = encode(W_enc, b_enc, b_dec, h, protocol)  # (R, S, L)
    reconstruction = f @ W_dec + b_dec[:, None, :]  # (R, S, H)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        squared_error = np.sum((h - reconstruction) ** 2, axis=(1, 2))
        variance = np.sum((h - h.mean(axis=1, keepdims=True)) ** 2, axis=(1, 2))
        explained_variance = 1 - squared_error / variance
        loss = squared_error / samples + l1 * (f.sum(axis=(1, 2)) / samples)

    fires = (f > 0).astype(np.float64)
    present = (x > 0).astype(np.float64)
    latent_counts, feature_counts = fires.sum(axis=1), present.sum(axis=1)  # (R, L), (R, N): exact
    together = np.swapaxes(fires, 1, 2) @ present  # (R, L, N): exact
    alive = latent_counts / samples >= protocol.dead_below  # (R, L)
    recovery = [
        _recovery(*of_one)
        for of_one in zip(
            _cosines(W_dec, W), alive, represented_features(W, protocol), together, latent_counts, feature_counts, strict=True
        )
    ]
    mcc, chance, mmcs, f1 = np.array(
        [(mcc, mcc_chance(W.shape[1], n_alive, n_represented), mmcs, f1) for mcc, mmcs, f1, n_alive, n_represented in recovery]
    ).T
    columns = {
        "sae_loss": loss,
        "sae_mse": squared_error / (samples * h.shape[2]),
        "explained_variance": explained_variance,
        "l0": latent_counts.sum(axis=1) / samples,
        "active_fraction": latent_counts.sum(axis=1) / (samples * n_latents),
        "dead_latents": (~alive).sum(axis=1).astype(np.float64),
        "max_firing_rate": latent_counts.max(axis=1) / samples,
        **similarities(h, reconstruction, protocol.constant_below),
        "mcc_decoder_features": mcc,
        "mcc_chance": chance,
        "mmcs_decoder_features": mmcs,
        "f1_latents_features": f1,
    }
    return {name: np.where(finite, columns[name], np.nan) for name in SAE_COLUMNS}


def _cosines(W_dec: _Float, W: _Float) -> _Float:
    """Signed cosines of decoder columns (R, L, H) with the AE's columns (R, H, N), as (R, L, N).

    0 with a zero vector, and where one is too long to be squared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        dots = W_dec @ W
        norms = np.linalg.norm(W_dec, axis=2)[:, :, None] * np.linalg.norm(W, axis=1)[:, None, :]
    return np.divide(dots, norms, out=np.zeros_like(dots), where=(norms > 0) & np.isfinite(norms) & np.isfinite(dots))


def _recovery(
    cosines: _Float,
    alive: NDArray[np.bool_],
    represented: NDArray[np.bool_],
    together: _Float,
    latent_counts: _Float,
    feature_counts: _Float,
) -> tuple[float, float, float, int, int]:
    """MCC, MMCS, F1 of one replicate, and how many latents are alive and features represented.

    Only alive latents and represented features enter, with the sign of their cosine: in antipodal pairs the absolute
    value would reward a dictionary of duplicates. 0 where nothing is alive, NaN where nothing is represented.
    """
    n_alive, n_represented = int(alive.sum()), int(represented.sum())
    if n_represented == 0:
        return np.nan, np.nan, np.nan, n_alive, n_represented
    if n_alive == 0:
        return 0.0, 0.0, 0.0, n_alive, n_represented
    latents, features = np.flatnonzero(alive), np.flatnonzero(represented)
    candidates = cosines[np.ix_(latents, features)]
    rows, columns = linear_sum_assignment(candidates, maximize=True)
    mcc = candidates[rows, columns].sum() / n_represented
    mmcs = candidates.max(axis=0).mean()
    j, i = latents[rows], features[columns]
    f1 = (2 * together[j, i] / np.maximum(latent_counts[j] + feature_counts[i], 1)).sum() / n_represented
    return mcc, mmcs, f1, n_alive, n_represented


@cache
def mcc_chance(n_hidden: int, n_alive: int, n_represented: int) -> float:
    """The mean MCC of isotropic random directions on both sides, over 1,000 draws from a fixed stream.

    High in few dimensions: 0.56 for 10 against 10 directions in 5. NaN and 0 as the MCC itself.
    """
    if n_represented == 0:
        return np.nan
    if n_alive == 0:
        return 0.0
    decoders, features = direction_draws(n_hidden, n_alive, n_represented, draws=1000)
    cosines = decoders @ np.swapaxes(features, 1, 2)  # (draws, alive, represented)
    return float(np.mean([c[linear_sum_assignment(c, maximize=True)].sum() for c in cosines]) / n_represented)


def corrected_mcc(mcc: _Float, chance: _Float) -> _Float:
    """(mcc − chance)/(1 − chance): 0 at chance, 1 at perfect recovery."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (mcc - chance) / (1 - chance)
