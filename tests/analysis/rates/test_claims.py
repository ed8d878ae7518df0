"""Intervals, corrections and tests of claims: sizes and powers by exact enumeration, closed forms, invariances."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import isotonic_regression
from scipy.stats import beta, binom, binomtest, fisher_exact
from scipy.stats import false_discovery_control as bh

from analysis.rates import claims as statistics
from analysis.rates.claims import (
    independent,
    isotonic_fit,
    local_maximum,
    local_maximum_at,
    local_maximum_power,
    local_maximum_probability,
    monotonicity,
    replicates_for_local_maximum,
    violation,
)
from analysis.rates.significance import benjamini_hochberg, fisher_greater, holm, mcnemar, mcnemar_greater, paired_rates
from search_spaces import MisuseError
from search_spaces.coordinates import L1
from tests.analysis.test_frames import frame_of

RATES = np.linspace(0.01, 0.99, 99)


def curve_of(counts: dict[float, int], replicates: int, kind: str = "sae_dead") -> pd.DataFrame:
    """One architecture, one l1: at each sparsity the given number of replicates fail, those with the lowest seeds."""
    return frame_of({("5-3-5", s, 0.01): [kind] * k + ["none"] * (replicates - k) for s, k in counts.items()})


# Corrections


def test_corrections_are_those_of_their_papers() -> None:
    """Holm equals its explicit step-down rule, BH equals scipy's; the order of tests does not matter; NaN is not a test."""
    p = np.array([0.04, 0.001, 0.03, 0.2, 0.012])
    np.testing.assert_allclose(holm(p), [0.09, 0.005, 0.09, 0.2, 0.048])
    np.testing.assert_allclose(benjamini_hochberg(p), bh(p))
    order = np.array([3, 0, 4, 1, 2])
    for correct in (holm, benjamini_hochberg):
        np.testing.assert_allclose(correct(p[order]), correct(p)[order])
        with_gap = correct([np.nan, *p])
        assert np.isnan(with_gap[0])
        np.testing.assert_allclose(with_gap[1:], correct(p))
        assert (correct(p) >= p).all()
        assert len(correct([])) == 0
        assert np.isnan(correct([np.nan, np.nan])).all()


# Two rates


def test_fisher_is_that_of_scipy() -> None:
    """In a table of 3 and 3 it also equals the share counted over all arrangements."""
    for k, other in product(range(7), range(10)):
        expected = fisher_exact([[k, 6 - k], [other, 9 - other]], alternative="greater").pvalue
        assert float(fisher_greater(k, 6, other, 9)) == pytest.approx(expected, abs=1e-12)
    assert float(fisher_greater(3, 3, 0, 3)) == pytest.approx(1 / comb(6, 3))


@pytest.mark.parametrize(("n", "other_n"), [(4, 4), (15, 15), (8, 23), (60, 60)])
def test_size_of_fisher_is_at_most_nominal(n: int, other_n: int) -> None:
    """The size is exact at every equal rate, by enumeration of all tables."""
    k, other = np.arange(n + 1)[:, None], np.arange(other_n + 1)[None]
    p = fisher_greater(k, n, other, other_n)
    for level in (0.001, 0.05, 0.2):
        rejected = (p <= level).astype(float)
        sizes = [binom.pmf(k[:, 0], n, rate) @ rejected @ binom.pmf(other[0], other_n, rate) for rate in RATES]
        assert max(sizes) <= level


def test_mcnemar_is_the_sign_test() -> None:
    """It equals scipy's binomial test, its size is exact at every share of discordant pairs, and swapping sides changes nothing."""
    for b, c in product(range(8), range(8)):
        expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
        assert float(mcnemar(b, c)) == pytest.approx(expected) == float(mcnemar(c, b))
        assert float(mcnemar_greater(b, c)) == pytest.approx(binomtest(b, b + c, 0.5, "greater").pvalue if b + c else 1.0)
    for discordant in range(1, 40):
        b = np.arange(discordant + 1)
        assert binom.pmf(b, discordant, 0.5)[mcnemar(b, discordant - b) <= 0.05].sum() <= 0.05


