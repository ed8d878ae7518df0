"""Study files: what a study is, read from YAML or from a mapping, and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from search_spaces.cells import Architecture, Replicates
from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol, protocol_from, protocol_mapping
from search_spaces.spaces import SPACES, GridSpace, ListedSpace, StrictModel, named_space, raise_first, written_seeds
from search_spaces.strict_yaml import StudyLoader
from search_spaces.surface.domain import Domain


class MapSearch(StrictModel):
    """An adaptive failure map: the space's architectures, over the ranges of its sparsities and l1."""

    kind: Literal["map"] = "map"
    failure: str = "any"
    """What counts as a failure: any, a kind, or sae_all_dead."""
    level: float = 0.5
    """The failure region is where the rate is at or above it."""
    budget: int = 10_000
    """Replicates to train, those of earlier studies not counted."""
    first_pass: int = 2048
    """Replicates spread evenly before anything is refined."""
    l1s_per_autoencoder: int = 1
    """How many values of l1 share one autoencoder; up to about 10 costs little accuracy and saves AE training."""
    misclassified_volume: float | None = None
    """Stop when the expected misclassified share of the volume is at most this."""
    regret: float | None = None
    """Stop when the expected regret is at most this: right where rates near the level fill much of the plane."""
    earlier: tuple[str, ...] = ()
    """Studies of the same storage, protocol and dtype whose rows it starts from."""


class L1Search(StrictModel):
    """An adaptive L1 search: for each of the space's architectures and sparsities, over the range of its l1."""

    kind: Literal["l1"] = "l1"
    failure: tuple[str, ...] = ("sae_dead", "sae_starved")
    """The kinds of failure whose rate together must stay below the level: of those that come with too much l1."""
    level: float = 0.1
    """The collapse threshold is where the rate crosses this."""
    budget: int = 250
    """Replicates of each architecture and sparsity, at most."""
    precision: float | None = None
    """Enough where half of the threshold's 90 % interval is at most this, in decades; None spends the budget."""
    recovery: Literal["mcc", "f1"] = "mcc"
    """What the best l1 has most of: signed MCC, or F1 of the latents as detectors."""


class StudySpec(StrictModel):
    """A study file: one named launch of one space under one protocol."""

    name: str
    """Letters, digits, '-', '_', '.'; the study's folder under the storage."""
    protocol: Protocol
    engine: Literal["auto", "reference", "compiled", "torch"] = "auto"
    dtype: Literal["float64", "float32"] = "float64"
    pack_size: Literal["auto"] | int = "auto"
    """Replicates trained together in one trial."""
    space: GridSpace | ListedSpace
    search: MapSearch | L1Search | None = Field(default=None, discriminator="kind")
    """None trains every replicate of the space; a search trains those that it needs to know of."""

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, given: object) -> object:
        if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}", given):
            raise MisuseError(
                f"name={given!r} cannot name a study's folder. Use up to 120 letters, digits, '_', '-' and '.', "
                "the last two not first."
            )
        return given

    @field_validator("protocol", mode="before")
    @classmethod
    def _protocol(cls, given: object) -> Protocol:
        return protocol_from(given)

    @field_validator("pack_size", mode="before")
    @classmethod
    def _pack_size(cls, given: object) -> object:
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise MisuseError(f"pack_size={given!r} is neither 'auto' nor a number of replicates >= 1.")
        return given

    @field_validator("space", mode="before")
    @classmethod
    def _space(cls, given: object) -> object:
        if isinstance(given, str):
            return named_space(given)
        if isinstance(given, (GridSpace, ListedSpace)):
            return given
        if not isinstance(given, dict):
            raise MisuseError(
                f"space={given!r} is neither a named space ({', '.join(SPACES)}) nor a mapping of architectures, "
                "sparsities, l1 and seeds."
            )
        model = ListedSpace if "replicates" in given else GridSpace
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise_first(error, model)

    @model_validator(mode="after")
    def _searched(self) -> StudySpec:
        if self.search is not None and not isinstance(self.space, GridSpace):
            raise MisuseError("search needs a grid: its ranges are what is searched. This study lists its replicates one by one.")
        return self

    def replicates(self) -> list[Replicates]:
        """What the study trains, one `Replicates` an architecture; of a search, the grid whose ranges it searches."""
        return self.space.replicates()

    @property
    def search_budget(self) -> int:
        """The most replicates that the study's search trains; ValueError where it has none."""
        if self.search is None or not isinstance(self.space, GridSpace):
            raise ValueError("this study is no search: it trains every replicate of its space.")
        if isinstance(self.search, MapSearch):
            return self.search.budget
        return self.search.budget * len(self.space.architectures) * len(self.space.sparsities)

    @property
    def domain(self) -> Domain | None:
        """What a search covers, whatever it has measured of it; None for a grid, which is known where it was measured."""
        if self.search is None or not isinstance(self.space, GridSpace):
            return None
        architectures = sorted(map(Architecture.parse, self.space.architectures))
        ranges = ((min(values), max(values)) for values in (self.space.sparsities, self.space.l1))
        return Domain(tuple(map(str, architectures)), *ranges)

    def science(self) -> dict[str, Any]:
        """What makes two studies the same: all but pack_size and engine, which change no row of one engine family, and budget."""
        mapping = self.to_mapping() | {"pack_size": None, "engine": None}
        return mapping | {"search": mapping["search"] | {"budget": None}} if self.search else mapping

    def to_mapping(self) -> dict[str, Any]:
        """A mapping that `study_from` reads back to an equal specification."""
        plain = self.model_dump(by_alias=True, exclude_none=True, mode="json", exclude={"protocol"})
        if isinstance(self.space, GridSpace):
            plain["space"]["seeds"] = written_seeds(self.space.seeds)
        return {"name": plain.pop("name"), "protocol": protocol_mapping(self.protocol)} | plain


def study_from(given: Mapping[str, Any]) -> StudySpec:
    """A validated study from the mapping that a study file holds; MisuseError names the field, the value, the remedy."""
    try:
        return StudySpec.model_validate(dict(given))
    except ValidationError as error:
        raise_first(error, StudySpec)


def study_from_file(path: str | Path) -> StudySpec:
    """A validated study from a YAML file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(
            f"study file {str(path)!r} cannot be read ({error}). Give a YAML file, or a named space: {', '.join(SPACES)}."
        ) from None
    return study_from_yaml(text, str(path))


def study_from_yaml(text: str, where: str) -> StudySpec:
    """A validated study from YAML text; `where` names it in errors."""
    try:
        given = yaml.load(text, Loader=StudyLoader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise MisuseError(f"{where} is not YAML: {problem}") from None
    if not isinstance(given, dict):
        raise MisuseError(
            f"{where} holds no mapping but {type(given).__name__}. Expected name, protocol, space, … as in the README."
        )
    try:
        return study_from(given)
    except MisuseError as error:
        raise MisuseError(f"{where}: {error}") from None
