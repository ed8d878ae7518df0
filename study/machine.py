"""What the machine lets this process use: its processors, and the share of them that a container grants."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path


def usable_cores() -> int:
    """The physical cores of this process, or fewer if its control groups allow it less CPU time; part of a CPU counts as one.

    Two threads of one core share its divider, which limits the speed of training.
    """
    return max(1, math.ceil(min(physical_cores(), cpu_quota())))


def physical_cores(cpus: Iterable[int] | None = None, topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """The number of physical cores of the processors (default: those of this process), or of processors if Linux does not say."""
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in cpus:
        siblings = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return len(cores)


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs' worth of time that the process's control groups and those above them allow, by version 1 or 2; inf without a limit.

    A container sees its own group as the top of its mount, though `groups` may name it as the host does.
    """
    quotas = [math.inf]
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            top = mounts / controllers
            group = top / path.lstrip("/")
            quotas += (_quota_of(folder) for folder in (group, *group.parents) if folder.is_relative_to(top))
    return min(quotas)


def _quota_of(group: Path) -> float:
    """quota / period, from `cpu.max` (version 2) or two files (version 1); no limit is written as `max` or -1."""
    files = (group / name for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    quota, *period = " ".join(file.read_text() for file in files if file.is_file()).split() or ["max"]
    return int(quota) / int(period[0]) if quota.isdigit() and period else math.inf
