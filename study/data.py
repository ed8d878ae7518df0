"""Synthetic sparse features, initial weights and minibatches. This module alone makes random generators.

A replicate's draws depend on its seeds and its architecture alone. The streams are those of the protocol's
`generator`:

* `legacy` restarts NumPy's RandomState(seed) for the data, for the AE's weights and for the SAE's weights, as the source
  study did. The three are therefore not independent.
* `pcg64` gives each purpose a stream of its own.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator, RandomState, SeedSequence
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol

# spawn_key of each stream of the `pcg64` generator.
DATA, EVAL_DATA, SAMPLE_ORDER, AE_WEIGHTS, AE_MINIBATCHES, SAE_WEIGHTS, SAE_MINIBATCHES = range(7)

_Float = NDArray[np.float64]


_of_thread = threading.local()


def _restarted(seed: int) -> RandomState:
    """NumPy's RandomState(seed), valid until the next call: each thread keeps one and reseeds it, because making one costs as
    much as 20,000 draws."""
    if not hasattr(_of_thread, "legacy"):
        _of_thread.legacy = RandomState()
    _of_thread.legacy.seed(seed)
    return _of_thread.legacy


def stream(seed: int, purpose: int) -> Generator:
    """The `pcg64` stream of one purpose: PCG64(SeedSequence(seed, spawn_key=(purpose,)))."""
    return Generator(PCG64(SeedSequence(seed, spawn_key=(purpose,))))


@dataclass(frozen=True, eq=False)
class Draws:
    """The uniform draws behind the features of one seed. All sparsities share them."""

    presence: _Float
    """U, (samples, n_features) in [0, 1): decides whether a feature is active."""
    value: _Float
    """V, (samples, n_features) in [0, 1): the feature's value if it is active."""
    generator: str

    def features(self, sparsity: float, out: _Float | None = None) -> _Float:
        """x (samples, n_features): feature i is 0 with probability S, else uniform on (0, 1). Written to `out` if given.

        Under `legacy`, x is bit-identical to `RandomState.binomial(1, 1 - S)` times `uniform(0, 1)`: NumPy's inversion
        compares one draw with exp(log(1 - p)), taking 1 - p for p where p > 1/2.
        """
        p = 1 - sparsity
        if self.generator == "pcg64":
            active = self.presence >= sparsity
        elif p <= 0.5:
            active = self.presence > math.exp(math.log(1 - p))
        else:
            active = self.presence <= math.exp(math.log(1 - (1 - p)))
        return np.multiply(self.value, active, out=out)


def draw_data(n_features: int, seed: int, protocol: Protocol) -> Draws:
    """The training draws of one data seed."""
    return _draw(protocol.samples, n_features, seed, protocol, DATA)


def draw_eval_data(n_features: int, seed: int, protocol: Protocol) -> Draws | None:
    """The fresh draws on which metrics are computed; None if the protocol computes them on the training samples."""
    if protocol.eval_samples is None:
        return None
    return _draw(protocol.eval_samples, n_features, seed, protocol, EVAL_DATA)


def draw_features(n_features: int, seeds: NDArray[np.int64], sparsities: _Float, protocol: Protocol, fresh: bool = False) -> _Float:
    """x (A, S, N) for A data seeds and sparsities: the training samples, or the fresh ones on which metrics are computed."""
    draw, samples = (draw_eval_data, protocol.eval_samples) if fresh else (draw_data, protocol.samples)
    x = np.empty((len(seeds), samples or 0, n_features))
    for seed in np.unique(seeds):
        draws = draw(n_features, int(seed), protocol)
        assert draws is not None, "fresh samples are drawn only if the protocol has them"
        for a in np.flatnonzero(seeds == seed):
            draws.features(float(sparsities[a]), out=x[a])
    return x


def _draw(samples: int, n_features: int, seed: int, protocol: Protocol, purpose: int) -> Draws:
    shape = (samples, n_features)
    source = _restarted(seed) if protocol.generator == "legacy" else stream(seed, purpose)
    presence = source.random(shape)
    return Draws(presence, source.random(shape), protocol.generator)


def sample_order(seed: int, samples: int) -> NDArray[np.int64]:
    """A permutation of the training samples, (samples,), for the intervention `data_order`. The same under every generator."""
    return stream(seed, SAMPLE_ORDER).permutation(samples)


def importances(n_features: int, protocol: Protocol) -> _Float:
    """I_i = importance_decay**i, (n_features,), i from 0."""
    return np.array([protocol.importance_decay**i for i in range(n_features)])


def ae_initial_weights(architecture: Architecture, seed: int, protocol: Protocol) -> _Float:
    """W (n_hidden, n_features) ~ ae_init_scale · normal(0, ae_init_std). The bias b is not drawn: it starts at 0."""
    n_features, n_hidden = architecture.n_features, architecture.n_hidden
    std = np.sqrt(2 / (n_features + n_hidden)) if protocol.ae_init_std == "xavier" else protocol.ae_init_std
    source = _restarted(seed) if protocol.generator == "legacy" else stream(seed, AE_WEIGHTS)
    return protocol.ae_init_scale * source.normal(0.0, std, (n_hidden, n_features))


def sae_initial_weights(architecture: Architecture, seed: int, protocol: Protocol) -> tuple[_Float, _Float]:
    """W_enc (n_latents, n_hidden) and W_dec (n_hidden, n_latents). No bias is drawn.

    `legacy` draws W_enc, then W_dec, from one stream; `pcg64` draws W_dec first, so that W_dec does not depend on whether
    the encoder starts as its transpose.
    """
    enc, dec = (architecture.n_latents, architecture.n_hidden), (architecture.n_hidden, architecture.n_latents)
    std = protocol.sae_init_std
    if protocol.generator == "legacy":
        legacy = _restarted(seed)
        W_enc = legacy.normal(0.0, std, enc)
        W_dec = legacy.normal(0.0, std, dec)
    else:
        source = stream(seed, SAE_WEIGHTS)
        W_dec = source.normal(0.0, std, dec)
        W_enc = source.normal(0.0, std, enc)
    if protocol.sae_decoder_init == "unit_norm":
        W_dec = W_dec / np.linalg.norm(W_dec, axis=0)
    if protocol.sae_encoder_init == "decoder_transpose":
        W_enc = W_dec.T.copy()
    if protocol.sae_decoder_norm == "unit":  # training keeps the columns at norm 1, so only the encoder is scaled
        return protocol.sae_init_scale * W_enc, W_dec
    return protocol.sae_init_scale * W_enc, protocol.sae_init_scale * W_dec


def minibatches(seed: int, purpose: int, steps: int, batch_size: int, protocol: Protocol) -> NDArray[np.int32] | None:
    """Which samples each step sees, (steps, batch_size); None if they are read in stored order."""
    if protocol.sample_order == "stored":
        return None
    drawn = stream(seed, purpose).integers(0, protocol.samples, (steps, batch_size))
    return drawn.astype(np.int32)


def direction_draws(n_hidden: int, *counts: int, draws: int) -> tuple[_Float, ...]:
    """Isotropic unit vectors, (draws, count, n_hidden) for each count, from a stream seeded with these numbers."""
    source = Generator(PCG64(SeedSequence((n_hidden, *counts))))
    vectors = [source.normal(size=(draws, count, n_hidden)) for count in counts]
    return tuple(v / np.linalg.norm(v, axis=-1, keepdims=True) for v in vectors)


def domain_generator() -> Generator:
    """The stream from which Ray Tune's domains are drawn: always the same, so that the same call gives the same study."""
    return Generator(PCG64(SeedSequence(0)))
