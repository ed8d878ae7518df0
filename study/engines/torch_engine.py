"""The torch engine: a loss for each variant, its gradient by `torch.func.grad`, the steps compiled; CPU or CUDA.

Replicates are on the last axis, as in the reference engine. A program is compiled once per shape, dtype and variant: the
last axis is padded to a fixed number of lanes, and longer packs are trained one block of lanes at a time. Only the order
of sums differs from the reference; Adam has the same form and the same flush of tiny moments. Each variant's loss is in its
own file (`study/variants/`).

* A program makes several Adam steps per call, in place on buffers that stay where they are. On CUDA a number of calls
  is captured as a graph, which is replayed; on the CPU the same calls are made one by one.
* Steps that do not fill a call are made without the compiler, one by one.
* Lanes meet only in the sum of their losses, whose derivative with respect to each loss is 1. Neither the position of a
  lane nor its divergence changes a bit of another.
* Without a C++ compiler (on CUDA: without Triton) the steps run uncompiled, and a warning says so.
* The CUDA paths are NOT YET MEASURED, nor run: no GPU was available. CPU and CUDA round differently, and so do compiled
  and uncompiled steps: within this family, a row is the same on machines of one kind.
* On CUDA, ReLU SAEs and autoencoders in float32 with batches of one in stored order are trained by the kernels of
  `triton_kernels.py`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.cells import Architecture
from search_spaces.protocol import DEFAULT_VARIANT, Protocol
from study.engines.contract import Autoencoders, Minibatches, SaeTask, SparseAutoencoders
from study.engines.schedules import ae_schedule, sae_schedule
from study.variants.contract import TorchLoss
from study.variants.registry import variant_of
from study.variants.torch_forward import matrix_product, transposed_product

_Array = NDArray[Any]
_Tensors = dict[str, Tensor]
"""Parameters or moments by name, replicates on the last axis."""
_Steps = Callable[[_Tensors, _Tensors, _Tensors, Tensor, Tensor, Tensor], None]
"""Several Adam steps in place: parameters, M, V, coefficient of the loss, x (steps, B, ·, R), rates (steps, 2)."""

CPU_LANES, CPU_LANES_IF_WIDE, CPU_LANES_IF_MINIBATCH = 1024, 256, 64
"""Size of a block, measured: a call costs 40 to 90 µs whatever its size, and a block's state should stay in the core's cache."""
WIDE_FROM = 150
"""Number of parameters from which a model counts as wide."""
CUDA_LANES = 16_384
"""Not measured."""
ONLINE_STEPS, MINIBATCH_STEPS = 8, 1
"""Steps per compiled call."""
CALLS_IN_GRAPH = 16
"""Calls per CUDA graph."""


@dataclass(frozen=True)
class _Rule:
    """What a program depends on besides shapes and dtype."""

    variant: str | None
    """None: an autoencoder."""
    settings: tuple[Any, ...]
    """The values of the protocol fields on which the steps depend. Other fields do not make another program."""
    beta1: float
    beta2: float
    unit_norm: bool = False
    """Decoder columns have norm 1."""
    lowest: tuple[tuple[str, float], ...] = ()
    """Parameters that are clamped to at least this value after each step."""
    loss: TorchLoss = field(compare=False, repr=False, kw_only=True)

    @classmethod
    def autoencoder(cls, protocol: Protocol) -> _Rule:
        return cls(None, (), protocol.adam_beta1, protocol.adam_beta2, loss=autoencoder_loss)

    @classmethod
    def sae(cls, protocol: Protocol) -> _Rule:
        variant = variant_of(protocol)
        settings = (protocol.sae_subtract_decoder_bias, *(one.of(protocol) for one in variant.fields))
        return cls(
            variant.name,
            settings,
            protocol.adam_beta1,
            protocol.adam_beta2,
            protocol.sae_decoder_norm == "unit",
            tuple((one.name, one.lowest) for one in variant.parameters if one.lowest is not None),
            loss=variant.torch_loss(protocol),
        )

    @property
    def is_plain(self) -> bool:
        """Whether `triton_kernels.py` can make its steps: an autoencoder, or ReLU and L1 with a free decoder."""
        return self.variant in (None, DEFAULT_VARIANT) and not any(self.settings) and not self.unit_norm


def autoencoder_loss(theta: Mapping[str, Tensor], x: Tensor, importances: Tensor) -> Tensor:
    """Σ_i I_i (x_i − x̂_i)², x̂ = ReLU(Wᵀ W x + b): each lane's mean over its minibatch, summed over lanes.

    x (B, N, R), importances (N, 1).
    """
    h = matrix_product(theta["W"], x)  # (H, N, R), (B, N, R) -> (B, H, R)
    s = transposed_product(theta["W"], h) + theta["b"]  # (B, N, R)
    return (importances * (x - torch.relu(s)).square()).sum() / len(x)


# Steps


def _adam_steps(rule: _Rule, theta: _Tensors, M: _Tensors, V: _Tensors, coefficient: Tensor, x: Tensor, rates: Tensor) -> None:
    """One Adam step per minibatch in x, in place; arguments as in `_Steps`."""
    gradient_of = torch.func.grad(rule.loss)
    new, new_M, new_V = dict(theta), dict(M), dict(V)
    for minibatch, (size, epsilon) in zip(x, rates):
        gradient = gradient_of(new, minibatch, coefficient)
        if rule.unit_norm:
            W_dec, slope = new["W_dec"], gradient["W_dec"]
            gradient["W_dec"] = slope - (slope * W_dec).sum(1, keepdim=True) * W_dec
        for name, g in gradient.items():
            new_M[name] = _flushed(rule.beta1 * new_M[name] + g)
            new_V[name] = _flushed(rule.beta2 * new_V[name] + g * g)
            new[name] = new[name] - size * new_M[name] / (new_V[name].sqrt() + epsilon)
        if rule.unit_norm:
            new["W_dec"] = new["W_dec"] / new["W_dec"].square().sum(1, keepdim=True).sqrt()
        for name, lowest in rule.lowest:
            new[name] = new[name].clamp_min(lowest)
    for buffers, values in ((theta, new), (M, new_M), (V, new_V)):
        for name, buffer in buffers.items():
            buffer.copy_(values[name])


def _flushed(moment: Tensor) -> Tensor:
    tiny = 1e-30 if moment.dtype == torch.float32 else 1e-290
    return torch.where(moment.abs() < tiny, 0.0, moment)


class _Program:
    """The steps of one rule, compiled for one set of shapes; uncompiled if the compiler fails."""

    def __init__(self, rule: _Rule, number: int, compiled: bool) -> None:
        def steps(theta: _Tensors, M: _Tensors, V: _Tensors, coefficient: Tensor, x: Tensor, rates: Tensor) -> None:
            _adam_steps(rule, theta, M, V, coefficient, x, rates)

        # Dynamo stores compiled code by code object, at most eight versions of each, so each program gets a code object.
        steps.__code__ = steps.__code__.replace(co_name=f"steps_{number}")
        self.plain: _Steps = steps
        self._run: _Steps = torch.compile(steps, fullgraph=True, dynamic=False) if compiled else steps

    def __call__(self, theta: _Tensors, M: _Tensors, V: _Tensors, coefficient: Tensor, x: Tensor, rates: Tensor) -> None:
        try:
            self._run(theta, M, V, coefficient, x, rates)
        except torch._dynamo.exc.BackendCompilerFailed as failure:  # no step was made yet
            warnings.warn(_uncompiled(failure), RuntimeWarning, stacklevel=2)
            self._run = self.plain
            self._run(theta, M, V, coefficient, x, rates)


def _uncompiled(failure: Exception) -> str:
    reason = next(line for line in str(failure).splitlines() if line.strip())
    return (
        "torch.compile failed, so the torch engine runs its steps uncompiled, many times slower. Install a C++ compiler "
        f"(g++), or choose another engine. torch says: {reason.strip()}"
    )


_numbers = itertools.count()


@cache
def _program(rule: _Rule, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, device: str, compiled: bool) -> _Program:
    """The program for a rule, shapes, dtype and device; each is made once per process."""
    return _Program(rule, next(_numbers), compiled)


# Minibatches


@dataclass(frozen=True, eq=False)
class _Reader:
    """Gives the minibatches of a block of lanes, from samples (A, S, N): lane r reads samples[lane_of[r]]."""

    samples: Tensor
    lane_of: Tensor
    """(R,)."""
    batches: Minibatches | None
    """None for stored order."""
    batch_size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, N, R)."""
        return self.batch_size, self.samples.shape[2], len(self.lane_of)

    def take(self, first: int, steps: int) -> Tensor:
        """The minibatches of `steps` steps from step `first` on, (steps, B, N, R)."""
        if self.batches is None:
            return self._in_order(first, steps)
        return self._drawn(self.batches.drawn[self.batches.of_lane, first : first + steps])

    def _in_order(self, first: int, steps: int) -> Tensor:
        count, n_samples = steps * self.batch_size, len(self.stored)
        start = first * self.batch_size % n_samples
        chosen = self.stored[start : start + count]
        if start + count > n_samples:
            chosen = self.stored[torch.arange(start, start + count, device=chosen.device) % n_samples]
        return chosen.view(steps, *self.shape)

    @cached_property
    def stored(self) -> Tensor:
        """The samples in the order in which they are read, (S, N, R)."""
        return self.samples[self.lane_of].permute(1, 2, 0).contiguous()

    def _drawn(self, batches: NDArray[np.int32]) -> Tensor:
        """The minibatches of sample indexes (R, steps, B)."""
        n_samples, width = self.samples.shape[1:]
        indexes = self.lane_of * n_samples + torch.from_numpy(np.moveaxis(batches, 0, -1).copy()).to(
            self.lane_of.device
        )  # (steps, B, R)
        rows = self.samples.view(-1, width).index_select(0, indexes.reshape(-1))
        return rows.view(*indexes.shape, width).transpose(2, 3)  # (steps, B, R, N) -> (steps, B, N, R)


