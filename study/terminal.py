"""Terminals, as streams and variables describe them."""

from __future__ import annotations

import contextlib
import os
from typing import TextIO

UNBOUNDED = 10_000
"""Columns of an output that is no terminal, where COLUMNS says nothing."""
ROWS = 25
"""Given to rich so that it does not look for the size itself: it fails at a COLUMNS that is no number."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads the stream on a screen that can redraw a line. Variables such as FORCE_COLOR do not count."""
    isatty = getattr(stream, "isatty", None)  # absent where a stream was replaced, as in some notebooks
    return isatty is not None and bool(isatty()) and os.environ.get("TERM") not in ("dumb", "unknown")


def columns_of(stream: TextIO | None) -> int:
    """Width of the terminal in characters. COLUMNS, where somebody has set it to a number, holds for pipes too."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and 0 < int(given[:9]) < UNBOUNDED:
        return int(given)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, replaced by a StringIO, no terminal
        return os.get_terminal_size(stream.fileno()).columns or UNBOUNDED  # type: ignore[union-attr]
    return UNBOUNDED
