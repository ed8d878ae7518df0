"""The compiled engine's kernels: Adam steps of autoencoders and of SAEs, a replicate a lane.

Arrays are (rows, lanes); a model's rows are its parameters in the reference's order. Each sum has the reference's order. Kernels
take their sizes at run time; those of SAEs are compiled once for each variant (`study.kernels.lane_code`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from study.engines.l1_controller import L1, steer
from study.kernels.compilation import called, inlined, kernel
from study.kernels.forward import (
    TILE,
    Tile,
    decode_tile,
    decoded,
    encode,
    encode_tile,
    load_tile,
    store_tile,
    tile_products,
    tile_sums,
)
from study.kernels.lane_code import has_own, own_gradient, own_kept, penalises_code
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
    """β1, β2, the least moment, 1/B."""
    settings: Any
    """Of the variant's lane code."""


class Source(NamedTuple):
    """Where minibatches come from."""

    samples: Any
    """(A, S, N)."""
    lanes: Any
    """Whose samples each lane reads."""
    drawn: Any
    """(D, T, B); (1, 0, 1) where samples come in stored order."""
    of_lane: Any
    """Which of the D each lane takes."""
    alike: bool
    """Whether all lanes read the same."""
    batch_size: int


class Control(NamedTuple):
    """An `L1Controller`'s arrays. Where l1 is held `state` is it, (1, lanes), and `steps` are empty."""

    state: Any
    steps: Any
    """(T, 3)."""
    settings: Any
    initial: Any
    """The parameters before the first step."""


class AdamStep(NamedTuple):
    """Vectors of one step."""

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
    """One parameter's update; the first and second moment are flushed as in the reference."""
    m = step.beta1 * load(model.M, row) + gradient
    m = where_less(absolute(m), step.tiny, step.zero, m)
    v = step.beta2 * load(model.V, row) + gradient * gradient
    v = where_less(absolute(v), step.tiny, step.zero, v)
    store(model.M, row, m)
    store(model.V, row, v)
    store(model.P, row, load(model.P, row) - m * step.a / (square_root(v) + step.e))


# Online: one sample a step, in stored order


