"""A variant's lane code, and how kernels are specialised by it: numba's type of a `LaneCode` names the variant.

A kernel takes the `LaneCode` as an argument and passes it to the functions below (`activate`, `compete`, `own_gradient` …). When
numba compiles the kernel for that type, it fills each of them in from the variant's own functions. A variant writes these with
`study.kernels.simd`, as if for scalars:

    activate(s, P, row, k) -> f             f of one latent; P[row] is its own parameter, if the variant has one
    compete(scratch, s, f, n_latents, k)    then, if latents compete: change f, in the scratch's rows, of one sample
    slope(q, s, f, P, row, k)               dL/ds from q = dL/df; left out: q where f > 0, else 0
    own_gradient(s, q, penalty, P, row, k)  the gradient of the latent's own parameter

`k` has the constants of `study.kernels.lanes.Constants`; k.settings are the numbers of the variant's `lane_settings`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numba.core import types
from numba.core.extending import NativeValue, models, overload, register_model, typeof_impl, unbox

from study.kernels.compilation import inlined
from study.kernels.lanes import relu
from study.kernels.simd import where_less


@dataclass(frozen=True, eq=False)
class LaneCode:
    """What a variant computes in lanes: plain functions that numba compiles.

    Numbers that may change belong in the variant's `lane_settings`: numba freezes what a function reads from its module.
    """

    activate: Callable[..., Any]
    compete: Callable[..., Any] | None = None
    slope: Callable[..., Any] | None = None
    own_gradient: Callable[..., Any] | None = None
    """None if the variant has no parameter besides the standard ones."""
    # Filled in from the variant by `study.variants.registry.lane_code_of`:
    variant: str = ""
    penalises_code: bool = True
    """Whether l1 multiplies Σ f (dL/df then starts at l1) rather than the number of active latents."""
    own_not_below_zero: bool = False
    """Whether its own parameter is set back to 0 or above after each step."""

    @cached_property
    def key(self) -> str:
        """The variant's name and a hash of its functions and their files, so that changed code gets another type."""
        digest = hashlib.sha256(repr((self.penalises_code, self.own_not_below_zero)).encode())
        for function in filter(None, (self.activate, self.compete, self.slope, self.own_gradient)):
            source = Path(inspect.getsourcefile(function) or "")
            digest.update(function.__code__.co_code + repr(function.__code__.co_consts).encode())
            digest.update(source.read_bytes() if source.is_file() else b"")
        return f"{self.variant}-{digest.hexdigest()[:12]}"


class LaneCodeType(types.Opaque):
    """numba's type of a LaneCode. It is named by the key, so that machine code on disk is found again."""

    def __init__(self, key: str) -> None:
        self.lane_code = key
        super().__init__(name=f"LaneCode({key})")


_LANE_CODES: dict[str, LaneCode] = {}

register_model(LaneCodeType)(models.OpaqueModel)


def _type_of(code: LaneCode, context: Any) -> LaneCodeType:
    _LANE_CODES[code.key] = code
    return LaneCodeType(code.key)


def _unbox(kind: LaneCodeType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


typeof_impl.register(LaneCode)(_type_of)
unbox(LaneCodeType)(_unbox)


def _fills(stub: Callable[..., Any]) -> Callable[[Callable[[LaneCode], Any]], Any]:
    """Fill in a stub, whose first argument is the lane code, with what the decorated function of that LaneCode returns."""

    def fill(implementation: Callable[[LaneCode], Any]) -> Any:
        @overload(stub, strict=False, jit_options={"error_model": "numpy", "forceinline": True})
        def choose(code: Any, *_: Any) -> Any:
            return implementation(_LANE_CODES[code.lane_code]) if isinstance(code, LaneCodeType) else None

        return choose

    return fill


def activate(code, s, P, row, k):
    """f of one latent from its pre-activation; its first own parameter is P[row]."""


@_fills(activate)
def _activate(own: LaneCode) -> Any:
    function = inlined(own.activate)
    return lambda code, s, P, row, k: function(s, P, row, k)


def compete(code, scratch, s, f, n_latents, k):
    """Let the latents of one sample compete: changes f in the scratch's rows from f on."""


@_fills(compete)
def _compete(own: LaneCode) -> Any:
    if own.compete is None:
        return lambda code, scratch, s, f, n_latents, k: None
    function = inlined(own.compete)
    return lambda code, scratch, s, f, n_latents, k: function(scratch, s, f, n_latents, k)


def penalises_code(code):
    """Whether dL/df starts at l1: a constant when a kernel is compiled."""


@_fills(penalises_code)
def _penalises_code(own: LaneCode) -> Any:
    return (lambda code: True) if own.penalises_code else (lambda code: False)


def has_own(code):
    """Whether the variant has a parameter of its own: a constant when a kernel is compiled."""


@_fills(has_own)
def _has_own(own: LaneCode) -> Any:
    return (lambda code: False) if own.own_gradient is None else (lambda code: True)


def own_gradient(code, s, q, penalty, P, row, k):
    """The gradient of the variant's own parameter of one latent; 0 if it has none."""


@_fills(own_gradient)
def _own_gradient(own: LaneCode) -> Any:
    if own.own_gradient is None:
        return lambda code, s, q, penalty, P, row, k: k.zero
    function = inlined(own.own_gradient)
    return lambda code, s, q, penalty, P, row, k: function(s, q, penalty, P, row, k)


def own_kept(code, value, k):
    """The variant's own parameter after a step, set back into its range."""


@_fills(own_kept)
def _own_kept(own: LaneCode) -> Any:
    return (lambda code, value, k: relu(value, k.zero)) if own.own_not_below_zero else (lambda code, value, k: value)


def slope(code, q, s, f, P, row, k):
    """dL/ds of one latent from q = dL/df."""


@_fills(slope)
def _slope(own: LaneCode) -> Any:
    if own.slope is None:
        return lambda code, q, s, f, P, row, k: where_less(k.zero, f, q, k.zero)
    function = inlined(own.slope)
    return lambda code, q, s, f, P, row, k: function(q, s, f, P, row, k)
