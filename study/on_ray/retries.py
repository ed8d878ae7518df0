"""The faults that end a trial without rows, and how often its pack is tried again for each. `PackQueue.retry` does the retrying."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

from search_spaces.errors import MachineError
from study.on_ray.cluster import is_alive


class Fault(enum.Enum):
    """Why a trial ended without rows."""

    LOST = "its node was lost"
    DIED = "its worker died"
    STARVED = "its worker was killed because the machine ran out of memory"
    RAISED = "it raised"


TRIES = {Fault.LOST: 10, Fault.DIED: 3, Fault.STARVED: 5, Fault.RAISED: 2}
"""How often a pack may end in each fault. Lost nodes are not the pack's fault; an exception may come from a storage that failed
for a moment."""
PAUSE_SECONDS = 10.0
"""How long nothing is tried again after Ray's memory monitor has killed a worker."""


def fault_of(error: BaseException | str, node: Callable[[], str | None]) -> Fault:
    """The fault behind a trial's error; node: looks up the id of the node that it ran on, if its worker is gone."""
    if isinstance(error, str) and "running low on memory" in error:  # Tune keeps no more of Ray's OutOfMemoryError than its text
        return Fault.STARVED
    if not isinstance(error, (RayActorError, WorkerCrashedError)) or getattr(error, "actor_init_failed", False):
        return Fault.RAISED
    if isinstance(error, ActorUnavailableError) or not is_alive(node()):
        return Fault.LOST
    return Fault.DIED


def out_of_memory(error: BaseException | str) -> MachineError:
    """What to tell of a machine whose memory is used up, with the figures in Ray's text."""
    used = re.search(r"was (\S+) used / (\S+) limit", str(error))
    figures = f": {used[1]} of {used[2]} are in use" if used else ""
    return MachineError(
        f"Ray's memory monitor killed the worker of one pack {TRIES[Fault.STARVED]} times{figures}. Free memory or take fewer "
        "--workers. RAY_memory_usage_threshold=0.98 kills later than at 95 %, RAY_memory_monitor_refresh_ms=0 never."
    )
