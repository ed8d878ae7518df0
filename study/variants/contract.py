"""What an SAE variant is: its parameters, its forward pass and gradient, its loss, its lane code, its protocol fields.

A variant is one file: a subclass of `Variant`, registered by `study.variants.registry.register`. The base class is the SAE of one
hidden layer,

    u = h  (or h − b_dec),   s = W_enc u + b_enc,   f = activation(s),   ĥ = W_dec f + b_dec,

trained to minimise the mean over a minibatch of ‖h − ĥ‖² + l1 Σ_j f_j (or l1 times the number of active latents). A variant
of this form overrides `activate` and its counterparts in torch and in lanes; any other variant overrides `forward` and
`gradients`. The NumPy code is the definition: `reference` and the history run it, and the metrics where there is no lane code.

Arrays have replicates on the last axis: h (B, H, R), s and f (B, L, R), W_enc and W_dec (L, H, R), b_enc (L, R), b_dec (H, R).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture
from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol
from search_spaces.variants import VariantField
from study import data
from study.sums import mean_over_batch, ordered_sum

if TYPE_CHECKING:
    from study.kernels.lane_code import LaneCode

_Array = NDArray[Any]
Theta = Mapping[str, _Array]
"""Parameters, or their gradients, by name."""
TorchLoss = Callable[[Mapping[str, Any], Any, Any], Any]
"""(parameters, h (B, H, R), l1 (R,)) → the loss, each lane's mean over the minibatch summed over lanes; all torch tensors."""


@dataclass(frozen=True)
class Parameter:
    """A trained array, replicates on the last axis."""

    name: str
    axes: str
    """Its other axes, `L` for latents and `H` for hidden units: "LH" is (L, H, R)."""
    lowest: float | None = None
    """After each step its values are clamped to at least this."""

    def shape(self, architecture: Architecture) -> tuple[int, ...]:
        """Its shape without the replicates' axis."""
        sizes = {"L": architecture.n_latents, "H": architecture.n_hidden}
        return tuple(sizes[axis] for axis in self.axes)


class Penalised(Enum):
    """What l1 multiplies in the loss."""

    CODE = "Σ_j f_j"
    COUNT = "Σ_j [f_j > 0]"


@dataclass(frozen=True, eq=False)
class Code:
    """The forward pass of a minibatch."""

    u: _Array
    """The encoder's input, (B, H, R)."""
    s: _Array
    """Pre-activations, (B, L, R)."""
    f: _Array
    """Activations of the latents, (B, L, R)."""


