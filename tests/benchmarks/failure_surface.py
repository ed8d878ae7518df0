"""How well failure surfaces and the map's learner do on known truths: `python -m tests.benchmarks.failure_surface`.

Prints one table; asserts nothing. Some twenty minutes on one core; names of truths and a number of seeds, as in
`python -m tests.benchmarks.failure_surface combo 2`, make it shorter. "2 % at" is the median over seeds of the number
of replicates after which less than 2 % of the volume is classified wrongly, read between batches.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.failure_surface import Surface, fit_surface, misclassified_volume
from search_spaces.learners import Rows
from search_spaces.refinement import MapSpec, Refinement
from tests.truths import DOMAIN, TRUTHS, Points, Rate, island_of, lattice, sobol

BUDGET, BATCH, SEEDS = 8_048, 1_000, 5
EVEN = (2_048, 4_096, 8_192, 16_384, 32_768)
GRIDS = (4, 6, 8, 12, 16, 24, 32, 40)
LATTICES, REPLICATES = ((12, 13), (24, 25)), (1, 5, 20, 50)
WANTED = 0.02
PLACES = sobol(16_384, 99)


@dataclass(frozen=True)
class Quality:
    """How a surface compares with the truth, in shares of the volume."""

    misclassified: float
    expected: float
    """What the surface itself expects to misclassify."""
    covered: float
    """Where 90 % intervals hold the rate."""
    covered_between: float
    """The same, of where the rate is between 0.1 and 0.9."""

    @classmethod
    def of(cls, surface: Surface, rate: Rate) -> Quality:
        truth = rate(PLACES.architecture, PLACES.u, PLACES.v)
        made = surface.at(PLACES.architecture, PLACES.sparsity, PLACES.l1)
        low, high = made.interval(0.9)
        held, between = (low <= truth) & (truth <= high), (truth > 0.1) & (truth < 0.9)
        wrong = (made.mean >= 0.5) != (truth >= 0.5)
        return cls(wrong.mean(), misclassified_volume(made), held.mean(), held[between].mean())

    def __str__(self) -> str:
        return (
            f"misclassified {self.misclassified:6.2%} (expects {self.expected:6.2%}), "
            f"covered {self.covered:.2f}, between {self.covered_between:.2f}"
        )


def main(names: list[str], seeds: int) -> None:
    """Measure and print."""
    for name in names:
        _adaptive(name, seeds)
        _even(name)
        _nearest_cell(name)
        _lattices(name)


def _line(name: str, method: str, result: str, began: float) -> None:
    print(f"{name:7} {method:34} {result}  [{time.perf_counter() - began:.0f} s]", flush=True)


def _adaptive(name: str, seeds: int) -> None:
    began = time.perf_counter()
    runs = [_run(name, seed) for seed in range(seeds)]
    reached = [_reached(path) for path, _, _ in runs]
    last = [path[BUDGET] for path, _, _ in runs]
    end = Quality(
        *(
            statistics.median(getattr(q, field) for q in last)
            for field in ("misclassified", "expected", "covered", "covered_between")
        )
    )
    _line(name, f"adaptive, {seeds} seeds, {BUDGET}", f"2 % at {_median(reached)} of {_listed(reached)}; {end}", began)
    for what, which in (("seen", 1), ("sure", 2)):
        if name in ("island", "combo"):
            _line(name, f"all four islands {what} at", _listed([run[which] for run in runs]), began)  # type: ignore[misc]


def _run(name: str, seed: int) -> tuple[dict[int, Quality], float, float]:
    """Quality after each batch, and when all islands were seen, and sure."""
    rate, rng = TRUTHS[name], np.random.default_rng(1000 + seed)
    learner, path = Refinement(MapSpec(DOMAIN, BUDGET, batch=BATCH, seed=seed)), {}
    seen = sure = math.inf
    while not learner.done:
        learner.tell(_trained(learner, rate, rng))
        if learner.told < learner.spec.first_pass:
            continue
        path[learner.told] = Quality.of(learner.surface, rate)
        made = learner.surface.on_grid()
        if _over_half_of_each_island(name, made.mean > 0.3):
            seen = min(seen, learner.told)
        if _over_half_of_each_island(name, made.exceedance(0.5) >= 0.5):
            sure = min(sure, learner.told)
    return path, seen, sure


def _trained(learner: Refinement, rate: Rate, rng: np.random.Generator) -> Rows:
    asked = learner.ask()
    names = np.repeat([str(part.architecture) for part in asked], [len(part) for part in asked])
    columns = {name: np.concatenate([getattr(part, name) for part in asked]) for name in ("sparsity", "l1", "seed")}
    p = rate(DOMAIN.index(names), DOMAIN.u(columns["sparsity"]), DOMAIN.v(columns["l1"]))
    return {"architecture": names, **columns, "failure": np.where(rng.random(len(p)) < p, "sae_dead", "none")}


def _over_half_of_each_island(name: str, holds: NDArray[np.bool_]) -> bool:
    u, v = DOMAIN.centres()
    inside = island_of(name, np.arange(8)[:, None, None], u[:, None], v)
    return all(holds[a][inside[a]].mean() >= 0.5 for a in (1, 3, 5, 7))


def _even(name: str) -> None:
    """Sobol points, one replicate each, in eight batches."""
    began, path = time.perf_counter(), {}
    for count in EVEN:
        counts = sobol(count, 1).counts(TRUTHS[name], 1, 2)
        path[count] = Quality.of(fit_surface(DOMAIN, counts, np.arange(count) * 8 // count), TRUTHS[name])
        if path[count].misclassified <= WANTED:
            break
    _line(name, "Sobol, the same surface", f"2 % at {_number(_reached(path))}; at {count} {path[count]}", began)


def _nearest_cell(name: str) -> None:
    """What people do: a lattice, ten seeds a cell, each place like the nearest cell."""
    began, path = time.perf_counter(), {}
    truth = TRUTHS[name](PLACES.architecture, PLACES.u, PLACES.v) >= 0.5
    for side in GRIDS:
        places = lattice(side, side)
        share = (places.failures(TRUTHS[name], 10, 2) / 10).reshape(8, side, side)
        nearest = (np.rint(x * (side - 1)).astype(int) for x in (PLACES.u, PLACES.v))
        wrong = float(((share[PLACES.architecture, *nearest] >= 0.5) != truth).mean())
        path[10 * len(places.u)] = Quality(wrong, math.nan, math.nan, math.nan)
    _line(name, "grid, nearest cell, 10 seeds", f"2 % at {_number(_reached(path))}; at {10 * len(places.u)} {wrong:.2%}", began)


def _lattices(name: str) -> None:
    for shape in LATTICES:
        for replicates in REPLICATES:
            began = time.perf_counter()
            places: Points = lattice(*shape)
            quality = Quality.of(fit_surface(DOMAIN, places.counts(TRUTHS[name], replicates, 3)), TRUTHS[name])
            _line(name, f"lattice {shape[0]} x {shape[1]}, {replicates} seeds a cell", str(quality), began)


def _reached(path: dict[int, Quality]) -> float:
    """Replicates at which WANTED is reached, log-linear between those measured; at most the first; inf if never."""
    before = None
    for count, quality in path.items():
        if quality.misclassified <= WANTED:
            if before is None:
                return count
            high, low = (math.log(max(q.misclassified, 1e-9)) for q in (path[before], quality))
            return before + (high - math.log(WANTED)) / (high - low) * (count - before)
        before = count
    return math.inf


def _median(values: list[float]) -> str:
    return _number(statistics.median_low(values))


def _listed(values: list[float]) -> str:
    return ", ".join(map(_number, sorted(values)))


def _number(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if not word.isdigit()]
    main(given or list(TRUTHS), next((int(word) for word in sys.argv[1:] if word.isdigit()), SEEDS))
