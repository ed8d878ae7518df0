"""How well the L1 search finds thresholds and best values on real training: `python -m tests.benchmarks.l1_search ROWS`.

Prints the tables of docs/l1.md. ROWS is a folder in which the truth's rows are kept, so that a second run trains only what the
searches ask. About forty minutes of one core for the truth, ten for the searches.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import logit

from search_spaces import PROTOCOLS, Architecture, Replicates
from search_spaces.l1_search import BEFORE_SAE, L1Interval, L1Learner, L1SearchSpec
from study.packs import Pack
from study.run_pack import run_pack
from study.searches import predicted_collapse

LOW, HIGH, LEVEL = 1e-4, 10.0, 0.1
FAILURE = ("sae_dead", "sae_starved")
SCORE = "mcc_decoder_features"
CELLS = [
    ("dissertation", architecture, sparsity)
    for architecture in ("5-3-5", "6-3-6", "8-4-8", "10-5-10", "12-6-12", "15-7-15", "20-5-20", "20-10-20")
    for sparsity in (0.5, 0.8, 0.9, 0.95)
] + [("sound", architecture, sparsity) for architecture in ("5-3-5", "10-5-10", "20-5-20") for sparsity in (0.8, 0.95)]
COARSE_LEVELS, COARSE_SEEDS = 31, 64
FINE_LEVELS = 25
"""The truth: levels over the decade around the threshold that the coarse grid shows."""
JUDGING_SEEDS = 3_000_000 + np.arange(200)
"""On which the best values are compared."""
COLUMNS = ["architecture", "sparsity", "l1", "seed", "failure", SCORE]

CellName = tuple[str, str, float]


def train(cell: CellName, l1: NDArray[np.float64], seed: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Rows of replicates (R,)."""
    protocol, architecture, sparsity = cell
    l1 = np.array([float(f"{value:.6g}") for value in l1])
    replicates = Replicates(Architecture.parse(architecture), np.full(len(l1), sparsity), l1, seed, seed, seed, seed)
    return columns(run_pack(Pack(replicates, PROTOCOLS[protocol], "float32", "compiled")))


def columns(rows: pa.Table) -> dict[str, NDArray[Any]]:
    return {name: np.array(rows[name].to_pylist()) for name in COLUMNS}


