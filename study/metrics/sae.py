"""Metrics of SAEs, many at once, from their weights and their moments (`moments.py`) over the evaluation samples."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from search_spaces.protocol import Protocol
from study.data import direction_draws
from study.engines.contract import SparseAutoencoders
from study.metrics.autoencoder import finite_lanes, replicates_first, represented_features
from study.metrics.moments import SaeMoments, sae_moments
from study.metrics.similarity import similarities
from study.variants.contract import Penalised
from study.variants.registry import variant_of

_Float = NDArray[np.float64]


def sae_metrics(
    saes: SparseAutoencoders,
    W: _Float,
    x: _Float,
    ae_of_sae: NDArray[np.int64],
    l1: _Float,
    protocol: Protocol,
    W_read: _Float | None = None,
) -> dict[str, _Float]:
    """The SAE and similarity columns of the row schema, (R,) each.

    W (H, N, A): the autoencoders', whose columns are the features' directions; x (A, S, N): evaluation samples; ae_of_sae
    (R,): the autoencoder of each SAE; l1 (R,). W_read (H, N, A): the SAEs read h = W_read x; W if it is left out.
    If a weight of an SAE or its AE is not finite, all of its columns are NaN.
    """
    finite_ae = finite_lanes(W)
    finite = finite_ae[ae_of_sae] & finite_lanes(*saes.parameters.values())
    saes = saes.each(lambda weights: np.where(finite, weights, 0))
    W, W_read = np.where(finite_ae, W, 0), np.where(finite_ae, W if W_read is None else W_read, 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        moments = sae_moments(saes, W_read, x, ae_of_sae, protocol)
        alive = moments.latents / x.shape[1] >= protocol.dead_below  # (R, L)
        columns = {
            **_code_columns(moments, alive, l1, protocol),
            **similarities(moments.hidden_recon, protocol.constant_below),
            **_recoveries(saes, W, ae_of_sae, moments, alive, protocol),
        }
    return {name: np.where(finite, values, np.nan) for name, values in columns.items()}


def _code_columns(moments: SaeMoments, alive: NDArray[np.bool_], l1: _Float, protocol: Protocol) -> dict[str, _Float]:
    """How well the code reconstructs, and how sparse it is."""
    samples, n_hidden, n_latents = moments.hidden_recon.samples, moments.hidden_recon.XX.shape[1], moments.latents.shape[1]
    active = moments.latents.sum(axis=1)
    counted = moments.code if variant_of(protocol).penalised is Penalised.CODE else active
    return {
        "sae_loss": moments.squared_error / samples + l1 * (counted / samples),
        "sae_mse": moments.squared_error / (samples * n_hidden),
        "explained_variance": 1 - moments.squared_error / np.trace(moments.hidden_recon.XX, axis1=1, axis2=2),
        "l0": active / samples,
        "active_fraction": active / (samples * n_latents),
        "dead_latents": (~alive).sum(axis=1).astype(np.float64),
        "max_firing_rate": moments.latents.max(axis=1) / samples,
    }


def _recoveries(
    saes: SparseAutoencoders,
    W: _Float,
    ae_of_sae: NDArray[np.int64],
    moments: SaeMoments,
    alive: NDArray[np.bool_],
    protocol: Protocol,
) -> dict[str, _Float]:
    """The columns that compare decoder and latents with the features."""
    matrices, decoders = replicates_first(W), replicates_first(saes.W_dec)
    represented = represented_features(matrices, protocol)[ae_of_sae]  # (R, N)
    cosines = _cosines(decoders, matrices[ae_of_sae])
    each = zip(cosines, alive, represented, moments.together, moments.latents, moments.features, strict=True)
    found = np.array([_recovery(*of_one) for of_one in each])
    alive_counts, represented_counts = alive.sum(axis=1).tolist(), represented.sum(axis=1).tolist()
    chance = [mcc_chance(saes.W_dec.shape[1], *counts) for counts in zip(alive_counts, represented_counts, strict=True)]
    return {
        "mcc_decoder_features": found[:, 0],
        "mcc_chance": np.array(chance),
        "mmcs_decoder_features": found[:, 1],
        "f1_latents_features": found[:, 2],
    }


def _cosines(W_dec: _Float, W: _Float) -> _Float:
    """Signed cosines of decoder columns (R, L, H) with the AE's columns (R, H, N), as (R, L, N).

    0 for a zero vector, and for one that is too long to be squared.
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
) -> tuple[float, float, float]:
    """MCC, MMCS, F1 of one replicate.

    Only alive latents and represented features count, with the sign of their cosine: for antipodal pairs, the absolute
    value would reward a dictionary of duplicates. 0 if nothing is alive, NaN if nothing is represented.
    """
    latents, features = np.flatnonzero(alive), np.flatnonzero(represented)
    if not len(features):
        return np.nan, np.nan, np.nan
    if not len(latents):
        return 0.0, 0.0, 0.0
    candidates = cosines[latents[:, None], features]
    rows, columns = linear_sum_assignment(candidates, maximize=True)
    j, i = latents[rows], features[columns]
    f1 = 2 * together[j, i] / np.maximum(latent_counts[j] + feature_counts[i], 1)
    count = len(features)
    return candidates[rows, columns].sum() / count, candidates.max(axis=0).sum() / count, f1.sum() / count


@cache
def mcc_chance(n_hidden: int, n_alive: int, n_represented: int) -> float:
    """The mean MCC of isotropic random directions on both sides, over 1,000 draws from a fixed stream.

    It is high in few dimensions: 0.56 for 10 against 10 directions in 5. NaN or 0 where the MCC itself is.
    """
    if n_represented == 0:
        return np.nan
    if n_alive == 0:
        return 0.0
    decoders, features = direction_draws(n_hidden, n_alive, n_represented, draws=1000)
    cosines = decoders @ np.swapaxes(features, 1, 2)  # (draws, alive, represented)
    rows, columns = np.moveaxis(np.array([linear_sum_assignment(c, maximize=True) for c in cosines]), 1, 0)
    return float(np.take_along_axis(cosines[np.arange(1000)[:, None], rows], columns[..., None], 2).sum() / (1000 * n_represented))


def corrected_mcc(mcc: _Float, chance: _Float) -> _Float:
    """(mcc − chance)/(1 − chance): 0 at chance, 1 at perfect recovery."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (mcc - chance) / (1 - chance)
