"""Thin Tune searchers: they translate between Tune's trials and packs, and decide nothing about science.

`PackQueue` serves a grid study, `LearnerQueue` a search. `retries.py` says how often a failed pack is tried again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pyarrow as pa
from ray.tune.search import Searcher
from threadpoolctl import threadpool_limits

from study.on_ray.retries import TRIES, Fault
from study.packs import Pack
from study.searching.batches import Batches


class PackQueue(Searcher):
    """Hands packs to Tune in order. A pack that fails is queued again; one that keeps killing its workers is halved.

    `lay_out` is called with each pack before its trial may fetch it. `on_poison` is called with a pack of one replicate that
    killed every worker that tried it. Neither the queue nor its state outlives the run: a resumed study plans anew from
    the stored rows.
    """

    def __init__(self, packs: Iterable[Pack], lay_out: Callable[[Pack], None], on_poison: Callable[[Pack], None]) -> None:
        super().__init__(metric="replicates", mode="max")
        self._queue = deque(packs)
        self._live: dict[str, Pack] = {}
        self._lay_out = lay_out
        self._on_poison = on_poison
        self._faults: Counter[tuple[str, Fault]] = Counter()
        self.error: BaseException | None = None
        """What a search's learner, or reading its rows, raised. Nothing is handed out after that."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack's configuration; FINISHED only when nothing can come back any more."""
        if self._queue:
            pack = self._queue.popleft()
            self._lay_out(pack)
            self._live[trial_id] = pack
            return {"pack_id": pack.pack_id}
        return None if self._live else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:
            self._live.pop(trial_id, None)  # an errored one stays until `retry` is called

    def retry(self, trial_id: str, fault: Fault) -> Pack | None:
        """Queue the pack of a failed trial again, as often as TRIES allows. After that a pack whose workers died is halved,
        or its only replicate is recorded as poison. Any other pack is given up and returned."""
        pack = self._live.pop(trial_id, None)
        if pack is None:
            return None
        self._faults[pack.pack_id, fault] += 1
        if self._faults[pack.pack_id, fault] < TRIES[fault]:
            (self._queue.append if fault is Fault.RAISED else self._queue.appendleft)(pack)
        elif fault is not Fault.DIED:
            return pack
        elif len(pack) > 1:
            self._queue.extendleft(reversed(pack.halves()))
        else:
            self._poisoned(pack)
        return None

    def _poisoned(self, pack: Pack) -> None:
        self._on_poison(pack)

    def end(self, wait: bool) -> None:
        """End the queue. Nothing to do here, because no worker waits for a pack."""

    def __getstate__(self) -> dict[str, Any]:
        return {"_metric": self._metric, "_mode": self._mode}  # Tune pickles the searcher with every snapshot

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: rows are the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: `resume` plans a new run from the rows."""


class Spares(Protocol):
    """Where packs are laid out for trials that were started without one."""

    def put(self, pack: Pack) -> None:
        """Lay out a pack for whichever trial asks first."""

    def taken(self, trial_id: str) -> str | None:
        """The id of the pack that went to a trial, if one did."""

    def no_more(self) -> None:
        """Release the trials that wait."""