def test_pairs_are_made_by_seed() -> None:
    """The order of rows does not matter, seeds of only one side do not count, and a repeated seed is refused."""
    one = frame_of({("5-3-5", 0.5, 0.01): ["sae_dead", "sae_dead", "none", "none", "sae_dense"]})
    other = frame_of({("5-3-5", 0.9, 0.01): ["sae_dead", "none", "none", "unfaithful"]})
    pair = paired_rates(one, other.iloc[::-1])
    assert (pair.both, pair.only_one, pair.only_other, pair.neither, pair.seeds) == (1, 1, 1, 1, 4)
    assert "Of 4 shared seeds, 2 fail in the first and 2 in the second" in pair.sentence
    assert paired_rates(one, other, "sae_dead").only_other == 0
    nothing = paired_rates(one.head(0), other)
    assert np.isnan(nothing.p_value)
    assert nothing.sentence.startswith("The two share no seed")
    with pytest.raises(MisuseError, match="repeats a seed"):
        paired_rates(pd.concat([one, one]), other)


# A local maximum


def test_probability_of_a_local_maximum_is_the_integral() -> None:
    """It equals adaptive quadrature and is 1/3 without data; the probabilities that each of three is the largest sum to one."""
    for k, n in [
        ((1, 9, 2), (20, 20, 20)),
        ((0, 3, 0), (300, 300, 1000)),
        ((5, 5, 5), (5, 5, 5)),
        ((40, 900, 870), (50, 1000, 900)),
    ]:
        of = [beta(a + 0.5, b - a + 0.5) for a, b in zip(k, n)]
        ends = of[1].ppf([1e-14, 1 - 1e-14])
        expected = quad(lambda x, of=of: of[1].pdf(x) * of[0].cdf(x) * of[2].cdf(x), *ends, epsabs=1e-11, limit=500)[0]
        assert float(local_maximum_probability(k, n)) == pytest.approx(expected, abs=1e-7)
        largest = [float(local_maximum_probability(np.roll(k, i), np.roll(n, i))) for i in range(3)]
        assert sum(largest) == pytest.approx(1, abs=1e-9)
        assert float(local_maximum_probability(k[::-1], n[::-1])) == pytest.approx(largest[0], abs=1e-12)
    assert float(local_maximum_probability((0, 0, 0), (0, 0, 0))) == pytest.approx(1 / 3, abs=1e-9)
    assert float(local_maximum_probability((0, 100_000, 0), (100, 100_000, 10_000_000))) == pytest.approx(1, abs=1e-6)
    assert local_maximum_probability(np.zeros((4, 2, 3)), np.ones(3)).shape == (4, 2)


