"""Thin Tune searchers: they translate between Tune's trials and packs, and decide nothing about science."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

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
        return None if self._live else Searcher.FINISHED

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
