"""Studies on Ray Tune. Ray's environment is set here, before any file of this package imports Ray."""

import os
import sys

from search_spaces.errors import MisuseError

if sys.flags.optimize > 1:
    raise MisuseError("Python runs without docstrings (-OO or PYTHONOPTIMIZE=2), which Ray cannot do. Unset it, or use -O.")

# Read by Ray as it is imported: no telemetry, no chatter, result lines through the JSON logger alone, and a relative
# path means the same in a worker as here.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # at SIGTERM it prints the frames of C++
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}.items():
    os.environ.setdefault(_name, _value)
