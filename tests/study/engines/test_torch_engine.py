"""The torch engine against the reference engine; lanes, padding, and what happens without a compiler.

Most laws are checked on uncompiled steps, which are the same functions; compiling takes seconds per program, so
that each kind is compiled once here and used by several tests.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import Architecture, Protocol
from study.engines.contract import Autoencoders, Engine, SparseAutoencoders
from study.engines.reference import ReferenceEngine
from tests.study.engines.test_reference import BATCHED, DTYPES, ONLINE, AeTask, SaeTask, lasting, weights

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
from study.engines.torch_engine import TorchEngine  # noqa: E402

REFERENCE = ReferenceEngine()
COMPILED = TorchEngine(lanes=16, online_steps=2, device="cpu")
PLAIN = TorchEngine(lanes=16, online_steps=2, device="cpu", compiled=False)
TOLERANCE = {"float64": 1e-11, "float32": 1e-4}


def with_variants(protocol: Protocol) -> dict[str, Protocol]:
    return {
        "relu": protocol,
        "topk": dataclasses.replace(protocol, sae_variant="topk", sae_k=2),
        "jumprelu": dataclasses.replace(protocol, sae_variant="jumprelu", sae_threshold_init=0.01),
    }


PROTOCOLS = {
    f"{kind} {name}": p for kind, base in (("online", ONLINE), ("minibatch", BATCHED)) for name, p in with_variants(base).items()
}
ALL = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def train(engine: Engine, task: AeTask | SaeTask) -> Autoencoders | SparseAutoencoders:
    if isinstance(task, AeTask):
        return engine.train_autoencoders(task.start, task.samples, task.batches, task.importances, task.protocol)
    return engine.train_saes(task)


def assert_equals_reference(engine: Engine, task: AeTask | SaeTask, dtype: str) -> None:
    expected, found = weights(train(REFERENCE, task)), weights(train(engine, task))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])
    assert np.abs(expected - weights(task.start)).max() > 0.1  # it learnt


# The same training


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["online", "minibatch"])
def test_autoencoders_train_as_in_the_reference(protocol: Protocol, dtype: str) -> None:
    """1,000 steps: the same weights to 1e-11 in float64 and 1e-4 in float32."""
    assert_equals_reference(PLAIN, AeTask.of(lasting(protocol, 1000), [0, 1, 2], dtype), dtype)


@pytest.mark.slow
@DTYPES
@ALL
def test_saes_train_as_in_the_reference(protocol: Protocol, dtype: str) -> None:
    """The same for each variant's loss and gradient, unit columns, the subtracted b_dec and thresholds included."""
    assert_equals_reference(PLAIN, SaeTask.of(lasting(protocol, 1000), [0, 1, 2], dtype=dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("online relu", "float32"), ("online relu", "float64"), ("minibatch jumprelu", "float64"), ("minibatch topk", "float32")],
)
def test_compiled_steps_train_as_in_the_reference(kind: str, dtype: str) -> None:
    """The same when the steps are compiled, several per call."""
    assert_equals_reference(COMPILED, SaeTask.of(lasting(PROTOCOLS[kind], 1000), [0, 1, 2], dtype=dtype), dtype)


@pytest.mark.slow
def test_compiled_autoencoders_train_as_in_the_reference() -> None:
    """The same for autoencoders."""
    assert_equals_reference(COMPILED, AeTask.of(lasting(ONLINE, 1000), [0, 1, 2]), "float64")


@pytest.mark.parametrize("engine", [pytest.param(COMPILED, marks=pytest.mark.slow), PLAIN], ids=["compiled", "plain"])
def test_every_number_of_steps_is_trained_to_its_end(engine: TorchEngine) -> None:
    """0, 1, 7 and 8 steps, two per call: no step is lost or made twice."""
    for steps in (0, 1, 7, 8):
        task = SaeTask.of(lasting(ONLINE, 1), [0, 1])
        task = dataclasses.replace(task, protocol=dataclasses.replace(ONLINE, sae_epochs=None, sae_steps=steps))
        np.testing.assert_allclose(weights(train(engine, task)), weights(train(REFERENCE, task)), rtol=1e-11, atol=1e-15)


