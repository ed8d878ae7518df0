"""The examples in docstrings, of every module that has some."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.test_layering import FILES, ROOT, module_of

WITH_EXAMPLES = [path for path in FILES if ">>> " in (ROOT / path).read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    """The lines below each `>>>` are what Python prints."""
    assert doctest.testmod(import_module(module_of(path))).failed == 0
