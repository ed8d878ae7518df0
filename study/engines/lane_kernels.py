"""The compiled engine's kernels: Adam steps of autoencoders and of SAEs, one replicate per lane. `compiled.py` calls them.

Arrays are (rows, lanes); a model's rows are its parameters in the reference's order. Each sum has the reference's order. Kernels
get their sizes at run time. Those of SAEs are compiled once per variant (`study.kernels.lane_code`) and share the forward pass
with the metrics (`study.kernels.forward`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from study.engines.l1_controller import steer
from study.kernels.compilation import called, inlined, kernel
from study.kernels.forward import (
    TILE,
    decode_tile,
    decoded,
    encode,
    encode_tile,
    load_tile,
    store_tile,
    tile_products,
    tile_sums,
)
from study.kernels.lane_code import has_own, own_gradient, own_kept, penalises_code, slope
from study.kernels.lanes import constants_of, product, product_from, relu
from study.kernels.simd import absolute, everywhere, gather, load, prefetch, square_root, store, where_less


class Model(NamedTuple):
    """A group of lanes: rows of parameters, of Adam's two moments, and scratch."""

    P: Any
    M: Any
    V: Any
    scratch: Any


class Steps(NamedTuple):
    """What every group shares: Adam's tables A_t and E_t, (T,), and its constants."""

    A: Any
    E: Any
    adam: Any
    """β1, β2, the least absolute value of a moment that is not flushed to 0, and 1/B."""
    settings: Any
    """The numbers that the variant's lane code reads."""


class Source(NamedTuple):
    """Where minibatches come from."""

    samples: Any
    """(A, S, N)."""
    lanes: Any
    """Which of the A models' samples each lane reads."""
    drawn: Any
    """Indexes of samples, (D, T, B); (1, 0, 1) if samples come in stored order."""
    of_lane: Any
    """Which of the D draws each lane uses."""
    alike: bool
    """Whether all lanes read the same samples."""
    batch_size: int


class Control(NamedTuple):
    """The constant part of an `L1Controller`; its state is the kernel's argument l1."""

    steps: Any
    """(T, 3)."""
    settings: Any
    initial: Any
    """The parameters before the first step."""


class AdamStep(NamedTuple):
    """The constants of one step, as vectors."""

    beta1: Any
    beta2: Any
    tiny: Any
    zero: Any
    a: Any
    e: Any


_steer = called(steer)


@inlined
def _adam_step(steps, t, zero):
    return AdamStep(
        everywhere(steps.adam[0]),
        everywhere(steps.adam[1]),
        everywhere(steps.adam[2]),
        zero,
        everywhere(steps.A[t]),
        everywhere(steps.E[t]),
    )


@inlined
def _adam(model, row, gradient, step):
    """Update one parameter. Both moments are flushed to 0 as in the reference."""
    m = step.beta1 * load(model.M, row) + gradient
    m = where_less(absolute(m), step.tiny, step.zero, m)
    v = step.beta2 * load(model.V, row) + gradient * gradient
    v = where_less(absolute(v), step.tiny, step.zero, v)
    store(model.M, row, m)
    store(model.V, row, v)
    store(model.P, row, load(model.P, row) - m * step.a / (square_root(v) + step.e))


# Online: one sample per step, in stored order


@kernel
def train_ae_online(model, steps, first, last, X, twice_importances, n_features, n_hidden):
    """Steps first … last − 1 of the autoencoder; X (S·N, lanes)."""
    P, scratch, zero = model.P, model.scratch, constants_of(X, steps.settings).zero
    samples = X.shape[0] // n_features
    bias, error = n_hidden * n_features, n_hidden  # rows: b in P; dL/ds behind h in the scratch
    x = (first % samples) * n_features
    for t in range(first, last):
        step = _adam_step(steps, t, zero)
        for k in range(n_hidden):
            store(scratch, k, product(P, k * n_features, X, x, n_features))
        for i in range(n_features):
            s = load(P, bias + i)
            for k in range(n_hidden):
                s = s + load(P, k * n_features + i) * load(scratch, k)
            ds = everywhere(twice_importances[i]) * (relu(s, zero) - load(X, x + i))
            store(scratch, error + i, where_less(zero, s, ds, zero))
        for k in range(n_hidden):
            h, q = load(scratch, k), product(P, k * n_features, scratch, error, n_features)
            for i in range(n_features):
                _adam(model, k * n_features + i, h * load(scratch, error + i) + q * load(X, x + i), step)
        for i in range(n_features):
            _adam(model, bias + i, load(scratch, error + i), step)
        x = x + n_features if x + n_features < X.shape[0] else 0


