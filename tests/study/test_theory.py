"""Closed forms against quadrature, sampling and numerical optimisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import dblquad, quad
from scipy.optimize import minimize, minimize_scalar, nnls

from study import theory
from study.metrics.autoencoder import feature_dimensionality

Array = NDArray[np.float64]

SPARSITIES = (0.0, 0.3, 0.5, 0.9, 0.98)
DECAY = 0.7 ** np.arange(10)


def expectation(function: Callable[[float], float], sparsity: float) -> float:
    """E over one feature: S · g(0) + (1 − S) ∫₀¹ g, by quadrature."""
    return sparsity * function(0.0) + (1 - sparsity) * quad(function, 0, 1, epsabs=1e-13)[0]


def pair_expectation(function: Callable[[float, float], float], sparsity: float) -> float:
    """E over two independent features, by quadrature on either side of the kink at x = y."""
    p = 1 - sparsity
    both = (
        dblquad(lambda y, x: function(x, y), 0, 1, 0, lambda x: x, epsabs=1e-12)[0]
        + dblquad(lambda y, x: function(x, y), 0, 1, lambda x: x, 1, epsabs=1e-12)[0]
    )
    one = quad(lambda x: function(x, 0.0), 0, 1)[0] + quad(lambda y: function(0.0, y), 0, 1)[0]
    return sparsity**2 * function(0.0, 0.0) + sparsity * p * one + p**2 * both


@pytest.fixture(scope="module")
def million() -> tuple[Array, Array]:
    """U and V of 10⁶ samples of ten features."""
    random = np.random.default_rng(2022)
    return random.random((1_000_000, 10)), random.random((1_000_000, 10))


def sampled_loss(W: Array, b: Array, sparsity: float, million: tuple[Array, Array]) -> tuple[float, float]:
    """Mean and standard error, over the samples, of Σ_i I_i (x_i − x̂_i)²."""
    presence, values = million
    parts = []
    for rows in np.split(np.arange(len(values)), 20):
        x = values[rows] * (presence[rows] >= sparsity)
        parts.append((x - np.maximum(x @ W.T @ W + b, 0)) ** 2 @ DECAY)
    losses = np.concatenate(parts)
    return float(losses.mean()), float(losses.std() / np.sqrt(len(losses)))


# Autoencoder baselines


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_feature_variance_is_that_of_the_mixture(sparsity: float) -> None:
    """v(p) = E x² − (E x)² by quadrature."""
    mean = expectation(lambda x: x, sparsity)
    assert theory.feature_variance(sparsity) == pytest.approx(expectation(lambda x: (x - mean) ** 2, sparsity), rel=1e-12)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_baselines_are_met_by_their_autoencoders_on_a_million_samples(sparsity: float, million: tuple[Array, Array]) -> None:
    """W = 0 with b = p/2, five dedicated columns, and five antipodal pairs lose what the formulas say, to 1e-3."""
    mean, eye, none = (1 - sparsity) / 2, np.eye(5), np.zeros((5, 5))
    models = [
        (np.zeros((5, 10)), np.full(10, mean), theory.bias_only_loss(sparsity, DECAY)),
        (np.hstack([eye, none]), np.repeat([0, mean], 5), theory.dedicated_loss(sparsity, DECAY, 5)),
        (np.stack([eye, -eye], axis=2).reshape(5, 10), np.zeros(10), theory.antipodal_loss(sparsity, DECAY)),
    ]
    for W, b, expected in models:
        loss, error = sampled_loss(W, b, sparsity, million)
        assert loss == pytest.approx(float(expected), abs=min(1e-3, 4 * error))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_bias_only_loss_is_the_least_that_a_constant_can_lose(sparsity: float) -> None:
    """Minimising E (x − b)² over b numerically gives v(p) a feature; the whole loss is ΣI times that."""
    best = minimize_scalar(lambda b: expectation(lambda x: (x - b) ** 2, sparsity), bounds=(0, 1), method="bounded")
    assert theory.bias_only_loss(sparsity, DECAY) == pytest.approx(best.fun * DECAY.sum(), rel=1e-8)
    assert best.x == pytest.approx((1 - sparsity) / 2, abs=1e-4)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_antipodal_pair_errs_only_where_both_fire(sparsity: float) -> None:
    """For w = [1, −1] the loss is p²(1 + I)/6, by quadrature over both features."""

    def loss(x: float, y: float) -> float:
        return (x - max(x - y, 0)) ** 2 + 0.4 * (y - max(y - x, 0)) ** 2

    assert theory.antipodal_loss(sparsity, [1, 0.4]) == pytest.approx(pair_expectation(loss, sparsity), abs=1e-10)


def test_dedicated_loss_lies_between_nothing_and_bias_only() -> None:
    """Storing no feature is bias-only, storing all is lossless, each one more saves v(p) times its importance."""
    losses = [float(theory.dedicated_loss(0.8, DECAY, m)) for m in range(11)]
    assert losses[0] == pytest.approx(float(theory.bias_only_loss(0.8, DECAY)), rel=1e-14)
    assert losses[10] == 0
    np.testing.assert_allclose(-np.diff(losses), theory.feature_variance(0.8) * DECAY, rtol=1e-12)


def test_baselines_have_the_published_values() -> None:
    """The table of the predecessor's cells, 10-5-10: L_bias 0.1836 … 0.0520 and L_ded 0.0264 … 0.0075."""
    sparsities = [0.8, 0.85, 0.9, 0.95]
    np.testing.assert_allclose(theory.bias_only_loss(sparsities, DECAY), [0.1836, 0.1437, 0.0999, 0.0520], atol=5e-5)
    np.testing.assert_allclose(theory.dedicated_loss(sparsities, DECAY, 5), [0.0264, 0.0207, 0.0144, 0.0075], atol=5e-5)


