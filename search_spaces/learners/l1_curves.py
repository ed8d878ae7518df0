"""The statistics of the l1 search (`l1_search.py`), from the outcomes of one cell at many values of l1.

- `RateChain`: the posterior of a failure rate that rises, falls, or does one after the other.
- `CrossingPosterior`: where the rate crosses a level.
- `Score`: where the mean score is highest.

x is log10 l1 on a lattice with steps of STEP decades that starts at the lower end of the range; counts are arrays over it.
Sources: Rabiner 1989, "A tutorial on hidden Markov models", section III, for the chain; Rasmussen and Williams 2006, "Gaussian
Processes for Machine Learning", ch. 2, for the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

STEP = 0.005
"""Decades between neighbouring values of l1."""

SPACING = 0.3
"""Distance between neighbouring log odds that a rate may have. The level lies in the middle between two of them."""
RATES = (0.003, 0.99)
"""About the lowest and the highest rate."""
WIDTHS = (2.0, 0.5, 0.15, 0.04)
"""Decades over which the log odds change by one, for each slope between flat and a cliff."""
CLIFF = 4
"""Levels that a cliff climbs per step of the lattice."""
LENGTH = 1.5
"""Decades after which a slope changes, on average, and
CLIMB"""
CLIMB = 3.0
"""log odds climbed after which it does, whichever comes first."""
FLAT = 0.3
"""Probability that the next slope is flat; all others are equally probable."""
LOW, HIGH = 0.25, 1.0
"""Exponents of the prior of the first rate p, p^LOW (1 − p)^HIGH over log odds, where it rises first."""

TEMPER = 1.0
"""Power to which likelihoods are raised."""
DRAWN_SHARE = 0.5
"""The middle share of a crossing's posterior, in which further replicates are placed."""
BEGUN = 0.5
"""Probability that the last rise has begun, up to which values are searched for a bump."""


class Side(Enum):
    """The rates at which something may happen, relative to the level."""

    NOWHERE = (False, False)
    BELOW = (True, False)
    ABOVE = (False, True)
    ANYWHERE = (True, True)


@dataclass(frozen=True)
class Phase:
    """A stretch of x over which the rate moves in one direction only."""

    up: bool
    starts: Side = Side.NOWHERE
    """The rates with which a curve may start in this phase."""
    turns: Side = Side.NOWHERE
    """The rates at which the next phase may begin."""
    length: float = 0.3
    """Decades after which it does, on average."""
    ends: Side = Side.NOWHERE
    """The rates with which a curve may end in this phase."""


RISING = (Phase(up=True, starts=Side.ANYWHERE, ends=Side.ANYWHERE),)
"""The rate never falls."""
BUMPED = (
    Phase(up=True, starts=Side.ANYWHERE, turns=Side.ABOVE),
    Phase(up=False, turns=Side.BELOW, ends=Side.BELOW),
    Phase(up=True, ends=Side.ANYWHERE),
)
"""The rate rises above the level, falls below it, and may rise again."""
SAFE_VALLEY = (
    Phase(up=False, starts=Side.ANYWHERE, turns=Side.BELOW, length=1.0, ends=Side.BELOW),
    Phase(up=True, starts=Side.BELOW, ends=Side.ANYWHERE),
)
"""The rate falls below the level and may rise again, or starts below it."""
UNSAFE_VALLEY = (
    Phase(up=False, starts=Side.ANYWHERE, turns=Side.ABOVE, length=4.0, ends=Side.ABOVE),
    Phase(up=True, starts=Side.ABOVE, ends=Side.ANYWHERE),
)
"""The rate falls, then rises, and is nowhere below the level."""
TWO_VALLEYS = (
    Phase(up=False, starts=Side.ANYWHERE, turns=Side.BELOW),
    Phase(up=True, starts=Side.BELOW, turns=Side.ABOVE),
    Phase(up=False, turns=Side.BELOW, ends=Side.BELOW),
    Phase(up=True, ends=Side.ANYWHERE),
)
"""The rate is below the level in two places, and above it in between."""


