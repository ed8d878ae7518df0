"""Counts and moments of trained models over the evaluation samples: everything that the metrics need from the samples.

One pass per group of replicates, in float64, every sum in sample order, so that the bits depend neither on the pack nor on a
linear algebra library. SAEs share their forward pass with training (`study/kernels/forward.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.kernels.compilation import called, kernel
from study.kernels.forward import TILE, decoded, encode, layout_of
from study.kernels.lanes import constants_of, groups, lay_out, product, relu, rows_of
from study.kernels.simd import everywhere, load, store, where_at_most, where_less, zero_rows
from study.sums import ordered_sum
from study.variants.registry import lane_code_of, variant_of

_Float = NDArray[np.float64]

SAMPLES_AT_ONCE = 1024
"""Samples for which a variant without lane code computes f at once."""


@dataclass(frozen=True, eq=False)
class AutoencoderMoments:
    """Sums over the S samples of A autoencoders."""

    samples: int
    loss: _Float
    """Σ Σ_i I_i (x_i − x̂_i)², (A,)."""
    zeros: _Float
    """How many x_i are 0, (A,)."""
    hidden_squares: _Float
    """Σ ‖h‖², (A,)."""
    fires: _Float
    """How often x̂_i > 0, (A, N)."""


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Second and, for norms, fourth moments of two sets of S vectors X and Y in H dimensions, centred, of R replicates."""

    samples: int
    XX: _Float
    """XᵀX, (R, H, H)."""
    YY: _Float
    XY: _Float
    norms_x: _Float
    """Σ ‖x‖⁴, (R,)."""
    norms_y: _Float
    norms_xy: _Float
    """Σ ‖x‖² ‖y‖², (R,)."""


@dataclass(frozen=True, eq=False)
class SaeMoments:
    """Sums over the S samples of R SAEs."""

    squared_error: _Float
    """Σ ‖h − ĥ‖², (R,)."""
    code: _Float
    """Σ Σ_j f_j, (R,)."""
    latents: _Float
    """How often f_j > 0, (R, L)."""
    features: _Float
    """How often x_i > 0, (R, N)."""
    together: _Float
    """How often both f_j > 0 and x_i > 0, (R, L, N)."""
    hidden_recon: PairMoments
    """The moments of h and ĥ."""


def autoencoder_moments(autoencoders: Autoencoders, x: _Float, importances: _Float) -> AutoencoderMoments:
    """The moments of A autoencoders: W (H, N, A), b (N, A), all finite; evaluation samples x (A, S, N); importances I (N,)."""
    n_hidden, n_features, count = autoencoders.W.shape
    parameters = np.concatenate([autoencoders.W.reshape(-1, count), autoencoders.b]).astype(np.float64)
    samples = x.shape[1]
    X, out = zero_rows(samples * n_features, np.float64), zero_rows(3 + n_features, np.float64)
    total = np.empty((count, 3 + n_features))
    for lanes in groups(count, np.float64):
        lay_out(x, lanes, X)
        out[:] = 0
        _sum_autoencoders(rows_of(parameters, lanes), X, zero_rows(n_hidden, np.float64), out, importances, n_features, n_hidden)
        total[lanes] = out.T
    loss, zeros, squares = total[:, :3].T
    return AutoencoderMoments(samples, loss, zeros, squares, total[:, 3:])


