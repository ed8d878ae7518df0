"""Processors that a process may use, from files as Linux writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from study import machine
from study.machine import cpu_quota, physical_cores, usable_cores


def written(top: Path, files: dict[str, str]) -> Path:
    """Files of these texts in a folder."""
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


V1 = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/user.slice/a\n", {"user.slice/cpu.max": "50000 100000\n", "user.slice/a/cpu.max": "max 100000\n"}, 0.5),
        ("0::/docker/seen-by-the-host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("4:memory:/\n3:cpu:/\n0::/\n", {f"cpu/{name}": text for name, text in V1.items()}, 1.5),
        ("3:cpu,cpuacct:/a\n", {f"cpu,cpuacct/a/{name}": text for name, text in V1.items()}, 1.5),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("3:cpuset:/\n", {f"cpuset/{name}": text for name, text in V1.items()}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_the_quota_is_the_least_of_all_groups(groups: str, files: dict[str, str], quota: float, tmp_path: Path) -> None:
    """Versions 1 and 2, groups and those above them, and a container whose own group is the top of its mount."""
    own = tmp_path / "cgroup"
    own.write_text(groups)
    assert cpu_quota(own, written(tmp_path / "mounts", files)) == quota


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    files = {f"cpu{cpu}/topology/thread_siblings_list": f"{text}\n" for cpu, text in siblings.items()}
    assert physical_cores([0, 1, 2, 3], written(tmp_path, files)) == 2
    assert physical_cores([0, 2], tmp_path) == 1
    assert physical_cores([0, 1, 2, 3], tmp_path / "nothing") == 4


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 8), (2.0, 2), (1.5, 2), (0.1, 1), (64.0, 8)])
def test_part_of_a_cpu_counts_as_one(quota: float, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of cores and quota, and never none."""
    monkeypatch.setattr(machine, "physical_cores", lambda: 8)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert usable_cores() == cores
