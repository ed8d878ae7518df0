"""A custom variant: f = max(s − 0.1, 0). Once this file is imported, protocols may say `sae_variant: shifted_relu`."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from search_spaces.protocol import Protocol
from search_spaces.variants import VariantField
from study.variants.contract import Variant
from study.variants.registry import register

SHIFT = VariantField("sae_shift", Annotated[float, Field(ge=0)], 0.1, "`shifted_relu`: pre-activations below this do not fire.")


class ShiftedRelu(Variant):
    """f = max(s − shift, 0): a latent fires only if its pre-activation exceeds the shift."""

    name = "shifted_relu"
    fields = (SHIFT,)

    def activate(self, s: Any, theta: Any, protocol: Protocol) -> Any:
        """The definition, which `reference` and the metrics use. The derivative is 1 where f > 0, else 0."""
        return np.maximum(s - s.dtype.type(SHIFT.of(protocol)), 0)

    def torch_loss(self, protocol: Protocol) -> Any:
        """The loss that the `torch` engine differentiates."""
        from study.variants.torch_forward import pre_activations, squared_error

        shift = SHIFT.of(protocol)

        def loss(theta: Any, h: Any, l1: Any) -> Any:
            f = (pre_activations(theta, h, protocol) - shift).relu()
            return squared_error(theta, h, f) + (l1 * f).sum() / len(h)

        return loss

    def lane_code(self) -> Any:
        """`activate` for the `compiled` engine, on vectors of replicates. k.settings are the numbers of `lane_settings`."""
        from study.kernels.lane_code import LaneCode
        from study.kernels.lanes import relu
        from study.kernels.simd import everywhere

        def activate(s: Any, P: Any, row: Any, k: Any) -> Any:
            return relu(s - everywhere(k.settings[0]), k.zero)

        return LaneCode(activate)

    def lane_settings(self, protocol: Protocol) -> tuple[float, ...]:
        return (SHIFT.of(protocol),)


register(ShiftedRelu())
