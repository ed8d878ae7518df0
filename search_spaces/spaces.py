"""Spaces: which replicates a study trains, as a grid or a list, and the named spaces.

A study file's `space` (`study_files.py`) is one of these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

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
from search_spaces.protocol import closest, first_error

_T = TypeVar("_T")

MOST_SEEDS = 10_000_000

STUDIED_ARCHITECTURES = ("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20")


def grid(
    architectures: Iterable[Architecture | str],
    sparsities: Iterable[float],
    l1s: Iterable[float],
    seeds: Iterable[int],
) -> list[Replicates]:
    """Every combination, one `Replicates` per architecture. Seed varies slowest, then sparsity, then l1.

    In this order neighbours share their data (same seed) and their autoencoder (same seed and sparsity).
    """
    seed, sparsity, l1 = (
        axis.ravel()
        for axis in np.meshgrid(
            np.array([checked_seed(value) for value in seeds], dtype=np.int64),
            np.array([SPARSITY.checked(value) for value in sparsities]),
            np.array([L1.checked(value) for value in l1s]),
            indexing="ij",
        )
    )
    return [Replicates(Architecture.parse(architecture), sparsity, l1, seed, seed, seed, seed) for architecture in architectures]


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
    seeds: tuple[int, ...]
    """A list of numbers and ranges, or a range "start:stop" as in Python."""

    @field_validator("architectures", mode="before")
    @classmethod
    def _architectures(cls, given: object) -> tuple[str, ...]:
        return _distinct("architectures", (str(Architecture.parse(value)) for value in _listed("architectures", given)))

    @field_validator("sparsities", "l1", mode="plain")
    @classmethod
    def _axes(cls, given: object, info: ValidationInfo) -> tuple[float, ...]:
        return _axis(str(info.field_name), given)

    @field_serializer("sparsities", "l1")
    def _written(self, axis: tuple[float, ...]) -> list[float] | dict[str, float]:
        return {"from": axis.low, "to": axis.high} if isinstance(axis, Range) else list(axis)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, given: object) -> tuple[int, ...]:
        return parse_seeds(given)

    def refuse_ranges(self) -> None:
        """Raise MisuseError if an axis is a range without a count, which only a search can cover."""
        for name, axis in (("sparsities", self.sparsities), ("l1", self.l1)):
            if isinstance(axis, Range):
                written = f"from: {axis.low:g}, to: {axis.high:g}"
                raise MisuseError(
                    f"{name}={{{written}}} needs a count: a grid trains single values. Write {{{written}, count: 12}}, or search "
                    "the whole range with `sae-study map` or `sae-study l1`."
                )

    def replicates(self) -> list[Replicates]:
        """One `Replicates` per architecture."""
        return grid(self.architectures, self.sparsities, self.l1, self.seeds)


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

    def replicates(self) -> list[Replicates]:
        """One `Replicates` per architecture, in the order of their first appearance."""
        groups: dict[str, list[Replicate]] = {}
        for row in self.replicates_:
            cell = Cell(Architecture.parse(row.architecture), row.sparsity, row.l1)
            groups.setdefault(row.architecture, []).append(Replicate(cell, row.seed, row.data_seed, row.ae_seed, row.sae_seed))
        return [Replicates.of(rows) for rows in groups.values()]


def _log(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.geomspace(low, high, count))


def _linear(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.12g}") for value in np.linspace(low, high, count))


def named_space(name: str) -> GridSpace:
    """The space of this name; MisuseError if there is none."""
    if name not in SPACES:
        raise MisuseError(
            f"space={name!r} is unknown.{closest(name, SPACES)} Named spaces: {', '.join(SPACES)}; or give a study file."
        )
    return SPACES[name]


def parse_seeds(given: object) -> tuple[int, ...]:
    """Distinct seeds, in the given order, from a number, a range "start:stop", or a list of both."""
    seeds: list[int] = []
    for part in _listed("seeds", [given] if isinstance(given, (str, int)) else given):
        found = re.fullmatch(r"\s*(\d+):(\d+)\s*", part) if isinstance(part, str) else None
        if isinstance(part, str) and found is None:
            raise MisuseError(f"seeds={part!r} is not a range. Write start:stop as in Python, for example 0:100.")
        if found:
            start, stop = map(int, found.groups())
            if stop <= start:
                raise MisuseError(
                    f"seeds={part!r} is empty: as in Python, stop is excluded. Write {start}:{start + 1} for one seed."
                )
            checked_seed(stop - 1)
            if stop - start > MOST_SEEDS:
                raise MisuseError(
                    f"seeds={part!r} are {stop - start}; a study takes at most {MOST_SEEDS}. Split it into several studies."
                )
            seeds.extend(range(start, stop))
        else:
            seeds.append(checked_seed(part))
    return _distinct("seeds", seeds)


def written_seeds(seeds: Sequence[int]) -> list[int | str]:
    """The seeds as a study file writes them, consecutive ones as ranges; `parse_seeds` reads them back."""
    written: list[int | str] = []
    start = 0
    for stop in range(1, len(seeds) + 1):
        if stop == len(seeds) or seeds[stop] != seeds[stop - 1] + 1:
            run = seeds[start:stop]
            written.extend([f"{run[0]}:{run[-1] + 1}"] if len(run) > 2 else run)
            start = stop
    return written


def _axis(name: str, given: object) -> tuple[float, ...]:
    """The values of a list or of {from, to, count, scale}, or the `Range` {from, to}."""
    check = (SPARSITY if name == "sparsities" else L1).checked
    if isinstance(given, Range):
        return given
    if not isinstance(given, dict):
        return _distinct(name, (check(value) for value in _listed(name, given)))
    if not {"from", "to"} <= given.keys() <= {"from", "to", "count", "scale"}:
        raise MisuseError(f"{name}={given} is not a range. Give from, to and count, and scale: log for a logarithmic one.")
    low, high, scale = check(given["from"]), check(given["to"]), given.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise MisuseError(f"{name}: scale={scale!r} is neither linear nor log.")
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


def _steps(name: str, low: float, high: float, count: object, scale: str) -> tuple[float, ...]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MisuseError(f"{name}: count={count!r} is not a whole number >= 1.")
    if low > high or (count > 1 and low == high) or (count == 1 and low != high):
        raise MisuseError(f"{name}: {count} values from {low} to {high} are not a range. Expected from < to, and count >= 2.")
    if scale == "log" and low <= 0:
        raise MisuseError(f"{name}: from={low} has no logarithm. Start a log scale above 0, or list the values.")
    # The ends are exactly as written; the steps between them are rounded to 12 digits, so that 0.01 is 0.01.
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
        raise MisuseError(f"{name} lists {twice!r} twice. Each replicate is trained once; remove one.")
    return values


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's first error about a part of a study file, as one line."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [f.alias or key for key, f in model.model_fields.items()]
        return f"{where}: no such field.{closest(detail['loc'][-1], known)} Expected: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{where}: this field is missing. Add it; the README has a whole study file."
    return first_error(error)


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
    "thresholds": GridSpace(  # for `sae-study l1`, which searches the range of l1
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