def kept(folder: Path, part: str, cell: CellName, l1: NDArray[np.float64], seed: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The same, from the folder if it is there."""
    file = folder / f"{part}_{'_'.join(map(str, cell))}.parquet"
    if not file.exists():
        pq.write_table(pa.table(train(cell, l1, seed)), file)
    return columns(pq.read_table(file))


@dataclass(frozen=True)
class Truth:
    """Of one cell."""

    log10_high: float
    standard_error: float
    """Of log10_high, in decades: bootstrap over seeds."""
    replicates: int
    best_l1s: tuple[float, ...]
    """Where the mean score is highest: on the coarse grid and on the fine one."""


def truth(folder: Path, cell: CellName) -> Truth:
    """Locate the threshold on a coarse grid, fit it on a fine one."""
    levels = np.geomspace(LOW, HIGH, COARSE_LEVELS)
    coarse = kept(folder, "coarse", cell, *crossed(levels, 1_000_000 + np.arange(COARSE_SEEDS)))
    x, failures, judged = counts(coarse, np.isin(coarse["failure"], FAILURE))
    rate = isotonic_regression(failures / judged, weights=judged).x
    middle = float(np.interp(LEVEL, rate + 1e-9 * np.arange(len(rate)), x))
    levels = np.repeat(10 ** np.linspace(middle - 0.5, middle + 0.5, FINE_LEVELS), fine_seeds(cell))
    # Each level has seeds of its own: with common ones its errors would not average out along the curve
    fine = kept(folder, "fine", cell, levels, 2_000_000 + np.arange(len(levels)))
    x, failures, judged = counts(fine, np.isin(fine["failure"], FAILURE))
    rng = np.random.default_rng(0)
    again = [fitted_crossing(x, rng.binomial(judged.astype(int), failures / judged), judged) for _ in range(200)]
    best = tuple(float(np.unique(rows["l1"])[mean_scores(rows).argmax()]) for rows in (coarse, fine))
    crossing = fitted_crossing(x, failures, judged)
    return Truth(crossing, float(np.nanstd(again)), len(fine["l1"]), best)


def fine_seeds(cell: CellName) -> int:
    """Seeds a level of the truth: twice as many for narrow architectures, whose rates rise slowly."""
    protocol, architecture, _ = cell
    return 400 if protocol == "dissertation" and Architecture.parse(architecture).n_features <= 12 else 200


def crossed(l1: NDArray[np.float64], seed: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every l1 with every seed; neighbours share their autoencoder."""
    return np.tile(l1, len(seed)), np.repeat(seed, len(l1))


def counts(
    rows: dict[str, NDArray[Any]], failed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """log10 of each l1, how many replicates with a healthy autoencoder failed there, and how many of those there are."""
    healthy = ~np.isin(rows["failure"], BEFORE_SAE)
    levels, level = np.unique(rows["l1"], return_inverse=True)
    failures, judged = (np.bincount(level, weights, len(levels)).astype(float) for weights in (failed & healthy, healthy))
    return np.log10(levels), failures, judged


def mean_scores(rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Of each l1, over seeds with a healthy autoencoder."""
    levels, level = np.unique(rows["l1"], return_inverse=True)
    good = ~np.isin(rows["failure"], BEFORE_SAE) & np.isfinite(rows[SCORE])
    return np.bincount(level[good], rows[SCORE][good], len(levels)) / np.bincount(level[good], minlength=len(levels))


def fitted_crossing(x: NDArray[np.float64], failures: NDArray[np.float64], judged: NDArray[np.float64]) -> float:
    """Where a quadratic for the logit of the rate crosses LEVEL, fitted to levels whose isotonic rate is in (0.02, 0.4)."""
    rate = isotonic_regression(failures / judged, weights=judged).x
    near = (rate > 0.02) & (rate < 0.4)
    if near.sum() < 4:
        near = np.argsort(np.abs(rate - LEVEL), kind="stable")[:5]
    x, k, n = x[near], failures[near], judged[near]
    middle = x.mean()
    design = np.vander(x - middle, 3, increasing=True)
    weights = np.zeros(3)
    weights[0] = logit(np.clip(k.sum() / n.sum(), 0.01, 0.99))
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (n * p * (1 - p))[:, None]) + 1e-6 * np.eye(3)
        weights = weights + np.clip(np.linalg.solve(hessian, design.T @ (k - n * p) - 1e-6 * weights), -20, 20)
    places = np.linspace(x.min() - 0.1, x.max() + 0.1, 2001)
    above = np.vander(places - middle, 3, increasing=True) @ weights >= logit(LEVEL)
    rises = np.flatnonzero(above[1:] & ~above[:-1])
    return float(places[rises[-1] + 1]) if len(rises) else np.nan


def searched(cells: Sequence[CellName], budget: int) -> list[L1Interval]:
    """What the learner finds, all cells of a protocol at once."""
    found = []
    for protocol in dict.fromkeys(cell[0] for cell in cells):
        names = [cell[1:] for cell in cells if cell[0] == protocol]
        predicted = [predicted_collapse(Architecture.parse(name), sparsity, PROTOCOLS[protocol]) for name, sparsity in names]
        spec = L1SearchSpec(tuple(names), (LOW, HIGH), FAILURE, LEVEL, budget, score=SCORE, predicted_high=tuple(predicted))
        learner, waiting = L1Learner(spec), deque[list[Replicates]]()
        while not learner.done:
            if batch := learner.ask():
                waiting.append(batch)
            else:
                packs = [Pack(part, PROTOCOLS[protocol], "float32", "compiled") for part in waiting.popleft()]
                parts = [columns(run_pack(pack)) for pack in packs]
                learner.tell({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})
        found += learner.results()
    return found


def tpe(cell: CellName, budget: int, seeds: int = 8) -> float:
    """The best l1 of Optuna's TPE, whose trials are the mean score over common seeds of a healthy autoencoder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for _ in range(budget // seeds):
        trial = study.ask()
        l1 = trial.suggest_float("l1", LOW, HIGH, log=True)
        rows = train(cell, np.full(seeds, l1), np.arange(seeds))
        study.tell(trial, float(np.nan_to_num(mean_scores(rows)[0])))
    return float(study.best_params["l1"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    arguments = parser.parse_args()
    folder = arguments.rows
    folder.mkdir(parents=True, exist_ok=True)
    cells = [cell for cell in CELLS if arguments.only in " ".join(map(str, cell))]
    truths = []
    for cell in cells:
        truths.append(truth(folder, cell))
        print(*cell, truths[-1], flush=True)
    if arguments.budget:
        for cell, true, found in zip(cells, truths, searched(cells, arguments.budget)):
            error = np.log10(found.safe_high) - true.log10_high if found.safe_high else np.nan
            low, high = (np.log10(end) if end else np.nan for end in found.safe_high_interval)
            print(
                *cell,
                f"{true.log10_high:.3f} ± {true.standard_error:.3f}",
                f"{error:+.3f} [{low:.3f}, {high:.3f}]",
                bool(low <= true.log10_high <= high),
                found.replicates,
                found.best_l1,
                true.best_l1s,
                found.best_mcc,
                found,
                flush=True,
            )


if __name__ == "__main__":
    main()
