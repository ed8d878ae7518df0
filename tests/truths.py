"""Five synthetic failure surfaces whose rates are known, on which maps are tested and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import qmc

from search_spaces.coordinates import L1, SPARSITY, Axis
from search_spaces.spaces import STUDIED_ARCHITECTURES
from search_spaces.surface.domain import Counts, Domain

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rate = Callable[[Ints, Floats, Floats], Floats]


def domain_over(architectures: tuple[str, ...], sparsity: tuple[float, float], l1: tuple[float, float]) -> Domain:
    """A domain of sparsity and l1, by their ranges."""
    return Domain(architectures, Axis(SPARSITY, *sparsity), Axis(L1, *l1))


DOMAIN = domain_over(STUDIED_ARCHITECTURES, sparsity=(0.3, 0.98), l1=(1e-4, 1.0))
"""Eight architectures, a = 0 … 7; t = a/7."""


def smooth(a: Ints, u: Floats, v: Floats) -> Floats:
    """One broad, bent boundary."""
    t = a / 7
    return 0.02 + 0.96 * expit((u - (0.55 + 0.2 * t - 0.25 * np.sin(2.2 * v + t))) / 0.06)


def band(a: Ints, u: Floats, v: Floats) -> Floats:
    """Fails between two sharp edges."""
    t = a / 7
    c, w = 0.45 + 0.25 * t + 0.18 * np.sin(3 * v), 0.09 + 0.05 * t
    return 0.02 + 0.96 * expit((u - c + w) / 0.015) * expit((c + w - u) / 0.015)


def island(a: Ints, u: Floats, v: Floats) -> Floats:
    """About 1 % of the plane of every second architecture, and nothing else."""
    return np.where(a % 2 == 1, 0.03 + 0.62 * np.exp(-0.35 * _off_island(a, u, v) ** 2), 0.03)


def lasso(a: Ints, u: Floats, v: Floats) -> Floats:
    """One very sharp boundary, as of death by a large l1."""
    return 0.02 + 0.97 * expit((v - 0.86 + 0.38 * u**2 + 0.12 * a / 7) / 0.006)


def combo(a: Ints, u: Floats, v: Floats) -> Floats:
    """A sharp boundary, a soft one, a ridge below ½, and islands."""
    t = a / 7
    hi = expit((v - 0.88 + 0.30 * u**2 + 0.10 * t) / 0.008)
    lo = expit((0.16 + 0.10 * t - 0.25 * (1 - u) - v) / 0.03)
    bump = 0.30 * np.exp(-(((u - 0.35 - 0.1 * t) / 0.06) ** 2))
    isl = np.where(a % 2 == 1, 0.62 * np.exp(-0.35 * _off_combo_island(u, v) ** 2), 0)
    return 1 - (1 - 0.97 * hi) * (1 - 0.95 * lo) * (1 - bump) * (1 - isl) * 0.98


def _off_island(a: Ints, u: Floats, v: Floats) -> Floats:
    t = a / 7
    return ((u - 0.87 + 0.04 * t) / 0.032) ** 2 + ((v - 0.35 - 0.3 * t) / 0.115) ** 2


def _off_combo_island(u: Floats, v: Floats) -> Floats:
    return ((u - 0.87) / 0.032) ** 2 + ((v - 0.42) / 0.115) ** 2


TRUTHS: dict[str, Rate] = {rate.__name__: rate for rate in (smooth, band, island, lasso, combo)}


def island_of(truth: str, a: Ints, u: Floats, v: Floats) -> NDArray[np.bool_]:
    """Where the island of architecture a (odd) fails more often than not, in the truths "island" and "combo"."""
    if truth == "island":
        return island(a, u, v) >= 0.5
    inside: NDArray[np.bool_] = 0.62 * np.exp(-0.35 * _off_combo_island(u, v) ** 2) >= 0.5
    return inside & (a % 2 == 1)


@dataclass(frozen=True, eq=False)
class Points:
    """Places of all architectures; each array (n,)."""

    architecture: Ints
    u: Floats
    v: Floats

    @property
    def sparsity(self) -> Floats:
        return DOMAIN.x.from_unit(self.u)

    @property
    def l1(self) -> Floats:
        return DOMAIN.y.from_unit(self.v)

    def failures(self, rate: Rate, replicates: int, seed: int) -> Ints:
        """How many of the replicates at each place fail."""
        return np.random.default_rng(seed).binomial(replicates, rate(self.architecture, self.u, self.v))

    def counts(self, rate: Rate, replicates: int, seed: int) -> Counts:
        """The same counts in the form that a surface takes."""
        return Counts.of(DOMAIN, self.architecture, self.sparsity, self.l1, self.failures(rate, replicates, seed), replicates)


def sobol(count: int, seed: int) -> Points:
    """A scrambled Sobol sequence through all architectures."""
    a, u, v = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(seed)).random(count).T
    return Points((a * 8).astype(np.int64), u, v)


def lattice(sparsities: int, l1s: int) -> Points:
    """A lattice of every architecture, from end to end of both axes, as studies have it."""
    a, i, j = (index.ravel() for index in np.indices((8, sparsities, l1s)))
    return Points(a, i / (sparsities - 1), j / (l1s - 1))