# Training


@dataclass(frozen=True, eq=False)
class _State:
    """What training changes, in place, and the coefficient of its loss."""

    theta: _Tensors
    M: _Tensors
    V: _Tensors
    coefficient: Tensor

    @classmethod
    def starting(cls, theta: _Tensors, coefficient: Tensor) -> _State:
        M, V = ({name: torch.zeros_like(value) for name, value in theta.items()} for _ in range(2))
        return cls(theta, M, V, coefficient)

    def advance(self, steps: _Steps, x: Tensor, rates: Tensor) -> None:
        """Make steps on minibatches x (steps, B, N, R) with A_t and E_t in rates (steps, 2)."""
        steps(self.theta, self.M, self.V, self.coefficient, x, rates)

    @property
    def changing(self) -> list[Tensor]:
        return [value for part in (self.theta, self.M, self.V) for value in part.values()]


class _Calls:
    """Several calls of a program, one after the other, on input buffers that stay where they are; on CUDA one graph."""

    def __init__(self, state: _State, program: _Program, calls: int, shape: tuple[int, ...]) -> None:
        """`shape` is that of a call's minibatches, (steps, B, N, R)."""
        some = state.changing[0]
        self.steps = calls * shape[0]
        self._x, self._rates = some.new_empty(calls, *shape), some.new_empty(calls, shape[0], 2)
        self._state, self._program = state, program
        self._run: Callable[[], None] | None = None if some.is_cuda else self._one_by_one

    def __call__(self, x: Tensor, rates: Tensor) -> None:
        self._x.view(x.shape).copy_(x)
        self._rates.view(rates.shape).copy_(rates)
        if self._run is None:
            self._run = _captured(self._one_by_one, self._state.changing)
        self._run()
        if self._x.is_cuda:
            torch.cuda.synchronize()  # Python must not run ahead by more than one graph, or Ctrl-C would wait for them

    def _one_by_one(self) -> None:
        for x, rates in zip(self._x, self._rates):
            self._state.advance(self._program, x, rates)


