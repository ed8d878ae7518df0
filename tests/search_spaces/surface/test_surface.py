"""The failure surface against closed forms, brute force and known truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import beta as beta_function
from scipy.special import expit, logit
from scipy.stats import beta

from search_spaces import MisuseError
from search_spaces.surface.domain import MOST_POINTS, Counts
from search_spaces.surface.posterior import SIDE, Posterior
from search_spaces.surface.process import AMPLITUDE, LENGTHS, Process, _bridged
from search_spaces.surface.surface import Estimator, Surface, expected_misclassified_volume, expected_regret, fit_surface
from search_spaces.surface.tree import Tree, frames, partition_average
from tests.truths import DOMAIN, TRUTHS, domain_over, sobol

Floats = NDArray[np.float64]
ONE = domain_over(("5-3-5",), sparsity=(0.3, 0.98), l1=(1e-4, 1.0))


def counts_of_one(u: Floats, v: Floats, failures: object, replicates: object = 1) -> Counts:
    """Counts at points in the plane of the only architecture."""
    return Counts.of(ONE, np.zeros(len(u), dtype=int), ONE.x.from_unit(u), ONE.y.from_unit(v), failures, replicates)  # type: ignore[arg-type]


def some_counts(size: int = 300, seed: int = 5) -> Counts:
    """Replicates along a slanted boundary, one per point."""
    rng = np.random.default_rng(seed)
    u, v = rng.random((2, size))
    return counts_of_one(u, v, rng.random(size) < expit((u + 0.5 * v - 0.7) / 0.05))


def posterior_of(**parts: object) -> Posterior:
    """A posterior at one point, or at several."""
    whole = {"alpha": 1.0, "beta": 1.0, "agreement": 1.0} | parts
    return Posterior(**{name: np.atleast_1d(np.asarray(part, dtype=np.float64)) for name, part in whole.items()})


# --- domains and counts


def test_axes_are_linear_in_sparsity_and_in_log_l1() -> None:
    """u and v run from 0 to 1, with ½ at the mean and at the geometric mean; both can be inverted."""
    assert ONE.x.to_unit([0.3, 0.64, 0.98]) == pytest.approx([0, 0.5, 1])
    assert ONE.y.to_unit([1e-4, 1e-2, 1.0]) == pytest.approx([0, 0.5, 1])
    assert ONE.x.from_unit(ONE.x.to_unit(0.77)) == pytest.approx(0.77)
    assert ONE.y.from_unit(ONE.y.to_unit(0.003)) == pytest.approx(0.003)
    assert ONE.y.from_unit([0.0, 1.0]).tolist() == [1e-4, 1.0]


def test_axis_of_one_value_is_a_point() -> None:
    """A single sparsity, or a single l1 (0 included), makes an axis of one grid cell."""
    narrow = domain_over(("5-3-5", "10-5-10"), sparsity=(0.9, 0.9), l1=(0.0, 0.0))
    assert narrow.shape() == (2, 1, 1)
    assert narrow.y.from_unit(narrow.y.to_unit([0.0, 0.0])).tolist() == [0.0, 0.0]
    assert domain_over(("5-3-5",), sparsity=(0.3, 0.9), l1=(0.01, 0.01)).shape(32) == (1, 32, 1)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: domain_over((), (0.3, 0.9), (1e-3, 1)), "at least one"),
        (lambda: domain_over(("5-3-5", "5-3-5"), (0.3, 0.9), (1e-3, 1)), "twice"),
        (lambda: domain_over(("5-3-5",), (0.9, 0.3), (1e-3, 1)), "not a range"),
        (lambda: domain_over(("5-3-5",), (0.3, 1.0), (1e-3, 1)), "outside"),
        (lambda: domain_over(("5-3-5",), (0.3, 0.9), (0, 1)), "log10"),
        (lambda: ONE.y.to_unit(0.0), "no logarithm"),
        (lambda: ONE.x.to_unit(0.2), "outside this surface's range"),
        (lambda: ONE.x.to_unit(math.nan), "outside this surface's range"),
        (lambda: ONE.index("10-5-10"), "not in this surface"),
        (lambda: ONE.index([1]), "not in this surface"),
        (lambda: Counts.of(ONE, ["5-3-5"], [0.5], [0.01], [3], [2]), "at most once"),
        (lambda: Counts.of(ONE, ["5-3-5"], [0.5], [0.01], [0.5], [2]), "whole numbers"),
        (lambda: fit_surface(ONE, some_counts(), batch=[0, 1]), "one number per row"),
        (lambda: posterior_of().exceedance(1.0), "outside"),
        (lambda: posterior_of().interval(90), "outside"),
    ],
)
def test_misuse_is_refused_with_its_reason(make: object, word: str) -> None:
    """An impossible surface is refused before anything is computed."""
    with pytest.raises(MisuseError, match=word):
        make()  # type: ignore[operator]


def test_architectures_are_found_by_name_and_by_index() -> None:
    """Names, Architecture objects and indices are equivalent; a single one counts as a list of one."""
    names = list(DOMAIN.architectures)
    assert DOMAIN.index(names[::-1]).tolist() == list(range(8))[::-1]
    assert DOMAIN.index(names[3]).tolist() == DOMAIN.index(3).tolist() == DOMAIN.index(np.array([3])).tolist() == [3]


def test_counts_of_a_point_add_up() -> None:
    """Rows of one point are merged; rows without replicates are dropped."""
    counts = Counts.of(ONE, ["5-3-5"] * 4, [0.5, 0.4, 0.5, 0.9], [0.1, 0.1, 0.1, 0.1], [1, 0, 2, 0], [1, 3, 4, 0])
    merged = counts.merged()
    assert len(counts) == 3
    assert merged.failures.tolist() == [0, 3]
    assert merged.replicates.tolist() == [3, 5]


# --- the tree


def brute_force(failures: Floats, replicates: Floats) -> tuple[float, dict[tuple[int, ...], tuple[float, float]]]:
    """Marginal likelihood and both moments of each cell, from a list of every partition and its prior."""
    total, moments = 0.0, {cell: np.zeros(2) for cell in np.ndindex(failures.shape)}
    for prior, boxes in partitions(tuple((0, side) for side in failures.shape)):
        posts = []
        for box in boxes:
            inside = tuple(slice(*ends) for ends in box)
            posts.append((inside, failures[inside].sum(), replicates[inside].sum()))
        likelihood = prior * math.prod(beta_function(k + 0.5, n - k + 0.5) / math.pi for _, k, n in posts)
        total += likelihood
        for inside, k, n in posts:
            leaf = beta(k + 0.5, n - k + 0.5)
            for cell in itertools.product(*(range(s.start, s.stop) for s in inside)):
                moments[cell] += likelihood * np.array([leaf.mean(), leaf.moment(2)])
    return total, {cell: tuple(moment / total) for cell, moment in moments.items()}


def partitions(box: tuple[tuple[int, int], ...]) -> list[tuple[float, list[tuple[tuple[int, int], ...]]]]:
    """Every way to partition a box, with its prior probability."""
    axes = [axis for axis, (start, stop) in enumerate(box) if stop - start > 1]
    if not axes:
        return [(1.0, [box])]
    found = [(0.5, [box])]
    for axis in axes:
        start, stop = box[axis]
        halves = [(*box[:axis], ends, *box[axis + 1 :]) for ends in ((start, (start + stop) // 2), ((start + stop) // 2, stop))]
        for (p, left), (q, right) in itertools.product(*(partitions(half) for half in halves)):
            found.append((p * q / (2 * len(axes)), left + right))
    return found


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (2, 2), (1, 4, 1), (2, 2, 2), (4, 2)])
def test_partition_average_is_the_sum_over_all_partitions(shape: tuple[int, ...]) -> None:
    """The recursion's moments equal those of the partitions written out one by one."""
    rng = np.random.default_rng(0)
    replicates = rng.integers(0, 6, shape).astype(np.float64)
    failures = rng.binomial(replicates.astype(int), 0.4).astype(np.float64)
    first, second = partition_average(failures, replicates)
    for cell, (mean, square) in brute_force(failures, replicates)[1].items():
        assert first[cell] == pytest.approx(mean, rel=1e-12)
        assert second[cell] == pytest.approx(square, rel=1e-12)


