"""Watches a run's trials: counts their rows, has failed ones retried (`retries.py`), and obeys `sae-study stop`."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayError

from search_spaces.errors import MachineError, reason
from study.on_ray.pack_queues import PackQueue
from study.on_ray.retries import PAUSE_SECONDS, Fault, fault_of, out_of_memory
from study.packs import Pack, estimated_seconds
from study.searching.batches import Batches
from study.storage.study_folder import StudyFolder
from study.verdict_rows import crashed_rows

ESTIMATE_WEIGHS = 20.0
"""The engine's estimate of costs counts like a measurement of so many seconds: the first packs wait for a compiler."""


@dataclass(frozen=True)
class Progress:
    """How far a running study is."""

    planned: int
    """Replicates of the study; for a search, the most that it trains."""
    done: int
    """Replicates whose rows are stored, earlier runs included."""
    trained: int
    """Replicates trained in this run."""
    seconds: float
    """Seconds since this run's first pack was handed out."""
    failures: Mapping[str, int]
    """Rows of this run by FailureKind, `none` left out."""
    learned: Mapping[str, float] = field(default_factory=dict)
    """The figures by which a search's learner reports its progress."""
    expected: tuple[float, float] | None = None
    """Seconds by the engine's estimate for what this run has trained, and for what is left; None for a search."""

    @property
    def rate(self) -> float:
        """Replicates per second in this run."""
        return self.trained / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """By the engine's estimate, corrected by this run's pace; in a search at the current rate, inf before the first pack."""
        if self.expected is None:
            return (self.planned - self.done) / self.rate if self.rate > 0 else math.inf
        done, left = self.expected
        return left * (self.seconds + ESTIMATE_WEIGHS) / (done + ESTIMATE_WEIGHS)


class Watch(tune.Callback):
    """Counts the rows of finished trials, and hands failed trials back to the queue to be retried."""

    def __init__(
        self,
        folder: StudyFolder,
        planned: int,
        done: int,
        on_progress: Callable[[Progress], None] | None,
        batches: Batches | None = None,
    ) -> None:
        self._folder, self._planned, self._done_before, self._on_progress = folder, planned, done, on_progress
        self.batches = batches
        """For a search."""
        self._paid = 0.0
        self._began = time.monotonic()
        self.queue: PackQueue | None = None
        self.desk: Any = None
        self._costs: dict[str, float] = {}
        self._cost = 0.0
        self.trained = 0
        self.failures: Counter[str] = Counter()
        self.errors: list[str] = []
        self.fault: MachineError | None = None
        """What failed that every pack needs, such as the storage: the run is stopped."""

    def expect(self, missing: Iterable[Pack], workers: int) -> None:
        """Take note of what the run should cost: one pack of everything missing per architecture."""
        costs = {str(pack.replicates.architecture): (len(pack), estimated_seconds(pack) / workers) for pack in missing}
        self._costs = {architecture: seconds / count for architecture, (count, seconds) in costs.items()}
        self._cost = sum(seconds for _, seconds in costs.values())

    @property
    def done(self) -> int:
        """Replicates of the study whose rows are stored."""
        return (self._done_before if self.batches is None else self.batches.found) + self.trained

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.trained == 0 and len(trials) == 1:
            self._began = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        if result and "shard" in result:  # a trial that was stopped before its pack was done has none
            failures = {kind: count for kind, count in result["failures"].items() if count and kind != "none"}
            self._count(result["replicates"], failures, result["architecture"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        assert self.queue is not None
        error = _trial_exception(trial)
        cause = getattr(error, "cause", error)
        if isinstance(cause, MachineError):
            self.blame(cause)
            return
        laid_out_as = trial.config["pack_id"] or trial.trial_id
        fault = fault_of(error, lambda: ray.get(self.desk.node_of.remote(laid_out_as)))
        if fault is Fault.STARVED:
            time.sleep(PAUSE_SECONDS)
        pack = self.queue.retry(trial.trial_id, fault)
        if pack is not None and fault is Fault.STARVED:
            self.blame(out_of_memory(error))
        elif pack is not None:
            self.errors.append(f"pack {pack.pack_id} of {len(pack)} replicates, {fault.value} again and again: {last_line(error)}")

    def blame(self, error: object) -> None:
        """Stop the run if this is an error of the machine or its storage. On a worker an OSError may be that of a single pack."""
        if self.fault is None and isinstance(error, (MachineError, OSError)):
            self.fault = error if isinstance(error, MachineError) else MachineError(_of_files(error))

    def poison(self, pack: Pack) -> None:
        """Record a replicate that killed every worker that tried it."""
        try:
            self._folder.write_shard(pack.pack_id, crashed_rows(pack, study=self._folder.name))
        except MachineError as fault:
            self.blame(fault)
        else:
            self._count(1, {"crashed": 1}, str(pack.replicates.architecture))

    def _count(self, replicates: int, failures: Mapping[str, int], architecture: str) -> None:
        self.trained += replicates
        self._paid += replicates * self._costs.get(architecture, 0.0)
        self.failures.update(failures)
        if self._on_progress:
            self._on_progress(
                Progress(
                    self._planned,
                    self.done,
                    self.trained,
                    time.monotonic() - self._began,
                    dict(self.failures),
                    self.batches.summary if self.batches else {},
                    (self._paid, max(self._cost - self._paid, 0.0)) if self._costs else None,
                )
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled with the run's configuration, never used from there


class StopWhen(tune.Stopper):
    """Stops the run when `sae-study stop` has asked for it, or when what every pack needs has failed."""

    def __init__(self, stop: threading.Event, watch: Watch) -> None:
        self._stop, self._watch = stop, watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        stop = self._stop.is_set() or self._watch.fault is not None
        if stop and self._watch.queue:
            self._watch.queue.end(wait=False)  # releases the trials that wait for a pack
        return stop

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled with the run's configuration, never used from there


class SparesAt:
    """Spare packs at the desk. A desk that is gone is ignored: the run is over."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def put(self, pack: Pack) -> None:
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            self._desk.put_spare.remote(pack.pack_id, pack.to_text())

    def taken(self, trial_id: str) -> str | None:
        return ray.get(self._desk.taken.remote(trial_id))

    def no_more(self) -> None:
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            self._desk.no_more.remote()


def _trial_exception(trial: Any) -> BaseException | str:
    """The error of a failed trial, as Tune recorded it."""
    path = trial.pickled_error_file
    if path and Path(path).is_file():
        return cloudpickle.loads(Path(path).read_bytes())
    return Path(trial.error_file).read_text() if trial.error_file else "no error was recorded"


def _of_files(error: OSError) -> str:
    if isinstance(error, ConnectionError):
        return f"Ray is gone ({last_line(error)})."
    return f"{error.filename or 'the storage'} cannot be read or written ({reason(error)})."


def last_line(error: BaseException | str) -> str:
    """The end of an error's text: what was raised, without the trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
