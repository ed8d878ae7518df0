"""P(failure) over architecture × sparsity × log10 l1, from counts of replicates: its mean, its uncertainty, its level sets.

Two estimators see the same counts. The *tree* averages over all partitions of the space into dyadic boxes (exactly:
the optional Pólya tree), and over rotated frames: honest, shared between neighbouring architectures, and blocky. The
*process* is a Gaussian process for the logit of the rate, one an architecture: sharp, and too sure of itself. The
*mixture* weighs the two, place by place, by how well each foretold batches of replicates that it had not yet seen.

Coordinates: architecture index a in 0 … A − 1; u, v in [0, 1], linear in sparsity and in log10 l1.

Sources: Wong and Ma 2010, "Optional Pólya tree and Bayesian inference"; Solin and Särkkä 2020, "Hilbert space methods
for reduced-rank Gaussian process regression"; Rasmussen and Williams 2006, ch. 3.4 (Laplace approximation).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree
from scipy.special import betainc, betaincinv, betaln, expit, gammaln, logit, ndtr, ndtri
from threadpoolctl import threadpool_limits

from search_spaces.cells import Architecture, checked_l1, checked_sparsity
from search_spaces.errors import MisuseError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Estimator = Literal["mixture", "tree", "process"]

GRID = 128
"""Cells an axis on which an architecture's plane is mapped."""


@dataclass(frozen=True)
class Domain:
    """The architectures, in their order, and the ranges of sparsity and l1. An axis may be a single value.

    Raises MisuseError for an empty or doubled list, a range that is upside down, and one that starts at l1 = 0, which
    has no logarithm (a single l1 of 0 is fine).
    """

    architectures: tuple[str, ...]
    """As "10-5-10"; neighbours in this order share what is learnt."""
    sparsity: tuple[float, float]
    """Lowest and highest, in [0, 1)."""
    l1: tuple[float, float]
    """Lowest and highest."""

    def __post_init__(self) -> None:
        names = tuple(str(Architecture.parse(name)) for name in self.architectures)
        if not names or len(set(names)) < len(names):
            raise MisuseError(f"architectures={list(names)} must name at least one architecture, and none twice.")
        object.__setattr__(self, "architectures", names)
        object.__setattr__(self, "sparsity", _ordered("sparsity", tuple(checked_sparsity(end) for end in self.sparsity)))
        object.__setattr__(self, "l1", _ordered("l1", tuple(checked_l1(end) for end in self.l1)))
        if self.l1[0] == 0 < self.l1[1]:
            raise MisuseError(
                f"l1 from 0 to {self.l1[1]:g} cannot be an axis: it is mapped by log10 l1, and 0 has none. "
                "Start it above 0, and look at l1 = 0 apart."
            )

    @property
    def varies(self) -> tuple[bool, bool]:
        """Whether sparsity, and whether l1, is more than one value."""
        return self.sparsity[0] < self.sparsity[1], self.l1[0] < self.l1[1]

    def index(self, architectures: ArrayLike | Iterable[Architecture | str]) -> Ints:
        """Indices of architectures, given as names or as indices, shape (n,); MisuseError for one that is not there."""
        given = np.atleast_1d(np.asarray(architectures if isinstance(architectures, np.ndarray) else list(_many(architectures))))
        if given.dtype.kind in "iu":
            unknown = given[(given < 0) | (given >= len(self.architectures))]
            found = given.astype(np.int64)
        else:
            places = {name: place for place, name in enumerate(self.architectures)}
            found = np.array([places.get(name, -1) for name in given.tolist()], dtype=np.int64)
            unknown = given[found < 0]
        if len(unknown):
            raise MisuseError(f"architecture {unknown[0]!s} is not of this surface: {', '.join(self.architectures)}.")
        return found

    def u(self, sparsity: ArrayLike) -> Floats:
        """(S − lowest) / (highest − lowest), or ½ where there is one sparsity; MisuseError outside the range."""
        return _scaled("sparsity", np.asarray(sparsity, dtype=np.float64), *self.sparsity)

    def v(self, l1: ArrayLike) -> Floats:
        """The same of log10 l1."""
        given = np.asarray(l1, dtype=np.float64)
        if self.varies[1] and (given <= 0).any():
            raise MisuseError("l1 = 0 has no logarithm, so it has no place on this surface. Leave these rows out.")
        scale = np.log10 if self.varies[1] else np.asarray
        return _scaled("log10 l1" if self.varies[1] else "l1", scale(given), *(float(scale(end)) for end in self.l1))

    def sparsity_at(self, u: ArrayLike) -> Floats:
        """The inverse of `u`."""
        low, high = self.sparsity
        return np.clip(low + np.asarray(u, dtype=np.float64) * (high - low), low, high)

    def l1_at(self, v: ArrayLike) -> Floats:
        """The inverse of `v`."""
        low, high = self.l1
        if low == high:
            return np.full(np.shape(v), low)
        return np.clip(low * (high / low) ** np.asarray(v, dtype=np.float64), low, high)

    def centres(self, size: int = GRID) -> tuple[Floats, Floats]:
        """u and v at the middles of the grid's cells: `size` an axis, one where the axis is a single value."""
        u, v = ((np.arange(cells) + 0.5) / cells for cells in self.shape(size)[1:])
        return u, v

    def shape(self, size: int = GRID) -> tuple[int, int, int]:
        """(A, U, V): the grid's shape."""
        rows, columns = (size if varies else 1 for varies in self.varies)
        return len(self.architectures), rows, columns


