"""What a launch would cost, for `--dry-run`: replicates, packs, core-hours (calibrated on this machine), storage, precision."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces.cells import Architecture, Replicates
from search_spaces.spaces import GridSpace
from search_spaces.study_files import StudySpec
from study.engines.registry import engine_for
from study.packs import Pack, estimated_seconds, missing_packs, plan_packs
from study.run_pack import run_pack
from study.searching.learner_of import earlier_rows, learner_of
from study.storage.study_folder import StudyFolder

BYTES_PER_ROW = 400
"""Size of a shard per row, measured."""
CALIBRATION_SECONDS = 0.5
"""Estimated duration of the pack that is timed."""


@dataclass(frozen=True)
class Plan:
    """What a launch would do."""

    spec: StudySpec
    planned: int
    """Replicates of the study; for a search, the most that it trains."""
    done: int
    packs: int
    replicates_per_pack: int
    estimated_core_seconds: float
    """Cost of the missing replicates by the engine's own estimate."""
    calibration: float | None
    """Measured time over estimated time for one pack of the study; None if nothing is missing or the engine is `torch`."""

    def summary(self) -> dict[str, Any]:
        """The plan as figures, for --dry-run."""
        figures: dict[str, Any] = {
            "study": self.spec.name,
            "protocol": self.spec.protocol.name,
            "protocol_id": self.spec.protocol.protocol_id,
            "engine": engine_for(self.spec.engine, self.spec.protocol).name,
            "dtype": self.spec.dtype,
            "replicates": self.planned,
            "already_done": self.done,
            "packs": self.packs,
            "replicates_per_pack": self.replicates_per_pack,
            "core_hours": self.estimated_core_seconds * (self.calibration or 1.0) / 3600,
            "calibration": self.calibration,
            "storage_megabytes": (self.planned - self.done) * BYTES_PER_ROW / 1e6,
        }
        search, space = self.spec.search, self.spec.space
        return figures | search.plan(space) if search and isinstance(space, GridSpace) else figures


def plan_study(folder: StudyFolder, spec: StudySpec, workers: int) -> Plan:
    """What the study still lacks, and what that costs. Trains and times a pack of it in this process."""
    there = folder.read_shards(["replicate_id"]).rows["replicate_id"].to_pylist()
    if spec.search is None:
        missing, done = missing_packs(spec, there)
        planned = done + sum(map(len, missing))
    else:
        learner_of(spec, earlier_rows(folder, spec))  # raises MisuseError if the search cannot be run
        done, planned = len(there), spec.search_budget
        missing = _of_search(spec, planned - done)
    packs = plan_packs(missing, spec.pack_size, workers)
    largest = max(map(len, packs), default=0)
    return Plan(spec, planned, done, len(packs), largest, sum(map(estimated_seconds, missing)), calibration(missing))


def calibration(wanted: list[Pack]) -> float | None:
    """Measured over estimated processor seconds for a part of the costliest pack. One replicate is trained first, to compile."""
    if not wanted or wanted[0].engine == "torch":
        return None
    pack = max(wanted, key=lambda pack: estimated_seconds(pack) / len(pack))
    share = min(1.0, CALIBRATION_SECONDS / estimated_seconds(pack))
    pack = pack.take(slice(0, max(1, int(share * len(pack)))))
    run_pack(pack.take(slice(0, 1)))
    began = time.process_time()
    run_pack(pack)
    return (time.process_time() - began) / estimated_seconds(pack)


def _of_search(spec: StudySpec, count: int) -> list[Pack]:
    """Stand-ins for the replicates of a search, spread evenly over the architectures: only their cost is of interest."""
    assert isinstance(spec.space, GridSpace)
    assert spec.search is not None
    each = -(-max(count, 0) // len(spec.space.architectures))
    packs = []
    for name in spec.space.architectures if each else ():
        seeds = np.arange(each) // spec.search.saes_per_autoencoder
        l1 = np.resize(spec.space.l1, each).astype(np.float64)
        sparsity = np.full(each, spec.space.sparsities[0])
        replicates = Replicates(Architecture.parse(name), sparsity, l1, seeds, seeds, seeds, seeds)
        packs.append(Pack(replicates, spec.protocol, spec.dtype, spec.engine))
    return packs