# Feature dimensionality


def capacity(W: Array) -> Array:
    """C_i = (W_i · W_i)² / Σ_j (W_i · W_j)², by loops; 0 for a zero column."""
    columns = list(W.T)
    shared = [sum(float(w @ v) ** 2 for v in columns) for w in columns]
    return np.array([float(w @ w) ** 2 / s if s else 0.0 for w, s in zip(columns, shared)])


def polygon(k: int) -> Array:
    angle = 2 * np.pi * np.arange(k) / k
    return np.array([np.cos(angle), np.sin(angle)])


def simplex(d: int) -> Array:
    """d + 1 vertices in d dimensions: the unit vectors of d + 1, centred, in an orthonormal basis of their plane."""
    centred = np.eye(d + 1) - 1 / (d + 1)
    return np.linalg.svd(centred)[2][:d] @ centred


def square_antiprism() -> Array:
    """Two squares of radius 1, one turned by 45 degrees, at heights ±1/√2: a tight frame of eight."""
    angle = 2 * np.pi * np.arange(8) / 8
    height = np.where(np.arange(8) % 2, -1, 1) / np.sqrt(2)
    return np.array([np.cos(angle), np.sin(angle), height])


POLYTOPES = [
    ("orthogonal", np.eye(4), 1.0),
    ("antipodal", np.hstack([np.eye(3), -np.eye(3)]), 1 / 2),
    ("triangle", polygon(3), 2 / 3),
    ("pentagon", polygon(5), 2 / 5),
    ("heptagon", polygon(7), 2 / 7),
    ("tetrahedron", simplex(3), 3 / 4),
    ("simplex in 6", simplex(6), 6 / 7),
    ("square antiprism", square_antiprism(), 3 / 8),
]


