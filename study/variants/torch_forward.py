"""The forward pass in PyTorch, shared by the variants' losses. Imported by the torch engine alone, through `torch_loss`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from search_spaces.protocol import Protocol


def pre_activations(theta: Mapping[str, Tensor], h: Tensor, protocol: Protocol) -> Tensor:
    """s = W_enc u + b_enc, (B, L, R), with u = h, or u = h − b_dec if the protocol subtracts it."""
    u = h - theta["b_dec"] if protocol.sae_subtract_decoder_bias else h
    return matrix_product(theta["W_enc"], u) + theta["b_enc"]


def squared_error(theta: Mapping[str, Tensor], h: Tensor, f: Tensor) -> Tensor:
    """‖h − W_dec f − b_dec‖², mean over the minibatch, summed over lanes; W_dec by columns (L, H, R)."""
    reconstruction = transposed_product(theta["W_dec"], f) + theta["b_dec"]  # (B, H, R)
    return (h - reconstruction).square().sum() / len(h)


def matrix_product(W: Tensor, x: Tensor) -> Tensor:
    """W x in each lane: (P, Q, R), (B, Q, R) -> (B, P, R)."""
    return (W * x[:, None]).sum(2)


def transposed_product(W: Tensor, y: Tensor) -> Tensor:
    """Wᵀ y in each lane: (P, Q, R), (B, P, R) -> (B, Q, R)."""
    return (W * y[:, :, None]).sum(1)
