"""How well the L1 search finds thresholds of simulated failure rates: `python -m tests.benchmarks.l1_curves`.

Prints the tables of docs/l1.md on curves of every kind of `tests/curves.py`, drawn from the seed that is given.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces import Replicates
from search_spaces.learners.l1_search import Ends, L1Interval, L1Learner, L1SearchSpec, UpperEdge
from search_spaces.searches import L1Search
from tests.benchmarks.machine import machine
from tests.curves import KINDS, RANGE, VALLEYS, Curve, Rate, ValleyCurve, drawn, drawn_valley

BUDGET = 256
L1 = (1e-4, 1.0)
RESOLUTION = 0.01
"""How far a rate may lie outside its interval only because the model's rates are discrete."""


class HasRate(Protocol):
    @property
    def rate(self) -> Rate: ...


def searched(curves: Sequence[HasRate], failure: tuple[str, ...], rng: np.random.Generator) -> list[L1Interval]:
    """What the learner finds on each curve; cell i has sparsity i/n."""
    cells = tuple(("10-5-10", place / len(curves)) for place in range(len(curves)))
    search = L1Search(budget=BUDGET, failure=failure)
    learner, waiting = L1Learner(L1SearchSpec(search, cells, L1, None)), deque[list[Replicates]]()
    while not learner.done:
        if batch := learner.ask():
            waiting.append(batch)
            continue
        (asked,) = waiting.popleft()
        which, rate = np.rint(asked.sparsity * len(curves)).astype(int), np.empty(len(asked))
        for place in np.unique(which):
            rate[which == place] = curves[place].rate(np.log10(asked.l1[which == place]))
        failed = np.where(rng.random(len(asked)) < rate, "sae_dead", "none")
        columns = {"sparsity": asked.sparsity, "l1": asked.l1, "seed": asked.seed, "failure": failed}
        learner.tell(columns | {"architecture": np.full(len(asked), "10-5-10")})
    return learner.results()


def log_ends(ends: Ends) -> tuple[float, float]:
    """log10 of the ends of an interval, infinite beyond the range."""
    low, high = ends
    return (-np.inf if low is None else float(np.log10(low))), (np.inf if high is None else float(np.log10(high)))


def single_edges(kind: str, tasks: int, seed: int) -> Iterator[object]:
    """The row of one kind of curve with an upper edge."""
    rng = np.random.default_rng((seed, list(KINDS).index(kind)))
    curves: list[Curve] = [drawn(kind, rng) for _ in range(tasks)]
    results = searched(curves, ("sae_dead",), rng)
    judged = [(found, curve.crossing) for found, curve in zip(results, curves) if found.monotone]
    ends = np.array([log_ends(found.upper_edge_interval) for found, _ in judged]).reshape(-1, 2)
    truth = np.array([crossing for _, crossing in judged])
    errors = [np.log10(found.upper_edge) - crossing for found, crossing in judged if found.upper_edge and np.isfinite(crossing)]
    widths = np.minimum(ends[:, 1], RANGE[1]) - np.maximum(ends[:, 0], RANGE[0])
    throughout = sum(found.upper is UpperEdge.BELOW_RANGE and crossing > -np.inf for found, crossing in judged)
    yield from (kind, tasks, f"{np.mean([not found.monotone for found in results]):.1%}")
    yield from (share((ends[:, 0] <= truth) & (truth <= ends[:, 1])), share(truth < ends[:, 0]))
    yield from (f"{np.median(widths):.3f}" if len(widths) else "–", f"{np.median(np.abs(errors)):.4f}" if errors else "–")
    yield from (throughout, f"{np.mean([found.upper is UpperEdge.UNDECIDED for found in results]):.1%}")


def two_edges(kind: str, tasks: int, seed: int) -> Iterator[object]:
    """The row of one kind of curve that falls and rises."""
    rng = np.random.default_rng((seed, 1_000 + list(VALLEYS).index(kind)))
    curves: list[ValleyCurve] = [drawn_valley(kind, rng) for _ in range(tasks)]
    results = searched(curves, ("any",), rng)
    claims = [False if found.upper is UpperEdge.NOWHERE else True if found.safe else None for found in results]
    wrong = [claim is not None and claim != (curve.edges is not None) for claim, curve in zip(claims, curves)]
    yield from (kind, tasks, f"{np.mean([curve.edges is None for curve in curves]):.1%}", f"{np.mean(wrong):.1%}")
    yield f"{np.mean([found.undecided for found in results]):.1%}"
    yield f"{np.mean([not found.monotone for found in results]):.1%}"
    judged = [(found, curve.edges) for found, curve in zip(results, curves) if curve.edges and found.safe]
    for place in (0, 1):
        ends = [log_ends((found.lower_edge_interval, found.upper_edge_interval)[place]) for found, _ in judged]
        truth = [edges[place] for _, edges in judged]
        yield share(np.array([low <= true <= high for (low, high), true in zip(ends, truth)], dtype=bool))
    low, high = (np.array([(found.least_rate_interval or (0.0, 1.0))[end] for found in results]) for end in (0, 1))
    least = np.array([curve.least for curve in curves])
    yield share((low - RESOLUTION <= least) & (least <= high + RESOLUTION))


def share(flags: NDArray[np.bool_]) -> str:
    return f"{flags.mean():.1%}" if len(flags) else "–"


def row(values: Iterator[object] | Sequence[object]) -> None:
    print(f"| {' | '.join(map(str, values))} |", flush=True)


def table(heads: Sequence[str]) -> None:
    print()
    row(heads)
    row(["---"] * len(heads))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=200, help="curves of each kind")
    parser.add_argument("--seed", type=int, default=2_026, help="from which the curves are drawn")
    parser.add_argument("--kinds", default=",".join((*KINDS, *VALLEYS)), help="kinds of curves, separated by commas")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    print(f"{machine()}; seed {arguments.seed}, {BUDGET} replicates per search")
    table(("curves", "searches", "not monotone", "held", "too high", "width", "error", "wrongly throughout", "undecided"))
    for kind in (kind for kind in kinds if kind in KINDS):
        row(single_edges(kind, arguments.tasks, arguments.seed))
    table(
        ("curves", "searches", "none is safe", "wrong", "undecided", "not monotone", "lower held", "upper held", "least rate held")
    )
    for kind in (kind for kind in kinds if kind in VALLEYS):
        row(two_edges(kind, arguments.tasks, arguments.seed))


if __name__ == "__main__":
    main()
