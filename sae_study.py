"""Starts the command under a name that is nobody else's: a user's file `service.py` may take the place of our package."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("search_spaces", "study", "analysis", "service")


def main() -> None:
    """Entry point of `sae-study`."""
    exit_if_shadowed()
    from service.cli import main

    main()


def exit_if_shadowed() -> None:
    """End the process with exit code 2 and one line if another file takes the place of one of our packages."""
    if sentence := shadow(ROOMS):
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


def shadow(packages: Iterable[str]) -> str:
    """Which file or folder Python would import in place of one of our packages, and what to do; empty if there is none."""
    here = Path(__file__).resolve().parent
    for package in packages:
        spec = find_spec(package)
        if spec is None:
            return f"package {package!r} of sae-study is missing from {here}. Install sae-study again."
        place = spec.origin or next(iter(spec.submodule_search_locations or ()), "?")
        if Path(place).resolve().parent != here / package:
            return (
                f"{place} takes the place of sae-study's own package {package!r}, which lies in {here}. Rename it, or take its "
                "folder off Python's path (PYTHONPATH, or the working directory of `python -m`)."
            )
    return ""
