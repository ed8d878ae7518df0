"""How well the L1 search finds thresholds and best values on real training: `python -m tests.benchmarks.l1_search ROWS`.

Prints the table of real training in docs/l1.md; `l1_curves` prints those of simulated curves. ROWS is a folder in which the
truth's rows are kept, so that a second run trains only what the searches ask. About forty minutes of one core for the truth, ten
for the searches.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
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
from search_spaces.failures import before_sae
from search_spaces.learners.l1_search import L1Interval, L1Learner, L1SearchSpec
from search_spaces.searches import L1Search
from study.packs import Pack
from study.run_pack import run_pack
from study.searching.learner_of import predicted_edge
from tests.benchmarks.machine import machine

LOW, HIGH, LEVEL = 1e-4, 10.0, 0.1
EDGES = np.log10([LOW, HIGH])
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
FEWER = 20
"""How many times fewer replicates than the truth a search may spend."""
REPEATS = 3
"""Searches of each cell, with seeds of their own."""
TPE_SEEDS = 8
COLUMNS = ["architecture", "sparsity", "l1", "seed", "failure", SCORE]

CellName = tuple[str, str, float]


def train(cell: CellName, l1: NDArray[np.float64], seed: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Rows of replicates (R,)."""
    protocol, architecture, sparsity = cell
    return trained(protocol, architecture, np.full(len(l1), sparsity), l1, seed)