@pytest.mark.parametrize(("W", "expected"), [row[1:] for row in POLYTOPES], ids=[row[0] for row in POLYTOPES])
def test_vertices_of_a_polytope_share_its_dimensions_evenly(W: Array, expected: float) -> None:
    """Orthogonal 1, antipodal ½, k-gon 2/k, simplex d/(d + 1), square antiprism 3/8, to 1e-12, at any scale."""
    np.testing.assert_allclose(feature_dimensionality(3.7 * W), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_dimensionality_is_the_capacity_and_fits_into_the_hidden_space(seed: int) -> None:
    """D_i = C_i, each in [0, 1], and ΣD_i ≤ n_hidden, for a stack of random W at once."""
    W = np.random.default_rng(seed).normal(size=(4, 5, 12))
    D = feature_dimensionality(W)
    for matrix, dimensions in zip(W, D, strict=True):
        np.testing.assert_allclose(dimensions, capacity(matrix), rtol=1e-12)
        assert dimensions.sum() <= 5 + 1e-12
        assert ((dimensions >= 0) & (dimensions <= 1 + 1e-12)).all()


def test_dimensions_of_a_tight_frame_fill_the_hidden_space() -> None:
    """ΣD_i = n_hidden for the columns of a matrix with orthogonal rows of one length."""
    rows = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 5)))[0].T
    assert feature_dimensionality(rows).sum() == pytest.approx(5, abs=1e-12)


def test_dimensionality_of_a_zero_column_is_zero() -> None:
    """A feature that is not represented takes no dimension, and the others keep theirs."""
    W = np.hstack([polygon(3), np.zeros((2, 2))])
    np.testing.assert_allclose(feature_dimensionality(W), [2 / 3, 2 / 3, 2 / 3, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(feature_dimensionality(np.zeros((2, 3))), 0)


def test_dimensionality_does_not_see_a_rotation() -> None:
    """D of QW is D of W."""
    random = np.random.default_rng(4)
    W, Q = random.normal(size=(5, 9)), np.linalg.qr(random.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(feature_dimensionality(Q @ W), feature_dimensionality(W), rtol=1e-10)


# When an L1 SAE dies


def best_code(dictionary: Array, residual: Array, l1: float) -> Array:
    """argmin over f ≥ 0 of ‖r − D f‖² + l1 Σ f, by bounded minimisation from a code that fires."""

    def objective(f: Array) -> tuple[float, Array]:
        rest = residual - dictionary @ f
        return float(rest @ rest + l1 * f.sum()), l1 - 2 * dictionary.T @ rest

    start = np.full(dictionary.shape[1], 0.1)
    exact = {"ftol": 1e-15, "gtol": 1e-12}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), options=exact)
    return np.asarray(found.x)


@pytest.mark.parametrize("seed", range(20))
def test_zero_code_is_optimal_from_the_death_threshold_on(seed: int) -> None:
    """On a fixed dictionary every code is 0 at 1.001 of the threshold; at 0.999 of it one is not."""
    random = np.random.default_rng(seed)
    dictionary = random.normal(size=(3, 6))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    residuals = random.normal(size=(8, 3))
    threshold = theory.dictionary_death_threshold(dictionary, residuals)
    above, below = (np.array([best_code(dictionary, r, c * threshold) for r in residuals]) for c in (1.001, 0.999))
    assert above.max() < 1e-9
    assert below.max() > 1e-5


def test_threshold_without_l1_is_that_of_nonnegative_least_squares() -> None:
    """The threshold is 0 exactly where NNLS gives the zero code: no residual has a positive product with any atom."""
    random = np.random.default_rng(1)
    dictionary = np.abs(random.normal(size=(3, 6)))
    away, towards = -np.abs(random.normal(size=(5, 3))), np.abs(random.normal(size=(5, 3)))
    for residuals, dies in ((away, True), (towards, False)):
        assert all((nnls(dictionary, r)[0] == 0).all() for r in residuals) is dies
        assert (theory.dictionary_death_threshold(dictionary, residuals) == 0) is dies


def test_upper_bound_kills_every_dictionary_and_is_tight() -> None:
    """No unit dictionary has a threshold above λ_max; the one that holds the longest residual's direction reaches it."""
    random = np.random.default_rng(6)
    residuals = random.normal(size=(30, 4))
    bound = theory.l1_upper_bound(residuals)
    for _ in range(50):
        dictionary = random.normal(size=(4, 7))
        dictionary /= np.linalg.norm(dictionary, axis=0)
        assert theory.dictionary_death_threshold(dictionary, residuals) <= bound
        code = np.abs(random.normal(size=(30, 7)))
        firing = np.sum((residuals - code @ dictionary.T) ** 2, axis=1) + bound * code.sum(axis=1)
        assert (firing >= np.sum(residuals**2, axis=1)).all()
    longest = max(residuals, key=lambda r: float(r @ r))
    own = (longest / np.linalg.norm(longest))[:, None]
    assert theory.dictionary_death_threshold(own, residuals) == pytest.approx(bound, rel=1e-14)
    assert best_code(own, longest, 0.999 * bound).max() > 1e-5


def trained_latent(l1: float, norm: float) -> tuple[float, float]:
    """Loss and recall of the best latent f = (a s x + c)₊ on x ~ U(0, 1), by search over gain a and bias c."""

    def loss(gain: float, bias: float) -> float:
        fires_from = min(max(-bias / (gain * norm), 0.0), 1.0) if gain > 0 else 1.0

        def fired(x: float) -> float:
            f = gain * norm * x + bias
            return (norm * x - f) ** 2 + l1 * f

        return quad(lambda x: (norm * x) ** 2, 0, fires_from)[0] + quad(fired, fires_from, 1)[0]

    exact = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 2000}
    found = minimize(lambda p: loss(*p), [0.9, -0.2 * l1], method="Nelder-Mead", options=exact)
    gain, bias = found.x
    return float(found.fun), float(1 - min(max(-bias / (gain * norm), 0.0), 1.0))


