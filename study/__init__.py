"""Does what was asked: from replicates to rows, in this process or on Ray.

`launch` and `resume` are imported when they are first used: the core (data, engines, metrics, `run_pack`) needs no Ray.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.on_ray.driver import launch, resume

__all__ = ["launch", "resume"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from study.on_ray import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'study' has no attribute {name!r}")
