"""The SAE variants that a protocol may name, and the protocol fields that each brings along.

`study.variants` fills this registry as `study` is imported, one file a variant; `search_spaces` itself knows none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from search_spaces.errors import MisuseError


@dataclass(frozen=True)
class VariantField:
    """A field of `Protocol` that belongs to one variant; every other variant leaves it at its default."""

    name: str
    """As study files write it, beginning with `sae_`."""
    type: Any
    """What pydantic validates it by."""
    default: Any
    """Never changed once released: a field at its default does not enter `protocol_id`."""
    meaning: str

    def of(self, protocol: Any) -> Any:
        """Its value in a protocol."""
        return getattr(protocol, self.name)


class RegisteredVariant(Protocol):
    """What a protocol asks of a variant."""

    name: ClassVar[str]
    """What `sae_variant` says."""
    fields: ClassVar[tuple[VariantField, ...]]
    pressure: ClassVar[str]
    """What makes codes sparser: the coordinate `l1`, or the protocol field that says how many latents may be active."""
    steerable: ClassVar[bool]
    """Whether l1 can be steered to a target L0 while it is trained."""

    def check(self, protocol: Any) -> None:
        """Raise MisuseError where the protocol cannot be trained with this variant."""
        ...


VARIANTS: dict[str, RegisteredVariant] = {}
"""By name; `register_variant` of `search_spaces.protocol` adds to it."""


def check_variant(protocol: Any, default: str) -> None:
    """Raise MisuseError for a protocol whose variant is unknown, or cannot be what the protocol says."""
    for other in VARIANTS.values():
        for field in other.fields if other.name != protocol.sae_variant else ():
            if field.default is None and field.of(protocol) is not None:
                raise MisuseError(
                    f"{field.name}={field.of(protocol)} with sae_variant={protocol.sae_variant!r}: the field is that of "
                    f"{other.name!r}. Set sae_variant: {other.name}, or leave it out."
                )
    variant = VARIANTS.get(protocol.sae_variant)
    if variant is not None:
        variant.check(protocol)
    elif protocol.sae_variant != default:
        raise MisuseError(
            f"sae_variant={protocol.sae_variant!r} is unknown. Registered: {', '.join(VARIANTS) or 'none'}. `import study` "
            "registers the variants that come with it; register your own before the protocol is made."
        )