class RateChain:
    """A prior over curves of failure rates, and its exact posterior, by the forward and backward sums of a hidden Markov chain.

    The log odds climb (or fall, by the phase) at a slope, which changes now and then: between flat and a cliff there are
    curves of any smoothness, floors that creep, plateaus and steps. A state is a phase, a level of log odds and a slope. At
    each step of the lattice, the slope may change; then the level moves by one with the probability that makes it follow the
    slope on average; then the next phase may begin.
    """

    def __init__(self, size: int, level: float, phases: Sequence[Phase]) -> None:
        """size: X, the number of values on the lattice."""
        self.size, self.level, self.phases = size, level, phases
        low, high = ((logit(rate) - logit(level)) / SPACING for rate in RATES)
        self.below = -int(np.floor(low))
        """The number of levels below `level`."""
        self.rates = expit(logit(level) + SPACING * (np.arange(-self.below, int(np.ceil(high))) + 0.5))
        moves = np.array([0.0, *(STEP / (np.array(WIDTHS) * SPACING)), CLIFF])  # levels per step
        leave = np.minimum(STEP / LENGTH + moves * SPACING / CLIMB, 1)
        following = np.full(len(moves), (1 - FLAT) / (len(moves) - 1))
        following[0] = FLAT
        self._slopes = following / leave / np.sum(following / leave)
        """How often each slope is met."""
        change = np.diag(1 - leave) + leave[:, None] * following
        self._forward = self._transitions(change, moves, following).T.tocsr()
        self._backward = self._forward.T.tocsr()
        self._outcomes = np.tile(np.repeat(np.log([self.rates, 1 - self.rates]), len(moves), axis=1), len(phases))
        self._start = np.concatenate([self._starting(phase) for phase in phases])
        self._end = np.concatenate([np.repeat(self._at(phase.ends), len(moves)) for phase in phases]).astype(np.float64)

    def _at(self, side: Side) -> Flags:
        """(K,): the levels on this side."""
        return np.repeat(np.array(side.value), (self.below, len(self.rates) - self.below))

    def _starting(self, phase: Phase) -> Floats:
        prior = self.rates**LOW * (1 - self.rates) ** (HIGH if phase.up else LOW)
        share = self._at(phase.starts) * prior / prior.sum() / sum(other.starts is not Side.NOWHERE for other in self.phases)
        return np.outer(share, self._slopes).ravel()

    def _transitions(self, change: Floats, moves: Floats, following: Floats) -> sparse.csr_matrix:
        """Probabilities of each state's next state, one block per pair of phases."""
        count = len(self.phases)
        blocks: list[list[sparse.csr_matrix | None]] = [[None] * count for _ in range(count)]
        for place, phase in enumerate(self.phases):
            step = sparse.kron(sparse.eye(len(self.rates)), change) @ self._moved(moves, 1 if phase.up else -1)
            turn = self._at(phase.turns) * STEP / phase.length
            blocks[place][place] = step @ sparse.diags(np.repeat(1 - turn, len(moves)))
            if place + 1 < count:
                anew = np.outer(np.ones(len(moves)), following)
                blocks[place][place + 1] = step @ sparse.kron(sparse.diags(turn), anew)
        return sparse.bmat(blocks).tocsr()

    def _moved(self, moves: Floats, sign: int) -> sparse.csr_matrix:
        """Each state's level moved by its slope, up to the last one in that direction."""
        count, slopes = len(self.rates), np.arange(len(moves))
        far, chance = np.maximum(np.round(moves), 1).astype(np.int64), np.minimum(moves, 1.0)
        at = (np.arange(count)[:, None] * len(moves) + slopes).ravel()
        to = (np.clip(np.arange(count)[:, None] + sign * far, 0, count - 1) * len(moves) + slopes).ravel()
        moved = np.tile(chance, count)
        stays = sparse.diags(1 - moved)
        return stays + sparse.csr_matrix((moved, (at, to)), shape=(len(at), len(at)))

    @cached_property
    def _log_prior(self) -> float:
        """Logarithm of the prior probability of the curves that start and end where they may."""
        none = np.zeros(self.size)
        return self._filtered(none, none)[1]

    def log_evidence(self, failures: Floats, replicates: Floats) -> float:
        """Natural logarithm of the probability of the counts (X,), given that the rate goes through these phases."""
        return self._filtered(failures, replicates)[1] - self._log_prior

    def posterior(self, failures: Floats, replicates: Floats) -> RatePosterior:
        """The rate at each value of the lattice, from counts (X,) there."""
        forward, evidence = self._filtered(failures, replicates)
        backward, shares = self._end, np.empty((self.size, len(self.phases), len(self.rates)))
        slopes = len(self._slopes)
        for x in reversed(range(self.size)):
            joint = forward[x] * backward
            shares[x] = (joint / joint.sum()).reshape(len(self.phases), len(self.rates), slopes).sum(-1)
            if replicates[x]:
                backward = backward * self._likelihood(failures[x], replicates[x])
                backward /= backward.max()
            backward = self._backward @ backward
        return RatePosterior(shares, self.rates, self.below, evidence - self._log_prior)

    def _filtered(self, failures: Floats, replicates: Floats) -> tuple[Floats, float]:
        """The states' probabilities at each value given the counts up to it (X, states), and the log probability of all counts."""
        state, log_evidence, states = self._start, 0.0, np.empty((self.size, len(self._start)))
        for x in range(self.size):
            if x:
                state = self._forward @ state
            if replicates[x]:
                state = state * self._likelihood(failures[x], replicates[x])
                total = state.sum()
                state, log_evidence = state / total, log_evidence + np.log(total)
            states[x] = state
        return states, float(log_evidence + np.log(state @ self._end))

    def _likelihood(self, failures: float, replicates: float) -> Floats:
        return np.exp(TEMPER * (failures * self._outcomes[0] + (replicates - failures) * self._outcomes[1]))


