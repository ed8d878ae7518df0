"""How far a study has come, and how to stop it: all from files in the study's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass

from search_spaces.errors import MisuseError
from search_spaces.paths import Given, shown, study_name
from search_spaces.study_files import StudySpec, stored_study
from study.storage.drivers import STOP_FILE, Driver, StudyState, is_running
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder
from study.storage.tallies import tallies_of


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
    """Pack ids of shards that are corrupt in what `status` reads, cells and verdicts; `resume` trains their replicates again."""
    path: str
    errors: tuple[str, ...] = ()
    """Why the last run failed."""


def status(name: str, storage: Given = DEFAULT_STORAGE) -> Status:
    """The status of a study. Raises MisuseError if there is none of that name."""
    folder = existing_study(name, storage)
    driver = Driver.of(folder)
    spec = read_spec(folder)
    counts = tallies_of(folder).update(spec)
    if spec.search is None:
        planned = spec.space.size
    else:
        ended = driver is not None and driver.state == StudyState.DONE
        planned = counts.done if ended else max(counts.done, spec.search_budget)
    failures = {kind: count for kind, count in counts.failures.items() if kind != "none"}
    state = _state(folder, driver, counts.done, planned)
    errors = driver.errors if driver and state == StudyState.FAILED else ()
    return Status(name, state, planned, counts.done, failures, counts.unreadable, folder.place(), errors)


def _state(folder: StudyFolder, driver: Driver | None, done: int, planned: int) -> StudyState:
    if is_running(folder):
        return StudyState.RUNNING
    if done >= planned:
        return StudyState.DONE
    if driver is None and not done:
        return StudyState.WAITING
    if driver and driver.state in (StudyState.STOPPED, StudyState.FAILED):
        return driver.state
    return StudyState.INTERRUPTED


def existing_study(name: str, storage: Given) -> StudyFolder:
    """The folder of an existing study. Raises MisuseError, which lists the existing ones, if there is none of that name."""
    place = Storage.at(storage)
    folder = place.study(study_name(name))
    if not folder.exists():
        there = place.studies()
        known = f"Studies there: {', '.join(there)}." if there else "No study is there."
        raise MisuseError(
            f"study={name!r} is not in storage {shown(place.given)}. {known} Name one of them, or give another --storage."
        )
    return folder


def read_spec(folder: StudyFolder) -> StudySpec:
    """The specification that a study was launched with."""
    text = folder.read_text("study.yaml")
    if text is None:
        raise MisuseError(f"{folder.place('study.yaml')} is missing. A study cannot be read without it.")
    return stored_study(text, folder.place("study.yaml"))


def request_stop(name: str, storage: Given = DEFAULT_STORAGE) -> None:
    """Ask the driver of a running study to stop. Raises MisuseError if none is running."""
    folder = existing_study(name, storage)
    driver = Driver.of(folder)
    if driver is None or not is_running(folder):
        raise MisuseError(f"study={name!r} is not running: nothing to stop. `{folder.command('status')}` shows how far it is.")
    folder.write_text(STOP_FILE, json.dumps({"token": driver.token}))
