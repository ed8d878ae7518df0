"""Draws: bits of the legacy generator, streams of the new one, moments of both, and what sparsities share."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from numpy.random import PCG64, Generator, RandomState, SeedSequence
from numpy.typing import NDArray

from search_spaces import PROTOCOLS, Architecture, Protocol
from study import data

LEGACY, SOUND = PROTOCOLS["dissertation"], PROTOCOLS["sound"]
BOTH = pytest.mark.parametrize("protocol", [LEGACY, SOUND], ids=["legacy", "pcg64"])
SPARSITIES = (0.0, 0.001, 0.1, 0.25, 0.3, 0.49, 0.5, 0.51, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)


def with_samples(protocol: Protocol, samples: int) -> Protocol:
    return dataclasses.replace(protocol, samples=samples)


def documented_stream(seed: int, k: int) -> Generator:
    """Stream k of `definitions.md` section 1."""
    return Generator(PCG64(SeedSequence(seed, spawn_key=(k,))))


# Closed forms


@BOTH
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_samples_have_the_moments_of_the_model(protocol: Protocol, sparsity: float) -> None:
    """E x = p/2, E x² = p/3, P(x > 0) = p with p = 1 − S, each feature within five standard errors."""
    samples, p = 200_000, 1 - sparsity
    x = data.draw_data(5, 11, with_samples(protocol, samples)).features(sparsity)
    for moment, mean, second in ((x, p / 2, p / 3), (x**2, p / 3, p / 5), (x > 0, p, p)):
        error = np.sqrt((second - mean**2) / samples)
        np.testing.assert_allclose(moment.mean(axis=0), mean, atol=5 * error + 1e-12, rtol=0)


@BOTH
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_features_are_independent(protocol: Protocol, sparsity: float) -> None:
    """Features are uncorrelated with one another in value and in presence, within a sample and to the next one."""
    samples = 200_000
    x = data.draw_data(4, 5, with_samples(protocol, samples)).features(sparsity)
    for values in (x, (x > 0).astype(float)):
        successive = np.hstack([values[:-1], values[1:]])
        correlations = np.corrcoef(successive.T)[np.triu_indices(8, k=1)]
        assert np.abs(correlations).max() < 5.5 / np.sqrt(samples)


@BOTH
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_active_values_are_uniform_whatever_the_sparsity(protocol: Protocol, sparsity: float) -> None:
    """The value of an active feature is uniform on (0, 1): Kolmogorov's distance is small."""
    x = data.draw_data(4, 6, with_samples(protocol, 50_000)).features(sparsity)
    active = np.sort(x[x > 0])
    steps = np.arange(1, len(active) + 1) / len(active)
    assert np.abs(active - steps).max() * np.sqrt(len(active)) < 1.95  # P(exceeded) = 0.1 %
    assert active[0] > 0
    assert active[-1] < 1


# The bits of the source


@pytest.mark.parametrize("seed", [0, 1, 7, 123, 777, 2**31, 2**32 - 1])
@pytest.mark.parametrize("n_features", [2, 5, 10, 20])
def test_legacy_data_is_the_sources_to_the_bit(seed: int, n_features: int) -> None:
    """x = uniform(0, 1) · binomial(1, 1 − S), drawn mask first from one RandomState(seed), for every S in [0, 1)."""
    draws = data.draw_data(n_features, seed, with_samples(LEGACY, 300))
    for sparsity in (*SPARSITIES, *np.linspace(0, 0.999, 12)):
        source = RandomState(seed)
        mask = source.binomial(1, 1 - sparsity, (300, n_features)).astype(np.float32)
        expected = source.uniform(0, 1, (300, n_features)) * mask
        assert draws.features(float(sparsity)).tobytes() == expected.tobytes(), f"S={sparsity}"


@pytest.mark.parametrize("seed", [0, 123, 2**32 - 1])
def test_legacy_weights_are_the_sources_to_the_bit(seed: int) -> None:
    """W from RandomState(seed).normal(0, 0.01); W_enc, then W_dec, from RandomState(seed) restarted."""
    W = data.ae_initial_weights(Architecture(10, 5), seed, LEGACY)
    assert W.tobytes() == RandomState(seed).normal(0, 0.01, (5, 10)).tobytes()
    source = RandomState(seed)
    expected = source.normal(0, 0.01, (14, 5)), source.normal(0, 0.01, (5, 14))
    for drawn, wanted in zip(data.sae_initial_weights(Architecture(10, 5, 14), seed, LEGACY), expected, strict=True):
        assert drawn.tobytes() == wanted.tobytes()


# The streams of the new generator


