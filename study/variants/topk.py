"""`topk`: the k largest pre-activations of a sample, the others 0 (Gao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import MisuseError
from search_spaces.protocol import Count, Protocol
from search_spaces.variants import VariantField
from study.variants.contract import Theta, TorchLoss, Variant

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode

K = VariantField("sae_k", Count | None, None, "`topk` alone: how many latents may be active.")


class TopK(Variant):
    """f_j = max(s_j, 0) where fewer than k latents have a larger s, else 0. Of equal s, the one of lower index ranks first."""

    name = "topk"
    fields = (K,)
    pressure = K.name
    latents_compete = True

    def check(self, protocol: Protocol) -> None:
        if K.of(protocol) is None:
            raise MisuseError(
                f"sae_variant={self.name!r} needs sae_k, the number of active latents, but it is None. Set both, as in "
                f"sae_variant: {self.name}, sae_k: 3."
            )

    def activate(self, s: NDArray[Any], theta: Theta, protocol: Protocol) -> NDArray[Any]:
        latents = range(s.shape[1])
        before = np.stack([sum((s[:, i] >= s[:, j]) if i < j else (s[:, i] > s[:, j]) for i in latents) for j in latents], axis=1)
        return np.where(before < K.of(protocol), np.maximum(s, 0), 0)

    def torch_loss(self, protocol: Protocol) -> TorchLoss:
        import torch

        from study.variants.torch_forward import pre_activations, squared_error

        k = K.of(protocol)

        def rank(s: Any) -> Any:
            """How many latents rank before each, by size and then by index: (B, L, R) -> (B, L, R)."""
            index = torch.arange(s.shape[1], device=s.device)
            lower_index = (index[:, None] < index)[:, :, None]  # (L, L, 1): [i, j] is i < j
            one, other = s.detach()[:, :, None], s.detach()[:, None]
            return ((one > other) | ((one == other) & lower_index)).sum(1)

        def loss(theta: Any, h: Any, l1: Any) -> Any:
            s = pre_activations(theta, h, protocol)
            f = torch.where(rank(s) < k, s.relu(), 0.0)
            return squared_error(theta, h, f) + (l1 * f).sum() / len(h)

        return loss

    def lane_code(self) -> LaneCode:
        from study.kernels.lane_code import LaneCode
        from study.kernels.lanes import relu
        from study.kernels.simd import everywhere, load, store, where_at_most, where_less

        def activate(s, P, row, k):
            return relu(s, k.zero)

        def compete(scratch, s, f, n_latents, k):
            active = everywhere(k.settings[0])
            for j in range(n_latents):
                value, before = load(scratch, s + j), k.zero
                for i in range(j):
                    before = before + where_at_most(value, load(scratch, s + i), k.one, k.zero)
                for i in range(j + 1, n_latents):
                    before = before + where_less(value, load(scratch, s + i), k.one, k.zero)
                store(scratch, f + j, where_less(before, active, load(scratch, f + j), k.zero))

        return LaneCode(activate, compete=compete)

    def lane_settings(self, protocol: Protocol) -> tuple[float, ...]:
        return (K.of(protocol),)