def sae_moments(saes: SparseAutoencoders, W: _Float, x: _Float, ae_of_sae: NDArray[np.int64], protocol: Protocol) -> SaeMoments:
    """The moments of R SAEs. SAEs and W (H, N, A) all finite; evaluation samples x (A, S, N); ae_of_sae (R,): each SAE's AE."""
    (n_latents, n_hidden, count), n_features, samples = saes.W_dec.shape, W.shape[1], x.shape[1]
    variant, parameters = variant_of(protocol), saes.stacked().astype(np.float64)
    code = lane_code_of(variant if variant.has_lane_code else variant_of(Protocol()))
    at = layout_of(saes.rows, n_hidden, n_latents, protocol)
    settings = np.array(variant.lane_settings(protocol), np.float64)
    matrices = W.reshape(-1, W.shape[2]).astype(np.float64)
    sizes = 2, n_latents, n_features, n_latents * n_features, *[n_hidden**2] * 3, 3
    tiles = -(-samples // TILE) * TILE
    X, H, Y = (zero_rows(tiles * width, np.float64) for width in (n_features, n_hidden, n_hidden))
    scratch, out = zero_rows(3 * n_hidden + (1 + TILE) * n_latents, np.float64), zero_rows(sum(sizes), np.float64)
    total = np.empty((count, sum(sizes)))
    for lanes in groups(count, np.float64):
        lay_out(x, ae_of_sae[lanes], X)
        out[:] = 0
        scratch[:] = 0
        P, codes = rows_of(parameters, lanes), zero_rows(0, np.float64)
        if not variant.has_lane_code:
            codes = _codes(saes.with_values(P), W[..., ae_of_sae[lanes]], x[ae_of_sae[lanes]], protocol)
        on = _Evaluation(X, H, Y, codes, scratch, out, samples, n_features)
        _sum_saes(code, P, rows_of(matrices, ae_of_sae[lanes]), on, at, settings)
        total[lanes] = out.T
    return _as_moments(np.split(total, np.cumsum(sizes)[:-1], axis=1), samples, n_hidden)


def _as_moments(parts: list[_Float], samples: int, n_hidden: int) -> SaeMoments:
    """The sums of R SAEs, (R, …), in their order in a kernel's rows."""
    one, latents, features, together, XX, YY, XY, norms = parts
    square = (len(one), n_hidden, n_hidden)
    pair = PairMoments(samples, XX.reshape(square), YY.reshape(square), XY.reshape(square), *norms.T)
    return SaeMoments(one[:, 0], one[:, 1], latents, features, together.reshape(*latents.shape, -1), pair)


def _codes(saes: SparseAutoencoders, W: _Float, x: _Float, protocol: Protocol) -> _Float:
    """f (S·L, lanes) by the variant's own forward pass; W (H, N, lanes), x (lanes, S, N)."""
    variant, parts = variant_of(protocol), []
    with np.errstate(all="ignore"):
        for block in np.array_split(np.transpose(x, (1, 2, 0)), -(-x.shape[1] // SAMPLES_AT_ONCE)):  # (B, N, lanes)
            h = ordered_sum(W[:, i] * block[:, None, i] for i in range(block.shape[1]))  # (B, H, lanes)
            parts.append(variant.forward(saes.parameters, h, protocol).f)
    f = np.concatenate(parts)
    out = zero_rows(f.shape[0] * f.shape[1], np.float64)
    out[:] = f.reshape(-1, f.shape[2])
    return out


@kernel
def _sum_autoencoders(P, X, h, out, importances, n_features, n_hidden):
    """Rows of `out`: loss, zeros, ‖h‖², then one row per feature; h (H, lanes) is scratch."""
    zero, one = everywhere(0.0), everywhere(1.0)
    bias = n_hidden * n_features
    for x in range(0, X.shape[0], n_features):
        squares, loss, zeros = load(out, 2), load(out, 0), load(out, 1)
        for k in range(n_hidden):
            value = product(P, k * n_features, X, x, n_features)
            squares = squares + value * value
            store(h, k, value)
        for i in range(n_features):
            s, feature = load(P, bias + i), load(X, x + i)
            for k in range(n_hidden):
                s = s + load(P, k * n_features + i) * load(h, k)
            difference = feature - relu(s, zero)
            loss = loss + everywhere(importances[i]) * (difference * difference)
            zeros = zeros + where_at_most(feature, zero, one, zero)
            store(out, 3 + i, load(out, 3 + i) + where_less(zero, s, one, zero))
        store(out, 0, loss)
        store(out, 1, zeros)
        store(out, 2, squares)


class _Evaluation(NamedTuple):
    """The samples on which a group of SAEs is evaluated, and where the sums go."""

    X: Any
    """Samples, (S·N, lanes). X, H and Y are padded with rows of zeros to a whole tile."""
    H: Any
    """(S·H, lanes): h, kept until its mean is known."""
    Y: Any
    """ĥ, likewise."""
    codes: Any
    """f (S·L, lanes) of a variant without lane code; no rows if the kernel computes f."""
    scratch: Any
    out: Any
    samples: int
    n_features: int


@kernel
def _sum_saes(code, P, W, on, at, settings):
    """Sum over the samples into the rows of `out`, in the order in which `sae_moments` splits them."""
    X, H, Y, scratch, out, n_hidden, n_latents = on.X, on.H, on.Y, on.scratch, on.out, at.n_hidden, at.n_latents
    k, given = constants_of(X, settings), on.codes.shape[0] > 0
    # Rows of the scratch: sums of h and of ĥ, the encoder's input, pre-activations, then f of each sample of a tile.
    u, s, f = 2 * n_hidden, 3 * n_hidden, 3 * n_hidden + n_latents
    for first in range(0, on.samples, TILE):
        for sample in range(first, first + TILE):
            h, own = sample * n_hidden, f + (sample - first) * n_latents
            if sample >= on.samples:
                for j in range(n_latents):
                    store(scratch, own + j, k.zero)
                continue
            for i in range(n_hidden):
                value = product(W, i * on.n_features, X, sample * on.n_features, on.n_features)
                store(H, h + i, value)
                store(scratch, i, load(scratch, i) + value)
                store(scratch, u + i, value - load(P, at.b_dec + i) if at.centred else value)
            if given:
                for j in range(n_latents):
                    store(scratch, own + j, load(on.codes, sample * n_latents + j))
            else:
                encode(code, P, at, scratch, u, scratch, s, own, k)
            error, total = load(out, 0), load(out, 1)
            for i in range(n_hidden):
                value = decoded(P, at, i, scratch, own)
                store(Y, h + i, value)
                store(scratch, n_hidden + i, load(scratch, n_hidden + i) + value)
                difference = load(H, h + i) - value
                error = error + difference * difference
            for j in range(n_latents):
                total = total + load(scratch, own + j)
            store(out, 0, error)
            store(out, 1, total)
        _count(scratch, f, X, first * on.n_features, out, on.n_features, n_latents)
    for i in range(2 * n_hidden):
        store(scratch, i, load(scratch, i) / everywhere(1.0 * on.samples))
    _sum_pairs(H, Y, scratch, out, 2 + n_latents + (1 + n_latents) * on.n_features, on.samples, n_hidden)


@called
def _count(F, f, X, x, out, n_features, n_latents):
    """Over a tile of samples, count active latents, present features, and both together."""
    zero, one = everywhere(0.0), everywhere(1.0)
    latents, features, together = 2, 2 + n_latents, 2 + n_latents + n_features
    for i in range(n_features):
        count = load(out, features + i)
        for tile in range(TILE):
            count = count + where_less(zero, load(X, x + tile * n_features + i), one, zero)
        store(out, features + i, count)
    for j in range(n_latents):
        fires0, fires1 = where_less(zero, load(F, f + j), one, zero), where_less(zero, load(F, f + n_latents + j), one, zero)
        fires2 = where_less(zero, load(F, f + 2 * n_latents + j), one, zero)
        fires3 = where_less(zero, load(F, f + 3 * n_latents + j), one, zero)
        store(out, latents + j, load(out, latents + j) + ((fires0 + fires1) + (fires2 + fires3)))
        for i in range(n_features):
            of_x, row = x + i, together + j * n_features + i
            both0 = where_less(zero, load(X, of_x), fires0, zero) + where_less(zero, load(X, of_x + n_features), fires1, zero)
            of_x += 2 * n_features
            both2 = where_less(zero, load(X, of_x), fires2, zero) + where_less(zero, load(X, of_x + n_features), fires3, zero)
            store(out, row, load(out, row) + (both0 + both2))


@called
def _sum_pairs(H, Y, means, out, first, samples, n_hidden):
    """Moments of H and Y, n_hidden rows per sample, about `means`: the means of H, then those of Y."""
    zero = everywhere(0.0)
    XX, YY, XY, norms = first, first + n_hidden**2, first + 2 * n_hidden**2, first + 3 * n_hidden**2
    for h in range(0, samples * n_hidden, n_hidden):
        norm_h, norm_y = zero, zero
        for i in range(n_hidden):
            of_h, of_y = load(H, h + i) - load(means, i), load(Y, h + i) - load(means, n_hidden + i)
            store(H, h + i, of_h)
            store(Y, h + i, of_y)
            norm_h = norm_h + of_h * of_h
            norm_y = norm_y + of_y * of_y
        store(out, norms, load(out, norms) + norm_h * norm_h)
        store(out, norms + 1, load(out, norms + 1) + norm_y * norm_y)
        store(out, norms + 2, load(out, norms + 2) + norm_h * norm_y)
    for h in range(0, samples * n_hidden, TILE * n_hidden):
        for i in range(n_hidden):
            for k in range(n_hidden):
                row = i * n_hidden + k
                xx, yy, xy = load(out, XX + row), load(out, YY + row), load(out, XY + row)
                for tile in range(TILE):
                    of_i, of_k = h + tile * n_hidden + i, h + tile * n_hidden + k
                    xx = xx + load(H, of_i) * load(H, of_k)
                    yy = yy + load(Y, of_i) * load(Y, of_k)
                    xy = xy + load(H, of_i) * load(Y, of_k)
                store(out, XX + row, xx)
                store(out, YY + row, yy)
                store(out, XY + row, xy)
