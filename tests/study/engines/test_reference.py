"""The reference engine against finite differences and a textbook training; lanes; precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces import PROTOCOLS, Architecture, MisuseError, Protocol
from study import data
from study.engines import contract
from study.engines.contract import Autoencoders, Engine, Minibatches, SparseAutoencoders
from study.engines.reference import ReferenceEngine
from study.engines.registry import engine_for
from study.variants.registry import variant_of
from tests import textbook

Array = NDArray[Any]

ENGINE = ReferenceEngine()
ARCHITECTURE = Architecture(5, 3, 6)
ONLINE = dataclasses.replace(PROTOCOLS["dissertation"], samples=80)
BATCHED = dataclasses.replace(PROTOCOLS["sound"], samples=64, ae_batch_size=4, sae_batch_size=4, sae_warmup_steps=50)
BOTH = pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["dissertation", "sound"])
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def lasting(protocol: Protocol, steps: int, **changes: Any) -> Protocol:
    """The protocol with this many steps of both models."""
    return dataclasses.replace(protocol, ae_epochs=None, ae_steps=steps, sae_epochs=None, sae_steps=steps, **changes)


def samples_of(protocol: Protocol, seeds: list[int], sparsity: float = 0.5) -> Array:
    return np.stack([data.draw_data(ARCHITECTURE.n_features, seed, protocol).features(sparsity) for seed in seeds])


def batches_of(protocol: Protocol, purpose: int, seeds: list[int], steps: int, size: int) -> Minibatches | None:
    drawn = [data.minibatches(seed, purpose, steps, size, protocol) for seed in seeds]
    present = [batches for batches in drawn if batches is not None]
    return Minibatches(np.stack(present), np.arange(len(seeds))) if present else None


def lane(batches: Minibatches | None, r: int) -> Array | None:
    return None if batches is None else batches.drawn[batches.of_lane[r]]


def of_lanes(batches: Minibatches | None, lanes: list[int]) -> Minibatches | None:
    return None if batches is None else dataclasses.replace(batches, of_lane=batches.of_lane[lanes])


@dataclasses.dataclass
class AeTask:
    """What an engine is given to train autoencoders: one lane per seed."""

    start: Autoencoders
    samples: Array
    batches: Minibatches | None
    importances: Array
    protocol: Protocol

    @classmethod
    def of(cls, protocol: Protocol, seeds: list[int], dtype: str = "float64") -> AeTask:
        W = np.stack([data.ae_initial_weights(ARCHITECTURE, seed, protocol) for seed in seeds], axis=-1).astype(dtype)
        batches = batches_of(protocol, data.AE_MINIBATCHES, seeds, protocol.ae_training_steps, protocol.ae_batch_size)
        b = np.zeros((ARCHITECTURE.n_features, len(seeds)), dtype)
        importances = 0.7 ** np.arange(ARCHITECTURE.n_features)
        return cls(Autoencoders(W, b), samples_of(protocol, seeds).astype(dtype), batches, importances, protocol)

    def train(self, engine: Engine = ENGINE) -> Autoencoders:
        return engine.train_autoencoders(self.start, self.samples, self.batches, self.importances, self.protocol)

    def take(self, lanes: list[int]) -> AeTask:
        start = Autoencoders(self.start.W[..., lanes].copy(), self.start.b[..., lanes].copy())
        return dataclasses.replace(self, start=start, samples=self.samples[lanes], batches=of_lanes(self.batches, lanes))


class SaeTask(contract.SaeTask):
    """What an engine is given to train SAEs: one lane per seed, each on its own activations."""

    @classmethod
    def of(cls, protocol: Protocol, seeds: list[int], l1: float = 0.02, dtype: str = "float64") -> SaeTask:
        random = np.random.default_rng(77)
        W = random.normal(size=(ARCHITECTURE.n_hidden, ARCHITECTURE.n_features))
        h = (samples_of(protocol, seeds) @ W.T).astype(dtype)
        subtracted = protocol.sae_decoder_bias_init == "mean"
        b_dec = h.mean(axis=1).T if subtracted else np.zeros((ARCHITECTURE.n_hidden, len(seeds)))
        start = SparseAutoencoders(variant_of(protocol).start(ARCHITECTURE, seeds, b_dec.astype(dtype), protocol))
        batches = batches_of(protocol, data.SAE_MINIBATCHES, seeds, protocol.sae_training_steps, protocol.sae_batch_size)
        return cls(start, h, np.arange(len(seeds)), batches, np.full(len(seeds), l1), protocol)

    def train(self, engine: Engine = ENGINE) -> SparseAutoencoders:
        return engine.train_saes(self)

    def take(self, lanes: list[int]) -> SaeTask:
        start = self.start.each(lambda values: values[..., lanes].copy())
        batches, ae_of_sae = of_lanes(self.batches, lanes), self.ae_of_sae[lanes]
        return dataclasses.replace(self, start=start, ae_of_sae=ae_of_sae, batches=batches, l1=self.l1[lanes])


def dense(saes: SparseAutoencoders, r: int) -> tuple[Array, ...]:
    """W_enc (L, H), b_enc (L,), W_dec (H, L), b_dec (H,) of replicate r."""
    W_enc, b_enc, W_dec, b_dec = (saes.parameters[name][..., r] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    return W_enc, b_enc, W_dec.T, b_dec


def weights(models: Autoencoders | SparseAutoencoders) -> Array:
    """All parameters of a model as rows, (P, R)."""
    parts = list(models.parameters.values()) if isinstance(models, SparseAutoencoders) else [models.W, models.b]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


# One step


def reading(protocol: Protocol) -> Protocol:
    """One step from which the gradient can be read: with a huge ε Adam's first step is lr · g/(|g| + ε)."""
    huge = {"ae_learning_rate": 1e6, "sae_learning_rate": 1e6, "adam_epsilon": 1e6}
    plain = {"ae_schedule": "constant", "sae_schedule": "constant", "sae_warmup_steps": 0, "sae_decoder_norm": "free"}
    return lasting(protocol, 1, **huge, **plain)


