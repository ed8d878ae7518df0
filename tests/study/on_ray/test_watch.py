"""The outcomes of a run's trials, as Tune reports them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.on_ray.watch import Progress, Watch, last_line
from study.packs import estimated_seconds, missing_packs
from study.storage.study_folder import Storage
from tests.study.on_ray.test_driver import study


def test_finished_trials_and_poison_are_counted(tmp_path: Path) -> None:
    """They add to what was done before; a trial that was stopped before its pack was done does not count."""
    seen: list[Progress] = []
    folder = Storage.at(tmp_path).study("s")
    watch = Watch(folder, planned=48, done=8, on_progress=seen.append)
    finished = {"shard": "rows", "replicates": 4, "architecture": "5-3-5", "failures": {"none": 3, "sae_dead": 1, "sae_dense": 0}}
    for result in (finished, None, {"done": True, "replicates": 0}):
        watch.on_trial_complete(0, [], SimpleNamespace(last_result=result))
    pack = missing_packs(study(), ())[0][0].take(slice(0, 1))
    watch.poison(pack)
    assert [(one.planned, one.done, one.trained) for one in seen] == [(48, 12, 4), (48, 13, 5)]
    assert (watch.done, watch.trained, seen[-1].failures) == (13, 5, {"sae_dead": 1, "crashed": 1})
    assert folder.read_shards(["replicate_id", "failure"]).rows["failure"].to_pylist() == ["crashed"]


def test_time_left_is_told_from_the_first_pack_on() -> None:
    assert Progress(planned=48, done=8, trained=0, seconds=0.0, failures={}).seconds_left == math.inf
    assert Progress(planned=48, done=18, trained=10, seconds=5.0, failures={}).seconds_left == 15.0


def test_time_left_goes_by_what_is_left_to_pay() -> None:
    """Twice as slow as was estimated, over 1,000 s; a first pack that waited for the compiler says little."""
    slow = Progress(planned=10, done=9, trained=9, seconds=2000.0, failures={}, expected=(1000.0, 100.0))
    assert slow.seconds_left == pytest.approx(200, rel=0.02)
    first = Progress(planned=7000, done=169, trained=169, seconds=16.0, failures={}, expected=(1.0, 20.0))
    assert 20 < first.seconds_left < 40


def test_an_architecture_counts_by_its_cost(tmp_path: Path) -> None:
    """What two workers should take for one pack, and for what is left."""
    seen: list[Progress] = []
    watch = Watch(Storage.at(tmp_path).study("s"), 20, 0, seen.append)
    packs = missing_packs(study(), ())[0]
    watch.expect(packs, 2)
    names = [str(pack.replicates.architecture) for pack in packs]
    for name, pack in zip(names, packs):
        result = {"shard": "rows", "replicates": len(pack), "architecture": name, "failures": {}}
        watch.on_trial_complete(0, [], SimpleNamespace(last_result=result))
    costs = [estimated_seconds(pack) / 2 for pack in packs]
    assert seen[0].expected == pytest.approx((costs[0], sum(costs[1:])))
    assert seen[-1].expected == pytest.approx((sum(costs), 0.0))


def test_an_error_is_told_by_its_last_line() -> None:
    assert last_line("Traceback …\n  here\nValueError: so\n\n") == "ValueError: so"
    assert last_line(KeyError()) == "KeyError()"


def test_fault_of_the_machine_stops_the_run_and_no_other_does(tmp_path: Path) -> None:
    """The first one is kept; a pack's own exception, an OSError of its code too, is for the queue to try again."""
    watch = Watch(Storage.at(tmp_path).study("s"), planned=48, done=8, on_progress=None)
    for error in (None, ValueError("a bug"), "no error was recorded"):
        watch.blame(error)
    assert watch.fault is None
    watch.blame(ConnectionError("GCS cannot be reached"))
    assert str(watch.fault) == "Ray is gone (GCS cannot be reached)."
    watch.blame(OSError(28, "No space left on device", "/tmp/ray"))
    assert "Ray is gone" in str(watch.fault)


def test_poison_that_cannot_be_recorded_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not counted."""
    monkeypatch.setattr("study.storage.study_folder.WRITE_AGAIN_AFTER", ())
    watch = Watch(Storage.at(tmp_path).study("s"), planned=48, done=8, on_progress=None)
    (tmp_path / "s").write_text("a file where the folder should be")
    watch.poison(missing_packs(study(), ())[0][0].take(slice(0, 1)))
    assert "cannot be written" in str(watch.fault)
    assert watch.trained == 0
