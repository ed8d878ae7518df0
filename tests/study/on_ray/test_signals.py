"""How a running study is interrupted, and what happens to the caller's signal handlers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from study.on_ray import signals

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """Handlers as Python sets them."""
    before = [signal.getsignal(number) for number in WATCHED]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield [signal.getsignal(number) for number in WATCHED]
    for number, handler in zip(WATCHED, before):
        signal.signal(number, handler)


def test_the_callers_handlers_come_back(handlers: list[Any]) -> None:
    """Ray and Tune replace them."""
    with signals.handlers_kept(), signals.ctrl_c_held(), signals.tune_saves():
        for number in WATCHED:
            signal.signal(number, lambda *_: None)
    assert [signal.getsignal(number) for number in WATCHED] == handlers


@pytest.mark.parametrize("context", [signals.handlers_kept, signals.ctrl_c_held, signals.tune_saves])
def test_another_thread_does_not_touch_handlers(context: Any, handlers: list[Any]) -> None:
    """Python lets the main thread alone set them."""
    seen: list[Any] = []

    def run() -> None:
        with context():
            seen.extend(signal.getsignal(number) for number in WATCHED)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == handlers


def test_ctrl_c_while_ray_starts_comes_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray that has started by then is shut down."""
    done: list[str] = []
    monkeypatch.setattr(signals.ray, "shutdown", lambda: done.append("shut down"))

    def start() -> None:
        with signals.ctrl_c_held():
            signal.raise_signal(signal.SIGINT)
            done.append("started")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["started", "shut down"]


@pytest.mark.parametrize("wrapped", [KeyboardInterrupt(), SystemError("Ray wraps it")])
def test_ctrl_c_lets_tune_save(wrapped: BaseException) -> None:
    """Tune is told to save; what it is doing after PATIENCE_SECONDS, or a second Ctrl-C, is abandoned."""
    saved: list[int] = []

    def tune() -> None:
        with signals.tune_saves():
            signal.signal(signal.SIGUSR1, lambda *_: saved.append(1))
            signal.raise_signal(signal.SIGINT)
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                raise wrapped from None

    with pytest.raises(KeyboardInterrupt):
        tune()
    assert saved == [1]


def test_a_handler_of_the_callers_is_left_alone() -> None:
    """Whoever has one decides what Ctrl-C means."""
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with signals.tune_saves():
        signal.raise_signal(signal.SIGINT)
    assert heard == [1]


def test_a_process_that_ends_ends_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost first; one that fails does not keep the others."""
    monkeypatch.setattr(signals, "_leaving", threading.Event())
    monkeypatch.setattr(signals, "kill_with_descendants", lambda pids: None)
    ended: list[str] = []
    with (
        signals.ended_by(lambda: ended.append("outer")),
        signals.ended_by(lambda: 1 / 0),
        signals.ended_by(lambda: ended.append("inner")),
    ):
        signals.end_runs()
        signals._leaving.clear()  # else this thread would wait here for the end of its process
    signals.end_runs()
    assert ended == ["inner", "outer"]


def test_what_a_process_started_is_killed_with_it() -> None:
    """Its children too, which would go on without it."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    signals.kill_with_descendants([2**22 + 1, parent.pid])
    parent.communicate(timeout=10)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return "Z" not in file.read().rpartition(")")[2]
    except OSError:
        return False
