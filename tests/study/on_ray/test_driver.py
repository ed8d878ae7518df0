"""The guarantees of a study on Ray: nothing is lost and nothing is trained twice, whatever dies."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ray import tune

from analysis import load, tune_frame
from search_spaces import MisuseError, StudySpec, study_from
from study import launch, resume, run_here
from study.on_ray.outcome import Outcome
from study.on_ray.retries import TRIES, Fault
from study.on_ray.watch import Progress
from study.packs import Pack
from study.run_pack import run_pack
from study.specification import study_spec
from study.storage.schema import science_columns
from study.storage.status import request_stop, status
from study.storage.study_folder import Storage
from study.verdict_rows import crashed_rows
from tests.conftest import BUGGY_SEED, FRAGILE_SEED, POISONED_SEED, TINY

pytestmark = pytest.mark.ray

LONGER: dict[str, Any] = {"base": "dissertation", "samples": 300, "ae_epochs": 1, "sae_epochs": 8}
"""About half a second per pack by the reference engine: long enough to be killed in the middle."""


def study(protocol: dict[str, Any] = TINY, name: str = "s", seeds: Any = "0:6", pack_size: int | str = 4) -> StudySpec:
    """5-3-5 and 10-5-10, two sparsities, two l1 values."""
    space = {"architectures": ["5-3-5", "10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01, 0.1], "seeds": seeds}
    engine = "reference" if protocol is LONGER else "auto"
    return study_from({"name": name, "protocol": protocol, "engine": engine, "pack_size": pack_size, "space": space})


@cache
def undisturbed(spec: StudySpec) -> pd.DataFrame:
    """The study's science columns from one process without Ray, by replicate_id."""
    return (
        run_here(study_spec(spec, engine="reference")).to_pandas()[science_columns()].sort_values("replicate_id", ignore_index=True)
    )


def science(storage: str | Path, name: str = "s") -> pd.DataFrame:
    """The science columns of the stored rows, by replicate_id, as they lie in the shards."""
    rows = Storage.at(storage).study(name).read_shards().rows.to_pandas()
    return rows[science_columns()].sort_values("replicate_id", ignore_index=True)


