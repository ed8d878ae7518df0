"""Where to measure next, so that the failure map is known with few replicates: an ask/tell learner, free of processes.

    learner = Refinement(MapSpec(domain, MapSearch(budget=8_000)))
    while not learner.done:
        learner.tell(rows_of(learner.ask()))

Every batch but the first two is planned from the rows of all batches but the one before it, which may be in training
meanwhile. So what it asks is a function of the specification and of the rows, whenever they come: a search resumes by
asking and telling again.

After an even first pass a batch has four parts. *Straddle* sharpens the boundary as the mixture sees it; where there is
little, the *tree's risk* takes its place, for the mixture is soon too sure of small islands. *Surprise* follows up
replicates that contradict the map; Sobol looks everywhere. Straddle: Bryan et al. 2005, "Active learning for identifying
function threshold boundaries".
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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
"""A batch that is not given a size has this share of what was asked before, beyond so many, within these bounds: small ones
follow up quickly what was seen, large ones cost little thought."""
STRADDLE, SURPRISE = 0.65, 0.15
"""Shares of a batch; the rest is Sobol's, for ever: that is what finds islands."""
STRADDLE_VOLUME = 0.002
"""Straddle's share shrinks in proportion where its mean weight is below this; what it gives up is the tree's risk's."""
SURPRISE_REACH = 3.0
"""Standard deviation, in grid cells, of the kernel that gathers what lies nearby."""


