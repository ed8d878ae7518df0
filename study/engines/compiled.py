"""The compiled engine: numba kernels with replicates in the SIMD lanes, bit-equal to `reference`.

* Each sum has the reference's order; nothing is contracted and nothing is reassociated.
* A group of lanes (16 replicates in float32, 8 in float64) is trained from its first step to its last while its parameters
  stay in the core's cache.
* Arrays are (rows, lanes); a model's rows are its parameters in the reference's order.
* The kernels are in `lane_kernels.py`. They are compiled once per dtype and variant, and kept on disk
  (`study/kernels/compilation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, Minibatches, SaeTask, SparseAutoencoders, StepWatch
from study.engines.lane_kernels import (
    Control,
    Model,
    Source,
    Steps,
    train_ae_minibatch,
    train_ae_online,
    train_sae_minibatch,
    train_sae_online,
)
from study.engines.schedules import ae_schedule, sae_schedule
from study.kernels.forward import TILE, layout_of
from study.kernels.lanes import groups, hidden, lay_out, rows_of, take_back
from study.kernels.simd import lanes_of, zero_rows
from study.variants.contract import Variant
from study.variants.registry import lane_code_of, variant_of

_Array = NDArray[Any]

CALL_SECONDS = 0.2
"""About how long a kernel runs before it returns to Python. Ctrl-C waits that long."""


class CompiledEngine:
    """The default on CPUs: bit-equal to the reference, at the speed of the processor's divider."""

    lanes = 64
    """Autoencoders that are trained together, with all SAEs on them: a multiple of a group."""

    def __init__(self, watch: StepWatch | None = None) -> None:
        self.watch = watch

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """Measured on one core of a 2-core server (AMD EPYC, AVX-512): `tests/benchmarks/engines.py`."""
        n_features, n_hidden, n_latents = architecture.n_features, architecture.n_hidden, architecture.n_latents
        ae, sae = n_features * (n_hidden + 1), n_latents * (2 * n_hidden + 1) + n_hidden
        ae_step = _step_seconds(ae, protocol.ae_batch_size, 0.20e-9 * ae + 1e-9 * n_features, dtype)
        sae_step = _step_seconds(sae, protocol.sae_batch_size, 0.11e-9 * sae + 1e-9 * n_hidden, dtype)
        return autoencoders * protocol.ae_training_steps * ae_step + saes * protocol.sae_training_steps * sae_step

    def hidden(self, W: _Array, samples: _Array) -> _Array:
        """h = W x, (A, S, H), summed over features in order; W (H, N, A), samples (A, S, N), cast to W's dtype."""
        n_hidden, n_features = W.shape[:2]
        h = np.empty((*samples.shape[:2], n_hidden), W.dtype)
        x, out = zero_rows(samples.shape[1] * n_features, W.dtype), zero_rows(samples.shape[1] * n_hidden, W.dtype)
        for lanes in groups(len(samples), W.dtype):
            lay_out(samples, lanes, x)
            hidden(rows_of(W.reshape(-1, W.shape[2]), lanes), x, out, n_features, n_hidden)
            take_back(out, lanes, h)
        return h

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, importances: _Array, protocol: Protocol
    ) -> Autoencoders:
        """As `ReferenceEngine.train_autoencoders`, to the bit."""
        n_hidden, n_features, count = start.W.shape
        parameters = np.concatenate([start.W.reshape(-1, count), start.b])
        training = _Training.of(parameters, ae_schedule(protocol), protocol.ae_batch_size, protocol, self.watch)
        twice_importances, sizes = (2 * importances).astype(parameters.dtype), (n_features, n_hidden)
        scratch = zero_rows(TILE * 2 * (n_features + n_hidden) + len(parameters), parameters.dtype)
        if batches is None and protocol.ae_batch_size == 1:
            x = zero_rows(samples.shape[1] * n_features, parameters.dtype)
            for model, lanes in training.groups(scratch):
                lay_out(samples, lanes, x)
                training.run(train_ae_online, model, x, twice_importances, *sizes)
                training.take_back(model, lanes)
        else:
            samples = samples.astype(parameters.dtype)
            for model, lanes in training.groups(scratch):
                source = _source(samples, batches, lanes, lanes, protocol.ae_batch_size)
                training.run(train_ae_minibatch, model, source, twice_importances, *sizes)
                training.take_back(model, lanes)
        return Autoencoders(parameters[: n_hidden * n_features].reshape(start.W.shape), parameters[n_hidden * n_features :])

    def train_saes(self, task: SaeTask) -> SparseAutoencoders:
        """As `ReferenceEngine.train_saes`, to the bit."""
        protocol, parameters, (n_latents, n_hidden) = task.protocol, task.start.stacked(), task.start.W_dec.shape[:2]
        variant = variant_of(protocol)
        training = _Training.of(parameters, sae_schedule(protocol), protocol.sae_batch_size, protocol, self.watch, variant)
        code, at = lane_code_of(variant), layout_of(task.start.rows, n_hidden, n_latents, protocol)
        scratch = zero_rows(TILE * 3 * (n_hidden + n_latents) + len(parameters), parameters.dtype)
        online = task.batches is None and protocol.sae_batch_size == 1
        if online and not (at.centred or at.unit_norm or task.controller):
            l1, h = task.cast_l1[None], zero_rows(task.activations.shape[1] * n_hidden, parameters.dtype)
            for model, lanes in training.groups(scratch):
                lay_out(task.activations, task.ae_of_sae[lanes], h)
                training.run(partial(train_sae_online, code), model, h, rows_of(l1, lanes), at)
                training.take_back(model, lanes)
        else:
            for model, lanes in training.groups(scratch):
                with _steering(task, model, lanes) as (state, control):
                    source = _source(task.activations, task.batches, lanes, task.ae_of_sae[lanes], protocol.sae_batch_size)
                    training.run(partial(train_sae_minibatch, code), model, source, state, control, at)
                training.take_back(model, lanes)
        return task.start.with_values(parameters)


