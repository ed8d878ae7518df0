"""What the command refuses, and how it exits."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.service.cli.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["launch", "nowhere"], "space='nowhere' is unknown"),
        (["launch", "absent.yaml"], "cannot be read"),
        (["launch", "smoke", "--protocol", "sond"], "Did you mean 'sound'?"),
        (["launch", "smoke", "--engine", "warp"], "engine"),
        (["launch", "smoke", "--dtype", "float8"], "dtype"),
        (["launch", "smoke", "--seeds", "9"], None),
        (["launch", "smoke", "--seeds", "5:5"], "seeds='5:5' is empty"),
        (["launch", "smoke", "--pack-size", "-3"], "pack_size"),
        (["launch", "smoke", "--workers", "0"], "workers=0"),
        (["launch", "smoke", "--address", "127.0.0.1:9"], "address='127.0.0.1:9' cannot be reached"),
        (["launch", "smoke", "--address", "nonsense"], "not a Ray address"),
        (["launch", "smoke", "--address", "foo..bar:6379"], "address='foo..bar:6379' cannot be reached"),
        (["launch", "smoke", "--pack-size", "²"], "pack_size='²'"),
        (["launch", "smoke", "--colour"], "No such option"),
        (["launch"], "Missing argument"),
        (["rows", "absent", "--out", "x.csv"], "study='absent' is not in storage"),
        (["rows", "absent", "--out", "x.xlsx"], ".parquet nor .csv"),
        (["resume", "absent"], "study='absent' is not in storage"),
        (["status", "absent"], "study='absent' is not in storage"),
        (["stop", "absent"], "study='absent' is not in storage"),
        (["report", "absent"], "study='absent' is not in storage"),
        (["regions", "absent"], "study='absent' is not in storage"),
        (["replicate", "absent", "abc"], "study='absent' is not in storage"),
        (["fly"], "No such command"),
    ],
)
def test_misuse_is_one_line_and_exit_2(run: Run, tmp_path: Path, arguments: list[str], complaint: str | None) -> None:
    """The line says what was wrong and what was expected. There is no traceback, and the storage is unchanged."""
    storage = ["--storage", str(tmp_path / "studies")] if len(arguments) > 1 else []
    if complaint is None:
        arguments, complaint = [*arguments[:-1], "nine"], "seeds='nine' is not a range"
    code, out, err = run(*arguments, *storage)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "studies").exists()


def test_version_is_shown(run: Run) -> None:
    assert run("--version") == (0, f"sae-study {version('sae-study')}\n", "")


def test_a_shell_completes_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer's own completion, which `--show-completion` prints."""
    monkeypatch.setenv("_SAE_STUDY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sae-study re")
    monkeypatch.setenv("COMP_CWORD", "1")
    code, out, _ = run()
    assert (code, out.split()) == (0, ["resume", "replicate", "regions", "report"])


def test_command_is_installed() -> None:
    """`sae-study` and `python -m service.cli` are the same command."""
    for command in ([str(Path(sys.executable).with_name("sae-study"))], [sys.executable, "-m", "service.cli"]):
        shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "launch" in shown
        assert "regions" in shown
