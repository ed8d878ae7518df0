"""Where a rate crosses a level, with an interval: the statistics of one curve of binary outcomes.

The model is P(failure) = L + (1 − L − H) σ((x − θ)/w), rising or falling, with floor L and ceiling 1 − H. It is a Bayesian
logistic fit on a grid over (θ, w, L, H) that is narrowed around the posterior.

Outcomes of a seed at several levels depend on each other. The likelihood is therefore raised to the power 1/d, where d is the
design effect estimated from the seeds' scores (Pauli, Racugno, Ventura 2011, "Bayesian Composite Marginal Likelihoods").
A curve that crosses more than once is cut at its extremes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, logsumexp, xlogy

_Float = NDArray[np.float64]

FEWEST_SEEDS, FEWEST_LEVELS = 4, 3
"""With fewer of either there is no answer, because an interval over seeds needs several of them."""
EVIDENCE_FOR_A_CROSSING = 12.0
"""Deviance that each additional crossing must explain before a curve is called not monotone."""
_EVERYWHERE = (-0.3, 1.3)
"""The range of θ, with the measured levels scaled to [0, 1]."""
_THETAS = 41
_WIDTHS = 10.0 ** np.linspace(-2.5, -0.2, 12)[:, None, None]  # (w, 1, 1)
_FLOORS = np.array([0.002, 0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.35])[:, None]  # (L, 1)
_CEILING_GAPS = np.array([0.002, 0.02, 0.08, 0.2, 0.35])  # (H,)
_TAIL = 1e-4
"""Posterior mass that each narrowing of the grid may leave outside on either side."""


class Answer(StrEnum):
    """What the outcomes say about a crossing."""

    CROSSED = "crossed"
    NOT_CROSSED = "not crossed"
    TOO_FEW = "too few seeds or levels"


@dataclass(frozen=True)
class Crossing:
    """One crossing of the level, or the reason why there is none."""

    answer: Answer
    direction: str
    """`rising` or `falling` in x; without a crossing, the side on which the rate stays: `below` or `above`."""
    estimate: float
    """Posterior median; NaN unless the answer is `crossed`."""
    low: float
    """`low` and `high` are the ends of the central interval: ∓inf if it leaves the measured range, NaN without a crossing."""
    high: float
    probability: float
    """Posterior probability that the level is crossed within the measured range; NaN if there are too few seeds or levels."""
    branch: int = 1
    branches: int = 1
    """The number of crossings of the curve; if there are several, it is not monotone, and `branch` counts them."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Outcomes by level and seed, the levels scaled to [0, 1]."""

    x: _Float
    """The distinct levels, ascending, (levels,)."""
    failures: _Float
    """(levels, seeds): failures of a seed at a level."""
    replicates: _Float
    """(levels, seeds)."""

    @classmethod
    def of(cls, x: ArrayLike, failed: ArrayLike, seed: ArrayLike) -> Curve:
        """The curve of replicates, from x, failure and seed of each."""
        levels, row = np.unique(np.asarray(x, dtype=np.float64), return_inverse=True)
        seeds, column = np.unique(np.asarray(seed), return_inverse=True)
        shape = (len(levels), len(seeds))
        at = row * shape[1] + column
        failures, replicates = (
            np.bincount(at, weights, shape[0] * shape[1]).reshape(shape).astype(np.float64)
            for weights in (np.asarray(failed, dtype=np.float64), np.ones(len(at)))
        )
        return cls(levels, failures, replicates)

    @cached_property
    def z(self) -> _Float:
        """The levels scaled to [0, 1]."""
        return (self.x - self.x[0]) / (self.x[-1] - self.x[0])

    def unscaled(self, z: float) -> float:
        """A value on [0, 1] as x; ±inf and NaN stay as they are."""
        return float(self.x[0] + z * (self.x[-1] - self.x[0]))

    @property
    def totals(self) -> tuple[_Float, _Float]:
        """Failures and replicates of each level, (levels,)."""
        return self.failures.sum(axis=1), self.replicates.sum(axis=1)

    def part(self, start: int, stop: int) -> Curve:
        """The curve at levels start … stop − 1."""
        return Curve(self.x[start:stop], self.failures[start:stop], self.replicates[start:stop])


def crossings(x: ArrayLike, failed: ArrayLike, seed: ArrayLike, level: float = 0.5, confidence: float = 0.9) -> list[Crossing]:
    """Where the rate of `failed` over x crosses the level; x, failed, seed: (replicates,). At least one entry, ordered by x."""
    curve = Curve.of(x, failed, seed)
    if len(curve.x) < FEWEST_LEVELS or curve.replicates.shape[1] < FEWEST_SEEDS:
        return [Crossing(Answer.TOO_FEW, "", np.nan, np.nan, np.nan, np.nan)]
    parts = branches(*curve.totals, level)
    found = [_fitted(curve.part(start, stop), level, confidence) for start, stop in parts]
    return [replace(crossing, branch=number, branches=len(found)) for number, crossing in enumerate(found, start=1)]


# How many crossings?