def _step_seconds(parameters: int, batch_size: int, sample_seconds: float, dtype: str) -> float:
    """Seconds per step: Adam's square roots and divisions, plus, per sample of a minibatch, its products and its gathering.

    sample_seconds: the cost of a sample in float32.
    """
    adam, slower = (1e-9 + 0.37e-9 * parameters, 1) if dtype == "float32" else (2e-9 + 1.05e-9 * parameters, 1.8)
    return adam + slower * sample_seconds * batch_size * (batch_size > 1)


@dataclass(frozen=True, eq=False)
class _Training:
    """What every group of lanes shares: the parameters (P, R), which are replaced in place, and Adam's tables."""

    parameters: _Array
    steps: Steps
    steps_per_call: int
    watch: StepWatch | None

    @classmethod
    def of(
        cls,
        parameters: _Array,
        tables: tuple[_Array, _Array],
        batch_size: int,
        protocol: Protocol,
        watch: StepWatch | None,
        variant: Variant | None = None,
    ) -> _Training:
        dtype = parameters.dtype
        tiny = 1e-30 if dtype == np.float32 else 1e-290
        adam = np.array([protocol.adam_beta1, protocol.adam_beta2, tiny, 1 / batch_size], dtype)
        settings = np.array(variant.lane_settings(protocol) if variant else (), dtype)
        seconds = _step_seconds(len(parameters), batch_size, 0.3e-9 * len(parameters), str(dtype)) * lanes_of(dtype)
        steps_per_call = 1 if watch else max(1, int(CALL_SECONDS / seconds))
        rates, epsilons = (table.astype(dtype) for table in tables)
        return cls(parameters, Steps(rates, epsilons, adam, settings), steps_per_call, watch)

    def groups(self, scratch: _Array) -> Iterator[tuple[Model, NDArray[np.int64]]]:
        """Yield each group's model before its first step, and its lanes."""
        count, dtype = self.parameters.shape[0], self.parameters.dtype
        for lanes in groups(self.parameters.shape[1], dtype):
            yield Model(rows_of(self.parameters, lanes), zero_rows(count, dtype), zero_rows(count, dtype), scratch), lanes

    def run(self, train: Callable[..., None], model: Model, *arguments: Any) -> None:
        """Run all steps of a group, `steps_per_call` at a time."""
        total = len(self.steps.A)
        if self.watch:
            self.watch(model.P)
        for first in range(0, total, self.steps_per_call):
            train(model, self.steps, first, min(first + self.steps_per_call, total), *arguments)
            if self.watch:
                self.watch(model.P)

    def take_back(self, model: Model, lanes: NDArray[np.int64]) -> None:
        """Store the group's parameters. Lanes that only fill the group are copies of its last lane and store the same values."""
        self.parameters[:, lanes] = model.P


@contextmanager
def _steering(task: SaeTask, model: Model, lanes: NDArray[np.int64]) -> Iterator[tuple[_Array, Control | None]]:
    """The l1 of a group's lanes, and what steers it, whose state is taken back in the end; or the l1 that is held."""
    controller = task.controller
    if controller is None:
        yield rows_of(task.cast_l1[None], lanes), None
        return
    state = rows_of(controller.state, lanes)
    yield state, Control(controller.steps, controller.settings, model.P.copy())
    controller.state[:, lanes] = state


def _source(
    samples: _Array, batches: Minibatches | None, lanes: NDArray[np.int64], samples_of: NDArray[np.int64], batch_size: int
) -> Source:
    """The minibatches of a group; `drawn` is empty, (1, 0, 1), if samples come in stored order."""
    drawn = np.empty((1, 0, 1), np.int32) if batches is None else batches.drawn
    of_lane = np.zeros_like(lanes) if batches is None else batches.of_lane[lanes]
    alike = (samples_of == samples_of[0]).all() and (of_lane == of_lane[0]).all()
    return Source(samples, samples_of, drawn, of_lane, bool(alike), batch_size)
