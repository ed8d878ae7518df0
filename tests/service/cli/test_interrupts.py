"""How signals end a process that listens for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

START = """
import sys, time
from service.cli import interrupts
interrupts.listen()
print("listening", flush=True)
"""
GENERAL = "interrupted: what is stored is whole; give the same command again\n"


def after(*signals: signal.Signals, code: str, prepare: Callable[[], object] | None = None) -> tuple[int, str]:
    """Exit code and standard error of a process that listens, gets these signals, and would otherwise do what the code does.

    It starts with no signal ignored, even where the tests run under `nohup` or in the background, unless `prepare` ignores one.
    """

    def prepared() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if prepare is not None:
            prepare()

    process = subprocess.Popen(
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepared
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    for number in signals:
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_ends_the_process_with_one_sentence(number: signal.Signals, times: int) -> None:
    """Wherever the main thread is, here in a call that lasts a minute; pressed once or three times."""
    began = time.monotonic()
    assert after(*[number] * times, code="time.sleep(60)") == (130, GENERAL)
    assert time.monotonic() - began < 30


def test_sigint_is_heard_where_it_was_ignored() -> None:
    """As in a background job of a script."""
    ignored = after(signal.SIGINT, code="time.sleep(60)", prepare=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert ignored == (130, GENERAL)


def test_handlers_that_a_library_sets_change_nothing() -> None:
    """Ray sets one that raises SystemExit. The process waits for the end that the signal asked for."""
    code = """
import signal
try:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)
finally:
    interrupts.settle()
"""
    assert after(code=code) == (130, GENERAL)


@pytest.mark.parametrize("leave", ["lambda: time.sleep(60)", "lambda: 1 / 0"])
def test_a_study_that_cannot_be_left_does_not_keep_the_process(leave: str) -> None:
    """Its storage hangs, or fails."""
    assert after(signal.SIGTERM, code=f"interrupts.LEAVE_SECONDS = 0.3; interrupts.leave = {leave}; time.sleep(60)") == (
        130,
        GENERAL,
    )


def test_work_that_is_done_is_not_interrupted_any_more() -> None:
    """The exit code is that of the work."""
    code = "interrupts.settle(); import os, signal; os.kill(os.getpid(), signal.SIGTERM); sys.exit(7)"
    assert after(code=code) == (7, "")
