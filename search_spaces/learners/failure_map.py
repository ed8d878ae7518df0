"""The learner of the failure map: where to measure next, so that few replicates suffice. It is pure ask/tell.

    learner = Refinement(MapSpec(domain, MapSearch(budget=8_000)))
    while not learner.done:
        learner.tell(rows_of(learner.ask()))

From the third on, each batch is planned from the rows of all earlier batches except the one just before it, which may
still be in training. What the learner asks for is thus a function of the specification and the rows, no matter when the
rows arrive, and a search resumes by replaying them.

After an even first pass, a batch has four parts:

- *Straddle* (Bryan et al. 2005, "Active learning for identifying function threshold boundaries") sharpens the boundary
  that the surface shows.
- The *tree's risk* replaces straddle as that runs out, because the surface soon becomes too sure of small islands.
- *Surprise* follows up replicates that contradict the map.
- A Sobol sequence covers the whole domain.

The surface, its tree and its process are in `search_spaces/surface/surface.py`.
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betainc
from scipy.stats import qmc

from search_spaces.cells import SEED_COLUMNS, Architecture, Replicates
from search_spaces.errors import MisuseError
from search_spaces.failures import failed
from search_spaces.learners.contract import Rows
from search_spaces.searches import MapSearch
from search_spaces.surface.domain import Counts, Domain, Floats, Ints, grid_cell
from search_spaces.surface.posterior import Posterior
from search_spaces.surface.surface import Surface, expected_regret, fit_surface, kernel_sum

LEAST_BATCH, MOST_BATCH, GROWTH, GROWING_FROM = 256, 10_000, 0.125, 5_000
"""Bounds and growth of batches whose size is not given: the share GROWTH of the replicates planned so far beyond GROWING_FROM.
Small batches follow up quickly on what was seen; large ones need fewer fits of the surface."""
STRADDLE, SURPRISE = 0.5, 0.3
"""Shares of a batch. The rest follows the Sobol sequence to the end of the search, because that finds islands."""
STRADDLE_VOLUME = 0.002
"""Below this mean weight, straddle's share shrinks in proportion, and the tree's risk gets what it gives up."""
SURPRISE_REACH = 3.0
"""Standard deviation, in grid cells, of the kernel that sums the counts nearby."""
REFINED = 2.0
"""A precision counts as reached only after so many times the replicates of the first pass. Before that, islands that the first
pass touched with a replicate or two are not seen yet, and the expected errors are too small."""


@dataclass(frozen=True)
class MapSpec:
    """What to map, and where. Raises MisuseError for a batch below 1."""

    domain: Domain
    search: MapSearch
    batch: int | None = None
    """Replicates per batch; None: growing with the number planned so far."""
    seed: int = 0
    """The seed of the random points. The replicates' own seeds count up from 0, or from the highest of the earlier rows."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise MisuseError(f"batch={self.batch!r} is not a number >= 1.")


