"""The posterior distribution of the failure rate at points of a surface: one Beta at each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betainc, betaincinv, betaln

from search_spaces.errors import MisuseError
from search_spaces.surface.domain import Floats, Ints

CONFIDENCE = 0.95
"""Confidence of intervals."""
EDGE = 0.005
"""An end of an interval that is nearer than this to 0 or 1 is reported as 0 or 1."""
SIDE = 2 / 3
"""Between counting the frames' disagreement against a side of the level, 0, and leaving it out, 1. Chosen so that expected errors
are neither too small near the level nor too large elsewhere, on other truths than those of docs/map.md."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The rate's distribution at points: Beta(alpha, beta). All arrays have the same shape, and so have all results.

    The disagreement of the tree's frames is part of it, as that is what it takes for intervals to hold the rate. The border of
    the average is nearer to the truth than that of a frame, so which side of a level a place is on is known better: this is told
    by a Beta of the same mean with agreement^SIDE times as many pseudo-counts.
    """

    alpha: Floats
    beta: Floats
    agreement: Floats
    """How many times as many pseudo-counts there are, at least 1, if the disagreement of the frames is left out."""

    @classmethod
    def matched(cls, mean: Floats, second: Floats, agreed: Floats) -> Posterior:
        """The Betas with these means, and these means of squares; `agreed` are the pseudo-counts without disagreement."""
        total = beta_counts(mean, second)
        return cls(mean * total, (1 - mean) * total, np.maximum(agreed / total, 1))

    def pooled(self, other: Posterior, weight: Floats) -> Posterior:
        """The logarithmic pool p^weight · q^(1 − weight) of two distributions p and q, which is again a Beta.

        Genest and Zidek 1986, "Combining probability distributions". A linear mixture would count the disagreement of the two as
        uncertainty, although their average is nearer to the truth than either.
        """
        alpha, beta, counts = (
            weight * one + (1 - weight) * two
            for one, two in ((self.alpha, other.alpha), (self.beta, other.beta), (self._agreed, other._agreed))
        )
        return Posterior(alpha, beta, counts / (alpha + beta))

    @property
    def _agreed(self) -> Floats:
        return self.agreement * (self.alpha + self.beta)

    @property
    def _side(self) -> tuple[Floats, Floats]:
        more = self.agreement**SIDE
        return more * self.alpha, more * self.beta

    @cached_property
    def mean(self) -> Floats:
        """Expected rate."""
        return self.alpha / (self.alpha + self.beta)

    @cached_property
    def variance(self) -> Floats:
        """Variance of the rate."""
        return self.mean * (1 - self.mean) / (self.alpha + self.beta + 1)

    @cached_property
    def sd(self) -> Floats:
        """Standard deviation of the rate."""
        return np.sqrt(self.variance)

    def exceedance(self, level: float) -> Floats:
        """q = P(rate ≥ level), in [0, 1] and decreasing in the level."""
        return 1 - betainc(*self._side, _checked_level(level))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
        """Central interval: quantiles (1 − confidence)/2 and (1 + confidence)/2.

        An end within EDGE of 0 or 1 is 0 or 1: in some places nothing ever fails, and no quantile of a density is exactly 0.
        """
        tail = (1 - _checked_level(confidence, "confidence")) / 2
        low, high = (betaincinv(self.alpha, self.beta, share) for share in (tail, 1 - tail))
        return np.where(low < EDGE, 0.0, low), np.where(high > 1 - EDGE, 1.0, high)

    def risk(self, level: float = 0.5) -> Floats:
        """min(q, 1 − q): the probability that the likelier side of the level is the wrong one."""
        q = self.exceedance(level)
        return np.minimum(q, 1 - q)

    def regret(self, level: float = 0.5) -> Floats:
        """2 min(E(rate − level)⁺, E(level − rate)⁺): the risk, weighted by how much an error matters (|2 rate − 1| at ½)."""
        alpha, beta = self._side
        below = _checked_level(level) * betainc(alpha, beta, level) - self.mean * betainc(alpha + 1, beta, level)
        return 2 * np.clip(np.minimum(below, below + self.mean - level), 0, None)

    def log_chance(self, failures: Ints, replicates: Ints) -> Floats:
        """log P(failures | replicates), mixed with a little of the uniform distribution so that no single point dominates."""
        choices = -betaln(failures + 1, replicates - failures + 1) - np.log1p(replicates)
        chance = np.exp(choices + betaln(self.alpha + failures, self.beta + replicates - failures) - betaln(self.alpha, self.beta))
        return np.log((1 - _SURPRISE) * chance + _SURPRISE / (replicates + 1))


_SURPRISE = 0.01


def beta_counts(mean: Floats, second: Floats) -> Floats:
    """alpha + beta of the Beta with this mean and this mean of squares."""
    variance = np.maximum(second - mean**2, 1e-12)
    return np.maximum(mean * (1 - mean) / variance - 1, 1e-3)


def _checked_level(value: float, name: str = "level") -> float:
    if not 0 < value < 1:
        raise MisuseError(f"{name}={value!r} is outside (0, 1).")
    return float(value)