class LearnerQueue(PackQueue):
    """Hands out the packs that a learner asks for, and gives it the rows of finished packs.

    The learner runs in a thread of its own. While nothing is queued, trials are started without a pack and their workers
    wait for spare ones: Tune dismisses workers that it has no trial for, and with reused actors it does not get them back.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        lay_out: Callable[[Pack], None],
        on_poison: Callable[[Pack], None],
        batches: Batches,
        cut: Callable[[list[Pack]], list[Pack]],
        read: Callable[[str], pa.Table],
        spares: Spares,
    ) -> None:
        """packs: those that the batches asked for first; cut: divides the ones they ask for next; read: a pack's rows by its id."""
        super().__init__(packs, lay_out, on_poison)
        self._batches, self._cut, self._read, self._spares = batches, cut, read, spares
        self._waiting: set[str] = set()
        self._spare: dict[str, Pack] = {}
        self._early_faults = 0
        self._arrived: list[str] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._step: Future[list[Pack]] | None = None
        self._lock = threading.RLock()
        self._ended = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._lock:
            if self._queue or self._over or self._halted:
                return super().suggest(trial_id)
            self._waiting.add(trial_id)
            return {"pack_id": "", "spare_for": trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self._lock:
            super().on_trial_complete(trial_id, result, error)
            if not error:
                self._waiting.discard(trial_id)  # an errored one stays until `retry` is called
                if result and "shard" in result:
                    self._spare.pop(result["pack_id"], None)
                    self._arrived.append(result["pack_id"])
                self._go_on()

    def retry(self, trial_id: str, fault: Fault) -> Pack | None:
        with self._lock:
            if trial_id in self._waiting:
                self._waiting.remove(trial_id)
                pack = self._spare.pop(self._spares.taken(trial_id) or "", None)
                if pack is None:
                    self._failed_early(fault)
                    return None
                self._live[trial_id] = pack
            lost = super().retry(trial_id, fault)
            self._go_on()
            return lost

    def _failed_early(self, fault: Fault) -> None:
        """A trial ended before it had a pack: a fault of its worker, and an error of the search after TRIES[LOST] such trials."""
        self._early_faults += 1
        if self._early_faults >= TRIES[Fault.LOST] and self.error is None:
            self.error = RuntimeError(f"{self._early_faults} trials ended before they had a pack, the last because {fault.value}")
        self._go_on()

    def end(self, wait: bool) -> None:
        """Hand out nothing more and release the trials that wait; wait: until the learner's current step ends."""
        with self._lock:
            self._ended = True
            self._go_on()
        self._thread.shutdown(wait=wait, cancel_futures=True)

    def _poisoned(self, pack: Pack) -> None:
        super()._poisoned(pack)
        self._arrived.append(pack.pack_id)

    @property
    def _over(self) -> bool:
        """Whether no pack can follow: nothing is in training, and the learner neither runs nor has rows to learn from."""
        return not (self._live or self._queue or self._spare or self._arrived or self._step)

    @property
    def _halted(self) -> bool:
        return self._ended or self.error is not None

    def _go_on(self) -> None:
        """Start the learner's next step if rows have arrived; give waiting trials what is queued, or release them."""
        if self._halted:
            self._queue.clear()
            self._arrived.clear()
        if self._step is None and self._arrived:
            arrived, self._arrived = self._arrived, []
            self._step = self._thread.submit(self._learn, arrived)
            self._step.add_done_callback(self._take)
        while self._queue and len(self._spare) < len(self._waiting):
            pack = self._queue.popleft()
            self._spare[pack.pack_id] = pack
            self._spares.put(pack)
        if self._over or self._halted:
            self._spares.no_more()

    def _learn(self, pack_ids: list[str]) -> list[Pack]:
        with threadpool_limits(1, "blas"):
            return self._cut(self._batches.learn([self._rows(pack_id) for pack_id in pack_ids]))

    def _rows(self, pack_id: str) -> pa.Table:
        """A pack's rows. If the storage fails for a moment, it is read again."""
        for pause in READ_AGAIN_AFTER:
            try:
                return self._read(pack_id)
            except OSError:
                time.sleep(pause)
        return self._read(pack_id)

    def _take(self, step: Future[list[Pack]]) -> None:
        """Queue the packs that the learner asked for. Runs in the learner's thread, at the end of a step."""
        with self._lock:
            self._step = None
            if step.cancelled():
                return
            self.error = self.error or step.exception()
            if self.error is None:
                self._queue.extend(step.result())
            self._go_on()


READ_AGAIN_AFTER = (0.5, 2.0, 4.0)
"""Seconds between attempts to read a shard."""