def every_local_maximum(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the exact test rejects at 0.05, and the posterior is above 0.95, for all counts (k₁, k₂, k₃) of n, n, n."""
    k = np.arange(n + 1)
    greater = fisher_greater(k[:, None], n, k[None], n) <= 0.05  # (k₂, neighbour)
    exact = greater.T[:, :, None] & greater[None]
    counts = np.stack(np.meshgrid(k, k, k, indexing="ij"), -1)
    return exact, local_maximum_probability(counts, np.full(3, n)) >= 0.95


def chance(rejected: np.ndarray, rates: tuple[float, float, float]) -> float:
    """The probability that the claim's test rejects, by summing over all counts."""
    n = len(rejected) - 1
    left, middle, right = (binom.pmf(np.arange(n + 1), n, rate) for rate in rates)
    return float(np.einsum("abc,a,b,c", rejected, left, middle, right, optimize=True))


def test_size_of_the_claim_is_at_most_nominal() -> None:
    """The size is exact over a net of rates without a local maximum; the worst has one equal neighbour and one far below."""
    exact, posterior = every_local_maximum(15)
    null = [(p, p, q) for p in RATES[::7] for q in (0.0, p / 2, p)] + [(p, p, 1.0) for p in RATES[::7]]
    assert max(chance(exact, rates) for rates in null) <= 0.05
    assert max(chance(posterior, rates) for rates in null) <= 0.08  # a probability to read, not a test


def test_power_is_that_of_enumeration() -> None:
    """The power equals the sum over all counts, and the dataclass rejects at exactly those counts."""
    exact, _ = every_local_maximum(12)
    for rates in [(0.05, 0.6, 0.05), (0.3, 0.6, 0.1), (0.2, 0.2, 0.2)]:
        assert local_maximum_power(rates, 12) == pytest.approx(chance(exact, rates), abs=1e-12)
    for k in [(1, 9, 2), (3, 9, 2), (0, 4, 0), (0, 5, 0), (12, 12, 12)]:
        assert local_maximum((0.85, 0.9, 0.95), k, (12, 12, 12)).supported == exact[k]


@pytest.mark.parametrize(
    ("rates", "replicates", "at_a_thousandth"),
    [
        ((0.05, 0.60, 0.05), 15, 30),
        ((0.30, 0.60, 0.30), 75, 150),
        ((0.05, 0.30, 0.05), 50, 100),
        ((0.15, 0.30, 0.15), 200, 500),
        ((0.45, 0.60, 0.45), 300, 500),
    ],
)
def test_replicates_that_a_claim_needs(rates: tuple[float, float, float], replicates: int, at_a_thousandth: int) -> None:
    """The project's figures, found by simulation on a coarse ladder, give 90 % power; the exact number is up to a quarter less."""
    assert local_maximum_power(rates, replicates) >= 0.9
    assert local_maximum_power(rates, at_a_thousandth, 0.001) >= 0.899
    needed = replicates_for_local_maximum(rates)
    assert needed is not None
    assert replicates * 0.75 <= needed <= replicates
    assert local_maximum_power(rates, needed - 1) < 0.9 <= local_maximum_power(rates, needed)


@pytest.mark.slow
def test_claim_of_the_study_reads_its_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.85, 0.9, 0.95 shared seeds give McNemar's tests and other seeds Fisher's; the sentence says which."""
    frame = curve_of({0.85: 2, 0.9: 18, 0.95: 3}, 30)
    claim = local_maximum_at(frame, (0.85, 0.9, 0.95))
    assert (claim.failures, claim.replicates, claim.test) == ((2, 18, 3), (30, 30, 30), "McNemar")
    assert claim.p_value == pytest.approx(0.5**15)
    assert claim.sentence.startswith("The rate at 0.9 is above both neighbours': 2 of 30 at 0.85, 18 of 30 at 0.9")
    apart = frame.assign(seed=np.arange(len(frame)))
    unpaired = local_maximum_at(apart, (0.85, 0.9, 0.95))
    assert unpaired.test == "Fisher"
    assert unpaired.p_value == pytest.approx(max(float(fisher_greater(18, 30, k, 30)) for k in (2, 3)))
    assert unpaired.posterior == claim.posterior > 0.999
    weak = local_maximum_at(curve_of({0.85: 2, 0.9: 4, 0.95: 3}, 30), (0.85, 0.9, 0.95))
    assert not weak.supported
    assert "replicates per cell would show it with 90% power" in weak.sentence
    assert "at least as high" in local_maximum((1, 2, 3), (5, 5, 1), (9, 9, 9)).sentence
    monkeypatch.setattr(statistics, "MOST_REPLICATES", 200)
    assert "more than 200 replicates" in local_maximum((1, 2, 3), (4999, 5000, 4999), (10_000, 10_000, 10_000)).sentence
    with pytest.raises(MisuseError, match="no local maximum"):
        replicates_for_local_maximum((0.5, 0.5, 0.1))


def test_claim_that_was_not_measured_cannot_be_told() -> None:
    """A level without rows gives NaN, no significance, and a sentence; if all failed or none failed, p = 1."""
    claim = local_maximum_at(curve_of({0.85: 2}, 5), (0.85, 0.9, 0.95))
    assert np.isnan(claim.p_value)
    assert not claim.supported
    assert "is not known" in claim.sentence
    for k in (0, 5):
        flat = local_maximum_at(curve_of({0.85: k, 0.9: k, 0.95: k}, 5), (0.85, 0.9, 0.95))
        assert flat.p_value == 1
        assert flat.posterior == pytest.approx(1 / 3, abs=1e-9)


def test_one_autoencoder_counts_once() -> None:
    """Two SAEs that read one collapsed AE are one collapse."""
    frame = curve_of({0.9: 2}, 4, "ae_collapsed").assign(data_seed=[0, 0, 1, 1], ae_seed=0, sae_seed=[0, 1, 0, 1])
    assert len(independent(frame, "ae_collapsed")) == 2
    assert len(independent(frame, "any")) == 4


# A monotone curve


def test_isotonic_fit_is_that_of_scipy() -> None:
    """The fit equals pool adjacent violators, weighted by replicates, on random curves; a curve that never falls is its own fit."""
    random = np.random.default_rng(0)
    for _ in range(50):
        n = random.integers(1, 30, size=8)
        k = random.binomial(n, random.uniform(size=8))
        np.testing.assert_allclose(isotonic_fit(k, n), isotonic_regression(k / n, weights=n).x, atol=1e-12)
        rising = np.sort(random.integers(0, 10, size=(3, 5)))
        np.testing.assert_allclose(isotonic_fit(rising, np.full(5, 9)), rising / 9)
        assert (violation(rising, np.full(5, 9)) == 0).all()
        assert float(violation(k, n)) >= 0


def test_p_of_a_fall_is_that_of_all_tables() -> None:
    """For levels of 6, 4, 5, p is the share of the C(15, 7) placements of 7 failures whose statistic is at least as large."""
    n, k = np.array([6, 4, 5]), np.array([4, 2, 1])
    least = float(violation(k, n))
    tables = [np.array(t) for t in product(range(7), range(5), range(6)) if sum(t) == 7]
    ways = [comb(6, a) * comb(4, b) * comb(5, c) for a, b, c in tables]
    expected = sum(way for way, table in zip(ways, tables) if float(violation(table, n)) >= least - 1e-9) / comb(15, 7)
    assert monotonicity((1, 2, 3), k.tolist(), n.tolist()).p_never_falls == pytest.approx(expected, abs=0.015)


def test_level_order_and_mirror_do_not_matter() -> None:
    """The order of levels does not matter; "never falls" of a curve is "never rises" of its complement; p repeats exactly."""
    of = monotonicity((0.3, 0.5, 0.7, 0.9), (1, 9, 4, 12), (20, 20, 15, 20))
    shuffled = monotonicity((0.7, 0.3, 0.9, 0.5), (4, 1, 12, 9), (15, 20, 20, 20))
    assert of == shuffled
    mirrored = monotonicity((0.3, 0.5, 0.7, 0.9), (19, 11, 11, 8), (20, 20, 15, 20))
    assert mirrored.p_never_rises == pytest.approx(of.p_never_falls, abs=0.01)


@pytest.mark.parametrize("replicates", [8, 60])
def test_rising_truth_is_rarely_rejected(monkeypatch: pytest.MonkeyPatch, replicates: int) -> None:
    """At 5 % in at most 5 % of 300 simulated studies of seven levels, and two standard errors: flat, steep, in steps, rare."""
    monkeypatch.setattr(statistics, "DRAWS", 199)
    random = np.random.default_rng(1)
    truths = [np.full(7, 0.3), np.linspace(0.02, 0.98, 7), np.repeat([0.05, 0.5, 0.95], [3, 2, 2]), np.full(7, 0.02)]
    for truth in truths:
        rejected = [
            monotonicity(range(7), k.tolist(), [replicates] * 7).p_never_falls <= 0.05
            for k in random.binomial(replicates, truth, size=(300, 7))
        ]
        assert np.mean(rejected) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_bump_is_found() -> None:
    """A rise to 0.6 at 0.9 and a fall after it reject both hypotheses, and the sentence says where."""
    of = monotonicity((0.3, 0.5, 0.85, 0.9, 0.95), (2, 1, 3, 36, 4), (60,) * 5)
    assert of.p_never_falls <= 0.001
    assert of.p_never_rises <= 0.001
    assert "both rises and falls with sparsity" in of.sentence
    assert "from 36 of 60 at 0.9 to 4 of 60 at 0.95" in of.sentence
    assert (
        "rises with sparsity: from 1 of 60 at 0.5 to 50 of 60 at 0.95"
        in monotonicity((0.5, 0.9, 0.95), (1, 20, 50), (60,) * 3).sentence
    )
    assert "falls with l1: from 50 of 60" in monotonicity((0.5, 0.9, 0.95), (50, 20, 1), (60,) * 3, L1).sentence
    assert "Neither a rise nor a fall" in monotonicity((0.5, 0.9), (3, 4), (9, 9)).sentence


def test_poor_curves_have_a_defined_answer() -> None:
    """No level, one level, no failures or only failures, and levels without replicates all have an answer."""
    assert "0 level" in monotonicity((), (), ()).sentence
    assert "its course is unknown" in monotonicity((0.5, 0.9), (1, 0), (2, 0)).sentence
    for k in (0, 9):
        flat = monotonicity((0.5, 0.7, 0.9), (k,) * 3, (9,) * 3)
        assert (flat.p_never_falls, flat.p_never_rises) == (1, 1)
