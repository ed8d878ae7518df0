"""`jumprelu`: f = s above a trained threshold, else 0; l1 times the number of active latents (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.protocol import Divisor, Protocol, Scale
from search_spaces.variants import VariantField
from study.sums import mean_over_batch
from study.variants.contract import Code, Parameter, Penalised, Theta, TorchLoss, Variant

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode

_Array = NDArray[Any]
THRESHOLD_INIT = VariantField(
    "sae_threshold_init", Scale, 0.05, "`jumprelu`: where the thresholds start. They are kept at 0 or above."
)
BANDWIDTH = VariantField(
    "sae_threshold_bandwidth",
    Divisor,
    0.1,
    "`jumprelu`: width of the window around the threshold in which its straight-through gradient is not 0.",
)


class JumpRelu(Variant):
    """f_j = s_j where s_j > θ_j, else 0; the loss is ‖h − ĥ‖² + l1 Σ_j [f_j > 0].

    The thresholds θ have the straight-through gradient −(l1 + θ dL/df)/ε within ε/2 of the pre-activation, and 0 elsewhere;
    ε is the bandwidth (equations 11 and 12 of the paper).
    """

    name = "jumprelu"
    fields = (THRESHOLD_INIT, BANDWIDTH)
    own_parameters = (Parameter("threshold", "L", lowest=0.0),)
    penalised = Penalised.COUNT

    def start(self, architecture: Architecture, seeds: Sequence[int], b_dec: _Array, protocol: Protocol) -> dict[str, _Array]:
        threshold = np.full((architecture.n_latents, len(seeds)), THRESHOLD_INIT.of(protocol), b_dec.dtype)
        return super().start(architecture, seeds, b_dec, protocol) | {"threshold": threshold}

    def activate(self, s: _Array, theta: Theta, protocol: Protocol) -> _Array:
        return np.where(s > theta["threshold"], s, 0)

    def own_gradients(self, theta: Theta, code: Code, q: _Array, l1: _Array, protocol: Protocol, out: Theta) -> None:
        threshold, bandwidth, dtype = theta["threshold"], BANDWIDTH.of(protocol), code.s.dtype
        near = np.abs(code.s - threshold) < dtype.type(bandwidth / 2)
        pull = np.where(near, -((l1 + threshold * q) * dtype.type(1 / bandwidth)), 0)
        mean_over_batch(out["threshold"], pull, len(q))

    def torch_loss(self, protocol: Protocol) -> TorchLoss:
        """The loss. In it, `jump` is 0 and its derivative with respect to θ is −1/ε within ε/2 of the pre-activation."""
        import torch

        from study.variants.torch_forward import pre_activations, squared_error

        bandwidth = BANDWIDTH.of(protocol)

        def loss(theta: Any, h: Any, l1: Any) -> Any:
            s, threshold = pre_activations(theta, h, protocol), theta["threshold"]
            near = (s - threshold).detach().abs() < bandwidth / 2
            jump = near.to(s.dtype) / -bandwidth * (threshold - threshold.detach())
            f = torch.where(s > threshold, s, 0.0) + threshold.detach() * jump
            active = (s > threshold).to(s.dtype) + jump
            return squared_error(theta, h, f) + (l1 * active).sum() / len(h)

        return loss

    def lane_code(self) -> LaneCode:
        from study.kernels.lane_code import LaneCode
        from study.kernels.lanes import relu
        from study.kernels.simd import absolute, everywhere, load, where_less

        def activate(s, P, row, k):
            return where_less(load(P, row), s, relu(s, k.zero), k.zero)

        def own_gradient(s, q, penalty, P, row, k):
            threshold = load(P, row)
            pull = k.minus_one * ((penalty + threshold * q) * everywhere(k.settings[1]))
            return where_less(absolute(s - threshold), everywhere(k.settings[0]), pull, k.zero)

        return LaneCode(activate, own_gradient=own_gradient)

    def lane_settings(self, protocol: Protocol) -> tuple[float, ...]:
        bandwidth = BANDWIDTH.of(protocol)
        return bandwidth / 2, 1 / bandwidth
