"""Thin Tune searchers: they translate between Tune's trials and packs, and decide nothing about science."""

from __future__ import annotations

import enum
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from ray.tune.search import Searcher
from threadpoolctl import threadpool_limits

from study.batches import Batches
from study.packs import Pack


class Fault(enum.Enum):
    """What became of a trial that ended without rows."""

    LOST = "its node was lost"
    DIED = "its worker died"
    RAISED = "it raised"


TRIES = {Fault.LOST: 10, Fault.DIED: 3, Fault.RAISED: 2}
"""How often a pack may end in each. Lost nodes are not the pack's fault; what raised may have been a storage's bad moment."""


LayOut = Callable[[str, Pack | None], None]
"""Lays a pack out under a name; None tells whoever asks for that name that nothing comes."""


class PackQueue(Searcher):
    """Hands packs to Tune in order; one that fails is handed out again, one that kills its workers comes back as two halves.

    `lay_out` is told each pack, and the name under which its trial asks for it, before it may; `on_poison` is told of a
    single replicate that killed every worker that tried it. Neither the queue nor its state outlives the run: a resumed
    study plans anew from the rows that are there.
    """

    def __init__(self, packs: Iterable[Pack], lay_out: LayOut, on_poison: Callable[[Pack], None]) -> None:
        super().__init__(metric="replicates", mode="max")
        self._queue = deque(packs)
        self._live: dict[str, Pack] = {}
        self._lay_out = lay_out
        self._on_poison = on_poison
        self._faults: Counter[tuple[str, Fault]] = Counter()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next pack's configuration; FINISHED only when nothing can come back any more."""
        if self._queue:
            pack = self._queue.popleft()
            self._lay_out(pack.pack_id, pack)
            self._live[trial_id] = pack
            return {"pack_id": pack.pack_id}
        return None if self._live else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:
            self._live.pop(trial_id, None)  # an errored one stays until `failed` says why

    def failed(self, trial_id: str, fault: Fault) -> Pack | None:
        """Try the trial's pack again, as often as TRIES says; then halve it, or record its only replicate, if its workers
        died, and else give it up: it is returned."""
        pack = self._live.pop(trial_id)
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

    def __getstate__(self) -> dict[str, Any]:
        return {"_metric": self._metric, "_mode": self._mode}  # Tune pickles the searcher with every snapshot

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: rows are the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: `resume` plans a new run from the rows."""


class LearnerQueue(PackQueue):
    """Hands out what a learner asks for, and the rows of finished packs to the learner.

    The learner thinks in a thread of its own. Where it has nothing queued a trial is begun all the same, and its worker
    waits for the pack that will be laid out under the trial's name: Tune takes workers from whom it has no trial for, and
    with reused actors it does not get them back.
    """

    def __init__(
        self,
        packs: Iterable[Pack],
        lay_out: LayOut,
        on_poison: Callable[[Pack], None],
        batches: Batches,
        cut: Callable[[list[Pack]], list[Pack]],
        read: Callable[[str], pa.Table],
    ) -> None:
        """packs: what the batches asked for first; cut: for the workers what they ask for next; read: a pack's rows by its id."""
        super().__init__(packs, lay_out, on_poison)
        self._batches, self._cut, self._read = batches, cut, read
        self.error: BaseException | None = None
        """What the learner raised: nothing is asked for after that."""
        self._waiting: deque[str] = deque()
        self._arrived: list[pa.Table] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._thought: Future[list[Pack]] | None = None
        self._lock = threading.RLock()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._lock:
            if self._queue or self._over:
                return super().suggest(trial_id)
            self._waiting.append(trial_id)
            return {"pack_id": trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self._lock:
            super().on_trial_complete(trial_id, result, error)
            if result and "shard" in result and not error:
                self._arrived.append(self._read(result["pack_id"]))
            self._go_on()

    def failed(self, trial_id: str, fault: Fault) -> Pack | None:
        with self._lock:
            if trial_id in self._waiting:
                self._waiting.remove(trial_id)
                return None
            lost = super().failed(trial_id, fault)
            self._go_on()
            return lost

    def _poisoned(self, pack: Pack) -> None:
        super()._poisoned(pack)
        self._arrived.append(self._read(pack.pack_id))

    @property
    def _over(self) -> bool:
        """Whether nothing can come any more: nothing is in training, in thought, or left to learn from."""
        return not (self._live or self._queue or self._arrived or self._thought)

    def _go_on(self) -> None:
        """Begin the next thought if rows have arrived since the last; give the waiting what is queued, or let them go."""
        if self._thought is None and self._arrived:
            arrived, self._arrived = self._arrived, []
            self._thought = self._thread.submit(self._learn, arrived)
            self._thought.add_done_callback(self._take)
        while self._waiting and self._queue:
            trial_id, pack = self._waiting.popleft(), self._queue.popleft()
            self._live[trial_id] = pack
            self._lay_out(trial_id, pack)
        while self._waiting and self._over:
            self._lay_out(self._waiting.popleft(), None)

    def _learn(self, arrived: list[pa.Table]) -> list[Pack]:
        with threadpool_limits(1, "blas"):
            return self._cut(self._batches.learn(arrived))

    def _take(self, thought: Future[list[Pack]]) -> None:
        """In the learner's thread, when it has thought."""
        with self._lock:
            self._thought = None
            if (error := thought.exception()) is not None:
                self.error = error
            else:
                self._queue.extend(thought.result())
            self._go_on()
