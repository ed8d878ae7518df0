"""Who drives a study: driver.json, in which the driver says that it lives, and stop.json, in which it is asked to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from search_spaces.errors import MachineError, MisuseError
from study.storage.study_folder import StudyFolder

DRIVER_FILE = "driver.json"
STOP_FILE = "stop.json"

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""A driver that cannot be seen from here and has been silent for this long is presumed dead."""
SILENT_HERE_SECONDS = 15.0
"""The same for a driver in another container of this machine, which shares our clock and our load."""
LOOK_SECONDS = 2.5 * BEAT_SECONDS
"""How long it takes to see whether a driver whose clock differs from ours still beats."""
CLOCKS_DIFFER_SECONDS = 86_400.0
"""Clocks that differ by more than this are not reckoned with: a beat that old is no sign of life."""
MOST_ERRORS_KEPT = 20
MOST_CHARACTERS = 1_000
"""Of the one error that is kept where the storage is full."""
MOST_REFUSED_BEATS = 3
"""A storage that refuses so many beats one after another does not fail for a moment alone."""


class StudyState(StrEnum):
    """What a study is doing, or how its last run ended."""

    WAITING = "waiting"
    """It is declared; no driver has begun it."""
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """By a user; rows are missing."""
    FAILED = "failed"
    """By errors, which are stored; rows are missing."""
    INTERRUPTED = "interrupted"
    """Its driver died; rows are missing."""


