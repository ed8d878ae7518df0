"""Thin Tune searchers: they translate between Tune's trials and packs, and decide nothing about science."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
from ray.tune.search import Searcher
from threadpoolctl import threadpool_limits

from study.batches import Batches
from study.packs import Pack


class PackQueue(Searcher):
    """Hands packs to Tune in order; a pack that kills its worker comes back as two halves.

    `lay_out` is told each pack before its trial may ask for it; `on_poison` is told of a single replicate that killed
    every worker that tried it. Neither the queue nor its state outlives the run: a resumed study plans anew from the
    rows that are there.
    """

    def __init__(self, packs: Iterable[Pack], lay_out: Callable[[Pack], None], on_poison: Callable[[Pack], None]) -> None:
        super().__init__(metric="replicates", mode="max")
        self._queue = deque(packs)
        self._live: dict[str, Pack] = {}
        self._lay_out = lay_out
        self._on_poison = on_poison

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack's configuration; FINISHED only when nothing can come back any more."""
        if self._queue:
            pack = self._queue.popleft()
            self._lay_out(pack)
            self._live[trial_id] = pack
            return {"pack_id": pack.pack_id}
        return None if self._live or self._more_may_come() else Searcher.FINISHED

    def _more_may_come(self) -> bool:
        """Whether there may be packs to hand out although none is in training."""
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:
            self._live.pop(trial_id, None)  # an errored one stays until `worker_died` or `failed` says why

    def worker_died(self, trial_id: str) -> None:
        """The trial's worker died with it, again and again: halve the pack, or record its only replicate."""
        pack = self._live.pop(trial_id)
        if len(pack) == 1:
            self._on_poison(pack)
        else:
            self._queue.extendleft(reversed(pack.halves()))

    def failed(self, trial_id: str) -> Pack:
        """The trial raised: a fault of the program, not of a replicate. Its pack is not tried again."""
        return self._live.pop(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {"_metric": self._metric, "_mode": self._mode}  # Tune pickles the searcher with every snapshot

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: rows are the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: `resume` plans a new run from the rows."""


class LearnerQueue(PackQueue):
    """Hands out what a learner asks for, and the rows of finished packs to the learner.

    The learner thinks in a thread of its own, so that Tune goes on handing out what is queued.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        lay_out: Callable[[Pack], None],
        on_poison: Callable[[Pack], None],
        batches: Batches,
        cut: Callable[[list[Pack]], list[Pack]],
        read: Callable[[str], pa.Table],
    ) -> None:
        """packs: what the batches asked for first; cut: for the workers what they ask for next; read: a pack's rows by its id."""
        super().__init__(packs, lay_out, on_poison)
        self._batches, self._cut, self._read = batches, cut, read
        self._arrived: list[pa.Table] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._thought: Future[list[Pack]] | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self._go_on_learning()
        while not self._queue and not self._live and self._thought is not None:
            wait([self._thought])  # nothing to train meanwhile, and Tune would look again only after a second
            self._go_on_learning()
        return super().suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        super().on_trial_complete(trial_id, result, error)
        if result and "shard" in result and not error:
            self._arrived.append(self._read(result["pack_id"]))
            self._go_on_learning()

    def worker_died(self, trial_id: str) -> None:
        pack = self._live[trial_id]
        super().worker_died(trial_id)
        if len(pack) == 1:
            self._arrived.append(self._read(pack.pack_id))

    def _more_may_come(self) -> bool:
        return self._thought is not None

    def _go_on_learning(self) -> None:
        """Queue what a thought brought, and begin the next one if rows have arrived since."""
        if self._thought is not None and self._thought.done():
            self._queue.extend(self._cut(self._thought.result()))
            self._thought = None
        if self._thought is None and self._arrived:
            arrived, self._arrived = self._arrived, []
            self._thought = self._thread.submit(self._learn, arrived)

    def _learn(self, arrived: list[pa.Table]) -> list[Pack]:
        with threadpool_limits(1, "blas"):
            return self._batches.learn(arrived)
