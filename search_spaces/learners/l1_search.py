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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.coordinates import L1, SPARSITY
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, before_sae
from search_spaces.learners.contract import Rows
from search_spaces.learners.l1_curves import STEP, CrossingPosterior, Edges, Floats, Ints, RisingEdge, Score, Valley
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
"""Number of replicates below the rise from which on a cell without signs of a bump counts as cleared of one,"""
CLEARED = -1.0
"""if the log Bayes factor of a bump is below this."""
UNCLEARED_SHARE, CLEARED_SHARE = 0.75, 0.3
"""Share of a batch that is not at the upper edge, before and after the cell is cleared of a bump."""
LOW_SHARE, BEST_SHARE = 0.25, 0.25
"""Shares of these at the lower edge and at candidates for the best l1. Before the cell is cleared, the rest look for a bump;
afterwards, what is not at the lower edge looks for the best l1."""
BUMP_PRIOR = 10.0
"""Prior odds of a bump, which determine how many replicates are placed where it may be."""
SURE_OF_BUMP = 3.0
"""Log Bayes factor above which a cell is "not monotone". At most one in e^3 of the rates that only rise ever gets there."""
NEARBY = 0.15
"""Decades to each side of the best l1 in which replicates say how often it fails."""
CREDIBLE = 0.95
"""Probability of every interval."""


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
    predictions_hold: tuple[bool, ...] = ()
    """Whether that prediction has been found to hold for such a cell; () if it has for all."""
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
        object.__setattr__(self, "predictions_hold", tuple(self.predictions_hold) or (True,) * len(cells))
        if len(self.predicted_edges) != len(cells):
            raise MisuseError(f"predicted_edges has {len(self.predicted_edges)} values for {len(cells)} cells. Give one per cell.")


class UpperEdge(StrEnum):
    """Whether and where the failure rate rises through the level."""

    INSIDE = "inside"
    BELOW_RANGE = "fails throughout"
    ABOVE_RANGE = "never fails"
    UNDECIDED = "undecided"
    """It probably lies beyond the range, but not surely; or it is not sure whether the rate is below the level anywhere."""
    NOWHERE = "none"
    """The rate falls and rises, and is surely nowhere below the level."""
    NOT_MONOTONE = "not monotone"


class LowerEdge(StrEnum):
    """Whether and where the rate of dense codes falls through the level."""

    INSIDE = "inside"
    BELOW_RANGE = "never dense"
    ABOVE_RANGE = "dense throughout"
    UNDECIDED = "undecided"
    NOWHERE = "none"
    NOT_MONOTONE = "not monotone"
    NOT_SEARCHED = "not searched"


Ends = tuple[float | None, float | None]
"""The ends of an interval; None for an end beyond the range that was searched."""


@dataclass(frozen=True)
class BestL1:
    """The l1 at which the mean recovery is highest, and how sure that is."""

    l1: float
    interval: tuple[float, float]
    recovery: float
    """The mean recovery there: MCC or F1, whichever the search maximises. It lies between the lowest and the highest one seen."""


