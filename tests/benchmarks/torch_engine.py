"""How fast the torch engine's steps are: `python -m tests.benchmarks.torch_engine`. Prints one table; asserts nothing.

Nanoseconds per model and step: the wall time of a full block of lanes over steps and lanes, one thread, the shortest of
several rounds; beside them PyTorch as it is written for one model, with optim.Adam. Data are noise: speed does not
depend on them. Give kinds of rows to print those alone: `one`, `online`, `minibatch`.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from search_spaces import PROTOCOLS, Architecture, Protocol
from study.engines.contract import Autoencoders, Minibatches, SaeTask, SparseAutoencoders
from study.engines.torch_engine import TorchEngine

ARCHITECTURES = ("5-3-5", "10-5-10", "20-10-20")
DTYPES = ("float32", "float64")
SAMPLES = 256
SECONDS = 0.5
"""Of one round."""


def main() -> None:
    """Measure and print."""
    kinds = sys.argv[1:] or ["one", "online", "minibatch"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU, one thread'}")
    torch.set_num_threads(1)
    if "one" in kinds:
        print("| one model, eager, optim.Adam | AE ns | SAE ns |\n| --- | --- | --- |")
        for architecture in ARCHITECTURES:
            for dtype in DTYPES:
                ae, sae = eager_step_seconds(Architecture.parse(architecture), dtype)
                print(f"| {architecture} {dtype} | {ae * 1e9:.0f} | {sae * 1e9:.0f} |", flush=True)
    for kind, name, lanes in (("online", "dissertation", (256, 1024)), ("minibatch", "sound", (64, 256))):
        if kind in kinds:
            print(f"| {kind} | lanes | AE ns | SAE ns | compiling AE, SAE, s |\n| --- | --- | --- | --- | --- |")
            for architecture in ARCHITECTURES:
                for dtype in DTYPES:
                    for count in lanes if device == "cpu" else (4096, 16_384, 65_536):
                        print(_row(Architecture.parse(architecture), dtype, count, PROTOCOLS[name]), flush=True)


def _row(architecture: Architecture, dtype: str, lanes: int, protocol: Protocol) -> str:
    engine = TorchEngine(lanes)
    trainings = [_autoencoders(engine, architecture, dtype, protocol), _saes(engine, architecture, dtype, protocol)]
    figures = [_per_step(train) for train in trainings]
    ae, sae = (f"{step / lanes * 1e9:.0f}" for step, _ in figures)
    return f"| {architecture} {dtype} | {lanes} | {ae} | {sae} | {figures[0][1]:.1f}, {figures[1][1]:.1f} |"


def _per_step(train: Callable[[int], object]) -> tuple[float, float]:
    """Seconds per step, from trainings of two lengths, and seconds of the first call."""

    def timed(steps: int) -> float:
        return _seconds(lambda: train(steps))

    short = 256 if torch.cuda.is_available() else 8
    compiling = timed(short)
    rest = min(timed(short) for _ in range(3))
    steps = 8 * short
    while (took := timed(steps) - rest) < SECONDS / 4:
        steps *= 2
    steps = max(2 * short, int(steps * SECONDS / took) // short * short)
    return min((timed(steps) - rest) / (steps - short) for _ in range(4)), compiling - rest


def _autoencoders(engine: TorchEngine, architecture: Architecture, dtype: str, protocol: Protocol) -> Callable[[int], object]:
    random = np.random.default_rng(0)
    n_features, n_hidden, lanes = architecture.n_features, architecture.n_hidden, engine.lanes
    start = Autoencoders(random.normal(0, 0.1, (n_hidden, n_features, lanes)).astype(dtype), np.zeros((n_features, lanes), dtype))
    samples = random.random((lanes, SAMPLES, n_features)).astype(dtype)

    def train(steps: int) -> object:
        lasting = dataclasses.replace(protocol, ae_epochs=None, ae_steps=steps)
        batches = _batches(steps, protocol.ae_batch_size, lanes, protocol)
        return engine.train_autoencoders(start, samples, batches, np.ones(n_features), lasting)

    return train


def _saes(engine: TorchEngine, architecture: Architecture, dtype: str, protocol: Protocol) -> Callable[[int], object]:
    random = np.random.default_rng(0)
    n_hidden, n_latents, lanes = architecture.n_hidden, architecture.n_latents, engine.lanes
    W = random.normal(0, 0.1, (n_latents, n_hidden, lanes)).astype(dtype)
    latents = np.zeros((n_latents, lanes), dtype)
    start = SparseAutoencoders({"W_enc": W, "b_enc": latents, "W_dec": W, "b_dec": np.zeros((n_hidden, lanes), dtype)})
    activations = random.normal(0, 0.5, (lanes, SAMPLES, n_hidden)).astype(dtype)

    def train(steps: int) -> object:
        lasting = dataclasses.replace(protocol, sae_epochs=None, sae_steps=steps)
        batches = _batches(steps, protocol.sae_batch_size, lanes, protocol)
        return engine.train_saes(SaeTask(start, activations, np.arange(lanes), batches, np.full(lanes, 0.01), lasting))

    return train


def _batches(steps: int, size: int, lanes: int, protocol: Protocol) -> Minibatches | None:
    """Indexes of its own for each lane, the same at every step, without taking memory for each step."""
    if protocol.sample_order == "stored":
        return None
    indexes = np.random.default_rng(0).integers(0, SAMPLES, (lanes, 1, size), dtype=np.int32)
    return Minibatches(np.broadcast_to(indexes, (lanes, steps, size)), np.arange(lanes))


def eager_step_seconds(architecture: Architecture, dtype: str) -> tuple[float, float]:
    """Seconds per step of one autoencoder and of one SAE, as a reader of PyTorch's tutorial would write them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        return _one_model(architecture, sae=False), _one_model(architecture, sae=True)
    finally:
        torch.set_default_dtype(before)


def _one_model(architecture: Architecture, sae: bool) -> float:
    """Seconds per step in PyTorch's default precision."""
    n_features, n_hidden, n_latents = architecture.n_features, architecture.n_hidden, architecture.n_latents
    if sae:
        x, encoder, decoder = (
            torch.randn(SAMPLES, n_hidden),
            torch.nn.Linear(n_hidden, n_latents),
            torch.nn.Linear(n_latents, n_hidden),
        )
        parameters = [*encoder.parameters(), *decoder.parameters()]
    else:
        x, W, b = (
            torch.rand(SAMPLES, n_features),
            torch.nn.Parameter(torch.randn(n_hidden, n_features) * 0.1),
            torch.nn.Parameter(torch.zeros(n_features)),
        )
        parameters = [W, b]
    adam = torch.optim.Adam(parameters, lr=0.001)

    def loss(x: torch.Tensor) -> torch.Tensor:
        if sae:
            f = torch.relu(encoder(x))
            return (decoder(f) - x).square().sum() + 0.01 * f.sum()
        return (x - torch.relu(x @ W.T @ W + b)).square().sum()

    def epoch() -> None:
        for sample in x:
            adam.zero_grad()
            loss(sample).backward()
            adam.step()

    return min(_seconds(epoch) for _ in range(5)) / SAMPLES


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
