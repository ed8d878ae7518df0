"""Progress of a running study, and what an interrupt of it says."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from service.cli import interrupts
from service.cli.printing import err

if TYPE_CHECKING:
    from study.on_ray.watch import Progress as StudyProgress
    from study.storage.study_folder import StudyFolder

LINE_SECONDS = 10.0
"""Shortest time between two lines of progress, where no terminal shows a bar."""


@contextlib.contextmanager
def progress(quiet: bool, folder: StudyFolder) -> Iterator[Callable[[StudyProgress], None] | None]:
    """Show progress on standard error: replicates, rate, time left, failures so far. An interrupt says how to continue."""
    from study.on_ray.signals import end_runs

    def leave() -> str:
        end_runs()
        if folder.exists():
            return f"interrupted: finished replicates are kept; continue with: {folder.command('resume')}"
        return "interrupted: nothing was started"

    interrupts.leave = leave
    # Ray may print to standard output at any time; our own output follows afterwards.
    with (
        contextlib.redirect_stdout(sys.stderr),
        contextlib.nullcontext() if quiet else _progress_bar(folder.name) as on_progress,
    ):
        yield on_progress


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[StudyProgress], None]]:
    if not err.is_terminal:
        said_at = -math.inf

        def say(progress: StudyProgress) -> None:
            nonlocal said_at
            if progress.done == progress.planned or time.monotonic() - said_at > LINE_SECONDS:
                said_at = time.monotonic()
                err.print(f"{name}: {progress.done}/{progress.planned} replicates, {_so_far(progress)}")

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.completed}/{task.total} {task.fields[so_far]}"))
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(name, total=None, so_far="starting Ray")
        yield lambda progress: bar.update(task, total=progress.planned, completed=progress.done, so_far=_so_far(progress))


def _so_far(progress: StudyProgress) -> str:
    left = f", {duration(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""
    failures = ", ".join(f"{kind} {count}" for kind, count in progress.failures.items())
    learned = "".join(f"; {name.replace('_', ' ')} {value:.3g}" for name, value in progress.learned.items() if name != "replicates")
    return f"{progress.rate:.1f}/s{left}; failures: {failures or 'none'}{learned}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