def _many(architectures: object) -> Iterable[object]:
    single = isinstance(architectures, (str, Architecture)) or not isinstance(architectures, Iterable)
    return (str(a) if isinstance(a, Architecture) else a for a in ([architectures] if single else architectures))  # type: ignore[attr-defined]


def _ordered(name: str, ends: tuple[float, ...]) -> tuple[float, float]:
    if len(ends) != 2 or ends[0] > ends[1]:
        raise MisuseError(f"{name}={ends} is no range. Expected (lowest, highest).")
    return ends


def _scaled(name: str, values: Floats, low: float, high: float) -> Floats:
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    outside = values[~((values >= low - slack) & (values <= high + slack))]
    if outside.size:
        raise MisuseError(f"{name} {outside.flat[0]:.6g} is outside this surface's range, {low:.6g} to {high:.6g}.")
    return np.clip((values - low) / (high - low), 0, 1) if low < high else np.full(values.shape, 0.5)


@dataclass(frozen=True, eq=False)
class Counts:
    """Replicates and how many of them failed, at points; all arrays have shape (n,)."""

    architecture: Ints
    """Index a."""
    u: Floats
    v: Floats
    failures: Ints
    """0 … replicates."""
    replicates: Ints
    """1 or more."""

    @classmethod
    def of(
        cls,
        domain: Domain,
        architecture: ArrayLike | Iterable[Architecture | str],
        sparsity: ArrayLike,
        l1: ArrayLike,
        failures: ArrayLike,
        replicates: ArrayLike = 1,
    ) -> Counts:
        """Counts at points of a domain. Rows of no replicates are left out; MisuseError for impossible counts."""
        index = domain.index(architecture)
        u, v = (np.broadcast_to(x, index.shape) for x in (domain.u(sparsity), domain.v(l1)))
        k, n = (np.broadcast_to(_whole(*x), index.shape) for x in (("failures", failures), ("replicates", replicates)))
        if (k > n).any():
            raise MisuseError(f"{k[k > n][0]} failures in {n[k > n][0]} replicates. A replicate fails at most once.")
        return cls(index, u, v, k, n).take(n > 0)

    def __len__(self) -> int:
        return len(self.u)

    def take(self, rows: NDArray[np.bool_] | Ints) -> Counts:
        """The chosen rows."""
        return Counts(self.architecture[rows], self.u[rows], self.v[rows], self.failures[rows], self.replicates[rows])

    def plus(self, other: Counts) -> Counts:
        """Both together, points that stand twice added up, in an order that depends on the points alone."""
        columns: Any = (np.concatenate(pair) for pair in zip(self._columns(), other._columns()))
        return Counts(*columns).merged()

    def merged(self) -> Counts:
        """One row a point, sorted."""
        order = np.lexsort((self.v, self.u, self.architecture))
        a, u, v, k, n = (column[order] for column in self._columns())
        if len(order) == 0:
            return self
        first = np.concatenate([[True], (np.diff(a) != 0) | (np.diff(u) != 0) | (np.diff(v) != 0)])
        starts = np.flatnonzero(first)
        return Counts(a[first], u[first], v[first], np.add.reduceat(k, starts), np.add.reduceat(n, starts))

    def gathered(self) -> Counts:
        """These counts; more than MOST_POINTS points are moved to the middles of the grid's cells, and added up there.

        That is finer than the tree sees, and a sixth of the process's shortest length scale.
        """
        if len(self) <= MOST_POINTS:
            return self
        u, v = ((grid_cell(x, GRID) + 0.5) / GRID for x in (self.u, self.v))
        return replace(self, u=u, v=v).merged()

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.architecture, self.u, self.v, self.failures, self.replicates


MOST_POINTS = 20_000


def _whole(name: str, values: ArrayLike) -> Ints:
    given = np.asarray(values)
    whole = given.astype(np.int64)
    if (whole != given).any() or (whole < 0).any():
        raise MisuseError(f"{name} must be whole numbers >= 0, got {given[(whole != given) | (whole < 0)].flat[0]}.")
    return whole


# --- what is believed of the rate, at points of any shape


EDGE = 0.005


