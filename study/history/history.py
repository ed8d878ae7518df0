"""One training, step by step: all states of a replicate's weights. `deaths.py` finds in them when units died."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from study.chunks import chunks_of
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.engines.registry import exact_engine
from study.packs import Pack

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class History:
    """One replicate's weights before the first step and after each step (T + 1 states, last axis), and its evaluation samples."""

    autoencoders: Autoencoders
    """W (H, N, T + 1), b (N, T + 1)."""
    saes: SparseAutoencoders | None
    """(…, T + 1)."""
    W_read: _Array
    """(H, N): the SAE reads h = W_read x."""
    x: NDArray[np.float64]
    """Evaluation samples, (S, N)."""


def training_history(pack: Pack) -> History:
    """All states of a pack of one replicate, trained by an engine of the `exact` family to the same bits as its row.

    Takes memory for (T + 1) times the parameters: 37 MB for a 10-5-10 under `dissertation`.
    """
    states: list[_Array] = []

    def watch(parameters: _Array) -> None:
        states.append(parameters[:, 0].copy())

    def seen() -> _Array:
        """The states since the last call, (P, T + 1)."""
        stacked = np.stack(states, axis=-1)
        states.clear()
        return stacked

    with threadpool_limits(1, "blas"):
        (chunk,) = chunks_of(pack)
        chunk = dataclasses.replace(chunk, engine=exact_engine(pack.protocol).load(watch=watch))
        samples = chunk.features()
        autoencoders = chunk.train_autoencoders(samples)
        weights, bias = np.split(seen(), [autoencoders.W[..., 0].size])
        of_ae = Autoencoders(weights.reshape(*autoencoders.W.shape[:2], -1), bias)
        readers, of_sae = chunk.readers(autoencoders, samples), None
        if pack.protocol.has_sae:
            of_sae = chunk.train_saes(readers, samples)[0].with_values(seen())
        x = chunk.evaluation_samples(samples)
    return History(of_ae, of_sae, readers.W[..., 0], x[0])
