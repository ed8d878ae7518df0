"""Where and with which variables a local Ray starts, without starting one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import ray

from search_spaces.errors import MachineError, MisuseError
from study.on_ray import SET, local_environment, starting
from study.on_ray.starting import LONGEST_FOLDER, session_folder, start_ray


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


def test_a_ray_that_cannot_start_is_one_line(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray raises, the line names the folder of its logs, and what Ray has started by then is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def fail(*_: object, **__: object) -> None:
        started.append(subprocess.Popen(["sleep", "60"]))
        raise Exception("chatter\nThe current node timed out")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(MachineError, match=rf"^Ray cannot start .*\(The current node timed out\).* {temporary}/ray/session_latest"):
        start_ray(None, 1)
    assert started[0].wait(10) == -signal.SIGKILL
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(("required", "there", "joins"), [("", "", True), ("", "old", True), ("a", "a", True), ("a", "old", False)])
def test_a_token_in_the_home_is_for_a_cluster_that_requires_one(
    required: str, there: str, joins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a variable: no token where none is required, the stored one where it is the right one, or a line at once."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)

    def use_stored(warn_if_disabled: bool) -> bool:
        os.environ["RAY_AUTH_MODE"] = "token"
        return bool(there)

    def refuses(head: str) -> bool:
        return (there if "RAY_AUTH_MODE" in os.environ else "") != required

    joined: list[bool] = []
    monkeypatch.setattr(starting, "maybe_enable_token_auth_if_token_available", use_stored)
    monkeypatch.setattr(starting, "_wants_token", refuses)
    monkeypatch.setattr(ray, "init", lambda *_, **__: joined.append("RAY_AUTH_MODE" in os.environ))
    if joins:
        start_ray("127.0.0.1:6379", None)
        assert joined == [bool(required)]
    else:
        with pytest.raises(MisuseError, match="requires a token, and not the one"):
            start_ray("127.0.0.1:6379", None)
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_small_limit_on_virtual_memory_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray aborts with pages of C++ frames under it."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3 * 10**9, resource.RLIM_INFINITY))

    with pytest.raises(MisuseError, match=r"limited to 3.0 GB \(`ulimit -v`\)"):
        start_ray(None, 1)
