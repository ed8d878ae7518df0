"""The examples run as they stand in examples/."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Examples write into the working directory, and draw without a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example"])
    matplotlib.use("agg")
    return tmp_path


@pytest.mark.slow
def test_the_published_failure_is_the_autoencoders(capsys: pytest.CaptureFixture[str]) -> None:
    """The script ends with the cause that the README gives."""
    runpy.run_path(str(EXAMPLES / "reproduce_the_published_failure.py"))
    printed = capsys.readouterr().out
    assert "Seed 123: ae_collapsed." in printed
    assert "Cause: ae_early_death" in printed


def test_safe_l1_is_drawn(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At S = 0.9 of the dissertation's procedure no l1 is safe; the figure is written."""
    runpy.run_path(str(EXAMPLES / "safe_l1.py"))
    assert "No l1 is safe" in capsys.readouterr().out
    assert (elsewhere / "safe_l1.png").stat().st_size > 10_000


@pytest.mark.slow
def test_notebook_runs_and_is_stored_without_outputs() -> None:
    """Every cell runs, in a kernel of its own; the stored file holds the cells alone."""
    notebook = nbformat.read(EXAMPLES / "failure_map.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    NotebookClient(notebook, timeout=300).execute()
    assert all(cell.execution_count for cell in code)
