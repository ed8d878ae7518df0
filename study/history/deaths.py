"""When the outputs of an autoencoder and the latents of an SAE died: a function of all the states of one training.

A unit *died at* t if it is 0 on every evaluation sample after t updates and after every later update. 0 means that it was dead
from the start, None that it is alive at the end. The states are evaluated from the last one backwards, in blocks, until every
unit has been seen alive. Activations are summed in the order of the metrics, so that the last state agrees with the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study.data import importances
from study.engines.compiled import CompiledEngine
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.history.history import History
from study.metrics.moments import autoencoder_moments
from study.variants.registry import variant_of

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FIRST_BLOCK, LARGEST_BLOCK = 8, 1024
"""States that are evaluated together. Most units are alive at the end, so the first block is small."""
VALUES_AT_ONCE = 2_000_000
"""Pre-activations that are in memory together."""


def outputs_died_at(history: History, protocol: Protocol) -> list[int | None]:
    """When each output of the autoencoder died, N entries."""
    models = history.autoencoders
    n_features, states = models.b.shape
    of_features = importances(n_features, protocol)

    def alive(block: slice, _: NDArray[np.int64]) -> _Bool:
        W, b = models.W[..., block].astype(np.float64), models.b[:, block].astype(np.float64)
        finite = np.isfinite(np.concatenate([W.reshape(-1, W.shape[2]), b])).all(axis=0, keepdims=True)
        sane = Autoencoders(np.where(finite, W, 0), np.where(finite, b, 0))
        x = np.broadcast_to(history.x, (b.shape[1], *history.x.shape))
        return (autoencoder_moments(sane, x, of_features).fires > 0) | ~finite.T  # NaN is not 0

    return _died_at(alive, states, n_features)


def latents_died_at(history: History, protocol: Protocol) -> list[int | None]:
    """When each latent of the SAE died, L entries; none without an SAE."""
    saes = history.saes
    if saes is None:
        return []
    n_latents, states = saes.W_dec.shape[0], saes.W_dec.shape[2]
    compete = variant_of(protocol).latents_compete
    h = CompiledEngine().hidden(history.W_read[..., None].astype(np.float64), history.x[None])[0]  # (S, H)

    def alive(block: slice, wanted: NDArray[np.int64]) -> _Bool:
        latents = np.arange(n_latents) if compete else wanted
        own = _of_latents(saes, latents, block, protocol)
        seen = np.zeros((own.W_dec.shape[2], n_latents), np.bool_)
        seen[:, latents] = _in_distinct_states(own, h, protocol)
        return seen

    return _died_at(alive, states, n_latents)


def _died_at(alive: Callable[[slice, NDArray[np.int64]], _Bool], states: int, units: int) -> list[int | None]:
    """One after the last state in which each unit is alive; `alive` gives (states, units) of a block for the wanted units."""
    last, stop, size = np.full(units, -1), states, FIRST_BLOCK
    while stop > 0 and (last < 0).any():
        start = max(0, stop - size)
        seen = alive(slice(start, stop), np.flatnonzero(last < 0))
        latest = stop - 1 - np.argmax(seen[::-1], axis=0)
        last = np.where((last < 0) & seen.any(axis=0), latest, last)
        stop, size = start, min(2 * size, LARGEST_BLOCK)
    return [None if at == states - 1 else int(at) + 1 for at in last]


def _of_latents(
    saes: SparseAutoencoders, latents: NDArray[np.int64], states: slice | NDArray[np.int64], protocol: Protocol
) -> SparseAutoencoders:
    """Some latents in some states, in float64."""
    chosen = {}
    for parameter in variant_of(protocol).parameters:
        values = saes.parameters[parameter.name][..., states]
        chosen[parameter.name] = (values[latents] if parameter.axes.startswith("L") else values).astype(np.float64)
    return SparseAutoencoders(chosen)


def _in_distinct_states(saes: SparseAutoencoders, h: _Float, protocol: Protocol) -> _Bool:
    """Whether each latent fires on any of h (S, H), (T, L). Dead latents do not move, so equal states are evaluated once."""
    ignored = set() if protocol.sae_subtract_decoder_bias else {"b_dec"}
    deciding = [values for name, values in saes.parameters.items() if name not in ignored]
    rows = np.concatenate([part.reshape(-1, part.shape[-1]) for part in deciding])
    new = np.concatenate([[True], (np.diff(rows, axis=1) != 0).any(axis=0)])  # NaN differs from itself, so it is evaluated
    first = np.flatnonzero(new)
    everything = np.arange(len(saes.W_dec))
    pieces = math.ceil(len(first) * len(everything) * len(h) / VALUES_AT_ONCE)
    fires = [_fires(_of_latents(saes, everything, piece, protocol), h, protocol) for piece in np.array_split(first, pieces)]
    return np.concatenate(fires)[np.cumsum(new) - 1]


def _fires(saes: SparseAutoencoders, h: _Float, protocol: Protocol) -> _Bool:
    """Whether f_j is not 0 on any of h (S, H), in each of T states: (T, L)."""
    with np.errstate(all="ignore"):
        f = variant_of(protocol).forward(saes.parameters, h[:, :, None], protocol).f  # (S, H, 1) -> (S, L, T)
    return np.asarray((f != 0).any(axis=0).T)
