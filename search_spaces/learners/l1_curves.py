"""The statistics of the l1 search (`l1_search.py`), from the outcomes of one cell at many values of l1.

- `RisingRate`: where the failure rate crosses a level.
- `Monotony`: whether the rate only rises, or has a bump.
- `Score`: where the mean score is highest.

x is log10 l1 on a lattice with steps of STEP decades that starts at the lower end of the range; counts are arrays over it.
Source of the process: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", ch. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import solve_triangular
from scipy.special import expit, logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEP = 0.005
"""Decades between neighbouring values of l1."""
MARGIN = 200
"""Steps by which the middle of a rise may lie beyond the range."""
WIDTHS = 10 ** np.linspace(-2.3, -0.3, 9)
"""Decades over which the log odds of a failure rise by one."""
FLOORS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.5)
"""Rates far below the rise, in multiples of the level."""
CEILINGS = (0.002, 0.05)
"""How far below 1 the rate stays far above the rise."""

TEMPER = 0.7
"""Power to which the likelihood of a crossing is raised, so that intervals hold for real rates, which only resemble the assumed
shapes."""
DRAWN_SHARE = 0.5
"""The middle share of a crossing's posterior, in which further replicates are placed."""


@dataclass(frozen=True, eq=False)
class CrossingPosterior:
    """Posterior of the x at which a rising failure rate crosses the level."""

    mass: Floats
    """(2 + X,): below the range, at each value of the lattice, above the range; sums to 1."""

    def quantile(self, share: float) -> int:
        """Index into the lattice; −1 for below the range, X for above it."""
        return int(np.searchsorted(np.cumsum(self.mass), share * self.mass.sum())) - 1

    def interval(self, share: float) -> tuple[int, int]:
        """The values that enclose the middle `share`. A crossing at an index lies between the value before it and its own."""
        return self.quantile((1 - share) / 2) - 1, self.quantile((1 + share) / 2)

    @property
    def inside(self) -> float:
        """The probability that the crossing lies in the range."""
        return float(self.mass[1:-1].sum())

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Indices spread evenly over the middle of the posterior inside the range.

        If the shapes were known, the median would be the best place for all of them; the whole posterior is too wide.
        """
        shares = 0.5 + DRAWN_SHARE * ((np.arange(count) + rng.random(count)) / max(count, 1) - 0.5)
        sums = np.cumsum(self.mass[1:-1])
        return np.minimum(np.searchsorted(sums, shares * sums[-1]), len(sums) - 1)


class RisingRate:
    """A posterior on a grid of P = L + (1 − L − H) F((x − θ)/w), F logistic or one of two skewed curves, all of it unknown.

    For each (F, w, L, H), the log likelihoods of all θ on the lattice are correlations of the counts with one table. FFTs
    compute them.
    """

    def __init__(self, size: int, level: float) -> None:
        """size: X, the number of values on the lattice."""
        self.size, self.level = size, level
        z = np.arange(-(size + MARGIN), size + MARGIN + 1) * STEP
        tables, offsets = [], []
        for width in WIDTHS:
            logistic = expit(z / width)
            skewed = -np.expm1(-np.exp(np.clip(z / width, -700, 50)))
            for shape in (logistic, skewed, 1 - skewed[::-1]):
                for floor in (level * np.array(FLOORS)).tolist():
                    for ceiling in CEILINGS:
                        rate = floor + (1 - floor - ceiling) * shape
                        tables.append(rate)
                        offsets.append(int(np.searchsorted(rate, level)) - (size + MARGIN))
        rates = np.clip(np.array(tables), 1e-9, 1 - 1e-9)
        self._offsets = np.array(offsets)
        """How far above θ the level is crossed, in steps."""
        self._length = next_fast_len(len(z), real=True)  # long enough for the products that are used
        self._fail, self._pass = (rfft(np.log(p)[:, ::-1], self._length) for p in (rates, 1 - rates))

    def crossing(self, failures: Floats, replicates: Floats) -> CrossingPosterior:
        """The crossing, from counts (X,) at the values of the lattice."""
        spectrum = self._fail * rfft(failures, self._length) + self._pass * rfft(replicates - failures, self._length)
        # θ runs from −MARGIN to X + MARGIN − 1: log likelihood Σ_x n(x) table(x − θ)
        start = self.size
        likelihood = irfft(spectrum, self._length)[:, start : start + self.size + 2 * MARGIN]
        posterior = np.exp(TEMPER * (likelihood - likelihood.max()))
        theta = np.arange(-MARGIN, self.size + MARGIN)
        place = np.clip(theta + self._offsets[:, None], -1, self.size) + 1
        return CrossingPosterior(np.bincount(place.ravel(), posterior.ravel(), self.size + 2) / posterior.sum())


BIN = 10
"""Steps in one bin of the test of monotony: 0.05 decades."""
BASES = (0.02, 0.1, 0.4, 0.8, 2.0, 4.5)
"""Rates below the last rise, in multiples of the level; a bump rises from a base below the level."""
BUMP_SDS = (2.0, 4.0)
"""Widths of bumps, in bins: 0.1 and 0.2 decades."""
BUMP_PEAKS = (0.15, 0.4, 0.7)
"""Heights of bumps above the level, as shares of (1 − level); what stays below the level is no bump."""


@dataclass(frozen=True, eq=False)
class Descent:
    """The evidence for a bump of failures below the last rise of the rate."""

    log_bayes_factor: float
    """Natural logarithm of the Bayes factor of curves with a bump against curves that only rise."""
    bump: Floats
    """(X,): posterior of the bump's centre at each value of the lattice, given that there is a bump."""
    below_rise: int
    """Index below which the last rise has surely not begun."""


