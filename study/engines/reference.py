"""The reference engine: plain NumPy, replicates on the last axis, every sum in a stated order.

It defines the training procedure: an engine that adds in the same order must agree with it to the bit. What a variant
computes (forward pass, gradients) is in `study/variants/`; learning rates are in `schedules.py`. The rules:

* A sum over features, hidden units or latents starts at its first term (or at the bias, if there is one)
  and adds the others one by one, in index order. A sum over the samples of a minibatch does the same and is
  then multiplied by 1/B. Nothing is contracted (no fused multiply-add) and nothing is reassociated.
* Everything is computed in the training dtype. Adam's step sizes and epsilons are tabulated in float64 and cast.
* Adam keeps m/(1 − β1) and v/(1 − β2), which saves two products per step: with g the gradient,
      M ← β1 M + g,   V ← β2 V + g²,   θ ← θ − A_t M / (√V + E_t),
      A_t = lr_t √(1−β2^t) (1−β1) / ((1−β1^t) √(1−β2)),   E_t = ε √(1−β2^t) / √(1−β2).
* M and V are set to 0 if their absolute value is below 1e-30 (float32) or 1e-290 (float64), to avoid denormals.
* ReLU is max(s, 0); its derivative at 0 is 0.

A replicate is one lane of the last axis. Lanes never mix, so a replicate's bits do not depend on its pack mates, and a
lane that diverges to inf or NaN leaves the others unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, Minibatches, SaeTask, SparseAutoencoders, StepWatch
from study.engines.l1_controller import CURRENT, steer
from study.engines.schedules import ae_schedule, sae_schedule
from study.sums import mean_over_batch, ordered_sum
from study.variants.contract import Variant
from study.variants.registry import variant_of

_Array = NDArray[Any]
_Float = NDArray[np.float64]


class ReferenceEngine:
    """NumPy, readable beside the formulas: the definition of the `exact` engine family."""

    lanes = 256
    """Autoencoders that are trained together, with all SAEs on them: the parameters of this many stay in a core's cache."""

    def __init__(self, watch: StepWatch | None = None) -> None:
        self.watch = watch

    def _show(self, parameters: _Array) -> None:
        if self.watch:
            self.watch(parameters)

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """Measured on one core of a 2-core server: the overhead of calls per step, and a cost per parameter and sample."""
        n_features, n_hidden, n_latents = architecture.n_features, architecture.n_hidden, architecture.n_latents

        def training(steps: int, batch_size: int, units: int, parameters: int, models: int) -> float:
            overhead = 1.3e-5 * units + 1e-5 * batch_size * (batch_size > 1)
            return steps * (overhead * math.ceil(models / self.lanes) + models * parameters * (9e-9 + 4e-9 * batch_size))

        ae = training(protocol.ae_training_steps, protocol.ae_batch_size, n_features, n_features * (n_hidden + 1), autoencoders)
        sae = training(
            protocol.sae_training_steps, protocol.sae_batch_size, n_latents, n_latents * (2 * n_hidden + 1) + n_hidden, saes
        )
        return ae + sae

    def hidden(self, W: _Array, samples: _Array) -> _Array:
        """h = W x, (A, S, H), summed over features in order; W (H, N, A), samples (A, S, N), cast to W's dtype."""
        samples = samples.astype(W.dtype)
        h = np.empty((*samples.shape[:2], W.shape[0]), dtype=W.dtype)
        with np.errstate(all="ignore"):
            for lane, x in enumerate(samples):
                columns = np.ascontiguousarray(x.T)  # (N, S)
                h[lane] = ordered_sum(W[:, i, lane, None] * columns[i] for i in range(len(columns))).T
        return h

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, importances: _Array, protocol: Protocol
    ) -> Autoencoders:
        """Minimise the mean over a minibatch of Σ_i I_i (x_i − x̂_i)², x̂ = ReLU(Wᵀ W x + b).

        start: W (H, N, R) and b (N, R) in the training dtype; samples (R, S, N), cast to it; batches: None for stored order;
        importances: I, (N,).
        """
        n_hidden, n_features, lanes = start.W.shape
        parameters = np.concatenate([start.W.reshape(-1, lanes), start.b])
        samples = samples.astype(parameters.dtype)
        gradient = np.empty_like(parameters)
        W, b = _blocks(parameters, (n_hidden, n_features), (n_features,))
        grad_W, grad_b = _blocks(gradient, (n_hidden, n_features), (n_features,))
        twice_importances = (2 * importances).astype(parameters.dtype)[:, None]
        adam = _Adam(parameters, ae_schedule(protocol), protocol)

        self._show(parameters)
        with np.errstate(all="ignore"):
            for x in _minibatches(samples, batches, protocol.ae_batch_size, protocol.ae_training_steps):  # (B, N, R)
                h = ordered_sum(W[:, i] * x[:, None, i] for i in range(n_features))  # (B, H, R)
                s = ordered_sum((W[k] * h[:, k, None] for k in range(n_hidden)), b)  # (B, N, R)
                error = twice_importances * (np.maximum(s, 0) - x)
                error = np.where(s > 0, error, 0)  # dL/ds
                q = ordered_sum(W[:, i] * error[:, None, i] for i in range(n_features))  # dL/dh: (B, H, R)
                mean_over_batch(grad_W, (h[n][:, None] * error[n] + q[n][:, None] * x[n] for n in range(len(x))), len(x))
                mean_over_batch(grad_b, error, len(x))
                adam.step(gradient)
                self._show(parameters)
        return Autoencoders(W, b)

    def train_saes(self, task: SaeTask) -> SparseAutoencoders:
        """Minimise the mean of the variant's loss over a minibatch."""
        protocol, variant, controller = task.protocol, variant_of(task.protocol), task.controller
        parameters, l1 = task.start.stacked(), task.cast_l1
        saes, gradient, initial = task.start.with_values(parameters), np.zeros_like(parameters), parameters.copy()
        slopes = task.start.with_values(gradient).parameters
        adam, unit_norm = _Adam(parameters, sae_schedule(protocol), protocol), protocol.sae_decoder_norm == "unit"
        batch_size, steps = protocol.sae_batch_size, protocol.sae_training_steps
        self._show(parameters)
        with np.errstate(all="ignore"):
            minibatches = _minibatches(task.activations, task.batches, batch_size, steps, task.ae_of_sae)
            for t, h in enumerate(minibatches):  # (B, H, R)
                if controller:
                    l1 = controller.state[CURRENT]
                f = variant.gradients(saes.parameters, h, l1, protocol, slopes)
                if unit_norm:
                    _remove_radial_part(slopes["W_dec"], saes.W_dec)
                adam.step(gradient)
                _keep_allowed(saes, variant, unit_norm)
                if controller:
                    active = (f > 0).sum(axis=(0, 1)).astype(l1.dtype) * l1.dtype.type(1 / len(h))
                    steer(controller.state, active, controller.steps[t], controller.settings, parameters, initial)
                self._show(parameters)
        return saes


