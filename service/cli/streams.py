"""Standard streams as the caller left them: closed, full, without a reader, or of an encoding that lacks our characters."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from typing import TextIO

IN_ASCII = {
    "…": "...",
    "–": "-",
    "−": "-",
    "×": "x",
    "·": "*",
    "±": "+-",
    "½": "1/2",
    "²": "^2",
    "ᵀ": "^T",
    "∞": "inf",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "≈": "~",
    "→": "->",
    "“": '"',
    "”": '"',
    "’": "'",
}
"""What stands for a character of ours where the encoding lacks it. Those of users, in names and paths, are escaped."""
READER_GONE = 141
"""Exit code where the reader of standard output has gone (`| head -1`), as shells give it for other commands."""


def take_closed_numbers() -> None:
    """Connect closed streams to the null device, so that no file, pipe or socket opened later takes their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one


def make_ready() -> None:
    """Let every stream take whatever is written to it."""
    from study.streams import open_closed_streams

    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="in_ascii")


def drop(stream: TextIO) -> None:
    """Send what a stream still holds, and gets from now on, nowhere: it cannot be written any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def finish() -> None:
    """Write what standard output still holds. Python itself would complain in three lines where that fails."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            drop(sys.stdout)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: our substitute for a character, or its escape."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


codecs.register_error("in_ascii", _in_ascii)
