"""Runs studies in processes of their own: `sae-study resume NAME`, detached, so that it outlives what starts it.

`start` declares a study and starts its driver; the two halves, `declare` and `start_driver`, are there for services.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

import study
from search_spaces.errors import MachineError, MisuseError
from search_spaces.extensions import extensions
from search_spaces.study_files import StudySpec
from study.arguments import refuse_wrong_type
from study.declaration import declare, refuse_other_specification
from study.notebook import counts_html, map_html, paragraphs_html
from study.specification import study_spec
from study.storage.drivers import StudyState, is_running
from study.storage.status import Status, existing_study, request_stop, status
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder

LOG_FILE = "log"
LOOK_SECONDS = 0.5
"""Time between two looks at a study that another process started."""
ENDED_WELL = (0, 130, -signal.SIGTERM)
"""Exit codes of a driver that is done or was stopped; the last one where it had not begun to listen for signals."""
PROGRAM = "from search_spaces.extensions import import_extensions; import_extensions({}); from service.cli import main; main()"
"""The command, after the modules that register what the study may name."""


def start(
    space: str | Path | StudySpec | Mapping[str, Any],
    *,
    name: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    seeds: str | None = None,
    pack_size: int | str | None = None,
    search: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    storage: str | Path = DEFAULT_STORAGE,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
) -> Running:
    """Start a study in a process of its own and return at once. The study goes on when this process, or its kernel, ends.

    The arguments are those of `launch`, which runs a study to its end in this process. A study that is running already, with the
    same specification, is not started again: what is returned watches it. Raises MisuseError if the study cannot be declared;
    what goes wrong in the new process is told by `Running.wait` and `Running.status`.
    """
    if isinstance(space, Mapping) and "space" not in space:
        from study.on_ray.domains import study_from_domains

        space = study_from_domains(space, num_samples)
    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=pack_size, search=search
    )
    place = Storage.at(storage)
    folder = place.study(spec.name)
    ours = _started.get(folder.place())
    starting = ours is not None and ours.waiter.is_alive()
    if folder.exists() and not force and (starting or is_running(folder)):
        refuse_other_specification(folder, spec)
        return Running(folder, ours if starting else None)
    declare(spec, place)
    return start_driver(spec.name, storage, pack_size=pack_size, address=address, workers=workers, force=force)


def start_driver(
    name: str,
    storage: str | Path = DEFAULT_STORAGE,
    *,
    pack_size: int | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
) -> Running:
    """Start a driver of its own for a declared study. Arguments as of `resume`."""
    refuse_wrong_type("address", address, str, NoneType)
    refuse_wrong_type("workers", workers, Integral, NoneType)
    refuse_wrong_type("force", force, bool)
    folder = existing_study(name, storage)
    given = {"address": address, "workers": workers, "pack-size": pack_size}
    options = [f"--{option}={value}" for option, value in given.items() if value is not None] + ["--force"] * bool(force)
    driver = _started[folder.place()] = _Driver(folder, options)
    return Running(folder, driver)


class _Driver:
    """A detached process that runs `sae-study resume`. A thread waits for its end, so that it leaves no zombie."""

    def __init__(self, folder: StudyFolder, options: list[str]) -> None:
        modules = extensions()
        command = [sys.executable, "-P", "-c", PROGRAM.format(modules), "resume", folder.name, *options]
        self.log = _log_of(folder)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--storage={folder.storage.place()}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_path(modules))},
                start_new_session=True,
            )
        self.waiter = threading.Thread(target=self.process.wait, daemon=True, name=f"driver-of-{folder.name}")
        self.waiter.start()

    def complaint(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("error: ") if said else f"the driver ended with exit code {self.process.returncode}"


_started: dict[str, _Driver] = {}
"""The last driver that this process started, by its study's place. It takes seconds until others see that it runs."""


def _log_of(folder: StudyFolder) -> Path:
    """Where the driver's messages go: the study's folder, or a temporary file where that is no folder of this machine."""
    if folder.storage.is_local:
        return Path(folder.path, LOG_FILE)
    number, file = tempfile.mkstemp(prefix=f"sae-study-{folder.name}-", suffix=".log")
    os.close(number)
    return Path(file)


def _path(modules: list[str]) -> list[str]:
    """The new process's path: our packages as imported here, then PYTHONPATH, or `sys.path` where modules are to be found."""
    ours = str(Path(study.__path__[0]).parent)
    theirs = sys.path if modules else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys([ours, *(os.path.abspath(entry) for entry in theirs if entry or modules)]))


class Running:
    """A study that runs in a process of its own, and how far it is."""

    def __init__(self, folder: StudyFolder, driver: _Driver | None = None) -> None:
        self._folder, self._driver = folder, driver
        self.name = folder.name
        self.storage = folder.storage.place()

    @property
    def log(self) -> str | None:
        """The file that holds the messages of the driver; None if another process started it."""
        return None if self._driver is None else str(self._driver.log)

    def status(self) -> Status:
        """How far the study is. Raises what the driver could not start for."""
        now = status(self.name, self.storage)
        driver = self._driver
        code = None if driver is None else driver.process.poll()
        if driver is None or code is None or code in ENDED_WELL:
            return now
        if code == 2:
            raise MisuseError(driver.complaint())
        if now.state == StudyState.WAITING or (code == 1 and now.state == StudyState.INTERRUPTED):
            raise MachineError(driver.complaint())
        return now

    def wait(self, timeout: float | None = None) -> Status:
        """Wait for the end of the driver and return how far the study is. Raises TimeoutError after so many seconds."""
        if self._driver is not None:
            self._driver.waiter.join(timeout)
            ended = not self._driver.waiter.is_alive()
        else:
            ended = self._not_running(timeout)
        if not ended:
            raise TimeoutError(f"study {self.name!r} is still running after {timeout:g} s.")
        return self.status()

    def _not_running(self, timeout: float | None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        while is_running(self._folder):
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def stop(self) -> None:
        """Ask the driver to stop; finished replicates are kept. `wait` returns when it has. MisuseError if none is running."""
        if self._driver is not None and self._driver.process.poll() is None and not is_running(self._folder):
            self._driver.process.terminate()  # it has not begun yet
        else:
            request_stop(self.name, self.storage)

    def frame(self) -> Any:
        """The tidy frame of the rows so far, as `analysis.load` returns it."""
        return import_module("analysis").load(self.name, self.storage)  # by name: `analysis` imports `study`, not the reverse

    def __repr__(self) -> str:
        return f"<Running {self.name}, storage {self.storage}>"

    def _repr_html_(self) -> str:
        try:
            now = self.status()
        except (MisuseError, MachineError) as error:
            return paragraphs_html(f"Study {self.name}: {error}")
        rows = self._folder.read_shards(["replicate_id", "architecture", "sparsity", "l1", "failure"]).rows.to_pydict()
        counts = {"none": rows["failure"].count("none"), **now.failures}
        head = f"Study {now.name}: {now.state}, {now.done} of {now.planned} replicates, rows in {now.path}"
        return paragraphs_html(head, *now.errors) + counts_html(counts) + map_html(rows)
