"""Named spaces and study files: what a study may be, validated before anything starts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from search_spaces.cells import (
    SEED_COLUMNS,
    Architecture,
    Cell,
    Replicate,
    Replicates,
    checked_l1,
    checked_seed,
    checked_sparsity,
)
from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol, closest, first_error, protocol_from, protocol_mapping

_T = TypeVar("_T")

MOST_SEEDS = 10_000_000

STUDIED_ARCHITECTURES = ("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20")


def grid(
    architectures: Iterable[Architecture | str],
    sparsities: Iterable[float],
    l1s: Iterable[float],
    seeds: Iterable[int],
) -> list[Replicates]:
    """Every combination, one `Replicates` an architecture; seed outermost, then sparsity, then l1.

    In this order neighbours share their data (seed) and their autoencoder (seed, sparsity).
    """
    seed, sparsity, l1 = (
        axis.ravel()
        for axis in np.meshgrid(
            np.array([checked_seed(value) for value in seeds], dtype=np.int64),
            np.array([checked_sparsity(value) for value in sparsities]),
            np.array([checked_l1(value) for value in l1s]),
            indexing="ij",
        )
    )
    return [Replicates(Architecture.parse(architecture), sparsity, l1, seed, seed, seed, seed) for architecture in architectures]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GridSpace(_Model):
    """All combinations of four axes."""

    architectures: tuple[str, ...]
    """As "10-5-10"."""
    sparsities: tuple[float, ...]
    """A list, or {from: 0.3, to: 0.98, count: 12}."""
    l1: tuple[float, ...]
    """A list, or {from: 1e-4, to: 1, count: 25, scale: log}."""
    seeds: tuple[int, ...]
    """A list of numbers and ranges, or a range "start:stop" as in Python."""

    @field_validator("architectures", mode="before")
    @classmethod
    def _architectures(cls, given: object) -> tuple[str, ...]:
        return _distinct("architectures", (str(Architecture.parse(value)) for value in _listed("architectures", given)))

    @field_validator("sparsities", mode="before")
    @classmethod
    def _sparsities(cls, given: object) -> tuple[float, ...]:
        return _distinct("sparsities", (checked_sparsity(value) for value in _axis("sparsities", given)))

    @field_validator("l1", mode="before")
    @classmethod
    def _l1(cls, given: object) -> tuple[float, ...]:
        return _distinct("l1", (checked_l1(value) for value in _axis("l1", given)))

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, given: object) -> tuple[int, ...]:
        return parse_seeds(given)

    def replicates(self) -> list[Replicates]:
        """One `Replicates` an architecture."""
        return grid(self.architectures, self.sparsities, self.l1, self.seeds)


class ListedReplicate(_Model):
    """One replicate of a listed space; the three seeds stand for `seed` where they are not given."""

    architecture: str
    sparsity: float
    l1: float
    seed: int
    data_seed: int
    ae_seed: int
    sae_seed: int

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, given: Any) -> Any:
        if isinstance(given, dict) and {"architecture", "sparsity", "l1", "seed"} <= given.keys():
            given = given | {"architecture": str(Architecture.parse(given["architecture"]))}
            given["sparsity"], given["l1"] = checked_sparsity(given["sparsity"]), checked_l1(given["l1"])
            for name in SEED_COLUMNS:
                own = given.get(name)
                given[name] = checked_seed(given["seed"] if own is None else own)
        return given


class ListedSpace(_Model):
    """Replicates written out one by one: what Ray Tune's own domains become, or points that form no grid."""

    replicates_: tuple[ListedReplicate, ...] = Field(alias="replicates", min_length=1)

    @field_validator("replicates_", mode="after")
    @classmethod
    def _distinct(cls, given: tuple[ListedReplicate, ...]) -> tuple[ListedReplicate, ...]:
        return _distinct("replicates", given)

    def replicates(self) -> list[Replicates]:
        """One `Replicates` an architecture, in the order of their first appearance."""
        groups: dict[str, list[Replicate]] = {}
        for row in self.replicates_:
            cell = Cell(Architecture.parse(row.architecture), row.sparsity, row.l1)
            groups.setdefault(row.architecture, []).append(Replicate(cell, row.seed, row.data_seed, row.ae_seed, row.sae_seed))
        return [Replicates.of(rows) for rows in groups.values()]


def _log(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.geomspace(low, high, count))


def _linear(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.linspace(low, high, count))


class MapSearch(_Model):
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


class L1Search(_Model):
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


class StudySpec(_Model):
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
            _raise_first(error, model)

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


def named_space(name: str) -> GridSpace:
    """A named space, or MisuseError."""
    if name not in SPACES:
        raise MisuseError(
            f"space={name!r} is unknown.{closest(name, SPACES)} Named spaces: {', '.join(SPACES)}; or give a study file."
        )
    return SPACES[name]


def study_from(given: Mapping[str, Any]) -> StudySpec:
    """A validated study from the mapping that a study file holds; MisuseError names the field, the value, the remedy."""
    try:
        return StudySpec.model_validate(dict(given))
    except ValidationError as error:
        _raise_first(error, StudySpec)


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
        given = yaml.load(text, Loader=_StudyLoader)
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


