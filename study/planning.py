"""What a launch would cost, for `--dry-run`: replicates, packs, core-hours (calibrated on this machine), storage, precision."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces.cells import Architecture, Replicates
from search_spaces.spaces import GridSpace
from search_spaces.study_files import StudySpec
from study.engines.registry import engine_for
from study.needs import refuse_oversized
from study.packs import Pack, autoencoder_keys, estimated_seconds, missing_packs, pack_sizes, training_seconds
from study.run_pack import run_pack
from study.searching.learner_of import earlier_rows, learner_of
from study.storage.study_folder import StudyFolder

BYTES_PER_ROW = 400
"""Size of a shard per row, measured."""
CALIBRATION_SECONDS = 0.5
"""Estimated duration of the pack that is timed."""
SAMPLED = 1_000
"""Most replicates of an architecture that are made for the timing."""


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

    def _protocols(self) -> dict[str, Any]:
        if self.spec.arms:
            return {"protocols": len(self.spec.protocols)}
        return {"protocol": self.spec.protocol.name, "protocol_id": self.spec.protocol.protocol_id}

    def summary(self) -> dict[str, Any]:
        """The plan as figures, for --dry-run."""
        figures: dict[str, Any] = {
            "study": self.spec.name,
            **self._protocols(),
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
    """What the study still lacks, and what that costs. Trains and times a pack of it in this process.

    Raises MisuseError if it cannot be run.
    """
    plan, sample = untimed_plan(folder, spec, workers)
    return dataclasses.replace(plan, calibration=calibration(sample))


def untimed_plan(folder: StudyFolder, spec: StudySpec, workers: int) -> tuple[Plan, list[Pack]]:
    """The plan without its calibration, and packs to calibrate it by, of a few of the missing replicates.

    A study that holds no row yet is counted, not listed: the plan of ten million replicates takes no longer than that of ten.
    """
    refuse_oversized(spec)
    there = folder.read_shards(["replicate_id"]).rows["replicate_id"].to_pylist()
    if spec.search is not None:
        learner_of(spec, earlier_rows(folder, spec))  # raises MisuseError if the search cannot be run
        done, parts = len(there), _of_search(spec, spec.search_budget - len(there))
    elif there or not isinstance(spec.space, GridSpace):
        missing, done = missing_packs(spec, there)
        parts = [_Part(pack, len(pack), len(autoencoder_keys(pack.replicates)[0])) for pack in missing]
    else:
        done, parts = 0, _of_grid(spec, spec.space)
    counts, seconds = [part.saes for part in parts], [part.seconds for part in parts]
    sizes = pack_sizes(counts, seconds, spec.pack_size, workers)
    packs = [math.ceil(count / size) for count, size in zip(counts, sizes, strict=True)]
    largest = max((math.ceil(count / pieces) for count, pieces in zip(counts, packs, strict=True)), default=0)
    planned = done + sum(counts) if spec.search is None else spec.search_budget
    return Plan(spec, planned, done, sum(packs), largest, sum(seconds), None), [part.sample for part in parts]


@dataclass(frozen=True)
class _Part:
    """The missing replicates of one architecture."""

    sample: Pack
    """All of them, or the first."""
    saes: int
    autoencoders: int

    @property
    def seconds(self) -> float:
        """The engine's estimate for all of them."""
        of = self.sample
        return training_seconds(of.replicates.architecture, self.autoencoders, self.saes, of.protocol, of.dtype, of.known_engine)


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


def _of_grid(spec: StudySpec, space: GridSpace) -> list[_Part]:
    autoencoders = len(space.seeds) * len(space.sparsities)
    samples = [Pack(first, protocol, spec.dtype, spec.engine) for protocol, first in spec.parts(most=SAMPLED)]
    l1s = [len(arm.l1) for arm in spec.arms for _ in space.architectures] or [len(space.l1)] * len(samples)
    return [_Part(sample, autoencoders * own, autoencoders) for sample, own in zip(samples, l1s, strict=True)]


def _of_search(spec: StudySpec, count: int) -> list[_Part]:
    """Stand-ins for the replicates of a search, spread evenly over the architectures: only their cost is of interest."""
    assert isinstance(spec.space, GridSpace)
    assert spec.search is not None
    each, shared = -(-max(count, 0) // len(spec.space.architectures)), spec.search.saes_per_autoencoder
    first, parts = min(each, SAMPLED), []
    seeds, sparsity = np.arange(first) // shared, np.full(first, spec.space.sparsities[0])
    l1 = np.resize(spec.space.l1, first).astype(np.float64)
    for name in spec.space.architectures if each else ():
        replicates = Replicates(Architecture.parse(name), sparsity, l1, seeds, seeds, seeds, seeds)
        parts.append(_Part(Pack(replicates, spec.protocol, spec.dtype, spec.engine), each, -(-each // shared)))
    return parts
