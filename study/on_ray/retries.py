"""The faults that end a trial without rows, and how often its pack is tried again for each. `PackQueue.retry` does the retrying."""

from __future__ import annotations

import enum
from collections.abc import Callable

from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

from study.on_ray.cluster import is_alive


class Fault(enum.Enum):
    """Why a trial ended without rows."""

    LOST = "its node was lost"
    DIED = "its worker died"
    RAISED = "it raised"


TRIES = {Fault.LOST: 10, Fault.DIED: 3, Fault.RAISED: 2}
"""How often a pack may end in each fault. Lost nodes are not the pack's fault; an exception may come from a storage that failed
for a moment."""


def fault_of(error: BaseException | str, node: Callable[[], str | None]) -> Fault:
    """The fault behind a trial's error; node: looks up the id of the node that it ran on, if its worker is gone."""
    if not isinstance(error, (RayActorError, WorkerCrashedError)) or getattr(error, "actor_init_failed", False):
        return Fault.RAISED
    if isinstance(error, ActorUnavailableError) or not is_alive(node()):
        return Fault.LOST
    return Fault.DIED
