"""The procedure once more, for the tests: one replicate, dense matrices, gradients by complex-step differentiation.

Written from `definitions.md` and the papers, sharing no line with the engines: a loss is coded, never its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from search_spaces import Protocol

Array = NDArray[Any]
Loss = Callable[[Array], Any]


def relu(z: Array) -> Array:
    """max(z, 0) of the real part: analytic on either side of 0, with derivative 0 at 0."""
    return np.where(z.real > 0, z, 0)


def ae_loss(W: Array, b: Array, x: Array, importances: Array) -> Any:
    """Mean over samples of Σ_i I_i (x_i − x̂_i)², x̂ = ReLU(WᵀW x + b); W (H, N), b (N,), x (B, N)."""
    return np.sum((x - relu(x @ W.T @ W + b)) ** 2 @ importances) / len(x)


def sae_code(W_enc: Array, b_enc: Array, b_dec: Array, h: Array, protocol: Protocol, threshold: Array | None = None) -> Array:
    """f = ReLU(W_enc u + b_enc), (B, L), cut as the variant cuts it; W_enc (L, H), h (B, H), threshold (L,)."""
    s = (h - b_dec if protocol.sae_subtract_decoder_bias else h) @ W_enc.T + b_enc
    if protocol.sae_variant == "topk":
        kept = np.argsort(np.argsort(-s.real, axis=1, kind="stable"), axis=1) < protocol.sae_k
        return relu(s) * kept
    return relu(s) if protocol.sae_variant == "relu" else s * (s.real > threshold)


def sae_loss(
    W_enc: Array,
    b_enc: Array,
    W_dec: Array,
    b_dec: Array,
    h: Array,
    l1: float,
    protocol: Protocol,
    threshold: Array | None = None,
) -> Any:
    """Mean over samples of ‖h − ĥ‖² + l1 Σ f, or l1 times the number of active latents; W_dec (H, L)."""
    f = sae_code(W_enc, b_enc, b_dec, h, protocol, threshold)
    penalised = f.real > 0 if protocol.sae_variant == "jumprelu" else f
    return (np.sum((h - f @ W_dec.T - b_dec) ** 2) + l1 * np.sum(penalised)) / len(h)


def threshold_gradient(
    W_enc: Array, b_enc: Array, W_dec: Array, b_dec: Array, h: Array, l1: float, protocol: Protocol, threshold: Array
) -> Array:
    """Rajamanoharan et al. 2024, equations 11 and 12, sample by sample: −(l1 + θ_j dL/df_j)/ε within ε/2 of θ_j."""
    width, total = protocol.sae_threshold_bandwidth, np.zeros(len(threshold))
    for sample in h:
        f = sae_code(W_enc, b_enc, b_dec, sample[None], protocol, threshold)[0]
        s = W_enc @ (sample - b_dec if protocol.sae_subtract_decoder_bias else sample) + b_enc
        for j in range(len(threshold)):
            if abs(s[j] - threshold[j]) < width / 2:
                total[j] -= (l1 + threshold[j] * (2 * (W_dec @ f + b_dec - sample) @ W_dec[:, j])) / width
    return total / len(h)


def gradient(loss: Loss, theta: Array) -> Array:
    """dL/dθ by the complex step: exact to rounding, no difference is taken."""
    step = 1e-30
    return np.array([loss(theta + 1j * step * direction).imag / step for direction in np.eye(len(theta))])


def finite_differences(loss: Loss, theta: Array, step: float = 1e-6) -> Array:
    """dL/dθ by central differences."""
    return np.array([(loss(theta + step * e) - loss(theta - step * e)) / (2 * step) for e in np.eye(len(theta))])


def learning_rate(peak: float, t: int, steps: int, warmup: int, schedule: str) -> float:
    """lr · min(1, t/warmup) · ½(1 + cos(π t/T)), t from 1."""
    rate = peak * (min(1.0, t / warmup) if warmup else 1.0)
    return rate * 0.5 * (1 + np.cos(np.pi * t / steps)) if schedule == "cosine" else rate


@dataclass
class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    protocol: Protocol
    size: int

    def __post_init__(self) -> None:
        self.t, self.m, self.v = 0, np.zeros(self.size), np.zeros(self.size)

    def step(self, theta: Array, g: Array, rate: float) -> Array:
        beta1, beta2 = self.protocol.adam_beta1, self.protocol.adam_beta2
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat, v_hat = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
        return theta - rate * m_hat / (np.sqrt(v_hat) + self.protocol.adam_epsilon)


def batches_of(x: Array, batches: Array | None, batch_size: int, steps: int) -> Iterator[Array]:
    """The samples of each step: as drawn, or in stored order, over and over."""
    for t in range(steps):
        yield x[batches[t]] if batches is not None else x[[(t * batch_size + k) % len(x) for k in range(batch_size)]]


def train_autoencoder(W: Array, b: Array, x: Array, batches: Array | None, protocol: Protocol) -> tuple[Array, Array]:
    """W (H, N) and b (N,) after protocol.ae_training_steps steps on x (S, N)."""
    shape, size, steps = W.shape, W.size, protocol.ae_training_steps
    importances = protocol.importance_decay ** np.arange(shape[1])
    theta, adam = np.concatenate([W.ravel(), b]), Adam(protocol, W.size + len(b))
    for t, batch in enumerate(batches_of(x, batches, protocol.ae_batch_size, steps), start=1):

        def loss(p: Array, batch: Array = batch) -> Any:
            return ae_loss(p[:size].reshape(shape), p[size:], batch, importances)

        rate = learning_rate(protocol.ae_learning_rate, t, steps, protocol.ae_warmup_steps, protocol.ae_schedule)
        theta = adam.step(theta, gradient(loss, theta), rate)
    return theta[:size].reshape(shape), theta[size:]


def split_sae(theta: Array, n_hidden: int, n_latents: int) -> tuple[Array, Array, Array, Array]:
    """W_enc (L, H), b_enc (L,), W_dec (H, L), b_dec (H,) from the flat parameters."""
    W_enc, b_enc, W_dec, b_dec = np.split(theta, np.cumsum([n_latents * n_hidden, n_latents, n_latents * n_hidden]))
    return W_enc.reshape(n_latents, n_hidden), b_enc, W_dec.reshape(n_hidden, n_latents), b_dec


def train_sae(
    W_enc: Array, W_dec: Array, b_dec: Array, h: Array, batches: Array | None, l1: float, protocol: Protocol
) -> tuple[Array, Array, Array, Array]:
    """W_enc, b_enc, W_dec, b_dec after protocol.sae_training_steps steps on h (S, H)."""
    n_latents, n_hidden = W_enc.shape
    steps = protocol.sae_training_steps
    theta = np.concatenate([W_enc.ravel(), np.zeros(n_latents), W_dec.ravel(), b_dec])
    adam = Adam(protocol, len(theta))
    decoder = slice(n_latents * (n_hidden + 1), n_latents * (2 * n_hidden + 1))
    for t, batch in enumerate(batches_of(h, batches, protocol.sae_batch_size, steps), start=1):

        def loss(p: Array, batch: Array = batch) -> Any:
            return sae_loss(*split_sae(p, n_hidden, n_latents), batch, l1, protocol)

        g = gradient(loss, theta)
        if protocol.sae_decoder_norm == "unit":
            columns, slopes = theta[decoder].reshape(n_hidden, -1), g[decoder].reshape(n_hidden, -1)
            g[decoder] = (slopes - columns * np.sum(columns * slopes, axis=0)).ravel()
        rate = learning_rate(protocol.sae_learning_rate, t, steps, protocol.sae_warmup_steps, protocol.sae_schedule)
        theta = adam.step(theta, g, rate)
        if protocol.sae_decoder_norm == "unit":
            columns = theta[decoder].reshape(n_hidden, -1)
            theta[decoder] = (columns / np.linalg.norm(columns, axis=0)).ravel()
    return split_sae(theta, n_hidden, n_latents)


def rsa_plain_distances(h: Array, reconstruction: Array) -> float:
    """The source's RSA of one replicate: Pearson correlation of plain Euclidean distances, h and ĥ (S, H)."""
    return float(np.corrcoef(pdist(h), pdist(reconstruction))[0, 1])