def branches(failures: _Float, replicates: _Float, level: float) -> list[tuple[int, int]]:
    """Ranges of levels (start, stop), one per crossing: the whole curve unless it crosses the level more than once.

    Each level is labelled as above or below. The labels minimise the deviance of levels on the wrong side, plus
    EVIDENCE_FOR_A_CROSSING for each change of side. Neighbouring ranges meet at the most evident level between two crossings.
    """
    evidence = signed_deviance(failures, replicates, level)
    above = _sides(evidence)
    cuts = np.flatnonzero(np.diff(above)) + 1
    if len(cuts) < 2:
        return [(0, len(evidence))]
    inner = [int(start + _middle_of_largest(np.abs(evidence[start:stop]))) for start, stop in pairwise(cuts)]
    bounds = [0, *inner, len(evidence) - 1]
    ranges = [(start, stop + 1) for start, stop in pairwise(bounds)]
    return ranges if all(stop - start >= FEWEST_LEVELS for start, stop in ranges) else _widened(ranges, len(evidence))


def _widened(ranges: list[tuple[int, int]], levels: int) -> list[tuple[int, int]]:
    """The ranges, with those of fewer than FEWEST_LEVELS levels extended by one level on either side."""
    short = [stop - start < FEWEST_LEVELS for start, stop in ranges]
    return [(max(0, a - s), min(levels, b + s)) for (a, b), s in zip(ranges, map(int, short))]


def signed_deviance(failures: _Float, replicates: _Float, level: float) -> _Float:
    """± 2 n KL(k/n ‖ level), (levels,): positive if the rate is above the level, 0 without replicates."""
    rate = np.divide(failures, replicates, out=np.full(len(replicates), level), where=replicates > 0)
    divergence = xlogy(rate, rate / level) + xlogy(1 - rate, (1 - rate) / (1 - level))
    return np.sign(rate - level) * 2 * replicates * divergence


def _sides(evidence: _Float) -> NDArray[np.bool_]:
    """(levels,): the cheapest labelling as above or below, by dynamic programming (Viterbi's)."""
    wrong = np.stack([np.maximum(evidence, 0), np.maximum(-evidence, 0)], axis=1)  # cost of: below, above
    cost, came_from = wrong[0], np.zeros((len(evidence), 2), dtype=np.int64)
    for at in range(1, len(evidence)):
        change = cost[::-1] + EVIDENCE_FOR_A_CROSSING
        came_from[at] = np.where(change < cost, [1, 0], [0, 1])
        cost = np.minimum(cost, change) + wrong[at]
    side = [int(np.argmin(cost))]
    for at in range(len(evidence) - 1, 0, -1):
        side.append(int(came_from[at, side[-1]]))
    return np.array(side[::-1], dtype=bool)


