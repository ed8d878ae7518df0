"""Arms: the protocols that one study compares, each with its l1. An ablation varies one difference of two protocols at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from search_spaces.coordinates import L1
from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol, fields, protocol_from, protocol_mapping
from search_spaces.values import plain, quoted
from search_spaces.variants import VARIANTS

MOST_ARMS = 1_000

_LENGTHS = {f"{model}_training_steps": (f"{model}_epochs", f"{model}_steps") for model in ("ae", "sae")}
"""The length of training, however it is given."""
_GROUPS: dict[str, tuple[str, ...]] = {
    "data": ("generator", "samples", "eval_samples", "sample_order"),
    "ae_init": ("ae_init_std", "ae_init_scale"),
    "ae_minibatches": ("ae_batch_size", "ae_training_steps"),
    "sae_init": ("sae_init_std", "sae_init_scale", "sae_decoder_init", "sae_encoder_init"),
    "sae_minibatches": ("sae_batch_size", "sae_training_steps"),
}
"""Settings that make sense only together, under one name. Any other field is a difference of its own."""


@dataclass(frozen=True)
class Arm:
    """One of the protocols that a study compares, and the values of l1 that it is trained at."""

    protocol: Protocol
    l1: tuple[float, ...]

    def to_mapping(self) -> dict[str, Any]:
        """What `arms_from` reads back."""
        mapping = protocol_mapping(self.protocol)
        return (mapping if isinstance(mapping, dict) else {"base": mapping}) | {"l1": list(self.l1)}


def arms_from(given: object, l1: object = None) -> tuple[Arm, ...]:
    """The arms of a list of protocols: names, or mappings {base: NAME, field: value, …, l1: VALUES}.

    l1: the values of arms that give none; None: each protocol's own. MisuseError names what is wrong.
    """
    listed = plain(given)
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_ARMS:
        raise MisuseError(f"protocols={quoted(given)} is not a list of 1 to {MOST_ARMS:,} protocols: names, or mappings of fields.")
    arms = tuple(one if isinstance(one, Arm) else _arm(one, l1) for one in listed)
    seen: set[tuple[Protocol, float]] = set()
    for arm in arms:
        own = {(arm.protocol, value) for value in arm.l1}
        if own & seen or len(own) < len(arm.l1):
            raise MisuseError(f"protocols lists {arm.protocol.name!r} twice with the same l1. Remove one.")
        seen |= own
    return arms


def _arm(given: object, l1: object) -> Arm:
    fields = dict(given) if isinstance(given, Mapping) else given
    own = fields.pop("l1", "default") if isinstance(fields, dict) else "default"
    protocol = protocol_from(fields)
    if own == "default":
        own = protocol.default_l1 if l1 is None else l1
    values = own if isinstance(own, (list, tuple)) else [own]
    if not values:
        raise MisuseError(f"protocols: l1 of {protocol.name!r} is empty. Give at least one value, or leave it out.")
    return Arm(protocol, tuple(map(L1.checked, values)))


def ablation_from(given: object, l1: object = None) -> tuple[Arm, ...]:
    """The arms of {from: PROTOCOL, to: PROTOCOL}: these two, `from` with one difference of `to` each, and the other way round.

    The two values of l1 are one of the differences, unless `l1` is given for all.
    """
    if not isinstance(given, Mapping) or given.keys() != {"from", "to"}:
        raise MisuseError(f"ablate={quoted(given)} is not a mapping of from and to. Write {{from: dissertation, to: sound}}.")
    ends = _arm(given["from"], l1), _arm(given["to"], l1)
    if not (names := differences(*ends)):
        raise MisuseError(f"ablate: from and to are both {ends[0].protocol.name}. Give two protocols that differ.")
    changed = (_with_difference(*pair, name) for pair in (ends, ends[::-1]) for name in names)
    return arms_from(list(dict.fromkeys((*ends, *changed))))


def differences(one: Arm, other: Arm) -> tuple[str, ...]:
    """The names of the differences between two arms: groups of settings, single fields, and `l1`."""
    first, second = _settings(one.protocol), _settings(other.protocol)
    names = (_group_of(name) for name in first if first[name] != second[name])
    return tuple(dict.fromkeys((*names, *(["l1"] if one.l1 != other.l1 else []))))


def nearest(arm: Arm, ends: tuple[Arm, Arm]) -> Arm:
    """That of two arms from which it has fewer differences; the first if they are as many."""
    return min(ends, key=lambda end: len(differences(end, arm)))


def _settings(protocol: Protocol) -> dict[str, Any]:
    """The fields of a protocol, with the numbers of training steps in place of epochs or steps."""
    instead = {name for pair in _LENGTHS.values() for name in pair}
    return {name: getattr(protocol, name) for name in (*(name for name in fields() if name not in instead), *_LENGTHS)}


def _group_of(name: str) -> str:
    if name in {"sae_variant", *(field.name for variant in VARIANTS.values() for field in variant.fields)}:
        return "sae_variant"
    return next((group for group, names in _GROUPS.items() if name in names), name)


def _with_difference(base: Arm, giver: Arm, name: str) -> Arm:
    """The base with one difference of the giver, and the fewest others without which it would be no valid protocol."""
    if name == "l1":
        return Arm(base.protocol, giver.l1)
    others = [other for other in differences(base, giver) if other not in (name, "l1")]
    for size in range(len(others) + 1):
        for more in combinations(others, size):
            if (protocol := _changed(base.protocol, giver.protocol, {name, *more})) is not None:
                return Arm(protocol, base.l1)
    raise AssertionError("with all differences, it is the giver")


def _changed(base: Protocol, giver: Protocol, groups: set[str]) -> Protocol | None:
    """The base with these differences of the giver; None if that is no valid protocol."""
    changes = {name: value for name, value in _settings(giver).items() if _group_of(name) in groups}
    try:
        return Protocol(**dataclasses.asdict(base) | dict(_written(base, giver, changes)))
    except (MisuseError, ValidationError):
        return None


def _written(base: Protocol, giver: Protocol, changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of changed settings. Epochs stay as long as they last as many steps; more samples alone train no longer."""
    for length, (epochs, steps) in _LENGTHS.items():
        source = giver if length in changes else base
        samples, batch = (changes.get(name, getattr(base, name)) for name in ("samples", epochs.replace("epochs", "batch_size")))
        passes = getattr(source, epochs)
        kept = passes is not None and passes * max(1, samples // batch) == getattr(source, length)
        yield epochs, passes if kept else None
        yield steps, None if kept else getattr(source, length)
    yield from ((name, value) for name, value in changes.items() if name not in _LENGTHS)
