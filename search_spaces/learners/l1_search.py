"""The learner of the l1 search: the safe interval of l1 and the best l1 for every (architecture, sparsity). It is pure ask/tell.

    learner = L1Learner(L1SearchSpec(L1Search(), cells=(("10-5-10", 0.9),), l1=(1e-4, 10), score="mcc_decoder_features"))
    while batch := learner.ask():
        learner.tell(rows_of(batch))

What the learner asks for is a function of the specification and of the rows that it has received, batch by batch: given
the stored rows of its earlier batches, it asks for the same again.

A batch holds some replicates of every unfinished cell. Each cell has seeds of its own, so that errors of cells are
independent. Within a cell, each autoencoder serves several distant values of l1: one at the upper edge, to locate it
precisely, and others for the remaining questions (whether the rate only rises, where the code becomes dense, where
recovery is best). The statistics behind these choices are in `l1_curves.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.coordinates import L1, SPARSITY
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, before_sae
from search_spaces.learners.contract import Rows
from search_spaces.learners.l1_curves import STEP, CrossingPosterior, Descent, Floats, Ints, Monotony, RisingRate, Score
from search_spaces.searches import L1Search
from search_spaces.values import quoted

BATCH = 24
"""Replicates per cell in a batch."""
SWEEPS = 2
"""Number of batches that are spread over the whole range before refinement starts."""
L1S_ON_COMMON_SEED = 4
"""Distant values of l1 on each autoencoder of a sweep, and values on each autoencoder that looks for the best l1, because seeds
differ more than values of l1 do."""
SEEDS_APART = 1_000
"""Distance between the first seeds of neighbouring cells: their errors are independent as long as no cell uses more seeds."""
AHEAD = 2
"""Number of batches whose rows may be awaited at once, so that workers do not wait for the learner."""
NEAR = 0.5
"""Decades to each side of the predicted edge in which half of the second sweep lies."""
CLEARANCE = 96
"""Number of replicates below the rise from which on a cell without signs of a bump counts as cleared of one."""
UNCLEARED_SHARE, CLEARED_SHARE = 0.4, 0.3
"""Share of a batch that is not at the upper edge, before and after the cell is cleared of a bump."""
LOW_SHARE, BEST_SHARE = 0.25, 0.25
"""Shares of these at the lower edge and at candidates for the best l1. Before the cell is cleared, the rest look for a bump;
afterwards, what is not at the lower edge looks for the best l1."""
BUMP_PRIOR = 0.5
"""Prior odds of a bump, which determine how many replicates are placed where it may be."""
SURE_OF_BUMP = 4.0
"""Log Bayes factor above which a cell is "not monotone". On average at most one in e^4 rates that only rise ever gets there."""
CREDIBLE = 0.9


@dataclass(frozen=True)
class L1SearchSpec:
    """What to search, and where. Raises MisuseError for an invalid or too narrow range of l1, and for a budget below the sweeps."""

    search: L1Search
    cells: tuple[tuple[str, float], ...]
    """Pairs (architecture, sparsity), such as ("10-5-10", 0.9)."""
    l1: tuple[float, float]
    """Lowest and highest value of l1."""
    score: str | None
    """The column whose mean over seeds is highest at the best l1; None: search neither for the best l1 nor for the lower edge."""
    predicted_edges: tuple[float | None, ...] = ()
    """Where theory predicts the upper edge of each cell; () if it predicts none."""
    seed: int = 0
    """The first of the replicates' seeds, which count up from it; also the seed of the random points."""

    def __post_init__(self) -> None:
        cells = tuple((str(Architecture.parse(name)), SPARSITY.checked(sparsity)) for name, sparsity in self.cells)
        if not cells or len(set(cells)) < len(cells):
            raise MisuseError(f"cells={quoted(list(cells))} must name at least one (architecture, sparsity), and none twice.")
        object.__setattr__(self, "cells", cells)
        low, high = (L1.checked(end) for end in self.l1)
        if not 0 < low < high or np.log10(high / low) < 0.5:
            raise MisuseError(f"l1 from {low:g} to {high:g} is not a range to search. Give half a decade or more, above 0.")
        object.__setattr__(self, "l1", (low, high))
        if self.search.budget < SWEEPS * BATCH:
            least = f"{SWEEPS * BATCH}, the replicates per cell that are first spread over the range"
            raise MisuseError(f"budget={quoted(self.search.budget)} is below {least}.")
        object.__setattr__(self, "predicted_edges", tuple(self.predicted_edges) or (None,) * len(cells))
        if len(self.predicted_edges) != len(cells):
            raise MisuseError(f"predicted_edges has {len(self.predicted_edges)} values for {len(cells)} cells. Give one per cell.")


