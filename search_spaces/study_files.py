"""Study files: the specification of a study, read from YAML or from a mapping and validated before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SerializeAsAny, ValidationError, field_validator, model_validator

from search_spaces.arms import Arm
from search_spaces.cells import Architecture, Replicates
from search_spaces.coordinates import L1, SPARSITY, Axis
from search_spaces.errors import MisuseError, reason
from search_spaces.paths import Given, local_path, shown, study_name
from search_spaces.protocol import PROTOCOLS, Protocol, protocol_from, protocol_mapping
from search_spaces.searches import Search, search_from
from search_spaces.spaces import (
    MOST_REPLICATES,
    PROTOCOL_OF_SPACE,
    SPACES,
    GridSpace,
    ListedSpace,
    StrictModel,
    complaint,
    named_space,
    refuse_too_many,
    varied,
)
from search_spaces.strict_yaml import MOST_BYTES, MOST_NODES, read_yaml
from search_spaces.surface.domain import Domain
from search_spaces.values import plain, quoted, whole


class StudySpec(StrictModel):
    """A study file: one named launch of one space under one protocol."""

    name: str
    """The name of the study's folder in the storage: letters, digits, '-', '_', '.'."""
    protocol: Protocol
    engine: Literal["auto", "reference", "compiled", "torch"] = "auto"
    dtype: Literal["float64", "float32"] = "float64"
    pack_size: Literal["auto"] | int = "auto"
    """Replicates trained together in one trial."""
    space: GridSpace | ListedSpace
    search: SerializeAsAny[Search] | None = None
    """None: every replicate of the space is trained. A search trains those from which it learns most."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """With what a study file may leave out: the protocol of a named space, and the l1 that goes with the protocol."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        space = given.get("space")
        if isinstance(space, str) and space in SPACES:
            if "ablate" in given:
                space = _without_own_l1(space)
            else:
                given = {"protocol": PROTOCOL_OF_SPACE[space]} | given
        if isinstance(space, dict):
            if "ablate" in given:
                space = space | {"ablate": given.pop("ablate")}
            if {"ablate", "protocols"} & space.keys():
                space = varied(space)
                given = {"protocol": space["protocols"][0].protocol} | given
            elif "protocol" in given:
                space = _with_l1(space, protocol_from(given["protocol"]).default_l1)
        return given | ({"space": space} if "space" in given else {})

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, given: object) -> object:
        return study_name(given)

    @field_validator("protocol", mode="before")
    @classmethod
    def _protocol(cls, given: object) -> Protocol:
        return protocol_from(given)

    @field_validator("pack_size", mode="before")
    @classmethod
    def _pack_size(cls, given: object) -> object:
        if isinstance(given, str) and given == "auto":
            return given
        size = whole(given)
        if size is None or not 1 <= size <= MOST_REPLICATES:
            raise MisuseError(
                f"pack_size={quoted(given)} is neither 'auto' nor a number of replicates >= 1, at most {MOST_REPLICATES:,}."
            )
        return size

    @field_validator("space", mode="before")
    @classmethod
    def _space(cls, given: object) -> object:
        if isinstance(given, str):
            return named_space(given)
        if isinstance(given, (GridSpace, ListedSpace)):
            return given
        if not isinstance(given, dict):
            raise MisuseError(
                f"space={quoted(given)} is neither a named space ({', '.join(SPACES)}) nor a mapping of architectures, "
                "sparsities, l1 and seeds."
            )
        model = ListedSpace if "replicates" in given else GridSpace
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise MisuseError(complaint(error, model)) from None

    @field_validator("search", mode="before")
    @classmethod
    def _search(cls, given: object) -> object:
        return given if given is None or isinstance(given, Search) else search_from(given)

    @model_validator(mode="after")
    def _searched(self) -> StudySpec:
        if isinstance(self.space, GridSpace) and self.space.protocols:
            self._refuse_with_several()
        if self.search is None:
            if isinstance(self.space, GridSpace):
                self.space.refuse_ranges()
                refuse_too_many(self.space.size, self.space.factors)
        elif isinstance(self.space, GridSpace):
            self.search.refuse_space(self.space)
            refuse_too_many(self.search_budget, "the budgets of this search")
        else:
            raise MisuseError("a search needs a grid, whose ranges it covers. This study lists its replicates one by one.")
        return self

    def _refuse_with_several(self) -> None:
        """Raise MisuseError for what a study of several protocols cannot have."""
        if self.search is not None:
            raise MisuseError("a search runs under one protocol. Compare protocols on a grid, or search once under each.")
        if self.protocol != self.arms[0].protocol:
            raise MisuseError(
                f"protocol={self.protocol.name!r} and a space of several protocols exclude each other. Give one of them."
            )

    def refuse_several(self) -> None:
        """Raise MisuseError if the study has several protocols, whose rows are not rows of the same cell."""
        if self.arms:
            raise MisuseError(
                f"study={self.name!r} compares {len(self.protocols)} protocols, so that its cells have no one failure rate. "
                f"`sae-study report {self.name}`, or analysis.ablation, compares them."
            )

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The protocols that the study compares, each with its l1; () if it has only `protocol`."""
        return self.space.protocols if isinstance(self.space, GridSpace) else ()

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Its protocols, each once."""
        return tuple(dict.fromkeys(arm.protocol for arm in self.arms)) or (self.protocol,)

    def parts(self, most: int = MOST_REPLICATES) -> list[tuple[Protocol, Replicates]]:
        """What the study trains, for each protocol (and l1 of its own) and architecture; of a grid, the first `most` of each.

        For a search, the grid whose ranges it covers.
        """
        if not isinstance(self.space, GridSpace):
            return [(self.protocol, own) for own in self.space.replicates()]
        grids = [(arm.protocol, self.space.of(arm)) for arm in self.arms] or [(self.protocol, self.space)]
        return [(protocol, own) for protocol, grid in grids for own in grid.replicates(most)]

    def replicates(self) -> list[Replicates]:
        """`parts` without the protocols."""
        return [own for _, own in self.parts()]

    @property
    def search_budget(self) -> int:
        """The largest number of replicates that the study's search trains; ValueError if the study is not a search."""
        if self.search is None or not isinstance(self.space, GridSpace):
            raise ValueError("this study is not a search: it trains every replicate of its space.")
        return self.search.most_replicates(self.space)

    @property
    def domain(self) -> Domain | None:
        """The ranges that a search covers, however much of them it has measured; None for a grid, which has only its cells."""
        if self.search is None or not isinstance(self.space, GridSpace):
            return None
        architectures = sorted(map(Architecture.parse, self.space.architectures))
        values = {SPARSITY: self.space.sparsities, L1: self.space.l1}
        x, y = (Axis(coordinate, min(own), max(own)) for coordinate, own in values.items())
        return Domain(tuple(map(str, architectures)), x, y)

    def science(self) -> dict[str, Any]:
        """What two studies must share to be the same study.

        `pack_size` and `engine` are left out, as they change no row within an engine family, and so is a search's budget.
        """
        mapping = self.to_mapping() | {"pack_size": None, "engine": None}
        return mapping | {"search": mapping["search"] | {"budget": None}} if self.search else mapping

    def to_mapping(self) -> dict[str, Any]:
        """A mapping that `study_from` turns back into an equal specification."""
        fields = self.model_dump(by_alias=True, exclude_none=True, mode="json", exclude={"protocol"})
        if self.arms:
            return fields
        return {"name": fields.pop("name"), "protocol": protocol_mapping(self.protocol)} | fields


