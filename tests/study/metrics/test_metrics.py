"""Metrics of the autoencoder and the SAE: closed forms, traps of the field, a naive second implementation, invariances."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist

from search_spaces import PROTOCOLS, Protocol
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.metrics.autoencoder import ae_metrics, represented_features
from study.metrics.moments import PairMoments
from study.metrics.sae import corrected_mcc, mcc_chance, sae_metrics
from study.metrics.similarity import similarities
from study.storage.schema import OF_THE_SAE
from study.storage.schema import columns as columns_of
from tests.textbook import rsa_plain_distances

Array = NDArray[np.float64]
Row = dict[str, float]

LEGACY, SOUND = PROTOCOLS["dissertation"], PROTOCOLS["sound"]
BOTH = pytest.mark.parametrize("protocol", [LEGACY, SOUND], ids=["dissertation", "sound"])
SIMILARITIES = ("procrustes_hidden_recon", "cka_hidden_recon", "rsa_hidden_recon")


@dataclasses.dataclass
class Model:
    """One replicate as dense matrices: W (H, N), b (N,), W_enc (L, H), b_enc (L,), W_dec (H, L), b_dec (H,), x (S, N)."""

    W: Array
    b: Array
    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    x: Array
    threshold: Array | None = None
    l1: float = 0.03
    sparsity: float = 0.6

    @property
    def h(self) -> Array:
        return self.x @ self.W.T


def random_model(seed: int, n_features: int = 6, n_hidden: int = 3, n_latents: int = 7, samples: int = 80) -> Model:
    """Weights and samples of size one; some latents fire seldom, some columns are short."""
    random = np.random.default_rng(seed)
    x = random.random((samples, n_features)) * (random.random((samples, n_features)) >= 0.6)
    return Model(
        W=random.normal(size=(n_hidden, n_features)) * random.uniform(0.1, 1.2, n_features),
        b=random.normal(size=n_features) * 0.2,
        W_enc=random.normal(size=(n_latents, n_hidden)),
        b_enc=random.normal(size=n_latents) * 0.7 - 0.3,
        W_dec=random.normal(size=(n_hidden, n_latents)),
        b_dec=random.normal(size=n_hidden) * 0.3,
        x=x,
    )


def last(parts: list[Array]) -> Array:
    """Arrays, one per model, stacked as engines hold them: replicates on the last axis."""
    return np.stack(parts, axis=-1)


def pair(h: Array, other: Array) -> PairMoments:
    """Moments of two sets of samples (R, S, H), by NumPy."""
    X, Y = (m - m.mean(axis=1, keepdims=True) for m in (h, other))
    u, v = np.sum(X**2, axis=2), np.sum(Y**2, axis=2)
    products = [np.einsum("rsi,rsk->rik", a, b) for a, b in ((X, X), (Y, Y), (X, Y))]
    return PairMoments(h.shape[1], *products, *(np.sum(a * b, axis=1) for a, b in ((u, u), (v, v), (u, v))))


def sae_rows(models: list[Model], protocol: Protocol) -> list[Row]:
    """The SAE columns of several models by one call of the code under test."""
    named = {name: last([getattr(m, name) for m in models]) for name in ("W_enc", "b_enc")}
    named |= {"W_dec": last([m.W_dec.T for m in models]), "b_dec": last([m.b_dec for m in models])}
    if models[0].threshold is not None:
        named["threshold"] = last([m.threshold for m in models])
    saes = SparseAutoencoders(named)
    x, l1 = np.stack([m.x for m in models]), np.array([m.l1 for m in models])
    columns = sae_metrics(saes, last([m.W for m in models]), x, np.arange(len(models)), l1, protocol)
    assert set(columns) == {column.name for column in columns_of(*OF_THE_SAE) if column.since == 1}
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(models))]


def ae_rows(models: list[Model], protocol: Protocol) -> list[Row]:
    """The data and AE columns of several models by one call of the code under test."""
    importances = 0.7 ** np.arange(models[0].W.shape[1])
    autoencoders = Autoencoders(last([m.W for m in models]), last([m.b for m in models]))
    x, sparsity = np.stack([m.x for m in models]), np.array([m.sparsity for m in models])
    columns = ae_metrics(autoencoders, x, importances, sparsity, protocol)
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(models))]


def assert_rows_equal(row: Row, expected: Row, rtol: float, skip: tuple[str, ...] = ()) -> None:
    assert row.keys() == expected.keys()
    for name in expected.keys() - set(skip):
        np.testing.assert_allclose(row[name], expected[name], rtol=rtol, atol=1e-13, err_msg=name)


# The second implementation, by loops over samples, units and pairs


def norm(v: Array) -> float:
    return float(np.sqrt(sum(float(c) ** 2 for c in v)))


def naive_ae_row(model: Model, protocol: Protocol) -> Row:
    """`definitions.md` section 2, sample by sample and column by column."""
    W, x = model.W, model.x
    n_hidden, n_features = W.shape
    samples, p = len(x), 1 - model.sparsity
    loss, squared_h, alive_outputs, zeros = 0.0, 0.0, set(), 0
    for sample in x:
        h = [sum(W[k, i] * sample[i] for i in range(n_features)) for k in range(n_hidden)]
        squared_h += sum(value**2 for value in h)
        for i in range(n_features):
            output = max(sum(W[k, i] * h[k] for k in range(n_hidden)) + model.b[i], 0)
            loss += 0.7**i * (sample[i] - output) ** 2
            zeros += sample[i] == 0
            if output > 0:
                alive_outputs.add(i)
    dots = [[float(W[:, i] @ W[:, j]) for j in range(n_features)] for i in range(n_features)]
    off = [abs(dots[i][j]) for i in range(n_features) for j in range(n_features) if i != j]
    stretch = np.sqrt(np.linalg.eigvalsh(W @ W.T))
    return {
        "empirical_sparsity": zeros / x.size,
        "ae_loss": loss / samples,
        "ae_loss_bias_only": (p / 3 - p**2 / 4) * sum(0.7**i for i in range(n_features)),
        "ae_loss_dedicated": (p / 3 - p**2 / 4) * sum(0.7**i for i in range(n_hidden, n_features)),
        "ae_diagonal_mean": sum(dots[i][i] for i in range(n_features)) / n_features,
        "ae_offdiagonal_mean": sum(off) / len(off),
        "ae_condition_number": float(stretch[-1] / stretch[0]),
        "ae_dead_outputs": n_features - len(alive_outputs),
        "ae_features_represented": sum(dots[i][i] > 0.5 for i in range(n_features)),
        "ae_dimensions_per_feature": n_hidden / sum(dots[i][i] for i in range(n_features)),
        "hidden_rms": float(np.sqrt(squared_h / (samples * n_hidden))),
    }


def codes(model: Model, protocol: Protocol) -> tuple[Array, Array]:
    """f (S, L) and ĥ (S, H), sample by sample."""
    f, reconstruction = [], []
    for h in model.h:
        seen = h - model.b_dec if protocol.sae_subtract_decoder_bias else h
        s = [float(row @ seen) + bias for row, bias in zip(model.W_enc, model.b_enc)]
        if protocol.sae_variant == "topk":
            kept = sorted(range(len(s)), key=lambda j: -s[j])[: protocol.sae_k]
            s = [value if j in kept else 0.0 for j, value in enumerate(s)]
        if model.threshold is not None:
            s = [value if value > threshold else 0.0 for value, threshold in zip(s, model.threshold)]
        f.append([max(value, 0.0) for value in s])
        reconstruction.append(sum((value * column for value, column in zip(f[-1], model.W_dec.T)), model.b_dec))
    return np.array(f), np.array(reconstruction)


def best_matching(candidates: Array) -> tuple[float, list[tuple[int, int]]]:
    """The pairs of one row and one column each with the largest sum, over all permutations."""
    rows, columns = candidates.shape
    if rows > columns:
        total, pairs = best_matching(candidates.T)
        return total, [(i, j) for j, i in pairs]
    choices = itertools.permutations(range(columns), rows)
    return max((sum(candidates[j, i] for j, i in enumerate(choice)), list(enumerate(choice))) for choice in choices)


def naive_cka(h: Array, reconstruction: Array) -> float:
    """⟨K, L⟩/(‖K‖ ‖L‖) with the samples × samples Gram matrices centred by H K H."""
    centring = np.eye(len(h)) - 1 / len(h)
    K, G = (centring @ matrix @ matrix.T @ centring for matrix in (h, reconstruction))
    return float(np.sum(K * G) / np.sqrt(np.sum(K * K) * np.sum(G * G)))


def naive_procrustes(h: Array, reconstruction: Array) -> float:
    """The source's: centre, divide by the Frobenius norm, rotate, 1 − ‖Y − XR‖/‖Y‖."""
    X, Y = ((m - m.mean(axis=0)) / np.linalg.norm(m - m.mean(axis=0)) for m in (h, reconstruction))
    R, _ = orthogonal_procrustes(X, Y)
    return float(1 - np.linalg.norm(Y - X @ R) / np.linalg.norm(Y))