@dataclass(frozen=True)
class Driver:
    """A process that runs a study, or the last one that did, as driver.json describes it."""

    token: str
    host: str
    pid: int
    state: StudyState
    started_at: float
    beat_at: float
    """When it last wrote that it is alive, by its own clock."""
    boot: str | None = None
    """Which start of which machine it belongs to; None if unknown, as in all below."""
    pid_namespace: str | None = None
    """Which numbering of processes its pid belongs to: containers have their own."""
    process_started: int | None = None
    """Clock ticks from the boot to its start. A later process with the same pid has another number."""
    forced: bool = False
    """Whether it runs beside another driver because a user wanted it to."""
    errors: tuple[str, ...] = ()
    """Why the study failed."""

    @classmethod
    def here(cls, forced: bool) -> Driver:
        """This process, as the driver of a study."""
        now, pid = time.time(), os.getpid()
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=pid,
            state=StudyState.RUNNING,
            started_at=now,
            beat_at=now,
            boot=_boot(),
            pid_namespace=_pid_namespace(),
            process_started=_started(pid),
            forced=forced,
        )

    @classmethod
    def of(cls, folder: StudyFolder) -> Driver | None:
        """The last driver of the study; None if there was none, or if its file holds something else. Fields may be missing."""
        content: object = folder.read_json(DRIVER_FILE)
        if not isinstance(content, dict):
            return None
        try:
            return cls(
                token=str(content.get("token", "")),
                host=str(content.get("host", "")),
                pid=int(content.get("pid", 0)),
                state=StudyState(content["state"]),
                started_at=float(content.get("started_at", 0)),
                beat_at=float(content.get("beat_at", 0)),
                boot=content.get("boot"),
                pid_namespace=content.get("pid_namespace"),
                process_started=content.get("process_started"),
                forced=content.get("forced") is True,
                errors=tuple(map(str, content.get("errors", ()))),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def lives(self) -> bool | None:
        """Whether its process lives; None if that cannot be seen from here."""
        if self.boot is not None and (self.boot, self.pid_namespace) == (_boot(), _pid_namespace()):
            return self.process_started is not None and _started(self.pid) == self.process_started
        if self.host == socket.gethostname() and None in (self.boot, _boot()) and not _exists(self.pid):
            return False
        return None


def is_running(folder: StudyFolder, claiming: bool = False) -> bool:
    """Whether the study has a driver at work. Where its process cannot be seen, its beats decide: the last one is recent or, since
    clocks differ, another one follows within LOOK_SECONDS.

    claiming: wait for the next beat of a driver in another container of this machine. It may have been killed with its container
    just now, and this be the container's next start.
    """
    driver = Driver.of(folder)
    if driver is None or driver.state != StudyState.RUNNING:
        return False
    lives = driver.lives()
    if lives is not None:
        return lives
    near = driver.boot is not None and driver.boot == _boot()
    limit = SILENT_HERE_SECONDS if near else SILENT_SECONDS
    age = time.time() - driver.beat_at
    if 0 <= age <= limit:
        return not (claiming and near) or _beats(folder, driver, limit - age)
    return abs(age) < CLOCKS_DIFFER_SECONDS and _beats(folder, driver, LOOK_SECONDS)


def _beats(folder: StudyFolder, driver: Driver, seconds: float) -> bool:
    """Whether the study's driver gives a sign of life within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.2, seconds))
        later = Driver.of(folder)
        if later is None or later.state != StudyState.RUNNING:
            return False
        if (later.token, later.beat_at) != (driver.token, driver.beat_at):
            return True
    return False


@cache
def _boot() -> str | None:
    """The id of this machine's last start; None where the system has none to tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


@cache
def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot (proc(5), field 22 of stat); None if it does not run or is a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _exists(pid: int) -> bool:
    """Whether a process has this pid; a zombie has not where /proc tells."""
    if _boot() is not None:
        return _started(pid) is not None
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class DriverRecord:
    """driver.json: says that a study has a driver. A second driver is refused while the first one is at work.

    This is not a strict lock: two drivers that pass it at the same moment do double work but no harm, because shards are
    named by their content. Use it as a context: on entry it claims the study and starts to update the record every
    BEAT_SECONDS, on exit it records how the run ended. A driver that was suspended, and replaced meanwhile, stops.
    """

    def __init__(self, folder: StudyFolder, force: bool, on_stop: Callable[[], None]) -> None:
        self._folder, self._force, self._on_stop = folder, force, on_stop
        self._driver = Driver.here(force)
        self._successor: Driver | None = None
        self._begun = False
        self.fault: MachineError | None = None
        """Why the storage cannot hold the study any more, if it cannot: the run is stopped."""
        self._open = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="driver-record")

    def __enter__(self) -> DriverRecord:
        self.refuse_second()
        for part in ("", "rows") if "rows" in self._folder.listing() else ("",):
            self._folder.refuse_unwritable(part)
        self._folder.sweep(alone=not self._force)
        with self._lock:
            self._open = True
            self._write()
        if not self._force:
            time.sleep(0.1)  # a driver that claimed the study at the same moment has overwritten our record, or we its record
            self.refuse_second()
        self._thread.start()
        return self

    def refuse_second(self) -> None:
        """Raise MisuseError if another driver is at work and force was not given."""
        other = Driver.of(self._folder)
        if not self._force and other and other.token != self._driver.token and is_running(self._folder, claiming=True):
            raise MisuseError(
                f"study={self._folder.name!r} is being run by process {other.pid} on {other.host}. Wait for it, "
                f"stop it with `{self._folder.command('stop')}`, or add --force to run beside it."
            )

    def refuse_replaced(self) -> None:
        """Raise MachineError if this driver was silent for so long that another one took the study over."""
        if self._successor:
            raise MachineError(
                f"this driver of study={self._folder.name!r} was suspended for so long that process {self._successor.pid} on "
                f"{self._successor.host} took the study over. `{self._folder.command('status')}` shows how far that one is."
            )

    def _beat(self) -> None:
        refused = 0
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._beat_once()
                refused = 0
            except MachineError as error:  # a storage that fails for a moment costs a beat alone
                refused += 1
                self.fault = error if refused >= MOST_REFUSED_BEATS else None
            if self._successor or self.fault:
                self._on_stop()
                return

    def _beat_once(self) -> None:
        if self._replaced():
            return
        if self._begun:
            self._folder.refuse_gone()
        self._begun = self._begun or self._folder.exists()
        with self._lock:
            if self._open:
                self._driver = dataclasses.replace(self._driver, beat_at=time.time())
                self._write()
        request = self._folder.read_json(STOP_FILE)
        if request and request.get("token") == self._driver.token:
            self._on_stop()

    def _replaced(self) -> bool:
        """Whether another driver has taken the study over, and not merely been forced to run beside this one."""
        other = Driver.of(self._folder)
        if not self._force and other and other.token != self._driver.token and not other.forced:
            self._successor = other
        return self._successor is not None

    def _write(self) -> None:
        try:
            self._folder.write_text(DRIVER_FILE, json.dumps(asdict(self._driver)))
        except MachineError:  # no room for a second file: a short record fits into the block of the old one
            short = dataclasses.replace(self._driver, errors=tuple(error[:MOST_CHARACTERS] for error in self._driver.errors[:1]))
            with contextlib.suppress(MachineError):
                self._folder.write_over(DRIVER_FILE, json.dumps(asdict(short)))
            raise

    def end(self, state: StudyState, errors: tuple[str, ...] = ()) -> None:
        """Say how the run ended; it is recorded on exit. Unless this is called, the run was stopped."""
        with self._lock:
            self._driver = dataclasses.replace(self._driver, state=state, errors=errors[:MOST_ERRORS_KEPT])

    def interrupt(self) -> None:
        """Record from another thread that the run was stopped, if it is still on."""
        with self._lock:
            if self._open:
                self._close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if isinstance(error, Exception) and not isinstance(error, MisuseError):
            self.end(StudyState.FAILED, (" ".join(str(error).split()) or repr(error),))
        with self._lock:
            if self._open:
                self._close()

    def _close(self) -> None:
        self._open = False
        if self._driver.state == StudyState.RUNNING:
            self._driver = dataclasses.replace(self._driver, state=StudyState.STOPPED)
        with contextlib.suppress(MisuseError, MachineError, OSError):  # a storage that fails now must not hide the outcome
            current = Driver.of(self._folder)
            if current is not None and current.token != self._driver.token:
                return  # another driver has taken over
            self._folder.delete(STOP_FILE)
            if self._folder.exists():
                self._write()
            else:
                self._folder.delete(DRIVER_FILE)  # no study was begun: leave nothing behind