@pytest.mark.parametrize("seed", [0, 123, 2**32 - 1])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_new_data_is_drawn_as_documented(seed: int, sparsity: float) -> None:
    """U then V, both (samples, n_features), from stream 0 (training) and 1 (evaluation); x = V · (U ≥ S)."""
    protocol = dataclasses.replace(SOUND, samples=40, eval_samples=25)
    fresh = data.draw_eval_data(6, seed, protocol)
    assert fresh is not None
    for draws, k, samples in ((data.draw_data(6, seed, protocol), 0, 40), (fresh, 1, 25)):
        U, V = documented_stream(seed, k).uniform(size=(2, samples, 6))
        np.testing.assert_array_equal(draws.features(sparsity), V * (U - sparsity >= 0))


def test_purposes_have_streams_of_their_own() -> None:
    """The six streams of one seed are the documented ones, all different; so are those of another seed."""
    firsts = {(seed, k): data.stream(seed, k).random() for seed in (0, 1, 123) for k in range(7)}
    assert firsts == {(seed, k): documented_stream(seed, k).random() for seed in (0, 1, 123) for k in range(7)}
    assert len(set(firsts.values())) == len(firsts)
    purposes = (data.DATA, data.EVAL_DATA, data.AE_WEIGHTS, data.AE_MINIBATCHES, data.SAE_WEIGHTS, data.SAE_MINIBATCHES)
    assert purposes == (0, 1, 3, 4, 5, 6)


@pytest.mark.parametrize(("n_features", "n_hidden"), [(5, 3), (10, 5), (20, 10)])
def test_new_ae_weights_are_xaviers(n_features: int, n_hidden: int) -> None:
    """W = sqrt(2/(n_features + n_hidden)) times standard normals of stream 3."""
    W = data.ae_initial_weights(Architecture(n_features, n_hidden), 9, SOUND)
    standard = documented_stream(9, 3).standard_normal((n_hidden, n_features))
    np.testing.assert_allclose(W, standard * np.sqrt(2 / (n_features + n_hidden)), rtol=1e-15)


def test_initial_std_of_the_ae_scales_the_same_draws() -> None:
    """Ten times the standard deviation is ten times the same weights, in both generators: the intervention `ae_init*10`."""
    for protocol in (LEGACY, dataclasses.replace(SOUND, ae_init_std=0.01)):
        larger = dataclasses.replace(protocol, ae_init_std=0.1)
        one, ten = (data.ae_initial_weights(Architecture(5, 3), 4, p) for p in (protocol, larger))
        np.testing.assert_allclose(ten, 10 * one, rtol=1e-14)


def test_new_sae_starts_tied_with_unit_columns() -> None:
    """Decoder columns are directions of stream 5 at norm 1; the encoder is the decoder's transpose, in its own memory."""
    W_enc, W_dec = data.sae_initial_weights(Architecture(10, 5, 13), 3, SOUND)
    assert W_dec.shape == (5, 13)
    np.testing.assert_allclose(np.linalg.norm(W_dec, axis=0), 1, rtol=1e-14)
    np.testing.assert_array_equal(W_enc, W_dec.T)
    assert not np.shares_memory(W_enc, W_dec)
    raw = documented_stream(3, 5).standard_normal((5, 13))
    np.testing.assert_allclose(W_dec, raw / np.sqrt(np.sum(raw**2, axis=0)), rtol=1e-14)


def test_unit_norm_and_tie_act_on_the_same_legacy_draws() -> None:
    """`unit_norm` scales the decoder's columns that would have been drawn anyway, and no other weight."""
    architecture = Architecture(10, 5)
    W_enc, W_dec = data.sae_initial_weights(architecture, 8, LEGACY)
    unit_enc, unit_dec = data.sae_initial_weights(architecture, 8, dataclasses.replace(LEGACY, sae_decoder_init="unit_norm"))
    np.testing.assert_array_equal(unit_enc, W_enc)
    np.testing.assert_allclose(unit_dec * np.sqrt(np.sum(W_dec**2, axis=0)), W_dec, rtol=1e-14)


# Invariances


@BOTH
def test_all_sparsities_share_their_draws(protocol: Protocol) -> None:
    """Where a feature is active at two sparsities it has the same value, that of S = 0."""
    draws = data.draw_data(10, 21, with_samples(protocol, 500))
    dense = draws.features(0.0)
    assert (dense > 0).all()
    for sparsity in SPARSITIES:
        x = draws.features(sparsity)
        np.testing.assert_array_equal(x[x > 0], dense[x > 0])


