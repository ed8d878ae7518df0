"""Where and with which variables a local Ray starts, without starting one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from search_spaces.errors import MachineError, MisuseError
from study.on_ray import SET, local_environment, starting
from study.on_ray.starting import LONGEST_FOLDER, session_folder


def test_a_local_ray_obeys_no_variable_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes how Ray starts is taken out and put back; the threshold of its memory monitor stays; the token is its own."""
    theirs = {"RAY_RUNTIME_ENV_HOOK": "no.such", "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "error"}
    for name, value in {**theirs, "RAY_memory_usage_threshold": "0.9"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    tokens = set()
    for _ in range(2):
        with local_environment():
            assert not {"RAY_RUNTIME_ENV_HOOK", "PYTHONWARNINGS"} & set(os.environ)
            kept = {**SET, "RAY_memory_usage_threshold": "0.9", "RAY_AUTH_MODE": "token"}
            assert {name: os.environ[name] for name in kept} == kept
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert dict(os.environ) == before
    assert len(tokens) == 2


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the machine, whose path is short."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(starting, "LONGEST_FOLDER", len(os.fsencode(tmp_path)) + 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_sessions_lie_beside_a_folder_of_somebody_else(temporary: Path) -> None:
    """`ray` in the temporary folder is the usual place; if it cannot be written, there is one with the user's number."""
    assert session_folder() == str(temporary / "ray")
    (temporary / "ray").rmdir()
    (temporary / "ray").write_text("not a folder")
    assert session_folder() == str(temporary / f"ray-{os.getuid()}")


def test_a_long_temporary_folder_is_passed_over(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets have short paths. A folder that the user has chosen for Ray is refused by the variable's name."""
    monkeypatch.setattr(starting, "LONGEST_FOLDER", LONGEST_FOLDER)
    long = temporary / ("x" * LONGEST_FOLDER)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert session_folder().startswith("/tmp/ray")
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(MisuseError, match=f"RAY_TMPDIR=.* is longer than {LONGEST_FOLDER} bytes"):
        session_folder()


def test_no_folder_for_sessions_is_a_fault_of_the_machine(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "SESSION_BYTES", 2**60)
    with pytest.raises(MachineError, match=r"Ray has no folder for its sessions: .* Set RAY_TMPDIR"):
        session_folder()