class Monotony:
    """Tests whether the rate only rises, by the Bayes factor of curves with a bump below the last rise against curves without.

    The last rise is a logistic curve of unknown position and width. Below it the rate is flat, or takes one step upwards, or
    is P = 1 − (1 − base)(1 − h exp(−½((x − c)/s)²)). All constants are unknown and vary on grids; counts are binned.
    """

    def __init__(self, size: int, level: float) -> None:
        self.size, self.bins = size, -(-size // BIN)
        bins, bases = self.bins, np.minimum(level * np.array(BASES), 0.9)
        place = np.arange(bins) + 0.5
        self._bases_of_bumps = int(np.sum(bases < level))
        centre, sd, peak = (
            axis.ravel()
            for axis in np.meshgrid(place, np.array(BUMP_SDS), level + (1 - level) * np.array(BUMP_PEAKS), indexing="ij")
        )
        self._centre = centre
        bump = peak[:, None] * np.exp(-0.5 * ((place - centre[:, None]) / sd[:, None]) ** 2)  # (bumps, bins)
        self._bumped = _log_rates(1 - (1 - bases[: self._bases_of_bumps, None, None]) * (1 - bump))
        self._flat = _log_rates(np.broadcast_to(bases[:, None], (len(bases), bins)))
        width = np.array([0.6, 2.0, 5.0])  # bins
        middle = np.arange(bins + 8) + 0.5
        rise = expit((place - middle[:, None, None]) / width[:, None])  # (middles, widths, bins)
        cut = np.ceil(middle[:, None] - 3 * width).clip(0, bins).astype(np.int64)
        self._cut = cut.ravel()
        above = (np.arange(bins) >= cut[..., None]).reshape(-1, bins)
        base = bases[:, None, None]
        self._rise = _log_rates(base + (0.98 - base) * rise.reshape(-1, bins)) * above  # (2, bases, rises, bins)
        # A bump's top and falling side lie below the rise
        allowed = (centre + sd)[:, None] <= np.arange(bins + 1)
        self._prior = np.where(allowed, -np.log(np.maximum(1, allowed.sum(0))), -np.inf)  # (bumps, cuts)

    def descent(self, failures: Floats, replicates: Floats) -> Descent:
        """The evidence for a bump, from counts (X,) at the values of the lattice."""
        starts = np.arange(0, self.size, BIN)
        fails = np.add.reduceat(failures, starts)
        counts = np.stack([fails, np.add.reduceat(replicates, starts) - fails])  # (2, bins)
        rises = np.einsum("kb,kfrb->fr", counts, self._rise)
        above = np.full((len(rises), self.bins + 1), -np.inf)  # (bases, cuts): for the bins from the cut on
        for row, values in zip(above, rises):
            np.logaddexp.at(row, self._cut, values)
        flat = _before(np.einsum("kb,kfb->fb", counts, self._flat))
        bumped = _before(np.einsum("kb,kfhb->fhb", counts, self._bumped))
        low = self._bases_of_bumps
        joint = bumped + (above[:low, None] + self._prior)
        of_bump = logsumexp(joint, axis=(0, 2))
        bump = logsumexp(of_bump) - np.log(low)
        rising = self._rising(flat, above)
        posterior = np.bincount(self._centre.astype(np.int64), np.exp(of_bump - of_bump.max()), self.bins)
        of_cut = np.logaddexp(logsumexp(joint, axis=(0, 1)), logsumexp(flat + above, axis=0))
        shares = np.cumsum(np.exp(of_cut - of_cut.max()))
        lattice = np.repeat(posterior, BIN)[: self.size]
        cut = int(np.searchsorted(shares, 0.5 * shares[-1]))
        return Descent(float(bump - rising), lattice / lattice.sum(), min(cut * BIN, self.size))

    def _rising(self, flat: Floats, above: Floats) -> float:
        """Log evidence of curves without a bump, (bases, cuts) of the bins before and from each cut: flat, or with one step."""
        none = flat + above
        steps = []
        for first in range(len(flat)):
            for then in range(first + 1, len(flat)):
                before = np.logaddexp.accumulate(flat[first] - flat[then])[:-1] - np.log(np.arange(1, self.bins + 1))
                steps.append(none[then, 1:] + before)
        return float(np.logaddexp(logsumexp(none) - np.log(len(flat)), logsumexp(steps) - np.log(len(steps))) - np.log(2))


def _log_rates(rate: Floats) -> Floats:
    """log p and log(1 − p), stacked in front."""
    return np.log(np.stack([rate, 1 - rate]))


def _before(values: Floats) -> Floats:
    """Sums over the bins before each cut, (…, bins + 1)."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


LENGTHS = (0.3, 0.8)
"""Length scales of the score, in decades."""
SEED_SHARES = (0.0, 0.4, 0.8)
"""Shares of the seed's effect in the variance that f leaves."""
RATIOS = (1.0, 6.0)
"""Ratios of the variance of f to that of the rest."""


class Score:
    """The mean score over x, by a Gaussian process: score = f(x) + effect of the seed + noise.

    f is a constant plus a squared exponential; its length scale and the three variances maximise the evidence on a grid.
    Scores of one seed share its effect, so that the effect cancels between values of x that share seeds.
    """

    def __init__(self, size: int, x: Ints, seed: Ints, score: Floats) -> None:
        """x, seed, score: (n,), n >= 2; x are indices into a lattice of `size` values."""
        self.size = size
        self.places = np.arange(0, size, 4)
        """Indices at which the process is evaluated."""
        self._mean, self._scale = float(score.mean()), float(score.std()) or 1.0
        y = (score - self._mean) / self._scale
        same_seed = (seed[:, None] == seed).astype(np.float64)
        best = -np.inf
        for length in LENGTHS:
            near = _near(x, x, length)
            for share in SEED_SHARES:
                rest = share * same_seed + (1 - share) * np.eye(len(x))
                for ratio in RATIOS:
                    factor = np.linalg.cholesky(ratio * (near + 1) + rest)
                    white = solve_triangular(factor, y, lower=True)
                    variance = max(float(white @ white), 1e-12) / len(x)
                    evidence = -0.5 * len(x) * np.log(variance) - np.log(np.diag(factor)).sum()
                    if evidence > best:
                        best, chosen = evidence, (length, ratio, variance, factor, white)
        length, ratio, variance, factor, white = chosen
        across = solve_triangular(factor, ratio * (_near(x, self.places, length) + 1), lower=True)
        self.mean: Floats = self._mean + self._scale * across.T @ white
        """The posterior mean of f at the places."""
        prior = ratio * (_near(self.places, self.places, length) + 1)
        self._covariance = self._scale**2 * variance * (prior - across.T @ across)

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """Samples of f at the places, (count, places)."""
        values, vectors = np.linalg.eigh(self._covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        return self.mean + rng.standard_normal((count, len(values))) @ root.T


def _near(a: Ints, b: Ints, length: float) -> Floats:
    return np.exp(-0.5 * ((a[:, None] - b) * (STEP / length)) ** 2)