def gradient_read(before: Array, after: Array) -> Array:
    """g from θ − θ' = 1e6 · g/(|g| + 1e6)."""
    step = before - after
    return step / (1 - np.abs(step) / 1e6)


@BOTH
def test_ae_step_descends_the_gradient_of_its_loss(protocol: Protocol) -> None:
    """The first step's gradient equals finite differences of Σ I (x − x̂)², mean over the minibatch."""
    task = AeTask.of(reading(protocol), [1, 2, 3, 4])
    random = np.random.default_rng(0)
    task.start = Autoencoders(random.normal(size=task.start.W.shape), random.normal(size=task.start.b.shape) * 0.3)
    before = weights(task.start).copy()
    read = gradient_read(before, weights(task.train()))
    for r in range(4):
        (x,) = textbook.batches_of(task.samples[r], lane(task.batches, r), protocol.ae_batch_size, 1)
        shape = task.start.W.shape[:2]

        def loss(theta: Array, x: Array = x, shape: tuple[int, ...] = shape) -> Any:
            return textbook.ae_loss(theta[:15].reshape(shape), theta[15:], x, task.importances)

        np.testing.assert_allclose(read[:, r], textbook.finite_differences(loss, before[:, r]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("variant", [{}, {"sae_variant": "topk", "sae_k": 2}, {"sae_variant": "jumprelu"}], ids=str)
@BOTH
@pytest.mark.parametrize("l1", [0.0, 0.02, 3.0])
def test_sae_step_descends_the_gradient_of_its_loss(protocol: Protocol, l1: float, variant: dict[str, Any]) -> None:
    """The first step's gradient equals finite differences of ‖h − ĥ‖² + l1 Σ f, with b_dec subtracted and without.

    For the thresholds of `jumprelu`, in which the loss jumps, it is the straight-through one of its paper.
    """
    protocol = dataclasses.replace(protocol, **variant)
    task = SaeTask.of(reading(protocol), [1, 2, 3, 4], l1)
    random = np.random.default_rng(1)
    drawn = {name: random.normal(size=values.shape) for name, values in task.start.parameters.items()}
    drawn = {name: np.abs(values) if name == "threshold" else values for name, values in drawn.items()}
    task = dataclasses.replace(task, start=SparseAutoencoders(drawn))
    before = weights(task.start).copy()
    read = gradient_read(before, weights(task.train()))
    for r in range(4):
        (h,) = textbook.batches_of(task.activations[r], lane(task.batches, r), protocol.sae_batch_size, 1)

        def loss(theta: Array, h: Array = h) -> Any:
            W_enc, b_enc, by_columns, b_dec, threshold = np.split(theta, np.cumsum([18, 6, 18, 3]))
            parts = W_enc.reshape(6, 3), b_enc, by_columns.reshape(6, 3).T, b_dec
            return textbook.sae_loss(*parts, h, l1, task.protocol, threshold)

        expected = textbook.finite_differences(loss, before[:, r])
        if protocol.sae_variant == "jumprelu":
            W_enc, b_enc, by_columns, b_dec, threshold = np.split(before[:, r], np.cumsum([18, 6, 18, 3]))
            parts = W_enc.reshape(6, 3), b_enc, by_columns.reshape(6, 3).T, b_dec
            expected[45:] = textbook.threshold_gradient(*parts, h, l1, task.protocol, threshold)
        np.testing.assert_allclose(read[:, r], expected, rtol=1e-6, atol=1e-7)


# Many steps


@BOTH
def test_autoencoder_trains_as_the_textbook(protocol: Protocol) -> None:
    """200 steps of textbook Adam on gradients by complex step, one replicate at a time: the same weights to 1e-11."""
    protocol, seeds = lasting(protocol, 200), [0, 1, 123]
    task = AeTask.of(protocol, seeds)
    W, b = task.start.W.copy(), task.start.b.copy()
    trained = task.train()
    for r in range(len(seeds)):
        expected = textbook.train_autoencoder(W[..., r], b[..., r], task.samples[r], lane(task.batches, r), protocol)
        np.testing.assert_allclose(trained.W[..., r], expected[0], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(trained.b[..., r], expected[1], rtol=1e-11, atol=1e-13)
        assert np.abs(expected[0] - W[..., r]).max() > 0.05  # it learnt


@BOTH
def test_sae_trains_as_the_textbook(protocol: Protocol) -> None:
    """The same for 200 steps of SAEs, with warm-up, cosine, unit columns, tied start and the subtracted b_dec."""
    protocol, seeds = lasting(protocol, 200), [0, 1, 123]
    task = SaeTask.of(protocol, seeds)
    start = task.take([0, 1, 2]).start
    trained = task.train()
    for r in range(len(seeds)):
        W_enc, W_dec, b_dec = start.parameters["W_enc"][..., r], start.W_dec[..., r].T, start.b_dec[..., r]
        expected = textbook.train_sae(W_enc, W_dec, b_dec, task.activations[r], lane(task.batches, r), 0.02, protocol)
        found = dense(trained, r)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
        assert np.abs(expected[2] - W_dec).max() > 0.05


@DTYPES
def test_unit_norm_holds_after_every_step(dtype: str) -> None:
    """Decoder columns have norm 1 after 1, 2 and 30 steps, and the encoder is no longer tied."""
    for steps in (1, 2, 30):
        trained = SaeTask.of(lasting(BATCHED, steps), [3, 4], dtype=dtype).train()
        np.testing.assert_allclose(np.linalg.norm(trained.W_dec, axis=1), 1, rtol=4 * np.finfo(dtype).eps)
        assert (trained.parameters["W_enc"] != trained.W_dec).any()


def test_l1_shrinks_the_code() -> None:
    """A larger l1 ends in a smaller mean code, on the same lanes and draws."""
    protocol = lasting(BATCHED, 300)
    task = SaeTask.of(protocol, [1] * 4)
    task = dataclasses.replace(task, l1=np.array([0.0, 0.1, 0.5, 10.0]))
    trained = task.train()
    sizes = [
        textbook.sae_code(
            trained.parameters["W_enc"][..., r],
            trained.parameters["b_enc"][..., r],
            trained.b_dec[..., r],
            task.activations[r],
            protocol,
        ).mean()
        for r in range(4)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.2 * sizes[2]


def test_stored_order_runs_through_the_samples_again_and_again() -> None:
    """Three epochs over 20 samples are one over the 20 written three times; batches of four are cut in the same order."""
    for size in (1, 4):
        protocol = dataclasses.replace(ONLINE, samples=20, ae_batch_size=size, ae_epochs=3)
        task = AeTask.of(protocol, [5, 6])
        written_out = dataclasses.replace(task.take([0, 1]), samples=np.tile(task.samples, (1, 3, 1)))
        written_out.protocol = dataclasses.replace(protocol, samples=60, ae_epochs=1)
        np.testing.assert_array_equal(weights(task.train()), weights(written_out.train()))


def test_hidden_is_the_product_of_each_lane() -> None:
    """h = W x for every autoencoder and sample, in the dtype of the weights."""
    random = np.random.default_rng(2)
    W, x = random.normal(size=(3, 5, 4)), random.random((4, 11, 5))
    h = ENGINE.hidden(W, x)
    for a in range(4):
        np.testing.assert_allclose(h[a], x[a] @ W[..., a].T, rtol=1e-13, atol=1e-15)
    assert ENGINE.hidden(W.astype("float32"), x.astype("float32")).dtype == np.float32


# Lanes


@DTYPES
@BOTH
def test_an_autoencoder_does_not_depend_on_its_lane(protocol: Protocol, dtype: str) -> None:
    """Alone, in a pack of five and in another order: the same bits."""
    task = AeTask.of(lasting(protocol, 60), [0, 1, 2, 3, 4], dtype)
    together, order = weights(task.take([0, 1, 2, 3, 4]).train()), [3, 0, 4, 1, 2]
    np.testing.assert_array_equal(weights(task.take(order).train()), together[:, order])
    for r in range(5):
        np.testing.assert_array_equal(weights(task.take([r]).train())[:, 0], together[:, r])


@DTYPES
@BOTH
def test_an_sae_does_not_depend_on_its_lane(protocol: Protocol, dtype: str) -> None:
    """The same for SAEs, two of them on one autoencoder."""
    task = SaeTask.of(lasting(protocol, 60), [0, 1, 2, 3, 4], dtype=dtype)
    task = dataclasses.replace(task, ae_of_sae=np.array([0, 0, 1, 3, 2]), l1=np.array([0.01, 0.3, 0.01, 0.1, 1.0]))
    together, order = weights(task.take([0, 1, 2, 3, 4]).train()), [3, 0, 4, 1, 2]
    np.testing.assert_array_equal(weights(task.take(order).train()), together[:, order])
    for r in range(5):
        np.testing.assert_array_equal(weights(task.take([r]).train())[:, 0], together[:, r])


@DTYPES
@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverging_autoencoder_leaves_its_neighbours_alone(protocol: Protocol, dtype: str, value: float) -> None:
    """One weight that is not finite ruins its own lane and no bit of another."""
    task = AeTask.of(lasting(protocol, 60), [0, 1, 2], dtype)
    healthy = weights(task.take([0, 1, 2]).train())
    task.start.W[0, 0, 1] = value
    trained = weights(task.train())
    assert not np.isfinite(trained[:, 1]).all()
    np.testing.assert_array_equal(trained[:, [0, 2]], healthy[:, [0, 2]])


@DTYPES
@BOTH
def test_a_diverging_sae_leaves_its_neighbours_alone(protocol: Protocol, dtype: str) -> None:
    """An l1 of 1.7e308, or a NaN in W_dec, ruins its own lane and no bit of another."""
    task = SaeTask.of(lasting(protocol, 60), [0, 1, 2, 3], dtype=dtype)
    healthy = weights(task.take([0, 1, 2, 3]).train())
    task = dataclasses.replace(task, l1=np.array([0.02, 1.7e308, 0.02, 0.02]))
    task.start.W_dec[0, 0, 2] = np.nan
    with np.errstate(over="ignore"):
        trained = weights(task.train())
    assert not np.isfinite(trained[:, 1]).all()
    assert not np.isfinite(trained[:, 2]).all()
    np.testing.assert_array_equal(trained[:, [0, 3]], healthy[:, [0, 3]])


# Precision


@BOTH
def test_float32_stays_float32(protocol: Protocol) -> None:
    """Every weight is of the training dtype, near the float64 result and not its rounding."""
    protocol = lasting(protocol, 100)
    for task in (AeTask, SaeTask):
        single, double = (task.of(protocol, [0, 1], dtype=dtype).train() for dtype in ("float32", "float64"))
        assert weights(single).dtype == np.float32
        np.testing.assert_allclose(weights(single), weights(double), atol=1e-3)
        assert (weights(single) != weights(double).astype("float32")).any()


@pytest.mark.parametrize(("dtype", "tiny"), [("float32", 1e-30), ("float64", 1e-290)])
def test_tiny_moments_are_set_to_zero(dtype: str, tiny: float) -> None:
    """Under 1e-30 (float32) and 1e-290 (float64) a moment is 0, so that no denormal slows or changes a training.

    With an ε as small as the gradient Adam moves by a share of the learning rate; a moment set to 0 does not move at all.
    """
    protocol = lasting(ONLINE, 1, adam_epsilon=tiny)
    task = AeTask.of(protocol, [0, 1], dtype)
    task.start = Autoencoders(np.ones_like(task.start.W), task.start.b)
    before = weights(task.start).copy()

    def moved(scale: float) -> Array:
        scaled = dataclasses.replace(task.take([0, 1]), importances=np.full(5, scale))
        return np.abs(weights(scaled.train()) - before)

    assert moved(tiny * 1e-4).max() == 0
    assert moved(tiny * 1e4).max() > 0.005  # half of the learning rate


def test_tiny_second_moments_are_set_to_zero() -> None:
    """A gradient whose square is under 1e-290 has V = 0: the step is lr · g/ε instead of lr."""
    task = AeTask.of(lasting(ONLINE, 1, adam_epsilon=1e-200), [0])
    task.start = Autoencoders(np.ones_like(task.start.W), task.start.b)
    steps = {}
    for scale in (1e-150, 1e-140):
        before = weights(task.start).copy()
        steps[scale] = np.abs(weights(dataclasses.replace(task.take([0]), importances=np.full(5, scale)).train()) - before).max()
    assert steps[1e-150] > 1e40
    assert steps[1e-140] == pytest.approx(0.01, rel=1e-6)


# By name


def test_engines_are_found_by_name() -> None:
    """Each name gives its engine, and `auto` the compiled one of the same family; an unknown name is a MisuseError."""
    assert [engine_for(name, ONLINE).name for name in ("reference", "compiled", "auto")] == ["reference", "compiled", "compiled"]
    assert engine_for("auto", ONLINE).family == engine_for("reference", ONLINE).family == "exact"
    with pytest.raises(MisuseError, match="nonesuch"):
        engine_for("nonesuch", ONLINE)


@pytest.mark.parametrize("name", ["reference", "compiled"])
def test_more_work_is_never_expected_to_take_less_time(name: str) -> None:
    """The estimate rises with replicates, steps and width; it is positive."""
    engine = engine_for(name, ONLINE).load()
    online, longer = ONLINE, dataclasses.replace(ONLINE, sae_epochs=40)
    small, large = Architecture(5, 3), Architecture(20, 10)
    estimates = [
        engine.seconds(small, online, 1, 1, "float64"),
        engine.seconds(small, online, 10, 10, "float64"),
        engine.seconds(small, online, 1000, 1000, "float64"),
        engine.seconds(large, online, 1000, 1000, "float64"),
        engine.seconds(large, longer, 1000, 1000, "float64"),
    ]
    assert estimates[0] > 0
    assert estimates == sorted(estimates)
