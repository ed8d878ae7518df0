"""SIGINT, SIGTERM and SIGHUP, sent to the command as users, scripts and clusters send them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.field.conftest import COMMAND, environment
from tests.field.signal_moments import Bench, catches, moments

DIAGNOSE = [*COMMAND, "diagnose", "5-3-5", "--sparsity", "0.5", "--l1", "0.01", "--seed", "0"]


def test_random_moments(tmp_path: Path) -> None:
    """Each ends with 130, one sentence and no process left; the study's rows are those of an undisturbed one."""
    fired = moments(8, seed=5, bench=Bench(tmp_path, {"launch": 6.0, "diagnose": 2.0}))

    assert [moment for moment in fired if moment.wrong] == []


def test_under_nohup_a_hangup_changes_nothing(tmp_path: Path) -> None:
    """A command that was started with SIGHUP ignored goes on; SIGTERM still ends it."""
    process = subprocess.Popen(
        DIAGNOSE,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    while not catches(process.pid, signal.SIGTERM):
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.terminate()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert errors == "interrupted: what is stored is whole; give the same command again\n"
