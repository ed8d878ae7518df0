"""Spaces: which replicates a study trains, as a grid or a list, and the named spaces.

A study file's `space` (`study_files.py`) is one of these.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from search_spaces.arms import Arm, ablation_from, arms_from
from search_spaces.cells import (
    SEED_COLUMNS,
    Architecture,
    Cell,
    Replicate,
    Replicates,
    checked_seed,
)
from search_spaces.coordinates import L1, SPARSITY
from search_spaces.errors import MisuseError
from search_spaces.protocol import DEFAULT_L1, closest, first_error
from search_spaces.values import named, number, plain, quoted, whole

_T = TypeVar("_T")

MOST_REPLICATES = 10_000_000
"""Most replicates of a study: a driver needs some 330 bytes for each."""
MOST_SEEDS = 10_000_000
MOST_LEVELS = 10_000
"""Most values of sparsity and of l1."""
MOST_ARCHITECTURES = 1_000
MOST_LISTED = 100_000
"""Most replicates of a listed space."""

STUDIED_ARCHITECTURES = ("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20")


def refuse_too_many(count: int, factors: str) -> None:
    """Raise MisuseError if a study has too many replicates; `factors` says how their number comes about."""
    if count > MOST_REPLICATES:
        raise MisuseError(
            f"{factors} are {count:,} replicates; a study takes at most {MOST_REPLICATES:,}. Give fewer values, or split it."
        )


def grid(
    architectures: Sequence[Architecture | str],
    sparsities: Sequence[float],
    l1s: Sequence[float],
    seeds: Sequence[int],
) -> list[Replicates]:
    """Every combination, one `Replicates` per architecture. Seed varies slowest, then sparsity, then l1.

    In this order neighbours share their data (same seed) and their autoencoder (same seed and sparsity).
    """
    return _combined(
        [Architecture.parse(name) for name in _listed("architectures", architectures)],
        np.array([checked_seed(value) for value in _listed("seeds", seeds, MOST_SEEDS)], dtype=np.int64),
        np.array([SPARSITY.checked(value) for value in _listed("sparsities", sparsities)]),
        np.array([L1.checked(value) for value in _listed("l1", l1s)]),
    )


def _combined(architectures: Sequence[Architecture], *axes: NDArray[Any], most: int = MOST_REPLICATES) -> list[Replicates]:
    """The combinations of seeds, sparsities and l1, or the first `most` of them, for each architecture."""
    shape = tuple(map(len, axes))
    refuse_too_many(len(architectures) * math.prod(shape), _factors(len(architectures), *shape))
    places = np.unravel_index(np.arange(min(math.prod(shape), most)), shape)
    seed, sparsity, l1 = (axis[place] for axis, place in zip(axes, places, strict=True))
    return [Replicates(architecture, sparsity, l1, seed, seed, seed, seed) for architecture in architectures]


def _factors(*counts: int) -> str:
    names = ("architectures", "seeds", SPARSITY.values, L1.values)
    return " × ".join(f"{count:,} {name}" for count, name in zip(counts, names, strict=True))


@dataclass(frozen=True)
class Seeds(Sequence[int]):
    """Distinct seeds as runs of consecutive ones: ten million of them take no more memory than ten."""

    runs: tuple[range, ...]

    @classmethod
    def of(cls, parts: Iterable[range]) -> Seeds:
        """The seeds of all parts in their order, consecutive parts joined; MisuseError if one occurs twice, or for too many."""
        runs: list[range] = []
        for part in parts:
            joined = bool(runs) and runs[-1].stop == part.start
            runs[-1:] = [range(runs[-1].start, part.stop)] if joined else [*runs[-1:], part]
        if (total := sum(map(len, runs))) > MOST_SEEDS:
            raise MisuseError(f"{total:,} seeds were given; a study takes at most {MOST_SEEDS:,}. Split it into several studies.")
        for one, after in pairwise(sorted(runs, key=lambda run: run.start)):
            if after.start < one.stop:
                raise _twice("seeds", after.start)
        return cls(tuple(runs))

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.runs)

    def __getitem__(self, index: Any) -> Any:
        return self.array()[index].tolist()

    def array(self) -> NDArray[np.int64]:
        """The seeds as one array."""
        return np.concatenate([np.arange(run.start, run.stop) for run in self.runs])

    def written(self) -> list[int | str]:
        """The seeds as a study file writes them, more than two consecutive ones as a range; `parse_seeds` reads them back."""
        short = ([f"{run.start}:{run.stop}"] if len(run) > 2 else list(run) for run in self.runs)
        return list(chain.from_iterable(short))


def parse_seeds(given: object) -> Seeds:
    """Distinct seeds, in the given order, from a number, a range "start:stop", or a list of both."""
    if isinstance(given, Seeds):
        return given
    return Seeds.of(_seed_range(part) for part in _listed("seeds", [given] if _alone(given) else given, MOST_SEEDS))


def _alone(given: object) -> bool:
    """Whether it is one part, not a list of parts."""
    return isinstance(given, str) or number(given) is not None


def _seed_range(part: object) -> range:
    if not isinstance(part, str):
        seed = checked_seed(part)
        return range(seed, seed + 1)
    found = re.fullmatch(r"\s*([0-9]{1,10}):([0-9]{1,10})\s*", part)
    if found is None:
        raise MisuseError(f"seeds={quoted(part)} is not a range. Write start:stop as in Python, for example 0:100.")
    start, stop = map(int, found.groups())
    if stop <= start:
        raise MisuseError(f"seeds={part!r} is empty: as in Python, stop is excluded. Write {start}:{start + 1} for one seed.")
    checked_seed(stop - 1)
    return range(start, stop)


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(NamedTuple):
    """An axis that a search covers from end to end; a study file's {from, to} without a count."""

    low: float
    high: float