class UpperEdge(StrEnum):
    """Whether and where the failure rate rises through the level."""

    INSIDE = "inside"
    BELOW_RANGE = "fails throughout"
    ABOVE_RANGE = "never fails"
    NOT_MONOTONE = "not monotone"


class LowerEdge(StrEnum):
    """Whether and where the rate of dense codes falls through the level."""

    INSIDE = "inside"
    BELOW_RANGE = "never dense"
    ABOVE_RANGE = "dense throughout"
    NOT_SEARCHED = "not searched"


Ends = tuple[float | None, float | None]
"""The ends of a 90 % interval; None for an end beyond the range that was searched."""


@dataclass(frozen=True)
class L1Interval:
    """The findings for one cell: its safe interval, from the lower to the upper edge, and its best l1."""

    architecture: str
    sparsity: float
    lower_edge: float | None
    """From this l1 on, the rate of `sae_dense` is below the level; None if there is no such l1, for the reason in `lower`."""
    lower_edge_interval: Ends
    upper_edge: float | None
    """Up to this l1, the failure rate is below the level; None if there is no such l1, for the reason in `upper`."""
    upper_edge_interval: Ends
    monotone: bool
    """False if the rate rises, falls and rises again, so that no single edge describes it."""
    best_l1: float | None
    best_l1_interval: tuple[float, float] | None
    best_recovery: float | None
    """The mean recovery at best_l1: MCC or F1, whichever the search maximises."""
    predicted_edge: float | None
    """The upper edge that theory predicts in closed form."""
    replicates: int
    autoencoders: int
    """Number of distinct autoencoders among the replicates."""
    failed_before_sae: int
    """Number of replicates left out because they failed before the SAE (`before_sae`)."""
    upper: UpperEdge
    lower: LowerEdge
    bump_l1: float | None
    """Where the rate is high below the last rise; None if it is monotone."""


