"""`relu`: f = max(s, 0), with an L1 penalty on the code. The SAE of Bricken et al. 2023 and of the source study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study.variants.contract import Theta, TorchLoss, Variant

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode


class Relu(Variant):
    """f = max(s, 0); the derivative at 0 is 0."""

    name = "relu"
    dies_of_l1 = True
    steerable = True

    def activate(self, s: NDArray[Any], theta: Theta, protocol: Protocol) -> NDArray[Any]:
        return np.maximum(s, 0)

    def torch_loss(self, protocol: Protocol) -> TorchLoss:
        from study.variants.torch_forward import pre_activations, squared_error

        def loss(theta: Any, h: Any, l1: Any) -> Any:
            f = pre_activations(theta, h, protocol).relu()
            return squared_error(theta, h, f) + (l1 * f).sum() / len(h)

        return loss

    def lane_code(self) -> LaneCode:
        from study.kernels.lane_code import LaneCode
        from study.kernels.lanes import relu

        def activate(s, P, row, k):
            return relu(s, k.zero)

        return LaneCode(activate)
