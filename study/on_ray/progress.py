"""Shows how far a running study is: a bar in a terminal, or an element in a notebook."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from study.terminal import ROWS, columns_of, is_terminal

if TYPE_CHECKING:
    from study.on_ray.watch import Progress

STARTING = "starting Ray"
WIDE = 60
"""Columns of a terminal that has room for a bar beside the figures."""


@contextlib.contextmanager
def progress_shown(name: str) -> Iterator[Callable[[Progress], None] | None]:
    """A function that shows the progress of the study of this name; None where neither a notebook nor a terminal would show it."""
    if _in_notebook():
        yield _notebook_element(name)
    elif is_terminal(sys.stderr):
        with progress_bar(name) as show:
            yield show
    else:
        yield None


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error, which is a terminal."""
    console = Console(stderr=True, force_terminal=True, emoji=False, width=columns_of(sys.stderr), height=ROWS)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column()),
        *([BarColumn(20)] if console.width >= WIDE else []),
        TextColumn("{task.completed}/{task.total} {task.fields[so_far]}", markup=False, table_column=Column()),  # wrapped, not cut
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, so_far=STARTING)
        yield lambda progress: bar.update(task, total=progress.planned, completed=progress.done, so_far=so_far(progress))


def so_far(progress: Progress) -> str:
    """Rate, time left and failures, in one line."""
    left = f", {duration(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""
    failures = ", ".join(f"{kind} {count}" for kind, count in progress.failures.items())
    learned = "".join(f"; {name.replace('_', ' ')} {value:.3g}" for name, value in progress.learned.items() if name != "replicates")
    return f"{progress.rate:.1f}/s{left}; failures: {failures or 'none'}{learned}"


def duration(seconds: float) -> str:
    """Seconds in their two largest units: "1 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython in a terminal is not."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _notebook_element(name: str) -> Callable[[Progress], None]:
    """An element below the cell that runs. (The bars of rich would need ipywidgets.)"""
    display: Any = sys.modules["IPython"].display.display
    shown = display(_Element(name), display_id=True)
    return lambda progress: shown.update(_Element(name, progress))


class _Element:
    """Progress as a notebook draws it."""

    def __init__(self, name: str, progress: Progress | None = None) -> None:
        self._name, self._progress = name, progress

    def __repr__(self) -> str:
        if self._progress is None:
            return f"{self._name}: {STARTING}"
        return f"{self._name}: {self._progress.done}/{self._progress.planned} {so_far(self._progress)}"

    def _repr_html_(self) -> str:
        share = "" if self._progress is None else f' value="{self._progress.done}" max="{self._progress.planned}"'
        return f"<progress{share}></progress> {escape(repr(self))}"
