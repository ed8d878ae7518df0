"""Ctrl-C, SIGTERM and SIGHUP end the command: with one sentence, exit code 130, and what is stored.

A thread of its own waits for them and ends the process. The main thread may be anywhere, in the middle of an import, of a
compilation or of Ray's start, and is never disturbed by an exception. Imports little, so that signals are heard early.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code of an interrupted command, as shells expect it after Ctrl-C."""
LEAVE_SECONDS = 3.0
"""How long the running study gets to save and to record that it was interrupted."""
WORK_IS_DONE = 0
"""What `settle` writes in place of a signal's number."""

NOTHING_LOST = "interrupted: what is stored is whole; give the same command again"
leave: Callable[[], str] = lambda: NOTHING_LOST  # noqa: E731
"""Prepares for the end of the process and returns the sentence for it. A command that runs a study sets its own."""
_thread: threading.Thread | None = None
_wakeup: int = -1


def listen() -> None:
    """From now on SIGINT and SIGTERM end this process, even where it was started with SIGINT ignored, as scripts start
    background jobs. SIGHUP ends it too, unless it is ignored, as under `nohup`."""
    global _thread, _wakeup
    heard, _wakeup = os.pipe()
    os.set_blocking(_wakeup, False)
    signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    _thread = threading.Thread(target=_wait, args=(heard,), daemon=True, name="interrupts")
    _thread.start()
    for number in _signals():
        signal.signal(number, lambda *_: None)  # Python writes the number to the pipe before it calls a handler


def settle() -> None:
    """The work is done: signals are ignored from now on. If one came before, this waits for the end of the process."""
    if _thread is None:
        return
    for number in _signals():
        signal.signal(number, signal.SIG_IGN)
    os.write(_wakeup, bytes([WORK_IS_DONE]))
    _thread.join()


def _signals() -> list[signal.Signals]:
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def _wait(heard: int) -> None:
    """Wait for the first signal and end the process, or for the end of the work. Tune's own signal passes by."""
    while (number := os.read(heard, 1)[0]) != WORK_IS_DONE:
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _end()


def _end() -> None:
    """Say the sentence and end the process at once: the shutdown of Python and Ray would keep the user waiting."""
    sentence = [NOTHING_LOST]

    def prepare() -> None:
        with contextlib.suppress(Exception):  # whatever fails now must not hide that the command was interrupted
            sentence.append(leave())

    preparation = threading.Thread(target=prepare, daemon=True)
    preparation.start()
    preparation.join(LEAVE_SECONDS)
    if sys.stderr is not None:
        clear_bar = "\r\x1b[2K\x1b[?25h" if sys.stderr.isatty() else ""  # and show the cursor, which a progress bar hides
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, f"{clear_bar}{sentence[-1]}\n".encode(errors="replace"))
    os._exit(INTERRUPTED)