def naive_rsa(h: Array, reconstruction: Array) -> float:
    return float(np.corrcoef(pdist(h, "sqeuclidean"), pdist(reconstruction, "sqeuclidean"))[0, 1])


def naive_sae_row(model: Model, protocol: Protocol) -> Row:
    """`definitions.md` section 2, by loops; every matching by trying all permutations."""
    h, x = model.h, model.x
    f, reconstruction = codes(model, protocol)
    samples, n_latents = f.shape
    errors = [float(np.sum((a - b) ** 2)) for a, b in zip(h, reconstruction)]
    centre = sum(h) / samples
    rates = [sum(f[s, j] > 0 for s in range(samples)) / samples for j in range(n_latents)]
    alive = [j for j, rate in enumerate(rates) if rate >= protocol.dead_below]
    represented = [i for i, column in enumerate(model.W.T) if float(column @ column) > 0.5]
    directions, features = model.W_dec.T[alive], model.W.T[represented]
    cosines = np.array([[float(d @ w) / (norm(d) * norm(w)) for w in features] for d in directions])
    total, pairs = best_matching(cosines)
    f1 = 0.0
    for row, column in pairs:
        fires, present = f[:, alive[row]] > 0, x[:, represented[column]] > 0
        tp, fp, fn = (int(np.sum(c)) for c in (fires & present, fires & ~present, ~fires & present))
        f1 += 2 * tp / (2 * tp + fp + fn)
    penalised = f > 0 if protocol.sae_variant == "jumprelu" else f
    return {
        "sae_loss": (sum(errors) + model.l1 * sum(float(value) for value in penalised.ravel())) / samples,
        "sae_mse": sum(errors) / h.size,
        "explained_variance": 1 - sum(errors) / sum(float(np.sum((a - centre) ** 2)) for a in h),
        "l0": sum(rates),
        "active_fraction": sum(rates) / n_latents,
        "dead_latents": n_latents - len(alive),
        "max_firing_rate": max(rates),
        "procrustes_hidden_recon": naive_procrustes(h, reconstruction),
        "cka_hidden_recon": naive_cka(h, reconstruction),
        "rsa_hidden_recon": naive_rsa(h, reconstruction),
        "mcc_decoder_features": total / len(represented),
        "mcc_chance": mcc_chance(len(model.W), len(alive), len(represented)),
        "mmcs_decoder_features": float(np.mean([max(cosines[:, i]) for i in range(len(represented))])),
        "f1_latents_features": f1 / len(represented),
    }


