"""The registry of SAE variants that a protocol can name, and of the protocol fields that each variant adds.

Importing `study` fills this registry from `study/variants/`, one file per variant; `search_spaces` itself knows none of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from typing import Protocol as Interface

from search_spaces.errors import MisuseError
from search_spaces.values import quoted


@dataclass(frozen=True)
class VariantField:
    """A field of `Protocol` that belongs to one variant. With a default of None, other variants may not set it."""

    name: str
    """Its name in study files, beginning with `sae_`."""
    type: Any
    """The type that pydantic validates it against."""
    default: Any
    """The default, never changed once released, because `protocol_id` leaves out fields at their defaults."""
    meaning: str

    def of(self, protocol: Any) -> Any:
        """The value of this field in a protocol."""
        return getattr(protocol, self.name)


class RegisteredVariant(Interface):
    """What a protocol needs to know about a variant; `study/variants/contract.py` has the rest."""

    name: ClassVar[str]
    """The value of `sae_variant` that selects it."""
    fields: ClassVar[tuple[VariantField, ...]]
    pressure: ClassVar[str]
    """What makes codes sparser: the coordinate `l1`, or the protocol field that limits the number of active latents."""
    steerable: ClassVar[bool]
    """Whether l1 can be steered to a target L0 during training."""

    def check(self, protocol: Any) -> None:
        """Raise MisuseError if this variant cannot be trained under the protocol."""
        ...


VARIANTS: dict[str, RegisteredVariant] = {}
"""The registered variants by name; `search_spaces.protocol.register_variant` adds one."""


def check_variant(protocol: Any, default: str) -> None:
    """Raise MisuseError for an unknown variant, one that cannot be trained under the protocol, or a field of another variant."""
    for other in VARIANTS.values():
        for field in other.fields if other.name != protocol.sae_variant else ():
            if field.default is None and field.of(protocol) is not None:
                raise MisuseError(
                    f"{field.name}={field.of(protocol)} with sae_variant={quoted(protocol.sae_variant)}: the field is that of "
                    f"{other.name!r}. Set sae_variant: {other.name}, or leave it out."
                )
    variant = VARIANTS.get(protocol.sae_variant)
    if variant is not None:
        if protocol.sae_target_l0 is not None and not variant.steerable:
            raise MisuseError(
                f"sae_target_l0={protocol.sae_target_l0} with sae_variant={quoted(protocol.sae_variant)}: its l1 cannot be "
                f"steered. Use sae_variant: {' or '.join(one.name for one in VARIANTS.values() if one.steerable)}, or "
                "sae_target_l0: null."
            )
        variant.check(protocol)
    elif protocol.sae_variant != default:
        raise MisuseError(
            f"sae_variant={quoted(protocol.sae_variant)} is unknown. Registered: {', '.join(VARIANTS) or 'none'}. `import study` "
            "registers the variants that come with it; register your own before the protocol is made."
        )