def _products(one: _Array, other: _Array) -> _Array:
    """Σ_i one_i other_i of columns (L, H, R): (L, R)."""
    return ordered_sum(one[:, i] * other[:, i] for i in range(one.shape[1]))


def _remove_radial_part(gradient: _Array, columns: _Array) -> None:
    """Remove the part of the gradient that changes the columns' norms, in place."""
    gradient -= _products(gradient, columns)[:, None] * columns


def _keep_allowed(saes: SparseAutoencoders, variant: Variant, unit_norm: bool) -> None:
    """Set the parameters back to where a step may not leave them: decoder columns to norm 1, others to their lowest value."""
    if unit_norm:
        saes.W_dec[...] /= np.sqrt(_products(saes.W_dec, saes.W_dec))[:, None]
    for parameter in variant.parameters:
        if parameter.lowest is not None:
            values = saes.parameters[parameter.name]
            np.maximum(values, parameter.lowest, out=values)


class _Adam:
    """Adam on a block of parameters (P, R), in place."""

    def __init__(self, parameters: _Array, tables: tuple[_Float, _Float], protocol: Protocol) -> None:
        dtype = parameters.dtype
        self.parameters = parameters
        self.M = np.zeros_like(parameters)
        self.V = np.zeros_like(parameters)
        self.beta1, self.beta2 = dtype.type(protocol.adam_beta1), dtype.type(protocol.adam_beta2)
        self.tiny = dtype.type(1e-30 if dtype == np.float32 else 1e-290)
        self.tables = zip(*(table.astype(dtype) for table in tables))
        self.scratch = np.empty_like(parameters)

    def step(self, gradient: _Array) -> None:
        """One update; `gradient` is overwritten."""
        a, e = next(self.tables)
        M, V, scratch = self.M, self.V, self.scratch
        M *= self.beta1
        M += gradient
        self._flush(M)
        np.multiply(gradient, gradient, out=gradient)
        V *= self.beta2
        V += gradient
        self._flush(V)
        np.sqrt(V, out=scratch)
        scratch += e
        np.multiply(M, a, out=gradient)
        gradient /= scratch
        self.parameters -= gradient

    def _flush(self, moment: _Array) -> None:
        np.abs(moment, out=self.scratch)
        small = (self.scratch < self.tiny) & (moment != 0)
        if small.any():
            moment[small] = 0


def _blocks(flat: _Array, *shapes: tuple[int, ...]) -> list[_Array]:
    """Views of (P, R) as its consecutive parameters, each (*shape, R)."""
    views, offset = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        views.append(flat[offset : offset + size].reshape(*shape, flat.shape[1]))
        offset += size
    return views


def _minibatches(
    samples: _Array, batches: Minibatches | None, batch_size: int, steps: int, lane_of: NDArray[np.int64] | None = None
) -> Iterable[_Array]:
    """Yield the minibatch of each step, (B, N, R), from samples (A, S, N); lane r reads samples[lane_of[r]]."""
    lanes = np.arange(len(samples)) if lane_of is None else lane_of
    if batches is None:
        stored = np.ascontiguousarray(np.transpose(samples[lanes], (1, 2, 0)))  # (R, S, N) -> (S, N, R)
        for step in range(steps):
            first = step * batch_size % len(stored)
            yield stored[first : first + batch_size]
    else:
        for step in range(steps):
            chosen = batches.drawn[batches.of_lane, step].T  # (B, R)
            yield np.ascontiguousarray(np.transpose(samples[lanes, chosen], (0, 2, 1)))  # (B, R, N) -> (B, N, R)
