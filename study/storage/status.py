"""Which driver runs a study, how far the study has come, and how to stop it: all from files in the study's folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from search_spaces.errors import MisuseError
from search_spaces.study_files import StudySpec, stored_study
from study.packs import missing_packs
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""A driver silent for this long is presumed dead."""


class StudyState(StrEnum):
    """What a study is doing, or how its last run ended."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """By a user or an error; rows are missing."""
    FAILED = "failed"
    """A pack raised an exception."""
    CUT_OFF = "cut off"
    """Its driver died."""


@dataclass(frozen=True)
class Status:
    """How far a study has come."""

    name: str
    state: StudyState
    planned: int
    """Replicates of the specification; for a search that is not done, the most that it trains."""
    done: int
    """Replicates whose rows are stored."""
    failures: dict[str, int]
    """Rows by FailureKind, `none` left out."""
    unreadable_shards: tuple[str, ...]
    """Pack ids of corrupt shards; `resume` trains their replicates again."""
    path: str


def status(name: str, storage: str = DEFAULT_STORAGE) -> Status:
    """The status of a study. Raises MisuseError if there is none of that name."""
    folder = existing_study(name, storage)
    shards = folder.read_shards(["replicate_id", "failure"])
    driver = folder.read_json(DRIVER_FILE)
    spec = read_spec(folder)
    if spec.search is None:
        missing, done = missing_packs(spec, shards.rows["replicate_id"].to_pylist())
        planned = done + sum(map(len, missing))
    else:
        done = len(shards.rows)
        ended = driver is not None and driver.get("state") == StudyState.DONE
        planned = done if ended else max(done, spec.search_budget)
    failures = Counter(shards.rows["failure"].to_pylist())
    failures.pop("none", None)
    if is_running(driver):
        state = StudyState.RUNNING
    elif done >= planned:
        state = StudyState.DONE
    else:
        state = StudyState.STOPPED if driver and driver.get("state") == StudyState.STOPPED else StudyState.CUT_OFF
    return Status(name, state, planned, done, dict(failures), shards.unreadable, folder.place())


def existing_study(name: str, storage: str) -> StudyFolder:
    """The folder of an existing study. Raises MisuseError, which lists the existing ones, if there is none of that name."""
    place = Storage.at(storage)
    folder = place.study(name)
    if "/" in name or not folder.exists():
        there = place.studies()
        known = f"Studies there: {', '.join(there)}." if there else "No study is there."
        raise MisuseError(f"study={name!r} is not in storage {storage!r}. {known} Name one of them, or give another --storage.")
    return folder


def read_spec(folder: StudyFolder) -> StudySpec:
    """The specification that a study was launched with."""
    text = folder.read_text("study.yaml")
    if text is None:
        raise MisuseError(f"{folder.place('study.yaml')} is missing. A study cannot be read without it.")
    return stored_study(text, folder.place("study.yaml"))


DRIVER_FILE = "driver.json"
STOP_FILE = "stop.json"


def is_running(driver: dict[str, Any] | None) -> bool:
    """Whether the driver that wrote this record is running: its last beat is recent and, on this host, its process is alive."""
    if driver is None or driver.get("state") != StudyState.RUNNING or time.time() - driver["beat_at"] > SILENT_SECONDS:
        return False
    return driver["host"] != socket.gethostname() or _alive(driver["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def request_stop(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Ask the driver of a running study to stop. Raises MisuseError if none is running."""
    folder = existing_study(name, storage)
    driver = folder.read_json(DRIVER_FILE)
    if not is_running(driver):
        raise MisuseError(f"study={name!r} is not running: nothing to stop. `{folder.command('status')}` shows how far it is.")
    assert driver is not None
    folder.write_text(STOP_FILE, json.dumps({"token": driver["token"]}))


@dataclass
class _Record:
    token: str
    host: str
    pid: int
    state: StudyState
    started_at: float
    beat_at: float


class DriverRecord:
    """driver.json: says that a study has a driver. A second driver is refused while the first one updates its record.

    This is not a strict lock: two drivers that pass it at the same moment do double work but no harm, because shards are
    named by their content. Use it as a context: on entry it claims the study and starts to update the record every
    BEAT_SECONDS, on exit it records `done` or `stopped`.
    """

    def __init__(self, folder: StudyFolder, force: bool, on_stop: Callable[[], None]) -> None:
        self._folder, self._force, self._on_stop = folder, force, on_stop
        now = time.time()
        self._record = _Record(uuid.uuid4().hex, socket.gethostname(), os.getpid(), StudyState.RUNNING, now, now)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="driver-record")

    def __enter__(self) -> DriverRecord:
        self.refuse_second()
        self._write()
        if not self._force:
            time.sleep(0.1)  # a driver that claimed the study at the same moment has overwritten our record, or we its record
            self.refuse_second()
        self._thread.start()
        return self

    def refuse_second(self) -> None:
        """Raise MisuseError if another driver is at work and force was not given."""
        other = self._folder.read_json(DRIVER_FILE)
        if not self._force and other and other["token"] != self._record.token and is_running(other):
            raise MisuseError(
                f"study={self._folder.name!r} is being run by process {other['pid']} on {other['host']}. Wait for it, "
                f"stop it with `{self._folder.command('stop')}`, or add --force to run beside it."
            )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._record.beat_at = time.time()
            with contextlib.suppress(MisuseError, OSError):  # a storage that fails for a moment costs a beat, not the study
                self._write()
                request = self._folder.read_json(STOP_FILE)
                if request and request.get("token") == self._record.token:
                    self._on_stop()

    def _write(self) -> None:
        self._folder.write_text(DRIVER_FILE, json.dumps(asdict(self._record)))

    def end(self, state: StudyState) -> None:
        """Record how the run ended: `done` or `stopped`."""
        self._record.state = state

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._record.state == StudyState.RUNNING:
            self._record.state = StudyState.STOPPED
        current = self._folder.read_json(DRIVER_FILE)
        if current is not None and current["token"] != self._record.token:
            return  # another driver has taken over
        self._folder.delete(STOP_FILE)
        if self._folder.exists():
            self._write()
        else:
            self._folder.delete(DRIVER_FILE)  # no study was begun: leave nothing behind