def _captured(run: Callable[[], None], changing: list[Tensor]) -> Callable[[], None]:
    """`run` as a CUDA graph. What it changes while it is compiled and warmed up is restored."""
    before = [value.clone() for value in changing]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    for value, old in zip(changing, before):
        value.copy_(old)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@dataclass(frozen=True, eq=False)
class _Task:
    """What to train, as NumPy arrays; R replicates."""

    rule: _Rule
    theta: dict[str, _Array]
    """Parameters at the start, (…, R)."""
    coefficient: _Array
    """The coefficient of the loss, (…, R)."""
    samples: _Array
    """(A, S, N)."""
    sample_of: NDArray[np.int64]
    """Which of the A models' samples each lane reads, (R,)."""
    batches: Minibatches | None
    batch_size: int
    rates: _Array
    """A_t and E_t of every step, (steps, 2)."""

    def blocks(self, lanes: int) -> Iterator[_Task]:
        """The same task in blocks of exactly `lanes` lanes. The last block is filled up with copies of its last replicate."""
        count = len(self.sample_of)
        for first in range(0, count, lanes):
            yield self._take(np.minimum(np.arange(first, first + lanes), count - 1))

    def _take(self, lanes: NDArray[np.int64]) -> _Task:
        return replace(
            self,
            theta={name: np.take(value, lanes, axis=-1) for name, value in self.theta.items()},
            coefficient=np.take(self.coefficient, lanes, axis=-1),
            sample_of=self.sample_of[lanes],
            batches=None if self.batches is None else replace(self.batches, of_lane=self.batches.of_lane[lanes]),
        )

    @property
    def suits_kernels(self) -> bool:
        """Whether `triton_kernels.py` can train it: online, in stored order, float32, a plain rule."""
        return self.rule.is_plain and self.batch_size == 1 and self.batches is None and self.rates.dtype == np.float32

    def train_in_kernels(self, device: str) -> dict[str, _Array]:
        """Train with the kernels of `triton_kernels.py`: all steps in a few launches."""
        from study.engines import triton_kernels as kernels

        tensor, rule = partial(_tensor, device=device, dtype=torch.float32), self.rule
        stored = _Reader(tensor(self.samples), torch.from_numpy(self.sample_of).to(device), None, 1).stored
        rows = tensor(np.concatenate([value.reshape(-1, stored.shape[2]) for value in self.theta.values()]))
        train = kernels.train_autoencoders if rule.variant is None else kernels.train_saes
        trained = train(rows, stored, tensor(self.coefficient), tensor(self.rates), (rule.beta1, rule.beta2)).cpu().numpy()
        parts = np.split(trained, np.cumsum([value[..., 0].size for value in self.theta.values()])[:-1])
        return {name: part.reshape(self.theta[name].shape) for name, part in zip(self.theta, parts)}

    def train(self, device: str, steps_per_call: int, compiled: bool) -> dict[str, _Array]:
        """Train with compiled calls: several steps per call while enough steps are left, then one by one."""
        tensor = partial(_tensor, device=device, dtype=_DTYPES[self.rates.dtype])
        state = _State.starting({name: tensor(value) for name, value in self.theta.items()}, tensor(self.coefficient))
        lane_of = torch.from_numpy(self.sample_of).to(device)
        minibatches, rates = _Reader(tensor(self.samples), lane_of, self.batches, self.batch_size), tensor(self.rates)
        shape = (steps_per_call, *minibatches.shape)
        shapes = (*(tuple(value.shape) for value in state.theta.values()), shape)
        program = _program(self.rule, shapes, rates.dtype, device, compiled)
        done = 0
        for calls in (CALLS_IN_GRAPH, 1) if rates.is_cuda else (1,):
            many = _Calls(state, program, calls, shape)
            while done + many.steps <= len(rates):
                many(minibatches.take(done, many.steps), rates[done : done + many.steps])
                done += many.steps
        for step in range(done, len(rates)):
            state.advance(program.plain, minibatches.take(step, 1), rates[step : step + 1])
        return {name: value.cpu().numpy() for name, value in state.theta.items()}


