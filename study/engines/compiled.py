"""The compiled engine: numba kernels with replicates in the SIMD lanes, to the bit what `engine_reference` trains.

Each sum has the reference's order, nothing is contracted and nothing reassociated. A group of lanes (16 replicates in
float32, 8 in float64) is trained from its first step to its last with its parameters in the core's cache. Arrays are (rows,
lanes); a model's rows are its parameters in the reference's order. Kernels take their sizes at run time: one compilation a
dtype, kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, Minibatches, SparseAutoencoders
from study.engines.l1_controller import L1, L1Controller, steer
from study.engines.schedules import ae_schedule, sae_schedule
from study.kernels.compilation import called, inlined, kernel
from study.kernels.lanes import JUMPRELU, RELU, VARIANTS, groups, hidden, keep, lay_out, product, relu, rows_of, take_back
from study.kernels.simd import absolute, everywhere, gather, lanes_of, load, prefetch, rows, square_root, store, where_less

_Array = NDArray[Any]

Watch = Callable[[_Array], None]
"""Told the parameters of a group, (P, lanes), before the first step and after every step; they are overwritten by the next."""

TILE = 4
"""Samples of a minibatch that pass through the kernel together: a weight is loaded once for all of them."""
CALL_SECONDS = 0.2
"""A kernel returns to Python about so often: Ctrl-C waits for it."""
# Places in the array of constants that every kernel is given.
BETA1, BETA2, TINY, PER_BATCH, ACTIVE, HALF_BANDWIDTH, PER_BANDWIDTH, ZERO, ONE, TWO, MINUS_ONE = range(11)


class CompiledEngine:
    """The default on CPUs: bit-equal to the reference, at the speed of the processor's divider."""

    name = "compiled"
    family = "exact"
    lanes = 64
    """Autoencoders whose samples are laid out together, with all SAEs on them; a multiple of a group."""

    def __init__(self, watch: Watch | None = None) -> None:
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
        x, out = rows(samples.shape[1] * n_features, W.dtype), rows(samples.shape[1] * n_hidden, W.dtype)
        for lanes in groups(len(samples), W.dtype):
            lay_out(samples, lanes, x)
            hidden(rows_of(W.reshape(-1, W.shape[2]), lanes), x, out, n_features, n_hidden)
            take_back(out, lanes, h)
        return h

    def train_autoencoders(
        self, start: Autoencoders, samples: _Array, batches: Minibatches | None, weights: _Array, protocol: Protocol
    ) -> Autoencoders:
        """As `ReferenceEngine.train_autoencoders`, to the bit."""
        n_hidden, n_features, count = start.W.shape
        parameters = np.concatenate([start.W.reshape(-1, count), start.b])
        training = _Training.of(parameters, ae_schedule(protocol), protocol.ae_batch_size, protocol, self.watch)
        twice_weights, sizes = (2 * weights).astype(parameters.dtype), (n_features, n_hidden)
        online = batches is None and protocol.ae_batch_size == 1
        if not online:
            samples = samples.astype(parameters.dtype)
        x = rows(samples.shape[1] * n_features if online else 0, parameters.dtype)
        scratch = rows(TILE * 2 * (n_features + n_hidden) + len(parameters), parameters.dtype)
        for lanes in groups(count, parameters.dtype):
            state = training.state(lanes)
            if online:
                lay_out(samples, lanes, x)
                training.run(_train_ae_online, state, scratch, x, twice_weights, *sizes)
            else:
                sources = _sources(batches, lanes, lanes)
                training.run(_train_ae_minibatch, state, scratch, samples, *sources, twice_weights, protocol.ae_batch_size, *sizes)
            training.take_back(state, lanes)
        return Autoencoders(parameters[: n_hidden * n_features].reshape(start.W.shape), parameters[n_hidden * n_features :])

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
        """As `ReferenceEngine.train_saes`, to the bit."""
        n_latents, n_hidden, count = start.W_enc.shape
        blocks = start.W_enc.reshape(-1, count), start.b_enc, start.W_dec.reshape(-1, count), start.b_dec, start.threshold
        parameters = np.concatenate(blocks)
        dtype = parameters.dtype
        with np.errstate(over="ignore"):  # too large for float32: inf, and the replicate diverges
            l1 = l1.astype(dtype)
        control = controller.state if controller else l1[None]
        tables = (controller.steps, controller.settings) if controller else (np.empty((0, 3), dtype), np.empty(0, dtype))
        training = _Training.of(parameters, sae_schedule(protocol), protocol.sae_batch_size, protocol, self.watch)
        free = protocol.sae_decoder_norm == "free" and not protocol.sae_subtract_decoder_bias
        online = batches is None and protocol.sae_batch_size == 1 and free and not controller
        variant, sizes = VARIANTS[protocol.sae_variant], (n_hidden, n_latents)
        h = rows(activations.shape[1] * n_hidden if online else 0, dtype)
        scratch = rows(TILE * 3 * (n_hidden + n_latents) + len(parameters), dtype)
        for lanes in groups(count, dtype):
            state = training.state(lanes)
            steering = rows_of(control, lanes)
            if online:
                lay_out(activations, ae_of_sae[lanes], h)
                training.run(_train_sae_online, state, scratch, h, steering, variant, *sizes)
            else:
                settings = protocol.sae_subtract_decoder_bias, protocol.sae_decoder_norm == "unit"
                sources = _sources(batches, lanes, ae_of_sae[lanes])
                arguments = activations, *sources, steering, *tables, state[0].copy(), protocol.sae_batch_size
                training.run(_train_sae_minibatch, state, scratch, *arguments, variant, *settings, *sizes)
                control[:, lanes] = steering
            training.take_back(state, lanes)
        bounds = np.cumsum([len(block) for block in blocks])[:-1]
        W_enc, b_enc, W_dec, b_dec, threshold = np.split(parameters, bounds)
        return SparseAutoencoders(W_enc.reshape(start.W_enc.shape), b_enc, W_dec.reshape(start.W_dec.shape), b_dec, threshold)