def test_one_box_is_a_beta_posterior() -> None:
    """If nothing can be halved, the rate is Beta(k + ½, n − k + ½)."""
    first, second = partition_average(np.full((1, 1), 3.0), np.full((1, 1), 10.0))
    expected = beta(3.5, 7.5)
    assert first[0, 0] == pytest.approx(expected.mean())
    assert second[0, 0] - first[0, 0] ** 2 == pytest.approx(expected.var())


def test_tree_without_counts_is_the_prior() -> None:
    """Without replicates the rate is Beta(½, ½) everywhere, whatever the boxes."""
    first, second = partition_average(np.zeros((2, 8, 8)), np.zeros((2, 8, 8)))
    assert first == pytest.approx(np.full((2, 8, 8), 0.5))
    assert second - first**2 == pytest.approx(np.full((2, 8, 8), 0.125))


def test_tree_of_failures_and_of_successes_mirror_each_other() -> None:
    """Calling failures successes turns the rate r into 1 − r."""
    counts = some_counts()
    turned = counts_of_one(counts.u, counts.v, counts.replicates - counts.failures, counts.replicates)
    direct, mirror = Tree.fitted(ONE, counts), Tree.fitted(ONE, turned)
    np.testing.assert_allclose(direct.mean, 1 - mirror.mean, atol=1e-12)


