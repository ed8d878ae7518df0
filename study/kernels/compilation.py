"""Compiles numba kernels once and keeps the machine code on disk for later processes.

The cache folder's name contains a hash of the kernels' sources, so a cache of an older version is never read. Two processes
that compile at the same time would both number their files from one, and an index could name the other's code. Therefore one
waits for the other, by a lock beside the cache.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from filelock import FileLock

KERNEL_SOURCES = ("kernels", "engines", "metrics")
"""Folders of `study` with kernels. A variant's lane code is not among them: its own type distinguishes it (`lane_code.py`)."""
_OPTIONS = {"error_model": "numpy", "nogil": True}  # no fastmath: every operation follows IEEE 754, in the order written


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def cache_folder() -> Path:
    """A folder in $NUMBA_CACHE_DIR, the user's cache or the temporary folder: the first of these that is writable."""
    here = Path(__file__).parents[1]
    sources = b"".join(file.read_bytes() for name in KERNEL_SOURCES for file in sorted((here / name).glob("*.py")))
    name = f"sae-study-{hashlib.sha256(sources).hexdigest()[:12]}"
    given, user = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [*([Path(given)] if given else []), Path(user).expanduser(), Path(tempfile.gettempdir())]
    found = next((place / name for place in places if _writable(place / name)), None)
    return found or Path(tempfile.mkdtemp(prefix="sae-study-"))


def called(function: Callable[..., Any]) -> Any:
    """A part of kernels that is seldom called: compiled once, which takes less time than compiling it into each kernel."""
    return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of kernels that is compiled into each kernel that calls it."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


def kernel(function: Callable[..., Any]) -> Callable[..., None]:
    """A kernel that Python calls: compiled for the types of its arguments on the first call, or read from the cache."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder())
    try:
        compiled = numba.njit(cache=True, **_OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before

    ready: set[tuple[Any, ...]] = set()

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        kinds = tuple(_kind(argument) for argument in arguments)
        if kinds not in ready:
            with FileLock(cache_folder() / "lock"), _optimised(2):
                compiled.compile(tuple(numba.typeof(argument) for argument in arguments))
            ready.add(kinds)
        compiled(*arguments)

    return call


@contextmanager
def _optimised(level: int) -> Iterator[None]:
    """Compile at this optimisation level: LLVM's -O2 takes about three quarters of the time of -O3.

    Kernels are some percent faster or slower than at -O3, each in its own way; a whole pack takes as long.
    """
    before = numba.config.OPT
    numba.config.OPT = type(before)(level)
    try:
        yield
    finally:
        numba.config.OPT = before


def _kind(argument: Any) -> Any:
    """What numba distinguishes arguments by, found faster than numba does."""
    if isinstance(argument, np.ndarray):
        flags = argument.flags
        return argument.dtype.char, argument.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    if isinstance(argument, tuple):
        return type(argument), *map(_kind, argument)
    return getattr(argument, "key", type(argument))
