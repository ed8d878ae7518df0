"""Synthetic failure surfaces whose rates are known, on which maps are tested and measured.

`TRUTHS` are five fixed ones. `FAMILIES` draw others at random, so that methods are tuned on some and measured on fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


# --- families with random parameters


Random = np.random.Generator
Edge = Callable[[Ints, Floats, Floats], Floats]


def _tilted(random: Random) -> Edge:
    """A coordinate across the plane in a random direction, about 0 in its middle, that drifts with the architecture."""
    angle, shift, drift = random.uniform(0, np.pi), random.uniform(-0.15, 0.15), random.uniform(-0.15, 0.15)
    return lambda a, u, v: np.cos(angle) * (u - 0.5) + np.sin(angle) * (v - 0.5) - shift - drift * (a / 7 - 0.5)


def _wavy(random: Random) -> Edge:
    """The same, bent by a sine along the other direction."""
    across, along = _tilted(random), _tilted(random)
    depth, turns, phase = random.uniform(0.03, 0.15), random.uniform(2, 7), random.uniform(0, 2 * np.pi)
    return lambda a, u, v: across(a, u, v) + depth * np.sin(turns * along(a, u, v) + phase)


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _between(low: float, high: float, share: Edge) -> Rate:
    """low + (high − low) · share."""
    return lambda a, u, v: low + (high - low) * share(a, u, v)


def _ellipses(random: Random, count: int, area: tuple[float, float], width: float, every: float = 1.0) -> Edge:
    """1 inside any of `count` ellipses, each with a share of its plane in `area`, 0 outside; a share of architectures has them."""
    sizes = np.sqrt(random.uniform(*area, (count, 8)) / np.pi)
    stretch, angle = np.exp(random.uniform(-0.8, 0.8, count)), random.uniform(0, np.pi, count)
    middle = random.uniform(0.2, 0.8, (2, count))
    there = random.permutation(8) < round(8 * every)

    def inside(a: Ints, u: Floats, v: Floats) -> Floats:
        outside: Floats = np.ones(np.broadcast_shapes(a.shape, u.shape, v.shape))
        for k in range(count):
            x, y = u - middle[0, k], v - middle[1, k]
            x, y = np.cos(angle[k]) * x + np.sin(angle[k]) * y, np.cos(angle[k]) * y - np.sin(angle[k]) * x
            outside = outside * expit((np.hypot(x / stretch[k], y * stretch[k]) - sizes[k][a]) / width)
        return np.where(there[a], 1 - outside, 0.0)

    return inside


def draw_tilted_band(random: Random) -> Rate:
    """Fails between two parallel edges, sharp or less so."""
    across, half, width = _tilted(random), random.uniform(0.06, 0.16), _log_uniform(random, 0.006, 0.03)
    return _between(0.02, 0.98, lambda *at: expit((across(*at) + half) / width) * expit((half - across(*at)) / width))


def draw_smooth(random: Random) -> Rate:
    """One broad, bent boundary."""
    across, width = _wavy(random), random.uniform(0.04, 0.12)
    return _between(0.02, 0.98, lambda *at: expit(across(*at) / width))


def draw_lasso(random: Random) -> Rate:
    """One very sharp, bent boundary."""
    across, width = _wavy(random), _log_uniform(random, 0.003, 0.012)
    return _between(0.02, 0.98, lambda *at: expit(across(*at) / width))


def draw_holes(random: Random) -> Rate:
    """Safe holes in a plane that fails."""
    holes = _ellipses(random, int(random.integers(1, 4)), (0.02, 0.08), _log_uniform(random, 0.005, 0.02))
    return _between(random.uniform(0.9, 0.98), 0.04, holes)


def draw_islands(random: Random) -> Rate:
    """One island of 3 to 8 % of the plane in half of the architectures."""
    return _between(0.03, random.uniform(0.7, 0.97), _ellipses(random, 1, (0.03, 0.08), _log_uniform(random, 0.005, 0.03), 0.5))


def draw_islets(random: Random) -> Rate:
    """One islet of 1 to 3 % of the plane in half of the architectures."""
    return _between(0.03, random.uniform(0.7, 0.97), _ellipses(random, 1, (0.01, 0.03), _log_uniform(random, 0.005, 0.015), 0.5))


def draw_staircase(random: Random) -> Rate:
    """A sharp boundary with steps."""
    steps, rise, width = int(random.integers(3, 7)), random.uniform(0.3, 0.7), _log_uniform(random, 0.004, 0.015)
    start, drift, side = random.uniform(0.1, 0.9 - rise), random.uniform(-0.1, 0.1), random.integers(2)

    def edge(a: Ints, u: Floats, v: Floats) -> Floats:
        x, y = (u, v) if side else (v, u)
        return expit((y - start - drift * (a / 7 - 0.5) - rise * np.floor(x * steps) / (steps - 1)) / width)

    return _between(0.03, 0.96, edge)


def draw_creeping(random: Random) -> Rate:
    """A rate that creeps through the level over much of the plane, then rises sharply."""
    across, slope, width = _tilted(random), random.uniform(0.3, 0.7), _log_uniform(random, 0.01, 0.03)
    at, jump = random.uniform(0.05, 0.3), random.uniform(0.2, 0.35)

    def rate(*at_: Any) -> Floats:
        s = across(*at_)
        return np.clip(0.45 + slope * np.minimum(s, at) + jump * expit((s - at) / width), 0.02, 0.98)

    return rate


def draw_crossing_ridges(random: Random) -> Rate:
    """Two ridges that cross."""
    ridges = [(_tilted(random), random.uniform(0.03, 0.08)) for _ in range(2)]
    heights = random.uniform(0.75, 0.95, 2)

    def rate(*at: Any) -> Floats:
        safe = [1 - height * np.exp(-((across(*at) / width) ** 2)) for (across, width), height in zip(ridges, heights)]
        return 1 - 0.97 * safe[0] * safe[1]

    return rate


def draw_stripes(random: Random) -> Rate:
    """Two to four waves across the plane."""
    across, waves, sharp = _tilted(random), random.uniform(2, 4), random.uniform(0.5, 4)
    return _between(0.03, 0.97, lambda *at: expit(sharp * np.sin(2 * np.pi * waves * across(*at)) * 2))


def draw_plateaus(random: Random) -> Rate:
    """Two plateaus a little below and above the level."""
    across, off, width = _wavy(random), random.uniform(0.05, 0.12), _log_uniform(random, 0.005, 0.03)
    return _between(0.5 - off, 0.5 + off, lambda *at: expit(across(*at) / width))


def draw_flat(random: Random) -> Rate:
    """One rate below the level everywhere, from far to near."""
    height = random.uniform(0.05, 0.47)
    return lambda a, u, v: np.full(np.broadcast_shapes(a.shape, u.shape, v.shape), height)


FAMILIES: dict[str, Callable[[Random], Rate]] = {
    draw.__name__.removeprefix("draw_"): draw
    for draw in (
        draw_tilted_band,
        draw_smooth,
        draw_lasso,
        draw_holes,
        draw_islands,
        draw_islets,
        draw_staircase,
        draw_creeping,
        draw_crossing_ridges,
        draw_stripes,
        draw_plateaus,
        draw_flat,
    )
}


def drawn(family: str, seed: int) -> Rate:
    """The truth number `seed` of a family."""
    return FAMILIES[family](np.random.default_rng((list(FAMILIES).index(family), seed)))


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