def test_neighbouring_architectures_share_through_the_tree_alone() -> None:
    """The tree draws an architecture without replicates towards its neighbour's rate; the process does not."""
    pair = domain_over(("5-3-5", "6-3-6"), (0.3, 0.9), (1e-3, 1.0))
    u, v = np.random.default_rng(1).random((2, 400))
    counts = Counts.of(pair, np.zeros(400, dtype=int), pair.x.from_unit(u), pair.y.from_unit(v), 1)
    at = np.array([1]), np.array([0.5]), np.array([0.5])
    assert Tree.fitted(pair, counts).at(*at).mean > 0.7
    assert Process.fitted(pair, counts).latent(*at)[0] == pytest.approx([0.0])


def test_frames_hold_the_whole_plane() -> None:
    """However a frame is rotated and shifted, it contains every corner of the unit square."""
    corners = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    for frame in frames(rotate=True):
        for cells in frame.cells(*corners, (1 << 20, 1 << 20)):
            assert len(np.unique(cells)) >= 2
            assert cells.min() >= 0
            assert cells.max() < (1 << 20) - 1


# --- the process


def test_process_is_at_the_mode_of_its_posterior() -> None:
    """The coefficients maximise likelihood × prior, as another optimiser finds on the explicit basis."""
    counts = some_counts(120)
    process = Process.fitted(ONE, counts)
    lengths = best_lengths(counts)
    basis, scale, sides = written_out(counts, lengths)

    def loss(z: Floats) -> float:
        f = basis @ (scale * z)
        return float((counts.replicates * np.logaddexp(0, f) - counts.failures * f).sum() + z @ z / 2)

    found = minimize(loss, np.zeros(len(scale)), method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-8})
    np.testing.assert_allclose(process.location[0, : sides[0], : sides[1]].ravel(), scale * found.x, atol=2e-3)


def test_length_scales_of_the_axes_are_chosen_apart() -> None:
    """A ridge along v that is narrow in u gets a shorter length scale in u."""
    u, v = np.random.default_rng(5).random((2, 300))
    failures = np.abs(u - 0.5) < 0.1
    lengths = best_lengths(Counts.of(ONE, np.zeros(300, dtype=int), ONE.x.from_unit(u), ONE.y.from_unit(v), failures))
    assert lengths[0] < lengths[1]
    process = Process.fitted(ONE, Counts.of(ONE, np.zeros(300, dtype=int), ONE.x.from_unit(u), ONE.y.from_unit(v), failures))
    sides = [math.ceil(3.6 / (math.pi * length)) + 1 for length in lengths]
    assert (process.location[0, sides[0] :] == 0).all()
    assert (process.location[0, :, sides[1] :] == 0).all()
    assert process.location[0, sides[0] - 1].any()


