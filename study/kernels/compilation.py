"""Compile numba kernels once, and keep the machine code on disk for every later process.

The folder's name is a hash of the kernels' sources: a cache that an older version left is never read. Two processes that
compile at once would each number their files from one, and an index could then name another's code: so one waits for the
other (a lock beside the cache).
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from filelock import FileLock

KERNEL_SOURCES = ("kernels", "engines", "metrics")
"""Folders of `study` with kernels. A variant's lane code is told apart by its own type (`lane_code.py`)."""
_OPTIONS = {"error_model": "numpy", "nogil": True}  # no fastmath: every operation is IEEE's, in the order written


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def cache_folder() -> Path:
    """The first that can be written of $NUMBA_CACHE_DIR, the user's cache and the machine's temporary folder."""
    here = Path(__file__).parents[1]
    sources = b"".join(file.read_bytes() for name in KERNEL_SOURCES for file in sorted((here / name).glob("*.py")))
    name = f"sae-study-{hashlib.sha256(sources).hexdigest()[:12]}"
    given, user = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [*([Path(given)] if given else []), Path(user).expanduser(), Path(tempfile.gettempdir())]
    found = next((place / name for place in places if _writable(place / name)), None)
    return found or Path(tempfile.mkdtemp(prefix="sae-study-"))


def called(function: Callable[..., Any]) -> Any:
    """A part of kernels that is called now and then: compiled once, which takes less time than into each of them."""
    return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of kernels: compiled into those that call it."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


def kernel(function: Callable[..., Any]) -> Callable[..., None]:
    """A kernel that Python calls: compiled for its arguments' types when first called, or read from the cache."""
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
            with FileLock(cache_folder() / "lock"):
                compiled.compile(tuple(numba.typeof(argument) for argument in arguments))
            ready.add(kinds)
        compiled(*arguments)

    return call


def _kind(argument: Any) -> Any:
    """What numba tells arguments apart by, found faster."""
    if isinstance(argument, np.ndarray):
        flags = argument.flags
        return argument.dtype.char, argument.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    if isinstance(argument, tuple):
        return type(argument), *map(_kind, argument)
    return getattr(argument, "key", type(argument))