def parse_seeds(given: object) -> tuple[int, ...]:
    """Seeds from a number, a range "start:stop", or a list of both; distinct, in the order given."""
    seeds: list[int] = []
    for part in _listed("seeds", [given] if isinstance(given, (str, int)) else given):
        found = re.fullmatch(r"\s*(\d+):(\d+)\s*", part) if isinstance(part, str) else None
        if isinstance(part, str) and found is None:
            raise MisuseError(f"seeds={part!r} is no range. Write start:stop as in Python, for example 0:100.")
        if found:
            start, stop = map(int, found.groups())
            if stop <= start:
                raise MisuseError(
                    f"seeds={part!r} is empty: as in Python, stop is left out. Write {start}:{start + 1} for one seed."
                )
            checked_seed(stop - 1)
            if stop - start > MOST_SEEDS:
                raise MisuseError(f"seeds={part!r} are {stop - start}; a study takes {MOST_SEEDS} at most. Cut it into several.")
            seeds.extend(range(start, stop))
        else:
            seeds.append(checked_seed(part))
    return _distinct("seeds", seeds)


def written_seeds(seeds: Sequence[int]) -> list[int | str]:
    """The seeds as a study file writes them, runs of them as ranges: what `parse_seeds` reads back."""
    written: list[int | str] = []
    start = 0
    for stop in range(1, len(seeds) + 1):
        if stop == len(seeds) or seeds[stop] != seeds[stop - 1] + 1:
            run = seeds[start:stop]
            written.extend([f"{run[0]}:{run[-1] + 1}"] if len(run) > 2 else run)
            start = stop
    return written


def _axis(name: str, given: object) -> Sequence[Any]:
    """A list as it is, or the values of {from, to, count, scale}."""
    if not isinstance(given, dict):
        return _listed(name, given)
    if not {"from", "to", "count"} <= given.keys() <= {"from", "to", "count", "scale"}:
        raise MisuseError(f"{name}={given} is no range. Give from, to and count, and scale: log for a logarithmic one.")
    check = checked_sparsity if name == "sparsities" else checked_l1
    low, high, count, scale = check(given["from"]), check(given["to"]), given["count"], given.get("scale", "linear")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MisuseError(f"{name}: count={count!r} is not a whole number >= 1.")
    if scale not in ("linear", "log"):
        raise MisuseError(f"{name}: scale={scale!r} is neither linear nor log.")
    if low > high or (count > 1 and low == high) or (count == 1 and low != high):
        raise MisuseError(f"{name}: {count} values from {low} to {high} are no range. Expected from < to, and count >= 2.")
    if scale == "log" and low <= 0:
        raise MisuseError(f"{name}: from={low} has no logarithm. Start a log scale above 0, or list the values.")
    # The ends exactly as written, the steps between them to 12 digits, so that 0.01 is 0.01.
    return (_log if scale == "log" else _linear)(low, high, count)


def _listed(name: str, given: object) -> Sequence[Any]:
    if not isinstance(given, (list, tuple, range)):
        raise MisuseError(f"{name}={given!r} is not a list. Write it in brackets, as in [{given}].")
    if not given:
        raise MisuseError(f"{name} is empty. Give at least one value.")
    return given


def _distinct(name: str, given: Iterable[_T]) -> tuple[_T, ...]:
    values = tuple(given)
    if len(set(values)) < len(values):
        twice = Counter(values).most_common(1)[0][0]
        raise MisuseError(f"{name}: {twice!r} stands there twice. Each replicate is trained once; remove one.")
    return values


def _raise_first(error: ValidationError, model: type[BaseModel]) -> NoReturn:
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [f.alias or key for key, f in model.model_fields.items()]
        raise MisuseError(f"{where}: no such field.{closest(detail['loc'][-1], known)} Expected: {', '.join(known)}.") from None
    if detail["type"] == "missing":
        raise MisuseError(f"{where}: this field is missing. Add it; the README has a whole study file.") from None
    raise MisuseError(first_error(error)) from None


class _StudyLoader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: 1e-4 is a number, 0:30 and 2010-5-2010 are not, and a key may not stand twice."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute: its YAML 1.1 rules, none of which are kept)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_StudyLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 010 is ten, not eight

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _StudyLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first) + ([""] if _tag == "null" else [])
    )


SPACES: dict[str, GridSpace] = {
    "smoke": GridSpace(architectures=("5-3-5", "10-5-10"), sparsities=(0.5, 0.9), l1=(0.01,), seeds=tuple(range(8))),
    "dissertation": GridSpace(
        architectures=("10-5-10",),
        sparsities=(0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95),
        l1=(0.01,),
        seeds=(*range(1000),),  # 123, the source's seed, among them
    ),
    "architectures": GridSpace(
        architectures=STUDIED_ARCHITECTURES, sparsities=_linear(0.3, 0.98, 12), l1=_log(1e-4, 1, 13), seeds=tuple(range(16))
    ),
    "thresholds": GridSpace(  # for `sae-study l1`: what it searches are the ranges
        architectures=("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20"),
        sparsities=(0.5, 0.8, 0.9, 0.95),
        l1=(1e-4, 10.0),
        seeds=(0,),
    ),
    "full": GridSpace(
        architectures=STUDIED_ARCHITECTURES, sparsities=_linear(0.3, 0.98, 24), l1=_log(1e-4, 1, 25), seeds=tuple(range(200))
    ),
}
"""The named spaces."""
