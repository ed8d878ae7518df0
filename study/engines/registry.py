"""The engines by name. An engine's name, its family and what it can train are known without importing it.

An engine trains many autoencoders, then many SAEs, one replicate per lane. All engines of a family give the same row for the
same replicate. The rows of a study come from one family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol
from study.variants.registry import variant_of

if TYPE_CHECKING:
    from study.engines.contract import Engine


@dataclass(frozen=True)
class KnownEngine:
    """An engine before it is imported, because numba and torch take seconds to import."""

    name: str
    family: str
    module: str
    kind: str
    """The name of the class in the module."""
    supports: Callable[[Protocol], bool]
    """Whether it can train a protocol."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be loaded here."""
        return self.name != "torch" or find_spec("torch") is not None

    def check_installed(self) -> None:
        """Raise MisuseError if it cannot be loaded."""
        if not self.is_installed:
            raise MisuseError(
                f"engine={self.name!r} needs PyTorch, which is not installed. `pip install 'sae-study[torch]'`, or use auto."
            )

    def load(self, **options: Any) -> Engine:
        """Import and make it, with its own options, if any. Raises MisuseError if it is not installed."""
        self.check_installed()
        return getattr(import_module(self.module), self.kind)(**options)


def _has_lane_code(protocol: Protocol) -> bool:
    return variant_of(protocol).has_lane_code


def _has_torch_loss(protocol: Protocol) -> bool:
    return variant_of(protocol).has_torch_loss and protocol.sae_target_l0 is None  # it holds l1


_KNOWN = {
    engine.name: engine
    for engine in (
        KnownEngine("compiled", "exact", "study.engines.compiled", "CompiledEngine", _has_lane_code),
        KnownEngine("torch", "torch", "study.engines.torch_engine", "TorchEngine", _has_torch_loss),
        KnownEngine("reference", "exact", "study.engines.reference", "ReferenceEngine", lambda protocol: True),
    )
}
"""The fastest first."""
ENGINES = ("auto", *sorted(_KNOWN))


def exact_engine(protocol: Protocol) -> KnownEngine:
    """The faster engine of the `exact` family that can train the protocol: bit-equal to the definition."""
    return next(engine for engine in _KNOWN.values() if engine.family == "exact" and engine.supports(protocol))


def engine_for(name: str, protocol: Protocol) -> KnownEngine:
    """The engine of that name; `auto` is the fastest installed engine that can train the protocol.

    Raises MisuseError for an unknown name, and if the engine cannot train the protocol.
    """
    can = [engine for engine in _KNOWN.values() if engine.supports(protocol)]
    if name == "auto":
        return next(engine for engine in can if engine.is_installed)
    if name not in _KNOWN:
        raise MisuseError(f"engine={name!r} is unknown. Engines: {', '.join(ENGINES)}.")
    if _KNOWN[name] not in can:
        raise MisuseError(
            f"engine={name!r} cannot train protocol={protocol.name!r}. Use engine: auto, or one of "
            f"{', '.join(engine.name for engine in can)}."
        )
    return _KNOWN[name]