class Refinement:
    """Learns where the failure rate crosses a level."""

    def __init__(self, spec: MapSpec, earlier: Rows | None = None) -> None:
        """Start from nothing, or from rows of earlier studies, all of which must lie inside the domain."""
        self.spec = spec
        self.replicates = 0
        """Number of replicates that it has learned from, not counting those of earlier studies."""
        counts, self._next_seed = _no_counts(), 0
        if earlier is not None and len(earlier["seed"]):
            counts, self._next_seed = self._counts(earlier), 1 + int(earlier["seed"].max())
        self._state = _State(spec, fit_surface(spec.domain, counts))
        self._earlier = int(counts.replicates.sum())
        self._planned = 0
        self._precise = False
        self._sobol = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(spec.seed))
        self._rng = np.random.default_rng((spec.seed, 1))
        self._to_ask: deque[list[Replicates]] = deque()
        self._asked: deque[int] = deque()
        """The sizes of the batches whose rows are awaited."""
        self._plan()
        self._plan()

    @property
    def surface(self) -> Surface:
        """The current estimate of P(failure)."""
        return self._state.surface

    @property
    def expected_misclassified_volume(self) -> float:
        """The current expected misclassified volume: the mean of min(q, 1 − q). docs/map.md compares it with the true one."""
        return float(self._state.risk.mean())

    @property
    def expected_regret(self) -> float:
        """The current expected regret."""
        return expected_regret(self._state.posterior, self.spec.search.level)

    @property
    def done(self) -> bool:
        """Whether it will ask for nothing more: the budget is spent, or the precision was reached."""
        return not self._to_ask and (self._precise or self._planned >= self.spec.search.budget)

    def ask(self) -> list[Replicates]:
        """The next batch, one `Replicates` per architecture; [] while the rows of two are awaited, or when it is done."""
        if not self._to_ask:
            return []
        batch = self._to_ask.popleft()
        self._asked.append(sum(map(len, batch)))
        return batch

    def tell(self, rows: Rows) -> None:
        """Learn from a batch: tree and process are first scored on it, then refitted. The order of the rows is irrelevant."""
        if not self._asked or len(rows["seed"]) != self._asked[0]:
            raise ValueError(
                f"got {len(rows['seed'])} rows; the awaited batches have {list(self._asked)}. Tell the whole first batch."
            )
        self.replicates += self._asked.popleft()
        self._state = _State(self.spec, self.surface.updated(self._counts(rows)))
        self._plan()

    def summary(self) -> dict[str, float]:
        """For progress lines."""
        return {
            "replicates": self.replicates,
            "expected_misclassified_volume": self.expected_misclassified_volume,
            "expected_regret": self.expected_regret,
        }

    def _counts(self, rows: Rows) -> Counts:
        """The counts of rows, gathered if there are very many; MisuseError for a row outside the domain."""
        domain, outcomes = self.spec.domain, failed(rows, self.spec.search.failure)
        x, y = (rows[coordinate.name] for coordinate in domain.plane)
        return Counts.of(domain, rows["architecture"], x, y, outcomes).gathered()

    def _plan(self) -> None:
        """Plan another batch, unless the budget is spent or the precision is reached.

        The first pass comes as one large batch and a last one of the usual size; then come batches that refine.
        """
        self._precise = self._precise or self._is_precise()
        left = self.spec.search.budget - self._planned
        if self._precise or left <= 0:
            return
        size = self.spec.batch or min(max(LEAST_BATCH, int(GROWTH * (self._planned - GROWING_FROM))), MOST_BATCH)
        first = self.spec.search.first_pass - self._earlier - self._planned
        if first > 0:
            points = self._state.spread(min(max(first - size, min(size, first)), left, MOST_BATCH), self._sobol)
        else:
            points = self._state.refined(min(size, left), self._sobol, self._rng)
        seeds = (self._next_seed + points.autoencoder) % 2**32
        self._next_seed += points.autoencoders
        self._planned += len(seeds)
        self._to_ask.append(_replicates(self.spec.domain, points, seeds))

    def _is_precise(self) -> bool:
        volume, regret = self.spec.search.misclassified_volume, self.spec.search.regret
        return self._earlier + self.replicates >= REFINED * self.spec.search.first_pass and (
            (volume is not None and self.expected_misclassified_volume <= volume)
            or (regret is not None and self.expected_regret <= regret)
        )


@dataclass(frozen=True, eq=False)
class _Points:
    """Points to measure; each array has shape (n,)."""

    architecture: Ints
    u: Floats
    v: Floats
    autoencoder: Ints
    """Number of the autoencoder, 0, 1, …: points with the same number share architecture, u and seed."""

    @property
    def autoencoders(self) -> int:
        return int(self.autoencoder.max(initial=-1)) + 1

    def take(self, count: int) -> _Points:
        return _Points(self.architecture[:count], self.u[:count], self.v[:count], self.autoencoder[:count])