@pytest.mark.parametrize("norm", [0.7, 1.0])
@pytest.mark.parametrize("l1", [0.02, 0.1, 0.3, 0.5, 1.0, 1.2])
def test_feature_loss_and_recall_are_those_of_the_best_latent(norm: float, l1: float) -> None:
    """Numerical optimisation of gain and bias gives the loss to 1e-6 and the recall 1 − l1/(2 s)."""
    loss, recall = trained_latent(l1, norm)
    assert theory.feature_loss(l1, norm) == pytest.approx(loss, abs=1e-6)
    assert theory.recall(l1, norm) == pytest.approx(recall, abs=1e-3)


def test_feature_loss_has_the_published_values() -> None:
    """s = 1: 0.047542, 0.192708, 0.291667 at l1 = 0.1, 0.5, 1; a dead latent loses s²/3; without l1 nothing is lost."""
    losses = theory.feature_loss([0.1, 0.5, 1.0, 2.0, 9.0], 1.0)
    np.testing.assert_allclose(losses, [0.047542, 0.192708, 0.291667, 1 / 3, 1 / 3], atol=5e-7)
    np.testing.assert_allclose(theory.feature_loss(0.0, [0.3, 1.0]), 0, atol=1e-16)
    np.testing.assert_allclose(theory.feature_loss(3.0, [0.5, 1.2]), np.array([0.25, 1.44]) / 3, rtol=1e-12)


def test_features_die_in_the_order_of_their_norms() -> None:
    """At l1 = 2 s the latent of a feature of norm s stops firing; a longer one still fires."""
    norms = np.array([0.2, 0.5, 1.0])
    for norm, line in zip(norms, theory.death_line(norms), strict=True):
        assert theory.recall(0.999 * line, norm) > 0
        np.testing.assert_array_equal(theory.recall(line, norms) > 0, norms > norm)
        assert theory.feature_loss(line, norm) == pytest.approx(norm**2 / 3, rel=1e-12)


def test_a_feature_of_no_length_is_never_seen() -> None:
    """recall is 0 for a zero column, also where l1 is 0."""
    np.testing.assert_array_equal(theory.recall([0.0, 0.1], 0.0), 0)
    np.testing.assert_array_equal(theory.feature_loss([0.0, 0.1], 0.0), 0)


@pytest.mark.parametrize("l1", [0.0, 0.05, 0.4, 1.0, 3.0])
def test_expected_l0_counts_soft_thresholds(l1: float) -> None:
    """On orthogonal columns the mean number of samples with s x > l1/2 is L0(l1), within five standard errors."""
    norms, sparsity, samples = np.array([0.3, 0.7, 1.0, 1.0, 1.3]), 0.8, 200_000
    random = np.random.default_rng(12)
    x = random.random((samples, 5)) * (random.random((samples, 5)) >= sparsity)
    active = np.sum(np.maximum(norms * x - l1 / 2, 0) > 0, axis=1)
    expected = theory.expected_l0(l1, norms, sparsity)
    assert expected == pytest.approx(active.mean(), abs=5 * active.std() / np.sqrt(samples) + 1e-12)


