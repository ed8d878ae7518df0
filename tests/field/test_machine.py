"""Machines that grant little: variables of others, folders that cannot be written, small shared memory, few processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.conftest import Run

HOSTILE = {
    "RAY_ADDRESS": "127.0.0.1:1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "RAY_CLIENT_MODE": "1",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "no json",
    "RAY_RUNTIME_ENV_HOOK": "no.such",
    "RAY_USE_TLS": "1",
    "RAY_grpc_enable_http_proxy": "1",
    "http_proxy": "http://127.0.0.1:9",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "seldom",
    "TUNE_RESULT_BUFFER_LENGTH": "long",
    "NUMBA_DISABLE_JIT": "1",
    "NUMBA_NUM_THREADS": "0",
    "OMP_NUM_THREADS": "many",
    "PYTHONWARNINGS": "error",
    "LC_ALL": "xx_YY",
    "TZ": "Mars/Phobos",
}
MATPLOTLIBRC = "text.usetex: True\nbackend: TkAgg\nfont.family: no such font\nsavefig.dpi: 1000\n"
NOBODY = (
    "setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "  # reads only
)


def test_variables_of_others_change_nothing(sae_study: Run, tiny_file: Path, tmp_path: Path) -> None:
    """A study launches among them, no file of Tune lies elsewhere, and its report is drawn."""
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC)
    env = {**HOSTILE, "TUNE_RESULT_DIR": str(tmp_path / "elsewhere"), "MPLBACKEND": "no.backend", "MPLCONFIGDIR": "/proc/no"}
    done = sae_study("launch", tiny_file, "--storage", "x", "--workers", 1, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (0, done.stderr.count("replicates")), done.stderr
    assert not (tmp_path / "elsewhere").exists()
    report = sae_study("report", "tiny", "--storage", "x", env=env)
    assert (report.returncode, report.stderr) == (0, ""), report.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RAY_TMPDIR", "/tmp/" + "x" * 99, "RAY_TMPDIR="),
        ("RAY_TMPDIR", "/proc/no", "RAY_TMPDIR="),
        ("RAY_LOG_MONITOR_MAX_OPEN_FILES", "many", "RAY_LOG_MONITOR_MAX_OPEN_FILES"),
        ("PYTHONOPTIMIZE", "2", "PYTHONOPTIMIZE=2"),
    ],
)
def test_a_variable_that_stops_ray_is_named(sae_study: Run, tiny_file: Path, variable: str, value: str, said: str) -> None:
    done = sae_study("launch", tiny_file, "--storage", "x", "--workers", 1, env={variable: value})
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_stranger_without_a_home_trains(in_namespace: Run, tiny_file: Path) -> None:
    """A user unknown to the machine, no HOME, somebody else's folder of Ray, read-only shared memory: nothing is in the way."""
    done = in_namespace(
        "mkdir t t/ray x && chmod 777 t x && mount -t tmpfs -o ro tmpfs /dev/shm && export TMPDIR=$PWD/t && "
        f"unset HOME XDG_CACHE_HOME && {NOBODY} $SAE_STUDY launch tiny.yaml --storage x/s --workers 1",
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "4 replicates trained" in done.stdout
