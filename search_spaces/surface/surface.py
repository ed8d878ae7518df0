"""P(failure) over architecture × two coordinates, from counts of replicates: its mean, its uncertainty, its level sets.

Two estimators are fitted to the same counts, and pooled:

- The *tree* (`tree.py`) averages over all partitions of the space into dyadic boxes (exactly: the optional Pólya tree), and
  over rotated frames. It is calibrated and shares evidence between neighbouring architectures, but it is blocky.
- The *process* (`process.py`) is a Gaussian process for the logit of the rate, one per architecture. It is sharp, but rings
  beside edges that are sharper than its shortest length scale.
- The *pool* is the logarithmic pool of the two, each weighed, place by place, by how well it predicted batches of replicates
  that it had not yet seen.

Places are given by the architecture's index a in 0 … A − 1 and by u, v in [0, 1], the coordinates x and y in units of their
axes. `posterior.py` holds the resulting distribution of the rate, `domain.py` the domain and the counts.

Sources: Wong and Ma 2010, "Optional Pólya tree and Bayesian inference"; Solin and Särkkä 2020, "Hilbert space methods
for reduced-rank Gaussian process regression"; Rasmussen and Williams 2006, ch. 3.4 (Laplace approximation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree
from scipy.special import expit

from search_spaces.errors import MisuseError
from search_spaces.surface.domain import GRID, Counts, Domain, Floats, Ints, grid_cell, whole_numbers
from search_spaces.surface.posterior import Posterior
from search_spaces.surface.process import Process
from search_spaces.surface.tree import Tree

Estimator = Literal["pool", "tree", "process"]


# --- a few cells: no smoothing


@dataclass(frozen=True, eq=False)
class Cells:
    """Takes the place of the tree where cells are few: each point has the rate of its architecture's nearest measured cell.

    The prior is Beta(½, ½); an architecture without a measured cell keeps it.
    """

    counts: Counts

    def at(self, architecture: Ints, u: Floats, v: Floats) -> Posterior:
        """The rate's distribution at points; the arguments are broadcast."""
        at = np.broadcast_arrays(architecture, u, v)
        k, n = np.zeros(at[0].shape), np.zeros(at[0].shape)
        for a in np.unique(self.counts.architecture):
            mine, here = self.counts.take(self.counts.architecture == a), at[0] == a
            nearest = KDTree(np.stack([mine.u, mine.v], axis=1)).query(np.stack([at[1][here], at[2][here]], axis=1))[1]
            k[here], n[here] = mine.failures[nearest], mine.replicates[nearest]
        return Posterior(k + 0.5, n - k + 0.5, np.ones(n.shape))


FEWEST_VALUES, FEWEST_CELLS = 6, 12
"""A surface is not smoothed if an axis that varies has fewer values, or if there are fewer cells."""


def few_cells(counts: Counts, varies: tuple[bool, bool]) -> bool:
    """Whether the measured points form a lattice so small that no cell should borrow from others."""
    values = [len(np.unique(axis)) for axis, varied in zip((counts.u, counts.v), varies) if varied]
    cells = len(np.unique(np.stack([counts.u, counts.v]), axis=1).T)
    return any(count < FEWEST_VALUES for count in values) or cells < FEWEST_CELLS


# --- the surface


REACH = 6.0
"""Standard deviation, in grid cells, of the kernel that sums the differences of predictive scores."""


FOLDS = 8
"""Number of batches into which points without an order are dealt."""


