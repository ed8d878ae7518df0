"""Counts of a study's rows by cell and verdict, grown shard by shard: for `status`, and for maps of studies that run.

A replicate counts once, however many shards hold its row, and only if the study's specification asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from search_spaces.cells import SEED_COLUMNS, Architecture, Replicates
from search_spaces.coordinates import COORDINATES
from search_spaces.spaces import GridSpace, Seeds
from search_spaces.study_files import StudySpec
from study.packs import Pack
from study.storage.schema import names_of, row_schema
from study.storage.study_folder import StudyFolder, each_once

_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """What a study's folder holds."""

    version: int = 0
    """Rises whenever a shard has come, gone or changed, and when the specification has."""
    done: int = 0
    """Replicates whose rows are stored."""
    failures: Counter[str] = field(default_factory=Counter)
    """These by verdict, `none` among them."""
    unreadable: tuple[str, ...] = ()
    """Pack ids of corrupt shards; their rows are missing."""


class Tallies:
    """The counts of a folder. An update reads only shards that are new or were written again.

    Of those it reads the columns that identify and judge a replicate: a shard that is corrupt in another column counts.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._lock = Lock()
        self._spec: StudySpec | None = None
        self._counts = Counts()
        self._forget()

    def _forget(self) -> None:
        self._stamps: dict[str, object] = {}
        self._parts: dict[str, pa.Table] = {}
        self._ids = np.empty(0, np.int64)
        """Hashes of the ids that are counted, sorted."""

    def update(self, spec: StudySpec) -> Counts:
        """The counts of what the folder holds now of the study with this specification."""
        with self._lock:
            if spec != self._spec:
                self._forget()
                self._spec, self._asked = spec, _asked_by(spec)
                self._counts = Counts(self._counts.version + 1)
            stamps = self._folder.shard_stamps()
            if stamps != self._stamps:
                self._take(stamps)
            return self._counts

    def cells(self) -> pa.Table:
        """A line per cell and verdict: architecture, coordinates, failure and `count`. A map has about as many as it has rows."""
        with self._lock:
            rows = self._rows()
        keys = [*_cell(), "failure"]
        return rows.group_by(keys).aggregate([([], "count_all")]).rename_columns([*keys, "count"])

    def _take(self, stamps: dict[str, tuple[int, int | None]]) -> None:
        """Count shards with these stamps, of which some have changed."""
        new = [pack_id for pack_id, stamp in stamps.items() if self._stamps.get(pack_id) != stamp]
        gone = [pack_id for pack_id in self._parts if stamps.get(pack_id) != self._stamps[pack_id]]
        fresh = self._read(new)  # first, because it may raise
        for pack_id in gone:
            del self._parts[pack_id]
        self._parts |= fresh
        self._stamps = dict(stamps)
        failures = None if gone else self._grown(list(fresh.values()))
        if failures is None:
            failures = self._counted_anew()
        unreadable = tuple(sorted(stamps.keys() - self._parts.keys()))
        self._counts = Counts(self._counts.version + 1, len(self._ids), failures, unreadable)

    def _read(self, pack_ids: Sequence[str]) -> dict[str, pa.Table]:
        """What is kept of the readable ones among these shards."""
        columns = [*_cell(), "failure", "replicate_id", *SEED_COLUMNS]

        def part(pack_id: str) -> pa.Table | None:
            rows = self._folder.read_shard(pack_id, columns)
            if rows is None:
                return None
            asked = self._asked(rows)
            return _kept(rows if asked.all() else rows.filter(asked))

        with ThreadPoolExecutor(8) as pool:
            return {pack_id: kept for pack_id, kept in zip(pack_ids, pool.map(part, pack_ids)) if kept is not None}

    def _grown(self, parts: Sequence[pa.Table]) -> Counter[str] | None:
        """The failures with those of further parts; None if a replicate of them was counted before."""
        added = np.sort(np.concatenate([self._ids[:0], *(part["replicate_id"].to_numpy() for part in parts)]))
        ids = np.insert(self._ids, np.searchsorted(self._ids, added), added)
        if (ids[1:] == ids[:-1]).any():
            return None
        self._ids = ids
        return sum(map(_failures, parts), self._counts.failures.copy())

    def _counted_anew(self) -> Counter[str]:
        rows = self._rows()
        self._ids = np.sort(rows["replicate_id"].to_numpy())
        return _failures(rows)

    def _rows(self) -> pa.Table:
        return each_once(pa.concat_tables([_kept(row_schema().empty_table()), *self._parts.values()]).unify_dictionaries())


@lru_cache(maxsize=4)
def tallies_of(folder: StudyFolder) -> Tallies:
    """The tallies of a folder, kept in this process."""
    return Tallies(folder)


def _cell() -> list[str]:
    """The columns that identify a cell, whatever its coordinates are."""
    return ["architecture", *(name for name in COORDINATES if name in names_of())]


def _kept(rows: pa.Table) -> pa.Table:
    """What is kept of rows, about 30 bytes each. The ids are kept as 64-bit hashes, which hold in this process alone."""
    ids = pa.array(list(map(hash, rows["replicate_id"].to_pylist())), pa.int64())
    texts = {name: rows[name].dictionary_encode() for name in ("architecture", "failure")}
    coordinates = {name: rows[name] for name in _cell()[1:]}
    return pa.table({"replicate_id": ids, **texts, **coordinates})


def _failures(rows: pa.Table) -> Counter[str]:
    return Counter({count["values"]: count["counts"] for count in rows["failure"].value_counts().to_pylist()})


def _asked_by(spec: StudySpec) -> Callable[[pa.Table], _Bools]:
    """A function that says which rows of a shard the specification asks for. Of a grid it makes no ids: there may be millions."""
    space = spec.space
    if not isinstance(space, GridSpace) or space.protocols:
        packs = (Pack(replicates, protocol, spec.dtype, spec.engine) for protocol, replicates in spec.parts())
        ids = pa.array([replicate_id for pack in packs for replicate_id in pack.replicate_ids])
        return lambda rows: pc.is_in(rows["replicate_id"], ids).to_numpy()
    levels: dict[str, tuple[Any, ...]] = {"architecture": space.architectures}
    if spec.search is None:
        levels |= {"sparsity": space.sparsities, "l1": space.l1}

    def asked(rows: pa.Table) -> _Bools:
        inside = np.full(len(rows), _is_of(rows, spec))
        for name, values in levels.items():
            inside &= pc.is_in(rows[name], pa.array(values, rows[name].type)).to_numpy()
        return inside if spec.search else inside & _seeded(rows, space.seeds)

    return asked


def _is_of(shard: pa.Table, spec: StudySpec) -> bool:
    """Whether a shard has the protocol, dtype, engine family and procedure of a study. A shard is one pack, so any id tells."""
    if not len(shard):
        return False
    columns = shard.slice(0, 1).to_pydict()
    values = (np.array(columns[name]) for name in ("sparsity", "l1", *SEED_COLUMNS))
    one = Replicates(Architecture.parse(columns["architecture"][0]), *values)
    return Pack(one, spec.protocol, spec.dtype, spec.engine).replicate_ids == columns["replicate_id"]


def _seeded(rows: pa.Table, seeds: Seeds) -> _Bools:
    """Whether a row has one of the seeds, for data, autoencoder and SAE alike."""
    seed, *others = (rows[name].to_numpy() for name in SEED_COLUMNS)
    runs = sorted(seeds.runs, key=lambda run: run.start)
    starts, stops = (np.array([getattr(run, end) for run in runs]) for end in ("start", "stop"))
    place = np.searchsorted(starts, seed, side="right") - 1
    return np.logical_and.reduce([place >= 0, seed < stops[place], *(seed == other for other in others)])