@kernel
def train_sae_online(code, model, steps, first, last, Z, l1, at):
    """Steps first … last − 1 of an SAE with a free decoder whose encoder sees h; activations Z (S·H, lanes), l1 (1, lanes)."""
    P, scratch, k = model.P, model.scratch, constants_of(Z, steps.settings)
    n_hidden, n_latents, penalty = at.n_hidden, at.n_latents, load(l1, 0)
    s, f = 0, n_latents  # rows of the scratch: pre-activations, f, dL/dĥ
    r = f + n_latents
    z = (first % (Z.shape[0] // n_hidden)) * n_hidden
    for t in range(first, last):
        step = _adam_step(steps, t, k.zero)
        encode(code, P, at, Z, z, scratch, s, f, k)
        for i in range(n_hidden):
            store(scratch, r + i, k.two * (decoded(P, at, i, scratch, f) - load(Z, z + i)))
        for j in range(n_latents):
            column, activation = at.W_dec + j * n_hidden, load(scratch, f + j)
            if penalises_code(code):
                q = product_from(penalty, P, column, scratch, r, n_hidden)
            else:
                q = product(P, column, scratch, r, n_hidden)
            if has_own(code):
                own = own_gradient(code, load(scratch, s + j), q, penalty, P, at.own + j, k)
                _adam(model, at.own + j, own, step)
                store(P, at.own + j, own_kept(code, load(P, at.own + j), k))
            q = slope(code, q, load(scratch, s + j), activation, P, at.own + j, k)
            for i in range(n_hidden):
                _adam(model, j * n_hidden + i, q * load(Z, z + i), step)
                _adam(model, column + i, activation * load(scratch, r + i), step)
            _adam(model, at.b_enc + j, q, step)
        for i in range(n_hidden):
            _adam(model, at.b_dec + i, load(scratch, r + i), step)
        z = z + n_hidden if z + n_hidden < Z.shape[0] else 0


# Minibatches, TILE samples at a time


@inlined
def _gather(source, chosen, t, n, out, width):
    """Copy samples n … n + TILE − 1 of minibatch t, each lane its own, into the first TILE·width rows of `out`.

    Rows beyond the minibatch's end are set to 0. The samples of the next step are prefetched, because their indexes are random.
    """
    samples, lanes, drawn, of_lane = source.samples, source.lanes, source.drawn, source.of_lane
    stored, later = drawn.shape[1] == 0, t + 1 if t + 1 < drawn.shape[1] else t
    for tile in range(TILE):
        row, place = tile * width, t * source.batch_size + n + tile
        if n + tile >= source.batch_size:
            for i in range(width):
                store(out, row + i, everywhere(out.dtype.type(0)))
        elif source.alike:
            at = place % samples.shape[1] if stored else drawn[of_lane[0], t, n + tile]
            for i in range(width):
                store(out, row + i, everywhere(samples[lanes[0], at, i]))
        else:
            for lane in range(out.shape[1]):
                at = place % samples.shape[1] if stored else drawn[of_lane[lane], t, n + tile]
                chosen[lane] = at
                if not stored:
                    prefetch(samples, lanes[lane], drawn[of_lane[lane], later, n + tile])
            for i in range(width):
                store(out, row + i, gather(samples, lanes, chosen, i))


@inlined
def _clear(scratch, first, count, zero):
    for row in range(first, first + count):
        store(scratch, row, zero)


class AeLayout(NamedTuple):
    """Sizes, and the rows at which quantities of a tile begin in the scratch: x first, then these, then the gradient G."""

    n_features: int
    n_hidden: int
    h: int
    ds: int
    """dL/ds."""
    dh: int
    """dL/dh."""
    G: int


@inlined
def _ae_layout(n_features, n_hidden):
    h = TILE * n_features
    ds = h + TILE * n_hidden
    dh = ds + TILE * n_features
    return AeLayout(n_features, n_hidden, h, ds, dh, dh + TILE * n_hidden)


@kernel
def train_ae_minibatch(model, steps, first, last, source, twice_importances, n_features, n_hidden):
    """Steps first … last − 1 of the autoencoder on minibatches of samples (A, S, N)."""
    P, scratch, zero = model.P, model.scratch, constants_of(model.P, steps.settings).zero
    chosen, at = np.empty(scratch.shape[1], np.int64), _ae_layout(n_features, n_hidden)
    for t in range(first, last):
        _clear(scratch, at.G, P.shape[0], zero)
        for n in range(0, source.batch_size, TILE):
            _gather(source, chosen, t, n, scratch, at.n_features)
            _ae_errors(P, at, scratch, twice_importances, source.batch_size - n, zero)
            _ae_gradients(P, at, scratch)
        step, mean = _adam_step(steps, t, zero), everywhere(steps.adam[3])
        for row in range(P.shape[0]):
            _adam(model, row, load(scratch, at.G + row) * mean, step)


@inlined
def _ae_errors(P, at, scratch, twice_importances, left, zero):
    """h of a tile, and dL/ds. dL/ds is 0 for samples beyond the minibatch's end: only the first `left` of the tile count."""
    n_features, n_hidden = at.n_features, at.n_hidden
    for k in range(n_hidden):
        store_tile(scratch, at.h + k, n_hidden, tile_sums(P, k * n_features, 1, scratch, 0, n_features, n_features))
    for i in range(n_features):
        b = load(P, n_hidden * n_features + i)
        values = tile_products((b, b, b, b), P, i, n_features, scratch, at.h, n_hidden, n_hidden)
        store_tile(scratch, at.ds + i, n_features, values)
    for tile in range(TILE):
        for i in range(n_features):
            row = at.ds + tile * n_features + i
            s = load(scratch, row)
            ds = everywhere(twice_importances[i]) * (relu(s, zero) - load(scratch, tile * n_features + i))
            ds = where_less(zero, s, ds, zero)
            store(scratch, row, ds if tile < left else zero)


@inlined
def _ae_gradients(P, at, scratch):
    """Add a tile's gradients of W and b to G."""
    n_features, n_hidden = at.n_features, at.n_hidden
    for k in range(n_hidden):
        store_tile(scratch, at.dh + k, n_hidden, tile_sums(P, k * n_features, 1, scratch, at.ds, n_features, n_features))
    for k in range(n_hidden):
        h0, h1, h2, h3 = load_tile(scratch, at.h + k, n_hidden)
        q0, q1, q2, q3 = load_tile(scratch, at.dh + k, n_hidden)
        for i in range(n_features):
            e0, e1, e2, e3 = load_tile(scratch, at.ds + i, n_features)
            x0, x1, x2, x3 = load_tile(scratch, i, n_features)
            row = at.G + k * n_features + i
            gradient = (load(scratch, row) + (h0 * e0 + q0 * x0)) + (h1 * e1 + q1 * x1)
            store(scratch, row, (gradient + (h2 * e2 + q2 * x2)) + (h3 * e3 + q3 * x3))
    for i in range(n_features):
        _add_tile(scratch, at.G + n_hidden * n_features + i, load_tile(scratch, at.ds + i, n_features))


@inlined
def _add_tile(scratch, row, values):
    """Add the four values, sample after sample."""
    store(scratch, row, (((load(scratch, row) + values[0]) + values[1]) + values[2]) + values[3])


class SaeRows(NamedTuple):
    """The rows at which quantities of a tile begin in the scratch: h first, then these, then the gradient G."""

    u: int
    r: int
    """dL/dĥ."""
    s: int
    f: int
    q: int
    """dL/df, then dL/ds."""
    G: int


@inlined
def _sae_rows(at):
    u = TILE * at.n_hidden
    r = u + TILE * at.n_hidden
    s = r + TILE * at.n_hidden
    f = s + TILE * at.n_latents
    q = f + TILE * at.n_latents
    return SaeRows(u, r, s, f, q, q + TILE * at.n_latents)


@kernel
def train_sae_minibatch(code, model, steps, first, last, source, l1, control, at):
    """Steps first … last − 1 of an SAE on minibatches of activations (A, S, H).

    l1: (1, lanes), constant, if control is None; else the state (4, lanes) of an `L1Controller`, whose first row is l1.
    """
    P, scratch, k = model.P, model.scratch, constants_of(model.P, steps.settings)
    chosen, rows = np.empty(scratch.shape[1], np.int64), _sae_rows(at)
    for t in range(first, last):
        penalty, count = load(l1, 0), k.zero
        _clear(scratch, rows.G, P.shape[0], k.zero)
        for n in range(0, source.batch_size, TILE):
            left = source.batch_size - n
            _gather(source, chosen, t, n, scratch, at.n_hidden)
            _sae_forward(code, P, at, rows, scratch, left, k)
            _sae_slopes(code, P, at, rows, scratch, left, penalty, k)
            if control is not None:
                for row in range(rows.f, rows.q):
                    count = count + where_less(k.zero, load(scratch, row), k.one, k.zero)
            _sae_gradients(P, at, rows, scratch, k.zero)
        mean = everywhere(steps.adam[3])
        _sae_update(code, model, at, rows.G, mean, _adam_step(steps, t, k.zero), k)
        if control is not None:
            store(scratch, 0, count * mean)
            _steer(l1, scratch[0], control.steps[t], control.settings, P, control.initial)


@inlined
def _sae_forward(code, P, at, rows, scratch, left, k):
    """The forward pass of a tile up to dL/dĥ; f and dL/dĥ are 0 for samples beyond the minibatch's end."""
    n_hidden = at.n_hidden
    for tile in range(TILE):
        for i in range(n_hidden):
            value = load(scratch, tile * n_hidden + i)
            if at.centred:
                value = value - load(P, at.b_dec + i)
            store(scratch, rows.u + tile * n_hidden + i, value)
    encode_tile(code, P, at, scratch, rows.u, rows.s, rows.f, k)
    for tile in range(left, TILE):
        _clear(scratch, rows.f + tile * at.n_latents, at.n_latents, k.zero)
    decode_tile(P, at, scratch, rows.f, rows.r)
    for row in range(TILE * n_hidden):
        store(scratch, rows.r + row, k.two * (load(scratch, rows.r + row) - load(scratch, row)))
    for tile in range(left, TILE):
        _clear(scratch, rows.r + tile * n_hidden, n_hidden, k.zero)


@inlined
def _sae_slopes(code, P, at, rows, scratch, left, penalty, k):
    """dL/ds of a tile. The gradient of the variant's own parameter is added to G."""
    n_hidden, n_latents = at.n_hidden, at.n_latents
    for j in range(n_latents):
        column = at.W_dec + j * n_hidden
        if penalises_code(code):
            starts = penalty, penalty, penalty, penalty
            values = tile_products(starts, P, column, 1, scratch, rows.r, n_hidden, n_hidden)
        else:
            values = tile_sums(P, column, 1, scratch, rows.r, n_hidden, n_hidden)
        store_tile(scratch, rows.q + j, n_latents, values)
    for tile in range(TILE):
        for j in range(n_latents):
            row = tile * n_latents + j
            q = load(scratch, rows.q + row)
            if has_own(code) and tile < left:
                own = own_gradient(code, load(scratch, rows.s + row), q, penalty, P, at.own + j, k)
                store(scratch, rows.G + at.own + j, load(scratch, rows.G + at.own + j) + own)
            ds = slope(code, q, load(scratch, rows.s + row), load(scratch, rows.f + row), P, at.own + j, k)
            store(scratch, rows.q + row, ds)
    for tile in range(left, TILE):
        _clear(scratch, rows.q + tile * n_latents, n_latents, k.zero)


@inlined
def _sae_gradients(P, at, rows, scratch, zero):
    """Add a tile's gradients of the standard parameters to G."""
    n_hidden, n_latents = at.n_hidden, at.n_latents
    for j in range(n_latents):
        q0, q1, q2, q3 = load_tile(scratch, rows.q + j, n_latents)
        f0, f1, f2, f3 = load_tile(scratch, rows.f + j, n_latents)
        for i in range(n_hidden):
            u0, u1, u2, u3 = load_tile(scratch, rows.u + i, n_hidden)
            r0, r1, r2, r3 = load_tile(scratch, rows.r + i, n_hidden)
            _add_tile(scratch, rows.G + j * n_hidden + i, (q0 * u0, q1 * u1, q2 * u2, q3 * u3))
            _add_tile(scratch, rows.G + at.W_dec + j * n_hidden + i, (f0 * r0, f1 * r1, f2 * r2, f3 * r3))
        _add_tile(scratch, rows.G + at.b_enc + j, (q0, q1, q2, q3))
    for i in range(n_hidden):
        s0, s1, s2, s3 = zero, zero, zero, zero
        if at.centred:
            s0, s1, s2, s3 = tile_sums(P, i, n_hidden, scratch, rows.q, n_latents, n_latents)
        r0, r1, r2, r3 = load_tile(scratch, rows.r + i, n_hidden)
        _add_tile(scratch, rows.G + at.b_dec + i, (r0 - s0, r1 - s1, r2 - s2, r3 - s3))


@inlined
def _sae_update(code, model, at, G, mean, step, k):
    """An Adam step on the minibatch's mean gradient. Unit columns keep norm 1, the variant's own parameter stays in its range."""
    P, scratch, n_hidden = model.P, model.scratch, at.n_hidden
    for row in range(P.shape[0]):
        store(scratch, G + row, load(scratch, G + row) * mean)
    if at.unit_norm:
        for column in range(at.W_dec, at.b_dec, n_hidden):
            radial = product(scratch, G + column, P, column, n_hidden)
            for i in range(n_hidden):
                store(scratch, G + column + i, load(scratch, G + column + i) - radial * load(P, column + i))
    for row in range(P.shape[0]):
        _adam(model, row, load(scratch, G + row), step)
    if at.unit_norm:
        for column in range(at.W_dec, at.b_dec, n_hidden):
            norm = square_root(product(P, column, P, column, n_hidden))
            for i in range(n_hidden):
                store(P, column + i, load(P, column + i) / norm)
    if has_own(code):
        for row in range(at.own, at.own + at.n_latents):
            store(P, row, own_kept(code, load(P, row), k))