def test_l1_for_l0_has_the_published_values() -> None:
    """The published 10-5-10 AE at S = 0.9 holds nine unit columns: L0 0.8, 0.6, 0.4, 0.25 at l1 0.222, 0.667, 1.111, 1.444."""
    norms = np.array([1.0] * 9 + [0.0])
    l1s = [theory.l1_for_l0(target, norms, 0.9) for target in (0.8, 0.6, 0.4, 0.25)]
    np.testing.assert_allclose(l1s, [0.222, 0.667, 1.111, 1.444], atol=5e-4)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
def test_l1_for_l0_inverts_expected_l0(sparsity: float) -> None:
    """expected_l0(l1_for_l0(t)) = t over the whole range, also with zero columns, and l1 falls as the target rises."""
    norms = np.array([0.0, 0.1, 0.5, 0.9, 1.0, 1.1])
    highest = 5 * (1 - sparsity)
    targets = highest * np.array([0.001, 0.1, 0.3, 0.7, 0.99, 1.0])
    l1s = [theory.l1_for_l0(float(t), norms, sparsity) for t in targets]
    np.testing.assert_allclose([theory.expected_l0(l1, norms, sparsity) for l1 in l1s], targets, rtol=1e-8)
    assert (np.diff(l1s) < 0).all()


@pytest.mark.parametrize("target", [0.0, -1.0, 1.0001])
def test_l0_out_of_reach_is_an_error(target: float) -> None:
    """L0 lies in (0, p · columns]; what lies outside has no l1 and is named."""
    with pytest.raises(ValueError, match="out of reach"):
        theory.l1_for_l0(target, np.ones(10), 0.9)


# Superposition by pairs


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_paired_loss_is_that_of_its_autoencoder(pairs: int, million: tuple[Array, Array]) -> None:
    """Unit columns, the 2 · pairs least important of the represented features antipodal, on a million samples."""
    sparsity, n_hidden = 0.6, 5
    W, b = np.zeros((n_hidden, 10)), np.full(10, (1 - sparsity) / 2)
    b[: n_hidden + pairs] = 0
    W[np.arange(n_hidden), np.arange(n_hidden)] = 1
    for k in range(pairs):
        W[n_hidden - 1 - k, n_hidden + k] = -1
    loss, error = sampled_loss(W, b, sparsity, million)
    assert loss == pytest.approx(float(theory.paired_loss(sparsity, DECAY, n_hidden, pairs)), abs=4 * error)


def test_paired_loss_ends_at_the_two_known_ones() -> None:
    """No pair is the dedicated loss; all pairs of 2 n_hidden features the antipodal one."""
    S = np.array(SPARSITIES)
    np.testing.assert_allclose(theory.paired_loss(S, DECAY, 5, 0), theory.dedicated_loss(S, DECAY, 5), rtol=1e-13)
    np.testing.assert_allclose(theory.paired_loss(S, DECAY, 5, 5), theory.antipodal_loss(S, DECAY), rtol=1e-13)


@pytest.mark.parametrize(("n_features", "n_hidden"), [(2, 1), (5, 3), (10, 5), (15, 7), (20, 5)])
def test_pairs_pay_where_their_losses_cross(n_features: int, n_hidden: int) -> None:
    """Brute force over S and every number of pairs gives the staircase; the critical sparsities are roots of the difference."""
    importances = 0.7 ** np.arange(n_features)
    critical = theory.pairing_sparsities(importances, n_hidden)
    assert len(critical) == theory.most_pairs(n_features, n_hidden)
    assert (np.diff(critical) > 0).all()
    for k, S in enumerate(critical, start=1):
        fewer, more = (theory.paired_loss(S, importances, n_hidden, pairs) for pairs in (k - 1, k))
        assert more == pytest.approx(float(fewer), rel=1e-12)
    for S in np.linspace(0, 0.999, 97):
        losses = [float(theory.paired_loss(S, importances, n_hidden, k)) for k in range(len(critical) + 1)]
        represented = n_hidden + int(np.argmin(losses))
        assert theory.features_represented(S, importances, n_hidden) == represented
        assert theory.dimensions_per_feature(S, importances, n_hidden) == n_hidden / represented
        assert theory.best_paired_loss(S, importances, n_hidden) == min(losses)


