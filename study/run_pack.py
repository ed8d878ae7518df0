"""From a pack to its rows: the whole study without Ray and without disk."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from study import data
from study.engines.compiled import CompiledEngine
from study.engines.contract import Autoencoders, Engine, Minibatches, SparseAutoencoders
from study.engines.l1_controller import SETTLED, L1Controller, starting_l1
from study.engines.registry import engine_named
from study.engines.schedules import sae_learning_rates
from study.kernels.simd import lanes_of
from study.metrics.autoencoder import ae_metrics
from study.metrics.contract import Trained, registered_metrics
from study.metrics.sae import sae_metrics
from study.packs import Pack, autoencoder_keys
from study.theory import death_line
from study.verdict_rows import rows_table

_Array = NDArray[Any]
_Float = NDArray[np.float64]

CHUNK_BYTES = 256 * 2**20
"""Samples and minibatches that are held in memory at once."""
GROUP = lanes_of("float32")
"""Autoencoders that a chunk which memory cuts short holds a multiple of: fewer would leave lanes empty."""


def run_pack(pack: Pack, *, study: str = "", trial_id: str = "", orders: NDArray[np.int64] | None = None) -> pa.Table:
    """Train and judge every replicate of the pack; one row each, in the pack's order, in `row_schema`.

    A row's science depends on the replicate, protocol, dtype and engine family alone. `study` and `trial_id` are
    copied into the rows. orders (R, S): a permutation of each replicate's training samples, for interventions; rows and
    ids do not tell it.
    """
    began = time.perf_counter()
    # One thread: a worker a core, and sums whose order does not depend on the machine's number of cores.
    with threadpool_limits(1, "blas"):
        chunks = [_run_chunk(chunk) for chunk in _chunks(pack, orders)]
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    order = _back_in_order(pack, orders)
    columns = {name: values[order] for name, values in columns.items()}
    return rows_table(pack, columns, time.perf_counter() - began, study, trial_id)


def train_autoencoders(pack: Pack) -> Autoencoders:
    """The trained autoencoder of each replicate, in the pack's order: W (H, N, R), b (N, R)."""
    W, b = [], []
    with threadpool_limits(1, "blas"):
        for chunk in _chunks(pack):
            autoencoders, _ = _train_chunk_autoencoders(chunk)
            W.append(autoencoders.W[..., chunk.ae_of_sae])
            b.append(autoencoders.b[..., chunk.ae_of_sae])
    order = _back_in_order(pack)
    return Autoencoders(np.concatenate(W, axis=-1)[..., order], np.concatenate(b, axis=-1)[..., order])


@dataclass(frozen=True, eq=False)
class History:
    """One replicate's weights before the first step and after each, T + 1 states on the last axis, and what it is judged on."""

    autoencoders: Autoencoders
    """W (H, N, T + 1), b (N, T + 1)."""
    saes: SparseAutoencoders | None
    W_read: _Array
    """(H, N): the SAE reads h = W_read x."""
    x: _Float
    """Evaluation samples, (S, N)."""