@BOTH
def test_what_is_active_at_a_sparsity_is_active_at_a_smaller_one(protocol: Protocol) -> None:
    """Active sets are nested in S: over [0, 1) for `pcg64`, on either side of ½ for `legacy`, whose inversion turns there."""
    draws = data.draw_data(10, 22, with_samples(protocol, 500))
    sides = (SPARSITIES,) if protocol is SOUND else ([s for s in SPARSITIES if s < 0.5], [s for s in SPARSITIES if s >= 0.5])
    for side in sides:
        masks = [draws.features(sparsity) > 0 for sparsity in side]
        assert all((sparser <= denser).all() for denser, sparser in itertools.pairwise(masks))


def test_draws_depend_on_the_seed_and_on_nothing_drawn_before() -> None:
    """Asking again gives the same bits, whatever was drawn between; another seed gives others."""

    def everything(seed: int, protocol: Protocol) -> list[NDArray[np.float64]]:
        architecture = Architecture(5, 3)
        return [
            data.draw_data(5, seed, with_samples(protocol, 20)).features(0.5),
            data.ae_initial_weights(architecture, seed, protocol),
            *data.sae_initial_weights(architecture, seed, protocol),
        ]

    for protocol in (LEGACY, SOUND):
        first, other, again = everything(1, protocol), everything(2, protocol), everything(1, protocol)
        for a, b, c in zip(first, other, again, strict=True):
            np.testing.assert_array_equal(a, c)
            assert (a != b).any()


def test_only_protocols_with_fresh_samples_draw_them() -> None:
    """`dissertation` is judged on its training samples; `sound` on 16,384 others that share nothing with them."""
    assert data.draw_eval_data(5, 0, LEGACY) is None
    fresh = data.draw_eval_data(5, 0, SOUND)
    assert fresh is not None
    train, evaluation = data.draw_data(5, 0, SOUND).features(0.0), fresh.features(0.0)
    assert train.shape == evaluation.shape == (16_384, 5)
    assert not np.isin(evaluation, train).any()


# Minibatches


def test_stored_order_needs_no_minibatches() -> None:
    """If samples are read in stored order, nothing is drawn."""
    assert data.minibatches(0, data.AE_MINIBATCHES, 10, 1, LEGACY) is None


def test_minibatches_are_uniform_draws_with_replacement() -> None:
    """Each of (steps, batch_size) positions is a sample's index, each index as often as any other, some twice in one batch."""
    protocol = with_samples(SOUND, 16)
    drawn = data.minibatches(3, data.AE_MINIBATCHES, 4000, 8, protocol)
    assert drawn is not None
    assert drawn.shape == (4000, 8)
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn.ravel(), minlength=16)
    assert counts.shape == (16,)
    np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(2000 * 15 / 16))
    without_repeat = np.prod(1 - np.arange(8) / 16)
    share = np.mean([len(set(batch)) == 8 for batch in drawn.tolist()])
    assert share == pytest.approx(without_repeat, abs=5 * np.sqrt(without_repeat * (1 - without_repeat) / 4000))


def test_minibatches_come_from_the_stream_of_their_model() -> None:
    """Stream 4 of `ae_seed` and stream 6 of `sae_seed`: other numbers for the two models, the same when asked again."""
    protocol = with_samples(SOUND, 1000)
    for purpose, k in ((data.AE_MINIBATCHES, 4), (data.SAE_MINIBATCHES, 6)):
        drawn = data.minibatches(5, purpose, 6, 4, protocol)
        np.testing.assert_array_equal(drawn, documented_stream(5, k).integers(0, 1000, (6, 4)))
    ae, sae = (data.minibatches(5, purpose, 6, 4, protocol) for purpose in (data.AE_MINIBATCHES, data.SAE_MINIBATCHES))
    assert (ae != sae).any()


# What the metrics draw


def test_chance_directions_are_isotropic_and_fixed() -> None:
    """Unit vectors with mean 0 and covariance I/n_hidden, the same at every call."""
    (vectors,) = data.direction_draws(4, 50, draws=1000)
    assert vectors.shape == (1000, 50, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-14)
    flat = vectors.reshape(-1, 4)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=5 / np.sqrt(4 * len(flat)))
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(4) / 4, atol=5 / np.sqrt(4 * len(flat)))
    np.testing.assert_array_equal(vectors, data.direction_draws(4, 50, draws=1000)[0])


def test_importances_decay_geometrically() -> None:
    """I_i = 0.7^i sums to (1 − 0.7^n)/0.3: 3.239175 for ten features."""
    weights = data.importances(10, LEGACY)
    assert weights[0] == 1
    np.testing.assert_allclose(weights[1:] / weights[:-1], 0.7)
    assert weights.sum() == pytest.approx(3.239175, abs=1e-6)
    assert weights.sum() == pytest.approx((1 - 0.7**10) / 0.3, rel=1e-14)
