"""How failure regions and rates compare with known truths: `python -m tests.benchmarks.regions`.

Prints tables in Markdown; asserts nothing. Some ten minutes on one core; names of truths and a number of repetitions, as in
`python -m tests.benchmarks.regions combo 1`, make it shorter. A truth is one of `tests.truths`, or a flat rate. The last table
draws its truths afresh, from seeds FIRST_SEED and up; its seeds share their luck over all cells and architectures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.stats import norm

from analysis.rates.cells import rate_interval
from analysis.rates.regions import Region, failure_regions
from analysis.rates.tally import Tally
from search_spaces.surface.posterior import Posterior
from search_spaces.surface.surface import Surface
from tests.benchmarks.machine import machine
from tests.truths import DOMAIN, FAMILIES, TRUTHS, Rate, drawn, sobol

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL, SURE = 0.5, 0.95
FLAT = ("0.3", "0.45", "0.499")
SHAPES = {"8 × 12 × 13": (tuple(range(8)), 12, 13), "2 × 24 × 24": ((3, 4), 24, 24)}
"""Architectures (places in DOMAIN), sparsities, l1 values."""
SEEDS = (1, 2, 5, 20, 50)
REPEATS, FLAT_REPEATS = 3, 15
PLACES = sobol(8_192, 99)
STUDIES, FIRST_SEED, CORRELATIONS = 200, 91_001, (0.0, 0.4, 0.8)
"""Of the last table: simulated studies per row, and correlations of a seed's outcomes between cells (of a hidden normal)."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """A study's cells, (A, U, V), and their true rate."""

    truth: str
    shape: str

    @property
    def at(self) -> tuple[Ints, Floats, Floats]:
        """Architecture in DOMAIN, u, v of every cell."""
        own, us, vs = SHAPES[self.shape]
        a, i, j = np.indices((len(own), us, vs))
        return np.array(own)[a], i / (us - 1), j / (vs - 1)

    def rate(self, a: Ints, u: Floats, v: Floats) -> Floats:
        """The true rate."""
        return np.full(u.shape, float(self.truth)) if self.truth in FLAT else TRUTHS[self.truth](a, u, v)

    def frame(self, seeds: int, seed: int) -> pd.DataFrame:
        """A simulated study's rows; outcomes are independent, with one autoencoder per replicate."""
        a, u, v = (np.repeat(axis.ravel(), seeds) for axis in self.at)
        fails = np.random.default_rng(seed).random(len(a)) < self.rate(a, u, v)
        return pd.DataFrame(
            {
                "architecture": np.array(DOMAIN.architectures, dtype=object)[a],
                "sparsity": DOMAIN.x.from_unit(u),
                "l1": DOMAIN.y.from_unit(v),
                "seed": np.tile(np.arange(seeds), len(a) // seeds),
                "failure": np.where(fails, "sae_dead", "none"),
                "sae_all_dead": fails,
            }
        )

    def cells(self, region: Region) -> NDArray[np.bool_]:
        """(A, U, V): the box around a region."""
        a, u, v = self.at
        sparsity, l1 = DOMAIN.x.from_unit(u), DOMAIN.y.from_unit(v)
        inside = np.isin(np.array(DOMAIN.architectures)[a], region.architectures)
        for axis, (low, high) in ((sparsity, region.extents["sparsity"]), (np.log10(l1), np.log10(region.extents["l1"]))):
            inside &= (axis >= low - 1e-9) & (axis <= high + 1e-9)
        return inside


@dataclass(frozen=True)
class Told:
    """What the regions and rates of one simulated study said, and how far that was right; NaN where there is nothing to count."""

    sizes: tuple[int, ...]
    """Cells of the true regions."""
    seen: tuple[bool, ...]
    """Whether the surface's mean reaches the level in at least half of each one's cells."""
    sure: tuple[bool, ...]
    """And whether a sure region's cells are among them."""
    reported: int
    sure_regions: int
    false_sure: int
    """Sure regions whose box holds no cell of a true rate at the level."""
    covered: float
    covered_between: float
    kept: float
    """Names of half the seeds' sure regions that are there with all seeds."""


def told(lattice: Lattice, seeds: int, seed: int) -> Told:
    """Make a study, compute its regions and rates, compare them with the truth."""
    frame = lattice.frame(seeds, seed)
    regions = failure_regions(frame, level=LEVEL)
    sure = [region for region in regions if region.confidence >= SURE]
    truth = lattice.rate(*lattice.at)
    labels, count = label(truth >= LEVEL)
    parts = [labels == number for number in range(1, count + 1)]
    if lattice.truth in FLAT:
        return Told((), (), (), len(regions), len(sure), len(sure), np.nan, np.nan, np.nan)
    surface = Tally.of(frame).surface(frame["failure"].to_numpy() != "none")
    mean = surface.at(_names(lattice.at[0]), frame_axis(lattice, 0), frame_axis(lattice, 1)).mean.reshape(truth.shape)
    inside = [lattice.cells(region) & (mean >= LEVEL) for region in sure]
    seen = [((mean >= LEVEL) & part).sum() >= part.sum() / 2 for part in parts]
    found = [saw and any((own & part).any() for own in inside) for saw, part in zip(seen, parts)]
    return Told(
        tuple(int(part.sum()) for part in parts),
        tuple(map(bool, seen)),
        tuple(found),
        len(regions),
        len(sure),
        sum(not (own & (truth >= LEVEL)).any() for own in inside),
        *_covered(lattice, surface),
        _kept(frame, seeds, sure),
    )


def _names(a: Ints) -> list[str]:
    return np.array(DOMAIN.architectures)[a.ravel()].tolist()


def frame_axis(lattice: Lattice, axis: int) -> Floats:
    """Sparsity (0) or l1 (1) of every cell."""
    return (DOMAIN.x, DOMAIN.y)[axis].from_unit(lattice.at[axis + 1].ravel())


def _covered(lattice: Lattice, surface: Surface) -> tuple[float, float]:
    """Shares of the volume, and of the part with 0.1 < p < 0.9, in which the 95 % interval holds the rate."""
    own = np.isin(PLACES.architecture, SHAPES[lattice.shape][0])
    a, u, v = PLACES.architecture[own], PLACES.u[own], PLACES.v[own]
    truth = lattice.rate(a, u, v)
    made: Posterior = surface.at(_names(a), DOMAIN.x.from_unit(u), DOMAIN.y.from_unit(v))
    low, high = made.interval()
    held, between = (low <= truth) & (truth <= high), (truth > 0.1) & (truth < 0.9)
    return float(held.mean()), float(held[between].mean())


def _kept(frame: pd.DataFrame, seeds: int, sure: list[Region]) -> float:
    if seeds < 5:
        return np.nan
    half = failure_regions(frame[frame["seed"] < seeds // 2], level=LEVEL)
    names = [region.name for region in half if region.confidence >= SURE]
    return float(np.mean([name in {region.name for region in sure} for name in names])) if names else np.nan


def main(truths: list[str], repeats: int) -> None:
    """Measure and print."""
    print(machine())
    heads = ("truth", "lattice", "seeds", "cells of true regions", "seen", "sure", "reported", "sure regions", "false")
    print("| " + " | ".join((*heads, "cov", "covbz", "names kept")) + " |")
    print("| " + " | ".join("---" for _ in range(12)) + " |")
    for truth in truths:
        for shape in SHAPES:
            for seeds in SEEDS:
                times = FLAT_REPEATS if truth in FLAT else repeats
                many = [told(Lattice(truth, shape), seeds, 1000 * seeds + number) for number in range(times)]
                print("| " + " | ".join((truth, shape, str(seeds), *_row(many))) + " |", flush=True)
    _rates()
    _correlated(STUDIES * repeats // REPEATS)


def _row(many: list[Told]) -> Iterator[str]:
    sizes = ", ".join(map(str, many[0].sizes)) or "none"
    yield sizes
    total = sum(len(one.sizes) for one in many)
    yield f"{sum(sum(one.seen) for one in many)} of {total}" if total else "–"
    yield f"{sum(sum(one.sure) for one in many)} of {total}" if total else "–"
    for field in ("reported", "sure_regions", "false_sure"):
        yield str(sum(getattr(one, field) for one in many))
    for field in ("covered", "covered_between", "kept"):
        values = [value for one in many if not np.isnan(value := getattr(one, field))]
        yield f"{np.mean(values):.2f}" if values else "–"


def _rates() -> None:
    """Cells' own rates against the surface's, at the cells where 0.1 < p < 0.9: what ENOUGH replicates are."""
    print("\n| lattice | seeds | rms error, surface | own | covered by 95 %, surface | own |\n|" + " --- |" * 6)
    for shape in SHAPES:
        for seeds in (5, 10, 20, 50, 100):
            rows = np.mean([_compared(Lattice(truth, shape), seeds) for truth in ("smooth", "band", "combo")], axis=0)
            print(f"| {shape} | {seeds} | {rows[0]:.3f} | {rows[1]:.3f} | {rows[2]:.2f} | {rows[3]:.2f} |", flush=True)


def _compared(lattice: Lattice, seeds: int) -> tuple[float, ...]:
    frame = lattice.frame(seeds, 77)
    tally = Tally.of(frame)
    failed = frame["failure"].to_numpy() != "none"
    counts, surface = tally.counts(failed), tally.surface(failed)
    names = np.array(tally.domain.architectures)[counts.architecture].tolist()
    x, y = tally.domain.x.from_unit(tally.cells.u), tally.domain.y.from_unit(tally.cells.v)
    truth = lattice.rate(DOMAIN.index(names), DOMAIN.x.to_unit(x), DOMAIN.y.to_unit(y))
    made = surface.at(names, x, y)
    own = counts.failures / counts.replicates
    between = (truth > 0.1) & (truth < 0.9)
    ends = made.interval(), rate_interval(counts.failures, counts.replicates)
    errors = (float(np.sqrt(((told - truth)[between] ** 2).mean())) for told in (made.mean, own))
    return *errors, *(float(((low <= truth) & (truth <= high))[between].mean()) for low, high in ends)


def _correlated(studies: int) -> None:
    """Studies whose seeds carry luck that all of their cells share: false sure regions, and peaks above the truth."""
    print("\n| correlation | truths | studies | with a false sure region | sure regions | peak interval above the highest rate |")
    print("|" + " --- |" * 6)
    for correlation in CORRELATIONS:
        for name in ("flat, 0.35 to 0.5", "families"):
            found = np.zeros(3, dtype=np.int64)
            for seed in range(FIRST_SEED, FIRST_SEED + studies):
                found += _study_of_luck(name, correlation, seed)
            print(f"| {correlation} | {name} | {studies} | {found[0]} | {found[1]} | {found[2]} |", flush=True)


def _study_of_luck(name: str, correlation: float, seed: int) -> Ints:
    """Whether a sure region is false, how many are sure, and in how many the interval of the peak lies above every rate."""
    random = np.random.default_rng((seed, 5))
    rate: Rate
    if name == "families":
        rate = drawn([*FAMILIES][seed % len(FAMILIES)], seed)
    else:
        height = random.uniform(0.35, 0.5)
        rate = lambda a, u, v: np.full(u.shape, height)  # noqa: E731
    seeds, architectures = int(random.choice([5, 10, 20, 50])), int(random.choice([2, 4, 8]))
    a, i, j = (index.ravel() for index in np.indices((architectures, 8, 9)))
    p = rate(a * 7 // (architectures - 1), i / 7, j / 8)
    luck = np.sqrt(correlation) * random.normal(size=(seeds, 1)) + np.sqrt(1 - correlation) * random.normal(size=(seeds, len(a)))
    fails = (luck < norm.ppf(p)).ravel()
    cells = {
        "architecture": np.array(DOMAIN.architectures, dtype=object)[a],
        "sparsity": DOMAIN.x.from_unit(i / 7),
        "l1": DOMAIN.y.from_unit(j / 8),
    }
    frame = pd.DataFrame({column: np.tile(values, seeds) for column, values in cells.items()})
    frame = frame.assign(seed=np.repeat(np.arange(seeds), len(a)), failure=np.where(fails, "sae_dead", "none"), sae_all_dead=fails)
    sure = [region for region in failure_regions(frame, level=LEVEL) if region.confidence >= SURE]
    highest = [float(p[_within(region, cells)].max()) for region in sure]
    above = sum(region.peak_interval[0] > top for region, top in zip(sure, highest))
    return np.array([any(top < LEVEL for top in highest), len(sure), above], dtype=np.int64)


def _within(region: Region, cells: dict[str, NDArray[np.generic]]) -> NDArray[np.bool_]:
    """The cells in the box around a region."""
    inside = np.isin(cells["architecture"], region.architectures)
    for column, (low, high) in region.extents.items():
        inside &= (cells[column] >= low * (1 - 1e-9)) & (cells[column] <= high * (1 + 1e-9))
    return inside


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if not word.isdigit()]
    main(given or [*TRUTHS, *FLAT], next((int(word) for word in sys.argv[1:] if word.isdigit()), REPEATS))
