"""How fast engines train: `python -m tests.benchmarks.engines`. Prints the tables of docs/speed.md; asserts nothing.

One thread. Engines take turns, and each figure is the best of several, since the machines that this runs on are noisy: read
ratios within one run. `--without-torch` leaves torch out, whose compilation takes a minute.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from search_spaces import PROTOCOLS, Architecture, Protocol, grid
from study import data, run_pack
from study.engines.compiled import CompiledEngine
from study.engines.contract import Autoencoders, Engine, Minibatches, SaeTask, SparseAutoencoders
from study.engines.reference import ReferenceEngine
from study.kernels import simd
from study.kernels.simd import everywhere, load, square_root, store
from study.packs import Pack
from tests.benchmarks.machine import machine

Array = NDArray[Any]
ARCHITECTURES = ("5-3-5", "10-5-10", "20-10-20")
DTYPES = ("float32", "float64")
DISSERTATION, SOUND = PROTOCOLS["dissertation"], PROTOCOLS["sound"]
AE_STEPS, SAE_STEPS = DISSERTATION.ae_training_steps, DISSERTATION.sae_training_steps


# The common yardstick: the source's loop, in its operations: one model, one sample a step, an array operation at a time; the
# loss that it logs takes a forward pass of its own, and Adam makes new arrays


def loop_autoencoder(W: Array, b: Array, x: Array, importances: Array, steps: int) -> float:
    """Adam on one sample after the other; returns the mean logged loss."""
    state, logged = [np.zeros_like(p) for p in (W, b, W, b)], 0.0
    for t in range(1, steps + 1):
        sample = x[(t - 1) % len(x)]
        h = W @ sample
        s = W.T @ h + b
        error = 2 * importances * (np.maximum(0, s) - sample) * (s > 0).astype(np.float32)
        gradients = np.outer(W @ error, sample) + np.outer(h, error), error
        row = sample.reshape(1, -1)
        logged += np.sum(importances * (row - np.maximum(0, (W.T @ (W @ row.T)).T + b)) ** 2)
        W, b = loop_adam((W, b), gradients, state, t, 0.01)
    return logged / steps


def loop_sae(W_enc: Array, b_enc: Array, W_dec: Array, b_dec: Array, h: Array, l1: float, steps: int) -> float:
    """The same for the SAE: W_enc (L, H), W_dec (H, L)."""
    parameters = W_enc, b_enc, W_dec, b_dec
    state, logged = [np.zeros_like(p) for p in parameters * 2], 0.0
    for t in range(1, steps + 1):
        W_enc, b_enc, W_dec, b_dec = parameters
        z = h[(t - 1) % len(h)]
        s = W_enc @ z + b_enc
        f = np.maximum(0, s)
        r = 2 * (W_dec @ f + b_dec - z)
        q = (W_dec.T @ r + l1 * np.sign(f)) * (s > 0).astype(np.float32)
        gradients = np.outer(q, z), q, np.outer(r, f), r
        row = z.reshape(1, -1)
        codes = np.maximum(0, (W_enc @ row.T).T + b_enc)
        logged += np.mean((row - ((W_dec @ codes.T).T + b_dec)) ** 2) + l1 * np.mean(np.abs(codes))
        parameters = loop_adam(parameters, gradients, state, t, 0.001)
    return logged / steps


def loop_adam(
    parameters: tuple[Array, ...], gradients: tuple[Array, ...], state: list[Array], t: int, rate: float
) -> tuple[Array, ...]:
    """The updated parameters; the state holds their first, then their second moments."""
    count, updated = len(parameters), []
    for i, (p, g) in enumerate(zip(parameters, gradients)):
        state[i] = 0.9 * state[i] + (1 - 0.9) * g
        state[count + i] = 0.999 * state[count + i] + (1 - 0.999) * g**2
        m, v = state[i] / (1 - 0.9**t), state[count + i] / (1 - 0.999**t)
        updated.append(p - rate * m / (np.sqrt(v) + 1e-8))
    return tuple(updated)


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


@dataclasses.dataclass
class Models:
    """Models to be trained: R of one architecture on samples of sparsity 0.9."""

    architecture: Architecture
    count: int
    dtype: str

    def __post_init__(self) -> None:
        N, H, L = self.architecture.n_features, self.architecture.n_hidden, self.architecture.n_latents
        source, R = np.random.default_rng(0), self.count
        self.x = np.stack([data.draw_data(N, seed, DISSERTATION).features(0.9) for seed in range(R)])
        self.h = (source.normal(size=(R, 2000, H)) * 0.5).astype(self.dtype)
        self.autoencoders = Autoencoders((source.normal(size=(H, N, R)) * 0.3).astype(self.dtype), np.zeros((N, R), self.dtype))
        encoders, decoders = ((source.normal(size=(L, H, R)) * 0.3).astype(self.dtype) for _ in range(2))
        latents = np.zeros((L, R), self.dtype)
        parts = {"W_enc": encoders, "b_enc": latents, "W_dec": decoders, "b_dec": np.zeros((H, R), self.dtype)}
        self.saes = SparseAutoencoders(parts)

    def step_seconds(self, engine: Engine, protocol: Protocol, repeats: int = 5, l1s: int = 1) -> tuple[float, float]:
        """Seconds per model and step: for an autoencoder, and for an SAE, `l1s` of which share an autoencoder and a seed."""
        importances, l1 = data.importances(self.architecture.n_features, protocol), np.full(self.count, 0.01)
        shared = np.arange(self.count) // l1s
        ae_batches = self.batches(protocol.ae_training_steps, protocol.ae_batch_size, protocol)
        sae_batches = self.batches(protocol.sae_training_steps, protocol.sae_batch_size, protocol)
        if sae_batches is not None:
            sae_batches = dataclasses.replace(sae_batches, of_lane=shared)
        ae = best(lambda: engine.train_autoencoders(self.autoencoders, self.x, ae_batches, importances, protocol), repeats)
        task = SaeTask(self.saes, self.h, shared, sae_batches, l1, protocol)
        sae = best(lambda: engine.train_saes(task), repeats)
        return ae / self.count / protocol.ae_training_steps, sae / self.count / protocol.sae_training_steps

    def batches(self, steps: int, size: int, protocol: Protocol) -> Minibatches | None:
        if protocol.sample_order == "stored":
            return None
        drawn = np.random.default_rng(1).integers(0, self.x.shape[1], (self.count, steps, size), dtype=np.int32)
        return Minibatches(drawn, np.arange(self.count))


def loop_step_seconds(architecture: Architecture, steps: int = 4000) -> tuple[float, float]:
    """Seconds per step of the loop, float64."""
    models = Models(architecture, 1, "float64")
    W, b, saes = models.autoencoders.W[..., 0].copy(), models.autoencoders.b[..., 0].copy(), models.saes
    W_enc, b_enc, W_dec, b_dec = (values[..., 0].copy() for values in saes.parameters.values())
    parts = W_enc, b_enc, W_dec.T.copy(), b_dec
    importances = data.importances(architecture.n_features, DISSERTATION)
    ae = best(lambda: loop_autoencoder(W, b, models.x[0], importances, steps), 3) / steps
    return ae, best(lambda: loop_sae(*parts, models.h[0], 0.01, steps), 3) / steps


@numba.njit(error_model="numpy", nogil=True)  # type: ignore[untyped-decorator]
def divider(rows: Array, one: Any, repeats: int) -> None:
    """A square root and a division for each row, with nothing to wait for."""
    for _ in range(repeats):
        for row in range(rows.shape[0]):
            store(rows, row, everywhere(one) / square_root(load(rows, row)))


def divider_seconds(dtype: str) -> float:
    """Seconds that the processor's divider takes for one square root and one division: Adam's for one parameter."""
    values = simd.rows(64, dtype)
    values[:] = 1.5
    return best(lambda: divider(values, np.dtype(dtype).type(1), 20_000), 5) / (20_000 * values.size)


def replicate_seconds(step: tuple[float, float]) -> float:
    """All steps of one replicate of the `dissertation` protocol."""
    return AE_STEPS * step[0] + SAE_STEPS * step[1]


def print_steps(torch: bool) -> dict[str, float]:
    """Print the first table; returns the loop's seconds per replicate for each architecture."""
    print("\n| architecture | engine | dtype | AE ns | SAE ns | steps of a replicate | times the loop | of the divider's limit |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    loops = {}
    short = dataclasses.replace(DISSERTATION, ae_epochs=5, sae_epochs=5)
    shorter = dataclasses.replace(DISSERTATION, ae_epochs=None, ae_steps=400, sae_epochs=None, sae_steps=400)
    an_epoch = dataclasses.replace(DISSERTATION, ae_epochs=1, sae_epochs=1)
    for name in ARCHITECTURES:
        architecture = Architecture.parse(name)
        loop = loop_step_seconds(architecture)
        loops[name] = replicate_seconds(loop)
        print_row(name, "loop, one model", "float64", loop, loops[name], None)
        if torch:
            from tests.benchmarks import torch_engine

            for dtype in DTYPES:
                print_row(
                    name, "torch, eager, one model", dtype, torch_engine.eager_step_seconds(architecture, dtype), loops[name], None
                )
        for dtype in DTYPES:
            print_row(
                name,
                "reference",
                dtype,
                Models(architecture, 256, dtype).step_seconds(ReferenceEngine(), shorter, 2),
                loops[name],
                None,
            )
        if torch:
            from study.engines.torch_engine import TorchEngine

            for dtype in DTYPES:
                print_row(
                    name,
                    "torch",
                    dtype,
                    Models(architecture, TorchEngine().lanes, dtype).step_seconds(TorchEngine(), an_epoch, 2),
                    loops[name],
                    None,
                )
        for dtype in DTYPES:
            limit = divider_seconds(dtype)
            lanes = 4 * simd.lanes_of(dtype)
            print_row(
                name,
                "compiled",
                dtype,
                Models(architecture, lanes, dtype).step_seconds(CompiledEngine(), short),
                loops[name],
                limit,
            )
    return loops


def print_row(architecture: str, engine: str, dtype: str, step: tuple[float, float], loop: float, limit: float | None) -> None:
    seconds = replicate_seconds(step)
    share = "–"
    if limit is not None:
        shape = Architecture.parse(architecture)
        ae = shape.n_features * (shape.n_hidden + 1)
        sae = shape.n_latents * (2 * shape.n_hidden + 1) + shape.n_hidden
        share = f"{limit * ae / step[0]:.0%} / {limit * sae / step[1]:.0%}"
    print(
        f"| {architecture} | {engine} | {dtype} | {step[0] * 1e9:,.1f} | {step[1] * 1e9:,.1f} | {seconds * 1e3:,.2f} ms | "
        f"{loop / seconds:,.3g} | {share} |",
        flush=True,
    )


def print_packs(loops: dict[str, float]) -> None:
    """Whole packs: data, training, metrics and rows."""
    print(
        "\n| pack | dtype | replicates/s | ms per replicate | times the loop's steps | of it data | AE | SAE | metrics and rows |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    many = [round(float(l1), 12) for l1 in np.geomspace(1e-4, 1, 16)]
    for name, count in (("5-3-5", 1024), ("10-5-10", 1024), ("20-10-20", 512)):
        for dtype in DTYPES:
            print_pack(
                f"{name}, {count} seeds",
                Pack(grid([name], [0.9], [0.01], range(count))[0], DISSERTATION, dtype, "compiled"),
                loops[name],
            )
    for dtype in DTYPES:
        replicates = grid(["10-5-10"], [0.9], many, range(64))[0]
        print_pack("10-5-10, 64 seeds × 16 l1", Pack(replicates, DISSERTATION, dtype, "compiled"), loops["10-5-10"])
    for l1s, seeds in (([0.1], 64), (many, 8)):
        replicates = grid(["10-5-10"], [0.9], l1s, range(seeds))[0]
        print_pack(f"10-5-10 `sound`, {seeds} seeds × {len(l1s)} l1", Pack(replicates, SOUND, "float32", "compiled"), None)


def print_pack(title: str, pack: Pack, loop: float | None) -> None:
    run_pack.run_pack(pack.take(slice(0, 16)))  # compiles; the chance levels of the MCC stay to be drawn
    watch = Watch()
    seconds = min(watch.timed(lambda: run_pack.run_pack(pack)) for _ in range(2))
    times = "–" if loop is None else f"{loop * len(pack) / seconds:,.0f}"
    shares = [watch.seconds[part] / watch.total for part in ("data", "ae", "sae")]
    rest = 1 - sum(shares)
    print(
        f"| {title} | {pack.dtype} | {len(pack) / seconds:,.0f} | {seconds / len(pack) * 1e3:.2f} | {times} | "
        + " | ".join(f"{share:.0%}" for share in (*shares, rest))
        + " |",
        flush=True,
    )


class Watch:
    """Seconds that a pack spends on drawing, and in the engine's two trainings."""

    def __init__(self) -> None:
        self.seconds = {"data": 0.0, "ae": 0.0, "sae": 0.0}
        self.total = 0.0

    def timed(self, work: Callable[[], object]) -> float:
        targets: tuple[tuple[Any, str, str], ...] = (
            (data, "draw_features", "data"),
            (data, "minibatches", "data"),
            (CompiledEngine, "train_autoencoders", "ae"),
            (CompiledEngine, "train_saes", "sae"),
        )
        originals = [getattr(owner, name) for owner, name, _ in targets]
        for (owner, name, part), original in zip(targets, originals):
            setattr(owner, name, self.counting(original, part))
        began = time.perf_counter()
        try:
            work()
        finally:
            for (owner, name, _), original in zip(targets, originals):
                setattr(owner, name, original)
        seconds = time.perf_counter() - began
        self.total += seconds
        return seconds

    def counting(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] += time.perf_counter() - began

        return counted


def print_minibatches() -> None:
    """Steps of 128 samples, drawn with replacement from 2,000."""
    print("\n| architecture | dtype | AE µs a step | SAE µs a step; SAEs of 3,000 steps a second | 16 l1 on each AE |")
    print("| --- | --- | --- | --- | --- |")
    protocol = dataclasses.replace(SOUND, samples=2000, ae_steps=100, sae_steps=100, sae_warmup_steps=20)
    for name in ("10-5-10", "20-10-20"):
        for dtype in DTYPES:
            models = Models(Architecture.parse(name), 32, dtype)
            ae, sae = models.step_seconds(CompiledEngine(), protocol)
            _, shared = models.step_seconds(CompiledEngine(), protocol, l1s=16)
            figures = [f"{seconds * 1e6:.2f}; {1 / (3000 * seconds):.0f}" for seconds in (sae, shared)]
            print(f"| {name} | {dtype} | {ae * 1e6:.2f} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    """Measure and print."""
    print(machine())
    with threadpool_limits(1):
        loops = print_steps(torch="--without-torch" not in sys.argv)
        print_packs(loops)
        print_minibatches()
    print(f"\nPeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


if __name__ == "__main__":
    main()