def training_history(pack: Pack) -> History:
    """All states of a pack of one replicate, trained by the compiled engine to the bits behind its row.

    Held in memory: (T + 1) times the parameters, 37 MB for a 10-5-10 under `dissertation`.
    """
    states: list[_Array] = []
    engine = CompiledEngine(watch=lambda parameters: states.append(parameters[:, 0].copy()))

    def seen(shapes: list[tuple[int, ...]]) -> list[_Array]:
        """The states since the last call, cut into parameters of these shapes, (*shape, T + 1) each."""
        stacked = np.stack(states, axis=-1)
        states.clear()
        parts = np.split(stacked, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return [part.reshape(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]

    with threadpool_limits(1, "blas"):
        (chunk,) = _chunks(pack)
        chunk = dataclasses.replace(chunk, engine=engine)
        autoencoders, samples = _train_chunk_autoencoders(chunk)
        of_ae = Autoencoders(*seen([autoencoders.W.shape[:-1], autoencoders.b.shape[:-1]]))
        readers, of_sae = _read_by_saes(chunk, autoencoders, samples), None
        if pack.protocol.has_sae:
            saes, _ = _train_chunk_saes(chunk, readers, samples)
            of_sae = SparseAutoencoders(*seen([getattr(saes, field.name).shape[:-1] for field in dataclasses.fields(saes)]))
        x = samples if pack.protocol.eval_samples is None else _features(chunk, fresh=True)
    return History(of_ae, of_sae, readers.W[..., 0], x[0])


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Replicates that are in memory together: A autoencoders and the R SAEs on them."""

    pack: Pack
    engine: Engine
    autoencoders: Pack
    """One replicate for each of the A autoencoders."""
    ae_of_sae: NDArray[np.int64]
    """The autoencoder of each SAE, (R,)."""
    orders: NDArray[np.int64] | None = None
    """The order in which each autoencoder and its SAE see the samples, (A, S); None: as drawn."""


def _chunks(pack: Pack, orders: NDArray[np.int64] | None = None) -> Iterator[_Chunk]:
    engine = engine_named(pack.engine)
    for positions, ae_of_sae in _chunk_positions(pack, orders):
        chunk = pack.take(positions)
        first = np.unique(ae_of_sae, return_index=True)[1]
        yield _Chunk(chunk, engine, chunk.take(first), ae_of_sae, None if orders is None else orders[positions[first]])


def _back_in_order(pack: Pack, orders: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """From the replicates of one chunk after the other to the pack's order."""
    return np.argsort(np.concatenate([positions for positions, _ in _chunk_positions(pack, orders)]), kind="stable")


def _chunk_positions(pack: Pack, orders: NDArray[np.int64] | None = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut the pack between autoencoders: the positions of each chunk's replicates, and their AE within the chunk.

    With orders of their own no two replicates share an autoencoder.
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
    """The autoencoder before which a chunk that begins with the `first` ends: at the engine's lanes, or for want of memory.

    ends: how many replicates the autoencoders up to each have in the chunk. Whole SIMD groups if there is memory for one.
    """
    protocol, architecture = pack.protocol, pack.replicates.architecture
    of_ae = 8 * architecture.n_features * (protocol.samples + (protocol.eval_samples or 0))
    of_sae = 64 * architecture.n_latents * (architecture.n_hidden + architecture.n_features)
    of_sae += 16 * architecture.n_hidden * protocol.samples  # the reference engine's copies of its activations
    if protocol.sample_order == "with_replacement":  # indexes of four bytes, drawn as eight
        of_ae += 4 * protocol.ae_training_steps * protocol.ae_batch_size
        of_sae += 4 * protocol.sae_training_steps * protocol.sae_batch_size
    most = min(first + engine_named(pack.engine).lanes, len(ends))
    held = of_ae * np.arange(1, most - first + 1) + of_sae * ends[first:most]
    fitting = max(1, int(np.searchsorted(held, CHUNK_BYTES, side="right")))
    return first + (fitting // GROUP * GROUP if GROUP < fitting < most - first else fitting)


def _run_chunk(chunk: _Chunk) -> dict[str, _Array]:
    """Every measured column of the chunk's replicates, (R,) each."""
    autoencoders, samples = _train_chunk_autoencoders(chunk)
    readers = _read_by_saes(chunk, autoencoders, samples)
    saes, controller = _train_chunk_saes(chunk, readers, samples) if chunk.pack.protocol.has_sae else (None, None)
    x = samples if chunk.pack.protocol.eval_samples is None else _features(chunk, fresh=True)
    return _measure(chunk, autoencoders, readers, saes, controller, x)


def _features(chunk: _Chunk, fresh: bool = False) -> _Float:
    """The samples of each autoencoder, (A, S, N)."""
    replicates = chunk.autoencoders.replicates
    n_features = replicates.architecture.n_features
    x = data.draw_features(n_features, replicates.data_seed, replicates.sparsity, chunk.pack.protocol, fresh)
    return x if fresh or chunk.orders is None else np.take_along_axis(x, chunk.orders[:, :, None], axis=1)


def _train_chunk_autoencoders(chunk: _Chunk) -> tuple[Autoencoders, _Float]:
    """The A trained autoencoders and their training samples (A, S, N), these in float64."""
    replicates, protocol, dtype = chunk.autoencoders.replicates, chunk.pack.protocol, np.dtype(chunk.pack.dtype)
    architecture = replicates.architecture
    samples = _features(chunk)
    W = np.stack([data.ae_initial_weights(architecture, int(seed), protocol) for seed in replicates.ae_seed], axis=-1)
    start = Autoencoders(W.astype(dtype), np.zeros((architecture.n_features, len(replicates)), dtype))
    batches = _batches(replicates.ae_seed, data.AE_MINIBATCHES, protocol.ae_training_steps, protocol.ae_batch_size, chunk)
    importances = data.importances(architecture.n_features, protocol)
    return chunk.engine.train_autoencoders(start, samples, batches, importances, protocol), samples


def _read_by_saes(chunk: _Chunk, autoencoders: Autoencoders, samples: _Float) -> Autoencoders:
    """The autoencoders whose W gives the SAEs their h: themselves, or W · √H / mean ‖W x‖ where the protocol rescales.

    Where every h is 0 there is nothing to scale.
    """
    if chunk.pack.protocol.sae_input == "as_is":
        return autoencoders
    h = chunk.engine.hidden(autoencoders.W, samples).astype(np.float64)  # (A, S, H)
    norms = np.linalg.norm(h, axis=2).mean(axis=1)
    scale = np.divide(np.sqrt(h.shape[2]), norms, out=np.ones_like(norms), where=norms != 0)
    return dataclasses.replace(autoencoders, W=(autoencoders.W * scale).astype(autoencoders.W.dtype))


def _train_chunk_saes(chunk: _Chunk, autoencoders: Autoencoders, samples: _Float) -> tuple[SparseAutoencoders, L1Controller | None]:
    """The R trained SAEs on the activations of the A autoencoders for their training samples, and what steered their l1."""
    replicates, protocol, dtype = chunk.pack.replicates, chunk.pack.protocol, np.dtype(chunk.pack.dtype)
    architecture = replicates.architecture
    W_enc, W_dec = zip(*(data.sae_initial_weights(architecture, int(seed), protocol) for seed in replicates.sae_seed))
    b_dec = np.zeros((architecture.n_hidden, len(replicates)), dtype)
    if protocol.sae_decoder_bias_init == "mean":
        mean_x = samples.mean(axis=1, keepdims=True)  # (A, 1, N); the mean of h is W times it
        b_dec = chunk.engine.hidden(autoencoders.W, mean_x)[chunk.ae_of_sae, 0].T.copy()
    start = SparseAutoencoders(
        W_enc=np.stack(W_enc, axis=-1).astype(dtype),
        b_enc=np.zeros((architecture.n_latents, len(replicates)), dtype),
        W_dec=np.stack([W.T for W in W_dec], axis=-1).astype(dtype),
        b_dec=b_dec,
        threshold=np.full((architecture.n_latents, len(replicates)), data.sae_initial_threshold(protocol), dtype),
    )
    batches = _batches(replicates.sae_seed, data.SAE_MINIBATCHES, protocol.sae_training_steps, protocol.sae_batch_size, chunk)
    activations = chunk.engine.hidden(autoencoders.W, samples)
    controller = _controller(chunk, autoencoders)
    return chunk.engine.train_saes(start, activations, chunk.ae_of_sae, batches, replicates.l1, protocol, controller), controller


def _controller(chunk: _Chunk, autoencoders: Autoencoders) -> L1Controller | None:
    """What steers the R l1 to the protocol's target; None without one."""
    replicates, protocol = chunk.pack.replicates, chunk.pack.protocol
    if protocol.sae_target_l0 is None:
        return None
    squares = sum(row**2 for row in autoencoders.W.astype(np.float64))  # (N, A), added in order
    norms = np.sqrt(squares)[:, chunk.ae_of_sae].T  # (R, N)
    l1 = starting_l1(replicates.l1, norms, replicates.sparsity, protocol.sae_target_l0)
    return L1Controller.of(l1, death_line(norms.max(axis=1)), sae_learning_rates(protocol), protocol, chunk.pack.dtype)


def _batches(seeds: NDArray[np.int64], purpose: int, steps: int, batch_size: int, chunk: _Chunk) -> Minibatches | None:
    """Minibatches of each lane; None for stored order."""
    protocol = chunk.pack.protocol
    distinct, which = np.unique(seeds, return_inverse=True)
    drawn = [data.minibatches(int(seed), purpose, steps, batch_size, protocol) for seed in distinct]
    present = [batches for batches in drawn if batches is not None]
    return Minibatches(np.stack(present), which) if present else None


def _measure(
    chunk: _Chunk,
    autoencoders: Autoencoders,
    readers: Autoencoders,
    saes: SparseAutoencoders | None,
    controller: L1Controller | None,
    x: _Float,
) -> dict[str, _Array]:
    """Metrics in float64 from the trained weights; the SAEs read W x of the `readers`; evaluation samples x (A, S, N)."""
    protocol, replicates = chunk.pack.protocol, chunk.pack.replicates
    importances = data.importances(replicates.architecture.n_features, protocol)
    of_ae = ae_metrics(autoencoders, x, importances, chunk.autoencoders.replicates.sparsity, protocol)
    l1 = controller.state[SETTLED].astype(np.float64) if controller else replicates.l1
    if saes is None:
        of_sae: dict[str, _Array] = {}
    else:
        of_sae = sae_metrics(saes, autoencoders.W, x, chunk.ae_of_sae, l1, protocol, readers.W)
    if controller:
        alive = replicates.architecture.n_latents - of_sae["dead_latents"]
        of_sae |= {"l1_final": l1, "l0_outcome": controller.outcomes(of_sae["l0"], alive, protocol)}
    found = {name: values[chunk.ae_of_sae] for name, values in of_ae.items()} | of_sae
    return found | registered_metrics(Trained(replicates, protocol, autoencoders, readers, saes, chunk.ae_of_sae, x, found))