def test_first_pair_has_the_published_boundary() -> None:
    """n = 2, m = 1: superposition for p < min(2I/(1 + 2.5 I), 2/(2.5 + I)); at I = 1 below p = 4/7."""
    for importance in (0.1, 0.3, 0.7, 1.0):
        p = 1 - theory.pairing_sparsities([1, importance], 1)[0]
        assert p == pytest.approx(min(2 * importance / (1 + 2.5 * importance), 2 / (2.5 + importance)), rel=1e-12)
    assert theory.pairing_sparsities([1, 1], 1)[0] == pytest.approx(3 / 7)


def test_staircase_meets_the_best_known_autoencoders() -> None:
    """10-5-10: 5 features at S = 0.3, 6 at 0.5, 8 at 0.8, 9 at 0.9, 10 at 0.95 (field.md 2.2); their losses are lower, slightly."""
    sparsities, best = [0.3, 0.5, 0.8, 0.9, 0.95], np.array([0.05167, 0.04645, 0.01507, 0.00488, 0.00123])
    assert theory.features_represented(sparsities, DECAY, 5).tolist() == [5, 6, 8, 9, 10]
    excess = theory.best_paired_loss(sparsities, DECAY, 5) / best - 1
    assert ((excess > -1e-3) & (excess < 0.15)).all()


@pytest.mark.parametrize("seed", range(20))
def test_dimension_sum_lies_between_its_bound_and_the_hidden_space(seed: int) -> None:
    """For random W of every condition, ΣD_i by the definition is at least the bound and at most n_hidden."""
    random = np.random.default_rng(seed)
    W = np.diag(random.uniform(0.05, 1, 4) ** random.integers(0, 3)) @ random.normal(size=(4, 9))
    singular = np.linalg.svd(W, compute_uv=False)
    bound = float(theory.least_dimension_sum(singular[0] / singular[-1], 4))
    assert bound - 1e-12 <= feature_dimensionality(W).sum() <= 4 + 1e-12


def test_dimension_sum_of_a_tight_frame_is_known_and_of_a_singular_one_is_not() -> None:
    """κ = 1 leaves only H; κ = ∞ leaves [1, H]."""
    np.testing.assert_allclose(theory.least_dimension_sum([1.0, np.inf], 5), [5, 1])


@pytest.mark.parametrize(("decay", "n_features"), [(0.7, 5), (0.7, 20), (1.0, 8), (0.2, 3)])
def test_importance_decay_undoes_the_sum(decay: float, n_features: int) -> None:
    """Σ r^i → r; no decay from a sum below the first importance."""
    assert theory.importance_decay(float(np.sum(decay ** np.arange(n_features))), n_features) == pytest.approx(decay, abs=1e-10)
    with pytest.raises(ValueError, match="below 1"):
        theory.importance_decay(0.5, n_features)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_expected_largest_is_that_of_samples(n: int) -> None:
    """E max of n normals within five standard errors; 1/√π for two."""
    largest = np.random.default_rng(n).normal(size=(100_000, n)).max(axis=1)
    assert theory.expected_largest(n) == pytest.approx(largest.mean(), abs=5 * largest.std() / np.sqrt(len(largest)))
    assert theory.expected_largest(2) == pytest.approx(1 / np.sqrt(np.pi), rel=1e-10)


def test_initial_death_line_is_the_threshold_of_a_random_dictionary() -> None:
    """Mean over dictionaries of `dictionary_death_threshold` on the columns of orthogonal features; within 2 %."""
    random = np.random.default_rng(8)
    thresholds = [theory.dictionary_death_threshold(0.01 * random.normal(size=(5, 10)), 0.9 * np.eye(5)) for _ in range(2000)]
    assert theory.initial_death_line(0.01, 0.9, 10, 5) == pytest.approx(np.mean(thresholds), rel=0.02)
