"""Chunks: the parts of a pack that are in memory at one time, each taken from its draws to its trained models.

`data.py` draws, the engines (`engines/`) train, and `run_pack.py` measures the trained models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study import data
from study.engines.contract import Autoencoders, Engine, Minibatches, SaeTask, SparseAutoencoders
from study.engines.l1_controller import L1Controller, starting_l1
from study.engines.schedules import sae_learning_rates
from study.kernels.simd import lanes_of
from study.packs import Pack, autoencoder_keys
from study.theory import death_line
from study.variants.registry import variant_of

_Array = NDArray[Any]
_Float = NDArray[np.float64]

CHUNK_BYTES = 256 * 2**20
"""Memory limit for the samples and minibatches of one chunk."""
GROUP = lanes_of("float32")
"""Replicates in a SIMD group. A chunk that memory limits holds whole groups of autoencoders, so that no lane is empty."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Replicates that are in memory together: A autoencoders and the R SAEs that are trained on them."""

    pack: Pack
    engine: Engine
    autoencoders: Pack
    """One replicate for each of the A autoencoders."""
    ae_of_sae: NDArray[np.int64]
    """The autoencoder of each SAE, (R,)."""
    orders: NDArray[np.int64] | None = None
    """The order in which each autoencoder and its SAE see the samples, (A, S); None: as drawn."""

    def features(self) -> _Float:
        """The training samples of each autoencoder, (A, S, N)."""
        x = self._drawn(fresh=False)
        return x if self.orders is None else np.take_along_axis(x, self.orders[:, :, None], axis=1)

    def evaluation_samples(self, training_samples: _Float) -> _Float:
        """The samples for the metrics, (A, S, N): fresh ones, or the training samples if the protocol asks for no fresh ones."""
        return training_samples if self.pack.protocol.eval_samples is None else self._drawn(fresh=True)

    def _drawn(self, fresh: bool) -> _Float:
        replicates = self.autoencoders.replicates
        n_features = replicates.architecture.n_features
        return data.draw_features(n_features, replicates.data_seed, replicates.sparsity, self.pack.protocol, fresh)

    def train_autoencoders(self, samples: _Float) -> Autoencoders:
        """The A trained autoencoders, on their training samples (A, S, N)."""
        replicates, protocol, dtype = self.autoencoders.replicates, self.pack.protocol, np.dtype(self.pack.dtype)
        architecture = replicates.architecture
        W = np.stack([data.ae_initial_weights(architecture, int(seed), protocol) for seed in replicates.ae_seed], axis=-1)
        start = Autoencoders(W.astype(dtype), np.zeros((architecture.n_features, len(replicates)), dtype))
        steps, batch_size = protocol.ae_training_steps, protocol.ae_batch_size
        batches = self._batches(replicates.ae_seed, data.AE_MINIBATCHES, steps, batch_size)
        importances = data.importances(architecture.n_features, protocol)
        return self.engine.train_autoencoders(start, samples, batches, importances, protocol)

    def readers(self, autoencoders: Autoencoders, samples: _Float) -> Autoencoders:
        """The autoencoders whose W gives the SAEs their h: as they are, or with W · √H / mean ‖W x‖ if the protocol rescales.

        If every h is 0, W is not scaled.
        """
        if self.pack.protocol.sae_input == "as_is":
            return autoencoders
        h = self.engine.hidden(autoencoders.W, samples).astype(np.float64)  # (A, S, H)
        norms = np.linalg.norm(h, axis=2).mean(axis=1)
        scale = np.divide(np.sqrt(h.shape[2]), norms, out=np.ones_like(norms), where=norms != 0)
        return dataclasses.replace(autoencoders, W=(autoencoders.W * scale).astype(autoencoders.W.dtype))

    def train_saes(self, readers: Autoencoders, samples: _Float) -> tuple[SparseAutoencoders, L1Controller | None]:
        """The R trained SAEs on h = W x of the readers' W and the training samples, and what steered their l1."""
        replicates, protocol = self.pack.replicates, self.pack.protocol
        bias = self._decoder_bias(readers, samples)
        start = variant_of(protocol).start(replicates.architecture, replicates.sae_seed.tolist(), bias, protocol)
        steps, batch_size = protocol.sae_training_steps, protocol.sae_batch_size
        batches = self._batches(replicates.sae_seed, data.SAE_MINIBATCHES, steps, batch_size)
        activations, controller = self.engine.hidden(readers.W, samples), self._controller(readers)
        task = SaeTask(SparseAutoencoders(start), activations, self.ae_of_sae, batches, replicates.l1, protocol, controller)
        return self.engine.train_saes(task), controller

    def _decoder_bias(self, readers: Autoencoders, samples: _Float) -> _Array:
        """The initial b_dec, (H, R)."""
        n_hidden, dtype = self.pack.replicates.architecture.n_hidden, np.dtype(self.pack.dtype)
        if self.pack.protocol.sae_decoder_bias_init == "zero":
            return np.zeros((n_hidden, len(self.pack)), dtype)
        mean_x = samples.mean(axis=1, keepdims=True)  # (A, 1, N); the mean of h is W times it
        return self.engine.hidden(readers.W, mean_x)[self.ae_of_sae, 0].T.copy()

    def _controller(self, readers: Autoencoders) -> L1Controller | None:
        """The controller that steers the l1 of R SAEs to the protocol's target L0; None if it has no target."""
        replicates, protocol = self.pack.replicates, self.pack.protocol
        if protocol.sae_target_l0 is None:
            return None
        squares = sum(row**2 for row in readers.W.astype(np.float64))  # (N, A), added in order
        norms = np.sqrt(squares)[:, self.ae_of_sae].T  # (R, N)
        l1 = starting_l1(replicates.l1, norms, replicates.sparsity, protocol.sae_target_l0)
        return L1Controller.of(l1, death_line(norms.max(axis=1)), sae_learning_rates(protocol), protocol, self.pack.dtype)

    def _batches(self, seeds: NDArray[np.int64], purpose: int, steps: int, batch_size: int) -> Minibatches | None:
        """The minibatches of each lane; None for stored order."""
        distinct, which = np.unique(seeds, return_inverse=True)
        drawn = [data.minibatches(int(seed), purpose, steps, batch_size, self.pack.protocol) for seed in distinct]
        present = [batches for batches in drawn if batches is not None]
        return Minibatches(np.stack(present), which) if present else None


