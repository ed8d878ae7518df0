"""Terminals of any width, encodings, and streams that are closed, full or without a reader."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.field.conftest import COMMAND, environment


def on_terminal(columns: int, *arguments: str, cwd: Path) -> tuple[int, str]:
    """The exit code of `sae-study`, and what a terminal of so many columns gets from it."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=environment(COLUMNS=None, TERM="xterm"), stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        shown += piece
    os.close(ours)
    return process.wait(), shown.decode()


def in_shell(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A bash script in which `$S` is the command."""
    ready = environment(S=" ".join(COMMAND), **env)
    return subprocess.run(["bash", "-c", script], cwd=cwd, env=ready, capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_numbers_and_heads_are_whole(columns: int, tmp_path: Path) -> None:
    """A table fits, or is laid on its side."""
    code, shown = on_terminal(columns, "spaces", cwd=tmp_path)
    assert code == 0
    for one in ("architectures", "replicates", "core-hours", "960000", "0.000139", "5-3-5 … 20-10-20"):
        assert one in shown


def test_help_fits_a_narrow_terminal(tmp_path: Path) -> None:
    """Lines wrap at words."""
    code, shown = on_terminal(40, "--help", cwd=tmp_path)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 40


@pytest.mark.parametrize(
    ("script", "code", "written"),
    [
        ("$S spaces >&-", 0, b""),
        ("$S spaces --json 2>&- <&-", 0, b'"space": "full"'),
        ("$S status nix >&- 2>&- <&-", 2, b""),
        ("$S spaces --json 2>/dev/full", 0, b'"space": "full"'),
        ("$S status nix 2>/dev/full", 2, b""),
    ],
)
def test_closed_and_full_streams_are_nobodys_fault(script: str, code: int, written: bytes, tmp_path: Path) -> None:
    """The command works on; nothing is said about it."""
    done = in_shell(script, tmp_path)
    assert (done.returncode, done.stderr) == (code, b"")
    assert written in done.stdout


@pytest.mark.parametrize("arguments", ["spaces", "spaces --json", "--help"])
def test_full_output_is_one_line_and_a_gone_reader_none(arguments: str, tmp_path: Path) -> None:
    """Exit 1, and 141 as of any other command."""
    full = in_shell(f"$S {arguments} > /dev/full", tmp_path)
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1)
    assert b"No space left" in full.stderr
    gone = in_shell(f"$S {arguments} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (gone.returncode, gone.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_our_characters(encoding: str, tmp_path: Path) -> None:
    """Tables are drawn in ASCII, and names are escaped."""
    done = in_shell("$S spaces && $S spaces --help && $S status Ω", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"5-3-5 ... 20-10-20" in done.stdout
    assert b"\\u03a9" in done.stderr
