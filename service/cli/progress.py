"""Progress of a running study, and the message after Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import typer

from service.cli.printing import err

if TYPE_CHECKING:
    from study.on_ray.watch import Progress as StudyProgress
    from study.storage.study_folder import StudyFolder

LINE_SECONDS = 10.0
"""Shortest time between two lines of progress, where no terminal shows a bar."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


@contextlib.contextmanager
def progress(quiet: bool, folder: StudyFolder) -> Iterator[Callable[[StudyProgress], None] | None]:
    """Show progress on standard error: replicates, rate, time left, failures so far. After Ctrl-C, say how to continue."""
    from study.on_ray import session

    def leave() -> NoReturn:
        _say_interrupted(folder)
        os._exit(INTERRUPTED)

    session.leave_at_once = leave
    try:
        # Ray may print to standard output at any time; our own output follows afterwards.
        with (
            contextlib.redirect_stdout(sys.stderr),
            contextlib.nullcontext() if quiet else _progress_bar(folder.name) as on_progress,
        ):
            yield on_progress
    except KeyboardInterrupt:
        _say_interrupted(folder)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        session.leave_at_once = None


def _say_interrupted(folder: StudyFolder) -> None:
    if folder.exists():
        err.print(f"interrupted: finished replicates are kept; continue with: {folder.command('resume')}")
    else:
        err.print("interrupted: nothing was started")


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[StudyProgress], None]]:
    from study.on_ray.progress import is_terminal, progress_bar, so_far

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
