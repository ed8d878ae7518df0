"""Tests between two groups of replicates, paired by seed or not, and corrections for multiple tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, false_discovery_control, hypergeom

from search_spaces.cells import SEED_COLUMNS
from search_spaces.errors import MisuseError
from search_spaces.failures import failed

_Float = NDArray[np.float64]

LEVEL = 0.05
"""The default size of a test: sentences report a difference if p is at most this."""


def holm(p_values: ArrayLike) -> _Float:
    """Adjusted p values (tests,): those ≤ α all hold except with a probability ≤ α, however the tests depend on each other.

    The i-th smallest of m becomes max over j ≤ i of min(1, (m − j + 1) p_j), Holm 1979. NaN, for a test that could not be
    made, stays NaN and does not count.
    """
    p, adjusted, known = _p_values(p_values)
    order = np.argsort(p[known], kind="stable")
    steps = np.minimum(p[known][order] * np.arange(len(order), 0, -1), 1)
    adjusted[np.flatnonzero(known)[order]] = np.maximum.accumulate(steps)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> _Float:
    """Adjusted p values (tests,): at most a share q of those ≤ q is expected to be false, for positively dependent tests.

    Benjamini and Hochberg 1995. NaN stays NaN and does not count.
    """
    p, adjusted, known = _p_values(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(p[known], method="bh")
    return adjusted


def _p_values(p_values: ArrayLike) -> tuple[_Float, _Float, NDArray[np.bool_]]:
    p = np.asarray(p_values, dtype=np.float64)
    return p, np.full_like(p, np.nan), ~np.isnan(p)


def fisher_greater(failures: ArrayLike, replicates: ArrayLike, other_failures: ArrayLike, other_replicates: ArrayLike) -> _Float:
    """Fisher's exact one-sided p that the first rate is above the other, elementwise: P(A ≥ k₁ | k₁ + k₂), hypergeometric.

    It is preferred to Boschloo's and Barnard's tests for three reasons:

    - Given the total, no unknown rate is left, so that its size is at most nominal by proof, not by a numerical supremum.
    - It is a formula, fast enough for thousands of cells.
    - It costs little power: for 90 % power in claims of a local maximum, Boschloo's needs 7 to 20 % fewer replicates (12
      instead of 15, 55 instead of 59, 45 instead of 49).
    """
    k, n, other_k, other_n = (np.asarray(a, dtype=np.int64) for a in (failures, replicates, other_failures, other_replicates))
    return hypergeom.sf(k - 1, n + other_n, k + other_k, n)


def mcnemar(only_one: ArrayLike, only_other: ArrayLike) -> _Float:
    """McNemar's exact two-sided p, elementwise: 2 P(B ≤ min(b, c)), B binomial(b + c, ½), at most 1.

    b and c count the seeds that fail in only one of two cells or studies. The test is valid however the outcomes of a seed
    depend on each other; p is 1 if no seed distinguishes the two.
    """
    b, c = np.asarray(only_one), np.asarray(only_other)
    return np.minimum(2 * binom.cdf(np.minimum(b, c), b + c, 0.5), 1)


def mcnemar_greater(only_one: ArrayLike, only_other: ArrayLike) -> _Float:
    """McNemar's exact one-sided p, elementwise, that one fails more often than the other: P(B ≥ b)."""
    b, c = np.asarray(only_one), np.asarray(only_other)
    return binom.sf(b - 1, b + c, 0.5)


@dataclass(frozen=True)
class PairedRates:
    """Failures in two cells, or two studies, over the seeds that they share."""

    both: int
    only_one: int
    only_other: int
    neither: int

    @property
    def seeds(self) -> int:
        """The number of shared seeds."""
        return self.both + self.only_one + self.only_other + self.neither

    @property
    def p_value(self) -> float:
        """McNemar's exact two-sided p; NaN if no seed is shared."""
        return float(mcnemar(self.only_one, self.only_other)) if self.seeds else np.nan

    @property
    def sentence(self) -> str:
        """What the pairs say."""
        if self.seeds == 0:
            return "The two share no seed, so nothing can be paired."
        first, second = self.both + self.only_one, self.both + self.only_other
        verdict = "differ beyond chance" if self.p_value <= LEVEL else "do not differ beyond chance"
        return (
            f"Of {self.seeds} shared seeds, {first} fail in the first and {second} in the second, {self.only_one} only in the "
            f"first and {self.only_other} only in the second: the rates {verdict} ({p_text(self.p_value)}, exact McNemar)."
        )


def paired_rates(one: pd.DataFrame, other: pd.DataFrame, failure: str = "any") -> PairedRates:
    """Pair the rows of two cells that share seed, data_seed, ae_seed and sae_seed. MisuseError if a frame repeats a seed."""
    on = seed_columns(one, other)
    for frame in (one, other):
        if frame.duplicated(on).any():
            raise MisuseError("one of the frames repeats a seed. Give the rows of one cell each; compare() takes whole studies.")
    pairs = one[on].assign(one=failed(one, failure)).merge(other[on].assign(other=failed(other, failure)), on=on)
    first, second = pairs["one"].to_numpy(dtype=bool), pairs["other"].to_numpy(dtype=bool)
    return PairedRates(*(int(np.sum(x)) for x in (first & second, first & ~second, ~first & second, ~first & ~second)))


def seed_columns(*frames: pd.DataFrame) -> list[str]:
    """The columns that identify replicates of a cell, as far as every frame has them."""
    return [name for name in SEED_COLUMNS if all(name in frame for frame in frames)]


def p_text(p: float) -> str:
    """A p value as text: p = 0.012, p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"
