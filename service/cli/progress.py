"""Progress of a running study, and what an interrupt of it says."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

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
    from study.on_ray.progress import progress_bar, so_far
    from study.terminal import is_terminal

    if not is_terminal(sys.stderr):
        said_at = -math.inf

        def say(progress: StudyProgress) -> None:
            nonlocal said_at
            if progress.done == progress.planned or time.monotonic() - said_at > LINE_SECONDS:
                said_at = time.monotonic()
                err.print(f"{name}: {progress.done}/{progress.planned} replicates, {so_far(progress)}")

        yield say
        return
    with progress_bar(name) as show:
        yield show