def _step_seconds(parameters: int, batch_size: int, sample_seconds: float, dtype: str) -> float:
    """A step's square roots and divisions, and for each sample of a minibatch its products and its gathering (float32)."""
    adam, slower = (1e-9 + 0.37e-9 * parameters, 1) if dtype == "float32" else (2e-9 + 1.05e-9 * parameters, 1.8)
    return adam + slower * sample_seconds * batch_size * (batch_size > 1)


@dataclass(frozen=True, eq=False)
class _Training:
    """What every group of lanes shares: the parameters (P, R), replaced in place, and Adam's tables."""

    parameters: _Array
    steps: _Array
    """A_t of Adam, (T,)."""
    epsilons: _Array
    constants: _Array
    steps_a_call: int
    watch: Watch | None

    @classmethod
    def of(
        cls, parameters: _Array, tables: tuple[_Array, _Array], batch_size: int, protocol: Protocol, watch: Watch | None
    ) -> _Training:
        dtype = parameters.dtype
        steps, epsilons = tables
        tiny = 1e-30 if dtype == np.float32 else 1e-290
        active, bandwidth = protocol.sae_k or 0, protocol.sae_threshold_bandwidth
        adam = protocol.adam_beta1, protocol.adam_beta2, tiny
        constants = [*adam, 1 / batch_size, active, bandwidth / 2, 1 / bandwidth, 0, 1, 2, -1]
        seconds = _step_seconds(len(parameters), batch_size, 0.3e-9 * len(parameters), str(dtype)) * lanes_of(dtype)
        steps_a_call = 1 if watch else max(1, int(CALL_SECONDS / seconds))
        return cls(parameters, steps.astype(dtype), epsilons.astype(dtype), np.array(constants, dtype), steps_a_call, watch)

    def state(self, lanes: NDArray[np.int64]) -> tuple[_Array, _Array, _Array]:
        """Parameters and Adam's two moments of a group, (P, lanes) each."""
        count, dtype = len(self.parameters), self.parameters.dtype
        return rows_of(self.parameters, lanes), rows(count, dtype), rows(count, dtype)

    def run(self, train: Callable[..., None], state: tuple[_Array, ...], scratch: _Array, *arguments: Any) -> None:
        """All steps of a group, some at a time."""
        total = len(self.steps)
        if self.watch:
            self.watch(state[0])
        for first in range(0, total, self.steps_a_call):
            last = min(first + self.steps_a_call, total)
            train(*state, scratch, self.steps, self.epsilons, self.constants, first, last, *arguments)
            if self.watch:
                self.watch(state[0])

    def take_back(self, state: tuple[_Array, ...], lanes: NDArray[np.int64]) -> None:
        """Store the group's parameters; a lane that only filled the group is a copy of the last and stores the same."""
        self.parameters[:, lanes] = state[0]