class Variant(ABC):
    """An SAE of one hidden layer, whose latents may compete."""

    name: ClassVar[str]
    """Its name in the protocol's field `sae_variant`."""
    fields: ClassVar[tuple[VariantField, ...]] = ()
    """Protocol fields of its own."""
    own_parameters: ClassVar[tuple[Parameter, ...]] = ()
    """Behind the standard four. Lane code trains at most one, of shape (L,), whose `lowest` is None or 0."""
    penalised: ClassVar[Penalised] = Penalised.CODE
    pressure: ClassVar[str] = "l1"
    """`l1`, or the protocol field that says how many latents may be active."""
    dies_of_l1: ClassVar[bool] = False
    """Whether the closed forms of `study.theory` predict the l1 from which all of its latents die."""
    steerable: ClassVar[bool] = False
    """Whether its l1 can be steered to a target L0 during training."""
    latents_compete: ClassVar[bool] = False
    """Whether a latent's activation depends on other latents' pre-activations."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All trained parameters, in the order in which engines lay them out."""
        standard = Parameter("W_enc", "LH"), Parameter("b_enc", "L"), Parameter("W_dec", "LH"), Parameter("b_dec", "H")
        return standard + self.own_parameters

    def rows(self, architecture: Architecture) -> dict[str, int]:
        """How many numbers each parameter holds, by name, in order."""
        return {parameter.name: math.prod(parameter.shape(architecture)) for parameter in self.parameters}

    def check(self, protocol: Protocol) -> None:  # noqa: B027 (most variants take any protocol)
        """Raise MisuseError if its own fields contradict each other or the rest of the protocol."""

    def start(self, architecture: Architecture, seeds: Sequence[int], b_dec: _Array, protocol: Protocol) -> dict[str, _Array]:
        """The parameters before the first step, for R seeds, in the dtype of b_dec (H, R), the initial bias."""
        W_enc, W_dec = zip(*(data.sae_initial_weights(architecture, int(seed), protocol) for seed in seeds))
        return {
            "W_enc": np.stack(W_enc, axis=-1).astype(b_dec.dtype),
            "b_enc": np.zeros((architecture.n_latents, len(seeds)), b_dec.dtype),
            "W_dec": np.stack([W.T for W in W_dec], axis=-1).astype(b_dec.dtype),
            "b_dec": b_dec,
        }

    # The definition, in NumPy

    @abstractmethod
    def activate(self, s: _Array, theta: Theta, protocol: Protocol) -> _Array:
        """f (B, L, R) from the pre-activations s (B, L, R)."""

    def forward(self, theta: Theta, h: _Array, protocol: Protocol) -> Code:
        """The forward pass up to the latents' activations; sums start at the bias and run over hidden units in order."""
        u = h - theta["b_dec"] if protocol.sae_subtract_decoder_bias else h
        s = ordered_sum((theta["W_enc"][:, i] * u[:, None, i] for i in range(h.shape[1])), theta["b_enc"])
        return Code(u, s, self.activate(s, theta, protocol))

    def reconstruct(self, theta: Theta, f: _Array) -> _Array:
        """ĥ (B, H, R) from f (B, L, R); the sum starts at the bias and runs over latents in order."""
        return ordered_sum((theta["W_dec"][j] * f[:, j, None] for j in range(f.shape[1])), theta["b_dec"])

    def gradients(self, theta: Theta, h: _Array, l1: _Array, protocol: Protocol, out: Theta) -> _Array:
        """Fill `out` with the loss's gradients on a minibatch h (B, H, R), l1 (R,); returns f (B, L, R)."""
        code = self.forward(theta, h, protocol)
        r = h.dtype.type(2) * (self.reconstruct(theta, code.f) - h)  # dL/dĥ: (B, H, R)
        penalty = l1 if self.penalised is Penalised.CODE else None
        q = ordered_sum((theta["W_dec"][:, i] * r[:, None, i] for i in range(h.shape[1])), penalty)  # dL/df: (B, L, R)
        self.own_gradients(theta, code, q, l1, protocol, out)
        q = self.slope(q, code, theta, protocol)  # dL/ds
        mean_over_batch(out["W_enc"], (q[n][:, None] * code.u[n] for n in range(len(h))), len(h))
        mean_over_batch(out["b_enc"], q, len(h))
        mean_over_batch(out["W_dec"], (code.f[n][:, None] * r[n] for n in range(len(h))), len(h))
        if protocol.sae_subtract_decoder_bias:
            r = r - ordered_sum(theta["W_enc"][j] * q[:, j, None] for j in range(q.shape[1]))
        mean_over_batch(out["b_dec"], r, len(h))
        return code.f

    def slope(self, q: _Array, code: Code, theta: Theta, protocol: Protocol) -> _Array:
        """dL/ds (B, L, R) from q = dL/df. As it is here it is right where df/ds = 1 if f > 0, else 0: override it elsewhere."""
        return np.where(code.f > 0, q, 0)

    def own_gradients(  # noqa: B027 (most variants have no parameter of their own)
        self, theta: Theta, code: Code, q: _Array, l1: _Array, protocol: Protocol, out: Theta
    ) -> None:
        """Fill `out` with the gradients of its own parameters; q (B, L, R) is dL/df."""

    # The torch engine

    @property
    def has_torch_loss(self) -> bool:
        """Whether it overrides `torch_loss`: known without importing PyTorch."""
        return type(self).torch_loss is not Variant.torch_loss

    def torch_loss(self, protocol: Protocol) -> TorchLoss:
        """The loss for torch.func.grad. PyTorch is imported when this is called."""
        raise MisuseError(f"sae_variant={self.name!r} has no torch loss. Use another engine.")

    # The compiled engine

    @property
    def has_lane_code(self) -> bool:
        """Whether it overrides `lane_code`: known without importing numba."""
        return type(self).lane_code is not Variant.lane_code

    def lane_code(self) -> LaneCode:
        """`activate` and what else it overrides, for the compiled engine's kernels. numba is imported when this is called."""
        raise MisuseError(f"sae_variant={self.name!r} has no lane code. Use another engine.")

    def lane_settings(self, protocol: Protocol) -> tuple[float, ...]:
        """The numbers that the lane code reads, in its order."""
        return ()

    def __repr__(self) -> str:
        return f"<variant {self.name}>"
