"""How few trained replicates the map needs on real failures: `python -m tests.benchmarks.real_map FOLDER`.

The truth is a dense grid of 5-3-5 and 10-5-10: 32 sparsities × 32 l1 × 64 seeds, trained once (some six minutes of one core)
and kept in FOLDER. The map trains replicates of other seeds, until few enough of the grid's cells are on the wrong side
of the level. Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search_spaces import PROTOCOLS, Architecture, Replicates
from search_spaces.failures import failed
from search_spaces.learners.contract import LEARNED_FROM, Rows
from search_spaces.learners.failure_map import MapSpec, Refinement
from search_spaces.searches import MapSearch
from search_spaces.surface.surface import Surface
from study.packs import Pack
from study.run_pack import run_pack
from tests.truths import domain_over

Floats = NDArray[np.float64]

DOMAIN = domain_over(("5-3-5", "10-5-10"), sparsity=(0.3, 0.98), l1=(1e-4, 1.0))
SIDE, SEEDS = 32, 64
FIRST_SEED = 1_000_000
"""Of the grid; the map's seeds start at 0."""
BUDGET, FIRST_PASS, BATCH, RUNS = 1_024, 256, 64, 5
CLEAR = 0.06
"""A cell whose measured rate is nearer to the level is on no side: 64 seeds cannot tell."""
WANTED = 0.02


def trained(replicates: Replicates) -> pa.Table:
    """The rows of packs, with the columns that a learner needs."""
    return run_pack(Pack(replicates, PROTOCOLS["dissertation"], "float32", "compiled")).select(LEARNED_FROM)


def grid_rows(folder: Path) -> pa.Table:
    """All replicates of the grid, from the folder or trained now, one sparsity at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for architecture in DOMAIN.architectures:
        for sparsity in DOMAIN.x.from_unit(np.linspace(0, 1, SIDE)):
            path = folder / f"{architecture}_{sparsity:.6f}.parquet"
            if not path.exists():
                l1, seed = (
                    part.ravel() for part in np.meshgrid(DOMAIN.y.from_unit(np.linspace(0, 1, SIDE)), np.arange(SEEDS) + FIRST_SEED)
                )
                replicates = Replicates(Architecture.parse(architecture), np.full(len(l1), sparsity), l1, seed, seed, seed, seed)
                pq.write_table(trained(replicates), path)
            parts.append(pq.read_table(path))
    return pa.concat_tables(parts)


def columns(table: pa.Table) -> Rows:
    """The rows as a learner gets them."""
    return {name: table[name].to_numpy() for name in LEARNED_FROM}


@dataclass(frozen=True, eq=False)
class Truth:
    """The grid's failures of one kind."""

    name: str
    failures: NDArray[np.int64]
    """(cells,): of SEEDS replicates each."""
    architecture: NDArray[np.str_]
    sparsity: Floats
    l1: Floats

    @classmethod
    def of(cls, rows: Rows, name: str) -> Truth:
        """Counted cell by cell; the rows of a cell stand SIDE · SEEDS apart at most, in any order."""
        order = np.lexsort((rows["l1"], rows["sparsity"], rows["architecture"].astype(str)))
        failures = failed(rows, name)[order].reshape(-1, SEEDS).sum(1)
        columns = (rows[column][order][::SEEDS] for column in ("architecture", "sparsity", "l1"))
        return cls(name, failures, *columns)

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Cells that are clearly on one side of the level."""
        return np.abs(self.failures / SEEDS - 0.5) > CLEAR

    def misclassified(self, surface: Surface) -> float:
        """The share of clear cells that the surface puts on the wrong side."""
        mean = surface.at(self.architecture, self.sparsity, self.l1).mean
        return float(((mean >= 0.5) != (self.failures / SEEDS >= 0.5))[self.clear].mean())

    def covered(self, surface: Surface) -> tuple[float, float]:
        """The share of cells whose measured rate 95 % intervals hold, and whose count 95 % prediction intervals hold.

        A measured rate strays from the true one, by 0.06 at a half; prediction intervals of counts allow for that.
        """
        made = surface.at(self.architecture, self.sparsity, self.l1)
        low, high = made.interval()
        rate = self.failures / SEEDS
        chance = np.exp([made.log_chance(np.full(len(rate), k), np.full(len(rate), SEEDS)) for k in range(SEEDS + 1)])
        upto = np.cumsum(chance / chance.sum(0), axis=0)
        at = self.failures, np.arange(len(rate))
        predicted = (upto[at] >= 0.025) & (1 - upto[at] + chance[at] >= 0.025)
        return float(((low <= rate) & (rate <= high)).mean()), float(predicted.mean())


@dataclass(frozen=True)
class Outcome:
    """The outcome of one search."""

    reached: float
    """Replicates after which WANTED is met first; inf: never."""
    kept: float
    """And from which on it is met to the end."""
    covered: tuple[float, float]
    """At `reached`, or at the end."""


def search(truth: Truth, seed: int) -> Outcome:
    """Train what the learner asks for, until the budget is spent."""
    wanted = MapSearch(budget=BUDGET, failure=truth.name, first_pass=FIRST_PASS)
    learner = Refinement(MapSpec(DOMAIN, wanted, batch=BATCH, seed=seed))
    reached = kept = math.inf
    covered = None
    while not learner.done:
        learner.tell(columns(pa.concat_tables(trained(asked) for asked in learner.ask())))
        if learner.replicates < FIRST_PASS:
            continue
        if truth.misclassified(learner.surface) > WANTED:
            kept = math.inf
            continue
        reached, kept = min(reached, learner.replicates), min(kept, learner.replicates)
        covered = covered or truth.covered(learner.surface)
    return Outcome(reached, kept, covered or truth.covered(learner.surface))


def main(folder: Path) -> None:
    """Measure and print."""
    rows = columns(grid_rows(folder))
    print("| failure | clear cells | 2 % at, median (runs) | and kept from | intervals hold, rates | counts |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("any", "sae_dead"):
        truth = Truth.of(rows, name)
        found = [search(truth, seed) for seed in range(RUNS)]
        reached, kept = ([getattr(run, field) for run in found] for field in ("reached", "kept"))
        rates, counts = (statistics.median(run.covered[which] for run in found) for which in (0, 1))
        listed = ", ".join(_number(value) for value in sorted(reached))
        print(
            f"| `{name}` | {truth.clear.sum()} of {len(truth.clear)} | {_number(statistics.median(reached))} ({listed}) "
            f"| {_number(statistics.median(kept))} | {rates:.2f} | {counts:.2f} |",
            flush=True,
        )


def _number(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