def driver(spec: StudySpec, storage: Path, *options: str) -> subprocess.Popen[str]:
    """A driver of its own, with a local Ray of its own, as a user would start it."""
    storage.mkdir(parents=True, exist_ok=True)
    file = storage / "given.yaml"
    file.write_text(json.dumps(spec.to_mapping()))
    command = [sys.executable, "-m", "service.cli", "launch", str(file), "--storage", str(storage), "--workers", "2", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_shards(storage: Path, count: int, name: str = "s", seconds: float = 90) -> None:
    """Wait until this many packs are done."""
    deadline = time.monotonic() + seconds
    while len(Storage.at(storage).study(name).shard_ids()) < count:
        assert time.monotonic() < deadline, "no shard came in time"
        time.sleep(0.05)


@dataclasses.dataclass(frozen=True)
class Launched:
    """The finished study `s`, and what its launch said."""

    storage: Path
    outcome: Outcome
    seen: list[Progress]


@pytest.fixture(scope="module")
def launched(local_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Once for all tests, on two workers."""
    storage, seen = tmp_path_factory.mktemp("launched"), []
    return Launched(storage, launch(study(), storage=storage, on_progress=seen.append), seen)


@pytest.fixture
def finished(launched: Launched, tmp_path: Path) -> Path:
    """A copy of its storage, to be broken."""
    shutil.copytree(launched.storage / "s", tmp_path / "s")
    return tmp_path


def test_rows_are_those_of_a_single_process(launched: Launched) -> None:
    """Ray trains packs to the same science as this process trains one; one Tune line per pack; launching again trains nothing."""
    spec, storage, outcome, seen = study(), launched.storage, launched.outcome, launched.seen
    assert json.loads(json.dumps(dataclasses.asdict(outcome)))["study"] == "s"
    assert (outcome.state, outcome.planned, outcome.done, outcome.trained) == ("done", 48, 48, 48)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == 48
    pd.testing.assert_frame_equal(science(storage), undisturbed(spec), check_exact=True)

    frame = load("s", storage)
    assert frame["replicate_id"].is_unique
    assert frame.attrs["shards"] == 12
    assert frame.attrs["shards_without_tune_line"] == frame.attrs["tune_lines_without_shard"] == []
    packs = tune_frame("s", storage)
    assert len(packs) == 12
    assert packs["replicates"].sum() == 48
    assert packs["shard"].is_unique
    assert packs["failures/none"].sum() == (frame["failure"] == "none").sum()
    assert (packs["pack_seconds"] > 0).all()

    again = launch(spec, storage=storage)
    assert (again.state, again.trained, again.done) == ("done", 0, 48)


def test_all_workers_work(local_ray: Path, tmp_path: Path) -> None:
    """Packs far shorter than a worker's start are still trained by both workers: the start gate holds the first back."""
    launch(study(seeds="0:20"), storage=tmp_path)
    assert tune_frame("s", tmp_path)["pid"].nunique() == 2


def test_killed_worker_loses_nothing(local_ray: Path, tmp_path: Path) -> None:
    """If a worker dies once while it trains a pack, the pack goes to another worker."""
    spec = study(seeds=[0, 1, FRAGILE_SEED])
    assert launch(spec, storage=tmp_path).state == "done"
    assert (local_ray / "has_killed_once").exists()
    pd.testing.assert_frame_equal(science(tmp_path), undisturbed(spec), check_exact=True)


@pytest.mark.slow
def test_poisonous_replicate_becomes_a_row(local_ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that kills its worker is halved until the culprit is a row; its pack mates are trained. (At the first death here.)"""
    monkeypatch.setitem(TRIES, Fault.DIED, 1)
    space = {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": [0.01], "seeds": [0, 1, POISONED_SEED, 3]}
    spec = study_from({"name": "s", "protocol": TINY, "pack_size": 4, "space": space})
    outcome = launch(spec, storage=tmp_path)
    assert (outcome.state, outcome.done) == ("done", 4)
    assert outcome.failures["crashed"] == 1
    frame = load("s", tmp_path)
    crashed = frame[frame["failure"] == "crashed"]
    assert crashed["seed"].tolist() == [POISONED_SEED]
    assert crashed["ae_loss"].isna().all()
    healthy = undisturbed(study_from(spec.to_mapping() | {"space": space | {"seeds": [0, 1, 3]}}))
    stored = science(tmp_path)
    stored = stored[stored["failure"] != "crashed"].reset_index(drop=True)
    pd.testing.assert_frame_equal(stored, healthy, check_exact=True, check_dtype=False)  # counts beside a missing one are floats


def test_bug_is_an_error_and_the_rest_is_kept(local_ray: Path, tmp_path: Path) -> None:
    """A pack that raises makes the study fail with what it raised; it gives no row, and the other packs are trained."""
    outcome = launch(study(seeds=[0, 1, 2, BUGGY_SEED]), storage=tmp_path, workers=1)
    assert outcome.state == "failed"
    assert any("a fault of the program" in error for error in outcome.errors)
    there = status("s", str(tmp_path))
    assert (there.state, there.errors) == ("failed", outcome.errors)
    frame = load("s", tmp_path)
    assert set(frame["seed"]) == {0, 1, 2}
    assert not (frame["failure"] == "crashed").any()


def test_corrupt_shards_are_told_and_trained_again(finished: Path) -> None:
    """Of half-written, overwritten and empty shards, load reports the names and leaves them out; resume trains their rows again."""
    tmp_path = finished
    whole = science(tmp_path)
    shards = sorted((tmp_path / "s" / "rows").glob("*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-200])
    middle = bytearray(shards[1].read_bytes())
    middle[len(middle) // 3] ^= 0xFF
    shards[1].write_bytes(bytes(middle))
    shards[2].write_bytes(b"")
    (tmp_path / "s" / "rows" / f"{shards[3].name}.abc.part").write_bytes(b"half a shard")

    frame = load("s", tmp_path)
    assert frame.attrs["unreadable_shards"] == [shard.stem for shard in shards[:3]]
    assert len(frame) == 48 - 12
    assert status("s", str(tmp_path)).done in (36, 40)  # it checks no other column than those of cells and verdicts
    outcome = resume("s", storage=tmp_path, pack_size=5, workers=1)
    assert (outcome.state, outcome.trained) == ("done", 12)
    pd.testing.assert_frame_equal(science(tmp_path), whole, check_exact=True)
    assert load("s", tmp_path).attrs["unreadable_shards"] == []


def test_row_in_two_shards_counts_once(finished: Path) -> None:
    """Two drivers that overlap write the same rows under other pack names."""
    tmp_path, spec = finished, study()
    before = science(tmp_path)
    (own, *_) = spec.replicates()
    pack = Pack(own, spec.protocol, spec.dtype, "reference")
    Storage.at(tmp_path).study("s").write_shard(pack.pack_id, run_pack(pack, study="s"))
    pd.testing.assert_frame_equal(science(tmp_path), before, check_exact=True)
    assert len(load("s", tmp_path)) == 48


def test_copied_study_loads_as_it_is(finished: Path, tmp_path: Path) -> None:
    """A study's folder does not contain the path of the place where it was made."""
    (tmp_path / "there").mkdir()
    (finished / "s").rename(tmp_path / "there" / "renamed")
    assert len(load(tmp_path / "there" / "renamed")) == 48
    assert len(tune_frame("renamed", tmp_path / "there")) == 12


@pytest.mark.parametrize("damage", ["none", "torn", "gone"])
def test_tune_frame_outlives_its_snapshot(finished: Path, damage: str) -> None:
    """If Tune's snapshot is truncated or missing, its result lines still give the same packs and the same figures."""
    whole = tune_frame("s", finished)
    (snapshot,) = (finished / "s" / "tune").glob("*/experiment_state*.json")
    if damage == "torn":
        snapshot.write_bytes(snapshot.read_bytes()[:-200])
    elif damage == "gone":
        snapshot.unlink()
    again = tune_frame("s", finished)
    columns = ["run", "pack_id", "shard", "replicates", "pack_seconds", "failures/none", "config/pack_id", "trial_id"]
    whole, again = (frame[columns].sort_values("pack_id", ignore_index=True) for frame in (whole, again))
    pd.testing.assert_frame_equal(again, whole)


def test_other_specification_is_refused(finished: Path, tmp_path: Path) -> None:
    """The same name with another space: nothing is overwritten. Another pack size is the same study."""
    before = (tmp_path / "s" / "study.yaml").read_text()
    with pytest.raises(MisuseError, match=r"another specification.*space"):
        launch(study(seeds="0:7"), storage=tmp_path)
    assert (tmp_path / "s" / "study.yaml").read_text() == before
    assert launch(study(pack_size=7), storage=tmp_path).state == "done"


def test_copied_study_is_resumed_under_its_new_name(finished: Path, tmp_path: Path) -> None:
    """The folder names the study, whatever study.yaml says."""
    (finished / "s").rename(finished / "moved")
    shard = next((finished / "moved" / "rows").glob("*.parquet"))
    shard.unlink()
    outcome = resume("moved", storage=finished)
    assert (outcome.study, outcome.state, outcome.trained) == ("moved", "done", 4)


def test_crashed_replicate_is_tried_again_on_request(finished: Path) -> None:
    """By default it is not; with `retry_crashed` it is trained, and its new row replaces the crashed one."""
    whole = science(finished)
    folder = Storage.at(finished).study("s")
    pack_id = folder.shard_ids()[0]
    (own, *_) = [Pack(o, study().protocol, "float64", "reference") for o in study().replicates()]
    rows = folder.read_shard(pack_id)
    assert rows is not None
    places = [own.replicate_ids.index(i) for i in rows["replicate_id"].to_pylist() if i in own.replicate_ids]
    if not places:
        own = Pack(study().replicates()[1], study().protocol, "float64", "reference")
        places = [own.replicate_ids.index(i) for i in rows["replicate_id"].to_pylist()]
    crashed = own.take(np.array(places))
    folder.write_shard(pack_id, crashed_rows(crashed, study="s"))
    assert resume("s", storage=finished).trained == 0
    assert resume("s", storage=finished, retry_crashed=True, pack_size=2, workers=1).trained == len(places)
    pd.testing.assert_frame_equal(science(finished), whole, check_exact=True, check_dtype=False)


def test_other_procedure_is_not_mixed_in(finished: Path) -> None:
    """Rows of another procedure or engine family are not comparable: resume refuses to put its own beside them."""
    manifest = finished / "s" / "manifest.json"
    made = json.loads(manifest.read_text())
    for changed in ({"procedure_version": 0}, {"engine_family": "torch"}):
        manifest.write_text(json.dumps(made | changed))
        with pytest.raises(MisuseError, match=next(iter(changed))):
            resume("s", storage=finished)
    manifest.unlink()
    assert resume("s", storage=finished).state == "done"


def test_tune_domains_become_replicates(local_ray: Path, tmp_path: Path) -> None:
    """Drawn once, stored as replicates; the same call is the same study."""
    domains = {
        "architecture": tune.grid_search(["5-3-5", "6-3-6"]),
        "sparsity": tune.uniform(0.3, 0.98),
        "l1": tune.loguniform(1e-4, 1),
        "seed": tune.grid_search([0, 1]),  # crossed with the cells: each keeps both
    }
    first = launch(domains, num_samples=3, protocol=TINY, storage=tmp_path, workers=1)
    assert (first.planned, first.done) == (12, 12)
    frame = load("domains", tmp_path)
    assert set(frame["architecture"]) == {"5-3-5", "6-3-6"}
    assert frame["l1"].between(1e-4, 1).all()
    assert frame.groupby(["architecture", "sparsity", "l1"])["seed"].agg(sorted).tolist() == [[0, 1]] * 6
    assert launch(domains, num_samples=3, protocol=TINY, storage=tmp_path).trained == 0


@pytest.mark.slow
def test_killed_driver_loses_only_what_was_in_flight(local_ray: Path, tmp_path: Path) -> None:
    """SIGKILL in mid-study; the study can be read; resume makes exactly the planned rows, none twice."""
    spec = study(LONGER)
    process = driver(spec, tmp_path)
    wait_for_shards(tmp_path, 2)
    process.kill()
    process.wait()
    time.sleep(1)
    there = status("s", str(tmp_path))
    assert there.state == "interrupted"
    assert 0 < there.done < there.planned
    assert len(load("s", tmp_path)) == there.done
    outcome = resume("s", storage=tmp_path, pack_size=3)
    assert outcome.state == "done"
    assert outcome.trained == 48 - there.done
    pd.testing.assert_frame_equal(science(tmp_path), undisturbed(spec), check_exact=True)
    packs = tune_frame("s", tmp_path)
    assert set(packs["pack_id"]) == set(Storage.at(tmp_path).study("s").shard_ids())


@pytest.mark.slow
def test_second_driver_is_refused_or_harmless(local_ray: Path, tmp_path: Path) -> None:
    """While one driver runs, a second is refused; with force both finish, and no row is lost or doubled."""
    spec = study(LONGER)
    process = driver(spec, tmp_path)
    wait_for_shards(tmp_path, 1)
    with pytest.raises(MisuseError, match=r"is being run by process \d+.*--force"):
        resume("s", storage=tmp_path)
    beside: Outcome = resume("s", storage=tmp_path, force=True, pack_size=5)
    assert beside.state == "done"
    process.communicate(timeout=120)
    assert process.returncode == 0
    pd.testing.assert_frame_equal(science(tmp_path), undisturbed(spec), check_exact=True)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    """The driver ends soon and says how to continue, and the rows are stored. (The benchmark measures how soon, not this test.)"""
    process = driver(study(LONGER, pack_size=3), tmp_path)
    wait_for_shards(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "sae-study resume s" in errors
    assert "Traceback" not in errors
    there = status("s", str(tmp_path))
    assert there.state == "stopped"
    assert there.done >= 6
    assert not list((tmp_path / "s" / "rows").glob("*.part"))


@pytest.mark.slow
def test_stop_ends_a_running_study(tmp_path: Path) -> None:
    """From another process; a study that is not running cannot be stopped."""
    process = driver(study(LONGER, pack_size=1), tmp_path)
    wait_for_shards(tmp_path, 1)
    assert status("s", str(tmp_path)).state == "running"
    request_stop("s", str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "continue with: sae-study resume s" in errors
    assert status("s", str(tmp_path)).state == "stopped"
    with pytest.raises(MisuseError, match="not running"):
        request_stop("s", str(tmp_path))
