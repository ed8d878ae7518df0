"""From a pack to its rows: the whole study without Ray and without disk.

`chunks.py` draws and trains, `metrics/` measures, `verdict_rows.py` judges and builds the rows.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from study.chunks import Chunk, back_in_order, chunks_of
from study.data import importances
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.engines.l1_controller import SETTLED, L1Controller
from study.metrics.autoencoder import ae_metrics
from study.metrics.contract import Trained, registered_metrics
from study.metrics.sae import sae_metrics
from study.packs import Pack
from study.verdict_rows import rows_table

_Array = NDArray[Any]
_Float = NDArray[np.float64]


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def run_pack(pack: Pack, *, study: str = "", trial_id: str = "", orders: NDArray[np.int64] | None = None) -> pa.Table:
    """Train and judge every replicate of the pack; one row per replicate, in the pack's order, in `row_schema`.

    The science columns of a row depend on the replicate, protocol, dtype and engine family alone. `study` and `trial_id` are
    copied into the rows. orders (R, S): a permutation of each replicate's training samples, for interventions; neither the
    rows nor their ids record it.
    """
    began = time.perf_counter()
    # One thread: there is one worker per core, and the order of sums must not depend on the machine's number of cores.
    with threadpool_limits(1, "blas"):
        chunks = [_run_chunk(chunk) for chunk in chunks_of(pack, orders)]
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    order = back_in_order(pack, orders)
    columns = {name: values[order] for name, values in columns.items()}
    return rows_table(pack, columns, time.perf_counter() - began, study, trial_id)


def train_autoencoders(pack: Pack) -> Autoencoders:
    """The trained autoencoder of each replicate, in the pack's order: W (H, N, R), b (N, R)."""
    W, b = [], []
    with threadpool_limits(1, "blas"):
        for chunk in chunks_of(pack):
            autoencoders = chunk.train_autoencoders(chunk.features())
            W.append(autoencoders.W[..., chunk.ae_of_sae])
            b.append(autoencoders.b[..., chunk.ae_of_sae])
    order = back_in_order(pack)
    return Autoencoders(np.concatenate(W, axis=-1)[..., order], np.concatenate(b, axis=-1)[..., order])


def _run_chunk(chunk: Chunk) -> dict[str, _Array]:
    """Train the chunk and return every measured column, (R,) each."""
    samples = chunk.features()
    autoencoders = chunk.train_autoencoders(samples)
    readers = chunk.readers(autoencoders, samples)
    saes, controller = chunk.train_saes(readers, samples) if chunk.pack.protocol.has_sae else (None, None)
    return _measure(chunk, autoencoders, readers, saes, controller, chunk.evaluation_samples(samples))


def _measure(
    chunk: Chunk,
    autoencoders: Autoencoders,
    readers: Autoencoders,
    saes: SparseAutoencoders | None,
    controller: L1Controller | None,
    x: _Float,
) -> dict[str, _Array]:
    """Metrics in float64 from the trained weights. The SAEs read h = W x with the W of `readers`; x (A, S, N) is for evaluation."""
    protocol, replicates = chunk.pack.protocol, chunk.pack.replicates
    of_features = importances(replicates.architecture.n_features, protocol)
    of_ae = ae_metrics(autoencoders, x, of_features, chunk.autoencoders.replicates.sparsity, protocol)
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
