"""The Ray that a study runs on: has it started or joined, shuts it down if it was started here, and leaves it cleanly on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

import ray

from study.on_ray.starting import start_ray

PATIENCE_SECONDS = 0.3
"""How long Ctrl-C lets Tune save its result lines."""
leave_at_once: Callable[[], NoReturn] | None = None
"""Set by a process that is nothing but the driver: ends that process on Ctrl-C while Ray starts. Ray cannot be interrupted
at that point (it crashes, or takes seconds); what it has started ends with the process."""


@contextlib.contextmanager
def ray_running(address: str | None, workers: int | None, before_leaving: Callable[[], None]) -> Iterator[None]:
    """A context with a Ray to run on, which is shut down afterwards if it was started here."""
    if ray.is_initialized():
        yield
        return
    with _ctrl_c_held(before_leaving):
        start_ray(address, workers)
    try:
        yield
    except KeyboardInterrupt:
        if address is None:
            _shut_down_at_once()
        raise
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _ctrl_c_held(before_leaving: Callable[[], None]) -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, or end the process at once if `leave_at_once` is set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal pressed
        pressed = True
        if leave_at_once:
            before_leaving()
            leave_at_once()

    with _handling({signal.SIGINT: on_ctrl_c}):
        yield
    if pressed:
        ray.shutdown()
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, Callable[..., None] | signal.Handlers]) -> Iterator[None]:
    """A context in which signals have these handlers."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shut_down_at_once() -> None:
    """Let `ray.shutdown` kill the Ray that was started here without a grace period: packs in flight are lost anyway."""
    node = ray._private.worker._global_node
    kill = node.kill_all_processes
    node.kill_all_processes = lambda check_alive=True, allow_graceful=True, wait=False: kill(
        check_alive=False, allow_graceful=False
    )


@contextlib.contextmanager
def interrupted_by_ctrl_c() -> Iterator[None]:
    """On Ctrl-C end the Tune loop, let it save its result lines, and after PATIENCE_SECONDS abandon what is still in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    patience = threading.Timer(PATIENCE_SECONDS, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    interrupted = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        patience.start()
        signal.raise_signal(signal.SIGUSR1)  # to Tune this means: leave the loop and save

    with _handling({signal.SIGINT: on_ctrl_c, signal.SIGUSR1: signal.SIG_IGN}):  # the latter until Tune has set its own handler
        try:
            yield
        except BaseException:  # Ray wraps a KeyboardInterrupt that comes while it waits in a SystemError
            if not interrupted:
                raise
        finally:
            patience.cancel()
    if interrupted:
        raise KeyboardInterrupt
