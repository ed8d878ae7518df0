"""Studies on Ray Tune. What Ray, Tune and its workers read from the environment is settled here, before any file imports Ray."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from search_spaces.errors import MisuseError

if sys.flags.optimize > 1:
    raise MisuseError("Python runs without docstrings (-OO or PYTHONOPTIMIZE=2), which Ray cannot do. Unset it, or use -O.")

SET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # at SIGTERM it prints the frames of C++
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}
"""No telemetry, no chatter, result lines through the JSON logger alone, and a relative path means the same in a worker as here."""
OBEYED = ("RAY_memory_",)
"""What the variables begin with that a local Ray obeys: at which use of memory it kills a worker."""
OF_PYTHON = ("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONVERBOSE", "PYTHONWARNINGS")
"""They stop Ray's own processes, or fill its logs."""

os.environ.update(SET)
for _name in [name for name in os.environ if name.startswith("TUNE_") and name not in SET] + ["RAY_CLIENT_MODE"]:
    os.environ.pop(_name, None)
try:
    Path.home()
except RuntimeError:  # a user whom the machine does not know, as in a container; Tune cannot be imported without a home
    os.environ["HOME"] = "/"
try:
    import ray  # noqa: F401
except ValueError as error:
    _theirs = sorted(name for name in os.environ if name.startswith("RAY_") and name not in SET)
    raise MisuseError(f"Ray cannot be imported: {error}. One of its variables has a wrong value: {', '.join(_theirs)}.") from None


@contextlib.contextmanager
def local_environment() -> Iterator[None]:
    """A context with the variables by which a local Ray starts: the caller's, but for those of Ray, which may be a cluster's.

    It gets a token of its own. Ray would write one to the user's home, which may not be writable, and a cluster that is started
    later would require it.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_") or name in OF_PYTHON}
    for name in before:
        if name not in SET and not name.startswith(OBEYED):
            del os.environ[name]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]
        os.environ.update(before)
