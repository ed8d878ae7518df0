"""How field tests run the command: in a process of its own, as a user would, in a folder and an environment of their making."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-P", "-m", "service.cli")
"""`sae-study` of this checkout; -P leaves the working directory off the path, as the installed command does."""
TINY_FILE = """\
name: tiny
protocol: {base: dissertation, samples: 200, ae_epochs: 1, sae_epochs: 1}
space: {architectures: ["5-3-5"], sparsities: [0.5], l1: [0.01], seeds: "0:4"}
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("field")
            item.add_marker("slow")


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with this checkout on Python's path; a change to None takes a variable out."""
    wanted: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in wanted.items() if value is not None}


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A study file of four replicates, which train in a moment."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY_FILE)
    return file


@pytest.fixture
def sae_study(tmp_path: Path) -> Run:
    """Runs `sae-study` with these arguments in `cwd` (default: an empty folder), and returns what became of it."""

    def run(
        *arguments: object, cwd: Path | None = None, env: Mapping[str, str | None] = {}, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd or tmp_path,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def in_namespace(tmp_path: Path) -> Run:
    """Runs a bash script in mount and process namespaces of its own, as root there; `$SAE_STUDY` is the command.

    What the script mounts is gone with it, and so is every process that it started. Skipped where namespaces cannot be made.
    """
    allowed = (
        shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )
    if not allowed:
        pytest.skip("making namespaces takes root and `unshare`")

    def run(script: str, env: Mapping[str, str | None] = {}, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script],
            cwd=tmp_path,
            env=environment(SAE_STUDY=" ".join(COMMAND), **env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
