"""The protocol: everything that a study holds constant, and the named protocols. Changing a field changes its id."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from search_spaces.errors import MisuseError
from search_spaces.values import MOST_CHARACTERS, named, plain, quoted
from search_spaces.variants import VARIANTS, RegisteredVariant, check_variant

PROCEDURE_VERSION = 2
"""To be raised when the same replicate under the same protocol would give a different row: rows made before are then no
longer comparable with new ones. It is part of every `replicate_id`."""

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Samples, batch sizes and widths; samples are numbered in 32 bits."""
_Duration = Annotated[int, Field(ge=0, le=1_000_000_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"""Learning rates, standard deviations and factors."""
Divisor = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
_Threshold = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
_Level = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


DEFAULT_VARIANT = "relu"


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Protocol:
    """How a replicate is generated, trained and judged. The defaults are the `dissertation` protocol.

    Every field is given by keyword. Registered variants add the fields that they declare (`search_spaces/variants.py`).
    Raises pydantic's ValidationError for a value out of range, MisuseError for fields that contradict each other.
    """

    # Data
    generator: Literal["legacy", "pcg64"] = "legacy"
    """`legacy`: NumPy's RandomState(seed), restarted for data, AE and SAE, as the source did. `pcg64`: one
    stream per purpose."""
    samples: Count = 2000
    """Training samples, the same for AE and SAE."""
    eval_samples: Count | None = None
    """Number of fresh samples on which the metrics are computed; None: the training samples are used."""
    importance_decay: _Share = 0.7
    """The loss weighs feature i with importance_decay**i."""
    sample_order: Literal["stored", "with_replacement"] = "stored"
    """`stored`: minibatches run through the samples in order, epoch after epoch. `with_replacement`: each sample is drawn
    at random."""

    # Autoencoder
    ae_init_std: Scale | Literal["xavier"] = 0.01
    """W ~ normal(0, ae_init_std); `xavier`: sqrt(2 / (n_features + n_hidden))."""
    ae_init_scale: Scale = 1.0
    """The drawn weights are multiplied by this: the same weights, larger or smaller."""
    ae_epochs: _Duration | None = 5
    """Passes over the samples; an epoch is samples / ae_batch_size steps. Exactly one of epochs and steps is set."""
    ae_steps: _Duration | None = None
    ae_batch_size: Count = 1
    ae_learning_rate: Scale = 0.01
    ae_warmup_steps: _Duration = 0
    """The learning rate rises linearly over these first steps."""
    ae_schedule: Literal["constant", "cosine"] = "constant"
    """`cosine`: the learning rate falls to 0 as (1 + cos(pi t / T)) / 2."""

    # Sparse autoencoder
    sae_input: Literal["as_is", "rescaled"] = "as_is"
    """What the SAE gets as h. `as_is`: the bottleneck's activations. `rescaled`: these divided by their mean norm over the
    training samples and multiplied by sqrt(n_hidden); the SAE's columns are then those of the rescaled h."""
    sae_variant: str = DEFAULT_VARIANT
    """The name of a registered variant: how latents are computed from the pre-activations, and what their activity costs."""
    sae_init_std: Scale = 0.01
    """W_enc and W_dec ~ normal(0, sae_init_std), before the two settings below."""
    sae_init_scale: Scale = 1.0
    """Both matrices are multiplied by this, after the two settings below."""
    sae_decoder_init: Literal["normal", "unit_norm"] = "normal"
    """`unit_norm`: the decoder's columns are scaled to norm 1 at the start."""
    sae_encoder_init: Literal["normal", "decoder_transpose"] = "normal"
    """`decoder_transpose`: the encoder starts as the transposed decoder, W_enc = W_dec^T."""
    sae_decoder_norm: Literal["free", "unit"] = "free"
    """`unit`: the gradient's radial part is removed before each step, and the columns are rescaled to norm 1 after it."""
    sae_decoder_bias_init: Literal["zero", "mean"] = "zero"
    """`mean`: b_dec starts at the mean of h over the training samples."""
    sae_subtract_decoder_bias: bool = False
    """The encoder sees h - b_dec instead of h."""
    sae_epochs: _Duration | None = 20
    """0: no SAE is trained; the replicate is judged by its AE alone."""
    sae_steps: _Duration | None = None
    sae_batch_size: Count = 1
    sae_learning_rate: Scale = 0.001
    sae_warmup_steps: _Duration = 0
    sae_schedule: Literal["constant", "cosine"] = "constant"
    sae_target_l0: Divisor | None = None
    """The mean number of active latents to which l1 is steered during training (study/engines/l1_controller.py). Steering
    starts from the cell's l1, or from the closed form if that is 0. None: l1 is held constant."""

    # Adam, for both models
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Scale = 1e-8
    """Added after the square root of the bias-corrected second moment."""

    # Thresholds of metrics and verdicts (study/failures.py)
    dead_below: _Share = 0.01
    """A latent is alive when its firing rate is at least this."""
    represented_above: _Threshold = 0.5
    """Feature i is represented when |W_i|^2 is above this."""
    constant_below: _Threshold = 1e-12
    """Similarities are NaN where the reconstruction's variance is under this share of h's."""
    collapsed_from: _Threshold = 0.95
    """`ae_collapsed` at or above this share of the bias-only loss."""
    starved_below: _Share = 0.5
    """`sae_starved` below this share of the represented features."""
    dense_above: _Threshold = 3.0
    """`sae_dense` above this multiple of (1 - S) |F|."""
    unfaithful_below: _Level = 0.9
    """`unfaithful` below this explained variance."""
    unrecovered_below: _Level = 0.5
    """`unrecovered` below this corrected MCC."""
    reached_within: _Share = 0.05
    """`sae_target_l0` counts as reached when l0 is within this share of it."""

    def __init__(self, **given: Any) -> None:
        for name, value in _validator()(**plain(given)):
            object.__setattr__(self, name, value)
        self._check_training()
        self._check_data()
        if self.sae_target_l0 is not None and not self.has_sae:
            raise MisuseError(
                f"sae_target_l0={self.sae_target_l0} with {self.sae_training_steps} SAE steps: l1 can be steered only while an "
                "SAE is trained. Train one, or use sae_target_l0: null."
            )
        check_variant(self, DEFAULT_VARIANT)
        if self.ae_training_steps == 0:
            raise MisuseError("0 epochs or steps train no autoencoder. Set ae_epochs or ae_steps to at least 1.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Protocol) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"Protocol({', '.join(f'{name}={value!r}' for name, value in self._identity)})"

    @property
    def _identity(self) -> tuple[tuple[str, Any], ...]:
        """The fields that are not at their defaults, so that fields which a variant adds later do not change older protocols."""
        return tuple(_differences(self, _DEFAULTS).items())

    def _check_training(self) -> None:
        for model in ("ae", "sae"):
            epochs, steps, batch_size = (getattr(self, f"{model}_{name}") for name in ("epochs", "steps", "batch_size"))
            if (epochs is None) == (steps is None):
                raise MisuseError(
                    f"{model}_epochs={epochs} and {model}_steps={steps}: exactly one of the two says how long "
                    "training lasts. Set one of them, the other to null."
                )
            if self.samples % batch_size and self.sample_order == "stored":
                raise MisuseError(
                    f"{model}_batch_size={batch_size} does not divide samples={self.samples}: "
                    "stored order needs whole minibatches. Choose a divisor, or sample_order: with_replacement."
                )

    def _check_data(self) -> None:
        if self.sample_order == "with_replacement" and self.generator == "legacy":
            raise MisuseError(
                "generator='legacy' has no stream for minibatches. Use generator: pcg64 with sample_order: with_replacement."
            )
        if self.eval_samples is not None and self.generator == "legacy":
            raise MisuseError(
                "generator='legacy' has no stream for evaluation samples. Use generator: pcg64, or eval_samples: null."
            )

    @property
    def protocol_id(self) -> str:
        """Hash of the fields, 12 hexadecimal digits.

        Fields at their defaults are left out, so that a later version can add fields without renaming every past
        protocol. A default never changes: that would need a new PROCEDURE_VERSION.
        """
        return hashlib.sha256(json.dumps(dict(self._identity), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name shown to readers: a named protocol's, or the nearest one's with what differs, as `sound(ae_steps=100)`."""
        base, differences = _nearest(self)
        return f"{base}({', '.join(f'{key}={value}' for key, value in differences.items())})" if differences else base

    @property
    def default_l1(self) -> float:
        """The l1 that goes with this protocol where a study gives none: that of the nearest named protocol."""
        return DEFAULT_L1[_nearest(self)[0]]

    @property
    def ae_training_steps(self) -> int:
        return self._training_steps(self.ae_epochs, self.ae_steps, self.ae_batch_size)

    @property
    def sae_training_steps(self) -> int:
        return self._training_steps(self.sae_epochs, self.sae_steps, self.sae_batch_size)

    def _training_steps(self, epochs: int | None, steps: int | None, batch_size: int) -> int:
        if steps is not None:
            return steps
        assert epochs is not None, "validated in _check"
        return epochs * max(1, self.samples // batch_size)

    @property
    def has_sae(self) -> bool:
        return self.sae_training_steps > 0


def fields() -> tuple[str, ...]:
    """The names of all fields; those of registered variants follow `sae_variant`."""
    return tuple(field.name for field in dataclasses.fields(Protocol))


@cache
def _validator() -> type[BaseModel]:
    """The pydantic model that validates the present fields; it is rebuilt when a variant adds some."""
    hints = get_type_hints(Protocol, include_extras=True)
    types: dict[str, Any] = {field.name: (hints[field.name], field.default) for field in dataclasses.fields(Protocol)}
    return create_model("Protocol", __config__=ConfigDict(extra="forbid", strict=True), **types)


def register_variant(variant: RegisteredVariant) -> None:
    """Let protocols name a variant and set its fields. MisuseError if its name or that of a field is taken."""
    if wrong := [field.name for field in variant.fields if not field.name.startswith("sae_")]:
        raise MisuseError(f"fields {', '.join(wrong)} of variant {variant.name!r} do not begin with sae_. Give them such names.")
    taken = [field.name for field in variant.fields if field.name in fields()]
    if variant.name in VARIANTS or taken:
        raise MisuseError(
            f"variant {variant.name!r} cannot be registered: {', '.join(taken) or variant.name} is taken. Choose another name."
        )
    own = [(field.name, field.type, dataclasses.field(default=field.default)) for field in variant.fields]
    added = {field.name: field for field in dataclasses.fields(dataclasses.make_dataclass("_", own))}
    of_variants = {"sae_variant", *(field.name for other in VARIANTS.values() for field in other.fields)}
    known = {field.name: field for field in dataclasses.fields(Protocol)}
    behind = 1 + max(place for place, name in enumerate(known) if name in of_variants)
    ordered = [*list(known.items())[:behind], *added.items(), *list(known.items())[behind:]]
    type.__setattr__(Protocol, "__dataclass_fields__", dict(ordered))
    Protocol.__annotations__ |= {field.name: field.type for field in variant.fields}
    for field in variant.fields:
        setattr(Protocol, field.name, field.default)
    VARIANTS[variant.name] = variant
    _validator.cache_clear()


_DEFAULTS = Protocol()

PROTOCOLS: dict[str, Protocol] = {
    # The source's *experiment*, in which the SAE died, and its *diagnosis* run, which used other data.
    "dissertation": Protocol(),
    "dissertation-diagnosis": Protocol(samples=1000, ae_epochs=2, sae_epochs=0),
    # The recipe that a researcher should start from.
    "sound": Protocol(
        generator="pcg64",
        samples=16_384,
        eval_samples=16_384,
        sample_order="with_replacement",
        ae_init_std="xavier",
        ae_epochs=None,
        ae_steps=3000,
        ae_batch_size=128,
        ae_schedule="cosine",
        sae_init_std=1.0,
        sae_decoder_init="unit_norm",
        sae_encoder_init="decoder_transpose",
        sae_decoder_norm="unit",
        sae_decoder_bias_init="mean",
        sae_subtract_decoder_bias=True,
        sae_epochs=None,
        sae_steps=3000,
        sae_batch_size=128,
        sae_learning_rate=0.003,
        sae_warmup_steps=200,
        sae_schedule="cosine",
        dead_below=0.001,
    ),
}
"""The named protocols."""

DEFAULT_L1 = {"dissertation": 0.01, "dissertation-diagnosis": 0.01, "sound": 0.12}
"""The l1 that goes with each named protocol; never changed, because study files rely on it.

`dissertation`: the source's own. `sound`: found among six values from 0.06 to 0.2 by 40 seeds (710000 to 710039) per cell, for the
eight studied architectures (5-3-5 to 20-10-20) and S = 0.5 to 0.95; docs/definitions.md has the rates of failure.
"""


def protocol_from(given: object) -> Protocol:
    """A protocol from its name, or from a mapping {base: NAME, field: value, …} of what differs from the base.

    Setting `ae_epochs` clears the base's `ae_steps` and vice versa; the same holds for the SAE.
    Raises MisuseError for an unknown name or field, or a value out of range.
    """
    if isinstance(given, Protocol):
        return given
    if isinstance(given, str):
        return _named(given)
    if not isinstance(given, Mapping):
        raise MisuseError(f"protocol={quoted(given)} is neither a name nor a mapping of fields. Names: {', '.join(PROTOCOLS)}.")
    changes = plain(given)
    base = _named(changes.pop("base", "dissertation"))
    for key in changes:
        if key not in fields():
            raise MisuseError(f"protocol has no field {quoted(key)}.{closest(key, fields())} Fields: {', '.join(fields())}.")
    for model in ("ae", "sae"):
        for one, other in ((f"{model}_epochs", f"{model}_steps"), (f"{model}_steps", f"{model}_epochs")):
            if changes.get(one) is not None:
                changes.setdefault(other, None)
    try:
        return Protocol(**dataclasses.asdict(base) | changes)
    except ValidationError as error:
        raise MisuseError(first_error(error)) from None


def protocol_mapping(protocol: Protocol) -> str | dict[str, Any]:
    """What `protocol_from` turns back into an equal protocol: its name, or what differs from the nearest named one."""
    base, differences = _nearest(protocol)
    return {"base": base, **differences} if differences else base


def _nearest(protocol: Protocol) -> tuple[str, dict[str, Any]]:
    """The named protocol that differs in the fewest fields, and the protocol's values of those fields."""
    by_name = {name: _differences(protocol, base) for name, base in PROTOCOLS.items()}
    name = min(by_name, key=lambda name: len(by_name[name]))
    return name, by_name[name]


def _differences(protocol: Protocol, base: Protocol) -> dict[str, Any]:
    return {name: getattr(protocol, name) for name in fields() if getattr(protocol, name) != getattr(base, name)}


def _named(name: object) -> Protocol:
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise MisuseError(f"protocol={quoted(name)} is unknown.{closest(name, PROTOCOLS)} Named protocols: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def closest(name: object, known: Any) -> str:
    """A hint that names the known name nearest to a wrong one; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) and len(name) <= MOST_CHARACTERS else []
    return f" Did you mean {near[0]!r}?" if near else ""


def first_error(error: ValidationError) -> str:
    """Pydantic's first error as one line: the field, the value and what was expected."""
    details = error.errors(include_url=False)
    fields = list(dict.fromkeys(_field(detail["loc"]) for detail in details))
    of_first = [detail for detail in details if _field(detail["loc"]) == fields[0]]
    cause = of_first[0].get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        text = str(cause)
    else:
        # Pydantic reports a field of several alternatives once per alternative.
        expected = " or ".join(f"{detail['msg'][0].lower()}{detail['msg'][1:]}" for detail in of_first)
        text = f"{quoted(of_first[0]['input'])}: {expected}."
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{fields[0]}: {text}{more}" if fields[0] else f"{text}{more}"


def _field(place: tuple[int | str, ...]) -> str:
    """The field that an error is about, without the names of its alternatives."""
    own = (part for part in place if not re.match(r"(constrained-|literal\[|float$|int$|str$)", str(part)))
    return ".".join(str(part) if isinstance(part, int) else named(part) for part in own)
