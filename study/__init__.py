"""Trains and judges replicates: from replicates to result rows, in this process or on Ray.

The entry points:

* `launch` and `resume` (`study/on_ray/driver.py`) train a study on Ray Tune and store its rows.
* `start` (`study/detached.py`) does the same in a process of its own, and returns at once.
* `run_here` (`study/in_process.py`) trains a study in this process and returns its rows.

They are imported on first use: the core (data, engines, metrics, `run_pack`) needs no Ray, and engines take a while to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import study.variants.registry  # noqa: F401  (registers the variants that protocols may name)

if TYPE_CHECKING:
    from study.detached import start
    from study.in_process import run_here
    from study.on_ray.driver import launch, resume

__all__ = ["launch", "resume", "run_here", "start"]

_MODULES = {
    "launch": "study.on_ray.driver",
    "resume": "study.on_ray.driver",
    "run_here": "study.in_process",
    "start": "study.detached",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'study' has no attribute {name!r}")
