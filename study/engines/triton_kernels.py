"""Triton kernels for the torch engine on CUDA: thousands of Adam steps in one launch, all state in registers.

They train autoencoders and ReLU SAEs in float32 on minibatches of one in stored order. These steps are so small that with
one launch per step, or even a replayed graph, most of the time goes to launches and memory traffic.

* A program is one warp, which owns a few replicates (MODELS).
* Parameters are tiles (latents, MODELS), one per hidden unit, each beside its M and V. Their first axis (for autoencoders:
  features) is padded to a power of two. Padded rows start at 0 and have gradient 0, so they stay 0.
* Only sums over latents or features cross threads. The next sample is read while the current one is processed.
* Division and square root are the fast ones of the hardware, accurate to 2 ulp.

Checked against the reference in Triton's interpreter. Compiled for sm_90 by Triton 3.9 without a GPU, from 5-3-5 to
20-10-20: up to 255 registers, nothing spilled within the loop over steps (only before and after it), no barrier.
For SAEs of 10-5-10 a step is 1,096 instructions, 98 of them square roots and reciprocals, for 8 replicates.
NOT YET MEASURED: nothing here has run on a GPU. Needs a Triton whose loops carry tuples; versions before 3.9 are untested.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STATE_REGISTERS = 144
"""How many of a thread's 255 registers parameters, M and V may use; the rest is for a step's intermediate values."""
STEPS_A_LAUNCH = 4096
"""Steps per launch. Python waits for each launch, so that Ctrl-C works."""
_WARP = 32


@triton.jit
def _flushed(moment):
    return tl.where(tl.abs(moment) < 1e-30, 0.0, moment)


@triton.jit
def _adam(parameter, gradient, rates):
    """One step of a parameter (θ, M, V); rates (A_t, E_t, β1, β2)."""
    M = _flushed(rates[2] * parameter[1] + gradient)
    V = _flushed(rates[3] * parameter[2] + gradient * gradient)
    return parameter[0] - rates[0] * M / (tl.sqrt(V) + rates[1]), M, V


@triton.jit
def _load(state, pointer, size, mask):
    """A parameter (θ, M, V) from state (3, size): `pointer` into the first of the three."""
    theta = tl.load(state + pointer, mask=mask, other=0.0)
    M = tl.load(state + pointer + size, mask=mask, other=0.0)
    V = tl.load(state + pointer + 2 * size, mask=mask, other=0.0)
    return theta, M, V


@triton.jit
def _store(state, pointer, size, mask, parameter):
    tl.store(state + pointer, parameter[0], mask=mask)
    tl.store(state + pointer + size, parameter[1], mask=mask)
    tl.store(state + pointer + 2 * size, parameter[2], mask=mask)


@triton.jit
def _sample(samples, step, n_samples, R, r, H: tl.constexpr):
    """h of the step in each lane: H times (MODELS,), from samples (S, H, R)."""
    row = (step % n_samples).to(tl.int64) * H
    h = ()
    for i in tl.static_range(H):
        h += (tl.load(samples + (row + i) * R + r),)
    return h


@triton.jit
def sae_steps(
    state,
    samples,
    l1,
    rates,
    first,
    steps,
    n_samples,
    R,
    beta1,
    beta2,
    L: tl.constexpr,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    MODELS: tl.constexpr,
):
    """Steps first … first + steps − 1 of SAEs, in place.

    state (3, P, R): θ, M and V, each the rows of W_enc (L, H), b_enc (L), W_dec by columns (L, H), b_dec (H); samples
    (S, H, R); l1 (R,); rates (steps of the training, 2). As in the reference, f = max(W_enc h + b_enc, 0),
    r = 2 (W_dec f + b_dec − h), q = W_decᵀ r + l1 where f > 0; the gradients are q hᵀ, q, f rᵀ and r.
    """
    r = (tl.program_id(0) * MODELS + tl.arange(0, MODELS)).to(tl.int64)
    j = tl.arange(0, PADDED)[:, None]
    there = j < L
    row, column = j * R, r[None, :]
    size = (L * (2 * H + 1) + H) * R.to(tl.int64)
    decoder = L * (H + 1)
    b_enc = _load(state, L * H * R + row + column, size, there)
    encoder_columns, decoder_columns, b_dec = (), (), ()
    for i in tl.static_range(H):
        encoder_columns += (_load(state, H * row + i * R + column, size, there),)
        decoder_columns += (_load(state, (decoder + i) * R + H * row + column, size, there),)
        b_dec += (_load(state, (decoder + L * H + i) * R + r, size, r < R),)
    penalty = tl.load(l1 + r)[None, :]
    following = _sample(samples, first, n_samples, R, r, H)

    for step in range(first, first + steps):
        h = following
        following = _sample(samples, step + 1, n_samples, R, r, H)
        now = (tl.load(rates + 2 * step), tl.load(rates + 2 * step + 1), beta1, beta2)
        s = b_enc[0]
        for i in tl.static_range(H):
            s += encoder_columns[i][0] * h[i][None, :]
        f = tl.maximum(s, 0.0)
        residual = ()
        q = tl.zeros_like(f) + penalty
        for i in tl.static_range(H):
            r_i = 2.0 * (tl.sum(decoder_columns[i][0] * f, axis=0) + b_dec[i][0] - h[i])
            q += decoder_columns[i][0] * r_i[None, :]
            residual += (r_i,)
        q = tl.where(f > 0, q, 0.0)
        new_encoder, new_decoder, new_b_dec = (), (), ()
        for i in tl.static_range(H):
            new_encoder += (_adam(encoder_columns[i], q * h[i][None, :], now),)
            new_decoder += (_adam(decoder_columns[i], f * residual[i][None, :], now),)
            new_b_dec += (_adam(b_dec[i], residual[i], now),)
        b_enc = _adam(b_enc, q, now)
        encoder_columns, decoder_columns, b_dec = new_encoder, new_decoder, new_b_dec

    _store(state, L * H * R + row + column, size, there, b_enc)
    for i in tl.static_range(H):
        _store(state, H * row + i * R + column, size, there, encoder_columns[i])
        _store(state, (decoder + i) * R + H * row + column, size, there, decoder_columns[i])
        _store(state, (decoder + L * H + i) * R + r, size, r < R, b_dec[i])


@triton.jit
def autoencoder_steps(
    state,
    samples,
    importances,
    rates,
    first,
    steps,
    n_samples,
    R,
    beta1,
    beta2,
    N: tl.constexpr,
    H: tl.constexpr,
    PADDED: tl.constexpr,
    MODELS: tl.constexpr,
):
    """Steps first … first + steps − 1 of autoencoders, in place.

    state (3, P, R): θ, M and V, each the rows of W (H, N), b (N); samples (S, N, R);
    importances (N, R), the same in every lane; rates as above.
    As in the reference, h = W x, s = Wᵀ h + b, e = 2 I (max(s, 0) − x) where s > 0, q = W e; the gradients are
    h eᵀ + q xᵀ and e.
    """
    r = (tl.program_id(0) * MODELS + tl.arange(0, MODELS)).to(tl.int64)
    j = tl.arange(0, PADDED)[:, None]
    there = j < N
    place = j * R + r[None, :]
    size = N * (H + 1) * R.to(tl.int64)
    b = _load(state, N * H * R + place, size, there)
    rows = ()
    for k in tl.static_range(H):
        rows += (_load(state, k * N * R + place, size, there),)
    twice_importances = 2.0 * tl.load(importances + j * R, mask=there, other=0.0)
    following = tl.load(samples + (first % n_samples).to(tl.int64) * N * R + place, mask=there, other=0.0)

    for step in range(first, first + steps):
        x = following
        following = tl.load(samples + ((step + 1) % n_samples).to(tl.int64) * N * R + place, mask=there, other=0.0)
        now = (tl.load(rates + 2 * step), tl.load(rates + 2 * step + 1), beta1, beta2)
        s = b[0]
        h = ()
        for k in tl.static_range(H):
            h_k = tl.sum(rows[k][0] * x, axis=0)[None, :]
            s += rows[k][0] * h_k
            h += (h_k,)
        error = tl.where(s > 0, twice_importances * (s - x), 0.0)
        new_rows = ()
        for k in tl.static_range(H):
            q_k = tl.sum(rows[k][0] * error, axis=0)[None, :]
            new_rows += (_adam(rows[k], h[k] * error + q_k * x, now),)
        b = _adam(b, error, now)
        rows = new_rows

    _store(state, N * H * R + place, size, there, b)
    for k in tl.static_range(H):
        _store(state, k * N * R + place, size, there, rows[k])


_Betas = tuple[float, float]


def train_saes(rows: Tensor, samples: Tensor, l1: Tensor, rates: Tensor, betas: _Betas) -> Tensor:
    """The trained rows (P, R) from the initial ones; the other arguments as in `sae_steps`. R is a multiple of 32."""
    n_hidden = samples.shape[1]
    n_latents = (len(rows) - n_hidden) // (2 * n_hidden + 1)
    return _train(sae_steps, rows, samples, l1, rates, betas, n_latents, n_hidden, 2 * n_hidden + 1)


def train_autoencoders(rows: Tensor, samples: Tensor, importances: Tensor, rates: Tensor, betas: _Betas) -> Tensor:
    """The trained rows (P, R) from the initial ones; the other arguments as in `autoencoder_steps`. R is a multiple of 32."""
    n_features = samples.shape[1]
    n_hidden = len(rows) // n_features - 1
    return _train(autoencoder_steps, rows, samples, importances, rates, betas, n_features, n_hidden, n_hidden + 1)


def models_per_program(width: int, tiles: int) -> int:
    """How many replicates a warp owns, a power of two up to 32: as many as fit its registers at `tiles` tiles per replicate."""
    registers_a_model = 3 * tiles * triton.next_power_of_2(width) / _WARP
    models = 1
    while models < _WARP and 2 * models * registers_a_model <= STATE_REGISTERS:
        models *= 2
    return models


def _train(kernel, rows, samples, coefficient, rates, betas, width, n_hidden, tiles) -> Tensor:
    """Launch after launch; `tiles` (width, models) hold a replicate's parameters."""
    state = torch.stack([rows, torch.zeros_like(rows), torch.zeros_like(rows)])
    models, replicates = models_per_program(width, tiles), rows.shape[1]
    shape = width, n_hidden, triton.next_power_of_2(width), models
    for first in range(0, len(rates), STEPS_A_LAUNCH):
        steps = min(STEPS_A_LAUNCH, len(rates) - first)
        given = state, samples, coefficient, rates, first, steps, len(samples), replicates, *betas
        kernel[(replicates // models,)](*given, *shape, num_warps=1)
        if state.is_cuda:
            torch.cuda.synchronize()
    return state[0]
