"""LearnerQueue: workers that wait for the learner get what it asks for, are released at the end, and no fault is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from ray.tune.search import Searcher

from study.on_ray.pack_queues import LearnerQueue
from study.on_ray.retries import TRIES, Fault
from study.packs import Pack
from study.searching.batches import Batches
from tests.study.searching.test_batches import NOTHING, SPEC, Halving, trained


class Spares:
    """The desk's part, in this process."""

    def __init__(self) -> None:
        self.packs: list[Pack] = []
        self.went: dict[str, str] = {}
        self.over = False

    def put(self, pack: Pack) -> None:
        self.packs.append(pack)

    def take(self, trial_id: str) -> Pack:
        pack = self.packs.pop(0)
        self.went[trial_id] = pack.pack_id
        return pack

    def taken(self, trial_id: str) -> str | None:
        return self.went.get(trial_id)

    def no_more(self) -> None:
        self.over = True


class Study:
    """A queue, the packs that were laid out, and rows for the packs that count as trained."""

    def __init__(self, learner: Any = None, read: Callable[[str], pa.Table] | None = None) -> None:
        self.packs: dict[str, Pack] = {}
        self.poisoned: list[Pack] = []
        self.spares = Spares()
        self.batches = Batches(learner or Halving(), SPEC, NOTHING)
        begin = self.batches.learn()
        self.packs |= {pack.pack_id: pack for pack in begin}
        self.queue = LearnerQueue(begin, self.lay_out, self.poisoned.append, self.batches, self.cut, read or self.read, self.spares)

    def lay_out(self, pack: Pack) -> None:
        self.packs[pack.pack_id] = pack

    def cut(self, packs: list[Pack]) -> list[Pack]:
        self.packs |= {pack.pack_id: pack for pack in packs}
        return packs

    def read(self, pack_id: str) -> pa.Table:
        return trained(self.packs[pack_id])

    def complete(self, trial_id: str, pack_id: str) -> None:
        self.queue.on_trial_complete(trial_id, {"shard": "rows", "pack_id": pack_id, "replicates": len(self.packs[pack_id])})

    def settle(self) -> None:
        """Wait until the learner's step has ended."""
        deadline = time.monotonic() + 20
        while self.queue._step is not None and time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_search_is_led_to_its_end_by_workers_that_wait() -> None:
    study, trials, finished = Study(), 0, 0
    waiting: list[str] = []
    while finished < 12:
        trials += 1
        assert trials < 100
        suggested = study.queue.suggest(f"t{trials}")
        assert isinstance(suggested, dict)
        if suggested["pack_id"]:
            study.complete(f"t{trials}", suggested["pack_id"])
            finished += 1
        else:
            waiting.append(f"t{trials}")
        study.settle()
        while waiting and study.spares.packs:
            trial_id = waiting.pop(0)
            study.complete(trial_id, study.spares.take(trial_id).pack_id)
            finished += 1
            study.settle()
    assert study.batches.complete
    assert study.spares.over
    assert study.queue.suggest("last") == Searcher.FINISHED


def test_a_spare_pack_whose_worker_died_is_trained_again() -> None:
    study = Study()
    handed = [study.queue.suggest(f"t{i}") for i in range(5)]
    assert [bool(one["pack_id"]) for one in handed] == [True] * 4 + [False]  # type: ignore[index,call-overload]
    for i in range(2):
        study.complete(f"t{i}", handed[i]["pack_id"])  # type: ignore[index,call-overload]
    study.settle()
    pack = study.spares.take("t4")
    assert study.queue.retry("t4", Fault.DIED) is None
    again = [study.queue.suggest(f"u{i}") for i in range(2)]
    assert pack.pack_id in {one["pack_id"] for one in again}  # type: ignore[index,call-overload]


def test_a_worker_lost_after_it_was_let_go_harms_nothing() -> None:
    study = Study()
    study.queue.end(wait=True)
    assert study.spares.over
    assert study.queue.retry("t9", Fault.LOST) is None


def test_what_the_learner_raises_ends_the_search_and_is_kept() -> None:
    class Broken(Halving):
        def tell(self, rows: Any) -> None:
            raise ZeroDivisionError("a fault of the learner")

    study = Study(Broken())
    handed = [study.queue.suggest(f"t{i}") for i in range(4)]
    for i in range(2):
        study.complete(f"t{i}", handed[i]["pack_id"])  # type: ignore[index,call-overload]
    study.settle()
    assert isinstance(study.queue.error, ZeroDivisionError)
    assert study.spares.over
    assert study.queue.suggest("t5") is None  # two are in training
    for i in (2, 3):
        study.complete(f"t{i}", handed[i]["pack_id"])  # type: ignore[index,call-overload]
    assert study.queue.suggest("t6") == Searcher.FINISHED


def test_trials_that_end_before_they_have_a_pack_are_told() -> None:
    study = Study()
    for i in range(4):
        study.queue.suggest(f"t{i}")
    for i in range(TRIES[Fault.LOST]):
        assert study.queue.suggest(f"w{i}") == {"pack_id": "", "spare_for": f"w{i}"}
        assert study.queue.retry(f"w{i}", Fault.RAISED) is None
    assert "before they had a pack, the last because it raised" in str(study.queue.error)


def test_a_storage_that_fails_for_a_moment_is_read_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("study.on_ray.pack_queues.READ_AGAIN_AFTER", (0.0, 0.0))
    failures = iter([OSError("slow down"), OSError("slow down")])

    def read(pack_id: str) -> pa.Table:
        for failure in failures:
            raise failure
        return study.read(pack_id)

    study = Study(read=read)
    handed = study.queue.suggest("t0")
    study.complete("t0", handed["pack_id"])  # type: ignore[index,call-overload]
    study.settle()
    assert study.queue.error is None