def _middle_of_largest(values: _Float) -> int:
    largest = np.flatnonzero(values == values.max())
    return int(largest[len(largest) // 2])


# The fit of one crossing


@dataclass(frozen=True, eq=False)
class _Grid:
    """The posterior on a grid; every array broadcasts to (θ, w, L, H)."""

    theta: _Float
    crossing: _Float
    """Where each member crosses the level; ±inf if it does not within [0, 1]."""
    log_likelihood: _Float
    effect: float
    """The design effect d: the likelihood is raised to the power 1/d."""

    @cached_property
    def weight(self) -> _Float:
        """Posterior probability of each member under a flat prior; they sum to 1."""
        weight = np.exp((self.log_likelihood - self.log_likelihood.max()) / self.effect)
        return weight / weight.sum()

    @property
    def evidence(self) -> float:
        """Logarithm of the summed likelihood, comparable between grids of one size."""
        return float(logsumexp(self.log_likelihood))

    @property
    def mode(self) -> tuple[float, float, float, float]:
        """(θ, w, L, H) of the likeliest member."""
        highest = int(np.argmax(self.log_likelihood))
        members = np.broadcast_arrays(self.theta, _WIDTHS, _FLOORS, _CEILING_GAPS)
        theta, width, floor, gap = (float(member.ravel()[highest]) for member in members)
        return theta, width, floor, gap

    def tempered(self, effect: float) -> _Grid:
        """The same grid with another design effect."""
        return replace(self, effect=effect)


def _fitted(curve: Curve, level: float, confidence: float) -> Crossing:
    """The crossing of a curve that crosses once or not at all."""
    z, (k, n) = curve.z, curve.totals
    rising, falling = (_posterior(where, k, n, level, _EVERYWHERE) for where in (z, 1 - z))
    falls = falling.evidence > rising.evidence
    z, widest = (1 - z, falling) if falls else (z, rising)
    grid = _zoomed(widest, z, k, n, level)
    effect = design_effect(z, curve, grid.mode, level)
    if effect > 1:
        grid = _zoomed(widest.tempered(effect), z, k, n, level)
    tail = (1 - confidence) / 2
    low, median, high = weighted_quantiles(grid.crossing, grid.weight, (tail, 0.5, 1 - tail))
    probability = float(grid.weight[np.isfinite(grid.crossing)].sum())
    if not np.isfinite(median):
        return Crossing(Answer.NOT_CROSSED, "below" if median > 0 else "above", np.nan, np.nan, np.nan, probability)
    if falls:
        low, median, high = 1 - high, 1 - median, 1 - low
    estimate, start, stop = (curve.unscaled(value) for value in (median, low, high))
    return Crossing(Answer.CROSSED, "falling" if falls else "rising", estimate, start, stop, probability)


def _posterior(z: _Float, k: _Float, n: _Float, level: float, window: tuple[float, float], effect: float = 1.0) -> _Grid:
    """The posterior over the grid, θ within the window; z (levels,) in [0, 1], the curve rising."""
    return _remembered(z.tobytes(), k.tobytes(), n.tobytes(), level, window).tempered(effect)


@lru_cache(64)
def _remembered(z: bytes, k: bytes, n: bytes, level: float, window: tuple[float, float]) -> _Grid:
    """The grid, cached by value because many curves of a plane are equal (no replicate fails, or every one)."""
    return _on_grid(np.frombuffer(z), np.frombuffer(k), np.frombuffer(n), level, window)


def _on_grid(z: _Float, k: _Float, n: _Float, level: float, window: tuple[float, float]) -> _Grid:
    theta = np.linspace(*window, _THETAS)[:, None, None, None]
    share = expit((z - theta[..., None]) / _WIDTHS[..., None]).astype(np.float32)  # (θ, w, 1, 1, levels)
    scale = (1 - _FLOORS - _CEILING_GAPS)[..., None].astype(np.float32)
    rate = _FLOORS[..., None].astype(np.float32) + scale * share  # (θ, w, L, H, levels)
    log_likelihood = np.log(rate) @ k + np.log1p(-rate) @ (n - k)
    return _Grid(theta, _crossing(theta, _WIDTHS, _FLOORS, _CEILING_GAPS, level), log_likelihood, 1.0)


def _zoomed(grid: _Grid, z: _Float, k: _Float, n: _Float, level: float) -> _Grid:
    """The grid narrowed around its posterior, twice, so that a step of θ is small compared with the interval."""
    for _ in range(2):
        grid = _posterior(z, k, n, level, _narrowed(grid), grid.effect)
    return grid


def _crossing(theta: _Float, width: _Float, floor: _Float, gap: _Float, level: float) -> _Float:
    """The x at which L + (1 − L − H) σ((x − θ)/w) equals the level; ±inf if it is outside [0, 1] or does not exist."""
    share = np.clip((level - floor) / (1 - floor - gap), 0, 1)
    at = theta + width * logit(share)
    return np.asarray(np.where(at < 0, -np.inf, np.where(at > 1, np.inf, at)))


def _narrowed(grid: _Grid) -> tuple[float, float]:
    """The window of θ that holds all but 2 _TAIL of the posterior, plus one step on either side."""
    mass, theta = grid.weight.sum(axis=(1, 2, 3)).cumsum(), grid.theta.ravel()
    first, last = np.searchsorted(mass, _TAIL), min(int(np.searchsorted(mass, 1 - _TAIL)), _THETAS - 1)
    step = theta[1] - theta[0]
    return float(theta[first] - step), float(theta[last] + step)


def design_effect(z: _Float, curve: Curve, mode: tuple[float, float, float, float], level: float) -> float:
    """The factor by which the variance of the crossing exceeds that for independent outcomes, in [1, levels].

    gᵀ I⁻¹ J I⁻¹ g / gᵀ I⁻¹ g in (θ, log w), with I the information, J the sum over seeds of squared scores and g the gradient
    of the crossing. It is 1 if each seed is used once and the model holds.
    """
    theta, width, floor, gap = mode
    share = expit((z - theta) / width)
    rate = floor + (1 - floor - gap) * share
    slope = -(1 - floor - gap) * share * (1 - share) / width * np.stack([np.ones_like(z), z - theta])  # (2, levels)
    variance, seeds = rate * (1 - rate), curve.replicates.shape[1]
    scores = (slope / variance) @ (curve.failures - curve.replicates * rate[:, None])  # (2, seeds)
    information = (slope * curve.replicates.sum(axis=1) / variance) @ slope.T
    bread = np.linalg.inv(information + np.diag([1.0, 1.0]))  # the prior's share makes a step function invertible
    gradient = np.array([1.0, width * float(logit(np.clip((level - floor) / (1 - floor - gap), 0.01, 0.99)))])
    spread = bread @ gradient
    ratio = (spread @ scores) @ (spread @ scores) * seeds / (seeds - 1) / (spread @ gradient)
    return float(np.clip(ratio, 1, len(z)))


def weighted_quantiles(values: _Float, weights: _Float, probabilities: tuple[float, ...]) -> list[float]:
    """Quantiles of weighted values, which may include ±inf; the weights sum to 1."""
    order = np.argsort(values, axis=None)
    mass = np.cumsum(weights.ravel()[order])
    at = np.minimum(np.searchsorted(mass, np.array(probabilities) * mass[-1]), len(mass) - 1)
    return [float(v) for v in values.ravel()[order][at]]
