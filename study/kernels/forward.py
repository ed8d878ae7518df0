"""The forward pass of an SAE in lanes: where its parameters are, and encode and decode, as training and metrics share them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from search_spaces.protocol import Protocol
from study.kernels.compilation import inlined
from study.kernels.lane_code import activate, compete
from study.kernels.lanes import product_from
from study.kernels.simd import load, store

TILE = 4
"""Samples that pass through a kernel together: a weight is loaded once for all of them."""


class Layout(NamedTuple):
    """Where an SAE's parameters begin among its rows, and what else decides its forward pass."""

    n_hidden: int
    n_latents: int
    b_enc: int
    """Behind W_enc, whose rows are the first: latent by latent."""
    W_dec: int
    b_dec: int
    own: int
    """The variant's own parameters, n_latents rows each."""
    centred: bool
    """The encoder sees h − b_dec."""
    unit_norm: bool
    """Decoder columns have norm 1."""


def layout_of(rows: Mapping[str, int], n_hidden: int, n_latents: int, protocol: Protocol) -> Layout:
    """The layout of parameters that have so many rows each, in this order."""
    first = dict(zip(rows, accumulate(rows.values(), initial=0)))
    centred, unit_norm = protocol.sae_subtract_decoder_bias, protocol.sae_decoder_norm == "unit"
    own = first["b_dec"] + n_hidden
    return Layout(n_hidden, n_latents, first["b_enc"], first["W_dec"], first["b_dec"], own, centred, unit_norm)


# One sample: its rows begin at u, s and f in the scratch


@inlined
def encode(code, P, at, scratch, u, s, f, settings, k):
    """s = W_enc u + b_enc, then f."""
    for j in range(at.n_latents):
        value = product_from(load(P, at.b_enc + j), P, j * at.n_hidden, scratch, u, at.n_hidden)
        store(scratch, s + j, value)
        store(scratch, f + j, activate(code, value, P, at.own + j, settings, k))
    compete(code, scratch, s, f, at.n_latents, settings, k)


@inlined
def decoded(P, at, i, scratch, f):
    """ĥ_i = b_dec_i + Σ_j W_dec_ji f_j."""
    value = load(P, at.b_dec + i)
    for j in range(at.n_latents):
        value = value + load(P, at.W_dec + j * at.n_hidden + i) * load(scratch, f + j)
    return value


# A tile of samples: those of one quantity lie one behind the other


class Tile(NamedTuple):
    """The rows of one quantity of TILE samples."""

    rows: Any
    """(rows, lanes)."""
    first: int
    width: int
    """Rows of one sample."""


@inlined
def load_tile(tile, i):
    """Row i of each sample."""
    row, width = tile.first + i, tile.width
    return load(tile.rows, row), load(tile.rows, row + width), load(tile.rows, row + 2 * width), load(tile.rows, row + 3 * width)


@inlined
def store_tile(tile, i, values):
    """Set row i of each sample."""
    row, width = tile.first + i, tile.width
    store(tile.rows, row, values[0])
    store(tile.rows, row + width, values[1])
    store(tile.rows, row + 2 * width, values[2])
    store(tile.rows, row + 3 * width, values[3])


@inlined
def tile_products(starts, P, p, step, tile, first, count):
    """start + Σ_i P[p + i·step] x_i of each sample, i from `first` on."""
    s0, s1, s2, s3 = starts
    for i in range(first, count):
        weight = load(P, p + i * step)
        x0, x1, x2, x3 = load_tile(tile, i)
        s0 = s0 + weight * x0
        s1 = s1 + weight * x1
        s2 = s2 + weight * x2
        s3 = s3 + weight * x3
    return s0, s1, s2, s3


@inlined
def tile_sums(P, p, step, tile, count):
    """Σ_i P[p + i·step] x_i of each sample, from its first term on."""
    weight = load(P, p)
    x0, x1, x2, x3 = load_tile(tile, 0)
    return tile_products((weight * x0, weight * x1, weight * x2, weight * x3), P, p, step, tile, 1, count)


@inlined
def encode_tile(code, P, at, u, s, f, settings, k):
    """`encode` for a tile; u, s and f are Tiles of one array."""
    for j in range(at.n_latents):
        b = load(P, at.b_enc + j)
        values = tile_products((b, b, b, b), P, j * at.n_hidden, 1, u, 0, at.n_hidden)
        store_tile(s, j, values)
        own = at.own + j
        f0, f1 = activate(code, values[0], P, own, settings, k), activate(code, values[1], P, own, settings, k)
        f2, f3 = activate(code, values[2], P, own, settings, k), activate(code, values[3], P, own, settings, k)
        store_tile(f, j, (f0, f1, f2, f3))
    for n in range(TILE):
        compete(code, f.rows, s.first + n * s.width, f.first + n * f.width, at.n_latents, settings, k)


@inlined
def decode_tile(P, at, f, reconstruction):
    """`decoded` for a tile."""
    for i in range(at.n_hidden):
        b = load(P, at.b_dec + i)
        store_tile(reconstruction, i, tile_products((b, b, b, b), P, at.W_dec + i, at.n_hidden, f, 0, at.n_latents))
