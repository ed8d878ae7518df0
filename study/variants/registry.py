"""The variants by name. `register` adds one; the built-in ones are registered when `study` is imported."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, cast

from search_spaces.protocol import Protocol, register_variant
from search_spaces.variants import VARIANTS
from study.variants.contract import Variant
from study.variants.jumprelu import JumpRelu
from study.variants.relu import Relu
from study.variants.topk import TopK

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode


def register(variant: Variant) -> Variant:
    """Let protocols name the variant; every engine that it has code for trains it. MisuseError where a name is taken."""
    register_variant(variant)
    return variant


def variant_of(protocol: Protocol) -> Variant:
    """The variant that the protocol names."""
    return cast(Variant, VARIANTS[protocol.sae_variant])


@cache
def lane_code_of(variant: Variant) -> LaneCode:
    """The variant's lane code, one object per variant, for which kernels are compiled. Calling this imports numba."""
    return variant.lane_code()


for _variant in (Relu(), TopK(), JumpRelu()):
    register(_variant)
