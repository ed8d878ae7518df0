"""Whether the statistics keep their promises: `python -m tests.benchmarks.statistics`. Prints tables; asserts nothing.

Coverage of intervals, sizes and powers of tests: exact by enumeration where that can be, else over simulated studies from
fixed seeds, so that the same commit prints the same figures. One thread, some three minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm

from analysis.comparisons import studies as comparison
from analysis.comparisons.metric_trust import separation
from analysis.comparisons.studies import compare
from analysis.rates import claims as statistics
from analysis.rates.cells import cell_rates, rate_interval
from analysis.rates.claims import local_maximum_power, local_maximum_probability, monotonicity, replicates_for_local_maximum
from analysis.rates.significance import fisher_greater
from tests.analysis.test_frames import frame_of
from tests.benchmarks.machine import machine

Floats = NDArray[np.float64]
STUDIES = 500
RATES = np.linspace(0.01, 0.99, 99)


def wilson_interval(failures: ArrayLike, replicates: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's score interval: the rates p with |k/n − p| ≤ z √(p(1 − p)/n).

    ((k + z²/2) ± z √(k(n − k)/n + z²/4)) / (n + z²), Wilson 1927. Without replicates: (0, 1).
    """
    k, n = np.asarray(failures, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    z = norm.ppf((1 + confidence) / 2)
    middle, half = k + z**2 / 2, z * np.sqrt(k * (n - k) / np.maximum(n, 1) + z**2 / 4)
    low, high = (middle - half) / (n + z**2), (middle + half) / (n + z**2)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


Interval = Callable[[ArrayLike, ArrayLike], tuple[Floats, Floats]]
INTERVALS: dict[str, Interval] = {
    "Jeffreys": rate_interval,
    "Wilson": wilson_interval,
}
CLAIMS = (
    ((0.05, 0.60, 0.05), 15),
    ((0.30, 0.60, 0.30), 75),
    ((0.05, 0.30, 0.05), 50),
    ((0.15, 0.30, 0.15), 200),
    ((0.45, 0.60, 0.45), 300),
)
"""True rates, and the replicates a cell that simulation on a coarse ladder gave for 90 % power at 0.05."""
SPARSITIES = (0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95)
CURVES = {
    "flat 0.3": np.full(7, 0.3),
    "flat 0.02": np.full(7, 0.02),
    "steady 0.02 to 0.98": np.linspace(0.02, 0.98, 7),
    "one step 0.1 to 0.9": np.repeat([0.1, 0.9], [4, 3]),
    "bump 0.2, 0.6 at 0.9": np.where(np.array(SPARSITIES) == 0.9, 0.6, 0.2),
    "rise, then 0.8 to 0.6": np.array([0.05, 0.1, 0.3, 0.5, 0.8, 0.7, 0.6]),
}


def main() -> None:
    """Print every table."""
    print(machine())
    statistics.DRAWS = comparison.DRAWS = 499
    tables: dict[str, Callable[[], Iterator[tuple[object, ...]]]] = {
        "Coverage of a cell's 95 % interval: replicates, interval, mean over rates 0.01 … 0.99, least; exact": coverage,
        f"The same by simulation, {STUDIES} studies of 99 cells, one a rate: replicates, interval, covered": simulated_coverage,
        "Local maximum at α = 0.05: replicates, largest size of the exact test, of posterior ≥ 0.95; exact": sizes,
        "Its power: rates, ladder's replicates, power there, replicates for 90 %, for 90 % at α = 0.001; exact": powers,
        f"Never falls, α = 0.05, {STUDIES} studies: truth, replicates, rejected, rejected where seeds go together": curves,
        f"Two studies, 3 cells, 40 seeds, {STUDIES // 2} pairs: rates, paired, overall rejected, any cell (Holm)": comparisons,
        f"AUC, 95 % interval, {STUDIES} studies of 3 cells: seeds, true AUC, covered": areas,
    }
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows():
            print("  " + "  ".join(f"{value:.3f}" if isinstance(value, float) else f"{value!s:>22}" for value in row), flush=True)


def coverage() -> Iterator[tuple[object, ...]]:
    """Σ over counts of the binomial probability of those whose interval holds the rate."""
    for replicates in (1, 4, 8, 16, 30, 100, 200, 1000):
        k = np.arange(replicates + 1)
        for name, interval in INTERVALS.items():
            low, high = interval(k, np.full_like(k, replicates))
            covered = [float(binom.pmf(k, replicates, p)[(low <= p) & (p <= high)].sum()) for p in RATES]
            yield replicates, name, float(np.mean(covered)), min(covered)


def simulated_coverage() -> Iterator[tuple[object, ...]]:
    """A study is 99 cells, l1 standing for the rate."""
    random = np.random.default_rng(0)
    for replicates in (8, 16, 100):
        cells = pd.DataFrame({"l1": RATES, "architecture": "5-3-5", "n_features": 5, "n_hidden": 3, "sparsity": 0.9})
        frame = cells.loc[np.repeat(np.arange(99), replicates)]
        held = dict.fromkeys(INTERVALS, 0.0)
        for _ in range(STUDIES):
            kinds = np.where(random.uniform(size=len(frame)) < frame["l1"], "sae_dead", "none")
            for name, interval in INTERVALS.items():
                rates = cell_rates(frame.assign(failure=kinds))
                low, high = interval(rates["failures"], rates["replicates"])
                held[name] += ((low <= RATES) & (high >= RATES)).mean() / STUDIES
        for name, share in held.items():
            yield replicates, name, float(share)


def sizes() -> Iterator[tuple[object, ...]]:
    """Largest over a net of rates (p, p, q), q ≤ p: no local maximum, and its edge."""
    for n in (5, 10, 20, 40):
        k = np.arange(n + 1)
        greater = fisher_greater(k[:, None], n, k[None], n) <= 0.05
        exact = (greater.T[:, :, None] & greater[None]).astype(float)
        counts = np.stack(np.meshgrid(k, k, k, indexing="ij"), -1)
        likely = np.stack([local_maximum_probability(part, np.full(3, n)) >= 0.95 for part in counts]).astype(float)
        null = [(p, p, q) for p in RATES[::4] for q in (0.0, p / 2, p)]
        yield n, max(_chance(exact, rates) for rates in null), max(_chance(likely, rates) for rates in null)


def _chance(rejected: NDArray[np.float64], rates: tuple[float, float, float]) -> float:
    masses = (binom.pmf(np.arange(len(rejected)), len(rejected) - 1, rate) for rate in rates)
    return float(np.einsum("abc,a,b,c", rejected, *masses, optimize=True))


def powers() -> Iterator[tuple[object, ...]]:
    for rates, ladder in CLAIMS:
        needed = [replicates_for_local_maximum(rates, level) for level in (0.05, 0.001)]
        yield rates, ladder, local_maximum_power(rates, ladder), *needed


def curves() -> Iterator[tuple[object, ...]]:
    """Independent cells, and cells whose outcome depends by half on the luck of their seed."""
    random = np.random.default_rng(1)
    for (name, truth), replicates in ((curve, n) for curve in CURVES.items() for n in (16, 100)):
        rejected = np.zeros(2)
        for _ in range(STUDIES):
            own, luck = random.normal(size=(replicates, 7)), random.normal(size=(replicates, 1))
            for which, hidden in enumerate((own, np.sqrt(0.5) * (own + luck))):
                k = (hidden < norm.ppf(truth)).sum(axis=0)
                rejected[which] += monotonicity(SPARSITIES, k.tolist(), [replicates] * 7).p_never_falls <= 0.05
        yield name, replicates, *(rejected / STUDIES).tolist()


def comparisons() -> Iterator[tuple[object, ...]]:
    """Two studies whose seeds carry luck that their cells share."""
    random = np.random.default_rng(2)
    cells = [("5-3-5", s, 0.01) for s in SPARSITIES[:3]]
    for rates in ((0.3, 0.3), (0.3, 0.45)):
        for paired in (True, False):
            found = np.zeros(2)
            for _ in range(STUDIES // 2):
                luck = random.normal(size=40)
                frames = []
                for side, rate in enumerate(rates):
                    luck = luck if paired else random.normal(size=40)
                    hidden = np.sqrt(0.5) * (luck[None] + random.normal(size=(3, 40)))
                    kinds = np.where(hidden < norm.ppf(rate), "sae_dead", "none")
                    frame = frame_of({cell: kind.tolist() for cell, kind in zip(cells, kinds)})
                    frames.append(frame if paired else frame.assign(seed=frame["seed"] + 100 * side))
                of = compare(*frames)
                found += of.overall.p_value <= 0.05, (of.cells["p_holm"] <= 0.05).any()
            yield rates, paired, *(found / (STUDIES // 2)).tolist()


def areas() -> Iterator[tuple[object, ...]]:
    """Normal values, a shift between healthy and failing, half of the variance a seed's own."""
    random = np.random.default_rng(3)
    for seeds in (20, 50, 200):
        unit, cell = np.tile(np.arange(seeds), 3), np.repeat(np.arange(3), seeds)
        for shift in (0.0, 1.0, 2.5):
            truth, covered = float(norm.cdf(shift / np.sqrt(2))), 0
            for _ in range(STUDIES):
                healthy = random.uniform(size=3 * seeds) < 0.5
                values = np.sqrt(0.5) * (random.normal(size=seeds)[unit] + random.normal(size=3 * seeds)) + shift * healthy
                of = separation(values, healthy, ~healthy, cell, unit)
                covered += of.low <= truth <= of.high
            yield seeds, truth, covered / STUDIES


if __name__ == "__main__":
    main()
