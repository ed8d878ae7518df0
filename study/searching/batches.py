"""Turns a learner's batches into packs to train, and rows into what the learner learns from. Stored rows are not trained again.

`learner_of.py` makes the learner; `in_process.py` and `on_ray/pack_queues.py` train the packs.
"""

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

LEARNER_COLUMNS = ("replicate_id", *LEARNED_FROM)


@dataclass
class _Batch:
    ids: list[str]
    """The ids of all its replicates, each once."""
    missing: set[str]
    """Those whose rows have not arrived yet."""


@dataclass
class Batches:
    """Runs a learner's ask/tell loop through a study.

    It asks the learner for batches, keeps track of the replicates that are being trained, and tells the learner each batch
    when its last row has arrived. Replayed over the same rows, a learner asks for the same batches again: that is how a
    search resumes after any interruption.
    """

    learner: Learner
    spec: StudySpec
    there: pa.Table
    """Rows that the study already has, with LEARNER_COLUMNS: not trained again when the learner asks for them."""
    found: int = 0
    """Replicates whose rows were stored when the learner asked for them."""
    summary: dict[str, float] = field(default_factory=dict)
    """The learner's summary after the last batch that it was told."""
    _open: deque[_Batch] = field(default_factory=deque)
    _rows: dict[str, tuple[pa.Table, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keep(self.there)

    @property
    def complete(self) -> bool:
        """Whether the learner is done and every row that it asked for has arrived."""
        return self.learner.done and not self._open

    def learn(self, arrived: Iterable[pa.Table] = ()) -> list[Pack]:
        """Take rows in, tell the learner the batches that they complete, and ask for more.

        Returns what must be trained: one pack per architecture and batch.
        """
        for rows in arrived:
            ids = self._keep(rows)
            for batch in self._open:
                batch.missing -= ids
        packs: list[Pack] = []
        while True:  # ask until it waits, then tell one batch: the same sequence whether rows arrive now or were stored before
            while asked := [self._pack(replicates) for replicates in self.learner.ask()]:
                packs.extend(self._opened(asked))
            if not self._open or self._open[0].missing:
                return packs
            self.learner.tell(self._told(self._open.popleft().ids))
            self.summary = self.learner.summary()

    def _opened(self, asked: list[Pack]) -> list[Pack]:
        """Open a batch; returns the packs of it that must be trained."""
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
