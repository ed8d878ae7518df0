"""A learner's batches, as packs to train: what is asked goes out, rows come back, what is there already is not trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from search_spaces.cells import Replicates
from search_spaces.learners.contract import LEARNED_FROM, Learner, Rows
from search_spaces.study_files import StudySpec
from study.packs import Pack

COLUMNS = ("replicate_id", *LEARNED_FROM)


@dataclass
class _Batch:
    ids: list[str]
    """Of all its replicates, each once."""
    missing: set[str]
    """Those whose rows are not there yet."""


@dataclass
class Batches:
    """Leads a learner through a study: asks it, remembers what is out, tells it each batch when its last row is there.

    A learner that is led again over the same rows asks the same again: so a search resumes, whatever cut it off.
    """

    learner: Learner
    spec: StudySpec
    there: pa.Table
    """Rows that the study has, with COLUMNS: not trained again when the learner asks for them."""
    found: int = 0
    """Replicates whose rows were there when they were asked for."""
    summary: dict[str, float] = field(default_factory=dict)
    """The learner's, when it was last told something."""
    _open: deque[_Batch] = field(default_factory=deque)
    _rows: dict[str, tuple[pa.Table, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keep(self.there)

    @property
    def complete(self) -> bool:
        """Whether the learner is done and every row that it asked for is there."""
        return self.learner.done and not self._open

    def learn(self, arrived: Iterable[pa.Table] = ()) -> list[Pack]:
        """Take rows in, tell the batches that they complete, ask on: what must be trained, a pack an architecture and batch."""
        for rows in arrived:
            ids = self._keep(rows)
            for batch in self._open:
                batch.missing -= ids
        packs: list[Pack] = []
        while True:  # ask until it waits, then tell one batch: the same turns whether rows arrive now or were there before
            while asked := [self._pack(replicates) for replicates in self.learner.ask()]:
                packs.extend(self._opened(asked))
            if not self._open or self._open[0].missing:
                return packs
            self.learner.tell(self._told(self._open.popleft().ids))
            self.summary = self.learner.summary()

    def _opened(self, asked: list[Pack]) -> list[Pack]:
        """Remember a batch; what of it must be trained."""
        ids = list(dict.fromkeys(replicate_id for pack in asked for replicate_id in pack.replicate_ids))
        missing = {replicate_id for replicate_id in ids if replicate_id not in self._rows}
        out = {replicate_id for batch in self._open for replicate_id in batch.missing}
        self._open.append(_Batch(ids, missing))
        self.found += len(ids) - len(missing)
        wanted, packs = missing - out, []
        for pack in asked:
            places = []
            for place, replicate_id in enumerate(pack.replicate_ids):
                if replicate_id in wanted:
                    wanted.remove(replicate_id)
                    places.append(place)
            if places:
                packs.append(pack.take(np.array(places)))
        return packs

    def _pack(self, replicates: Replicates) -> Pack:
        return Pack(replicates, self.spec.protocol, self.spec.dtype, self.spec.engine)

    def _keep(self, rows: pa.Table) -> set[str]:
        ids = rows["replicate_id"].to_pylist()
        self._rows.update((replicate_id, (rows, place)) for place, replicate_id in enumerate(ids))
        return set(ids)

    def _told(self, ids: list[str]) -> Rows:
        """The rows of these ids as columns."""
        by_table: dict[int, tuple[pa.Table, list[int]]] = {}
        for replicate_id in ids:
            table, place = self._rows[replicate_id]
            by_table.setdefault(id(table), (table, []))[1].append(place)
        rows = pa.concat_tables([table.take(pa.array(places)) for table, places in by_table.values()])
        return {name: rows[name].to_numpy() for name in LEARNED_FROM}
