"""The reference engine: plain NumPy, replicates on the last axis, every sum in a stated order.

It is the definition that other engines are held to, to the bit where they add in the same order. Hence:

* A sum over features, hidden units or latents starts at its first term (or at the bias, where there is one)
  and adds the others one by one, in index order; a sum over the samples of a minibatch likewise, then is
  multiplied by 1/B. Nothing is contracted (no fused multiply-add) and nothing is reassociated.
* Everything is computed in the training dtype. Adam's step sizes and epsilons are tabled in float64 and cast.
* Adam keeps m/(1 − β1) and v/(1 − β2), which saves two products a step: with g the gradient,
      M ← β1 M + g,   V ← β2 V + g²,   θ ← θ − A_t M / (√V + E_t),
      A_t = lr_t √(1−β2^t) (1−β1) / ((1−β1^t) √(1−β2)),   E_t = ε √(1−β2^t) / √(1−β2).
* M and V whose absolute value is under 1e-30 (float32) or 1e-290 (float64) are set to 0: no denormals.
* ReLU is max(s, 0); its derivative at 0 is 0. Of equal pre-activations `topk` takes the one of lower index.

A replicate is one lane of the last axis and never meets another, so its bits do not depend on its pack mates.
A diverging lane goes to inf or NaN and leaves the others alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, Minibatches, SparseAutoencoders
from study.engines.l1_controller import L1, L1Controller, steer
from study.engines.schedules import ae_schedule, sae_schedule

_Array = NDArray[Any]
_Float = NDArray[np.float64]


class ReferenceEngine:
    """NumPy, readable beside the formulas; the oracle of the `exact` engine family."""

    name = "reference"
    family = "exact"
    lanes = 256
    """Autoencoders that are trained together, with all SAEs on them; of so many the parameters stay in a core's cache."""

    def seconds(self, architecture: Architecture, protocol: Protocol, autoencoders: int, saes: int, dtype: str) -> float:
        """Measured on one core of a 2-core server: a call's overhead a step, and a cost a parameter and sample."""
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
                h[lane] = _ordered_sum(W[:, i, lane, None] * columns[i] for i in range(len(columns))).T
        return h

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, weights: _Array, protocol: Protocol
    ) -> Autoencoders:
        """Minimise the mean over a minibatch of Σ_i I_i (x_i − x̂_i)², x̂ = ReLU(Wᵀ W x + b).

        start: W (H, N, R) and b (N, R) in the training dtype; samples (R, S, N), cast to it; batches: None for stored order;
        weights: the importances I, (N,).
        """
        n_hidden, n_features, lanes = start.W.shape
        parameters = np.concatenate([start.W.reshape(-1, lanes), start.b])
        samples = samples.astype(parameters.dtype)
        gradient = np.empty_like(parameters)
        W, b = _blocks(parameters, (n_hidden, n_features), (n_features,))
        grad_W, grad_b = _blocks(gradient, (n_hidden, n_features), (n_features,))
        twice_weights = (2 * weights).astype(parameters.dtype)[:, None]
        adam = _Adam(parameters, ae_schedule(protocol), protocol)

        with np.errstate(all="ignore"):
            for x in _minibatches(samples, batches, protocol.ae_batch_size, protocol.ae_training_steps):  # (B, N, R)
                h = _ordered_sum(W[:, i] * x[:, None, i] for i in range(n_features))  # (B, H, R)
                s = _ordered_sum((W[k] * h[:, k, None] for k in range(n_hidden)), b)  # (B, N, R)
                error = twice_weights * (np.maximum(s, 0) - x)
                error = np.where(s > 0, error, 0)  # dL/ds
                q = _ordered_sum(W[:, i] * error[:, None, i] for i in range(n_features))  # dL/dh: (B, H, R)
                _mean_over_batch(grad_W, (h[n][:, None] * error[n] + q[n][:, None] * x[n] for n in range(len(x))), len(x))
                _mean_over_batch(grad_b, error, len(x))
                adam.step(gradient)
        return Autoencoders(W, b)

    def train_saes(
        self,
        start: SparseAutoencoders,
        activations: _Array,
        ae_of_sae: NDArray[np.int64],
        batches: Minibatches | None,
        l1: _Array,
        protocol: Protocol,
        controller: L1Controller | None = None,
    ) -> SparseAutoencoders:
        """Minimise the mean over a minibatch of ‖h − ĥ‖² + l1 Σ_j f_j; under `jumprelu` of ‖h − ĥ‖² + l1 Σ_j [f_j > 0].

        f = σ(W_enc u + b_enc) with u = h, or h − b_dec where the protocol subtracts it; ĥ = W_dec f + b_dec.
        The thresholds θ of `jumprelu` have the straight-through gradient −(l1 + θ dL/df)/ε within ε/2 of the pre-activation
        (Rajamanoharan et al. 2024, equations 11 and 12), ε being the bandwidth.
        start: W_enc (L, H, R), b_enc (L, R), W_dec by columns (L, H, R), b_dec (H, R); activations h (A, S, H) of
        the A autoencoders, ae_of_sae (R,) the one that each SAE sees; l1 (R,), held, unless there is a controller, whose l1
        is taken and which is told the minibatch's mean Σ_j [f_j > 0] after each step.
        """
        n_latents, n_hidden, lanes = start.W_enc.shape
        shapes = ((n_latents, n_hidden), (n_latents,), (n_latents, n_hidden), (n_hidden,), (n_latents,))
        blocks = (start.W_enc.reshape(-1, lanes), start.b_enc, start.W_dec.reshape(-1, lanes), start.b_dec, start.threshold)
        parameters = np.concatenate(blocks)
        gradient = np.zeros_like(parameters)
        W_enc, b_enc, W_dec, b_dec, threshold = _blocks(parameters, *shapes)
        grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, grad_threshold = _blocks(gradient, *shapes)
        with np.errstate(over="ignore"):  # too large for float32: inf, and the replicate diverges
            l1 = l1.astype(parameters.dtype)
        two, half_bandwidth = parameters.dtype.type(2), parameters.dtype.type(protocol.sae_threshold_bandwidth / 2)
        per_bandwidth = parameters.dtype.type(1 / protocol.sae_threshold_bandwidth)
        jumps = protocol.sae_variant == "jumprelu"
        adam = _Adam(parameters, sae_schedule(protocol), protocol)
        initial = parameters.copy()
        centred, unit_norm = protocol.sae_subtract_decoder_bias, protocol.sae_decoder_norm == "unit"

        with np.errstate(all="ignore"):
            minibatches = _minibatches(activations, batches, protocol.sae_batch_size, protocol.sae_training_steps, ae_of_sae)
            for t, h in enumerate(minibatches):
                if controller:
                    l1 = controller.state[L1]
                u = h - b_dec if centred else h  # (B, H, R)
                s = _ordered_sum((W_enc[:, i] * u[:, None, i] for i in range(n_hidden)), b_enc)  # (B, L, R)
                f = code(s, threshold, protocol)
                r = two * (_ordered_sum((W_dec[j] * f[:, j, None] for j in range(n_latents)), b_dec) - h)  # dL/dĥ: (B, H, R)
                q = _ordered_sum((W_dec[:, i] * r[:, None, i] for i in range(n_hidden)), None if jumps else l1)  # dL/df: (B, L, R)
                if jumps:
                    near = np.abs(s - threshold) < half_bandwidth
                    pull = np.where(near, -((l1 + threshold * q) * per_bandwidth), 0)
                    _mean_over_batch(grad_threshold, pull, len(h))
                q = np.where(f > 0, q, 0)  # dL/ds
                _mean_over_batch(grad_W_enc, (q[n][:, None] * u[n] for n in range(len(h))), len(h))
                _mean_over_batch(grad_b_enc, q, len(h))
                _mean_over_batch(grad_W_dec, (f[n][:, None] * r[n] for n in range(len(h))), len(h))
                if centred:
                    r = r - _ordered_sum(W_enc[j] * q[:, j, None] for j in range(n_latents))
                _mean_over_batch(grad_b_dec, r, len(h))
                if unit_norm:
                    radial = _ordered_sum(grad_W_dec[:, i] * W_dec[:, i] for i in range(n_hidden))  # (L, R)
                    grad_W_dec -= radial[:, None] * W_dec
                adam.step(gradient)
                if unit_norm:
                    W_dec /= np.sqrt(_ordered_sum(W_dec[:, i] * W_dec[:, i] for i in range(n_hidden)))[:, None]
                if jumps:
                    np.maximum(threshold, 0, out=threshold)
                if controller:
                    active = (f > 0).sum(axis=(0, 1)).astype(l1.dtype) * l1.dtype.type(1 / len(h))
                    steer(controller.state, active, controller.steps[t], controller.settings, parameters, initial)
        return SparseAutoencoders(W_enc, b_enc, W_dec, b_dec, threshold)


