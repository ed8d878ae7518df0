"""What trains is what was launched, whatever lies where the user stands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import study
from search_spaces import study_from_file
from study import run_here
from study.storage.schema import science_columns
from study.storage.study_folder import Storage
from tests.field.conftest import ROOT, Run, environment


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A user's folder: another checkout, whose losses are twice as large, and files by the names of modules that we import."""
    folder = tmp_path / "strange"
    for room in ("study", "search_spaces"):
        shutil.copytree(ROOT / room, folder / room)
    metric = folder / "study" / "metrics" / "autoencoder.py"
    text = metric.read_text()
    assert '"ae_loss": moments.loss' in text
    metric.write_text(text.replace('"ae_loss": moments.loss', '"ae_loss": 2 * moments.loss'))
    for name in ("random", "json", "numba", "typer", "service"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user ran')")
    (folder / "analysis").mkdir()
    (folder / "analysis" / "__init__.py").write_text("raise SystemExit('a file of the user ran')")
    return folder


def test_workers_train_by_what_was_launched(sae_study: Run, tiny_file: Path, strange: Path, tmp_path: Path) -> None:
    """Rows equal an honest run's to the bit, and the manifest names their sources."""
    done = sae_study("launch", tiny_file, "--storage", tmp_path, "--workers", "1", cwd=strange)

    assert done.returncode == 0, done.stderr
    rows = Storage.at(tmp_path).study("tiny").read_shards().rows.to_pandas()[science_columns()]
    honest = run_here(study_from_file(tiny_file)).to_pandas()[science_columns()]
    order = {"by": "replicate_id", "ignore_index": True}
    pd.testing.assert_frame_equal(rows.sort_values(**order), honest.sort_values(**order), check_exact=True)
    manifest = json.loads((tmp_path / "tiny" / "manifest.json").read_text())
    assert sorted(manifest["sources"]) == ["search_spaces", "study"]


def test_a_ray_whose_workers_would_import_something_else_is_refused(tiny_file: Path, strange: Path, tmp_path: Path) -> None:
    """A Ray of the user's own puts the working directory first: one line names the other package, and nothing is begun."""
    (strange / "json.py").unlink()  # Ray itself would fail by it
    (strange / "random.py").unlink()
    script = (
        "import sys, ray; ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "from service.cli import main; main()"
    )
    line = [sys.executable, "-P", "-c", script, "launch", str(tiny_file), "--storage", str(tmp_path / "kept")]
    refused = subprocess.run(line, cwd=strange, env=environment(), capture_output=True, text=True, timeout=120, check=False)

    assert refused.returncode == 2, refused.stderr
    (told,) = [one for one in refused.stderr.splitlines() if one.startswith("error:")]
    assert f"would import 'search_spaces' from {strange / 'search_spaces'}" in told or f"'study' from {strange / 'study'}" in told
    assert study.__path__[0] in told
    assert not (tmp_path / "kept" / "tiny" / "study.yaml").exists()


@pytest.mark.parametrize("package", ["search_spaces", "study", "analysis", "service"])
def test_a_file_in_the_place_of_a_package_is_named(package: str, tmp_path: Path) -> None:
    """`PYTHONPATH=.` and a file of ours by name: one line says whose file was found, and it is not run."""
    (tmp_path / f"{package}.py").write_text("raise SystemExit('a file of the user ran')")
    told = _python("from sae_study import main; main()", tmp_path)

    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(f"error: {tmp_path / package}.py takes the place of sae-study's own package {package!r}")
    assert told.stderr.count("\n") == 1


def test_a_folder_by_the_name_of_a_package_is_none(tmp_path: Path) -> None:
    """A user's folder of notes, without code, is not what Python imports."""
    (tmp_path / "study").mkdir()
    assert _python("from sae_study import shadow, ROOMS; print(repr(shadow(ROOMS)))", tmp_path).stdout == "''\n"


def test_analysis_names_what_takes_the_place_of_study(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text("raise SystemExit('a file of the user ran')")
    told = _python("from analysis import load", tmp_path)

    assert told.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'study.py'} takes the place of")


def test_python_without_docstrings_is_refused(sae_study: Run) -> None:
    """Ray's own modules read theirs. What needs no Ray works."""
    refused = sae_study("launch", "smoke", env={"PYTHONOPTIMIZE": "2"})

    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Python runs without docstrings")
    assert refused.stderr.count("\n") == 1
    assert sae_study("spaces", env={"PYTHONOPTIMIZE": "2"}).returncode == 0


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python runs the code with this folder first on its path."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=folder,
        env=environment(PYTHONPATH=f".:{ROOT}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