_DTYPES = {np.dtype("float32"): torch.float32, np.dtype("float64"): torch.float64}


def _tensor(array: _Array, device: str, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the device."""
    return torch.tensor(array, dtype=dtype, device=device)


class TorchEngine:
    """PyTorch, compiled; float32 and float64; on CUDA if there is such a device, else on the CPU."""

    def __init__(
        self,
        lanes: int | None = None,
        online_steps: int = ONLINE_STEPS,
        minibatch_steps: int = MINIBATCH_STEPS,
        device: str | None = None,
        compiled: bool = True,
    ) -> None:
        """`lanes`: the size to which packs are cut and padded; `online_steps`, `minibatch_steps`: steps per compiled call."""
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.lanes = lanes or (CUDA_LANES if self.device == "cuda" else CPU_LANES)
        self._chosen_lanes = lanes
        self._online_steps, self._minibatch_steps, self._compiled = online_steps, minibatch_steps, compiled

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """Measured on one core of a 2-core server, without compiling.

        A last block that is not full takes as long as a full one. Compiling each of the two programs takes 10 to 25 s
        (3 to 5 s for minibatches), or 1 to 5 s if PyTorch finds them in its cache on disk.
        """
        n_features, n_hidden, n_latents = architecture.n_features, architecture.n_hidden, architecture.n_latents

        def training(steps: int, batch_size: int, parameters: int, models: int) -> float:
            lanes = self._lanes(parameters, batch_size)
            step = batch_size * (4e-8 + (2.8e-9 if batch_size == 1 else 8e-10) * parameters)
            return steps * step * lanes * math.ceil(models / lanes)

        faster = 0.5 if dtype == "float32" else 1
        ae = training(protocol.ae_training_steps, protocol.ae_batch_size, n_features * (n_hidden + 1), autoencoders)
        sae_parameters = n_latents * (2 * n_hidden + 1) + n_hidden
        return faster * (ae + training(protocol.sae_training_steps, protocol.sae_batch_size, sae_parameters, saes))

    def _lanes(self, parameters: int, batch_size: int) -> int:
        """The size of a block: one per kind of model, so that each kind is compiled once."""
        if self._chosen_lanes or self.device == "cuda":
            return self.lanes
        if batch_size > 1:
            return CPU_LANES_IF_MINIBATCH
        return CPU_LANES if parameters < WIDE_FROM else CPU_LANES_IF_WIDE

    def hidden(self, W: _Array, samples: _Array) -> _Array:
        """h = W x, (A, S, H), summed over features in order; W (H, N, A), samples (A, S, N), cast to W's dtype."""
        samples = samples.astype(W.dtype)
        weights = torch.from_numpy(np.ascontiguousarray(W.T)).to(self.device)  # (A, N, H)
        h = torch.zeros(len(samples), samples.shape[1], len(W), dtype=weights.dtype, device=self.device)
        for i, x in enumerate(torch.from_numpy(samples).to(self.device).unbind(2)):  # (A, S)
            h += weights[:, None, i] * x[:, :, None]
        return h.cpu().numpy()

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, importances: _Array, protocol: Protocol
    ) -> Autoencoders:
        """As `ReferenceEngine.train_autoencoders`; start: W (H, N, R), b (N, R); samples (R, S, N); importances (N,)."""
        replicates = len(samples)
        task = _Task(
            rule=_Rule.autoencoder(protocol),
            theta={"W": start.W, "b": start.b},
            coefficient=np.broadcast_to(importances[:, None], start.b.shape),
            samples=samples,
            sample_of=np.arange(replicates),
            batches=batches,
            batch_size=protocol.ae_batch_size,
            rates=_rates(ae_schedule(protocol), start.W.dtype),
        )
        return Autoencoders(**self._train(task))

    def train_saes(self, task: SaeTask) -> SparseAutoencoders:
        """As `ReferenceEngine.train_saes`. There is never a controller: `Pack` refuses a target L0 for this engine."""
        assert task.controller is None, "refused by Pack"
        protocol = task.protocol
        own = _Task(
            rule=_Rule.sae(protocol),
            theta=dict(task.start.parameters),
            coefficient=task.l1,
            samples=task.activations,
            sample_of=task.ae_of_sae,
            batches=task.batches,
            batch_size=protocol.sae_batch_size,
            rates=_rates(sae_schedule(protocol), task.start.W_dec.dtype),
        )
        return SparseAutoencoders(self._train(own))

    def _train(self, task: _Task) -> dict[str, _Array]:
        """The trained parameters, (…, R)."""
        steps = self._online_steps if task.batch_size == 1 else self._minibatch_steps
        parameters = sum(value[..., 0].size for value in task.theta.values())
        in_kernels = self._trains_in_kernels(task)
        with _one_thread_without_denormals():
            blocks = [
                block.train_in_kernels(self.device) if in_kernels else block.train(self.device, steps, self._compiled)
                for block in task.blocks(self._lanes(parameters, task.batch_size))
            ]
        replicates = len(task.sample_of)
        return {name: np.concatenate([block[name] for block in blocks], axis=-1)[..., :replicates] for name in task.theta}

    def _trains_in_kernels(self, task: _Task) -> bool:
        """Whether there are kernels for the task, and whole warps to run them."""
        return (
            self.lanes % 32 == 0
            and self.device == "cuda"
            and self._compiled
            and task.suits_kernels
            and find_spec("triton") is not None
        )


def _rates(tables: tuple[_Array, _Array], dtype: np.dtype[Any]) -> _Array:
    """A_t and E_t of every step in the training dtype, (steps, 2)."""
    return np.stack(tables, axis=-1).astype(dtype)


@contextmanager
def _one_thread_without_denormals() -> Iterator[None]:
    """Train in one thread, as every engine does: there is one worker per core. The previous settings are restored."""
    threads, flushed = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)


def _flushes_denormals() -> bool:
    """Whether this thread flushes denormals: PyTorch can set this state but not read it."""
    return bool(torch.tensor(np.finfo(np.float64).tiny).div(2) == 0)