class GridSpace(StrictModel):
    """All combinations of four axes. A search uses only the range of an axis that it covers, not the values."""

    architectures: tuple[str, ...]
    """Written as "10-5-10"."""
    sparsities: tuple[float, ...]
    """A list, or {from: 0.3, to: 0.98, count: 12}; for a search also a `Range`, {from: 0.3, to: 0.98}."""
    l1: tuple[float, ...]
    """A list, or {from: 1e-4, to: 1, count: 25, scale: log}."""
    seeds: Annotated[Seeds, PlainValidator(parse_seeds), PlainSerializer(Seeds.written)]
    """A list of numbers and ranges, or a range "start:stop" as in Python."""
    protocols: tuple[Arm, ...] = Field(default=(), exclude=True)
    """The protocols that the study compares, each with its own l1; (): it has one, and `l1` is that of the space."""

    @field_validator("architectures", mode="before")
    @classmethod
    def _architectures(cls, given: object) -> tuple[str, ...]:
        return _distinct(
            "architectures", [str(Architecture.parse(value)) for value in _listed("architectures", given, MOST_ARCHITECTURES)]
        )

    @field_validator("sparsities", "l1", mode="plain")
    @classmethod
    def _axes(cls, given: object, info: ValidationInfo) -> tuple[float, ...]:
        return _axis(str(info.field_name), given)

    @field_validator("protocols", mode="plain")
    @classmethod
    def _arms(cls, given: object) -> tuple[Arm, ...]:
        return arms_from(given) if given else ()

    @model_serializer(mode="wrap")
    def _with_arms(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`protocols` is written only if there are any."""
        return written(self) | ({"protocols": [arm.to_mapping() for arm in self.protocols]} if self.protocols else {})

    @field_serializer("sparsities", "l1")
    def _written(self, axis: tuple[float, ...]) -> list[float] | dict[str, float]:
        return {"from": axis.low, "to": axis.high} if isinstance(axis, Range) else list(axis)

    def refuse_ranges(self) -> None:
        """Raise MisuseError if an axis is a range without a count, which only a search can cover."""
        for name, axis in (("sparsities", self.sparsities), ("l1", self.l1)):
            if isinstance(axis, Range):
                written = f"from: {axis.low:g}, to: {axis.high:g}"
                raise MisuseError(
                    f"{name}={{{written}}} needs a count: a grid trains single values. Write {{{written}, count: 12}}, or search "
                    "the whole range with `sae-study map` or `sae-study l1`."
                )

    @property
    def size(self) -> int:
        """Its number of replicates."""
        l1s = sum(len(arm.l1) for arm in self.protocols) or len(self.l1)
        return math.prod(map(len, (self.architectures, self.seeds, self.sparsities))) * l1s

    @property
    def factors(self) -> str:
        """How its size comes about, for an error message."""
        counts = (len(self.architectures), len(self.seeds), len(self.sparsities))
        if not self.protocols:
            return _factors(*counts, len(self.l1))
        return _factors(*counts, sum(len(arm.l1) for arm in self.protocols)) + f" of {len(self.protocols)} protocols"

    def of(self, arm: Arm) -> GridSpace:
        """The part of one of its protocols."""
        return self.model_copy(update={"protocols": (), "l1": arm.l1})

    def replicates(self, most: int = MOST_REPLICATES) -> list[Replicates]:
        """One `Replicates` per architecture, of its first `most` replicates."""
        axes = self.seeds.array(), np.array(self.sparsities), np.array(self.l1)
        return _combined([Architecture.parse(name) for name in self.architectures], *axes, most=most)


class ListedReplicate(StrictModel):
    """One replicate of a listed space; each of the three other seeds is `seed` unless it is given."""

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
            given["sparsity"], given["l1"] = SPARSITY.checked(given["sparsity"]), L1.checked(given["l1"])
            for name in SEED_COLUMNS:
                own = given.get(name)
                given[name] = checked_seed(given["seed"] if own is None else own)
        return given


class ListedSpace(StrictModel):
    """Replicates listed one by one: samples of Ray Tune's own domains, or points that form no grid."""

    replicates_: tuple[ListedReplicate, ...] = Field(alias="replicates", min_length=1)

    @field_validator("replicates_", mode="after")
    @classmethod
    def _distinct(cls, given: tuple[ListedReplicate, ...]) -> tuple[ListedReplicate, ...]:
        return _distinct("replicates", given)

    @field_validator("replicates_", mode="before")
    @classmethod
    def _few(cls, given: object) -> Sequence[Any]:
        return _listed("replicates", given, MOST_LISTED)

    @property
    def size(self) -> int:
        """Its number of replicates."""
        return len(self.replicates_)

    def replicates(self) -> list[Replicates]:
        """One `Replicates` per architecture, in the order of their first appearance."""
        groups: dict[str, list[Replicate]] = {}
        for row in self.replicates_:
            cell = Cell(Architecture.parse(row.architecture), row.sparsity, row.l1)
            groups.setdefault(row.architecture, []).append(Replicate(cell, row.seed, row.data_seed, row.ae_seed, row.sae_seed))
        return [Replicates.of(rows) for rows in groups.values()]


def varied(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space of several protocols, from what a study file says: a list `protocols`, or the shorter `ablate`."""
    given = dict(space)
    if {"ablate", "protocols"} <= given.keys():
        raise MisuseError("space: ablate is short for a list of protocols. Give one of the two.")
    if "replicates" in given:
        raise MisuseError("protocols are compared on a grid. This study lists its replicates one by one; give architectures, …")
    l1 = given.pop("l1", "default")
    shared = None if l1 == "default" else _axis("l1", l1)
    if isinstance(shared, Range):
        raise MisuseError("l1: protocols are compared at single values of l1, not over a range. Give a list, or leave l1 out.")
    arms = ablation_from(given.pop("ablate"), shared) if "ablate" in given else arms_from(given["protocols"], shared)
    return given | {"protocols": arms, "l1": list(dict.fromkeys(value for arm in arms for value in arm.l1))}


def _log(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.geomspace(low, high, count))


def _linear(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.linspace(low, high, count))


def named_space(name: str) -> GridSpace:
    """The space of this name; MisuseError if there is none."""
    if name not in SPACES:
        raise MisuseError(
            f"space={quoted(name)} is unknown.{closest(name, SPACES)} Named spaces: {', '.join(SPACES)}; or give a study file."
        )
    return SPACES[name]


def _axis(name: str, given: object) -> tuple[float, ...]:
    """The values of a list or of {from, to, count, scale}, or the `Range` {from, to}."""
    check = (SPARSITY if name == "sparsities" else L1).checked
    if isinstance(given, Range):
        return given
    if not isinstance(given, Mapping):
        return _distinct(name, [check(value) for value in _listed(name, given)])
    if not {"from", "to"} <= given.keys() <= {"from", "to", "count", "scale"}:
        raise MisuseError(f"{name}={quoted(given)} is not a range. Give from, to and count, and scale: log for a logarithmic one.")
    low, high, scale = check(given["from"]), check(given["to"]), given.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise MisuseError(f"{name}: scale={quoted(scale)} is neither linear nor log.")
    if "count" not in given:
        return _range(name, low, high, given.get("scale"))
    return _distinct(name, _steps(name, low, high, given["count"], scale))


def _range(name: str, low: float, high: float, scale: str | None) -> Range:
    if low >= high:
        raise MisuseError(f"{name}: from {low} to {high} is not a range. Expected from < to.")
    own = (SPARSITY if name == "sparsities" else L1).scale
    if scale not in (None, own):
        raise MisuseError(f"{name}: scale={scale!r} needs a count: without one, a search covers this axis on its own scale, {own}.")
    return Range(low, high)


def _steps(name: str, low: float, high: float, given: object, scale: str) -> tuple[float, ...]:
    count = whole(given)
    if count is None or not 1 <= count <= MOST_LEVELS:
        raise MisuseError(f"{name}: count={quoted(given)} is not a whole number from 1 to {MOST_LEVELS:,}.")
    if low > high or (count > 1 and low == high) or (count == 1 and low != high):
        raise MisuseError(f"{name}: {count} values from {low} to {high} are not a range. Expected from < to, and count >= 2.")
    if scale == "log" and low <= 0:
        raise MisuseError(f"{name}: from={low} has no logarithm. Start a log scale above 0, or list the values.")
    # The ends are exactly as written; the steps between them are rounded to 12 digits, so that 0.01 is 0.01.
    return (_log if scale == "log" else _linear)(low, high, count)


def _listed(name: str, given: object, most: int = MOST_LEVELS) -> Sequence[Any]:
    listed: Any = given if isinstance(given, (range, Seeds)) else plain(given)
    if not isinstance(listed, (list, range, Seeds)):
        raise MisuseError(f"{name}={quoted(given)} is not a list. Write it in brackets, as in [{quoted(given)}].")
    if not listed:
        raise MisuseError(f"{name} is empty. Give at least one value.")
    if len(listed) > most:
        raise MisuseError(f"{name} lists {len(listed):,} values; at most {most:,} are taken. Give fewer, or split the study.")
    return listed


def _distinct(name: str, values: Sequence[_T]) -> tuple[_T, ...]:
    if len(set(values)) < len(values):
        raise _twice(name, Counter(values).most_common(1)[0][0])
    return tuple(values)


def _twice(name: str, value: object) -> MisuseError:
    return MisuseError(f"{name} lists {quoted(value)} twice. Each replicate is trained once; remove one.")


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's first error about a part of a study file, as one line."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) if isinstance(part, int) else named(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [f.alias or key for key, f in model.model_fields.items()]
        return f"{where}: no such field.{closest(detail['loc'][-1], known)} Expected: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{where}: this field is missing. Add it; the README has a whole study file."
    return first_error(error)


_DISSERTATION = GridSpace(
    architectures=("10-5-10",),
    sparsities=(0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95),
    l1=(DEFAULT_L1["dissertation"],),
    seeds=parse_seeds("0:1000"),  # 123, the source's seed, among them
)

SPACES: dict[str, GridSpace] = {
    "smoke": GridSpace(architectures=("5-3-5", "10-5-10"), sparsities=(0.5, 0.9), l1=(0.01,), seeds=parse_seeds("0:8")),
    "dissertation": _DISSERTATION,
    "sound": _DISSERTATION.model_copy(update={"l1": (DEFAULT_L1["sound"],)}),
    "architectures": GridSpace(
        architectures=STUDIED_ARCHITECTURES, sparsities=_linear(0.3, 0.98, 12), l1=_log(1e-4, 1, 13), seeds=parse_seeds("0:16")
    ),
    "thresholds": GridSpace(  # for `sae-study l1`, which searches the range of l1
        architectures=("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20"),
        sparsities=(0.5, 0.8, 0.9, 0.95),
        l1=(1e-4, 10.0),
        seeds=parse_seeds(0),
    ),
    "full": GridSpace(
        architectures=STUDIED_ARCHITECTURES, sparsities=_linear(0.3, 0.98, 24), l1=_log(1e-4, 1, 25), seeds=parse_seeds("0:200")
    ),
}
"""The named spaces."""

PROTOCOL_OF_SPACE = dict.fromkeys(SPACES, "dissertation") | {"sound": "sound"}
"""The protocol under which each named space is studied unless another is given."""
