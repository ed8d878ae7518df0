"""Does what was asked: from replicates to rows, in this process or on Ray.

`launch` and `resume` are imported when they are first used: the core (data, engines, metrics, `run_pack`) needs no Ray.
`run_here` needs none either; it is imported likewise, because engines take a while to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import study.variants.registry  # noqa: F401  (protocols may name the variants from now on)

if TYPE_CHECKING:
    from study.in_process import run_here
    from study.on_ray.driver import launch, resume

__all__ = ["launch", "resume", "run_here"]

_MODULES = {"launch": "study.on_ray.driver", "resume": "study.on_ray.driver", "run_here": "study.in_process"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'study' has no attribute {name!r}")