def _without_own_l1(name: str) -> dict[str, Any]:
    """The fields of a named space, without its l1 if that is the one that goes with its protocol."""
    space = SPACES[name]
    own = (PROTOCOLS[PROTOCOL_OF_SPACE[name]].default_l1,)
    return {key: value for key, value in space if key != "protocols" and not (key == "l1" and value == own)}


def _with_l1(space: dict[str, Any], l1: float) -> dict[str, Any]:
    """The space with this l1 wherever it is left out or given as `default`."""
    rows = space.get("replicates")
    if isinstance(rows, list):
        return space | {"replicates": [_with_own(row, l1) if isinstance(row, dict) else row for row in rows]}
    return _with_own(space, [l1])


def _with_own(given: dict[str, Any], l1: object) -> dict[str, Any]:
    return given | {"l1": l1} if given.get("l1", "default") == "default" else given


def study_from(given: Mapping[str, Any], where: str = "") -> StudySpec:
    """A validated study from the mapping in a study file; MisuseError names the field, the value and the remedy.

    Lists may be NumPy arrays, pandas series, tuples or ranges, and numbers those of NumPy. where: the name of the file, for
    error messages.
    """
    if not isinstance(given, Mapping):
        raise MisuseError(f"{quoted(given)} is not a study. Give a mapping of name, protocol, space, … as in the README.")
    try:
        return StudySpec.model_validate(plain(given))
    except ValidationError as error:
        raise MisuseError(f"{where}: {complaint(error, StudySpec)}".removeprefix(": ")) from None


def study_from_file(path: Given) -> StudySpec:
    """A validated study from a YAML file."""
    return study_from(mapping_from_file(path), str(path))


def study_from_yaml(text: str, where: str) -> StudySpec:
    """A validated study from YAML text; `where` names the text in error messages."""
    return study_from(_mapping(text, where), where)


def stored_study(text: str, where: str) -> StudySpec:
    """As `study_from_yaml`, from a file that a study wrote itself: it may list more values than one that a person writes."""
    return study_from(_mapping(text, where, most_nodes=None), where)


def mapping_from_file(path: Given) -> dict[str, Any]:
    """The contents of a study file, not yet validated, because command-line options may complete them."""
    try:
        with local_path(path, "study file").open("rb") as file:
            read = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise MisuseError(
            f"study file {shown(path)} cannot be read ({reason(error)}). Give a YAML file, or a named space: {', '.join(SPACES)}."
        ) from None
    if len(read) > MOST_BYTES:
        raise MisuseError(f"study file {shown(path)} is longer than {MOST_BYTES:,} bytes. Write ranges, or give it from Python.")
    try:
        text = read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MisuseError(f"study file {shown(path)} cannot be read as UTF-8 ({error.reason}). Save it as UTF-8 text.") from None
    return _mapping(text, str(path))


def _mapping(text: str, where: str, most_nodes: int | None = MOST_NODES) -> dict[str, Any]:
    given = read_yaml(text, where, most_nodes)
    if not isinstance(given, dict):
        held = "is empty" if given is None else f"holds a {type(given).__name__}, not a mapping"
        raise MisuseError(f"{where} {held}. Expected name, protocol, space, … as in the README.")
    return given