def dealt(counts: Counts) -> Ints:
    """A batch for each point, 0 … FOLDS − 1, by a hash of its position (Weyl's sequence on its 64 bits)."""
    bits = [np.ascontiguousarray(axis).view(np.uint64) for axis in (counts.u, counts.v)]
    mixed = counts.architecture.astype(np.uint64)
    for part in bits:
        mixed = (mixed ^ (part >> np.uint64(20))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(FOLDS)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Surface:
    """P(failure) on a domain, given counts. `fit_surface` makes it, `updated` adds the next batch."""

    domain: Domain
    counts: Counts
    """All counts that the surface was fitted to."""
    tree: Tree | Cells
    process: Process | None
    """None if there are only a few cells, which are then not smoothed."""
    scores: Floats
    """(A, U, V): Σ over the replicates of a grid cell of log P(outcome | tree) − log P(outcome | process). Both predicted each
    outcome before they were fitted to it."""

    def at(self, architecture: ArrayLike, x: ArrayLike, y: ArrayLike, estimator: Estimator = "pool") -> Posterior:
        """The rate's distribution at points (x, y), all of shape (n,); architectures are given by name or index."""
        index = self.domain.index(architecture)
        u, v = (np.broadcast_to(part, index.shape) for part in (self.domain.x.to_unit(x), self.domain.y.to_unit(y)))
        return self._posterior(index, u, v, estimator)

    def on_grid(self, size: int = GRID, estimator: Estimator = "pool") -> Posterior:
        """The rate's distribution at the middles of the grid cells, shape `domain.shape(size)`."""
        u, v = self.domain.centres(size)
        index = np.arange(len(self.domain.architectures))[:, None, None]
        tree = self.tree.at(index, u[None, :, None], v[None, None, :])
        if self.process is None or estimator == "tree":
            return Posterior(*(np.broadcast_to(part, self.domain.shape(size)) for part in (tree.alpha, tree.beta, tree.agreement)))
        process = self.process.on_grid(u, v)
        return process if estimator == "process" else tree.pooled(process, self.weight[self._grid_cells(index, u[:, None], v)])

    def updated(self, batch: Counts) -> Surface:
        """The surface after one more batch, which tree and process both predict before they are fitted to it.

        The batch is sorted first, because in a product of matrices the last bit of a row depends on the row's position.
        """
        batch = batch.merged()
        counts = self.counts.plus(batch).gathered()
        return _fitted(self.domain, counts, self.scores + self._scored(batch), self.process if len(self.counts) else None)

    def _posterior(self, index: Ints, u: Floats, v: Floats, estimator: Estimator) -> Posterior:
        if self.process is None or estimator == "tree":
            return self.tree.at(index, u, v)
        process = self.process.at(index, u, v)
        if estimator == "process":
            return process
        return self.tree.at(index, u, v).pooled(process, self.weight[self._grid_cells(index, u, v)])

    @cached_property
    def weight(self) -> Floats:
        """(A, U, V): the tree's weight, the logistic of the scores, each spread by a Gaussian kernel of height 1."""
        return expit(kernel_sum(self.scores, REACH))

    def _grid_cells(self, index: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints, Ints]:
        return index, grid_cell(u, self.scores.shape[1]), grid_cell(v, self.scores.shape[2])

    def _scored(self, batch: Counts) -> Floats:
        found = np.zeros(self.scores.shape)
        if self.process is None:
            return found
        at = batch.architecture, batch.u, batch.v
        tree, process = (self._posterior(*at, name).log_chance(batch.failures, batch.replicates) for name in ("tree", "process"))
        np.add.at(found, self._grid_cells(*at), tree - process)
        return found


def kernel_sum(values: Floats, reach: float) -> Floats:
    """Σ values · exp(−d²/2 reach²) around each cell of a grid (A, U, V), within its architecture."""
    widths = [0.0, *(reach if side > 1 else 0.0 for side in values.shape[1:])]
    height = math.prod(math.sqrt(2 * math.pi) * width for width in widths if width)
    return height * gaussian_filter(values, widths, mode="constant")


def _fitted(domain: Domain, counts: Counts, scores: Floats, earlier: Process | None = None) -> Surface:
    if few_cells(counts, domain.varies):
        return Surface(domain, counts, Cells(counts), None, scores)
    return Surface(domain, counts, Tree.fitted(domain, counts), Process.fitted(domain, counts, earlier), scores)


def fit_surface(domain: Domain, counts: Counts, batch: ArrayLike | None = None) -> Surface:
    """The surface of counts, added batch by batch, so that tree and process are weighed by their predictions.

    `batch` (n,) holds whole numbers; the smallest is added first. Without it (a lattice has no order) points are dealt into
    batches by a hash of their position. The order of the rows does not matter. There is one fit per batch, which takes
    seconds in all if there are few batches.
    """
    order = dealt(counts) if batch is None else whole_numbers("batch", batch)
    if order.shape != counts.u.shape:
        raise MisuseError(f"batch has shape {order.shape}, the counts {counts.u.shape}: give one number per row.")
    surface = _fitted(domain, counts.take(order < order.min(initial=0)), np.zeros(domain.shape()))
    for number in np.unique(order):
        surface = surface.updated(counts.take(order == number))
    return surface


def expected_misclassified_volume(posterior: Posterior, level: float = 0.5) -> float:
    """Expected share of the volume on the wrong side of the level: the mean of min(q, 1 − q)."""
    return float(posterior.risk(level).mean())


def expected_regret(posterior: Posterior, level: float = 0.5) -> float:
    """Expected misclassified volume, each place weighted by the distance of its rate from the level (|2 rate − 1| at ½)."""
    return float(posterior.regret(level).mean())