def test_lattice_is_summed_as_its_points_are() -> None:
    """Counts summed along the axes of a lattice give the same logit as counts summed point by point."""
    i, j = (index.ravel() for index in np.indices((13, 15)))
    failures, replicates = np.random.default_rng(2).integers(0, 3, 195), np.full(195, 2)
    on = Counts(np.zeros(195, dtype=np.int64), i / 12, j / 14, failures, replicates)
    off = Counts(on.architecture, on.u + np.linspace(0, 1e-9, 195), on.v, failures, replicates)
    places = np.zeros(50, dtype=np.int64), *np.random.default_rng(3).random((2, 50))
    for one, other in zip(Process.fitted(ONE, on).latent(*places), Process.fitted(ONE, off).latent(*places)):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_many_points_are_gathered_on_the_grid() -> None:
    """More than MOST_POINTS points move by at most half a cell, and no replicate is lost; fewer points stay where they are."""
    rng = np.random.default_rng(4)
    u, v = rng.random((2, MOST_POINTS + 1))
    counts = Counts(np.zeros(len(u), dtype=np.int64), u, v, rng.integers(0, 2, len(u)), np.ones(len(u), dtype=np.int64))
    gathered = counts.gathered()
    assert len(gathered) <= 128**2
    assert (gathered.failures.sum(), gathered.replicates.sum()) == (counts.failures.sum(), len(u))
    assert set(np.rint(gathered.u * 256).astype(int)) <= set(range(1, 256, 2))
    here = (np.abs(u - gathered.u[0]) < 1 / 256) & (np.abs(v - gathered.v[0]) < 1 / 256)
    assert gathered.replicates[0] == here.sum()
    assert counts.take(np.arange(100)).gathered().u.tolist() == u[:100].tolist()


def best_lengths(counts: Counts) -> tuple[float, float]:
    """The length scales with the greatest evidence."""
    return max(itertools.product(LENGTHS, LENGTHS), key=lambda lengths: evidence(counts, lengths))


def written_out(counts: Counts, lengths: tuple[float, float]) -> tuple[Floats, Floats, list[int]]:
    """cos(iπu) cos(jπv) at the points, (n, IJ), the prior standard deviations of their weights, and [I, J]."""
    sides = [min(20, math.ceil(3.6 / (math.pi * length)) + 1) for length in lengths]
    i, j = np.arange(sides[0])[:, None, None], np.arange(sides[1])[None, :, None]
    basis = np.cos(i * np.pi * counts.u) * np.cos(j * np.pi * counts.v)

    def density(side: int, length: float) -> Floats:
        k = np.arange(side) * 1.0
        return np.where(k > 0, 2, 1) * math.sqrt(2 * math.pi) * length * np.exp(-0.5 * (math.pi * k * length) ** 2)

    variance = AMPLITUDE**2 * np.outer(*map(density, sides, lengths))
    return basis.reshape(len(variance.ravel()), -1).T, np.sqrt(variance).ravel(), sides


def evidence(counts: Counts, lengths: tuple[float, float]) -> float:
    """Laplace's evidence in its other form, log|I + W½ K W½| with K = ΦΛΦᵀ (Rasmussen and Williams 2006, eq. 3.32)."""
    basis, scale, _ = written_out(counts, lengths)
    K = (basis * scale**2) @ basis.T
    f = np.zeros(len(counts))
    for _ in range(50):
        p = expit(f)
        root = np.sqrt(counts.replicates * p * (1 - p))
        b = root**2 * f + counts.failures - counts.replicates * p
        B = np.eye(len(f)) + root[:, None] * K * root
        a = b - root * np.linalg.solve(B, root * (K @ b))
        f = K @ a
    fit = (counts.failures * f - counts.replicates * np.logaddexp(0, f)).sum()
    return float(fit - a @ f / 2 - np.linalg.slogdet(B)[1] / 2)


