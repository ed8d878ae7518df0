"""How many replicates it takes to map known truths, and whether the map knows its errors: `python -m tests.benchmarks.refinement`.

Prints the tables of docs/map.md; asserts nothing. An hour on one core. Names of truths or families, as in
`python -m tests.benchmarks.refinement combo islets`, make it shorter, and so does a number of runs. `pip install adaptive` adds its
LearnerND to the table.

Random truths are drawn from seeds FIRST_SEED and up, which no method was tuned on.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.learners.contract import Rows
from search_spaces.learners.failure_map import MapSpec, Refinement
from search_spaces.searches import MapSearch
from search_spaces.surface.surface import fit_surface
from tests.benchmarks.failure_surface import PLACES, Quality
from tests.benchmarks.machine import machine
from tests.truths import DOMAIN, FAMILIES, TRUTHS, Rate, drawn, island_of, lattice, sobol

BUDGET, WANTED = 8_000, 0.02
RUNS, ISLAND_RUNS, FIRST_SEED = 10, 40, 90_001
EVEN = (2_048, 4_096, 8_192, 16_384, 32_768)
GRIDS, SEEDS_A_CELL = (4, 6, 8, 12, 16, 24, 32, 40), 10
SEEDS_A_POINT, MOST_RUNS = 20, 32_000
ISLANDS = ("island", "combo")
"""Truths that have some, of architectures 1, 3, 5 and 7; their runs go on to the end of the budget."""
NEGLIGIBLE = 0.001
"""Misclassified volumes below this share are not compared with what was expected, unless more than this was."""


def rate_of(name: str, seed: int) -> Rate:
    """A fixed truth, or one of a family."""
    return TRUTHS[name] if name in TRUTHS else drawn(name, seed)


@dataclass
class Run:
    """One search."""

    path: dict[int, float] = field(default_factory=dict)
    """Misclassified volume after so many replicates."""
    seen: float = math.inf
    """Replicates after which the mean is above 0.3 over half of every island."""
    sure: float = math.inf
    """And q = P(rate ≥ 0.5) at least ½."""
    end: Quality | None = None
    """Where the search stopped."""

    @property
    def reached(self) -> float:
        """Replicates at which WANTED is reached, log-linear between those measured; at most the first; inf if never."""
        before = None
        for count, wrong in self.path.items():
            if wrong <= WANTED:
                if before is None:
                    return count
                high, low = (math.log(max(share, 1e-9)) for share in (self.path[before], wrong))
                return before + (high - math.log(WANTED)) / (high - low) * (count - before)
            before = count
        return math.inf


def searched(name: str, seed: int) -> Run:
    """Our learner, until it expects to misclassify at most WANTED (not where there are islands) or its budget is spent."""
    rate, rng, run = rate_of(name, seed), np.random.default_rng((1_000, seed)), Run()
    truth = _fails(rate)
    precision = None if name in ISLANDS else WANTED
    learner = Refinement(MapSpec(DOMAIN, MapSearch(budget=BUDGET, misclassified_volume=precision), seed=seed))
    while not learner.done:
        learner.tell(_trained(learner, rate, rng))
        if learner.replicates < learner.spec.search.first_pass:
            continue
        made = learner.surface.at(PLACES.architecture, PLACES.sparsity, PLACES.l1)
        run.path[learner.replicates] = float(((made.mean >= 0.5) != truth).mean())
        if name in ISLANDS and math.isinf(run.sure):
            made = learner.surface.on_grid()
            if _over_half_of_each_island(name, made.mean > 0.3):
                run.seen = min(run.seen, learner.replicates)
            if _over_half_of_each_island(name, made.exceedance(0.5) >= 0.5):
                run.sure = learner.replicates
    run.end = Quality.of(learner.surface, rate)
    print(f"{name}, run {seed}: 2 % at {run.reached:.0f}, islands sure at {run.sure:.0f}; {run.end}", file=sys.stderr, flush=True)
    return run


def _trained(learner: Refinement, rate: Rate, rng: np.random.Generator) -> Rows:
    asked = learner.ask()
    names = np.repeat([str(part.architecture) for part in asked], [len(part) for part in asked])
    columns = {name: np.concatenate([getattr(part, name) for part in asked]) for name in ("sparsity", "l1", "seed")}
    p = rate(DOMAIN.index(names), DOMAIN.x.to_unit(columns["sparsity"]), DOMAIN.y.to_unit(columns["l1"]))
    return {"architecture": names, **columns, "failure": np.where(rng.random(len(p)) < p, "sae_dead", "none")}


def _fails(rate: Rate) -> NDArray[np.bool_]:
    return rate(PLACES.architecture, PLACES.u, PLACES.v) >= 0.5


def _over_half_of_each_island(name: str, holds: NDArray[np.bool_]) -> bool:
    u, v = DOMAIN.centres()
    inside = island_of(name, np.arange(8)[:, None, None], u[:, None], v)
    return all(holds[a][inside[a]].mean() >= 0.5 for a in (1, 3, 5, 7))


def even(name: str, seed: int) -> Run:
    """Sobol points, one replicate each, and our surface, told in two batches."""
    run = Run()
    for count in EVEN:
        counts = sobol(count, seed).counts(rate_of(name, seed), 1, 1_000 + seed)
        surface = fit_surface(DOMAIN, counts, np.arange(count) * 2 // count)
        run.path[count] = Quality.of(surface, rate_of(name, seed)).misclassified
        if run.path[count] <= WANTED:
            break
    return run


def nearest_cell(name: str, seed: int) -> Run:
    """The usual way: a lattice, ten seeds per cell, each place like the nearest cell."""
    run = Run()
    for side in GRIDS:
        places = lattice(side, side)
        share = (places.failures(rate_of(name, seed), SEEDS_A_CELL, 1_000 + seed) / SEEDS_A_CELL).reshape(8, side, side)
        nearest = (np.rint(x * (side - 1)).astype(int) for x in (PLACES.u, PLACES.v))
        wrong = (share[PLACES.architecture, *nearest] >= 0.5) != _fails(rate_of(name, seed))
        run.path[SEEDS_A_CELL * len(places.u)] = float(wrong.mean())
    return run


def learner_nd(name: str, seed: int) -> Run:
    """`adaptive.LearnerND`, one per architecture, on rates over 20 seeds: triangles across the level weigh ten times as much."""
    import adaptive  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from adaptive.learner.learnerND import volume  # type: ignore[import-not-found, import-untyped, unused-ignore]

    def loss(simplex: Any, values: Any, _scale: Any) -> float:
        return float(volume(simplex)) * (1.0 if min(values) < 0.5 <= max(values) else 0.1)

    rate, rng, run = rate_of(name, seed), np.random.default_rng(1_000 + seed), Run()
    learners = [adaptive.LearnerND(None, bounds=[(0, 1), (0, 1)], loss_per_simplex=loss) for _ in range(8)]
    together = adaptive.BalancingLearner(learners, strategy="loss_improvements")
    for count in range(0, MOST_RUNS, 8 * SEEDS_A_POINT):
        for point in together.ask(8)[0]:
            a, (u, v) = point
            together.tell(point, rng.binomial(SEEDS_A_POINT, rate(np.array(a), np.array(u), np.array(v))) / SEEDS_A_POINT)
        if count % (64 * SEEDS_A_POINT) == 0 and count:
            rates = np.empty(len(PLACES.u))
            for a, learner in enumerate(learners):
                here = PLACES.architecture == a
                rates[here] = learner._ip()(np.stack([PLACES.u[here], PLACES.v[here]], axis=1)).ravel()
            run.path[count + 8 * SEEDS_A_POINT] = float(((rates >= 0.5) != _fails(rate)).mean())
            if run.path[count + 8 * SEEDS_A_POINT] <= WANTED:
                break
    return run


OTHERS = {
    "Sobol points, our surface": even,
    "`adaptive.LearnerND`, 20 seeds per point": learner_nd,
    "grid, nearest cell, 10 seeds": nearest_cell,
}


def main(names: list[str], runs: int) -> None:
    """Measure and print."""
    print(machine())
    ours = {}
    for name in names:
        seeds = range(FIRST_SEED, FIRST_SEED + (4 * runs if name == "island" else runs))
        ours[name] = [searched(name, seed) for seed in seeds]
    print("\n".join(_own_table(ours)), flush=True)
    print()
    print("\n".join(_comparison({name: found for name, found in ours.items() if name != "island"})))


def _own_table(ours: dict[str, list[Run]]) -> Iterator[str]:
    yield (
        "| truth | runs | 2 % at, median (range) | stopped at | misclassified then | expected / true, median (range) | within 2 | "
        "regret, expected / true | cov | covbz | islands seen | sure |"
    )
    yield "|" + " --- |" * 12
    for name, runs in ours.items():
        ends = [run.end for run in runs if run.end]
        stopped = statistics.median(max(run.path) for run in runs)
        wrong = statistics.median(end.misclassified for end in ends)
        ratios = [end.expected / end.misclassified for end in ends if end.misclassified >= NEGLIGIBLE]
        right = [end.expected <= 2 * NEGLIGIBLE for end in ends if end.misclassified < NEGLIGIBLE] + [0.5 <= r <= 2 for r in ratios]
        regrets = [end.expected_regret / end.regret for end in ends if end.regret >= NEGLIGIBLE / 2]
        covered = [_finite(getattr(end, share) for end in ends) for share in ("covered", "covered_between")]
        islands = [_of_runs([getattr(run, when) for run in runs]) if name in ISLANDS else "–" for when in ("seen", "sure")]
        told = [f"{stopped:,.0f}", f"{wrong:.2%}", _range(ratios), f"{sum(right)} of {len(right)}", _range(regrets)]
        told += [f"{statistics.mean(shares):.3f}" if shares else "–" for shares in covered]
        yield f"| {' | '.join([name, str(len(runs)), _median(runs), *told, *islands])} |"


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "–"


def _comparison(ours: dict[str, list[Run]]) -> Iterator[str]:
    yield f"| method | {' | '.join(ours)} |"
    yield f"| --- |{' --- |' * len(ours)}"
    yield f"| **the map** | {' | '.join(map(_median, ours.values()))} |"
    for method, measure in OTHERS.items():
        cells = []
        for name, runs in ours.items():
            seeds = range(FIRST_SEED, FIRST_SEED + (len(runs) if method.startswith("Sobol") else 1))
            try:
                cells.append(_median([measure(name, seed) for seed in seeds]))
            except ImportError:
                cells.append("not installed: `pip install adaptive`")
        yield f"| {method} | {' | '.join(cells)} |"


def _median(runs: list[Run]) -> str:
    """The median of where the runs reach WANTED, with the range."""
    reached = sorted(run.reached for run in runs)
    most = max(max(run.path) for run in runs)
    low, middle, high = (
        f"{value:,.0f}" if value < math.inf else f"> {most:,}" for value in (reached[0], statistics.median(reached), reached[-1])
    )
    return middle if low == high else f"{middle} ({low}–{high})"


def _of_runs(values: list[float]) -> str:
    """How many there are of the runs, and their median."""
    there = [value for value in values if value < math.inf]
    return f"{len(there)} of {len(values)}" + (f", median {statistics.median(there):,.0f}" if there else "")


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if not word.isdigit()]
    main(given or [*TRUTHS, *FAMILIES], next((int(word) for word in sys.argv[1:] if word.isdigit()), RUNS))
