"""Files that are written beside their place and then renamed, so that each is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from search_spaces.errors import MachineError, MisuseError, reason
from search_spaces.paths import shown

PART = ".part"
"""How the name of a file ends while it is being written."""
DEAD_SECONDS = 60.0
"""A part that nobody has written to for so long was left by a process that was killed."""
PROBE_BYTES = 16_384
"""As large as a small shard."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside `path` and renamed to it. One that cannot be written leaves nothing behind. Raises OSError.

    What is no regular file (/dev/stdout, a pipe) is written in place. A link stays a link: its file is replaced.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        write(real)
        return
    part = real.with_name(f"{real.name}.{uuid.uuid4().hex}{PART}")
    try:
        write(part)
        part.replace(real)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_out(path: Path, what: str, write: Callable[[Path], object]) -> None:
    """`write_whole` for a file that a user asked for with `what`. Raises MachineError if it cannot be written."""
    try:
        write_whole(path, write)
    except OSError as error:
        raise MachineError(f"{what}={shown(str(path))} cannot be written ({reason(error)}).") from error


def sweep(parts: Iterable[Path], age: float = DEAD_SECONDS) -> None:
    """Remove parts that nobody has written to for `age` seconds. What cannot be removed stays."""
    for part in parts:
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()


def refuse_unwritable_file(path: Path, what: str) -> None:
    """Raise MisuseError if this file could not be written, before the work whose result it is to hold.

    Parts of it that killed processes left are swept. what: the option or argument that names it.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.is_dir():
            raise IsADirectoryError(errno.EISDIR, path)
        if real.is_symlink():  # in a circle
            raise OSError(errno.ELOOP, path)
        if real.exists() and not os.access(real, os.W_OK):
            raise PermissionError(errno.EACCES, path)
        if real.is_file() or not real.exists():
            probe(real.parent)
            sweep(real.parent.glob(f"{glob.escape(real.name)}.*{PART}"))
    except OSError as error:
        raise MisuseError(
            f"{what}={shown(str(path))} cannot be written ({reason(error)}). Name a file in an existing folder of yours."
        ) from None


def refuse_unwritable_folder(path: Path, what: str) -> None:
    """Make a folder and its parents where they are missing; MisuseError, before the work, if it cannot be written to."""
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, path)
        path.mkdir(parents=True, exist_ok=True)
        probe(path)
        sweep(path.glob(f"*{PART}"))
    except OSError as error:
        raise MisuseError(
            f"{what}={shown(str(path))} cannot be written ({reason(error)}). Name a folder that you can write to."
        ) from None


def probe(folder: Path) -> None:
    """Write a file into a folder and remove it again. Raises OSError."""
    part = folder / f"probe.{uuid.uuid4().hex}{PART}"
    try:
        part.write_bytes(bytes(PROBE_BYTES))
    finally:
        part.unlink(missing_ok=True)