def test_variance_of_the_logit_is_that_of_the_weights() -> None:
    """The cosine series of the variance equals φᵀ (Λ⁻¹ + ΦᵀWΦ)⁻¹ φ, computed directly."""
    counts = some_counts(120)
    process = Process.fitted(ONE, counts)
    lengths = best_lengths(counts)
    basis, scale, (rows, columns) = written_out(counts, lengths)
    weights = process.location[0, :rows, :columns].ravel()
    rate = expit(basis @ weights)
    precision = np.diag(scale**-2.0) + (basis.T * (counts.replicates * rate * (1 - rate))) @ basis
    places = some_counts(30, seed=8)
    phi = written_out(places, lengths)[0]
    expected = np.einsum("ni,ij,nj->n", phi, np.linalg.inv(precision), phi)
    location, sd = process.latent(places.architecture, places.u, places.v)
    np.testing.assert_allclose(sd**2, expected, rtol=1e-6)
    np.testing.assert_allclose(location, phi @ weights, atol=1e-10)


# --- posteriors


def test_rate_has_the_quantiles_of_its_beta() -> None:
    """Mean, variance, q and interval equal SciPy's for the Beta."""
    made, expected = posterior_of(alpha=3.5, beta=7.5), beta(3.5, 7.5)
    assert made.mean == pytest.approx(expected.mean())
    assert made.variance == pytest.approx(expected.var())
    assert made.exceedance(0.4) == pytest.approx(expected.sf(0.4))
    assert np.concatenate(made.interval(0.9)) == pytest.approx(expected.interval(0.9))


def test_side_is_told_by_more_pseudo_counts_than_the_rate() -> None:
    """q and regret are those of a million draws from Beta(3 · 3.5, 3 · 7.5); mean and interval do not depend on the agreement."""
    made, plain = posterior_of(alpha=3.5, beta=7.5, agreement=3.0 ** (1 / SIDE)), posterior_of(alpha=3.5, beta=7.5)
    draws = np.random.default_rng(1).beta(10.5, 22.5, 1_000_000)
    assert made.exceedance(0.4) == pytest.approx((draws >= 0.4).mean(), abs=2e-3)
    above, below = np.maximum(draws - 0.4, 0).mean(), np.maximum(0.4 - draws, 0).mean()
    assert made.regret(0.4) == pytest.approx(2 * min(above, below), abs=2e-3)
    assert made.mean == plain.mean
    assert np.concatenate(made.interval()) == pytest.approx(np.concatenate(plain.interval()))


def test_pool_is_the_normalised_product_of_the_densities() -> None:
    """Its density is proportional to p^w q^(1 − w), on a net of rates; pseudo-counts without disagreement are pooled alike."""
    one, other = posterior_of(alpha=2.0, beta=5.0, agreement=2.0), posterior_of(alpha=8.0, beta=3.0, agreement=1.5)
    made, rates = one.pooled(other, np.array([0.3])), np.linspace(0.05, 0.95, 19)
    logs = [beta(posterior.alpha, posterior.beta).logpdf(rates) for posterior in (one, other, made)]
    constant = logs[2] - 0.3 * logs[0] - 0.7 * logs[1]
    np.testing.assert_allclose(constant, constant[0])
    assert made.agreement * (made.alpha + made.beta) == pytest.approx(0.3 * 14 + 0.7 * 16.5)


def test_bridge_has_the_curvature_of_the_process() -> None:
    """In the logit, minus the second derivative of the Beta's log density at its mode is 1/scale²; the mode is drawn towards ½."""
    location, scale, step = np.array([-3.0, 0.0, 2.0]), np.array([2.0, 0.5, 1.0]), 1e-4
    made = _bridged(location, scale)
    mode = logit(made.mean)

    def log_density(z: Floats) -> Floats:
        return made.alpha * np.log(expit(z)) + made.beta * np.log(expit(-z))

    below, here, above = (log_density(mode + shift) for shift in (-step, 0, step))
    np.testing.assert_allclose((above - below) / (2 * step), 0, atol=1e-5)
    np.testing.assert_allclose((2 * here - above - below) / step**2, scale**-2, rtol=1e-4)
    assert (np.abs(mode) <= np.abs(location)).all()
    narrow = _bridged(location, np.full(3, 1e-3))
    np.testing.assert_allclose(logit(narrow.mean), location, rtol=1e-6)


def test_probabilities_of_counts_sum_to_one() -> None:
    """P(k failures of n) over k = 0 … n is a distribution."""
    for alpha in (0.1, 2.0, 30.0):
        made = posterior_of(alpha=alpha, beta=5.0)
        assert sum(np.exp(made.log_chance(np.array([k]), np.array([7]))[0]) for k in range(8)) == pytest.approx(1)


