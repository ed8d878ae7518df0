"""The posterior distribution of the failure rate at points of a surface: a mixture of the tree's and the process's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betainc, betaincinv, betaln, expit, logit, ndtr, ndtri

from search_spaces.errors import MisuseError
from search_spaces.surface.domain import Floats, Ints

EDGE = 0.005
"""An end of an interval that is nearer than this to 0 or 1 is reported as 0 or 1."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The rate's distribution at points: weight · Beta(alpha, beta) + (1 − weight) · logistic(Normal(location, scale²)).

    All arrays have the same shape, and so have all results.
    """

    alpha: Floats
    """The tree's alpha and beta: those of the Beta with the mean and variance of its mixture of boxes and frames."""
    beta: Floats
    location: Floats
    """The process's mean of the logit."""
    scale: Floats
    """The process's standard deviation of the logit."""
    weight: Floats
    """The tree's weight, in [0, 1]."""

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
        """q = P(rate ≥ level), in [0, 1] and decreasing in the level."""
        return 1 - self._cdf(np.full(self.weight.shape, _checked_level(level)))

    def interval(self, confidence: float = 0.9) -> tuple[Floats, Floats]:
        """Central interval: quantiles (1 − confidence)/2 and (1 + confidence)/2, to 1e-5.

        An end within EDGE of 0 or 1 is 0 or 1: in some places nothing ever fails, and no quantile of a density is exactly 0.
        """
        tail = (1 - _checked_level(confidence, "confidence")) / 2
        low, high = self._quantile(tail), self._quantile(1 - tail)
        return np.where(low < EDGE, 0.0, low), np.where(high > 1 - EDGE, 1.0, high)

    def risk(self, level: float = 0.5) -> Floats:
        """min(q, 1 − q): the probability that the likelier side of the level is the wrong one."""
        q = self.exceedance(level)
        return np.minimum(q, 1 - q)

    def regret(self, level: float = 0.5) -> Floats:
        """2 min(E(rate − level)⁺, E(level − rate)⁺): the risk, weighted by how much an error matters (|2 rate − 1| at ½)."""
        below = self._expected_shortfall(_checked_level(level))
        return 2 * np.clip(np.minimum(below, below + self.mean - level), 0, None)

    def log_chance(self, failures: Ints, replicates: Ints) -> Floats:
        """log P(failures | replicates), mixed with a little of the uniform distribution so that no single point dominates."""
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
        """Mean and mean square of logistic(z), z normal, by Gauss–Hermite quadrature."""
        first, second = np.zeros(self.weight.shape), np.zeros(self.weight.shape)
        for node, share in zip(*_HERMITE):
            rate = expit(self.location + self.scale * node)
            first, second = first + share * rate, second + share * rate**2
        return first, second

    def _cdf(self, rate: Floats) -> Floats:
        """P(rate ≤ x), with one x per point."""
        tree = betainc(self.alpha, self.beta, rate)
        return self.weight * tree + (1 - self.weight) * ndtr((logit(rate) - self.location) / self.scale)

    def _quantile(self, share: float) -> Floats:
        """Quantile of the mixture, by bisection between the quantiles of its two parts."""
        ends = betaincinv(self.alpha, self.beta, share), expit(self.location + self.scale * ndtri(share))
        ends = np.where(self.weight > 0, ends[0], ends[1]), np.where(self.weight < 1, ends[1], ends[0])
        low, high = np.minimum(*ends), np.maximum(*ends)
        for _ in range(17):
            middle = (low + high) / 2
            under = self._cdf(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2

    def _expected_shortfall(self, level: float) -> Floats:
        """E(level − rate)⁺ = ∫₀^level P(rate ≤ x) dx: in closed form for the tree, by Gauss–Legendre for the process."""
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
