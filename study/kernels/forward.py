"""The forward pass of an SAE in lanes, shared by training (`engines/lane_kernels.py`) and metrics (`metrics/moments.py`).

It holds the layout of the parameters, encode and decode, for one sample and for a tile of samples. What differs between
variants (the activation) is in their lane code (`lane_code.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

from search_spaces.protocol import Protocol
from study.kernels.compilation import inlined
from study.kernels.lane_code import activate, compete
from study.kernels.lanes import product_from
from study.kernels.simd import load, store

TILE = 4
"""Samples that pass through a kernel together, so that a weight is loaded once for all. Fixed: loops are unrolled by hand."""


class Layout(NamedTuple):
    """Where an SAE's parameters begin among its rows, and the other facts on which its forward pass depends."""

    n_hidden: int
    n_latents: int
    b_enc: int
    """After W_enc, whose rows come first, latent by latent."""
    W_dec: int
    b_dec: int
    own: int
    """The first of the variant's own parameters, which have n_latents rows each."""
    centred: bool
    """The encoder sees h − b_dec."""
    unit_norm: bool
    """Decoder columns have norm 1."""


def layout_of(rows: Mapping[str, int], n_hidden: int, n_latents: int, protocol: Protocol) -> Layout:
    """The layout of parameters from the number of rows of each, in order."""
    first = dict(zip(rows, accumulate(rows.values(), initial=0)))
    centred, unit_norm = protocol.sae_subtract_decoder_bias, protocol.sae_decoder_norm == "unit"
    own = first["b_dec"] + n_hidden
    return Layout(n_hidden, n_latents, first["b_enc"], first["W_dec"], first["b_dec"], own, centred, unit_norm)


# One sample: its rows begin at s and f in the scratch


@inlined
def encode(code, P, at, U, u, scratch, s, f, k):
    """s = W_enc u + b_enc, then f. The encoder's input is in the rows of U from u on."""
    for j in range(at.n_latents):
        value = product_from(load(P, at.b_enc + j), P, j * at.n_hidden, U, u, at.n_hidden)
        store(scratch, s + j, value)
        store(scratch, f + j, activate(code, value, P, at.own + j, k))
    compete(code, scratch, s, f, at.n_latents, k)


@inlined
def decoded(P, at, i, scratch, f):
    """ĥ_i = b_dec_i + Σ_j W_dec_ji f_j."""
    value = load(P, at.b_dec + i)
    for j in range(at.n_latents):
        value = value + load(P, at.W_dec + j * at.n_hidden + i) * load(scratch, f + j)
    return value


# A tile of samples: `width` consecutive rows per sample


@inlined
def load_tile(X, x, width):
    """One row of each sample; x is the row of the first sample."""
    return load(X, x), load(X, x + width), load(X, x + 2 * width), load(X, x + 3 * width)


@inlined
def store_tile(X, x, width, values):
    """Set one row of each sample; x is the row of the first sample."""
    store(X, x, values[0])
    store(X, x + width, values[1])
    store(X, x + 2 * width, values[2])
    store(X, x + 3 * width, values[3])


@inlined
def tile_products(starts, P, p, step, X, x, width, count):
    """start + Σ_i P[p + i·step] X[x + i] for each sample."""
    s0, s1, s2, s3 = starts
    for i in range(count):
        weight = load(P, p + i * step)
        s0 = s0 + weight * load(X, x + i)
        s1 = s1 + weight * load(X, x + width + i)
        s2 = s2 + weight * load(X, x + 2 * width + i)
        s3 = s3 + weight * load(X, x + 3 * width + i)
    return s0, s1, s2, s3


@inlined
def tile_sums(P, p, step, X, x, width, count):
    """Σ_i P[p + i·step] X[x + i] for each sample; the sum starts at its first term."""
    weight = load(P, p)
    x0, x1, x2, x3 = load_tile(X, x, width)
    return tile_products((weight * x0, weight * x1, weight * x2, weight * x3), P, p + step, step, X, x + 1, width, count - 1)


@inlined
def encode_tile(code, P, at, X, u, s, f, k):
    """`encode` for a tile."""
    width = at.n_latents
    for j in range(width):
        b = load(P, at.b_enc + j)
        values = tile_products((b, b, b, b), P, j * at.n_hidden, 1, X, u, at.n_hidden, at.n_hidden)
        store_tile(X, s + j, width, values)
        s0, s1, s2, s3 = values
        f0, f1 = activate(code, s0, P, at.own + j, k), activate(code, s1, P, at.own + j, k)
        f2, f3 = activate(code, s2, P, at.own + j, k), activate(code, s3, P, at.own + j, k)
        store_tile(X, f + j, width, (f0, f1, f2, f3))
    for n in range(TILE):
        compete(code, X, s + n * width, f + n * width, width, k)


@inlined
def decode_tile(P, at, X, f, reconstruction):
    """`decoded` for a tile."""
    for i in range(at.n_hidden):
        b = load(P, at.b_dec + i)
        values = tile_products((b, b, b, b), P, at.W_dec + i, at.n_hidden, X, f, at.n_latents, at.n_latents)
        store_tile(X, reconstruction + i, at.n_hidden, values)