SHAPES = [(6, 3, 7), (5, 2, 5), (7, 3, 3), (4, 1, 6)]
TOPK = dataclasses.replace(LEGACY, sae_variant="topk", sae_k=2)
JUMPRELU = dataclasses.replace(SOUND, sae_variant="jumprelu")


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ae_columns_are_their_definitions(protocol: Protocol, shape: tuple[int, int, int]) -> None:
    """Every AE column of four random models equals the loops over samples and columns."""
    models = [random_model(seed, *shape, samples=30) for seed in range(4)]
    for row, model in zip(ae_rows(models, protocol), models, strict=True):
        assert_rows_equal(row, naive_ae_row(model, protocol), rtol=1e-10)


@pytest.mark.parametrize("protocol", [LEGACY, SOUND, TOPK, JUMPRELU], ids=["dissertation", "sound", "topk", "jumprelu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sae_columns_are_their_definitions(protocol: Protocol, shape: tuple[int, int, int]) -> None:
    """Every SAE column of four random models equals the loops, N×N Gram matrices and brute-force matchings.

    In one hidden dimension all cosines are ±1, many matchings have the largest sum, and F1 is not defined by them.
    """
    models = [random_model(seed, *shape) for seed in range(10, 14)]
    if protocol.sae_variant == "jumprelu":
        models = [dataclasses.replace(m, threshold=np.linspace(0, 0.3, shape[2])) for m in models]
    tied = ("f1_latents_features",) if shape[1] == 1 else ()
    for row, model in zip(sae_rows(models, protocol), models, strict=True):
        assert_rows_equal(row, naive_sae_row(model, protocol), rtol=1e-9, skip=tied)


def test_random_models_reach_what_the_definitions_distinguish() -> None:
    """The models above have dead latents, features that are not represented, and both fewer and more live latents than features."""
    rows = []
    for shape in SHAPES:
        models = [random_model(seed, *shape) for seed in range(10, 14)]
        for model, row in zip(models, sae_rows(models, LEGACY), strict=True):
            rows.append((shape[2] - row["dead_latents"], int(represented_features(model.W, LEGACY).sum()), *shape))
    assert any(alive < n_latents for alive, *_, n_latents in rows)
    assert any(represented < n_features for _, represented, n_features, *_ in rows)
    assert any(alive < represented for alive, represented, *_ in rows)
    assert any(alive > represented for alive, represented, *_ in rows)


# Closed forms


def perfect_model(samples: int = 400) -> Model:
    """An antipodal AE of six features in three dimensions, and the SAE that holds exactly its columns."""
    W = np.hstack([np.eye(3), -np.eye(3)])
    x = random_model(0, samples=samples).x
    x[:, 3:] *= x[:, :3] == 0  # never both of a pair
    return Model(W=W, b=np.zeros(6), W_enc=W.T.copy(), b_enc=np.zeros(6), W_dec=W.copy(), b_dec=np.zeros(3), x=x)


@BOTH
def test_perfect_sae_scores_one(protocol: Protocol) -> None:
    """Decoder = the AE's columns, no overlap of a pair: every similarity, MCC, MMCS and F1 are 1, the error is 0."""
    model = perfect_model()
    (sae,), (ae,) = sae_rows([model], protocol), ae_rows([model], protocol)
    for name in (*SIMILARITIES, "mcc_decoder_features", "mmcs_decoder_features", "f1_latents_features", "explained_variance"):
        assert sae[name] == pytest.approx(1, abs=1e-7), name  # Procrustes: the root of rounding
    assert sae["sae_mse"] == pytest.approx(0, abs=1e-30)
    assert sae["l0"] == pytest.approx(np.mean(np.sum(model.x > 0, axis=1)))
    assert ae["ae_loss"] == pytest.approx(0, abs=1e-30)
    assert (ae["ae_features_represented"], ae["ae_diagonal_mean"], ae["ae_condition_number"]) == (6, 1, 1)
    assert ae["ae_dimensions_per_feature"] == 0.5
    assert ae["ae_offdiagonal_mean"] == pytest.approx(6 / 30)


def test_duplicates_on_antipodal_truth_score_half() -> None:
    """A dictionary of e1, e1, e2, e2, … for the features ±e1, ±e2, … has MCC ½, where the absolute cosine gives 1."""
    model = perfect_model()
    model.W_dec = np.hstack([np.eye(3), np.eye(3)])
    cosines = model.W_dec.T @ model.W
    assert best_matching(np.abs(cosines))[0] / 6 == 1
    (row,) = sae_rows([model], LEGACY)
    assert row["mcc_decoder_features"] == pytest.approx(0.5, abs=1e-12)
    assert row["mmcs_decoder_features"] == pytest.approx(0.5, abs=1e-12)


@BOTH
@pytest.mark.parametrize("b_dec", [0.0, 0.1, 1e8])
def test_dead_sae_has_no_similarity_and_no_recovery(protocol: Protocol, b_dec: float) -> None:
    """With every latent at 0, MCC, MMCS, F1 and their chance level are 0 and the similarities are NaN, never −0.4142."""
    model = perfect_model(samples=777)
    model.b_enc, model.b_dec = np.full(6, -1e10), np.full(3, b_dec)
    (row,) = sae_rows([model], protocol)
    assert [row[name] for name in ("mcc_decoder_features", "mcc_chance", "mmcs_decoder_features", "f1_latents_features")] == [0] * 4
    assert all(np.isnan(row[name]) for name in SIMILARITIES)
    assert (row["l0"], row["active_fraction"], row["max_firing_rate"], row["dead_latents"]) == (0, 0, 0, 6)
    assert row["sae_mse"] == pytest.approx(np.mean((model.h - b_dec) ** 2), rel=1e-12)


def test_constant_reconstruction_is_told_by_its_variance() -> None:
    """Similarities are NaN where ĥ varies by less than 1e-12 of h's variance, and numbers above; h constant gives NaN too."""
    h = np.random.default_rng(0).normal(size=(1, 500, 3))
    for size, defined in ((0.0, False), (0.99e-6, False), (1.01e-6, True), (1.0, True)):
        found = similarities(pair(h, 5 + size * h), 1e-12)
        assert {bool(np.isfinite(values[0])) for values in found.values()} == {defined}, size
    assert all(np.isnan(values[0]) for values in similarities(pair(np.ones_like(h), h), 1e-12).values())


@pytest.mark.parametrize("mean", [(5, 0, 0, 0, 0), (0, 0, 0, 0, 0), (-3, 40, 0, 1, 2)])
def test_predicting_the_mean_explains_no_variance(mean: tuple[float, ...]) -> None:
    """A dead SAE with b_dec = the mean of h scores 0, also where h lies far from the origin (one scalar mean gives 0.80)."""
    x = np.random.default_rng(1).normal(size=(2000, 6)) + np.array([*mean, 0])
    W, dead = np.eye(5, 6), np.full(8, -1e9)
    model = Model(W, np.zeros(6), np.zeros((8, 5)), dead, np.zeros((5, 8)), x[:, :5].mean(axis=0), x)
    (row,) = sae_rows([model], LEGACY)
    assert row["explained_variance"] == pytest.approx(0, abs=1e-12)
    assert row["sae_loss"] == pytest.approx(np.var(x[:, :5], axis=0).sum(), rel=1e-12)


def test_alive_is_the_protocols_share_of_samples() -> None:
    """A latent that fires on exactly `dead_below` of the samples is alive; on one sample fewer it is dead."""
    x = np.zeros((200, 2))
    x[:3, 0] = 1
    W_enc, W_dec, none = np.array([[1.0], [-1.0]]), np.ones((1, 2)), np.zeros(2)
    model = Model(W=np.eye(1, 2), b=none, W_enc=W_enc, b_enc=none, W_dec=W_dec, b_dec=np.zeros(1), x=x)
    for dead_below, dead in ((0.01, 1), (0.015, 1), (0.0151, 2), (0.02, 2)):
        (row,) = sae_rows([model], dataclasses.replace(LEGACY, dead_below=dead_below))
        assert row["dead_latents"] == dead
        assert row["max_firing_rate"] == 0.015


def test_a_singular_autoencoder_has_an_infinite_condition_number() -> None:
    """σ_min = 0 is inf; W = 0 represents nothing and has infinitely many dimensions per feature."""
    model = random_model(0)
    singular, zero = (dataclasses.replace(model, W=W) for W in (np.outer([1, 0, 0], np.ones(6)), np.zeros((3, 6))))
    rows = ae_rows([singular, zero], LEGACY)
    assert [row["ae_condition_number"] for row in rows] == [np.inf, np.inf]
    assert rows[1]["ae_features_represented"] == 0
    assert rows[1]["ae_dimensions_per_feature"] == np.inf
    assert rows[1]["ae_diagonal_mean"] == rows[1]["ae_offdiagonal_mean"] == rows[1]["hidden_rms"] == 0


def test_without_represented_features_recovery_is_undefined() -> None:
    """If F is empty, MCC, chance, MMCS and F1 are NaN; reconstruction is still measured."""
    model = random_model(3)
    model.W *= 0.1
    (row,) = sae_rows([model], LEGACY)
    assert row["dead_latents"] < 7
    for name in ("mcc_decoder_features", "mcc_chance", "mmcs_decoder_features", "f1_latents_features"):
        assert np.isnan(row[name]), name
    for name in (*SIMILARITIES, "explained_variance", "sae_loss"):
        assert np.isfinite(row[name]), name


def test_represented_is_above_one_half() -> None:
    """F holds the columns with ‖W_i‖² > ½, strictly, or above another threshold of the protocol."""
    W = np.sqrt(np.array([[[0.49, 0.5, 0.51, 2.0]]]))
    W[0, 0, 1] = np.sqrt(0.5) * (1 - 1e-15)
    stricter = dataclasses.replace(LEGACY, represented_above=0.6)
    assert represented_features(W, LEGACY).tolist() == [[False, False, True, True]]
    assert represented_features(W, stricter).tolist() == [[False, False, False, True]]


# Chance


@pytest.mark.parametrize(
    ("n_hidden", "n_represented", "n_alive", "published"),
    [(2, 5, 5, 0.570), (3, 8, 8, 0.622), (5, 10, 10, 0.558), (5, 20, 20, 0.676), (5, 10, 20, 0.738), (10, 40, 40, 0.586)],
)
def test_chance_has_the_published_values(n_hidden: int, n_represented: int, n_alive: int, published: float) -> None:
    """Signed Hungarian MCC of random unit dictionaries, `field.md` section 2.7, within 0.01."""
    assert mcc_chance(n_hidden, n_alive, n_represented) == pytest.approx(published, abs=0.01)


def test_chance_of_one_pair_is_zero_and_of_idle_sides_as_the_mcc() -> None:
    """One direction against one has mean cosine 0; nothing alive gives 0, nothing represented NaN."""
    assert mcc_chance(5, 1, 1) == pytest.approx(0, abs=5 / np.sqrt(5 * 1000))
    assert mcc_chance(5, 0, 4) == 0
    assert np.isnan(mcc_chance(5, 4, 0))
    assert np.isnan(mcc_chance(5, 0, 0))


def test_chance_in_one_dimension_is_a_count_of_signs() -> None:
    """In one dimension with k against k the matching loses 2 |a − b|, a and b binomial counts of +1."""
    k = 4
    weights = np.array([1, 4, 6, 4, 1]) / 16
    expected = sum(weights[a] * weights[b] * (k - 2 * abs(a - b)) for a in range(5) for b in range(5)) / k
    assert mcc_chance(1, k, k) == pytest.approx(expected, abs=5 * 0.4 / np.sqrt(1000))


def test_corrected_mcc_is_zero_at_chance_and_one_at_recovery() -> None:
    """(mcc − chance)/(1 − chance), NaN where either is."""
    found = corrected_mcc(np.array([0.56, 1.0, 0.78, 0.0, np.nan]), np.array([0.56, 0.56, 0.56, 0.0, np.nan]))
    np.testing.assert_allclose(found, [0, 1, 0.5, 0, np.nan], atol=1e-14)


# Invariances


def rotation(seed: int, size: int) -> Array:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_permuting_latents_leaves_every_sae_metric_alone(protocol: Protocol, seed: int) -> None:
    """Latents have no order."""
    model, order = random_model(seed), np.random.default_rng(seed).permutation(7)
    permuted = dataclasses.replace(model, W_enc=model.W_enc[order], b_enc=model.b_enc[order], W_dec=model.W_dec[:, order])
    assert_rows_equal(*sae_rows([permuted, model], protocol), rtol=1e-11)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_rotating_the_hidden_space_leaves_every_metric_alone(protocol: Protocol, seed: int) -> None:
    """Only angles and lengths in the bottleneck are measured: W, encoder, decoder and its bias turned together change nothing."""
    model, Q = random_model(seed), rotation(seed, 3)
    turned = dataclasses.replace(model, W=Q @ model.W, W_enc=model.W_enc @ Q.T, W_dec=Q @ model.W_dec, b_dec=Q @ model.b_dec)
    assert_rows_equal(*sae_rows([turned, model], protocol), rtol=1e-9)
    assert_rows_equal(*ae_rows([turned, model], protocol), rtol=1e-9)


@BOTH
def test_shuffling_the_samples_leaves_every_metric_alone(protocol: Protocol) -> None:
    """Samples have no order, once training is over."""
    model = random_model(4)
    shuffled = dataclasses.replace(model, x=np.random.default_rng(0).permutation(model.x))
    assert_rows_equal(*sae_rows([shuffled, model], protocol), rtol=1e-10)
    assert_rows_equal(*ae_rows([shuffled, model], protocol), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_scaling_a_latent_changes_what_is_penalised_and_nothing_else(seed: int) -> None:
    """Decoder column × c with its encoder row and bias / c: the same reconstruction and recovery; only the L1 term moves."""
    model, scale = random_model(seed), np.array([0.2, 1, 3, 10, 0.5, 1, 7.0])
    scaled = dataclasses.replace(model, W_enc=model.W_enc / scale[:, None], b_enc=model.b_enc / scale, W_dec=model.W_dec * scale)
    rows = sae_rows([scaled, model], LEGACY)
    assert_rows_equal(*rows, rtol=1e-10, skip=("sae_loss",))
    f = codes(model, LEGACY)[0]
    penalty = model.l1 * np.mean(np.sum(f / scale - f, axis=1))
    assert rows[0]["sae_loss"] - rows[1]["sae_loss"] == pytest.approx(penalty, rel=1e-9)


def test_scaling_a_decoder_column_does_not_change_its_match() -> None:
    """MCC and MMCS look at directions alone; the sign of a column is part of its direction."""
    model = random_model(2)
    longer, flipped = (dataclasses.replace(model, W_dec=model.W_dec * factor) for factor in (7.0, -1.0))
    rows = sae_rows([model, longer, flipped], LEGACY)
    for name in ("mcc_decoder_features", "mmcs_decoder_features"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-12)
        assert rows[2][name] != pytest.approx(rows[0][name], abs=0.01)


def test_a_zero_decoder_column_matches_nothing() -> None:
    """A live latent that writes nothing has cosine 0 with every feature, not NaN."""
    model = perfect_model()
    model.W_dec[:, 0] = 0
    (row,) = sae_rows([model], LEGACY)
    assert row["dead_latents"] == 0
    assert row["mcc_decoder_features"] == pytest.approx(5 / 6, abs=1e-12)


def test_dead_latents_do_not_count_towards_recovery() -> None:
    """Perfect columns of latents that never fire are worth nothing: three of six alive give MCC ½ and their own chance."""
    model = perfect_model()
    model.b_enc[3:] = -1e9
    (row,) = sae_rows([model], LEGACY)
    assert row["dead_latents"] == 3
    assert row["mcc_decoder_features"] == pytest.approx(0.5, abs=1e-12)
    assert row["mmcs_decoder_features"] == pytest.approx(0.5, abs=1e-12)
    assert row["mcc_chance"] == mcc_chance(3, 3, 6)


@pytest.mark.parametrize("seed", range(3))
def test_similarities_do_not_see_rotation_shift_and_scale(seed: int) -> None:
    """Procrustes, CKA and RSA of h with c·Qĥ + t are those of h with ĥ; of h with c·Qh + t they are 1."""
    random = np.random.default_rng(seed)
    h, other = random.normal(size=(2, 1, 60, 4))
    Q, shift = rotation(seed, 4), random.normal(size=4)
    plain, moved = similarities(pair(h, other), 1e-12), similarities(pair(h, 3.5 * other @ Q + shift), 1e-12)
    own = similarities(pair(h, 0.2 * h @ Q + shift), 1e-12)
    for name in SIMILARITIES:
        assert moved[name][0] == pytest.approx(plain[name][0], rel=1e-10)
        assert own[name][0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_similarities_are_symmetric(seed: int) -> None:
    """Exchanging h and ĥ changes none of the three, and none leaves its range."""
    h, other = np.random.default_rng(seed).normal(size=(2, 1, 60, 4))
    there, back = similarities(pair(h, other), 1e-12), similarities(pair(other, h), 1e-12)
    for name, low in zip(SIMILARITIES, (1 - np.sqrt(2), 0, -1), strict=True):
        assert there[name][0] == pytest.approx(back[name][0], rel=1e-10)
        assert low <= there[name][0] <= 1


def test_plain_distance_rsa_is_the_sources() -> None:
    """Pearson's correlation over all pairs a < b of ‖h_a − h_b‖ with ‖ĥ_a − ĥ_b‖, by loops."""
    h, other = np.random.default_rng(8).normal(size=(2, 15, 3))
    pairs = list(itertools.combinations(range(15), 2))
    d, e = ([norm(m[a] - m[b]) for a, b in pairs] for m in (h, other))
    d_mean, e_mean = sum(d) / len(d), sum(e) / len(e)
    covariance = sum((u - d_mean) * (v - e_mean) for u, v in zip(d, e))
    expected = covariance / np.sqrt(sum((u - d_mean) ** 2 for u in d) * sum((v - e_mean) ** 2 for v in e))
    assert rsa_plain_distances(h, other) == pytest.approx(expected, rel=1e-12)
    assert rsa_plain_distances(h, other) != pytest.approx(naive_rsa(h, other), abs=1e-6)


# Packs


@BOTH
def test_metrics_have_the_same_bits_alone_and_in_company(protocol: Protocol) -> None:
    """A replicate measured alone and as one of 33, in another order: the same bits in every column."""
    models = [random_model(seed, 10, 5, 10, samples=1000) for seed in range(33)]

    def bits(rows: list[Row]) -> list[dict[str, str]]:
        return [{name: value.hex() for name, value in row.items()} for row in rows]

    for measure in (sae_rows, ae_rows):
        together, reversed_ = bits(measure(models, protocol)), bits(measure(models[::-1], protocol))[::-1]
        alone = [bits(measure([model], protocol))[0] for model in models]
        assert together == alone
        assert reversed_ == alone


def broken(model: Model, name: str, value: float) -> Model:
    """The model with one number of one of its weights replaced."""
    weights: Any = getattr(model, name).copy()
    weights.flat[0] = value
    return dataclasses.replace(model, **{name: weights})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weights", ["W", "W_enc", "b_enc", "W_dec", "b_dec"])
def test_sae_that_is_not_finite_is_nan_throughout_and_harms_nobody(weights: str, value: float) -> None:
    """One weight that is not finite makes every SAE column of its replicate NaN and changes no bit of another's."""
    models = [random_model(seed) for seed in range(3)]
    healthy = sae_rows(models, LEGACY)
    with np.errstate(all="ignore"):
        rows = sae_rows([models[0], broken(models[1], weights, value), models[2]], LEGACY)
    assert [rows[0], rows[2]] == [healthy[0], healthy[2]]
    assert all(np.isnan(number) for number in rows[1].values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("weights", ["W", "b"])
def test_ae_that_is_not_finite_keeps_only_what_needs_no_weights(weights: str, value: float) -> None:
    """Data and baselines stay, every other AE column is NaN, and other replicates keep their bits."""
    models = [random_model(seed) for seed in range(3)]
    healthy = ae_rows(models, LEGACY)
    with np.errstate(all="ignore"):
        rows = ae_rows([models[0], broken(models[1], weights, value), models[2]], LEGACY)
    assert [rows[0], rows[2]] == [healthy[0], healthy[2]]
    kept = ("empirical_sparsity", "ae_loss_bias_only", "ae_loss_dedicated")
    for name, number in rows[1].items():
        assert number == healthy[1][name] if name in kept else np.isnan(number), name


@pytest.mark.parametrize("size", [1e30, 1e100, 1e160, 1e250])
@pytest.mark.parametrize("names", [("W", "b"), ("W_enc", "b_enc", "W_dec", "b_dec")], ids=["ae", "sae"])
def test_huge_weights_are_measured_without_an_exception(names: tuple[str, ...], size: float) -> None:
    """An AE or SAE that ran off to enormous but finite weights ends in a row (perhaps of inf and NaN) and harms nobody."""
    models = [random_model(seed) for seed in range(3)]
    healthy = sae_rows(models, LEGACY), ae_rows(models, LEGACY)
    huge = dataclasses.replace(models[1], **{name: getattr(models[1], name) * size for name in names})
    with np.errstate(all="ignore"):
        rows = sae_rows([models[0], huge, models[2]], LEGACY), ae_rows([models[0], huge, models[2]], LEGACY)
    for measured, expected in zip(rows, healthy, strict=True):
        assert [measured[0], measured[2]] == [expected[0], expected[2]]