@dataclass(frozen=True)
class L1Interval:
    """The findings for one cell: its safe interval, from the lower to the upper edge, and its best l1."""

    architecture: str
    sparsity: float
    lower_edge: float | None
    """From this l1 on, the rate of `sae_dense` is below the level; None if there is no such l1, for the reason in `lower`.

    If the search is for failures that both a small and a large l1 causes, it is the rate of these failures.
    """
    lower_edge_interval: Ends
    upper_edge: float | None
    """Up to this l1, the failure rate is below the level; None if there is no such l1, for the reason in `upper`."""
    upper_edge_interval: Ends
    monotone: bool
    """False if the rate is above the level in one place more than it should be, so that no single edge describes it."""
    best_l1: float | None
    best_l1_interval: tuple[float, float] | None
    best_recovery: float | None
    """The mean recovery at best_l1: MCC or F1, whichever the search maximises. Never above the highest recovery seen."""
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
    """Where the rate is high where it should not be; None if it is monotone."""
    interval_level: float = CREDIBLE
    """The probability of every interval."""
    failure: tuple[str, ...] = ()
    """The failures whose rate has the upper edge."""
    level: float | None = None
    """The highest rate of them that is tolerated."""
    best_nearby: int | None = None
    """Number of replicates within 0.15 decades of best_l1, and"""
    best_failed: int | None = None
    """how many of them fail in any way."""
    best_healthy_l1: float | None = None
    """Where the mean recovery of the replicates without any failure is highest; None if there is none."""
    best_healthy_l1_interval: tuple[float, float] | None = None
    best_healthy_recovery: float | None = None
    safe_probability: float | None = None
    """The probability that the rate is below the level somewhere; None unless the search has both edges of the same failures."""
    least_rate: float | None = None
    """The lowest rate of these failures, its interval, and where it is."""
    least_rate_interval: tuple[float, float] | None = None
    least_l1: float | None = None
    least_l1_interval: tuple[float, float] | None = None
    predicted_edge_holds: bool | None = None
    """Whether the closed form has been found to hold for such a cell; None if that is not known."""

    @property
    def safe(self) -> Ends | None:
        """The safe interval, None for an end beyond the range; None if no l1 is safe, or if that is not known (`undecided`)."""
        if self.nothing_safe or self.undecided or not self.monotone:
            return None
        return self.lower_edge, self.upper_edge

    @property
    def nothing_safe(self) -> bool:
        """Whether the upper edge lies below the lower one, or the whole range fails or is dense."""
        if self.upper in (UpperEdge.BELOW_RANGE, UpperEdge.NOWHERE) or self.lower is LowerEdge.ABOVE_RANGE:
            return True
        return self.lower_edge is not None and self.upper_edge is not None and self.upper_edge <= self.lower_edge

    @property
    def closed_form(self) -> float | None:
        """`predicted_edge`, where it can be compared: where it holds, and the edge is one of failures that too much l1 causes."""
        comparable = self.predicted_edge_holds is not False and self.safe_probability is None
        return self.predicted_edge if comparable else None

    @property
    def undecided(self) -> bool:
        """Whether an edge may lie beyond the range, or in it: then nothing is claimed."""
        return UpperEdge.UNDECIDED in (self.upper, self.lower) and not self.nothing_safe


class L1Learner:
    """Searches all cells at once. `tell` takes whole batches, in the order in which they were asked for."""

    def __init__(self, spec: L1SearchSpec) -> None:
        self.spec = spec
        self._lattice = _Lattice(*spec.l1)
        rising = RisingEdge(self._lattice.size, spec.search.level)
        valley = None if spec.search.rises else Valley(self._lattice.size, spec.search.level)
        self._cells = [_CellRows(spec, place, self._lattice, rising, valley) for place in range(len(spec.cells))]
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

    def index(self, l1: float) -> int:
        """The index of a value of the lattice."""
        return int(np.searchsorted(self._l1, l1))

    def at(self, x: int) -> float | None:
        """The l1 at an index; None beyond either end."""
        return float(self._l1[x]) if 0 <= x < self.size else None


