"""Tests of claims about failure rates along a coordinate: a local maximum, and a monotone curve.

No claim such as "worse at 0.9 than at 0.85 and at 0.95" is reported without its test. Tests are exact if conditioning on the
total number of failures, or of discordant pairs, leaves no unknown rate. Random draws come from a fixed stream, so that the
same rows give the same p value. Tests between two groups are in `significance.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaln, roots_legendre, xlogy
from scipy.stats import beta, binom

from analysis.rates.cells import CELL
from analysis.rates.significance import (
    LEVEL,
    fisher_greater,
    mcnemar_greater,
    p_text,
    paired_rates,
    seed_columns,
)
from search_spaces.coordinates import SPARSITY, Coordinate
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, failed
from study.data import stream

_Float = NDArray[np.float64]
_Whole = NDArray[np.int64]
POWER = 0.9


# A local maximum


@dataclass(frozen=True)
class LocalMaximum:
    """The claim that a rate is above those of both its neighbours, and its test."""

    levels: tuple[float, float, float]
    """The levels left, middle and right, for instance sparsities."""
    failures: tuple[int, int, int]
    replicates: tuple[int, int, int]
    posterior: float
    """Probability of the claim for independent rates with prior Beta(½, ½): 1/3 without data (`local_maximum_probability`)."""
    p_value: float
    """p of the intersection–union test: the larger of two one-sided exact p values. NaN if one of the three has no replicates."""
    test: str
    """The test that gave them: `McNemar` if the seeds are shared, else `Fisher`."""

    @property
    def supported(self) -> bool:
        """Whether the test rejects, at LEVEL, that the middle is not higher than both."""
        return self.p_value <= LEVEL

    @property
    def sentence(self) -> str:
        """What the data say about the claim."""
        left, middle, right = (
            f"{k} of {n} at {level:g}" for k, n, level in zip(self.failures, self.replicates, self.levels, strict=True)
        )
        if np.isnan(self.p_value):
            return f"It is not known whether {self.levels[1]:g} is a local maximum: {left}, {middle}, {right}."
        verdict = "is" if self.supported else "is not shown to be"
        claim = (
            f"The rate at {self.levels[1]:g} {verdict} above both neighbours': {left}, {middle}, {right}; "
            f"posterior probability {probability_text(self.posterior)}, {p_text(self.p_value)} (intersection–union, {self.test})."
        )
        return claim if self.supported else f"{claim} {self._needed()}"

    def _needed(self) -> str:
        left, middle, right = (k / n for k, n in zip(self.failures, self.replicates, strict=True))
        if middle <= max(left, right):
            return "A neighbour's rate is at least as high."
        needed = replicates_for_local_maximum((left, middle, right))
        count = f"{needed} replicates per cell" if needed else f"more than {MOST_REPLICATES} replicates per cell"
        return f"If the true rates were the observed ones, {count} would show it with {POWER:.0%} power."


def local_maximum(
    levels: Sequence[float],
    failures: Sequence[int],
    replicates: Sequence[int],
    discordant: Sequence[tuple[int, int]] | None = None,
) -> LocalMaximum:
    """Test the claim p₁ < p₂ > p₃ from three counts.

    This is an intersection–union test (Berger 1982): the claim consists of two claims, each is tested at α by an exact
    one-sided test, and it holds if both reject; its size is at most α. discordant: for the left and the right neighbour, how
    many shared seeds fail only in the middle and only in the neighbour. If it is given, the tests are McNemar's. Otherwise
    they are Fisher's, which treats cells as independent and is conservative if the same seed tends to fail in both.
    """
    (k1, k2, k3), (n1, n2, n3) = failures, replicates
    if min(n1, n2, n3) == 0:
        p = np.nan
    elif discordant is not None:
        p = max(float(mcnemar_greater(*pair)) for pair in discordant)
    else:
        p = max(float(fisher_greater(k2, n2, k, n)) for k, n in ((k1, n1), (k3, n3)))
    posterior = float(local_maximum_probability((k1, k2, k3), (n1, n2, n3)))
    test = "Fisher" if discordant is None else "McNemar"
    left, middle, right = levels
    return LocalMaximum((left, middle, right), (k1, k2, k3), (n1, n2, n3), posterior, p, test)


def local_maximum_probability(failures: ArrayLike, replicates: ArrayLike) -> _Float:
    """P(p₂ > p₁ and p₂ > p₃ | k, n) for (…, 3) counts, (…): ∫ f₂(x) F₁(x) F₃(x) dx, f and F of Beta(k + ½, n − k + ½).

    With x = sin²θ the prior is flat in θ and the integrand is analytic; Gauss–Legendre quadrature covers all but 1e-13 of f₂
    and is exact to 1e-9. If the rate equals a neighbour's, the probability exceeds 0.95 in up to 6 of 100 studies: it informs
    the reader, while the exact test beside it decides.
    """
    k, n = (np.asarray(a, dtype=np.float64) for a in (failures, replicates))
    a, b = k + 0.5, n - k + 0.5
    low, high = (np.arcsin(np.sqrt(beta.ppf(tail, a[..., 1], b[..., 1]))) for tail in (1e-13, 1 - 1e-13))
    nodes, weights = _gauss_legendre()
    theta = (low + high)[..., None] / 2 + (high - low)[..., None] / 2 * nodes
    x = np.sin(theta) ** 2
    density = np.exp(2 * xlogy(k[..., 1, None], np.sin(theta)) + 2 * xlogy((n - k)[..., 1, None], np.cos(theta)) - _scale(a, b))
    below = [betainc(a[..., i, None], b[..., i, None], x) for i in (0, 2)]
    return (weights * density * below[0] * below[1]).sum(-1) / (weights * density).sum(-1)


def _scale(a: _Float, b: _Float) -> _Float:
    return betaln(a[..., 1, None], b[..., 1, None])


@cache
def _gauss_legendre() -> tuple[_Float, _Float]:
    return roots_legendre(400)


def local_maximum_power(rates: Sequence[float], replicates: int, level: float = LEVEL) -> float:
    """Exact power of the intersection–union test at true rates (left, middle, right), with equally many replicates in each.

    Σ over k₂ of P(k₂) P(K₁ ≤ c(k₂)) P(K₃ ≤ c(k₂)), with c(k₂) the largest neighbour's count that Fisher's test rejects.
    """
    left, middle, right = rates
    k = np.arange(replicates + 1)
    critical = _critical_counts(replicates, level)
    below = binom.cdf(critical, replicates, left) * binom.cdf(critical, replicates, right)
    return float(binom.pmf(k, replicates, middle) @ below)


def _critical_counts(n: int, level: float) -> _Whole:
    """(n + 1,): for each k₂ = 0 … n the largest k₁ that is significantly less, −1 if there is none; by bisection."""
    k = np.arange(n + 1)
    low, high = np.full(n + 1, -1), k.copy()  # significant at low (or −1); never so at k₁ = k₂
    while (high - low > 1).any():
        middle = (low + high) // 2
        significant = fisher_greater(k, n, np.maximum(middle, 0), n) <= level
        low, high = np.where(significant & (middle >= 0), middle, low), np.where(significant & (middle >= 0), high, middle)
    return low


MOST_REPLICATES = 4_000
"""The search for a number of replicates ends here, because computing the exact power beyond takes seconds."""


def replicates_for_local_maximum(rates: Sequence[float], level: float = LEVEL, power: float = POWER) -> int | None:
    """The number of replicates per cell that the claim p₁ < p₂ > p₃ needs at these rates; None above MOST_REPLICATES.

    It is found by exact power, which rises with n in saw teeth: n is enough and n − 1 is not, but a smaller n may be.
    """
    left, middle, right = rates
    if middle <= max(left, right):
        raise MisuseError(f"rates={tuple(rates)!r} have no local maximum in the middle, so that no number of replicates shows one.")
    high = 4
    while local_maximum_power(rates, high, level) < power:
        high *= 2
        if high > MOST_REPLICATES:
            return None
    low = high // 2
    while high - low > 1:
        half = (low + high) // 2
        enough = local_maximum_power(rates, half, level) >= power
        low, high = (low, half) if enough else (half, high)
    return high


def local_maximum_at(
    frame: pd.DataFrame, levels: Sequence[float], failure: str = "any", along: Coordinate = SPARSITY
) -> LocalMaximum:
    """Test the claim on a study, at levels (left, middle, right) of a coordinate.

    The frame should hold one architecture and one value of the other coordinate, as all other columns are pooled. The test
    is paired by seed if all seeds are shared.
    """
    units = independent(frame, failure)
    parts = [units[units[along.name] == level] for level in levels]
    counts = [int(failed(part, failure).sum()) for part in parts]
    sizes = [len(part) for part in parts]
    return local_maximum(levels, counts, sizes, _discordant(parts, failure))


def _discordant(parts: Sequence[pd.DataFrame], failure: str) -> list[tuple[int, int]] | None:
    """For each neighbour, how many shared seeds fail only in the middle and only there; None if not all seeds are shared."""
    left, middle, right = parts
    on = seed_columns(*parts)
    if not on or any(part.duplicated(on).any() for part in parts):
        return None
    pairs = [paired_rates(middle, side, failure) for side in (left, right)]
    if any(pair.seeds < len(part) for pair in pairs for part in parts):
        return None
    return [(pair.only_one, pair.only_other) for pair in pairs]


def independent(frame: pd.DataFrame, failure: str) -> pd.DataFrame:
    """The rows that count once: all of them, or one per autoencoder of a cell if the failure is its collapse."""
    shared = [name for name in ("data_seed", "ae_seed") if name in frame]
    if failure != FailureKind.AE_COLLAPSED.value or len(shared) < 2:
        return frame
    return frame.drop_duplicates([*CELL, *shared])


# A monotone curve


@dataclass(frozen=True)
class Monotonicity:
    """The course of a rate along a coordinate, and which shapes the data reject."""

    along: Coordinate
    levels: tuple[float, ...]
    """The levels that have replicates, ascending."""
    failures: tuple[int, ...]
    replicates: tuple[int, ...]
    p_never_falls: float
    """p of the hypothesis that the rate is non-decreasing: small if it falls somewhere. NaN with fewer than two levels."""
    p_never_rises: float
    """p of the hypothesis that the rate is non-increasing."""

    @property
    def sentence(self) -> str:
        """The shape that the data support."""
        if len(self.levels) < 2:
            return f"The rate was measured at {len(self.levels)} level of {self.along.name}, so its course is unknown."
        evidence = f"never falls: {p_text(self.p_never_falls)}; never rises: {p_text(self.p_never_rises)}"
        return f"{self._shape()} ({evidence}; {sum(self.replicates)} replicates)."

    def _shape(self) -> str:
        rises, falls = self.p_never_rises <= LEVEL, self.p_never_falls <= LEVEL
        if rises and falls:
            return f"The rate both rises and falls with {self.along.name}: {self._step(1)}, {self._step(-1)}"
        if rises:
            return f"The rate rises with {self.along.name}: {self._step(1)}, with no evidence that it ever falls"
        if falls:
            return f"The rate falls with {self.along.name}: {self._step(-1)}, with no evidence that it ever rises"
        return f"Neither a rise nor a fall of the rate with {self.along.name} is shown"

    def _step(self, sign: int) -> str:
        """The best-supported rise (1) or fall (−1) between any two levels."""
        k, n = np.array(self.failures), np.array(self.replicates)
        i, j = np.triu_indices(len(k), 1)
        low, high = (i, j) if sign > 0 else (j, i)
        surest = fisher_greater(k[high], n[high], k[low], n[low])
        best = np.lexsort((k[low] / n[low] - k[high] / n[high], surest))[0]
        first, last = i[best], j[best]
        return f"from {k[first]} of {n[first]} at {self.levels[first]:g} to {k[last]} of {n[last]} at {self.levels[last]:g}"


def monotonicity(
    levels: Sequence[float], failures: Sequence[int], replicates: Sequence[int], along: Coordinate = SPARSITY
) -> Monotonicity:
    """Test whether a rate is non-decreasing, and whether it is non-increasing, along the levels that have replicates.

    The statistic is twice the log likelihood ratio of free rates to the isotonic fit (pool adjacent violators). Its
    distribution is taken under equal rates given the total number of failures, which leaves no unknown rate: DRAWS tables are
    drawn from the multivariate hypergeometric. Equal rates are the least favourable case of the hypothesis (Robertson, Wright,
    Dykstra 1988, theorem 2.3.1, for large samples; by simulation in the tests for small ones). Cells are treated as
    independent; the test is conservative if seeds are shared and tend to fail together.
    """
    k, n = np.asarray(failures, dtype=np.int64), np.asarray(replicates, dtype=np.int64)
    order = np.argsort(np.asarray(levels, dtype=np.float64), kind="stable")
    order = order[n[order] > 0]
    k, n = k[order], n[order]
    kept = tuple(float(levels[i]) for i in order)
    p = (_p_never_falls(k, n), _p_never_falls(k[::-1], n[::-1])) if len(k) > 1 else (np.nan, np.nan)
    return Monotonicity(along, kept, tuple(k.tolist()), tuple(n.tolist()), *p)


def isotonic_fit(failures: _Whole, replicates: _Whole) -> _Float:
    """The non-decreasing rates of greatest likelihood, (…, levels): max over a ≤ i of min over b ≥ i of the mean of a … b.

    failures (…, levels), replicates (levels,), all > 0.
    """
    zeros = np.zeros((*failures.shape[:-1], 1))
    k, n = np.concatenate([zeros, failures.cumsum(-1)], -1), np.concatenate([[0], replicates.cumsum()])
    a, b = np.arange(len(replicates))[:, None], np.arange(len(replicates))
    later = b >= a
    means = np.where(later, (k[..., 1:][..., None, :] - k[..., :-1, None]) / np.where(later, n[1:] - n[:-1, None], 1), np.inf)
    least = np.minimum.accumulate(means[..., ::-1], -1)[..., ::-1]  # min over b ≥ i, for each start a
    return np.where(later, least, -np.inf).max(-2)


def violation(failures: _Whole, replicates: _Whole) -> _Float:
    """2 (ℓ(free rates) − ℓ(non-decreasing rates)), (…): 0 where the observed rates never fall."""
    return 2 * (
        _log_likelihood(failures, replicates, failures / replicates)
        - _log_likelihood(failures, replicates, isotonic_fit(failures, replicates))
    )


def _log_likelihood(k: _Whole, n: _Whole, p: _Float) -> _Float:
    return (xlogy(k, p) + xlogy(n - k, 1 - p)).sum(-1)


def _p_never_falls(k: _Whole, n: _Whole) -> float:
    return _conditional_p(lambda tables: violation(tables, n), k, n)


# Tables of equal rates

DRAWS = 9_999
"""Number of tables drawn per p value, which is thus a multiple of 1/10,000; the test has the right size for any number."""
RESAMPLING = 100
"""The purpose of the random stream of these tables; no training uses it."""


def _conditional_p(statistic: Callable[[_Whole], _Float], k: _Whole, n: _Whole) -> float:
    """(1 + tables with a statistic at least as large)/(1 + DRAWS), for tables of equal rates with the same total of failures."""
    total = int(k.sum())
    if total in (0, int(n.sum())):
        return 1.0
    observed = statistic(k[None])[0]
    tables = stream(total, RESAMPLING).multivariate_hypergeometric(n, total, size=DRAWS, method="marginals")
    chunks = np.array_split(tables, max(1, tables.size * len(n) // 2_000_000))
    as_large = sum(int((statistic(chunk) >= observed - 1e-9 * (1 + abs(observed))).sum()) for chunk in chunks)
    return (1 + as_large) / (1 + DRAWS)


# Words


def probability_text(probability: float) -> str:
    """A probability as text, such as 0.93; one that would round to 0 or 1 is given as a bound."""
    return "> 0.999" if probability > 0.999 else "< 0.001" if probability < 0.001 else f"{probability:.3g}"