class L1Learner:
    """Searches all cells at once. `tell` takes whole batches, in the order in which they were asked for."""

    def __init__(self, spec: L1SearchSpec) -> None:
        self.spec = spec
        self._lattice = _Lattice(*spec.l1)
        rising, monotony = RisingRate(self._lattice.size, spec.search.level), Monotony(self._lattice.size, spec.search.level)
        self._cells = [_CellRows(spec, place, self._lattice, rising, monotony) for place in range(len(spec.cells))]
        self._asked: list[list[tuple[int, Ints, Ints]]] = []
        self._told = 0

    @property
    def done(self) -> bool:
        """Whether every cell has reached its precision or spent its budget, and no rows are awaited."""
        return self._told == len(self._asked) and self._told >= SWEEPS and all(cell.finished for cell in self._cells)

    def ask(self) -> list[Replicates]:
        """The next batch, one `Replicates` per architecture; [] while it waits for rows, or when nothing is left to ask for."""
        number = len(self._asked)
        if number - self._told >= AHEAD or (number >= SWEEPS and self._told < SWEEPS):
            return []
        plan = []
        for place, cell in enumerate(self._cells):
            rng = np.random.default_rng((self.spec.seed, number, place))
            if number < SWEEPS:
                x, seed = self._swept(number, place, rng)
            elif cell.finished:
                continue
            else:
                x, seed = cell.refined(min(BATCH, cell.left), rng)
            plan.append((place, x, cell.next_seed + seed))
            cell.asked += len(x)
            cell.next_seed += 1 + int(seed.max())
        if not plan:
            return []
        self._asked.append(plan)
        return self._replicates(plan)

    def tell(self, rows: Rows) -> None:
        """Learn from the rows, in any order, of the oldest batch that is awaited; ValueError if they are not of that batch."""
        if self._told == len(self._asked):
            raise ValueError("no batch is awaited: the rows of every batch have been told.")
        keys = zip(
            np.asarray(rows["architecture"]).tolist(),
            np.asarray(rows["sparsity"]).tolist(),
            np.asarray(rows["l1"]).tolist(),
            np.asarray(rows["seed"]).tolist(),
        )
        found = {key: position for position, key in enumerate(keys)}
        failure = np.asarray(rows["failure"]).astype(str)
        score = np.asarray(rows[self.spec.score], dtype=np.float64) if self.spec.score else None
        plan = self._asked[self._told]
        for place, x, seed in plan:
            name, sparsity = self.spec.cells[place]
            try:
                order = [found[name, sparsity, l1, s] for l1, s in zip(self._lattice.l1(x).tolist(), seed.tolist())]
            except KeyError as missing:
                raise ValueError(f"the rows lack {missing} of the batch that is awaited.") from None
            self._cells[place].add(x, seed, failure[order], None if score is None else score[order])
        self._told += 1

    def results(self) -> list[L1Interval]:
        """The current findings for each cell, in the specification's order."""
        return [cell.result() for cell in self._cells]

    def summary(self) -> dict[str, float]:
        """Figures for a progress line."""
        widths = [cell.half_width for cell in self._cells if len(cell)]
        return {
            "replicates": sum(len(cell) for cell in self._cells),
            "cells_finished": sum(cell.finished for cell in self._cells if len(cell)),
            "median_half_width_decades": float(np.median(widths)) if widths else float("inf"),
        }

    def _swept(self, number: int, place: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """x spread evenly, values of one seed far apart; in the second sweep, half of them near the predicted edge, if any."""
        size = self._lattice.size
        spread = (np.arange(BATCH) + rng.random(BATCH)) / BATCH
        predicted = self.spec.predicted_edges[place]
        if number == SWEEPS - 1 and predicted is not None and self.spec.l1[0] < predicted < self.spec.l1[1]:
            middle, reach = np.log10(predicted / self.spec.l1[0]) / STEP / size, NEAR / STEP / size
            first, last = max(middle - reach, 0.0), min(middle + reach, 1.0)
            spread = np.sort(np.concatenate([spread[1::2], first + (last - first) * spread[::2]]))
        x = np.clip((spread * size).astype(np.int64), 0, size - 1)
        seeds = np.arange(BATCH) % (BATCH // L1S_ON_COMMON_SEED)
        return _distinct(x, seeds, size), seeds

    def _replicates(self, plan: list[tuple[int, Ints, Ints]]) -> list[Replicates]:
        of: dict[str, list[Replicate]] = {}
        for place, x, seed in plan:
            name, sparsity = self.spec.cells[place]
            architecture = Architecture.parse(name)
            of.setdefault(name, []).extend(
                Replicate(Cell(architecture, sparsity, l1), s) for l1, s in zip(self._lattice.l1(x).tolist(), seed.tolist())
            )
        return [Replicates.of(replicates) for replicates in of.values()]


class _Lattice:
    """Values of l1 in steps of STEP decades, rounded to six digits."""

    def __init__(self, low: float, high: float) -> None:
        self.size = 1 + int(np.floor(np.log10(high / low) / STEP + 1e-6))
        self._l1 = np.array([float(f"{low * 10 ** (step * STEP):.6g}") for step in range(self.size)])

    def l1(self, x: Ints) -> Floats:
        return self._l1[x]

    def at(self, x: int) -> float | None:
        """The l1 at an index; None beyond either end."""
        return float(self._l1[x]) if 0 <= x < self.size else None


class _CellRows:
    """The rows of one cell and the estimates made from them."""

    def __init__(self, spec: L1SearchSpec, place: int, lattice: _Lattice, rising: RisingRate, monotony: Monotony) -> None:
        self._spec, self._place, self._lattice, self._size = spec, place, lattice, lattice.size
        self._rising, self._monotony = rising, monotony
        self.asked = 0
        self.next_seed = spec.seed + place * SEEDS_APART
        self.bump_x: int | None = None
        """Index of a bump that was found; None as long as there is none."""
        self._x: Ints = np.empty(0, dtype=np.int64)
        self._seed: Ints = np.empty(0, dtype=np.int64)
        self._failure: NDArray[np.str_] = np.empty(0, dtype="U16")
        self._score: Floats = np.empty(0)

    def __len__(self) -> int:
        return len(self._x)

    @property
    def left(self) -> int:
        return self._spec.search.budget - self.asked

    def add(self, x: Ints, seed: Ints, failure: NDArray[np.str_], score: Floats | None) -> None:
        self._x, self._seed = np.concatenate([self._x, x]), np.concatenate([self._seed, seed])
        self._failure = np.concatenate([self._failure, failure])
        self._score = np.concatenate([self._score, np.full(len(x), np.nan) if score is None else score])
        for name in ("upper", "lower", "descent", "score"):
            self.__dict__.pop(name, None)
        if self.bump_x is None and self.descent.log_bayes_factor > SURE_OF_BUMP:
            self.bump_x = int(np.argmax(self.descent.bump))

    @property
    def _judged(self) -> NDArray[np.bool_]:
        """Which rows have an SAE that was trained on a healthy autoencoder."""
        return ~np.isin(self._failure, before_sae())

    def _counts(self, failed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Failures and replicates at each value of the lattice."""
        judged = self._judged
        failures = np.bincount(self._x[judged & failed], minlength=self._size)
        return failures.astype(np.float64), np.bincount(self._x[judged], minlength=self._size).astype(np.float64)

    @property
    def _failed(self) -> NDArray[np.bool_]:
        return np.isin(self._failure, self._spec.search.failure)

    @cached_property
    def upper(self) -> CrossingPosterior:
        """Where the failure rate rises to the level."""
        return self._rising.crossing(*self._counts(self._failed))

    @cached_property
    def lower(self) -> CrossingPosterior:
        """Where the rate of dense codes falls to the level, on the reversed lattice."""
        failures, replicates = self._counts(self._failure == FailureKind.SAE_DENSE.value)
        return self._rising.crossing(failures[::-1], replicates[::-1])

    @cached_property
    def descent(self) -> Descent:
        return self._monotony.descent(*self._counts(self._failed))

    @cached_property
    def score(self) -> Score | None:
        known = self._judged & np.isfinite(self._score)
        return Score(self._size, self._x[known], self._seed[known], self._score[known]) if known.sum() >= 2 else None

    @property
    def half_width(self) -> float:
        """Half the width of the upper edge's interval, in decades.

        It is infinite if the interval reaches beyond the range, or if there is no single edge.
        """
        low, high = self.upper.interval(CREDIBLE)
        inside = self.bump_x is None and low >= 0 and high < self._size
        return (high - low) * STEP / 2 if inside else np.inf

    @property
    def finished(self) -> bool:
        if self.left <= 0:
            return True
        if self.bump_x is not None and self._spec.score is None:
            return True
        return self._spec.search.precision is not None and self._cleared and self.half_width <= self._spec.search.precision

    @property
    def _cleared(self) -> bool:
        """Whether enough replicates lie below the rise without hinting at a bump."""
        below = np.sum(self._x[self._judged] < self.descent.below_rise)
        return bool(below >= CLEARANCE) and self.descent.log_bayes_factor < -1

    def refined(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """x and seeds, counted from 0: replicates at the edge, each with its own seed, and others on the same autoencoders."""
        rest_share, best_share = (CLEARED_SHARE, 1 - LOW_SHARE) if self._cleared else (UNCLEARED_SHARE, BEST_SHARE)
        edges = count - round(rest_share * count)
        edge = self._within(self.upper, edges, rng) if self.bump_x is None else np.empty(0, dtype=np.int64)
        rest = count - len(edge)
        low = best = np.empty(0, dtype=np.int64)
        if self._spec.score is not None:
            low = self._size - 1 - self._within(self.lower, round(LOW_SHARE * rest), rng)
            best = self._thompson(round(best_share * rest), rng)
        bumps = self._suspected(rest - len(low) - len(best), rng)
        clear = self._spread(rest - len(low) - len(best) - len(bumps), rng)
        others = rng.permutation(np.concatenate([low, bumps, clear]))
        autoencoders = max(len(edge), -(-count // 2))
        seeds = [np.arange(len(edge)), np.arange(len(others)) % autoencoders, np.arange(len(best)) // L1S_ON_COMMON_SEED]
        seed = np.concatenate(seeds)
        return _distinct(np.concatenate([edge, others, best]), seed, self._size), seed

    def _within(self, crossing: CrossingPosterior, count: int, rng: np.random.Generator) -> Ints:
        """Draws of a crossing, in proportion to the probability that it lies in the range."""
        return crossing.draw(round(count * crossing.inside), rng)

    def _thompson(self, count: int, rng: np.random.Generator) -> Ints:
        score = self.score
        return np.empty(0, dtype=np.int64) if score is None else score.places[score.draws(count, rng).argmax(1)]

    def _suspected(self, count: int, rng: np.random.Generator) -> Ints:
        """Points in proportion to the probability of a bump.

        Half are drawn from where it may be, half from between there and the last rise.
        """
        if self.bump_x is not None:
            return np.empty(0, dtype=np.int64)
        odds = BUMP_PRIOR * np.exp(min(self.descent.log_bayes_factor, 50.0))
        x = rng.choice(self._size, round(count * odds / (1 + odds)), p=self.descent.bump)
        gap = np.maximum(self.descent.below_rise - x[1::2], 1)
        x[1::2] += (gap * rng.random(len(gap))).astype(np.int64)
        return np.minimum(x, self._size - 1)

    def _spread(self, count: int, rng: np.random.Generator) -> Ints:
        """Points spread evenly below the rise."""
        return ((np.arange(count) + rng.random(count)) / max(count, 1) * max(self.descent.below_rise, 1)).astype(np.int64)

    def result(self) -> L1Interval:
        """The current findings for the cell."""
        name, sparsity = self._spec.cells[self._place]
        upper, upper_edge, upper_ends = self._upper_edge()
        lower, lower_edge, lower_ends = self._lower_edge()
        best_l1, best_ends, best_recovery = self._best()
        return L1Interval(
            architecture=name,
            sparsity=sparsity,
            lower_edge=lower_edge,
            lower_edge_interval=lower_ends,
            upper_edge=upper_edge,
            upper_edge_interval=upper_ends,
            monotone=self.bump_x is None,
            best_l1=best_l1,
            best_l1_interval=best_ends,
            best_recovery=best_recovery,
            predicted_edge=self._spec.predicted_edges[self._place],
            replicates=len(self),
            autoencoders=len(np.unique(self._seed)),
            failed_before_sae=int(np.sum(~self._judged)),
            upper=upper,
            lower=lower,
            bump_l1=None if self.bump_x is None else self._lattice.at(self.bump_x),
        )

    def _upper_edge(self) -> tuple[UpperEdge, float | None, Ends]:
        if self.bump_x is not None:
            return UpperEdge.NOT_MONOTONE, None, (None, None)
        middle, (first, last) = self.upper.quantile(0.5), self.upper.interval(CREDIBLE)
        edge = self._lattice.at(middle)
        where = UpperEdge.INSIDE if edge is not None else UpperEdge.BELOW_RANGE if middle < 0 else UpperEdge.ABOVE_RANGE
        return where, edge, (self._lattice.at(first), self._lattice.at(last))

    def _lower_edge(self) -> tuple[LowerEdge, float | None, Ends]:
        if self._spec.score is None:
            return LowerEdge.NOT_SEARCHED, None, (None, None)
        middle, last, first = (self._size - 1 - x for x in (self.lower.quantile(0.5), *self.lower.interval(CREDIBLE)))
        edge = self._lattice.at(middle)
        where = LowerEdge.INSIDE if edge is not None else LowerEdge.BELOW_RANGE if middle < 0 else LowerEdge.ABOVE_RANGE
        return where, edge, (self._lattice.at(first), self._lattice.at(last))

    def _best(self) -> tuple[float | None, tuple[float, float] | None, float | None]:
        """The best l1, its interval and the mean recovery there."""
        score = self.score
        if score is None:
            return None, None, None
        draws = score.draws(1000, np.random.default_rng(self._spec.seed)).argmax(1)
        first, last = np.quantile(score.places[draws], _ENDS, method="nearest")
        best = int(score.mean.argmax())
        ends = float(self._lattice.l1(first)), float(self._lattice.l1(last))
        return self._lattice.at(int(score.places[best])), ends, float(score.mean.max())


_ENDS = ((1 - CREDIBLE) / 2, (1 + CREDIBLE) / 2)


def _distinct(x: Ints, seed: Ints, size: int) -> Ints:
    """x moved by single steps until no two replicates of one seed have the same value."""
    moved, taken = x.copy(), set()
    for place, s in enumerate(seed.tolist()):
        while (s, int(moved[place])) in taken:
            moved[place] = (moved[place] + 1) % size
        taken.add((s, int(moved[place])))
    return moved
