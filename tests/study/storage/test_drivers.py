"""Who drives a study, and how its last run ended."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces.errors import MachineError, MisuseError
from study.storage import drivers
from study.storage.drivers import Driver, DriverRecord, StudyState, is_running
from study.storage.status import request_stop, status
from study.storage.study_folder import Storage, StudyFolder

SPEC = 'name: s\nprotocol: dissertation\nspace: {architectures: ["5-3-5"], sparsities: [0.5], l1: [0.01], seeds: "0:4"}\n'
UNKNOWN = {"boot": None, "pid_namespace": None, "process_started": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A declared study without rows; looks and beats are quick."""
    monkeypatch.setattr(drivers, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(drivers, "SILENT_HERE_SECONDS", 0.5)
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.05)
    folder = Storage.at(tmp_path).study("s")
    folder.write_text("study.yaml", SPEC)
    return folder


def write(folder: StudyFolder, **changes: Any) -> None:
    """driver.json of this process, with changes; one to `...` takes the field out."""
    content = dataclasses.asdict(Driver.here(forced=False)) | changes
    folder.write_text("driver.json", json.dumps({name: value for name, value in content.items() if value is not ...}))


def record(folder: StudyFolder, force: bool = False) -> DriverRecord:
    return DriverRecord(folder, force, on_stop=lambda: None)


def state(folder: StudyFolder) -> str:
    return status("s", folder.storage.given).state


@pytest.fixture
def zombie() -> Iterator[int]:
    """The pid of a process that has ended and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.01)
    yield process.pid
    process.wait()


def test_a_process_is_seen_by_boot_namespace_pid_and_start(folder: StudyFolder) -> None:
    """It lives, however old its last beat (it may be suspended); another process with its pid does not drive the study."""
    write(folder, beat_at=0)
    assert is_running(folder)
    write(folder, process_started=1)
    assert not is_running(folder)
    write(folder, host="renamed since")
    assert is_running(folder)


def test_a_zombie_drives_nothing(folder: StudyFolder, zombie: int) -> None:
    """Neither by a record of today nor by an old one that has a pid alone."""
    write(folder, pid=zombie)
    assert not is_running(folder)
    write(folder, pid=zombie, **UNKNOWN)
    assert not is_running(folder)
    assert state(folder) == "interrupted"


@pytest.mark.parametrize("elsewhere", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}, {"host": "another", **UNKNOWN}])
def test_a_process_that_cannot_be_seen_is_judged_by_its_beats(folder: StudyFolder, elsewhere: dict[str, Any]) -> None:
    """A container of the same name, a machine that was started again, another host: pids tell nothing there."""
    write(folder, **elsewhere)
    assert is_running(folder)
    for age in (61, 3600, 1e9, -7200, -1e9):
        write(folder, **elsewhere, beat_at=time.time() - age)
        assert not is_running(folder)


def test_a_container_that_starts_again_goes_on(folder: StudyFolder) -> None:
    """Its first driver died with it just now: `resume` waits for a beat in vain. `status` does not wait."""
    write(folder, pid_namespace="pid:[1]")
    assert is_running(folder)
    with record(folder):
        pass
    assert state(folder) == "stopped"


@pytest.mark.parametrize("off", [7200, -7200])
def test_a_clock_that_is_off_does_not_hide_a_driver(folder: StudyFolder, off: float) -> None:
    """A beat that follows while one looks is a sign of life, whatever time it tells."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            write(folder, host="elsewhere", **UNKNOWN, beat_at=time.time() + off)

    write(folder, host="elsewhere", **UNKNOWN, beat_at=time.time() + off)
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        assert is_running(folder)
        with pytest.raises(MisuseError, match="is being run by process"):
            record(folder).refuse_second()
    finally:
        ended.set()
        beating.join()
    assert not is_running(folder)


@pytest.mark.parametrize(
    "content", ["[]", "7", "null", '"running"', "{}", '{"state": "cut off"}', '{"state": "running", "pid": []}', '{"state": ', ""]
)
def test_a_file_that_is_no_such_record_is_none(folder: StudyFolder, content: str) -> None:
    """It neither hides the study nor keeps it from being run."""
    folder.write_text("driver.json", content)
    assert state(folder) == "waiting"
    with pytest.raises(MisuseError, match="not running"):
        request_stop("s", folder.storage.given)
    with record(folder):
        assert state(folder) == "running"


def test_a_record_of_an_earlier_version_is_read(folder: StudyFolder) -> None:
    """It names host and pid alone; a beat may be missing."""
    write(folder, **dict.fromkeys((*UNKNOWN, "forced", "errors"), ...))
    assert is_running(folder)
    write(folder, **dict.fromkeys((*UNKNOWN, "forced", "errors", "beat_at"), ...))
    assert not is_running(folder)
    write(folder, state="stopped", **dict.fromkeys((*UNKNOWN, "forced", "errors"), ...))
    assert state(folder) == "stopped"


def test_the_state_tells_how_the_last_run_ended(folder: StudyFolder) -> None:
    """No driver yet: waiting. Then: running, stopped, failed with its errors, interrupted if the driver died."""
    assert state(folder) == "waiting"
    with record(folder):
        assert state(folder) == "running"
    assert state(folder) == "stopped"
    with record(folder) as run:
        run.end(StudyState.FAILED, ("pack p of 4 replicates: ZeroDivisionError",))
    failed = status("s", folder.storage.given)
    assert (failed.state, failed.errors) == ("failed", ("pack p of 4 replicates: ZeroDivisionError",))
    write(folder, process_started=1)
    assert status("s", folder.storage.given).errors == ()
    assert state(folder) == "interrupted"


@pytest.mark.parametrize(
    ("error", "ended", "errors"),
    [
        (MachineError("the storage\nis full"), "failed", ("the storage is full",)),
        (AssertionError(), "failed", ("AssertionError()",)),
        (KeyboardInterrupt(), "stopped", ()),
        (MisuseError("no such cluster"), "stopped", ()),
    ],
)
def test_what_ends_a_run_is_recorded(folder: StudyFolder, error: BaseException, ended: str, errors: tuple[str, ...]) -> None:
    """A fault of the machine or of the program fails the study; Ctrl-C and misuse stop it."""
    with pytest.raises(type(error)), record(folder):
        raise error
    found = status("s", folder.storage.given)
    assert (found.state, found.errors) == (ended, errors)


def test_interrupting_from_another_thread_is_the_last_word(folder: StudyFolder) -> None:
    """What the main thread still does afterwards, and later beats, do not change the record."""
    with record(folder) as run:
        run.interrupt()
        run.end(StudyState.DONE)
        time.sleep(3 * drivers.BEAT_SECONDS)
        assert state(folder) == "stopped"
    assert state(folder) == "stopped"


def test_a_replaced_driver_stops_and_leaves_the_record_alone(folder: StudyFolder) -> None:
    """One that was suspended while another took the study over; one that runs beside it by force replaces nobody."""
    stopped = threading.Event()
    with DriverRecord(folder, False, stopped.set) as run:
        write(folder, host="elsewhere", forced=True)
        assert not stopped.wait(3 * drivers.BEAT_SECONDS)
        run.refuse_replaced()
        write(folder, host="elsewhere", token="of another")
        assert stopped.wait(5)
        with pytest.raises(MachineError, match=f"process {os.getpid()} on elsewhere took the study over"):
            run.refuse_replaced()
    there = Driver.of(folder)
    assert there is not None
    assert (there.token, there.state) == ("of another", "running")