class _CellRows:
    """The rows of one cell and the estimates made from them."""

    def __init__(self, spec: L1SearchSpec, place: int, lattice: _Lattice, rising: RisingEdge, valley: Valley | None) -> None:
        self._spec, self._place, self._lattice, self._size = spec, place, lattice, lattice.size
        self._rising, self._valley = rising, valley
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
        for name in ("edges", "lower", "score"):
            self.__dict__.pop(name, None)
        if self.bump_x is None and self.edges.descent.log_bayes_factor > SURE_OF_BUMP:
            self.bump_x = int(np.argmax(self.edges.descent.bump))

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
        return np.isin(self._failure, self._spec.search.kinds)

    @cached_property
    def edges(self) -> Edges:
        """Where the failure rate crosses the level."""
        return (self._valley or self._rising).edges(*self._counts(self._failed))

    @cached_property
    def lower(self) -> CrossingPosterior | None:
        """Where the rate falls to the level, on the reversed lattice: that of dense codes, if the failures only rise."""
        if self._valley is not None or self._spec.score is None:
            return self.edges.lower
        failures, replicates = self._counts(self._failure == FailureKind.SAE_DENSE.value)
        return self._rising.crossing(failures[::-1], replicates[::-1])

    @cached_property
    def score(self) -> Score | None:
        return self._score_of(self._judged)

    def _score_of(self, which: NDArray[np.bool_]) -> Score | None:
        known = which & np.isfinite(self._score)
        return Score(self._size, self._x[known], self._seed[known], self._score[known]) if known.sum() >= 2 else None

    @property
    def half_width(self) -> float:
        """Half the width of the upper edge's interval, in decades.

        It is infinite if the interval reaches beyond the range, or if there is no single edge.
        """
        low, high = self.edges.upper.interval(CREDIBLE)
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
        first, last = self.edges.descent.stretch
        x = self._x[self._judged]
        return bool(np.sum((x >= first) & (x < last)) >= CLEARANCE) and self.edges.descent.log_bayes_factor < CLEARED

    def refined(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """x and seeds, counted from 0: replicates at the edge, each with its own seed, and others on the same autoencoders."""
        rest_share, best_share = (CLEARED_SHARE, 1 - LOW_SHARE) if self._cleared else (UNCLEARED_SHARE, BEST_SHARE)
        edges = count - round(rest_share * count)
        edge = self._at_edges(edges, rng) if self.bump_x is None else np.empty(0, dtype=np.int64)
        rest = count - len(edge)
        low = best = np.empty(0, dtype=np.int64)
        if self._spec.score is not None:
            if self._valley is None:
                low = self._falling(round(LOW_SHARE * rest), rng)
            best = self._thompson(round(best_share * rest), rng)
        bumps = self._suspected(rest - len(low) - len(best), rng)
        clear = self._spread(rest - len(low) - len(best) - len(bumps), rng)
        others = rng.permutation(np.concatenate([low, bumps, clear]))
        autoencoders = max(len(edge), -(-count // 2))
        seeds = [np.arange(len(edge)), np.arange(len(others)) % autoencoders, np.arange(len(best)) // L1S_ON_COMMON_SEED]
        seed = np.concatenate(seeds)
        return _distinct(np.concatenate([edge, others, best]), seed, self._size), seed

    def _at_edges(self, count: int, rng: np.random.Generator) -> Ints:
        """Points at the upper edge; for failures that fall and rise, also at the lower edge, or where the rate is lowest."""
        if self._valley is None:
            return _draw(self.edges.upper, count, rng)
        bottom = round((1 - self.edges.safe) * count)
        low = (count - bottom) // 2
        weights = self.edges.bottom() + 1e-12
        least = rng.choice(self._size, bottom, p=weights / weights.sum())
        return np.concatenate([least, self._falling(low, rng), _draw(self.edges.upper, count - bottom - low, rng)])

    def _falling(self, count: int, rng: np.random.Generator) -> Ints:
        """Points at the lower edge."""
        assert self.lower is not None
        return self._size - 1 - _draw(self.lower, count, rng)

    def _thompson(self, count: int, rng: np.random.Generator) -> Ints:
        score = self.score
        return np.empty(0, dtype=np.int64) if score is None else score.places[score.draws(count, rng).argmax(1)]

    def _suspected(self, count: int, rng: np.random.Generator) -> Ints:
        """Points in proportion to the probability of a bump.

        Half are drawn from where it may be, half from between there and the last rise.
        """
        if self.bump_x is not None:
            return np.empty(0, dtype=np.int64)
        descent = self.edges.descent
        odds = BUMP_PRIOR * np.exp(min(descent.log_bayes_factor, 50.0))
        x = rng.choice(self._size, round(count * odds / (1 + odds)), p=descent.bump)
        gap = np.maximum(descent.stretch[1] - x[1::2], 1)
        x[1::2] += (gap * rng.random(len(gap))).astype(np.int64)
        return np.minimum(x, self._size - 1)

    def _spread(self, count: int, rng: np.random.Generator) -> Ints:
        """Points spread evenly over where a bump is looked for."""
        first, last = self.edges.descent.stretch
        shares = (np.arange(count) + rng.random(count)) / max(count, 1)
        return np.minimum(first + (shares * max(last - first, 1)).astype(np.int64), self._size - 1)

    def result(self) -> L1Interval:
        """The current findings for the cell."""
        name, sparsity = self._spec.cells[self._place]
        upper, upper_edge, upper_ends = self._upper_edge()
        lower, lower_edge, lower_ends = self._lower_edge()
        predicted = self._spec.predicted_edges[self._place]
        return L1Interval(
            architecture=name,
            sparsity=sparsity,
            lower_edge=lower_edge,
            lower_edge_interval=lower_ends,
            upper_edge=upper_edge,
            upper_edge_interval=upper_ends,
            monotone=self.bump_x is None,
            predicted_edge=predicted,
            predicted_edge_holds=None if predicted is None else self._spec.predictions_hold[self._place],
            replicates=len(self),
            autoencoders=len(np.unique(self._seed)),
            failed_before_sae=int(np.sum(~self._judged)),
            upper=upper,
            lower=lower,
            bump_l1=None if self.bump_x is None else self._lattice.at(self.bump_x),
            failure=self._spec.search.failure,
            level=self._spec.search.level,
            **self._best_figures(),
            **self._least_figures(),
        )

    def _upper_edge(self) -> tuple[UpperEdge, float | None, Ends]:
        if self.bump_x is not None:
            return UpperEdge.NOT_MONOTONE, None, (None, None)
        if self._valley is not None and self.edges.safe < CREDIBLE:
            return (UpperEdge.NOWHERE if self.edges.safe <= 1 - CREDIBLE else UpperEdge.UNDECIDED), None, (None, None)
        middle, (first, last) = self.edges.upper.quantile(0.5), self.edges.upper.interval(CREDIBLE)
        edge = self._lattice.at(middle)
        beyond = UpperEdge.BELOW_RANGE if middle < 0 else UpperEdge.ABOVE_RANGE
        outside = beyond if self.edges.upper.surely_outside(CREDIBLE) else UpperEdge.UNDECIDED
        return UpperEdge.INSIDE if edge is not None else outside, edge, (self._lattice.at(first), self._lattice.at(last))

    def _lower_edge(self) -> tuple[LowerEdge, float | None, Ends]:
        if self.lower is None:
            return LowerEdge.NOT_SEARCHED, None, (None, None)
        if self._valley is not None and self.bump_x is not None:
            return LowerEdge.NOT_MONOTONE, None, (None, None)
        if self._valley is not None and self.edges.safe < CREDIBLE:
            return (LowerEdge.NOWHERE if self.edges.safe <= 1 - CREDIBLE else LowerEdge.UNDECIDED), None, (None, None)
        middle, last, first = (self._size - 1 - x for x in (self.lower.quantile(0.5), *self.lower.interval(CREDIBLE)))
        edge = self._lattice.at(middle)
        beyond = LowerEdge.BELOW_RANGE if middle < 0 else LowerEdge.ABOVE_RANGE
        outside = beyond if self.lower.surely_outside(CREDIBLE) else LowerEdge.UNDECIDED
        return LowerEdge.INSIDE if edge is not None else outside, edge, (self._lattice.at(first), self._lattice.at(last))

    def _best_figures(self) -> dict[str, Any]:
        """The best l1 of all replicates, and of those without any failure."""
        score = self.score
        if score is None:
            return {"best_l1": None, "best_l1_interval": None, "best_recovery": None}
        best = self._best(score, np.full(len(score.places), True))
        healthy = self._failure == FailureKind.NONE.value
        near = self._judged & (np.abs(self._x - self._lattice.index(best.l1)) * STEP <= NEARBY)
        figures = {
            "best_l1": best.l1,
            "best_l1_interval": best.interval,
            "best_recovery": best.recovery,
            "best_nearby": int(near.sum()),
            "best_failed": int((near & ~healthy).sum()),
        }
        of_healthy = self._score_of(healthy)
        if of_healthy is not None:
            seen = np.abs(of_healthy.places[:, None] - self._x[healthy]).min(1) * STEP <= NEARBY
            found = self._best(of_healthy, seen)
            names = ("best_healthy_l1", "best_healthy_l1_interval", "best_healthy_recovery")
            figures |= dict(zip(names, (found.l1, found.interval, found.recovery)))
        return figures

    def _best(self, score: Score, among: NDArray[np.bool_]) -> BestL1:
        """The place of the highest mean score, among some of its places."""
        places = score.places[among]
        draws = score.draws(1000, np.random.default_rng(self._spec.seed))[:, among].argmax(1)
        first, last = np.quantile(places[draws], _ENDS, method="nearest")
        best = int(score.mean[among].argmax())
        ends = float(self._lattice.l1(first)), float(self._lattice.l1(last))
        return BestL1(float(self._lattice.l1(places[best])), ends, float(np.clip(score.mean[among][best], *score.bounds)))

    def _least_figures(self) -> dict[str, Any]:
        """For failures that fall and rise: how probable it is that some l1 is safe, and the lowest rate."""
        least = self.edges.least(CREDIBLE)
        if least is None:
            return {}
        return {
            "safe_probability": self.edges.safe,
            "least_rate": least.rate,
            "least_rate_interval": least.rate_interval,
            "least_l1": self._lattice.at(least.x),
            "least_l1_interval": (self._lattice.at(least.interval[0]), self._lattice.at(least.interval[1])),
        }


_ENDS = ((1 - CREDIBLE) / 2, (1 + CREDIBLE) / 2)


def _draw(crossing: CrossingPosterior, count: int, rng: np.random.Generator) -> Ints:
    """Draws of a crossing, unless it surely lies outside the range."""
    return crossing.draw(0 if crossing.surely_outside(CREDIBLE) else count, rng)


def _distinct(x: Ints, seed: Ints, size: int) -> Ints:
    """x moved by single steps until no two replicates of one seed have the same value."""
    moved, taken = x.copy(), set()
    for place, s in enumerate(seed.tolist()):
        while (s, int(moved[place])) in taken:
            moved[place] = (moved[place] + 1) % size
        taken.add((s, int(moved[place])))
    return moved