# --- surfaces


@pytest.fixture(scope="module")
def mapped() -> Surface:
    """The surface of the smooth truth from 4,096 Sobol points, added in three batches."""
    return fit_surface(DOMAIN, sobol(4096, 1).counts(TRUTHS["smooth"], 1, 2), np.arange(4096) // 1366)


def test_q_is_a_probability_that_falls_with_the_level(mapped: Surface) -> None:
    """0 ≤ q ≤ 1, q is monotone in the level, and intervals are ordered and nested."""
    places = sobol(512, 3)
    made = mapped.at(places.architecture, places.sparsity, places.l1)
    q = np.stack([made.exceedance(level) for level in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)])
    assert ((q >= 0) & (q <= 1)).all()
    assert (np.diff(q, axis=0) <= 1e-12).all()
    (low, high), (lower, higher) = made.interval(0.5), made.interval(0.95)
    assert ((lower <= low + 2e-5) & (low <= high) & (high <= higher + 2e-5)).all()


def test_grid_and_points_tell_the_same(mapped: Surface) -> None:
    """The grid holds the values at the middles of its cells, for the pool and for each part."""
    u, v = DOMAIN.centres(16)
    at = np.array([2, 7]), DOMAIN.x.from_unit(u[[3, 15]]), DOMAIN.y.from_unit(v[[9, 0]])
    estimators: tuple[Estimator, ...] = ("pool", "tree", "process")
    for estimator in estimators:
        grid, points = mapped.on_grid(16, estimator), mapped.at(*at, estimator)
        np.testing.assert_allclose(grid.mean[[2, 7], [3, 15], [9, 0]], points.mean, rtol=1e-9)
        np.testing.assert_allclose(grid.exceedance(0.5)[[2, 7], [3, 15], [9, 0]], points.exceedance(0.5), rtol=1e-9)


def test_intervals_hold_the_truth(mapped: Surface) -> None:
    """At least 92 % of 95 % intervals hold the rate, over the volume and at rates of 0.1 to 0.9; the expected error is right."""
    places = sobol(2048, 4)
    truth = TRUTHS["smooth"](places.architecture, places.u, places.v)
    made = mapped.at(places.architecture, places.sparsity, places.l1)
    low, high = made.interval()
    held, between = (low <= truth) & (truth <= high), (truth > 0.1) & (truth < 0.9)
    assert held.mean() >= 0.92
    assert held[between].mean() >= 0.92
    wrong = ((made.mean >= 0.5) != (truth >= 0.5)).mean()
    assert wrong <= 0.03
    assert wrong / 2 <= expected_misclassified_volume(made) <= 2 * wrong
    assert expected_regret(made) < expected_misclassified_volume(made)


def test_order_of_rows_does_not_matter(mapped: Surface) -> None:
    """The same batches in another order of rows, or split into failures and successes, give the same surface."""
    counts, batch = sobol(4096, 1).counts(TRUTHS["smooth"], 1, 2), np.arange(4096) // 1366
    order = np.random.default_rng(6).permutation(4096)
    again = fit_surface(DOMAIN, counts.take(order), batch[order])
    np.testing.assert_array_equal(again.on_grid(32).mean, mapped.on_grid(32).mean)


def test_batch_by_batch_is_all_at_once(mapped: Surface) -> None:
    """Updating by one batch after the other ends at the surface that `fit_surface` makes of all of them."""
    counts, batch = sobol(4096, 1).counts(TRUTHS["smooth"], 1, 2), np.arange(4096) // 1366
    surface = fit_surface(DOMAIN, counts.take(batch == 0), batch[batch == 0])
    for number in (1, 2):
        surface = surface.updated(counts.take(batch == number))
    np.testing.assert_array_equal(surface.on_grid(32).mean, mapped.on_grid(32).mean)


def test_replicates_at_one_place_are_their_sum() -> None:
    """Two rows at one point and one row with the sum of their counts are the same data."""
    once = some_counts()
    twice = counts_of_one(once.u, once.v, 2 * once.failures, 2 * once.replicates)
    doubled = Counts(*(np.concatenate([getattr(once, name)] * 2) for name in ("architecture", "u", "v", "failures", "replicates")))
    np.testing.assert_array_equal(fit_surface(ONE, doubled).on_grid(16).mean, fit_surface(ONE, twice).on_grid(16).mean)