def _sources(
    batches: Minibatches | None, lanes: NDArray[np.int64], samples_of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], bool]:
    """Whose samples each lane reads, what was drawn (D, T, B), which of the D each lane takes, and whether all read the same.

    Nothing is drawn, (1, 0, 1), where samples come in stored order.
    """
    if batches is None:
        return samples_of, np.empty((1, 0, 1), np.int32), np.zeros_like(lanes), bool((samples_of == samples_of[0]).all())
    of_lane = batches.of_lane[lanes]
    alike = (samples_of == samples_of[0]).all() and (of_lane == of_lane[0]).all()
    return samples_of, batches.drawn, of_lane, bool(alike)


_steer = called(steer)


@inlined
def _adam(P, M, V, row, gradient, beta1, beta2, tiny, zero, a, e):
    """One parameter's update; the first and second moment are flushed as in the reference."""
    m = beta1 * load(M, row) + gradient
    m = where_less(absolute(m), tiny, zero, m)
    v = beta2 * load(V, row) + gradient * gradient
    v = where_less(absolute(v), tiny, zero, v)
    store(M, row, m)
    store(V, row, v)
    store(P, row, load(P, row) - m * a / (square_root(v) + e))


@kernel
def _train_ae_online(P, M, V, scratch, A, E, C, first, last, X, twice_weights, n_features, n_hidden):
    """Steps first … last of the autoencoder on one sample each, in stored order; X (S·N, lanes)."""
    beta1, beta2, tiny, zero = everywhere(C[BETA1]), everywhere(C[BETA2]), everywhere(C[TINY]), everywhere(C[ZERO])
    samples = X.shape[0] // n_features
    bias, error = n_hidden * n_features, n_hidden  # rows: b in P; dL/ds behind h in the scratch
    x = (first % samples) * n_features
    for t in range(first, last):
        a, e = everywhere(A[t]), everywhere(E[t])
        for k in range(n_hidden):
            store(scratch, k, product(P, k * n_features, X, x, n_features))
        for i in range(n_features):
            s = load(P, bias + i)
            for k in range(n_hidden):
                s = s + load(P, k * n_features + i) * load(scratch, k)
            ds = everywhere(twice_weights[i]) * (relu(s, zero) - load(X, x + i))
            store(scratch, error + i, where_less(zero, s, ds, zero))
        for k in range(n_hidden):
            h, q = load(scratch, k), product(P, k * n_features, scratch, error, n_features)
            for i in range(n_features):
                gradient = h * load(scratch, error + i) + q * load(X, x + i)
                _adam(P, M, V, k * n_features + i, gradient, beta1, beta2, tiny, zero, a, e)
        for i in range(n_features):
            _adam(P, M, V, bias + i, load(scratch, error + i), beta1, beta2, tiny, zero, a, e)
        x = x + n_features if x + n_features < X.shape[0] else 0


@inlined
def _pull(penalty, threshold, s, q, C):
    """The straight-through gradient of a threshold of `jumprelu`."""
    pull = everywhere(C[MINUS_ONE]) * ((penalty + threshold * q) * everywhere(C[PER_BANDWIDTH]))
    return where_less(absolute(s - threshold), everywhere(C[HALF_BANDWIDTH]), pull, everywhere(C[ZERO]))


