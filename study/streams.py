"""Standard streams that the caller has closed, or that graphical programs lack. Ray and others fail where one is None."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Connect each standard stream that is None to the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the closed one's number, if that is free
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115  (lasts as long as the process)