@dataclass(frozen=True, eq=False)
class Posterior:
    """The rate's distribution at points: weight · Beta(alpha, beta) + (1 − weight) · logistic(Normal(location, scale²)).

    All arrays share one shape, which all results have too.
    """

    alpha: Floats
    """Of the tree: the Beta with the mean and variance of its mixture of boxes and frames."""
    beta: Floats
    location: Floats
    """Of the process: the logit's mean."""
    scale: Floats
    """And its standard deviation."""
    weight: Floats
    """Of the tree, in [0, 1]."""

    @cached_property
    def mean(self) -> Floats:
        """Expected rate."""
        return self._moments[0]

    @cached_property
    def variance(self) -> Floats:
        """Variance of the rate."""
        return self._moments[1] - self._moments[0] ** 2

    @cached_property
    def sd(self) -> Floats:
        """Standard deviation of the rate."""
        return np.sqrt(np.maximum(self.variance, 0))

    def exceedance(self, level: float) -> Floats:
        """q = P(rate ≥ level), in [0, 1] and falling in the level."""
        return 1 - self._cdf(np.full(self.weight.shape, _checked_level(level)))

    def interval(self, confidence: float = 0.9) -> tuple[Floats, Floats]:
        """Central interval: quantiles (1 − confidence)/2 and (1 + confidence)/2, to 1e-5.

        An end within EDGE of 0 or 1 is 0 or 1: there are places where nothing ever fails, and no density holds them.
        """
        tail = (1 - _checked_level(confidence, "confidence")) / 2
        low, high = self._quantile(tail), self._quantile(1 - tail)
        return np.where(low < EDGE, 0.0, low), np.where(high > 1 - EDGE, 1.0, high)

    def risk(self, level: float = 0.5) -> Floats:
        """min(q, 1 − q): the probability that the likelier side of the level is the wrong one."""
        q = self.exceedance(level)
        return np.minimum(q, 1 - q)

    def regret(self, level: float = 0.5) -> Floats:
        """2 min(E(rate − level)⁺, E(level − rate)⁺): the risk, weighed by how much it matters (|2 rate − 1| at ½)."""
        below = self._expected_shortfall(_checked_level(level))
        return 2 * np.clip(np.minimum(below, below + self.mean - level), 0, None)

    def log_chance(self, failures: Ints, replicates: Ints) -> Floats:
        """log P(failures | replicates), mixed with a little of the uniform so that no single point decides."""
        choices = -betaln(failures + 1, replicates - failures + 1) - np.log1p(replicates)
        tree = np.exp(choices + betaln(self.alpha + failures, self.beta + replicates - failures) - betaln(self.alpha, self.beta))
        process = np.zeros(self.weight.shape)
        for node, share in zip(*_HERMITE):
            z = self.location + self.scale * node
            process += share * np.exp(choices + failures * z - replicates * np.logaddexp(0, z))
        chance = self.weight * tree + (1 - self.weight) * process
        return np.log((1 - _SURPRISE) * chance + _SURPRISE / (replicates + 1))

    @cached_property
    def _moments(self) -> tuple[Floats, Floats]:
        total = self.alpha + self.beta
        tree = self.alpha / total, self.alpha * (self.alpha + 1) / (total * (total + 1))
        return tuple(self.weight * t + (1 - self.weight) * p for t, p in zip(tree, self._process_moments()))  # type: ignore[return-value]

    def _process_moments(self) -> tuple[Floats, Floats]:
        """E and E of the square of logistic(z), z normal, by Gauss–Hermite quadrature."""
        first, second = np.zeros(self.weight.shape), np.zeros(self.weight.shape)
        for node, share in zip(*_HERMITE):
            rate = expit(self.location + self.scale * node)
            first, second = first + share * rate, second + share * rate**2
        return first, second

    def _cdf(self, rate: Floats) -> Floats:
        """P(rate ≤ x), at one x a point."""
        tree = betainc(self.alpha, self.beta, rate)
        return self.weight * tree + (1 - self.weight) * ndtr((logit(rate) - self.location) / self.scale)

    def _quantile(self, share: float) -> Floats:
        """By bisection between the quantiles of the two parts."""
        ends = betaincinv(self.alpha, self.beta, share), expit(self.location + self.scale * ndtri(share))
        ends = np.where(self.weight > 0, ends[0], ends[1]), np.where(self.weight < 1, ends[1], ends[0])
        low, high = np.minimum(*ends), np.maximum(*ends)
        for _ in range(17):
            middle = (low + high) / 2
            under = self._cdf(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2

    def _expected_shortfall(self, level: float) -> Floats:
        """E(level − rate)⁺ = ∫₀^level P(rate ≤ x) dx: in closed form for the Beta, by Gauss–Legendre for the other."""
        mean = self.alpha / (self.alpha + self.beta)
        tree = level * betainc(self.alpha, self.beta, level) - mean * betainc(self.alpha + 1, self.beta, level)
        process = sum(
            share * level / 2 * ndtr((logit((node + 1) * level / 2) - self.location) / self.scale)
            for node, share in zip(*_LEGENDRE)
        )
        return self.weight * tree + (1 - self.weight) * process


_HERMITE = tuple(part / scale for part, scale in zip(np.polynomial.hermite_e.hermegauss(24), (1, math.sqrt(2 * math.pi))))
_SURPRISE = 0.01
_LEGENDRE = np.polynomial.legendre.leggauss(16)


def _checked_level(value: float, name: str = "level") -> float:
    if not 0 < value < 1:
        raise MisuseError(f"{name}={value!r} is outside (0, 1).")
    return float(value)


# --- T, the tree


FRAMES = 8
LEVELS = 6
"""Halvings of u and of v, each; the architectures' axis is halved down to one."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_ROOM = 1.15
"""A frame's side over that of the square it must hold: what is left is shifted by."""


@dataclass(frozen=True)
class Frame:
    """A rotated, shifted square around the unit square, on which the boxes are laid."""

    angle: float
    """Radians, in [0, π/2)."""
    shift: tuple[float, float]
    """In [0, 1]: where in its room the unit square lies."""

    def cells(self, u: Floats, v: Floats, sides: tuple[int, ...]) -> tuple[Ints, Ints]:
        """Which of the frame's cells (sides an axis) points lie in."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        reach = (cos + sin) / 2
        turned = cos * (u - 0.5) + sin * (v - 0.5), cos * (v - 0.5) - sin * (u - 0.5)
        placed = (((x / reach + 1) / 2 + (_ROOM - 1) * by) / _ROOM for x, by in zip(turned, self.shift))
        first, second = (np.clip((x * side).astype(np.int64), 0, side - 1) for x, side in zip(placed, sides))
        return first, second


def frames(rotate: bool) -> tuple[Frame, ...]:
    """The frames averaged over: multiples of the golden angle within 90°, shifts of the R2 sequence.

    Without rotation (where an axis is a single value) they differ by their shifts alone.
    """
    plastic = 1.324717957244746
    return tuple(
        Frame(
            angle=math.pi / 2 * (number * _GOLDEN % 1) if rotate else 0.0,
            shift=((0.5 + number / plastic) % 1, (0.5 + number / plastic**2) % 1),
        )
        for number in range(FRAMES)
    )


@dataclass(frozen=True, eq=False)
class Tree:
    """T: the average over all dyadic partitions, in every frame; leaves are Beta(½, ½), stopping probability ½."""

    frames: tuple[Frame, ...]
    mean: Floats
    """(F, A, 2^levels, 2^levels): the rate's mean on each frame's cells."""
    second: Floats
    """The mean of its square."""

    @classmethod
    def fitted(cls, domain: Domain, counts: Counts) -> Tree:
        """The posterior given counts; exact but for the cells' size, 1/64 of a frame (1/32 of coarse lattices)."""
        sides = tuple(2 ** _levels(axis) if varies else 1 for axis, varies in zip((counts.u, counts.v), domain.varies))
        padded = 2 ** math.ceil(math.log2(len(domain.architectures)))
        around = frames(rotate=all(domain.varies))
        failures, replicates = (np.stack(parts) for parts in zip(*(_framed(f, counts, (padded, *sides)) for f in around)))
        mean, second = partition_average(failures, replicates, apart=1)
        kept = slice(len(domain.architectures))
        return cls(around, mean[:, kept], second[:, kept])

    def moments(self, architecture: Ints, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """E rate and E rate², averaged over frames, at points; the arguments are broadcast."""
        first = second = np.zeros(())
        for number, frame in enumerate(self.frames):
            at = (architecture, *frame.cells(u, v, self.mean.shape[2:]))
            first, second = first + self.mean[number][at], second + self.second[number][at]
        return first / len(self.frames), second / len(self.frames)


def _levels(axis: Floats) -> int:
    """Halvings of an axis: one fewer where a lattice's values are so few that they stay apart all the same."""
    return LEVELS - 1 if len(np.unique(axis)) <= _FEW_VALUES else LEVELS


_FEW_VALUES = 16


def _framed(frame: Frame, counts: Counts, shape: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Failures and replicates in each of the frame's cells."""
    at = counts.architecture, *frame.cells(counts.u, counts.v, shape[1:])
    flat = np.ravel_multi_index(at, shape)
    failures, replicates = (
        np.bincount(flat, weights=column.astype(np.float64), minlength=math.prod(shape)).reshape(shape).astype(np.int64)
        for column in (counts.failures, counts.replicates)
    )
    return failures, replicates


def partition_average(failures: Floats | Ints, replicates: Floats | Ints, apart: int = 0) -> tuple[Floats, Floats]:
    """E rate and E rate² of every cell under the optional Pólya tree; sides are powers of two, any number of axes.

    A box stops with probability ½ (1 where it is a single cell) and is then one Beta(½, ½) rate; or it is halved along
    one of the axes that still can be, each with the same probability. With M the marginal likelihood of a box,
    M = ½ leaf + ½ mean over axes of M(left) M(right), from small boxes to large ones; then the posterior probability
    that a box is a leaf, from large ones to small. The cost is that of the number of boxes, ∏ (2 · side − 1). The first
    `apart` axes, of any length, are not space: each of their entries is a space of its own.
    """
    deepest = tuple(0 if axis < apart else side.bit_length() - 1 for axis, side in enumerate(failures.shape))
    failures, replicates = (given.astype(np.int64) for given in (failures, replicates))
    boxes = _boxes(failures, replicates, deepest, int(replicates.sum(axis=tuple(range(apart, replicates.ndim))).max()))
    reach = {depth: np.zeros(box.stopping.shape) for depth, box in boxes.items()}
    reach[(0,) * len(deepest)] += 1
    own = {}
    for depth in sorted(boxes):
        box = boxes[depth]
        for axis, share in box.halving.items():
            reach[_deeper(depth, axis)] += np.repeat(reach[depth] * share, 2, axis)
        mean = (box.failures + 0.5) / (box.replicates + 1)
        second = mean * (box.failures + 1.5) / (box.replicates + 2)
        own[depth] = reach[depth] * box.stopping * np.stack([mean, second])
    first, second = _spread(own, deepest)
    return first, second


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All boxes of one depth, how often each axis was halved; arrays have shape 2^depth."""

    failures: Ints
    replicates: Ints
    evidence: Floats
    """log M."""
    stopping: Floats
    """Posterior probability that the box, once reached, is a leaf."""
    halving: dict[int, Floats]
    """And that it is halved along each axis."""


def _boxes(failures: Ints, replicates: Ints, deepest: tuple[int, ...], most: int) -> dict[tuple[int, ...], _Boxes]:
    """From single cells, the deepest, up to the whole; `most` is the largest number of replicates in one box."""
    found: dict[tuple[int, ...], _Boxes] = {}
    half, whole = gammaln(np.arange(most + 1) + 0.5), gammaln(np.arange(most + 1) + 1)
    for depth in sorted(itertools.product(*(range(halvings + 1) for halvings in deepest)), reverse=True):
        finer = {axis: found[_deeper(depth, axis)] for axis in range(len(depth)) if depth[axis] < deepest[axis]}
        k, n = failures, replicates
        for axis, halves in itertools.islice(finer.items(), 1):
            k, n = _pairs(halves.failures, axis), _pairs(halves.replicates, axis)
        leaf = half[k] + half[n - k] - whole[n] - math.log(math.pi)
        halved = {axis: _pairs(halves.evidence, axis) - math.log(2 * len(finer)) for axis, halves in finer.items()}
        found[depth] = _Boxes(k, n, *_shares(leaf, halved))
    return found


def _shares(leaf: Floats, halved: dict[int, Floats]) -> tuple[Floats, Floats, dict[int, Floats]]:
    """log M of boxes, and the posterior shares of stopping and of each halving."""
    if not halved:
        return leaf, np.ones(leaf.shape), {}
    stop = leaf - math.log(2)
    peak = np.maximum.reduce([stop, *halved.values()])
    weights = {axis: np.exp(value - peak) for axis, value in halved.items()}
    stop = np.exp(stop - peak)
    total = stop + sum(weights.values())
    return peak + np.log(total), stop / total, {axis: weight / total for axis, weight in weights.items()}


def _spread(own: dict[tuple[int, ...], Floats], deepest: tuple[int, ...]) -> Floats:
    """Sum over all boxes that hold a cell: one axis after the other, coarse depths repeated onto finer ones.

    Values have shape (moments, *2^depth).
    """
    for axis, most in enumerate(deepest):
        summed: dict[tuple[int, ...], Floats] = {}
        for depth in sorted(own):
            whole = (*depth[:axis], most, *depth[axis + 1 :])
            coarse = summed.get(whole)
            summed[whole] = own[depth] if coarse is None else own[depth] + np.repeat(coarse, 2, axis + 1)
        own = summed
    return own[deepest]


def _deeper(depth: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*depth[:axis], depth[axis] + 1, *depth[axis + 1 :])


def _pairs(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Sums of neighbouring pairs along an axis: a box's value from its two halves'."""
    before = (slice(None),) * axis
    return values[(*before, slice(0, None, 2))] + values[(*before, slice(1, None, 2))]


# --- G, the Gaussian process


FUNCTIONS = 20
"""Cosines an axis."""
LENGTHS = (0.05, 0.1, 0.2)
"""Length scales to choose from for each axis, of length 1."""
AMPLITUDE = 4.0
"""Prior standard deviation of the logit."""


@dataclass(frozen=True, eq=False)
class Process:
    """G: logit of the rate = Σ w_ij cos(iπu) cos(jπv), w_ij ~ Normal(0, σ² s_i s_j) with s the spectral density of a
    squared-exponential kernel (Solin and Särkkä 2020, eq. 20, with Neumann's boundary), by Laplace's approximation.
    """

    location: Floats
    """(A, I, J): coefficients of the logit's mean."""
    variance: Floats
    """(A, 2I − 1, 2J − 1): of its variance, also a cosine series, for cos x cos y = ½ cos(x + y) + ½ cos(x − y)."""

    @classmethod
    def fitted(cls, domain: Domain, counts: Counts) -> Process:
        """One process an architecture, each with the length scales, of u and of v, of the greatest evidence."""
        sides = tuple(FUNCTIONS if varies else 1 for varies in domain.varies)
        choices = [LENGTHS if varies else LENGTHS[:1] for varies in domain.varies]
        location = np.zeros((len(domain.architectures), *sides))
        variance = np.zeros((len(domain.architectures), *(2 * side - 1 for side in sides)))
        for a in range(len(domain.architectures)):
            mine = counts.take(counts.architecture == a)
            with threadpool_limits(1, "blas"):  # small matrices: more threads wait for each other, on a busy machine for minutes
                fits = [_laplace(mine, lengths, domain.varies) for lengths in itertools.product(*choices)]
            best = max(fits, key=lambda fit: fit.evidence)
            _embed(location[a], best.location)
            _embed(variance[a], best.variance)
        return cls(location, variance)

    def latent(self, architecture: Ints, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logit at points, all of shape (n,)."""
        location, variance = np.zeros(len(u)), np.zeros(len(u))
        for a in np.unique(architecture):
            here = architecture == a
            location[here] = _series(self.location[a], u[here], v[here])
            variance[here] = _series(self.variance[a], u[here], v[here])
        return location, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))

    def latent_on_grid(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """The same on a grid of all architectures × u × v."""
        location, variance = (
            np.einsum("aij,ui,vj->auv", part, _cosines(u, part.shape[1]), _cosines(v, part.shape[2]), optimize=True)
            for part in (self.location, self.variance)
        )
        return location, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))


_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class _Laplace:
    evidence: float
    location: Floats
    scale: Floats
    factor: Floats
    """Lower Cholesky factor of minus the Hessian."""

    @property
    def variance(self) -> Floats:
        """Cosine coefficients of the logit's variance."""
        half = solve_triangular(self.factor, np.diag(self.scale), lower=True, check_finite=False)
        return _variance_series(half.T @ half, self.location.shape)


def _laplace(counts: Counts, lengths: tuple[float, ...], varies: tuple[bool, bool]) -> _Laplace:
    """Newton's method for the mode of the weights, in units of their prior standard deviation z = w / √prior.

    With W = n p (1 − p): (I + D Φᵀ W Φ D) is the Hessian of −log posterior, D = diag(√prior). Rasmussen and Williams
    2006, eqs. 3.15 and 3.32.
    """
    axes = zip((counts.u, counts.v), lengths, varies)
    sides = tuple(_functions(axis, length) if varied else 1 for axis, length, varied in axes)
    scale = AMPLITUDE * np.sqrt(np.outer(*map(_spectrum, lengths, sides))).ravel()
    data = _Data.of(counts, sides)
    z = np.zeros(len(scale))
    value, gradient, hessian = data.objective(z, scale)
    for _ in range(_MOST_STEPS):
        factor = cho_factor(hessian, lower=True, check_finite=False)
        step = cho_solve(factor, gradient, check_finite=False)
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE:
            break
        size = 1.0
        while data.log_posterior(z + size * step, scale) < value and size > 1e-3:
            size /= 2
        z = z + size * step
        value, gradient, hessian = data.objective(z, scale)
    evidence = value - float(np.log(np.diag(factor[0])).sum())
    return _Laplace(evidence, (scale * z).reshape(sides), scale, factor[0])


def _functions(axis: Floats, length: float) -> int:
    """Cosines on an axis: up to the cutoff, and not many more than a lattice has values to tell them apart by."""
    return min(FUNCTIONS, math.ceil(_CUTOFF / (math.pi * length)) + 1, len(np.unique(axis)) + _SPARE)


_SPARE = 3
_CUTOFF = 3.6
"""Frequencies times length scale beyond this have a prior variance of under 0.0016 of the first."""
_MOST_STEPS = 30
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class _Data:
    """Counts and the cosines at them: of points (n,), or of all of a lattice (U, V), whose sums are then products of matrices."""

    failures: Ints
    replicates: Ints
    u: Floats
    """(n or U, 2I − 1)."""
    v: Floats
    """(n or V, 2J − 1)."""

    @classmethod
    def of(cls, counts: Counts, sides: tuple[int, ...]) -> _Data:
        """As a lattice where most of one is there."""
        (u, row), (v, column) = (np.unique(axis, return_inverse=True) for axis in (counts.u, counts.v))
        failures, replicates = counts.failures, counts.replicates
        if len(u) * len(v) <= _WORTH_A_LATTICE * len(counts):
            failures, replicates = np.zeros((2, len(u), len(v)), dtype=np.int64)
            np.add.at(failures, (row, column), counts.failures)
            np.add.at(replicates, (row, column), counts.replicates)
        else:
            u, v = counts.u, counts.v
        return cls(failures, replicates, _cosines(u, 2 * sides[0] - 1), _cosines(v, 2 * sides[1] - 1))

    def log_posterior(self, z: Floats, scale: Floats) -> float:
        """Σ k f − n log(1 + exp f) − ½ z·z, up to a constant of the counts."""
        f = self._logit(z, scale)
        return float((self.failures * f - self.replicates * np.logaddexp(0, f)).sum() - z @ z / 2)

    def objective(self, z: Floats, scale: Floats) -> tuple[float, Floats, Floats]:
        """The log posterior of z, its gradient, and minus its Hessian."""
        rate = expit(self._logit(z, scale))
        gradient = scale * self._sums(self.failures - self.replicates * rate, *self._sides).ravel() - z
        series = self._sums(self.replicates * rate * (1 - rate), self.u.shape[1], self.v.shape[1])
        hessian = scale[:, None] * _products(series, self._sides) * scale
        hessian[np.diag_indices_from(hessian)] += 1
        return self.log_posterior(z, scale), gradient, hessian

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.u.shape[1] + 1) // 2, (self.v.shape[1] + 1) // 2

    def _logit(self, z: Floats, scale: Floats) -> Floats:
        rows, columns = self._sides
        along = self.u[:, :rows] @ (scale * z).reshape(rows, columns)
        basis = self.v[:, :columns]
        return along @ basis.T if self.failures.ndim == 2 else (along * basis).sum(1)

    def _sums(self, values: Floats, rows: int, columns: int) -> Floats:
        """Σ over points of value · cos(iπu) cos(jπv): (rows, columns)."""
        u, v = self.u[:, :rows], self.v[:, :columns]
        return u.T @ values @ v if values.ndim == 2 else u.T @ (values[:, None] * v)


_WORTH_A_LATTICE = 10
"""A point costs about as much as this many cells of a lattice."""


def _products(series: Floats, sides: tuple[int, ...]) -> Floats:
    """Σ over points of weight · φ_ij φ_i'j', (IJ, IJ), from the (2I − 1, 2J − 1) sums weight · cos(aπu) cos(bπv)."""
    pairs = _sums_and_differences(sides[0]).T @ series @ _sums_and_differences(sides[1])
    rows, columns = sides
    return pairs.reshape(rows, rows, columns, columns).transpose(0, 2, 1, 3).reshape(rows * columns, rows * columns)


def _variance_series(covariance: Floats, sides: tuple[int, ...]) -> Floats:
    """Cosine coefficients (2I − 1, 2J − 1) of φᵀ Σ φ, the variance of Σ w_ij φ_ij."""
    rows, columns = sides
    pairs = covariance.reshape(rows, columns, rows, columns).transpose(0, 2, 1, 3).reshape(rows * rows, columns * columns)
    return _sums_and_differences(rows) @ pairs @ _sums_and_differences(columns).T


def _sums_and_differences(side: int) -> Floats:
    """(2 · side − 1, side²): cos(iπx) cos(jπx) = Σ_a of this[a, (i, j)] cos(aπx)."""
    i, j = (index.ravel() for index in np.indices((side, side)))
    found = np.zeros((2 * side - 1, side * side))
    np.add.at(found, (i + j, np.arange(side * side)), 0.5)
    np.add.at(found, (np.abs(i - j), np.arange(side * side)), 0.5)
    return found


def _spectrum(length: float, side: int) -> Floats:
    """Prior variances of cos(iπx), i < side, of a kernel of variance 1; one constant function has all of it."""
    if side == 1:
        return np.ones(1)
    frequency = math.pi * np.arange(side)
    density = math.sqrt(2 * math.pi) * length * np.exp(-((frequency * length) ** 2) / 2)
    return np.where(frequency == 0, 1, 2) * density


def _cosines(x: Floats, count: int) -> Floats:
    """cos(iπx), i < count: (n, count)."""
    return np.cos(math.pi * np.outer(x, np.arange(count)))


def _series(coefficients: Floats, u: Floats, v: Floats) -> Floats:
    return ((_cosines(u, coefficients.shape[0]) @ coefficients) * _cosines(v, coefficients.shape[1])).sum(1)


def _embed(target: Floats, part: Floats) -> None:
    target[tuple(slice(side) for side in part.shape)] = part


# --- a few cells: no smoothing


@dataclass(frozen=True, eq=False)
class Cells:
    """Each point has the counts of the nearest measured cell of its architecture, under Beta(½, ½); none: no counts."""

    counts: Counts

    def moments(self, architecture: Ints, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """E rate and E rate² at points; the arguments are broadcast."""
        at = np.broadcast_arrays(architecture, u, v)
        k, n = np.zeros(at[0].shape), np.zeros(at[0].shape)
        for a in np.unique(self.counts.architecture):
            mine, here = self.counts.take(self.counts.architecture == a), at[0] == a
            nearest = KDTree(np.stack([mine.u, mine.v], axis=1)).query(np.stack([at[1][here], at[2][here]], axis=1))[1]
            k[here], n[here] = mine.failures[nearest], mine.replicates[nearest]
        mean = (k + 0.5) / (n + 1)
        return mean, mean * (k + 1.5) / (n + 2)


FEWEST_VALUES, FEWEST_CELLS = 6, 12
"""An axis that varies but has fewer values, or a lattice of fewer cells an architecture, is not smoothed."""


def few_cells(counts: Counts, varies: tuple[bool, bool]) -> bool:
    """Whether the measured points are a lattice so small that each cell had better speak for itself."""
    values = [len(np.unique(axis)) for axis, varied in zip((counts.u, counts.v), varies) if varied]
    cells = len(np.unique(np.stack([counts.u, counts.v]), axis=1).T)
    return any(count < FEWEST_VALUES for count in values) or cells < FEWEST_CELLS


# --- the surface


REACH = 6.0
"""Standard deviation, in grid cells, of the kernel that sums the differences of predictive scores."""


FOLDS = 8
"""Batches into which points without an order are dealt."""


def dealt(counts: Counts) -> Ints:
    """A batch for each point, 0 … FOLDS − 1, by a hash of where it is (Weyl's sequence on its 64 bits)."""
    bits = [np.ascontiguousarray(axis).view(np.uint64) for axis in (counts.u, counts.v)]
    mixed = counts.architecture.astype(np.uint64)
    for part in bits:
        mixed = (mixed ^ (part >> np.uint64(20))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(FOLDS)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Surface:
    """P(failure) on a domain, given counts. Made by `fit_surface`; `updated` with the next batch."""

    domain: Domain
    counts: Counts
    """All that the surface has seen."""
    tree: Tree | Cells
    process: Process | None
    """None where there are but a few cells: each then speaks for itself."""
    scores: Floats
    """(A, U, V): Σ over the replicates of a grid cell of log P(outcome | tree) − log P(outcome | process), each foretold
    before either had seen it."""

    def at(self, architecture: ArrayLike, sparsity: ArrayLike, l1: ArrayLike, estimator: Estimator = "mixture") -> Posterior:
        """The rate's distribution at points, all of shape (n,); architectures by name or index."""
        index = self.domain.index(architecture)
        u, v = (np.broadcast_to(x, index.shape) for x in (self.domain.u(sparsity), self.domain.v(l1)))
        return self._posterior(index, u, v, estimator)

    def on_grid(self, size: int = GRID, estimator: Estimator = "mixture") -> Posterior:
        """The rate's distribution at the middles of the grid's cells, shape `domain.shape(size)`."""
        u, v = self.domain.centres(size)
        index = np.arange(len(self.domain.architectures))[:, None, None]
        moments = self.tree.moments(index, u[None, :, None], v[None, None, :])
        shape = self.domain.shape(size)
        tree = _matched(*(np.broadcast_to(moment, shape) for moment in moments))
        if self.process is None:
            return _tree_alone(*tree)
        latent = self.process.latent_on_grid(u, v)
        return Posterior(*tree, *latent, self._weight(estimator)[self._grid_cells(index, u[:, None], v)])

    def updated(self, batch: Counts) -> Surface:
        """The surface after one more batch, which tree and process both foretell before they see it."""
        return _fitted(self.domain, self.counts.plus(batch).gathered(), self.scores + self._scored(batch))

    def _posterior(self, index: Ints, u: Floats, v: Floats, estimator: Estimator) -> Posterior:
        tree = _matched(*self.tree.moments(index, u, v))
        if self.process is None:
            return _tree_alone(*tree)
        return Posterior(*tree, *self.process.latent(index, u, v), self._weight(estimator)[self._grid_cells(index, u, v)])

    def _weight(self, estimator: Estimator) -> Floats:
        """(A, U, V): the tree's weight."""
        return self._local_weight if estimator == "mixture" else np.full(self.scores.shape, float(estimator == "tree"))

    @cached_property
    def _local_weight(self) -> Floats:
        """The tree's share: the logistic of the scores, each spread by a Gaussian kernel of height 1."""
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


def grid_cell(x: Floats, side: int) -> Ints:
    """Which of `side` equal cells of [0, 1] each x lies in."""
    return np.minimum((x * side).astype(np.int64), side - 1)


def kernel_sum(values: Floats, reach: float) -> Floats:
    """Σ values · exp(−d²/2 reach²) around each cell of a grid (A, U, V), within its architecture."""
    widths = [0.0, *(reach if side > 1 else 0.0 for side in values.shape[1:])]
    height = math.prod(math.sqrt(2 * math.pi) * width for width in widths if width)
    return height * gaussian_filter(values, widths, mode="constant")


def _matched(mean: Floats, second: Floats) -> tuple[Floats, Floats]:
    """alpha and beta of the Beta with these moments."""
    variance = np.maximum(second - mean**2, 1e-12)
    total = np.maximum(mean * (1 - mean) / variance - 1, 1e-3)
    return mean * total, (1 - mean) * total


def _tree_alone(alpha: Floats, beta: Floats) -> Posterior:
    ones = np.ones(alpha.shape)
    return Posterior(alpha, beta, 0 * ones, ones, ones)


def _fitted(domain: Domain, counts: Counts, scores: Floats) -> Surface:
    if few_cells(counts, domain.varies):
        return Surface(domain, counts, Cells(counts), None, scores)
    return Surface(domain, counts, Tree.fitted(domain, counts), Process.fitted(domain, counts), scores)


def fit_surface(domain: Domain, counts: Counts, batch: ArrayLike | None = None) -> Surface:
    """The surface of counts, read batch by batch, so that tree and process are weighed by what they foretold.

    `batch` (n,) holds whole numbers, the smallest read first; without it (a lattice has no order) points are dealt out by
    a hash of where they are. The order of the rows does not matter. One fit a batch: some seconds where there are few.
    """
    order = dealt(counts) if batch is None else _whole("batch", batch)
    if order.shape != counts.u.shape:
        raise MisuseError(f"batch has shape {order.shape}, the counts {counts.u.shape}: give one number a row.")
    surface = _fitted(domain, counts.take(order < order.min(initial=0)), np.zeros(domain.shape()))
    for number in np.unique(order):
        surface = surface.updated(counts.take(order == number).merged())
    return surface


def misclassified_volume(posterior: Posterior, level: float = 0.5) -> float:
    """Expected share of the volume on the wrong side of the level: the mean of min(q, 1 − q)."""
    return float(posterior.risk(level).mean())


def expected_regret(posterior: Posterior, level: float = 0.5) -> float:
    """The same, each place weighed by the distance of its rate from the level (|2 rate − 1| at ½)."""
    return float(posterior.regret(level).mean())
