"""A variant's lane code, and how kernels are specialised by it: numba's type of a `LaneCode` names the variant.

A kernel takes the `LaneCode` as an argument and calls `encode`, `slopes`, `own_slopes` … with it; each is filled in, as the
kernel is compiled for that type, from the variant's own functions. They are written with `study.kernels.simd` as with scalars:

    activate(s, P, row, settings, k) -> f             of one latent; P[row] is the first of its own parameters, P[row + L] the next
    compete(scratch, s, f, n_latents, settings, k)    then, where latents compete: f in the scratch's rows, of one sample
    own_gradient(s, q, penalty, P, row, settings, k)  of its own parameter; q = dL/df
    own_kept(value, k)                                that parameter after a step, set back into its range

`settings` are the numbers of the variant's `lane_settings`; `k` has the constants of `study.kernels.lanes.Constants`.
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


@dataclass(frozen=True, eq=False)
class LaneCode:
    """What a variant computes in lanes; each a plain function that numba compiles."""

    variant: str
    activate: Callable[..., Any]
    compete: Callable[..., Any] | None = None
    own_gradient: Callable[..., Any] | None = None
    """None where the variant has no parameter beside the standard ones."""
    own_kept: Callable[..., Any] | None = None
    penalises_code: bool = True
    """Whether l1 multiplies Σ f (dL/df then starts at l1), not the number of active latents."""

    @cached_property
    def key(self) -> str:
        """The variant's name and a hash of the file that its functions are from: another source is another type."""
        source = inspect.getsourcefile(self.activate)
        content = Path(source).read_bytes() if source else self.activate.__code__.co_code
        return f"{self.variant}-{hashlib.sha256(content).hexdigest()[:12]}"


class LaneCodeType(types.Opaque):
    """numba's type of a LaneCode: by its key, so that machine code on disk is found again."""

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
    """Fill in a stub, whose first argument is the lane code, by a function of the LaneCode that returns what to compile."""

    def fill(implementation: Callable[[LaneCode], Any]) -> Any:
        @overload(stub, strict=False, jit_options={"error_model": "numpy", "forceinline": True})
        def choose(code: Any, *_: Any) -> Any:
            return implementation(_LANE_CODES[code.lane_code]) if isinstance(code, LaneCodeType) else None

        return choose

    return fill


def activate(code, s, P, row, settings, k):
    """f of one latent from its pre-activation; its first own parameter is P[row]."""
    raise NotImplementedError  # numba fills it in


@_fills(activate)
def _activate(own: LaneCode) -> Any:
    function = inlined(own.activate)
    return lambda code, s, P, row, settings, k: function(s, P, row, settings, k)


def compete(code, scratch, s, f, n_latents, settings, k):
    """Among the latents of one sample: sets f, the scratch's rows from f on."""
    raise NotImplementedError


@_fills(compete)
def _compete(own: LaneCode) -> Any:
    if own.compete is None:
        return lambda code, scratch, s, f, n_latents, settings, k: None
    function = inlined(own.compete)
    return lambda code, scratch, s, f, n_latents, settings, k: function(scratch, s, f, n_latents, settings, k)


def penalises_code(code):
    """Whether dL/df starts at l1: a constant as a kernel is compiled."""
    raise NotImplementedError


@_fills(penalises_code)
def _penalises_code(own: LaneCode) -> Any:
    return (lambda code: True) if own.penalises_code else (lambda code: False)


def has_own(code):
    """Whether the variant has a parameter of its own: a constant as a kernel is compiled."""
    raise NotImplementedError


@_fills(has_own)
def _has_own(own: LaneCode) -> Any:
    return (lambda code: False) if own.own_gradient is None else (lambda code: True)


def own_gradient(code, s, q, penalty, P, row, settings, k):
    """Of the variant's own parameter of one latent; 0 where it has none."""
    raise NotImplementedError


@_fills(own_gradient)
def _own_gradient(own: LaneCode) -> Any:
    if own.own_gradient is None:
        return lambda code, s, q, penalty, P, row, settings, k: k.zero
    function = inlined(own.own_gradient)
    return lambda code, s, q, penalty, P, row, settings, k: function(s, q, penalty, P, row, settings, k)


def own_kept(code, value, k):
    """The variant's own parameter after a step, set back into its range."""
    raise NotImplementedError


@_fills(own_kept)
def _own_kept(own: LaneCode) -> Any:
    if own.own_kept is None:
        return lambda code, value, k: value
    function = inlined(own.own_kept)
    return lambda code, value, k: function(value, k)
