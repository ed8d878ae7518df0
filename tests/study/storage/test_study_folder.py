"""A study's folder on a storage that refuses, and what is swept from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import study.storage.drivers as drivers
import study.storage.study_folder as study_folder
from analysis import load, tune_frame, write_report
from search_spaces import MachineError, MisuseError
from study.packs import missing_packs
from study.replicate import replicate_again
from study.storage.drivers import DriverRecord
from study.storage.status import existing_study, request_stop, status
from study.storage.study_folder import Storage, StudyFolder
from study.verdict_rows import crashed_rows
from tests.study.on_ray.test_driver import study as tiny_study


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study that was begun."""
    made = Storage.at(tmp_path).study("s")
    made.write_text("study.yaml", "name: s")
    return made


def refusing(monkeypatch: pytest.MonkeyPatch, times: int = 10**6) -> list[Path]:
    """From now on this many files cannot be written beside their place, as on a full disk; returns those that were tried."""
    tried: list[Path] = []
    whole = study_folder.write_whole

    def refuse(path: Path, write: object) -> None:
        tried.append(path)
        if len(tried) <= times:
            raise OSError(28, "No space left on device")
        whole(path, write)  # type: ignore[arg-type]

    monkeypatch.setattr(study_folder, "write_whole", refuse)
    return tried


def test_shard_is_written_again_before_the_storage_is_blamed(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that fails for a moment costs no training."""
    monkeypatch.setattr(study_folder, "WRITE_AGAIN_AFTER", (0.0, 0.0))
    pack = missing_packs(tiny_study(), ())[0][0]
    rows = crashed_rows(pack, study="s")
    assert len(refusing(monkeypatch, times=2)) == 0
    folder.write_shard(pack.pack_id, rows)
    assert folder.shard_ids() == [pack.pack_id]
    refusing(monkeypatch)
    with pytest.raises(MachineError, match=r"cannot be written \(No space left on device\)"):
        folder.write_shard(pack.pack_id, rows)


def test_driver_on_a_full_disk_gives_up_and_records_why(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some beats; the record, written over the old one, says that the study failed."""
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.01)
    stopped = drivers.threading.Event()
    record = DriverRecord(folder, False, stopped.set)
    with record:
        refusing(monkeypatch)
        assert stopped.wait(10)
        record.end(drivers.StudyState.FAILED, (str(record.fault),))
    there = folder.read_json("driver.json")
    assert there is not None
    assert there["state"] == "failed"
    assert "No space left on device" in there["errors"][0]


def test_driver_sees_that_its_study_is_gone(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It writes nothing in its place, and removes what Tune has written there since."""
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.01)
    stopped = drivers.threading.Event()
    with DriverRecord(folder, False, stopped.set) as record:
        drivers.time.sleep(0.2)
        (tmp_path / "s").rename(tmp_path / "other")
        assert stopped.wait(10)
        (tmp_path / "s" / "tune" / "run").mkdir(parents=True)
        (tmp_path / "s" / "tune" / "run" / "state.json").write_text("")
        folder.discard_if_gone("run")
    assert "is gone" in str(record.fault)
    assert os.listdir(tmp_path) == ["other"]
    Storage.at(tmp_path).study("other").discard_if_gone("run")
    assert (tmp_path / "other" / "study.yaml").is_file()


def test_parts_are_swept_by_a_driver_that_is_alone(folder: StudyFolder, tmp_path: Path) -> None:
    """One that was forced beside another leaves young ones; so does anyone in report/, where no driver writes."""
    parts = [tmp_path / "s" / name for name in ("driver.json.1.part", "rows/a.parquet.1.part", "report/index.html.1.part")]
    for part in parts:
        part.parent.mkdir(exist_ok=True)
        part.write_text("half")
    with DriverRecord(folder, True, lambda: None):
        assert all(part.exists() for part in parts)
    with DriverRecord(folder, False, lambda: None):
        assert [part.exists() for part in parts] == [False, False, True]
    os.utime(parts[2], (0, 0))
    with DriverRecord(folder, True, lambda: None):
        assert not parts[2].exists()


def test_rows_that_may_not_be_read_are_not_corrupt(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not set aside and trained again."""
    pack = missing_packs(tiny_study(), ())[0][0]
    folder.write_shard(pack.pack_id, crashed_rows(pack, study="s"))

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(StudyFolder, "read_whole_shard", forbidden)
    with pytest.raises(MachineError, match="Permission denied"):
        folder.read_shards()


@pytest.mark.parametrize("place", ["file", "file/below", "broken", "circle", "x" * 300, "x/" * 2500])
def test_storage_that_cannot_be_a_folder_is_refused(tmp_path: Path, place: str) -> None:
    """Whatever is done with it, and before anything is written."""
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to(tmp_path / "absent")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(MisuseError, match="is no folder"):
        Storage.at(tmp_path / place)


def test_file_with_the_name_of_a_study_is_refused(tmp_path: Path) -> None:
    """By a line that says which."""
    (tmp_path / "s").write_text("")
    with pytest.raises(MisuseError, match="s is a file, and a study is a folder"):
        Storage.at(tmp_path).study("s").listing()


def test_uris_of_files_are_paths(tmp_path: Path) -> None:
    """In any spelling; others need a bucket and a scheme that is known."""
    for uri in (f"file://{tmp_path}", f"FILE://{tmp_path}", f"file:{tmp_path}/"):
        storage = Storage.at(uri)
        assert (storage.root, storage.is_local, storage.place("s")) == (str(tmp_path), True, f"{tmp_path}/s")
    for uri in ("s3://", "s3:///x", "gopher://x", "http://[", "s3://buck et/x"):
        with pytest.raises(MisuseError, match=r"storage=.*(cannot be opened|no bucket)"):
            Storage.at(uri)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "s\0", "x" * 121, "", None])
def test_no_function_takes_another_name_for_a_study(folder: StudyFolder, tmp_path: Path, name: str) -> None:
    """Not even one that leads to a study."""
    for function in (existing_study, status, request_stop, load, tune_frame, write_report):
        with pytest.raises(MisuseError, match=r"name=|study="):
            function(name, storage=str(tmp_path / "s"))
    with pytest.raises(MisuseError, match="name="):
        replicate_again(name, "abc", str(tmp_path))


def test_study_is_loaded_by_any_path_to_its_folder(folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, with `..` or a slash at its end, as a file URI, from within, from a home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "s")
    for path in (".", "../s/", "./", tmp_path / "s", "~/s", f"file://{tmp_path}/s"):
        assert load(path).attrs["path"] == str(tmp_path / "s")