def code(s: _Array, threshold: _Array, protocol: Protocol) -> _Array:
    """f from the pre-activations s (B, L, R) and the thresholds (L, R) of `jumprelu`."""
    if protocol.sae_variant == "jumprelu":
        return np.where(s > threshold, s, 0)
    f = np.maximum(s, 0)
    if protocol.sae_variant == "topk":
        latents = range(s.shape[1])
        before = np.stack([sum((s[:, i] >= s[:, j]) if i < j else (s[:, i] > s[:, j]) for i in latents) for j in latents], axis=1)
        f = np.where(before < protocol.sae_k, f, 0)
    return f


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


def _ordered_sum(terms: Iterable[_Array], start: _Array | None = None) -> _Array:
    """start + first + second + …, added one by one in this order."""
    remaining = iter(terms)
    first = next(remaining)
    total = first if start is None else start + first
    for term in remaining:
        total += term  # `total` is ours: a product, or the sum just made
    return total


def _mean_over_batch(out: _Array, terms: Iterable[_Array], count: int) -> None:
    """out ← (first + second + …)/count, added in order; untouched by the division where count is 1."""
    remaining = iter(terms)
    out[...] = next(remaining)
    for term in remaining:
        out += term
    if count > 1:
        out *= out.dtype.type(1 / count)


def _blocks(flat: _Array, *shapes: tuple[int, ...]) -> list[_Array]:
    """Views of (P, R) as the parameters that lie in it one behind the other, each (*shape, R)."""
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
