"""The Ray that a study runs on: starts or joins it, shuts it down if it was started here, and leaves it cleanly on Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import ray

from search_spaces.errors import MisuseError
from study.on_ray.cluster import runtime_env
from study.on_ray.watch import last_line
from study.packs import physical_cores

CLIENT = "ray://"
"""What the address of Ray's client server begins with."""
PATIENCE_SECONDS = 0.3
"""How long Ctrl-C lets Tune save its result lines."""
leave_at_once: Callable[[], NoReturn] | None = None
"""Set by a process that is nothing but the driver: ends that process on Ctrl-C while Ray starts. Ray cannot be interrupted
at that point (it crashes, or takes seconds); what it has started ends with the process."""


def local_workers(workers: int | None) -> int:
    """How many workers a local Ray gets: as many as requested, or one per physical core.

    Two threads of one core share its divider, which limits the speed of training.
    """
    if workers is not None and workers < 1:
        raise MisuseError(f"workers={workers} is below 1. Leave it out for one per core.")
    return workers or physical_cores()


def refuse_unreachable(address: str | None) -> None:
    """Raise MisuseError if nothing listens at the address of a Ray cluster."""
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise MisuseError(f"address={address!r} is not a Ray address. Write host:port, or auto.")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            speaks_grpc = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, UnicodeError) as error:
        raise MisuseError(
            f"address={address!r} cannot be reached ({error}). Start Ray there (`ray start --head`), or leave --address out "
            "for a local Ray."
        ) from None
    if not speaks_grpc:
        raise MisuseError(f"address={address!r} answers, but not as Ray does. Give the port of the head itself, 6379 by default.")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server listens, as Ray's does: it answers HTTP/2's preface with a SETTINGS frame (RFC 9113, 3.4).

    Ray itself waits for minutes at the port of anything else, its own dashboard's included.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    head = connection.recv(9)
    return len(head) > 3 and head[3] == 4


@contextlib.contextmanager
def ray_running(address: str | None, workers: int | None, before_leaving: Callable[[], None]) -> Iterator[None]:
    """A context with a Ray to run on, which is shut down afterwards if it was started here."""
    if ray.is_initialized():
        yield
        return
    with _ctrl_c_held(before_leaving):
        _start_ray(address, workers)
    try:
        yield
    except KeyboardInterrupt:
        if address is None:
            _shut_down_at_once()
        raise
    finally:
        ray.shutdown()


def _start_ray(address: str | None, workers: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cpus = local_workers(workers)
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=200 * 2**20, **quiet)
        else:
            ray.init(address, runtime_env=runtime_env(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise MisuseError(
            f"Ray cannot be reached at address={address!r} ({last_line(error)}). If the cluster requires a token, set "
            "RAY_AUTH_MODE=token and give the token here too."
        ) from None


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