def trained(
    protocol: str, architecture: str, sparsity: NDArray[np.float64], l1: NDArray[np.float64], seed: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    l1 = np.array([rounded(value) for value in l1])
    replicates = Replicates(Architecture.parse(architecture), sparsity, l1, seed, seed, seed, seed)
    return columns(run_pack(Pack(replicates, PROTOCOLS[protocol], "float32", "compiled")))


def rounded(l1: float) -> float:
    """The value as the learner rounds it."""
    return float(f"{l1:.6g}")


def columns(rows: pa.Table) -> dict[str, NDArray[Any]]:
    return {name: np.array(rows[name].to_pylist()) for name in COLUMNS}


def kept(folder: Path, part: str, cell: CellName, l1: NDArray[np.float64], seed: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The same rows, from the folder if they are there."""
    file = folder / f"{part}_{'_'.join(map(str, cell))}.parquet"
    if not file.exists():
        pq.write_table(pa.table(train(cell, l1, seed)), file)
    return columns(pq.read_table(file))


@dataclass(frozen=True)
class Truth:
    """The truth of one cell."""

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
    """Seeds per level of the truth: twice as many for narrow architectures, whose rates rise slowly."""
    protocol, architecture, _ = cell
    return 400 if protocol == "dissertation" and Architecture.parse(architecture).n_features <= 12 else 200


def crossed(l1: NDArray[np.float64], seed: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every l1 with every seed; neighbours share their autoencoder."""
    return np.tile(l1, len(seed)), np.repeat(seed, len(l1))


def counts(
    rows: dict[str, NDArray[Any]], failed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """log10 of each l1, how many replicates with a healthy autoencoder failed there, and how many of those there are."""
    healthy = ~np.isin(rows["failure"], before_sae())
    levels, level = np.unique(rows["l1"], return_inverse=True)
    failures, judged = (np.bincount(level, weights, len(levels)).astype(float) for weights in (failed & healthy, healthy))
    return np.log10(levels), failures, judged


def mean_scores(rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The mean score of each l1, over seeds with a healthy autoencoder."""
    levels, level = np.unique(rows["l1"], return_inverse=True)
    good = ~np.isin(rows["failure"], before_sae()) & np.isfinite(rows[SCORE])
    return np.bincount(level[good], rows[SCORE][good], len(levels)) / np.bincount(level[good], minlength=len(levels))


def fitted_crossing(x: NDArray[np.float64], failures: NDArray[np.float64], judged: NDArray[np.float64]) -> float:
    """Where a quadratic for the logit of the rate crosses LEVEL, fitted to isotonic rates of 0.02 to 0.4, or to six levels."""
    rate = isotonic_regression(failures / judged, weights=judged).x
    near = (rate > 0.02) & (rate < 0.4)
    if near.sum() < 4:  # a sharp rise
        first = int(np.searchsorted(rate, LEVEL))
        near = np.abs(np.arange(len(x)) - (first - 0.5)) < 3
    x, k, n = x[near], failures[near], judged[near]
    middle, scale = x.mean(), x.std()
    design = np.vander((x - middle) / scale, 3, increasing=True)
    weights = np.zeros(3)
    weights[0] = logit(np.clip(k.sum() / n.sum(), 0.01, 0.99))
    for _ in range(60):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (n * p * (1 - p))[:, None]) + 1e-2 * np.eye(3)
        weights = weights + np.clip(np.linalg.solve(hessian, design.T @ (k - n * p) - 1e-2 * weights), -2, 2)
    places = np.linspace(x.min() - 0.1, x.max() + 0.1, 2001)
    above = np.vander((places - middle) / scale, 3, increasing=True) @ weights >= logit(LEVEL)
    rises = np.flatnonzero(above[1:] & ~above[:-1])
    return float(places[rises[-1] + 1]) if len(rises) else np.nan


def searched(protocol: str, names: Sequence[tuple[str, float]], budget: int, seed: int = 0) -> list[L1Interval]:
    """What the learner finds for the cells of one protocol, all at once."""
    predicted = tuple(predicted_edge(Architecture.parse(name), sparsity, PROTOCOLS[protocol]) for name, sparsity in names)
    search = L1Search(failure=FAILURE, level=LEVEL, budget=budget)
    spec = L1SearchSpec(search, tuple(names), (LOW, HIGH), SCORE, predicted, seed)
    learner, waiting = L1Learner(spec), deque[list[Replicates]]()
    while not learner.done:
        if batch := learner.ask():
            waiting.append(batch)
        else:
            packs = [Pack(part, PROTOCOLS[protocol], "float32", "compiled") for part in waiting.popleft()]
            parts = [columns(run_pack(pack)) for pack in packs]
            learner.tell({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})
    return learner.results()


def tpe(folder: Path, cell: CellName, budget: int) -> float:
    """The best l1 of Optuna's TPE, whose trials are mean scores over TPE_SEEDS common seeds; kept in the folder.

    All sparsities of an architecture are searched side by side, which only saves time.
    """
    protocol, architecture, sparsity = cell
    file = folder / f"tpe_{budget}_{protocol}_{architecture}.json"
    if not file.exists():
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sparsities = [name[2] for name in CELLS if name[:2] == cell[:2]]
        studies = [optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0)) for _ in sparsities]
        for _ in range(budget // TPE_SEEDS):
            trials = [study.ask() for study in studies]
            l1 = [trial.suggest_float("l1", LOW, HIGH, log=True) for trial in trials]
            seeds = np.tile(np.arange(TPE_SEEDS), len(trials))
            rows = trained(protocol, architecture, *(np.repeat(values, TPE_SEEDS) for values in (sparsities, l1)), seeds)
            for study, trial, own in zip(studies, trials, sparsities):
                mine = {name: values[rows["sparsity"] == own] for name, values in rows.items()}
                study.tell(trial, float(np.nan_to_num(mean_scores(mine)[0])))
        file.write_text(json.dumps([[own, study.best_params["l1"]] for own, study in zip(sparsities, studies)]))
    return float(dict(json.loads(file.read_text()))[sparsity])


def regrets(cell: CellName, best: Sequence[float], others: Sequence[float]) -> list[float]:
    """How much lower the mean score is at the others than at the best, over the same JUDGING_SEEDS."""
    rows = train(cell, *crossed(np.array([*best, *others]), JUDGING_SEEDS))
    scores = dict(zip(np.unique(rows["l1"]).tolist(), mean_scores(rows).tolist()))
    highest = max(scores[rounded(l1)] for l1 in best)
    return [highest - scores[rounded(l1)] for l1 in others]


def real(folder: Path, cells: Sequence[CellName]) -> None:
    """Thresholds and best values of real training against the truth, with a twentieth of its replicates."""
    truths: dict[CellName, Truth] = {}
    for cell in cells:
        truths[cell] = truth(folder, cell)
        print(*cell, truths[cell], file=sys.stderr, flush=True)
    heads = ("protocol", "architecture", "S", "truth", "found [95 %]", "errors", "held", "replicates", "closed form")
    table((*heads, "best l1 [95 %]", "regrets", "TPE's"))
    errors, held, regret, of_tpe = [], [], [], []
    for (protocol, budget), group in itertools.groupby(cells, lambda cell: (cell[0], truths[cell].replicates // FEWER)):
        of_group = list(group)
        names = [cell[1:] for cell in of_group]
        searches = [searched(protocol, names, budget, 100_000 * repeat) for repeat in range(REPEATS)]
        for cell, *found in zip(of_group, *searches):
            true, first = truths[cell], found[0]
            ends = [[np.log10(end) if end else edge for end, edge in zip(f.upper_edge_interval, EDGES)] for f in found]
            errors.append([np.log10(f.upper_edge) - true.log10_high if f.upper_edge else np.nan for f in found])
            held.append([f.monotone and low <= true.log10_high <= high for f, (low, high) in zip(found, ends)])
            *ours, theirs = regrets(cell, true.best_l1s, [*(f.best_l1 or LOW for f in found), tpe(folder, cell, budget)])
            regret.append(ours)
            of_tpe.append(theirs)
            row(
                *cell,
                f"{true.log10_high:.3f} ± {true.standard_error:.3f}",
                first.upper
                if first.upper_edge is None
                else f"{np.log10(first.upper_edge):.3f} [{ends[0][0]:.3f}, {ends[0][1]:.3f}]",
                ", ".join(f"{error:+.3f}" for error in errors[-1]),
                f"{sum(held[-1])} of {REPEATS}",
                max(f.replicates for f in found),
                "–" if first.predicted_edge is None else f"{np.log10(first.predicted_edge):.2f}",
                f"{first.best_l1:.2g} [{', '.join(f'{end:.2g}' for end in first.best_l1_interval or ())}]",
                ", ".join(f"{value:.3f}" for value in ours),
                f"{theirs:.3f}",
            )
    of_truth = np.median([true.standard_error for true in truths.values()])
    print()
    for repeat, (own, inside) in enumerate(zip(zip(*errors), zip(*held)), start=1):
        print(f"Search {repeat}: intervals hold the truth in {np.mean(inside):.0%}, median error {np.nanmedian(np.abs(own)):.4f}.")
    print(
        f"All: {np.mean(held):.0%} of {np.size(held)}, median error {np.nanmedian(np.abs(errors)):.4f} decades, the truth's own "
        f"standard error {of_truth:.4f} (median); {FEWER} times fewer replicates."
    )
    for who, values in (("here", np.array(regret)), ("Optuna's TPE", np.array(of_tpe))):
        print(f"Regret, {who}: mean {values.mean():.4f}, worst {values.max():.4f}, above 0.03 in {np.mean(values > 0.03):.1%}.")


def table(heads: Sequence[str]) -> None:
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)


def row(*values: object) -> None:
    print(f"| {' | '.join(map(str, values))} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path, help="folder for the truth's rows")
    parser.add_argument("--only", default="", help="cells whose protocol, architecture and sparsity hold this text")
    arguments = parser.parse_args()
    arguments.rows.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; optuna {optuna.__version__}; seeds of the searches from 0, 100,000 and 200,000")
    cells = [cell for cell in CELLS if arguments.only in " ".join(map(str, cell))]
    if cells:
        real(arguments.rows, cells)


if __name__ == "__main__":
    main()