@kernel
def train_ae_online(model, steps, first, last, X, twice_weights, n_features, n_hidden):
    """Steps first … last of the autoencoder; X (S·N, lanes)."""
    P, scratch, zero = model.P, model.scratch, constants_of(X).zero
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
            ds = everywhere(twice_weights[i]) * (relu(s, zero) - load(X, x + i))
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
    """Steps first … last of an SAE with a free decoder that sees h; activations Z (S·H, lanes), l1 (1, lanes)."""
    P, scratch, k, settings = model.P, model.scratch, constants_of(Z), steps.settings
    n_hidden, n_latents, penalty = at.n_hidden, at.n_latents, load(l1, 0)
    s, f = 0, n_latents  # rows of the scratch: pre-activations, f, dL/dĥ, h
    r = f + n_latents
    u = r + n_hidden
    z = (first % (Z.shape[0] // n_hidden)) * n_hidden
    for t in range(first, last):
        step = _adam_step(steps, t, k.zero)
        for i in range(n_hidden):
            store(scratch, u + i, load(Z, z + i))
        encode(code, P, at, scratch, u, s, f, settings, k)
        for i in range(n_hidden):
            store(scratch, r + i, k.two * (decoded(P, at, i, scratch, f) - load(scratch, u + i)))
        for j in range(n_latents):
            column, activation = at.W_dec + j * n_hidden, load(scratch, f + j)
            if penalises_code(code):
                q = product_from(penalty, P, column, scratch, r, n_hidden)
            else:
                q = product(P, column, scratch, r, n_hidden)
            if has_own(code):
                own = own_gradient(code, load(scratch, s + j), q, penalty, P, at.own + j, settings, k)
                _adam(model, at.own + j, own, step)
                store(P, at.own + j, own_kept(code, load(P, at.own + j), k))
            q = where_less(k.zero, activation, q, k.zero)
            for i in range(n_hidden):
                _adam(model, j * n_hidden + i, q * load(scratch, u + i), step)
                _adam(model, column + i, activation * load(scratch, r + i), step)
            _adam(model, at.b_enc + j, q, step)
        for i in range(n_hidden):
            _adam(model, at.b_dec + i, load(scratch, r + i), step)
        z = z + n_hidden if z + n_hidden < Z.shape[0] else 0


# Minibatches, TILE samples at a time


@inlined
def _gather(source, chosen, t, n, out):
    """Samples n … n + TILE of minibatch t, each lane its own, into the tile `out`; zeros behind the minibatch's end.

    Indexes are drawn at random: the samples of the next step are prefetched.
    """
    samples, lanes, drawn, of_lane = source.samples, source.lanes, source.drawn, source.of_lane
    stored, later = drawn.shape[1] == 0, min(t + 1, drawn.shape[1] - 1)
    for tile in range(TILE):
        row, place = out.first + tile * out.width, t * source.batch_size + n + tile
        if n + tile >= source.batch_size:
            for i in range(out.width):
                store(out.rows, row + i, everywhere(out.rows.dtype.type(0)))
        elif source.alike:
            at = place % samples.shape[1] if stored else drawn[of_lane[0], t, n + tile]
            for i in range(out.width):
                store(out.rows, row + i, everywhere(samples[lanes[0], at, i]))
        else:
            for lane in range(out.rows.shape[1]):
                at = place % samples.shape[1] if stored else drawn[of_lane[lane], t, n + tile]
                chosen[lane] = at
                if not stored:
                    prefetch(samples, lanes[lane], drawn[of_lane[lane], later, n + tile])
            for i in range(out.width):
                store(out.rows, row + i, gather(samples, lanes, chosen, i))


@inlined
def _add_to(scratch, row, one, other):
    """Add the products of two tiles' rows, sample after sample."""
    a0, a1, a2, a3 = one
    b0, b1, b2, b3 = other
    store(scratch, row, (((load(scratch, row) + a0 * b0) + a1 * b1) + a2 * b2) + a3 * b3)


@inlined
def _clear(scratch, first, count, zero):
    for row in range(first, first + count):
        store(scratch, row, zero)


@kernel
def train_ae_minibatch(model, steps, first, last, source, twice_weights, n_features, n_hidden):
    """Steps first … last of the autoencoder on minibatches of samples (A, S, N)."""
    P, scratch, zero = model.P, model.scratch, constants_of(model.P).zero
    x, h = Tile(scratch, 0, n_features), Tile(scratch, TILE * n_features, n_hidden)
    ds = Tile(scratch, h.first + TILE * n_hidden, n_features)
    dh = Tile(scratch, ds.first + TILE * n_features, n_hidden)
    G = dh.first + TILE * n_hidden
    chosen = np.empty(scratch.shape[1], np.int64)
    for t in range(first, last):
        _clear(scratch, G, P.shape[0], zero)
        for n in range(0, source.batch_size, TILE):
            _gather(source, chosen, t, n, x)
            _ae_errors(P, x, h, ds, twice_weights, source.batch_size - n, zero)
            _ae_gradients(P, x, h, ds, dh, G)
        step, mean = _adam_step(steps, t, zero), everywhere(steps.adam[3])
        for row in range(P.shape[0]):
            _adam(model, row, load(scratch, G + row) * mean, step)


@inlined
def _ae_errors(P, x, h, ds, twice_weights, left, zero):
    """h of a tile, and dL/ds; 0 for samples behind the minibatch's end, of which `left` samples are left."""
    n_features, n_hidden, scratch = x.width, h.width, x.rows
    for k in range(n_hidden):
        store_tile(h, k, tile_sums(P, k * n_features, 1, x, n_features))
    for i in range(n_features):
        b = load(P, n_hidden * n_features + i)
        store_tile(ds, i, tile_products((b, b, b, b), P, i, n_features, h, 0, n_hidden))
    for tile in range(TILE):
        for i in range(n_features):
            row = ds.first + tile * n_features + i
            s = load(scratch, row)
            slope = everywhere(twice_weights[i]) * (relu(s, zero) - load(scratch, x.first + tile * n_features + i))
            slope = where_less(zero, s, slope, zero)
            store(scratch, row, slope if tile < left else zero)


@inlined
def _ae_gradients(P, x, h, ds, dh, G):
    """Add a tile's gradients of W and b."""
    n_features, n_hidden, scratch = x.width, h.width, x.rows
    for k in range(n_hidden):
        store_tile(dh, k, tile_sums(P, k * n_features, 1, ds, n_features))
    for k in range(n_hidden):
        h0, h1, h2, h3 = load_tile(h, k)
        q0, q1, q2, q3 = load_tile(dh, k)
        for i in range(n_features):
            e0, e1, e2, e3 = load_tile(ds, i)
            x0, x1, x2, x3 = load_tile(x, i)
            row = G + k * n_features + i
            gradient = (load(scratch, row) + (h0 * e0 + q0 * x0)) + (h1 * e1 + q1 * x1)
            store(scratch, row, (gradient + (h2 * e2 + q2 * x2)) + (h3 * e3 + q3 * x3))
    for i in range(n_features):
        e0, e1, e2, e3 = load_tile(ds, i)
        row = G + n_hidden * n_features + i
        store(scratch, row, (((load(scratch, row) + e0) + e1) + e2) + e3)


class SaeTiles(NamedTuple):
    """Rows of the scratch: quantities of a tile, then the gradient."""

    h: Tile
    u: Tile
    r: Tile
    """dL/dĥ."""
    s: Tile
    f: Tile
    q: Tile
    """dL/df, then dL/ds."""
    G: int


@inlined
def _sae_tiles(scratch, at):
    h, u = Tile(scratch, 0, at.n_hidden), Tile(scratch, TILE * at.n_hidden, at.n_hidden)
    r = Tile(scratch, 2 * TILE * at.n_hidden, at.n_hidden)
    s = Tile(scratch, 3 * TILE * at.n_hidden, at.n_latents)
    f = Tile(scratch, s.first + TILE * at.n_latents, at.n_latents)
    q = Tile(scratch, f.first + TILE * at.n_latents, at.n_latents)
    return SaeTiles(h, u, r, s, f, q, q.first + TILE * at.n_latents)


@kernel
def train_sae_minibatch(code, model, steps, first, last, source, control, at):
    """Steps first … last of an SAE on minibatches of activations (A, S, H)."""
    P, scratch, k = model.P, model.scratch, constants_of(model.P)
    tiles, steered = _sae_tiles(scratch, at), control.steps.shape[0] > 0
    chosen, counted = np.empty(scratch.shape[1], np.int64), np.empty_like(control.state)
    for t in range(first, last):
        penalty, count = load(control.state, L1), k.zero
        _clear(scratch, tiles.G, P.shape[0], k.zero)
        for n in range(0, source.batch_size, TILE):
            left = source.batch_size - n
            _gather(source, chosen, t, n, tiles.h)
            _sae_forward(code, P, at, tiles, left, steps.settings, k)
            _sae_slopes(code, P, at, tiles, left, penalty, steps.settings, k)
            if steered:
                count = _counted(tiles.f, count, k)
            _sae_gradients(P, at, tiles, k.zero)
        mean = everywhere(steps.adam[3])
        _sae_update(code, model, at, tiles.G, mean, _adam_step(steps, t, k.zero), k)
        if steered:
            store(counted, 0, count * mean)
            _steer(control.state, counted[0], control.steps[t], control.settings, P, control.initial)


@inlined
def _sae_forward(code, P, at, tiles, left, settings, k):
    """Up to dL/dĥ; f and dL/dĥ are 0 for samples behind the minibatch's end."""
    scratch, n_hidden = tiles.h.rows, at.n_hidden
    for tile in range(TILE):
        for i in range(n_hidden):
            row = tile * n_hidden + i
            value = load(scratch, tiles.h.first + row)
            store(scratch, tiles.u.first + row, value - load(P, at.b_dec + i) if at.centred else value)
    encode_tile(code, P, at, tiles.u, tiles.s, tiles.f, settings, k)
    for tile in range(left, TILE):
        _clear(scratch, tiles.f.first + tile * at.n_latents, at.n_latents, k.zero)
    decode_tile(P, at, tiles.f, tiles.r)
    for row in range(TILE * n_hidden):
        slope = k.two * (load(scratch, tiles.r.first + row) - load(scratch, tiles.h.first + row))
        store(scratch, tiles.r.first + row, slope if row < left * n_hidden else k.zero)


@inlined
def _sae_slopes(code, P, at, tiles, left, penalty, settings, k):
    """dL/ds of a tile; the gradient of the variant's own parameter is added."""
    scratch, n_latents = tiles.h.rows, at.n_latents
    for j in range(n_latents):
        column = at.W_dec + j * at.n_hidden
        if penalises_code(code):
            starts = penalty, penalty, penalty, penalty
            store_tile(tiles.q, j, tile_products(starts, P, column, 1, tiles.r, 0, at.n_hidden))
        else:
            store_tile(tiles.q, j, tile_sums(P, column, 1, tiles.r, at.n_hidden))
    for tile in range(TILE):
        for j in range(n_latents):
            row = tile * n_latents + j
            q = load(scratch, tiles.q.first + row)
            if has_own(code) and tile < left:
                own, s = tiles.G + at.own + j, load(scratch, tiles.s.first + row)
                gradient = own_gradient(code, s, q, penalty, P, at.own + j, settings, k)
                store(scratch, own, load(scratch, own) + gradient)
            store(scratch, tiles.q.first + row, where_less(k.zero, load(scratch, tiles.f.first + row), q, k.zero))


@inlined
def _counted(f, count, k):
    """The count of active latents, and those of a tile."""
    for row in range(f.first, f.first + TILE * f.width):
        count = count + where_less(k.zero, load(f.rows, row), k.one, k.zero)
    return count


@inlined
def _sae_gradients(P, at, tiles, zero):
    """Add a tile's gradients of the standard parameters."""
    scratch, G, n_hidden = tiles.h.rows, tiles.G, at.n_hidden
    for j in range(at.n_latents):
        q, f = load_tile(tiles.q, j), load_tile(tiles.f, j)
        for i in range(n_hidden):
            _add_to(scratch, G + j * n_hidden + i, q, load_tile(tiles.u, i))
            _add_to(scratch, G + at.W_dec + j * n_hidden + i, f, load_tile(tiles.r, i))
        q0, q1, q2, q3 = q
        row = G + at.b_enc + j
        store(scratch, row, (((load(scratch, row) + q0) + q1) + q2) + q3)
    for i in range(n_hidden):
        s0, s1, s2, s3 = zero, zero, zero, zero
        if at.centred:
            s0, s1, s2, s3 = tile_sums(P, i, n_hidden, tiles.q, at.n_latents)
        r0, r1, r2, r3 = load_tile(tiles.r, i)
        row = G + at.b_dec + i
        store(scratch, row, (((load(scratch, row) + (r0 - s0)) + (r1 - s1)) + (r2 - s2)) + (r3 - s3))


@inlined
def _sae_update(code, model, at, G, mean, step, k):
    """An Adam step on the minibatch's mean gradient; unit columns stay so, the own parameter in its range."""
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
