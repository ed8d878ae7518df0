"""What an engine must offer, and the arrays that pass through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol
from study.engines.l1_controller import L1Controller

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Autoencoders:
    """x̂ = ReLU(Wᵀ W x + b) for R replicates: W (H, N, R), b (N, R)."""

    W: _Array
    b: _Array


@dataclass(frozen=True, eq=False)
class SparseAutoencoders:
    """f = σ(W_enc h + b_enc), ĥ = W_dec f + b_dec: W_enc (L, H, R), b_enc (L, R), b_dec (H, R); σ is the protocol's variant.

    W_dec is held by columns, (L, H, R): W_dec[j] is the direction that latent j writes.
    """

    W_enc: _Array
    b_enc: _Array
    W_dec: _Array
    b_dec: _Array
    threshold: _Array
    """Of `jumprelu`, (L, R); 0 for the other variants, which do not train it."""


@dataclass(frozen=True, eq=False)
class Minibatches:
    """Which samples each step sees; lanes of the same seed share what was drawn."""

    drawn: NDArray[np.int32]
    """(D, T, B): indexes of samples, of D seeds, T steps and minibatches of B."""
    of_lane: NDArray[np.int64]
    """(R,): which of the D each lane takes."""


class Engine(Interface):
    """One procedure of training; `engine_reference.py` is its definition."""

    name: str
    family: str
    lanes: int
    """Autoencoders whose samples are laid out together, with all SAEs on them."""

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """What training so many takes on one core, roughly: for planning."""
        ...

    def hidden(self, W: _Array, samples: _Array) -> _Array:
        """h = W x in the dtype of W (H, N, A), (A, S, H); the samples (A, S, N) are cast to it."""
        ...

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, weights: _Array, protocol: Protocol
    ) -> Autoencoders: ...

    def train_saes(
        self,
        start: SparseAutoencoders,
        activations: _Array,
        ae_of_sae: NDArray[np.int64],
        batches: Minibatches | None,
        l1: _Array,
        protocol: Protocol,
        controller: L1Controller | None = None,
    ) -> SparseAutoencoders: ...
