"""What the packages export to Python."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

EXPORTED = [(room, name) for room in ("search_spaces", "study", "analysis") for name in import_module(room).__all__]


@pytest.mark.parametrize(("room", "name"), EXPORTED)
def test_an_exported_name_is_there_and_says_what_it_is(room: str, name: str) -> None:
    """Lazily imported ones too; a function or class has a docstring of its own."""
    found = getattr(import_module(room), name)
    assert not callable(found) or inspect.getdoc(found)


def test_importing_analysis_is_cheap() -> None:
    """Compiler, figures and statistics are imported by the functions that need them."""
    code = "import sys, analysis; sys.exit(bool({'numba', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        import_module("analysis").loads  # noqa: B018
