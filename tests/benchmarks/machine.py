"""The machine on which a benchmark ran."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """The processor, Python and the commit, in a line."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return f"{processor()}, Python {platform.python_version()}, commit {commit}"


def processor() -> str:
    """The processor's name, if Linux gives it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()