@dataclass(frozen=True)
class MapSpec:
    """What is mapped, and where. Raises MisuseError for a batch below 1."""

    domain: Domain
    search: MapSearch
    batch: int | None = None
    """Replicates per batch; None: growing with what was asked."""
    seed: int = 0
    """Of the points asked for; replicates' own seeds are counted up from 0, or from the highest of earlier rows."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise MisuseError(f"batch={self.batch!r} is not a number >= 1.")


class Refinement:
    """Learns where the failure rate crosses a level."""

    def __init__(self, spec: MapSpec, earlier: Rows | None = None) -> None:
        """Start from nothing, or from rows of earlier studies (all inside the domain)."""
        self.spec = spec
        self.replicates = 0
        """Those whose rows it has learned from, earlier ones not counted."""
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
        """The sizes of the batches that are out."""
        self._plan()
        self._plan()

    @property
    def surface(self) -> Surface:
        """P(failure), as it is known now."""
        return self._state.surface

    @property
    def expected_misclassified_volume(self) -> float:
        """As it is expected now; the truth is about half of it."""
        return float(self._state.risk.mean())

    @property
    def expected_regret(self) -> float:
        """As it is expected now."""
        return expected_regret(self._state.mixture, self.spec.search.level)

    @property
    def done(self) -> bool:
        """Whether nothing more will be asked: the budget is spent, or the precision was reached after the first pass."""
        return not self._to_ask and (self._precise or self._planned >= self.spec.search.budget)

    def ask(self) -> list[Replicates]:
        """The next batch, one `Replicates` per architecture; none while two are out, or where it is done."""
        if not self._to_ask:
            return []
        batch = self._to_ask.popleft()
        self._asked.append(sum(map(len, batch)))
        return batch

    def tell(self, rows: Rows) -> None:
        """Learn from a batch: tree and process are first scored on it, then fitted anew. The rows' order is irrelevant."""
        if not self._asked or len(rows["seed"]) != self._asked[0]:
            raise ValueError(
                f"{len(rows['seed'])} rows came; the batches that are out have {list(self._asked)}. Tell the first one whole."
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
        """Their counts, millions of points gathered; MisuseError for one outside the domain."""
        domain, outcomes = self.spec.domain, failed(rows, self.spec.search.failure)
        x, y = (rows[coordinate.name] for coordinate in domain.plane)
        return Counts.of(domain, rows["architecture"], x, y, outcomes).gathered()

    def _plan(self) -> None:
        """Another batch, unless the budget is spent or the precision reached: the first pass but for a batch, that, refinement."""
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
        return self._earlier + self.replicates >= self.spec.search.first_pass and (
            (volume is not None and self.expected_misclassified_volume <= volume)
            or (regret is not None and self.expected_regret <= regret)
        )


@dataclass(frozen=True, eq=False)
class _Points:
    """Places to measure, each array (n,)."""

    architecture: Ints
    u: Floats
    v: Floats
    autoencoder: Ints
    """Number of the autoencoder, 0, 1, …: points of one number share architecture, u and seed."""

    @property
    def autoencoders(self) -> int:
        return int(self.autoencoder.max(initial=-1)) + 1

    def take(self, count: int) -> _Points:
        return _Points(self.architecture[:count], self.u[:count], self.v[:count], self.autoencoder[:count])


@dataclass(frozen=True, eq=False)
class _State:
    """A surface and what it suggests."""

    spec: MapSpec
    surface: Surface

    @cached_property
    def mixture(self) -> Posterior:
        return self.surface.on_grid()

    @cached_property
    def straddle(self) -> Floats:
        """max(1.96 sd − |mean − level|, 0) on the grid."""
        return np.maximum(1.96 * self.mixture.sd - np.abs(self.mixture.mean - self.spec.search.level), 0)

    @cached_property
    def tree_risk(self) -> Floats:
        """min(q, 1 − q) of the tree on the grid."""
        return self.surface.on_grid(estimator="tree").risk(self.spec.search.level)

    @cached_property
    def risk(self) -> Floats:
        """min(q, 1 − q) on the grid."""
        return self.mixture.risk(self.spec.search.level)

    @cached_property
    def surprise(self) -> Floats:
        """To the fourth power, how surely the replicates nearby contradict the map where it is sure, on the grid.

        Their counts, k of n within a Gaussian kernel, meet one replicate's worth of the map's mean m: Beta(m + k,
        1 − m + n − k). They contradict a safe place by the probability of a rate above level / 2, a failing one by that of
        one below (1 + level) / 2; as far as the counts that the map predicts there, k = Σ m, would not do so too. A lone
        failure amid safety draws a few more replicates: noise is soon seen through, and an island that the process would
        smooth away is found.
        """
        failures, replicates, predicted = self._nearby
        mean = self.mixture.mean
        fails = mean >= self.spec.search.level
        halfway = (self.spec.search.level + fails) / 2
        seen, known = (betainc(mean + k, np.maximum(1 - mean + replicates - k, 1e-9), halfway) for k in (failures, predicted))
        contradicted = np.where(fails, seen * (1 - known), (1 - seen) * known)
        return (contradicted * (1 - 2 * self.risk)) ** 4

    @property
    def _nearby(self) -> tuple[Floats, Floats, Floats]:
        """Failures, replicates, and failures predicted around each of the grid's cells, by a Gaussian kernel of height 1."""
        counts, shape = self.surface.counts, self.spec.domain.shape()
        at = counts.architecture, grid_cell(counts.u, shape[1]), grid_cell(counts.v, shape[2])
        failures, replicates = np.zeros(shape), np.zeros(shape)
        np.add.at(failures, at, counts.failures)
        np.add.at(replicates, at, counts.replicates)
        found = (kernel_sum(values, SURPRISE_REACH) for values in (failures, replicates, replicates * self.mixture.mean))
        return tuple(np.maximum(values, 0) for values in found)  # type: ignore[return-value]

    def spread(self, count: int, sobol: qmc.Sobol) -> _Points:
        """The next stretch of a Sobol sequence."""
        return self._sharing(self._next(self._autoencoders(count), sobol), np.ones(self.spec.domain.shape())).take(count)

    def refined(self, count: int, sobol: qmc.Sobol, rng: np.random.Generator) -> _Points:
        """A batch: straddle, the tree's risk, surprise, Sobol."""
        total = self._autoencoders(count)
        parts = []
        straddle = STRADDLE * min(1.0, float(self.straddle.mean()) / STRADDLE_VOLUME)
        for share, weights in (
            (straddle, self.straddle),
            (STRADDLE - straddle, self.tree_risk),
            (SURPRISE, self.surprise),
        ):
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
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a first stretch is no power of two: it goes on
            place = sobol.random(count)
        return (place[:, 0] * len(self.spec.domain.architectures)).astype(np.int64), place[:, 1], place[:, 2]

    def _sharing(self, anchors: tuple[Ints, Floats, Floats], weights: Floats) -> _Points:
        """Each anchor with further values of y on the same autoencoder, spread evenly by weight over its column."""
        a, u, v = anchors
        column = weights[a, grid_cell(u, weights.shape[1])]
        shared = np.stack([evenly(column, v, turn / self._saes_each) for turn in range(self._saes_each)], axis=1)
        numbers = np.repeat(np.arange(len(a)), self._saes_each)
        return _Points(a[numbers], u[numbers], shared.ravel(), numbers)


def systematic(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    """`count` flat indices, each expected in proportion to its weight: one uniform draw, then equal steps of the sum.

    None where all weights are 0.
    """
    total = np.cumsum(weights)
    if total[-1] <= 0:
        return np.empty(0, dtype=np.int64)
    steps = (np.arange(count) + rng.random()) / max(count, 1) * total[-1]
    return np.minimum(np.searchsorted(total, steps, side="right"), np.flatnonzero(weights)[-1])


def evenly(column: Floats, v: Floats, turn: float) -> Floats:
    """v (n,) moved on by `turn` of its column's weight, (n, V), and round its end; turn 0 leaves it."""
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
    """A uniform place in each of the grid's cells."""
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
