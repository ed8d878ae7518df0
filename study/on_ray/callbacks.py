"""Functions and callbacks of users, called while Tune runs. One that raises must not cost a study its packs in flight."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from ray import tune

from search_spaces.errors import MisuseError

if TYPE_CHECKING:
    from study.on_ray.watch import Progress


def refuse_other_callbacks(callbacks: Sequence[tune.Callback]) -> None:
    """Raise MisuseError unless these are Ray Tune's callbacks, made and in a list."""
    made = isinstance(callbacks, Sequence) and all(isinstance(one, tune.Callback) for one in callbacks)
    if not made:
        raise MisuseError(f"callbacks={callbacks!r} is no list of Ray Tune's callbacks. Write [MyCallback(), …].")


class Guarded(tune.Callback):
    """Passes what Tune reports to the callbacks of users. One that raises is reported by a warning and left out from then on."""

    def __init__(self, callbacks: Sequence[tune.Callback]) -> None:
        self._callbacks = list(callbacks)

    def _tell(self, hook: str, *positional: Any, **info: Any) -> None:
        for callback in list(self._callbacks):
            try:
                getattr(callback, hook)(*positional, **info)
            except Exception as error:
                self._callbacks.remove(callback)
                _warn(type(callback).__name__, error)

    setup = partialmethod(_tell, "setup")
    on_step_begin = partialmethod(_tell, "on_step_begin")
    on_step_end = partialmethod(_tell, "on_step_end")
    on_trial_start = partialmethod(_tell, "on_trial_start")
    on_trial_result = partialmethod(_tell, "on_trial_result")
    on_trial_complete = partialmethod(_tell, "on_trial_complete")
    on_trial_error = partialmethod(_tell, "on_trial_error")
    on_experiment_end = partialmethod(_tell, "on_experiment_end")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled with the run's configuration, never used from there


def reporter(*listeners: Callable[[Progress], None] | None) -> Callable[[Progress], None] | None:
    """One function that passes progress on to each listener; None if there is none. One that raises is left out from then on."""
    listening = [listener for listener in listeners if listener is not None]

    def report(progress: Progress) -> None:
        for listener in list(listening):
            try:
                listener(progress)
            except Exception as error:
                listening.remove(listener)
                _warn("on_progress", error)

    return report if listening else None


def _warn(what: str, error: Exception) -> None:
    warnings.warn(f"{what} raised {error!r} and is left out from here on; the study goes on.", RuntimeWarning, stacklevel=3)


class Turns:
    """Lets one thread of a process at a time run a study, as a process has one Ray. Others wait for their turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._used = False
        self._lost = False

    def fork(self) -> None:
        """In a forked process, which has none of its parent's threads: Ray hangs there if the parent has used it."""
        self._lost = self._used

    def __enter__(self) -> None:
        if self._lost:
            raise MisuseError(
                "this process was forked from one that has run a study, and Ray does not survive a fork. Start it by "
                "multiprocessing's 'spawn' method."
            )
        if self._holder == threading.get_ident():
            raise MisuseError("a callback of a study launches another one. Launch it after the first has returned.")
        self._lock.acquire()
        self._holder, self._used = threading.get_ident(), True

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()