@dataclass(frozen=True, eq=False)
class RatePosterior:
    """The posterior of a failure rate over the lattice."""

    shares: Floats
    """(X, phases, K): the probability of each phase and rate at each value of x."""
    rates: Floats
    """(K,)"""
    below: int
    """How many of the rates are below the level."""
    log_evidence: float
    """Natural logarithm of the probability of the counts, given these phases."""

    def above(self, phase: int) -> Floats:
        """(X,): the probability that the rate is in this phase and at the level or above it."""
        return self.shares[:, phase, self.below :].sum(1)

    @property
    def mean(self) -> Floats:
        """(X,): the expected rate."""
        return self.shares.sum(1) @ self.rates

    def turn(self) -> Floats:
        """(X,): where the second phase begins, given that it begins within the range; sums to 1 unless it surely does not."""
        begun = np.diff(self.shares[:, 1].sum(1), prepend=0.0).clip(0)
        return begun / max(begun.sum(), 1e-300)


@dataclass(frozen=True, eq=False)
class CrossingPosterior:
    """Posterior of the lowest x at which a rising failure rate is at the level or above it."""

    mass: Floats
    """(2 + X,): below the range, at each value of the lattice, above the range; sums to 1."""

    @classmethod
    def of(cls, above: Floats) -> CrossingPosterior:
        """From the probability (X,) that the rate is at the level or above it, which does not fall."""
        return cls(np.diff(above, prepend=[0.0, above[0]], append=1.0).clip(0))

    def quantile(self, share: float) -> int:
        """Index into the lattice; −1 for below the range, X for above it."""
        return int(np.searchsorted(np.cumsum(self.mass), share * self.mass.sum())) - 1

    def interval(self, share: float) -> tuple[int, int]:
        """The values that enclose the middle `share`. A crossing at an index lies between the value before it and its own."""
        return self.quantile((1 - share) / 2) - 1, self.quantile((1 + share) / 2)

    def surely_outside(self, share: float) -> bool:
        """Whether it lies beyond one end of the range with at least this probability."""
        return bool(max(self.mass[0], self.mass[-1]) >= share * self.mass.sum())

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Indices spread evenly over the middle of the posterior inside the range.

        If the shapes were known, the median would be the best place for all of them; the whole posterior is too wide.
        """
        shares = 0.5 + DRAWN_SHARE * ((np.arange(count) + rng.random(count)) / max(count, 1) - 0.5)
        sums = np.cumsum(self.mass[1:-1])
        return np.minimum(np.searchsorted(sums, shares * sums[-1]), len(sums) - 1)


@dataclass(frozen=True, eq=False)
class Descent:
    """The evidence that the failure rate is above the level in one more place than it should be: a bump."""

    log_bayes_factor: float
    """Natural logarithm of the Bayes factor of curves with a bump against curves without."""
    bump: Floats
    """(X,): where the bump may be, given that there is one; sums to 1."""
    stretch: tuple[int, int]
    """The indices between which a bump is looked for."""


@dataclass(frozen=True)
class Least:
    """The lowest failure rate."""

    x: int
    """Where it is: an index into the lattice."""
    interval: tuple[int, int]
    """Between which indices it lies, with the probability that was asked for."""
    rate: float
    rate_interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Edges:
    """What the counts say about a failure rate that should be low on one stretch of x."""

    upper: CrossingPosterior
    """Where the rate rises to the level."""
    lower: CrossingPosterior | None
    """Where it falls to the level, on the reversed lattice; None for a rate that only rises."""
    descent: Descent
    safe: float
    """The probability that the rate is below the level somewhere in the range."""
    valley: tuple[RatePosterior, RatePosterior] | None = None
    """For a rate that may fall: its posteriors, if it is below the level somewhere, and if it is not."""

    def least(self, share: float) -> Least | None:
        """The lowest rate, with intervals of the given share; None for a rate that only rises."""
        if self.valley is None:
            return None
        weights = (self.safe, 1 - self.safe)
        x = int(np.argmin(sum(w * of.mean for w, of in zip(weights, self.valley))))
        rates = np.cumsum(sum(w * of.shares[x].sum(0) for w, of in zip(weights, self.valley)))
        places = np.cumsum(self.bottom())
        ends = (1 - share) / 2, (1 + share) / 2
        low, middle, high = (float(self.valley[0].rates[np.searchsorted(rates, q * rates[-1])]) for q in (ends[0], 0.5, ends[1]))
        first, last = (min(int(np.searchsorted(places, q * places[-1])), len(places) - 1) for q in ends)
        return Least(x, (min(first, x), max(last, x)), middle, (low, high))

    def bottom(self) -> Floats:
        """(X,): where the rate stops falling and begins to rise; only for a rate that may fall."""
        assert self.valley is not None
        return self.safe * self.valley[0].turn() + (1 - self.safe) * self.valley[1].turn()


class RisingEdge:
    """The upper edge of a failure rate that only rises, tested against a bump."""

    def __init__(self, size: int, level: float) -> None:
        self._rising, self._bumped = RateChain(size, level, RISING), RateChain(size, level, BUMPED)

    def crossing(self, failures: Floats, replicates: Floats) -> CrossingPosterior:
        """Where the rate crosses the level, from counts (X,)."""
        return CrossingPosterior.of(self._rising.posterior(failures, replicates).above(0))

    def edges(self, failures: Floats, replicates: Floats) -> Edges:
        """The edge and the evidence for a bump, from counts (X,)."""
        rising, bumped = (chain.posterior(failures, replicates) for chain in (self._rising, self._bumped))
        bump = bumped.above(0) + bumped.above(1)
        evidence = bumped.log_evidence - rising.log_evidence
        odds = np.exp(np.clip(evidence, -50, 50))
        begun = (rising.above(0) + odds * bumped.above(2)) / (1 + odds)
        descent = Descent(evidence, bump / bump.sum(), (0, int(np.searchsorted(begun, BEGUN))))
        return Edges(CrossingPosterior.of(rising.above(0)), None, descent, float(1 - rising.above(0)[0]))


class Valley:
    """Both edges of a failure rate that falls and then rises, tested against two valleys."""

    def __init__(self, size: int, level: float) -> None:
        self._safe, self._unsafe = RateChain(size, level, SAFE_VALLEY), RateChain(size, level, UNSAFE_VALLEY)
        self._two = RateChain(size, level, TWO_VALLEYS)

    def edges(self, failures: Floats, replicates: Floats) -> Edges:
        """The edges, given that there is an interval between them, how probable that is, and the evidence for a second one."""
        safe, unsafe, two = (chain.posterior(failures, replicates) for chain in (self._safe, self._unsafe, self._two))
        share = float(expit(safe.log_evidence - unsafe.log_evidence))  # both are as probable before anything is seen
        one = np.logaddexp(safe.log_evidence, unsafe.log_evidence) - np.log(2)
        upper, lower = CrossingPosterior.of(safe.above(1)), CrossingPosterior.of(safe.above(0)[::-1])
        bump = two.above(1) + two.above(2)
        stretch = max(len(failures) - 1 - lower.quantile(0.5), 0), min(max(upper.quantile(0.5), 0), len(failures) - 1)
        descent = Descent(float(two.log_evidence - one), bump / max(bump.sum(), 1e-300), stretch)
        return Edges(upper, lower, descent, share, (safe, unsafe))


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
        self.bounds = float(score.min()), float(score.max())
        """The lowest and the highest score, between which its mean must lie."""
        prior = ratio * (_near(self.places, self.places, length) + 1)
        self._covariance = self._scale**2 * variance * (prior - across.T @ across)

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """Samples of f at the places, (count, places)."""
        values, vectors = np.linalg.eigh(self._covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        return self.mean + rng.standard_normal((count, len(values))) @ root.T


def _near(a: Ints, b: Ints, length: float) -> Floats:
    return np.exp(-0.5 * ((a[:, None] - b) * (STEP / length)) ** 2)
