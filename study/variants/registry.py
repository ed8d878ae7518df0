"""The variants by name. `register` adds one; the built-in ones are registered when `study` is imported."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import TYPE_CHECKING, cast

from search_spaces.errors import MisuseError
from search_spaces.extensions import calling_module, note_extension
from search_spaces.protocol import Protocol, register_variant
from search_spaces.variants import VARIANTS
from study.variants.contract import Penalised, Variant
from study.variants.jumprelu import JumpRelu
from study.variants.relu import Relu
from study.variants.topk import TopK

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode


def register(variant: Variant) -> Variant:
    """Let protocols name the variant; every engine that it has code for trains it, on Ray's workers too.

    Raises MisuseError if a name is taken, or if there is lane code that could not train the variant's own parameters.
    """
    own = variant.own_parameters
    if variant.has_lane_code and [(one.axes, one.lowest) for one in own] not in ([], [("L", None)], [("L", 0.0)]):
        raise MisuseError(
            f"variant {variant.name!r} has lane code and the parameters {[one.name for one in own]}. Lane code trains at most one "
            "parameter of its own, of axes 'L' and lowest None or 0. Leave `lane_code` out."
        )
    register_variant(variant)
    note_extension(calling_module())
    return variant


def variant_of(protocol: Protocol) -> Variant:
    """The variant that the protocol names."""
    return cast(Variant, VARIANTS[protocol.sae_variant])


@cache
def lane_code_of(variant: Variant) -> LaneCode:
    """One object for each variant: kernels are compiled for it. numba is imported when this is called."""
    own = variant.own_parameters
    return dataclasses.replace(
        variant.lane_code(),
        variant=variant.name,
        penalises_code=variant.penalised is Penalised.CODE,
        own_not_below_zero=bool(own) and own[0].lowest is not None,
    )


BUILT_IN: tuple[Variant, ...] = (Relu(), TopK(), JumpRelu())

for _variant in BUILT_IN:
    register_variant(_variant)