@kernel
def _train_sae_online(P, M, V, scratch, A, E, C, first, last, Z, l1, variant, n_hidden, n_latents):
    """Steps first … last of the SAE on one sample each, in stored order; activations Z (S·H, lanes), l1 (1, lanes)."""
    beta1, beta2, tiny = everywhere(C[BETA1]), everywhere(C[BETA2]), everywhere(C[TINY])
    zero, one, two, active = everywhere(C[ZERO]), everywhere(C[ONE]), everywhere(C[TWO]), everywhere(C[ACTIVE])
    penalty = load(l1, 0)
    samples = Z.shape[0] // n_hidden
    b_enc = n_latents * n_hidden
    W_dec = b_enc + n_latents
    b_dec = W_dec + n_latents * n_hidden
    thresholds = b_dec + n_hidden
    f, r = n_latents, 2 * n_latents  # rows behind the pre-activations in the scratch
    z = (first % samples) * n_hidden
    for t in range(first, last):
        a, e = everywhere(A[t]), everywhere(E[t])
        for j in range(n_latents):
            s = load(P, b_enc + j)
            for i in range(n_hidden):
                s = s + load(P, j * n_hidden + i) * load(Z, z + i)
            store(scratch, j, s)
            store(scratch, f + j, relu(s, zero))
        if variant != RELU:
            keep(scratch, P, 0, f, thresholds, n_latents, variant, active, zero, one)
        for i in range(n_hidden):
            s = load(P, b_dec + i)
            for j in range(n_latents):
                s = s + load(P, W_dec + j * n_hidden + i) * load(scratch, f + j)
            store(scratch, r + i, two * (s - load(Z, z + i)))
        for j in range(n_latents):
            column, code = W_dec + j * n_hidden, load(scratch, f + j)
            if variant == JUMPRELU:
                q = product(P, column, scratch, r, n_hidden)
                pull = _pull(penalty, load(P, thresholds + j), load(scratch, j), q, C)
                _adam(P, M, V, thresholds + j, pull, beta1, beta2, tiny, zero, a, e)
                store(P, thresholds + j, relu(load(P, thresholds + j), zero))
            else:
                q = penalty
                for i in range(n_hidden):
                    q = q + load(P, column + i) * load(scratch, r + i)
            q = where_less(zero, code, q, zero)
            for i in range(n_hidden):
                _adam(P, M, V, j * n_hidden + i, q * load(Z, z + i), beta1, beta2, tiny, zero, a, e)
                _adam(P, M, V, column + i, code * load(scratch, r + i), beta1, beta2, tiny, zero, a, e)
            _adam(P, M, V, b_enc + j, q, beta1, beta2, tiny, zero, a, e)
        for i in range(n_hidden):
            _adam(P, M, V, b_dec + i, load(scratch, r + i), beta1, beta2, tiny, zero, a, e)
        z = z + n_hidden if z + n_hidden < Z.shape[0] else 0


@inlined
def _gather(samples, lanes, drawn, of_lane, alike, chosen, t, n, batch_size, out, width):
    """Samples n … n + TILE of minibatch t, each lane its own, into the first TILE·width rows; zeros behind the minibatch's end.

    alike: whether all lanes read the same. Online indexes are drawn at random: those of the next step are prefetched.
    """
    stored, later = drawn.shape[1] == 0, min(t + 1, drawn.shape[1] - 1)
    for tile in range(TILE):
        row = tile * width
        if n + tile >= batch_size:
            for i in range(width):
                store(out, row + i, everywhere(out.dtype.type(0)))
        elif alike:
            at = (t * batch_size + n + tile) % samples.shape[1] if stored else drawn[of_lane[0], t, n + tile]
            for i in range(width):
                store(out, row + i, everywhere(samples[lanes[0], at, i]))
        else:
            for lane in range(out.shape[1]):
                at = (t * batch_size + n + tile) % samples.shape[1] if stored else drawn[of_lane[lane], t, n + tile]
                chosen[lane] = at
                if not stored:
                    prefetch(samples, lanes[lane], drawn[of_lane[lane], later, n + tile])
            for i in range(width):
                store(out, row + i, gather(samples, lanes, chosen, i))