def test_samples_are_read_round_and_round() -> None:
    """Stored order begins again at the first sample, also in the middle of a call: five samples, two steps per call."""
    protocol = dataclasses.replace(ONLINE, samples=5, ae_epochs=None, ae_steps=24)
    task = AeTask.of(protocol, [0, 1])
    np.testing.assert_allclose(weights(train(PLAIN, task)), weights(train(REFERENCE, task)), rtol=1e-11, atol=1e-15)


def test_hidden_is_that_of_the_reference() -> None:
    """h = W x to the bit: the same products, added in the same order."""
    random = np.random.default_rng(2)
    for dtype in ("float32", "float64"):
        W, x = random.normal(size=(3, 5, 4)).astype(dtype), random.random((4, 11, 5)).astype(dtype)
        np.testing.assert_array_equal(PLAIN.hidden(W, x), REFERENCE.hidden(W, x))


# Lanes


def crowd(kind: str, size: int, dtype: str = "float64") -> AeTask | SaeTask:
    """This many replicates, of mixed l1, some on one autoencoder; 61 steps, so that one is left over."""
    if kind == "autoencoder":
        return AeTask.of(lasting(ONLINE, 61), list(range(size)), dtype)
    task = SaeTask.of(lasting(PROTOCOLS[kind], 61), list(range(size)), dtype=dtype)
    return dataclasses.replace(task, ae_of_sae=np.arange(size) // 2, l1=np.geomspace(1e-3, 1, size))


EVERY_WAY = pytest.mark.parametrize(
    ("engine", "kind", "dtype"),
    [
        pytest.param(COMPILED, "autoencoder", "float64", marks=pytest.mark.slow),
        pytest.param(COMPILED, "online relu", "float32", marks=pytest.mark.slow),
        pytest.param(COMPILED, "minibatch jumprelu", "float64", marks=pytest.mark.slow),
        (PLAIN, "autoencoder", "float32"),
        (PLAIN, "minibatch topk", "float32"),
        (PLAIN, "minibatch jumprelu", "float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "compiled" if value is COMPILED else "plain",
)


@EVERY_WAY
def test_a_replicate_does_not_depend_on_its_lane(engine: TorchEngine, kind: str, dtype: str) -> None:
    """Alone, in another order, or in a pack of more than the lanes, cut and filled up: the same bits."""
    task = crowd(kind, 20, dtype)
    together = weights(train(engine, task))
    order = np.random.default_rng(0).permutation(20).tolist()
    np.testing.assert_array_equal(weights(train(engine, task.take(order))), together[:, order])
    for r in (0, 7, 15, 16, 19):
        np.testing.assert_array_equal(weights(train(engine, task.take([r])))[:, 0], together[:, r])


@EVERY_WAY
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverging_replicate_leaves_its_neighbours_alone(engine: TorchEngine, kind: str, dtype: str, value: float) -> None:
    """A weight that is not finite ruins its own lane and no bit of another."""
    task = crowd(kind, 5, dtype)
    healthy = weights(train(engine, task))
    spoilt = task.take([0, 1, 2, 3, 4])
    weight = spoilt.start.W_dec if isinstance(spoilt.start, SparseAutoencoders) else spoilt.start.W
    weight[0, 0, 2] = value
    trained = weights(train(engine, spoilt))
    assert not np.isfinite(trained[:, 2]).all()
    np.testing.assert_array_equal(trained[:, [0, 1, 3, 4]], healthy[:, [0, 1, 3, 4]])


@pytest.mark.slow
def test_an_l1_that_float32_cannot_hold_ruins_its_own_lane() -> None:
    """l1 = 1.7e308 is inf in float32: that lane diverges, the others keep their bits."""
    task = crowd("online relu", 4, "float32")
    task = dataclasses.replace(task, l1=np.array([0.02, 0.02, 1.7e308, 0.02]))
    trained, healthy = weights(train(COMPILED, task)), weights(train(COMPILED, task.take([0, 1, 3])))
    assert not np.isfinite(trained[:, 2]).all()
    np.testing.assert_array_equal(trained[:, [0, 1, 3]], healthy)


@pytest.mark.slow
def test_packs_of_any_size_share_one_program() -> None:
    """After the first pack, one of another size compiles nothing."""
    counters = torch._dynamo.utils.counters["stats"]
    train(COMPILED, crowd("autoencoder", 3))
    before = counters["unique_graphs"]
    for size in (1, 16, 40):
        train(COMPILED, crowd("autoencoder", size))
    assert counters["unique_graphs"] == before


# Surroundings


def test_tiny_moments_are_set_to_zero() -> None:
    """A first moment under 1e-290 (1e-30 in float32) is 0: with an equally small ε the weight would otherwise move."""
    for dtype, tiny in (("float32", 1e-30), ("float64", 1e-290)):
        task = AeTask.of(lasting(ONLINE, 1, adam_epsilon=tiny), [0, 1], dtype)
        task.start = Autoencoders(np.ones_like(task.start.W), task.start.b)
        for scale, moves in ((tiny * 1e-4, False), (tiny * 1e4, True)):
            task.importances = np.full(5, scale)
            assert (np.abs(weights(train(PLAIN, task)) - weights(task.start)).max() > 0.005) == moves


def test_training_leaves_pytorch_as_it_was() -> None:
    """The number of threads and the treatment of denormals are restored, also after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    train(PLAIN, crowd("autoencoder", 2))
    with pytest.raises(KeyError):
        train(PLAIN, AeTask.of(lasting(ONLINE, 2), [0], "float16"))
    assert torch.get_num_threads() == 2
    assert torch.tensor(np.finfo(np.float64).tiny).div(2) > 0
    torch.set_num_threads(before)


WITHOUT_COMPILER = """
import warnings, numpy as np
from tests.study.engines.test_torch_engine import *
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    task = AeTask.of(lasting(ONLINE, 20), [0, 1])
    found = weights(train(TorchEngine(16, 1, device="cpu"), task))
    train(TorchEngine(16, 1, device="cpu"), task)
np.testing.assert_allclose(found, weights(train(REFERENCE, task)), rtol=1e-11, atol=1e-13)
ours = [str(w.message) for w in caught if "uncompiled" in str(w.message)]
assert len(ours) == 1, ours
print(ours[0])
"""


@pytest.mark.slow
def test_without_a_compiler_it_warns_once_and_trains_the_same(tmp_path: Path) -> None:
    """No C++ compiler on the machine: the steps run uncompiled, one warning says so and what to do."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    environment |= {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "g++" in ran.stdout


# CUDA

IN_INTERPRETER = """
from tests.study.engines.test_torch_engine import *
from study.engines.contract import SparseAutoencoders
from study.engines.torch_engine import _Task
engine = TorchEngine(lanes=32, device="cpu")
engine._trains_in_kernels = lambda task: True
for kind in ("autoencoder", "online relu"):
    task = crowd(kind, 34, "float32")
    task = dataclasses.replace(task, protocol=lasting(task.protocol, 40))
    np.testing.assert_allclose(weights(train(engine, task)), weights(train(REFERENCE, task)), rtol=0, atol=1e-5)
"""


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: the CUDA kernels were not checked")
def test_kernels_train_as_in_the_reference() -> None:
    """In Triton's interpreter, on the CPU: 40 steps of 34 replicates, filled up to 64, to 1e-5."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", IN_INTERPRETER], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs and kernels were not run")
@DTYPES
@pytest.mark.parametrize("kind", ["autoencoder", *PROTOCOLS])
def test_training_on_cuda_is_that_of_the_reference(kind: str, dtype: str) -> None:
    """1,000 steps of every variant, by a graph or by the kernels; then the same lane alone, to the bit."""
    engine = TorchEngine(lanes=64, online_steps=2)
    task = crowd(kind, 70, dtype)
    task = dataclasses.replace(task, protocol=lasting(task.protocol, 1000))
    if task.batches is not None:
        task = SaeTask.of(task.protocol, list(range(70)), dtype=dtype)
    assert_equals_reference(engine, task, dtype)
    together = weights(train(engine, task))
    np.testing.assert_array_equal(weights(train(engine, task.take([69])))[:, 0], together[:, 69])


def test_more_work_is_never_expected_to_take_less_time() -> None:
    """The estimate rises with replicates, steps and width; it is positive."""
    longer = dataclasses.replace(ONLINE, sae_epochs=40)
    small, large = Architecture(5, 3), Architecture(20, 10)
    tasks: list[tuple[Any, ...]] = [
        (small, ONLINE, 1, 1),
        (small, ONLINE, 1000, 1000),
        (large, ONLINE, 1000, 1000),
        (large, longer, 1000, 1000),
    ]
    estimates = [PLAIN.seconds(*task, "float64") for task in tasks]
    assert estimates[0] > 0
    assert estimates == sorted(estimates)
