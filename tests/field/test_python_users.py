"""Studies launched from notebooks and plain scripts, and studies that outlive them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import load
from search_spaces import MisuseError
from study import run_here, start
from study.storage.status import status
from tests.field.conftest import environment


def script(text: str, folder: Path, prefix: str = "") -> subprocess.CompletedProcess[str]:
    """A plain script, without a guard by `__main__`."""
    file = folder / "script.py"
    file.write_text(text)
    command = ["bash", "-c", f'exec "$0" "$1" {prefix}', sys.executable, str(file)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=120)


def test_start_returns_at_once_and_the_study_is_done(tiny_file: Path, tmp_path: Path) -> None:
    """A second start watches the first; the rows are those of `run_here`; another study of that name is refused."""
    began = time.monotonic()
    running = start(tiny_file, storage=tmp_path, workers=1)
    assert time.monotonic() - began < 3
    assert running.status().state in ("waiting", "running")
    again = start(tiny_file, storage=tmp_path, workers=1)
    assert again.log == running.log
    with pytest.raises(TimeoutError, match="still running after"):
        running.wait(0.01)
    assert again.wait(100).state == "done"
    assert set(running.frame()["replicate_id"]) == set(run_here(tiny_file)["replicate_id"].to_pylist())
    assert "4 of 4 replicates" in running._repr_html_()
    assert (tmp_path / "tiny" / "manifest.json").is_file()
    with pytest.raises(MisuseError, match="another specification"):
        start(tiny_file, storage=tmp_path, dtype="float32")


def test_a_study_outlives_what_started_it(tiny_file: Path, tmp_path: Path) -> None:
    """As a kernel that is restarted."""
    done = script(f"from study import start\nprint(start({str(tiny_file)!r}, storage='st', workers=1))\n", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    until = time.monotonic() + 100
    while status("tiny", tmp_path / "st").state != "done" and time.monotonic() < until:
        time.sleep(0.2)
    assert len(load("tiny", tmp_path / "st")) == 4


def test_what_a_driver_could_not_start_for_is_told(tiny_file: Path, tmp_path: Path) -> None:
    """By `wait`, by `status` and in a notebook; a driver that is stopped before it begins leaves the study waiting."""
    running = start(tiny_file, storage=tmp_path, address="127.0.0.1:1")
    with pytest.raises(MisuseError, match=r"^address='127.0.0.1:1' cannot be reached"):
        running.wait(60)
    assert "cannot be reached" in running._repr_html_()
    stopped = start(tiny_file, storage=tmp_path)
    stopped.stop()
    assert stopped.wait(60).state == "waiting"


def test_a_notebook_shows_progress_and_outcome(tiny_file: Path, tmp_path: Path) -> None:
    """In one element below the cell; its kernel's event loop is running meanwhile."""
    cell = nbformat.v4.new_code_cell(f"from study import launch\nlaunch({str(tiny_file)!r}, storage={str(tmp_path)!r}, workers=1)")
    notebook: Any = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, timeout=120).execute()
    shown = {output.output_type: output.data["text/html"] for output in notebook.cells[0].outputs if "data" in output}
    assert '<progress value="4" max="4">' in shown["display_data"]
    assert "Study tiny: done, 4 replicates trained" in shown["execute_result"]


@pytest.mark.parametrize("prefix", ["", ">&- 2>&- <&-"], ids=["streams", "no streams"])
def test_a_plain_script_needs_no_guard(prefix: str, tiny_file: Path, tmp_path: Path) -> None:
    """Nor standard streams, which graphical programs lack."""
    text = f"from study import launch\nopen('said', 'w').write(repr(launch({str(tiny_file)!r}, storage='st', workers=1)))\n"
    done = script(text, tmp_path, prefix)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "said").read_text().startswith("<Outcome tiny: done, 4 of 4 replicates")