def chunks_of(pack: Pack, orders: NDArray[np.int64] | None = None) -> Iterator[Chunk]:
    """Yield the pack chunk by chunk; orders (R, S): a permutation of each replicate's training samples."""
    engine = pack.known_engine.load()
    for positions, ae_of_sae in _chunk_positions(pack, orders):
        chunk = pack.take(positions)
        first = np.unique(ae_of_sae, return_index=True)[1]
        yield Chunk(chunk, engine, chunk.take(first), ae_of_sae, None if orders is None else orders[positions[first]])


def back_in_order(pack: Pack, orders: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The indexes that put the replicates of all chunks, one chunk after the other, back in the pack's order."""
    return np.argsort(np.concatenate([positions for positions, _ in _chunk_positions(pack, orders)]), kind="stable")


def _chunk_positions(pack: Pack, orders: NDArray[np.int64] | None = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut the pack between autoencoders. Yield the positions of each chunk's replicates, and their AE within the chunk.

    If `orders` is given, no two replicates share an autoencoder.
    """
    which = autoencoder_keys(pack.replicates)[1] if orders is None else np.arange(len(pack))
    by_autoencoder = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which))  # of each autoencoder's replicates among them
    start = first = 0
    while first < len(ends):
        last = _chunk_end(pack, ends - start, first)
        positions = by_autoencoder[start : ends[last - 1]]
        yield positions, which[positions] - first
        start, first = ends[last - 1], last


def _chunk_end(pack: Pack, ends: NDArray[np.int64], first: int) -> int:
    """The end (exclusive) of the chunk that begins with autoencoder `first`: limited by the engine's lanes and by memory.

    ends: for each autoencoder, how many of the chunk's replicates use it or one before it. A chunk cut short by memory
    holds whole SIMD groups if at least one fits.
    """
    protocol, architecture = pack.protocol, pack.replicates.architecture
    of_ae = 8 * architecture.n_features * (protocol.samples + (protocol.eval_samples or 0))
    of_sae = 64 * architecture.n_latents * (architecture.n_hidden + architecture.n_features)
    of_sae += 16 * architecture.n_hidden * protocol.samples  # the reference engine's copies of its activations
    if protocol.sample_order == "with_replacement":  # indexes of four bytes, drawn as eight
        of_ae += 4 * protocol.ae_training_steps * protocol.ae_batch_size
        of_sae += 4 * protocol.sae_training_steps * protocol.sae_batch_size
    most = min(first + pack.known_engine.load().lanes, len(ends))
    held = of_ae * np.arange(1, most - first + 1) + of_sae * ends[first:most]
    fitting = max(1, int(np.searchsorted(held, CHUNK_BYTES, side="right")))
    return first + (fitting // GROUP * GROUP if GROUP < fitting < most - first else fitting)
