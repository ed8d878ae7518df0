"""What an engine must offer, and the arrays that pass through it. `registry.py` lists the engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    """The parameters of R SAEs of one variant. The variant defines them and how f follows; ĥ = W_dec f + b_dec for all variants.

    W_dec is stored by columns, (L, H, R): W_dec[j] is the direction that latent j writes; b_dec (H, R).
    """

    parameters: Mapping[str, _Array]
    """By name, in the variant's order, replicates on the last axis."""

    @property
    def W_dec(self) -> _Array:
        return self.parameters["W_dec"]

    @property
    def b_dec(self) -> _Array:
        return self.parameters["b_dec"]

    @property
    def rows(self) -> dict[str, int]:
        """How many numbers each parameter holds."""
        return {name: math.prod(values.shape[:-1]) for name, values in self.parameters.items()}

    def each(self, change: Callable[[_Array], _Array]) -> SparseAutoencoders:
        """The same SAEs with `change` applied to every parameter."""
        return SparseAutoencoders({name: change(values) for name, values in self.parameters.items()})

    def stacked(self) -> _Array:
        """All parameters concatenated, (P, R): a copy."""
        return np.concatenate([values.reshape(-1, values.shape[-1]) for values in self.parameters.values()])

    def with_values(self, stacked: _Array) -> SparseAutoencoders:
        """SAEs with the same parameters and the values of `stacked` (P, R'), which may have another number of lanes: views."""
        parts = np.split(stacked, np.cumsum(list(self.rows.values()))[:-1])
        named = zip(self.parameters.items(), parts)
        return SparseAutoencoders({name: part.reshape(*old.shape[:-1], part.shape[-1]) for (name, old), part in named})


StepWatch = Callable[[_Array], None]
"""Called with the parameters of a group, (P, lanes), before the first step and after every step. Each step overwrites them."""


@dataclass(frozen=True, eq=False)
class Minibatches:
    """Which samples each step sees. Lanes of the same seed share their draws."""

    drawn: NDArray[np.int32]
    """(D, T, B): indexes of samples, for D seeds, T steps and minibatches of B."""
    of_lane: NDArray[np.int64]
    """(R,): which of the D seeds' draws each lane uses."""


@dataclass(frozen=True, eq=False)
class SaeTask:
    """What R SAEs are trained from, on and under."""

    start: SparseAutoencoders
    """(…, R), in the training dtype."""
    activations: _Array
    """h (A, S, H) of the A autoencoders."""
    ae_of_sae: NDArray[np.int64]
    """The autoencoder whose h each SAE sees, (R,)."""
    batches: Minibatches | None
    """None for stored order."""
    l1: _Array
    """(R,). With a controller, each step uses the controller's l1 instead."""
    protocol: Protocol
    controller: L1Controller | None = None
    """After each step it gets the minibatch's mean of Σ_j [f_j > 0]."""

    @property
    def cast_l1(self) -> _Array:
        """l1 in the training dtype. One that is too large for float32 becomes inf, and the replicate diverges."""
        with np.errstate(over="ignore"):
            return self.l1.astype(self.start.W_dec.dtype)


class Engine(Interface):
    """One way to run the training procedure, which `reference.py` defines."""

    lanes: int
    """The most autoencoders that are trained together, with all SAEs on them."""

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """Roughly how long training these many models takes on one core: for planning."""
        ...

    def hidden(self, W: _Array, samples: _Array) -> _Array:
        """h = W x, (A, S, H), in the dtype of W (H, N, A); the samples (A, S, N) are cast to it."""
        ...

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, importances: _Array, protocol: Protocol
    ) -> Autoencoders: ...

    def train_saes(self, task: SaeTask) -> SparseAutoencoders: ...
