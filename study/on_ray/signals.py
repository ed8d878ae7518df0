"""How a running study is interrupted: by Ctrl-C in Python, or by a process that has to end, from any of its threads."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

import ray
from ray._private.utils import psutil

PATIENCE_SECONDS = 0.3
"""How long an interrupted Tune may take to save its result lines."""
_endings: list[Callable[[], None]] = []
_leaving = threading.Event()


def end_runs() -> None:
    """Save what the runs of this process have reached, record that they were stopped, and kill the Ray that it started. The process
    ends afterwards: its main thread does not go on."""
    _leaving.set()
    for ending in reversed(_endings):
        with contextlib.suppress(Exception):  # a storage or a Ray that fails now must not keep the process alive
            ending()
    kill_with_descendants(child.pid for child in psutil.Process().children())


def kill_with_descendants(pids: Iterable[int]) -> None:
    """Kill processes and all that they started. Some of Ray's notice only after many seconds that their parent is gone."""
    doomed = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            root.suspend()  # so that it starts no more of them
            doomed += [*root.children(recursive=True), root]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def ended_by(ending: Callable[[], None]) -> Iterator[None]:
    """A context that `end_runs` ends by a call from another thread. After that the main thread stays here."""
    _endings.append(ending)
    try:
        yield
    finally:
        if _leaving.is_set():
            threading.Event().wait()
        _endings.remove(ending)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Ray and Tune set signal handlers of their own; this context restores those of before. Other threads have no say in them."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python cannot be set from there
                signal.signal(number, handler)


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block: Ray cannot be interrupted while it starts (it crashes, or takes seconds)."""
    if not _is_keyboard_interrupt():
        yield
        return
    pressed = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal pressed
        pressed = True

    with handlers_kept():
        signal.signal(signal.SIGINT, on_ctrl_c)
        yield
    if pressed:
        ray.shutdown()
        raise KeyboardInterrupt


@contextlib.contextmanager
def tune_saves() -> Iterator[None]:
    """An interrupted Tune leaves its loop and saves its result lines. What is in flight after PATIENCE_SECONDS is abandoned."""
    if not _in_main_thread():
        yield
        return
    over = threading.Event()

    def save() -> None:
        signal.raise_signal(signal.SIGUSR1)  # to Tune this means: leave the loop and save
        over.wait(PATIENCE_SECONDS)

    with ended_by(save), handlers_kept():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until Tune has set its own handler
        try:
            with _saved_on_ctrl_c() if _is_keyboard_interrupt() else contextlib.nullcontext():
                yield
        finally:
            over.set()


@contextlib.contextmanager
def _saved_on_ctrl_c() -> Iterator[None]:
    patience = threading.Timer(PATIENCE_SECONDS, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    interrupted = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        patience.start()
        signal.raise_signal(signal.SIGUSR1)

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield
    except BaseException:  # Ray wraps a KeyboardInterrupt that comes while it waits in a SystemError
        if not interrupted:
            raise
    finally:
        patience.cancel()
        patience.join() if interrupted else None
    if interrupted:
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_keyboard_interrupt() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt here. A handler of the caller's is left alone."""
    return _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