def test_mirrored_data_give_a_mirrored_process() -> None:
    """Reversing sparsity reverses the process's surface; swapping failures and successes turns r into 1 − r."""
    counts = some_counts()
    turned = counts_of_one(1 - counts.u, counts.v, counts.replicates - counts.failures, counts.replicates)
    direct, mirror = Process.fitted(ONE, counts), Process.fitted(ONE, turned)
    u, v = ONE.centres(16)
    np.testing.assert_allclose(direct.latent_on_grid(u, v)[0], -mirror.latent_on_grid(u, v)[0][:, ::-1], atol=1e-2)


def test_weight_goes_to_the_part_that_foretold_better() -> None:
    """At an edge along an axis the tree predicts better, on a broad slope the process."""
    u, v = (index.ravel() / 23 for index in np.indices((24, 24)))

    def weight(rate: Floats) -> Floats:
        failures = np.random.default_rng(2).binomial(20, rate)
        counts = Counts(np.zeros(len(u), dtype=np.int64), u, v, failures, np.full(len(u), 20))
        return fit_surface(ONE, counts).weight[0, 52:76]

    edge, slope = weight(np.where(u > 0.5, 0.97, 0.02)), weight(expit((u + 0.3 * v - 0.65) / 0.1))
    assert edge.mean() > slope.mean() + 0.15


@pytest.mark.parametrize(("sparsities", "l1s"), [(2, 1), (7, 1), (4, 20)])
def test_few_cells_speak_for_themselves(sparsities: int, l1s: int) -> None:
    """A lattice of a few cells is not smoothed: each is Beta(k + ½, n − k + ½)."""
    sparsity, l1 = (axis.ravel() for axis in np.meshgrid(np.linspace(0.3, 0.9, sparsities), np.geomspace(1e-3, 1, l1s)))
    domain = domain_over(("5-3-5", "10-5-10"), (0.3, 0.9), (1e-3, 1.0 if l1s > 1 else 1e-3))
    failures = np.random.default_rng(3).integers(0, 9, len(l1))
    surface = fit_surface(domain, Counts.of(domain, ["10-5-10"] * len(l1), sparsity, l1, failures, 8))
    made, expected = surface.at(["10-5-10"] * len(l1), sparsity, l1), beta(failures + 0.5, 8.5 - failures)
    np.testing.assert_allclose(made.mean, expected.mean())
    np.testing.assert_allclose(made.exceedance(0.5), expected.sf(0.5), atol=1e-9)
    assert surface.at("5-3-5", sparsity[0], l1[0]).mean == pytest.approx(0.5)
    assert surface.on_grid(8).mean.shape == domain.shape(8)


def test_one_axis_is_enough() -> None:
    """With one sparsity the surface is a curve over l1 that finds the threshold."""
    line = domain_over(("5-3-5",), (0.9, 0.9), (1e-4, 1.0))
    v = (np.arange(64) + 0.5) / 64
    truth = expit((v - 0.6) / 0.03)
    counts = Counts.of(line, np.zeros(64, dtype=int), 0.9, line.y.from_unit(v), np.random.default_rng(2).binomial(20, truth), 20)
    made = fit_surface(line, counts).on_grid()
    v = line.centres()[1]
    low, high = (end[0, 0] for end in made.interval(0.9))
    truth = expit((v - 0.6) / 0.03)
    assert made.mean.shape == (1, 1, 128)
    assert abs(v[np.argmax(made.mean[0, 0] >= 0.5)] - 0.6) < 0.03
    assert ((low <= truth) & (truth <= high)).mean() >= 0.9


def test_no_counts_is_no_knowledge() -> None:
    """Without replicates every rate is Beta(½, ½): half of the volume is misclassified."""
    nothing = np.empty(0)
    surface = fit_surface(ONE, Counts.of(ONE, nothing.astype(int), nothing, nothing, nothing, nothing))
    assert expected_misclassified_volume(surface.on_grid(8)) == pytest.approx(0.5)