@inlined
def _tile_products(P, p, step, X, x, width, count, s0, s1, s2, s3):
    """s + Σ_i P[p + i·step] X[x + i] for the four samples of a tile, whose rows are `width` apart."""
    for i in range(count):
        weight = load(P, p + i * step)
        s0 = s0 + weight * load(X, x + i)
        s1 = s1 + weight * load(X, x + width + i)
        s2 = s2 + weight * load(X, x + 2 * width + i)
        s3 = s3 + weight * load(X, x + 3 * width + i)
    return s0, s1, s2, s3


@inlined
def _tile_sums(P, p, step, X, x, width, count):
    """The same from the first term on."""
    weight = load(P, p)
    s0, s1 = weight * load(X, x), weight * load(X, x + width)
    s2, s3 = weight * load(X, x + 2 * width), weight * load(X, x + 3 * width)
    return _tile_products(P, p + step, step, X, x + 1, width, count - 1, s0, s1, s2, s3)


@inlined
def _load_tile(X, x, width):
    """The rows of the four samples of a tile."""
    return load(X, x), load(X, x + width), load(X, x + 2 * width), load(X, x + 3 * width)


@inlined
def _store_tile(out, row, width, s0, s1, s2, s3):
    store(out, row, s0)
    store(out, row + width, s1)
    store(out, row + 2 * width, s2)
    store(out, row + 3 * width, s3)


@kernel
def _train_ae_minibatch(
    P, M, V, scratch, A, E, C, first, last, samples, lanes, drawn, of_lane, alike, twice_weights, batch_size, n_features, n_hidden
):
    """Steps first … last of the autoencoder on minibatches; samples (A, S, N), drawn (D, T, B)."""
    beta1, beta2, tiny, zero = everywhere(C[BETA1]), everywhere(C[BETA2]), everywhere(C[TINY]), everywhere(C[ZERO])
    bias, parameters = n_hidden * n_features, P.shape[0]
    h = TILE * n_features  # rows of the scratch: x of the tile, h, dL/ds, dL/dh, then the gradient
    ds = h + TILE * n_hidden
    dh = ds + TILE * n_features
    G = dh + TILE * n_hidden
    chosen = np.empty(scratch.shape[1], np.int64)
    for t in range(first, last):
        for row in range(parameters):
            store(scratch, G + row, zero)
        for n in range(0, batch_size, TILE):
            _gather(samples, lanes, drawn, of_lane, alike, chosen, t, n, batch_size, scratch, n_features)
            for k in range(n_hidden):
                s0, s1, s2, s3 = _tile_sums(P, k * n_features, 1, scratch, 0, n_features, n_features)
                _store_tile(scratch, h + k, n_hidden, s0, s1, s2, s3)
            for i in range(n_features):
                b = load(P, bias + i)
                s0, s1, s2, s3 = _tile_products(P, i, n_features, scratch, h, n_hidden, n_hidden, b, b, b, b)
                _store_tile(scratch, ds + i, n_features, s0, s1, s2, s3)
            for tile in range(TILE):
                for i in range(n_features):
                    row = ds + tile * n_features + i
                    s = load(scratch, row)
                    slope = everywhere(twice_weights[i]) * (relu(s, zero) - load(scratch, tile * n_features + i))
                    slope = where_less(zero, s, slope, zero)
                    store(scratch, row, slope if n + tile < batch_size else zero)
            for k in range(n_hidden):
                s0, s1, s2, s3 = _tile_sums(P, k * n_features, 1, scratch, ds, n_features, n_features)
                _store_tile(scratch, dh + k, n_hidden, s0, s1, s2, s3)
            for k in range(n_hidden):
                h0, h1, h2, h3 = _load_tile(scratch, h + k, n_hidden)
                q0, q1, q2, q3 = _load_tile(scratch, dh + k, n_hidden)
                for i in range(n_features):
                    e0, e1, e2, e3 = _load_tile(scratch, ds + i, n_features)
                    x0, x1, x2, x3 = _load_tile(scratch, i, n_features)
                    gradient = (load(scratch, G + k * n_features + i) + (h0 * e0 + q0 * x0)) + (h1 * e1 + q1 * x1)
                    store(scratch, G + k * n_features + i, (gradient + (h2 * e2 + q2 * x2)) + (h3 * e3 + q3 * x3))
            for i in range(n_features):
                e0, e1, e2, e3 = _load_tile(scratch, ds + i, n_features)
                store(scratch, G + bias + i, (((load(scratch, G + bias + i) + e0) + e1) + e2) + e3)
        a, e, mean = everywhere(A[t]), everywhere(E[t]), everywhere(C[PER_BATCH])
        for row in range(parameters):
            _adam(P, M, V, row, load(scratch, G + row) * mean, beta1, beta2, tiny, zero, a, e)