@dataclass(frozen=True, eq=False)
class _State:
    """A surface and the points that it suggests measuring."""

    spec: MapSpec
    surface: Surface

    @cached_property
    def posterior(self) -> Posterior:
        return self.surface.on_grid()

    @cached_property
    def straddle(self) -> Floats:
        """max(1.96 sd − |mean − level|, 0) on the grid."""
        return np.maximum(1.96 * self.posterior.sd - np.abs(self.posterior.mean - self.spec.search.level), 0)

    @cached_property
    def tree_risk(self) -> Floats:
        """min(q, 1 − q) of the tree on the grid, its frames' disagreement included: that is where small islands may be."""
        tree = self.surface.on_grid(estimator="tree")
        return replace(tree, agreement=np.ones(tree.agreement.shape)).risk(self.spec.search.level)

    @cached_property
    def risk(self) -> Floats:
        """min(q, 1 − q) on the grid."""
        return self.posterior.risk(self.spec.search.level)

    @cached_property
    def surprise(self) -> Floats:
        """How surely nearby replicates contradict the map where the map is sure, to the fourth power, on the grid.

        Their counts, k of n within a Gaussian kernel, are combined with the map's mean m at the weight of one replicate:
        Beta(m + k, 1 − m + n − k). They contradict a safe place, if more failed than the map predicts there (Σ m), by the
        probability of a rate above level / 2; a failing place, if fewer failed, by that of a rate below (1 + level) / 2. This is
        discounted by the same probability for the predicted counts. A lone failure in a safe region thus attracts a few more
        replicates: they soon expose it as noise, or find an island that the process would have smoothed away.
        """
        failures, replicates, predicted = self._nearby
        fails = self.posterior.mean >= self.spec.search.level
        found = np.zeros(fails.shape)
        at = (failures < predicted) == fails
        mean, n = self.posterior.mean[at], replicates[at]
        halfway = (self.spec.search.level + fails[at]) / 2
        seen, known = (betainc(mean + k[at], np.maximum(1 - mean + n - k[at], 1e-9), halfway) for k in (failures, predicted))
        contradicted = np.where(fails[at], seen * (1 - known), (1 - seen) * known)
        found[at] = (contradicted * (1 - 2 * self.risk[at])) ** 4
        return found

    @property
    def _nearby(self) -> tuple[Floats, Floats, Floats]:
        """Failures, replicates and predicted failures around each grid cell, summed by a Gaussian kernel of height 1."""
        counts, shape = self.surface.counts, self.spec.domain.shape()
        at = counts.architecture, grid_cell(counts.u, shape[1]), grid_cell(counts.v, shape[2])
        failures, replicates = np.zeros(shape), np.zeros(shape)
        np.add.at(failures, at, counts.failures)
        np.add.at(replicates, at, counts.replicates)
        found = (kernel_sum(values, SURPRISE_REACH) for values in (failures, replicates, replicates * self.posterior.mean))
        return tuple(np.maximum(values, 0) for values in found)  # type: ignore[return-value]

    def spread(self, count: int, sobol: qmc.Sobol) -> _Points:
        """The next points of a Sobol sequence."""
        return self._sharing(self._next(self._autoencoders(count), sobol), np.ones(self.spec.domain.shape())).take(count)

    def refined(self, count: int, sobol: qmc.Sobol, rng: np.random.Generator) -> _Points:
        """A batch of points from straddle, the tree's risk, surprise and Sobol."""
        total = self._autoencoders(count)
        parts = []
        straddle = STRADDLE * min(1.0, float(self.straddle.mean()) / STRADDLE_VOLUME)
        for share, name in ((straddle, "straddle"), (STRADDLE - straddle, "tree_risk"), (SURPRISE, "surprise")):
            if share == 0:
                continue
            weights = getattr(self, name)
            drawn = systematic(weights, round(share * total), rng)
            parts.append(self._sharing(_jittered(drawn, weights.shape, rng), weights))
        left = total - sum(part.autoencoders for part in parts)
        parts.append(self._sharing(self._next(left, sobol), np.ones(self.spec.domain.shape())))
        return _joined(parts).take(count)

    def _autoencoders(self, count: int) -> int:
        return -(-count // self._saes_each)

    @property
    def _saes_each(self) -> int:
        y = self.spec.domain.y
        return self.spec.search.l1s_per_autoencoder if y.varies and y.coordinate.of_the_sae else 1

    def _next(self, count: int, sobol: qmc.Sobol) -> tuple[Ints, Floats, Floats]:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # "not a power of two": the sequence goes on
            place = sobol.random(count)
        return (place[:, 0] * len(self.spec.domain.architectures)).astype(np.int64), place[:, 1], place[:, 2]

    def _sharing(self, anchors: tuple[Ints, Floats, Floats], weights: Floats) -> _Points:
        """Each anchor with more values of y on the same autoencoder, spread evenly by weight over its column."""
        a, u, v = anchors
        column = weights[a, grid_cell(u, weights.shape[1])]
        shared = np.stack([evenly(column, v, turn / self._saes_each) for turn in range(self._saes_each)], axis=1)
        numbers = np.repeat(np.arange(len(a)), self._saes_each)
        return _Points(a[numbers], u[numbers], shared.ravel(), numbers)


def systematic(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    """`count` flat indices, expected in proportion to the weights, by one uniform draw and equal steps of the cumulative sum.

    No index at all if all weights are 0.
    """
    total = np.cumsum(weights)
    if total[-1] <= 0:
        return np.empty(0, dtype=np.int64)
    steps = (np.arange(count) + rng.random()) / max(count, 1) * total[-1]
    return np.minimum(np.searchsorted(total, steps, side="right"), np.flatnonzero(weights)[-1])


def evenly(column: Floats, v: Floats, turn: float) -> Floats:
    """v (n,) moved on by the share `turn` of its column's weight (n, V), wrapping round at the end; turn 0 changes nothing."""
    if turn == 0:
        return v
    side = column.shape[1]
    edges = np.concatenate([np.zeros((len(v), 1)), np.cumsum(column, axis=1)], axis=1)
    edges /= edges[:, -1:]
    rows, cell = np.arange(len(v)), grid_cell(v, side)
    target = (edges[rows, cell] + (v * side - cell) * (edges[rows, cell + 1] - edges[rows, cell]) + turn) % 1
    cell = np.minimum((edges[:, 1:] <= target[:, None]).sum(1), side - 1)
    return (cell + (target - edges[rows, cell]) / (edges[rows, cell + 1] - edges[rows, cell])) / side


def _jittered(flat: Ints, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Ints, Floats, Floats]:
    """A uniformly drawn point in each of the given grid cells."""
    a, row, column = np.unravel_index(flat, shape)
    return a, (row + rng.random(len(flat))) / shape[1], (column + rng.random(len(flat))) / shape[2]


def _joined(parts: Sequence[_Points]) -> _Points:
    a, u, v = (np.concatenate([getattr(part, name) for part in parts]) for name in ("architecture", "u", "v"))
    starts = itertools.accumulate((part.autoencoders for part in parts), initial=0)
    return _Points(a, u, v, np.concatenate([part.autoencoder + start for part, start in zip(parts, starts)]))


def _replicates(domain: Domain, points: _Points, seeds: Ints) -> list[Replicates]:
    found = []
    columns: dict[str, Any] = dict.fromkeys(SEED_COLUMNS, seeds)
    for axis, units in ((domain.x, points.u), (domain.y, points.v)):
        columns[axis.coordinate.name] = axis.from_unit(units)
    for a in np.unique(points.architecture):
        here = points.architecture == a
        own = {name: column[here] for name, column in columns.items()}
        found.append(Replicates(Architecture.parse(domain.architectures[a]), **own))
    return found


def _no_counts() -> Counts:
    none = np.empty(0, dtype=np.int64)
    return Counts(none, np.empty(0), np.empty(0), none, none)
