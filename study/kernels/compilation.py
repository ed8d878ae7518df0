"""Compiles numba kernels once and keeps the machine code on disk for later processes.

The cache folder's name contains a hash of the kernels' sources, so a cache of an older version is never read. Two processes
that compile at the same time would both number their files from one, and an index could name the other's code. Therefore one
waits for the other, by a lock beside the cache.

Kernels are compiled by numba's default settings, whatever a file .numba_config.yaml in the working directory and the variables of
a caller who uses numba too say.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from filelock import FileLock

from study.kernels import OBEYED

KERNEL_SOURCES = ("kernels", "engines", "metrics")
"""Folders of `study` with kernels. A variant's lane code is not among them: its own type distinguishes it (`lane_code.py`)."""
_OPTIONS = {"error_model": "numpy", "nogil": True}  # no fastmath: every operation follows IEEE 754, in the order written


@functools.cache
def cache_folder() -> Path:
    """A folder in $NUMBA_CACHE_DIR, the user's cache or the temporary folder: the first of these that can be used.

    Whoever writes there decides what code is run. Therefore a folder counts only if it is this user's own and others cannot
    write into it. If there is none, the code is kept for this process alone.
    """
    here = Path(__file__).parents[1]
    sources = b"".join(file.read_bytes() for name in KERNEL_SOURCES for file in sorted((here / name).glob("*.py")))
    name = f"sae-study-{os.getuid()}-{hashlib.sha256(sources).hexdigest()[:12]}"
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [os.environ.get("NUMBA_CACHE_DIR"), user if os.path.isabs(user) else None, tempfile.gettempdir()]
    found = next((Path(place, name) for place in places if place and _usable(Path(place, name))), None)
    return found or _folder_for_now()


def _usable(folder: Path) -> bool:
    """Whether files can be written into the folder, which is made if it is not there, and by nobody else."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        with tempfile.TemporaryFile(dir=folder):
            return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    except OSError:
        return False


def _folder_for_now() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sae-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def called(function: Callable[..., Any]) -> Any:
    """A part of kernels that is seldom called: compiled once, which takes less time than compiling it into each kernel."""
    with _own_settings():
        return numba.njit(**_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of kernels that is compiled into each kernel that calls it."""
    with _own_settings():
        return numba.njit(forceinline=True, **_OPTIONS)(function)


def kernel(function: Callable[..., Any]) -> Callable[..., None]:
    """A kernel that Python calls: compiled for the types of its arguments on the first call, or read from the cache."""
    with _own_settings():
        compiled = numba.njit(cache=True, **_OPTIONS)(function)
    ready: set[tuple[Any, ...]] = set()

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        kinds = tuple(_kind(argument) for argument in arguments)
        if kinds not in ready:
            with FileLock(cache_folder() / "lock"), _own_settings():
                compiled.compile(tuple(numba.typeof(argument) for argument in arguments))
            ready.add(kinds)
        compiled(*arguments)

    return call


@contextmanager
def _own_settings() -> Iterator[None]:
    """In place of the caller's settings numba's defaults, our cache folder, and LLVM's -O2.

    The latter takes about three quarters of the time of -O3. Kernels are some percent faster or slower than at -O3, each in
    its own way; a whole pack takes as long.
    """
    numba.config.reload_config()  # now, because numba reads the variables again, while it compiles, if they have changed
    before = _settings()
    vars(numba.config).update(_defaults(), CACHE_DIR=str(cache_folder()), OPT=type(numba.config.OPT)(2))
    try:
        yield
    finally:
        vars(numba.config).update(before)


@functools.cache
def _defaults() -> dict[str, Any]:
    """The settings that numba would have with no variables but those OBEYED; its number of threads is fixed once it runs."""
    before = _settings()
    obeyed = {name: os.environ[name] for name in OBEYED if name in os.environ}
    numba.config._env_reloader.process_environ({**obeyed, "NUMBA_NUM_THREADS": str(numba.config.NUMBA_NUM_THREADS)})
    defaults = _settings()
    vars(numba.config).update(before)
    return defaults


def _settings() -> dict[str, Any]:
    return {name: value for name, value in vars(numba.config).items() if name.isupper()}


def _kind(argument: Any) -> Any:
    """What numba distinguishes arguments by, found faster than numba does."""
    if isinstance(argument, np.ndarray):
        flags = argument.flags
        return argument.dtype.char, argument.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    if isinstance(argument, tuple):
        return type(argument), *map(_kind, argument)
    return getattr(argument, "key", type(argument))