@kernel
def _train_sae_minibatch(
    P,
    M,
    V,
    scratch,
    A,
    E,
    C,
    first,
    last,
    activations,
    lanes,
    drawn,
    of_lane,
    alike,
    control,
    control_steps,
    settings,
    initial,
    batch_size,
    variant,
    centred,
    unit_norm,
    n_hidden,
    n_latents,
):
    """Steps first … last of the SAE on minibatches; activations (A, S, H), drawn (D, T, B).

    control (4, lanes), control_steps (T, 3) and settings are an `L1Controller`'s. Where l1 is held control is it, (1, lanes), and
    control_steps are empty. initial: P before the first step.
    """
    beta1, beta2, tiny = everywhere(C[BETA1]), everywhere(C[BETA2]), everywhere(C[TINY])
    zero, one, two, active = everywhere(C[ZERO]), everywhere(C[ONE]), everywhere(C[TWO]), everywhere(C[ACTIVE])
    parameters, steered = P.shape[0], control_steps.shape[0] > 0
    b_enc = n_latents * n_hidden
    W_dec = b_enc + n_latents
    b_dec = W_dec + n_latents * n_hidden
    thresholds = b_dec + n_hidden
    u = TILE * n_hidden  # rows of the scratch: h of the tile, u, dL/dĥ, s, f, dL/ds, then the gradient
    r = u + TILE * n_hidden
    s = r + TILE * n_hidden
    f = s + TILE * n_latents
    q = f + TILE * n_latents
    G = q + TILE * n_latents
    chosen = np.empty(scratch.shape[1], np.int64)
    counted = np.empty_like(control)
    for t in range(first, last):
        penalty, count = load(control, L1), zero
        for row in range(parameters):
            store(scratch, G + row, zero)
        for n in range(0, batch_size, TILE):
            _gather(activations, lanes, drawn, of_lane, alike, chosen, t, n, batch_size, scratch, n_hidden)
            for tile in range(TILE):
                for i in range(n_hidden):
                    value = load(scratch, tile * n_hidden + i)
                    if centred:
                        value = value - load(P, b_dec + i)
                    store(scratch, u + tile * n_hidden + i, value)
            for j in range(n_latents):
                b = load(P, b_enc + j)
                s0, s1, s2, s3 = _tile_products(P, j * n_hidden, 1, scratch, u, n_hidden, n_hidden, b, b, b, b)
                _store_tile(scratch, s + j, n_latents, s0, s1, s2, s3)
                _store_tile(scratch, f + j, n_latents, relu(s0, zero), relu(s1, zero), relu(s2, zero), relu(s3, zero))
            for tile in range(TILE):
                if variant != RELU:
                    row = tile * n_latents
                    keep(scratch, P, s + row, f + row, thresholds, n_latents, variant, active, zero, one)
                if n + tile >= batch_size:
                    for j in range(n_latents):
                        store(scratch, f + tile * n_latents + j, zero)
            for i in range(n_hidden):
                b = load(P, b_dec + i)
                s0, s1, s2, s3 = _tile_products(P, W_dec + i, n_hidden, scratch, f, n_latents, n_latents, b, b, b, b)
                _store_tile(scratch, r + i, n_hidden, s0, s1, s2, s3)
            for tile in range(TILE):
                for i in range(n_hidden):
                    row = tile * n_hidden + i
                    slope = two * (load(scratch, r + row) - load(scratch, row))
                    store(scratch, r + row, slope if n + tile < batch_size else zero)
            for j in range(n_latents):
                column = W_dec + j * n_hidden
                if variant == JUMPRELU:
                    s0, s1, s2, s3 = _tile_sums(P, column, 1, scratch, r, n_hidden, n_hidden)
                else:
                    s0, s1, s2, s3 = _tile_products(
                        P, column, 1, scratch, r, n_hidden, n_hidden, penalty, penalty, penalty, penalty
                    )
                _store_tile(scratch, q + j, n_latents, s0, s1, s2, s3)
            for tile in range(TILE):
                for j in range(n_latents):
                    row = tile * n_latents + j
                    slope = load(scratch, q + row)
                    if variant == JUMPRELU and n + tile < batch_size:
                        pull = _pull(penalty, load(P, thresholds + j), load(scratch, s + row), slope, C)
                        store(scratch, G + thresholds + j, load(scratch, G + thresholds + j) + pull)
                    store(scratch, q + row, where_less(zero, load(scratch, f + row), slope, zero))
                    if steered:
                        count = count + where_less(zero, load(scratch, f + row), one, zero)
            for j in range(n_latents):
                q0, q1, q2, q3 = _load_tile(scratch, q + j, n_latents)
                f0, f1, f2, f3 = _load_tile(scratch, f + j, n_latents)
                for i in range(n_hidden):
                    encoder, decoder = G + j * n_hidden + i, G + W_dec + j * n_hidden + i
                    u0, u1, u2, u3 = _load_tile(scratch, u + i, n_hidden)
                    r0, r1, r2, r3 = _load_tile(scratch, r + i, n_hidden)
                    store(scratch, encoder, (((load(scratch, encoder) + q0 * u0) + q1 * u1) + q2 * u2) + q3 * u3)
                    store(scratch, decoder, (((load(scratch, decoder) + f0 * r0) + f1 * r1) + f2 * r2) + f3 * r3)
                store(scratch, G + b_enc + j, (((load(scratch, G + b_enc + j) + q0) + q1) + q2) + q3)
            for i in range(n_hidden):
                if centred:
                    s0, s1, s2, s3 = _tile_sums(P, i, n_hidden, scratch, q, n_latents, n_latents)
                else:
                    s0, s1, s2, s3 = zero, zero, zero, zero
                r0, r1, r2, r3 = _load_tile(scratch, r + i, n_hidden)
                gradient = (((load(scratch, G + b_dec + i) + (r0 - s0)) + (r1 - s1)) + (r2 - s2)) + (r3 - s3)
                store(scratch, G + b_dec + i, gradient)
        a, e, mean = everywhere(A[t]), everywhere(E[t]), everywhere(C[PER_BATCH])
        for row in range(parameters):
            store(scratch, G + row, load(scratch, G + row) * mean)
        if unit_norm:
            for j in range(n_latents):
                column = W_dec + j * n_hidden
                radial = product(scratch, G + column, P, column, n_hidden)
                for i in range(n_hidden):
                    gradient = load(scratch, G + column + i) - radial * load(P, column + i)
                    store(scratch, G + column + i, gradient)
        for row in range(parameters if variant == JUMPRELU else thresholds):
            _adam(P, M, V, row, load(scratch, G + row), beta1, beta2, tiny, zero, a, e)
        if unit_norm:
            for j in range(n_latents):
                column = W_dec + j * n_hidden
                norm = square_root(product(P, column, P, column, n_hidden))
                for i in range(n_hidden):
                    store(P, column + i, load(P, column + i) / norm)
        if variant == JUMPRELU:
            for j in range(n_latents):
                store(P, thresholds + j, relu(load(P, thresholds + j), zero))
        if steered:
            store(counted, 0, count * mean)
            _steer(control, counted[0], control_steps[t], settings, P, initial)
