"""The compiled engine gives the reference's bits, whatever runs beside it and on any processor; its cache is safe."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import PROTOCOLS, Protocol, Replicates, grid
from study import run_pack
from study.engines.compiled import CompiledEngine
from study.engines.reference import ReferenceEngine
from study.kernels.compilation import cache_folder
from study.kernels.simd import lanes_of, zero_rows
from study.packs import Pack
from tests.study.engines.test_reference import AeTask, SaeTask, lasting, weights
from tests.study.test_run_pack import science

COMPILED, REFERENCE = CompiledEngine(), ReferenceEngine()
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
DISSERTATION, SOUND = PROTOCOLS["dissertation"], PROTOCOLS["sound"]
ROOT = Path(__file__).parents[3]


def assert_same_bits(task: AeTask | SaeTask, lanes: list[int]) -> None:
    """Both engines from the same start, each on a copy of it."""
    ours, definition = weights(task.take(lanes).train(COMPILED)), weights(task.take(lanes).train(REFERENCE))
    assert ours.dtype == definition.dtype
    np.testing.assert_array_equal(ours.view(np.uint8), definition.view(np.uint8))


# Against the reference


@DTYPES
@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "share"), [("5-3-5", 1), ("10-5-10", 1), ("20-10-20", 5)])
def test_whole_trainings_give_the_references_rows(architecture: str, share: int, dtype: str) -> None:
    """The `dissertation` protocol, 10,000 and 40,000 steps, chaotic where S >= 0.8: every science column, to the bit.

    In full, but for a fifth of the largest architecture's steps.
    """
    protocol = dataclasses.replace(DISSERTATION, ae_epochs=5 // share, sae_epochs=20 // share)
    replicates = grid([architecture], [0.5, 0.9], [0.01], [123])[0]
    ours, definition = (run_pack.run_pack(Pack(replicates, protocol, dtype, name)) for name in ("compiled", "reference"))
    assert science(ours) == science(definition)


@DTYPES
def test_a_mixed_pack_gives_the_references_rows(dtype: str) -> None:
    """Lanes of different sparsity, l1 and seeds, some sharing an autoencoder, one diverging, no whole group: the same bits."""
    protocol = dataclasses.replace(DISSERTATION, samples=500, ae_epochs=2, sae_epochs=2)
    everything = grid(["10-5-10"], [0.0, 0.5, 0.9, 0.98], [0.0, 0.01, 0.3, 1e6], range(4))[0]
    everything.l1[everything.l1 == 1e6] = 1.7e308  # beyond what a cell may have
    mixed = everything.take(np.random.default_rng(3).permutation(len(everything))[:37])
    ours, definition = (run_pack.run_pack(Pack(mixed, protocol, dtype, name)) for name in ("compiled", "reference"))
    assert science(ours) == science(definition)
    assert "diverged" in ours["failure"].to_pylist()


VARIANTS: list[dict[str, Any]] = [
    {},
    {"sae_variant": "topk", "sae_k": 2},
    {"sae_variant": "jumprelu"},
    {"ae_batch_size": 1, "sae_batch_size": 1},
    {"ae_batch_size": 5, "sae_batch_size": 7, "samples": 70},
]


@DTYPES
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("base", [DISSERTATION, SOUND], ids=["dissertation", "sound"])
def test_every_variant_and_batch_size_gives_the_references_bits(base: Protocol, changes: dict[str, Any], dtype: str) -> None:
    """Both models, 300 steps, activations and minibatches of any size, whole tiles or not; 19 lanes, in another order too."""
    protocol = lasting(dataclasses.replace(base, **{"samples": 64, "ae_batch_size": 4, "sae_batch_size": 4} | changes), 300)
    assert_same_bits(AeTask.of(protocol, list(range(19)), dtype), list(range(19)))
    task = SaeTask.of(protocol, list(range(19)), dtype=dtype)
    task = dataclasses.replace(task, l1=np.geomspace(1e-4, 3, 19), ae_of_sae=np.arange(19) // 2)
    assert_same_bits(task, list(range(18, -1, -1)))


@DTYPES
@pytest.mark.parametrize("variant", ["relu", "jumprelu"])
def test_lanes_that_read_the_same_samples_give_the_references_bits(variant: str, dtype: str) -> None:
    """Many l1 on one autoencoder and one order of minibatches take a short cut: each sample is read once for all lanes."""
    protocol = dataclasses.replace(SOUND, samples=64, sae_batch_size=8, sae_variant=variant)
    task = SaeTask.of(lasting(protocol, 100), [5], dtype=dtype).take([0] * 21)
    task = dataclasses.replace(task, l1=np.geomspace(1e-3, 1, 21))
    assert_same_bits(task, list(range(21)))


def test_steps_are_cut_into_calls_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in calls of a few steps, so that Ctrl-C works, gives the same bits as one call."""
    for protocol in (
        lasting(dataclasses.replace(DISSERTATION, samples=30), 100),
        lasting(dataclasses.replace(SOUND, samples=30), 20),
    ):
        task = SaeTask.of(protocol, [1, 2, 3])
        whole = weights(task.take([0, 1, 2]).train(COMPILED))
        monkeypatch.setattr("study.engines.compiled.CALL_SECONDS", 0.0)
        np.testing.assert_array_equal(weights(task.take([0, 1, 2]).train(COMPILED)), whole)
        monkeypatch.undo()


# Wherever it runs


def small() -> Pack:
    protocol = dataclasses.replace(DISSERTATION, samples=400, ae_epochs=2, sae_epochs=2)
    return Pack(grid(["10-5-10"], [0.5, 0.9], [0.01, 0.1], range(10))[0], protocol, "float32", "compiled")


def test_threads_do_not_meet() -> None:
    """Four threads that train four packs at once give the same rows as one thread that trains them in turn."""
    packs = [small().take(slice(first, first + 10)) for first in (0, 10, 20, 30)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda pack: science(run_pack.run_pack(pack)), packs))
    assert at_once == [science(run_pack.run_pack(pack)) for pack in packs]


PRINT_SCIENCE = """
import json
from study.run_pack import run_pack
from tests.study.engines.test_compiled import small
from tests.study.test_run_pack import science
print(json.dumps(science(run_pack(small()))))
"""


def started(code: str, **environment: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v2"])
def test_older_processors_give_the_same_rows(cpu: str, tmp_path: Path) -> None:
    """Code made for AVX2, and for SSE without fused multiply-add, gives every bit of the science that this processor's does."""
    other = finished(started(PRINT_SCIENCE, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path)))
    assert other == finished(started(PRINT_SCIENCE))


# The cache


@pytest.mark.slow
def test_two_processes_that_compile_at_once_leave_a_sound_cache(tmp_path: Path) -> None:
    """Two processes that compile into one empty cache, each for another dtype, give the right rows; so does one that reads it."""
    double = PRINT_SCIENCE.replace("small()", "dataclasses.replace(small(), dtype='float64')").replace(
        "import json", "import json, dataclasses"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    both = [started(code, **environment) for code in (PRINT_SCIENCE, double)]
    expected = [finished(process) for process in both]
    assert [finished(started(code, **environment)) for code in (PRINT_SCIENCE, double)] == expected
    assert expected[0] == finished(started(PRINT_SCIENCE))


@pytest.fixture
def cache_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The given folder and the user's, which nobody has made yet."""
    places = tmp_path / "given", tmp_path / "user"
    for variable, place in zip(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"), places, strict=True):
        monkeypatch.setenv(variable, str(place))
    cache_folder.cache_clear()
    yield places
    cache_folder.cache_clear()


def test_a_cache_that_cannot_be_written_is_passed_over(cache_places: tuple[Path, Path]) -> None:
    """If neither the given folder nor the user's can be created, the cache goes to the machine's temporary folder."""
    for place in cache_places:
        place.write_text("not a folder")
    assert cache_folder().is_dir()
    assert Path(tempfile.gettempdir()) == cache_folder().parent


def test_a_cache_that_others_may_write_is_passed_over(cache_places: tuple[Path, Path]) -> None:
    """Who knows the name can make the folder first: it is used only as this user's own, and is open to nobody else."""
    given, user = cache_places
    assert cache_folder().parent == given
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    cache_folder().chmod(0o777)
    cache_folder.cache_clear()
    assert cache_folder().parent == user
    cache_folder().rename(user / "elsewhere")
    (user / next(given.iterdir()).name).symlink_to(user / "elsewhere")
    cache_folder.cache_clear()
    assert cache_folder().parent == Path(tempfile.gettempdir())


def test_without_a_home_the_cache_is_in_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may be unknown to the machine and have no HOME."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    cache_folder.cache_clear()
    try:
        assert cache_folder().parent == Path(tempfile.gettempdir())
    finally:
        cache_folder.cache_clear()


# The caller's settings of numba

SETTINGS = {"NUMBA_DISABLE_JIT": "1", "NUMBA_OPT": "0", "NUMBA_BOUNDSCHECK": "1", "NUMBA_DUMP_BYTECODE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "variables"),
    [
        ("pass", {**SETTINGS, "NUMBA_NUM_THREADS": "many", "NUMBA_CACHE_LOCATOR_CLASSES": "Nowhere"}),
        ("import numba", SETTINGS),
        (f"import os, yaml; yaml.safe_dump({SETTINGS!r}, open('.numba_config.yaml', 'w'))", {}),
    ],
    ids=["variables", "of a caller who uses numba", "file"],
)
def test_settings_of_numba_change_nothing(first: str, variables: dict[str, str], tmp_path: Path) -> None:
    """Neither rows nor what is printed depend on the caller's settings of numba, though they be invalid."""
    first = f"import os; os.chdir({str(tmp_path)!r}); {first.replace('NUMBA_', '')}"
    assert finished(started(f"{first}\n{PRINT_SCIENCE}", PYTHONPATH=str(ROOT), **variables)) == finished(started(PRINT_SCIENCE))


def processor_seconds(pid: int) -> float:
    """The processor seconds that a running process has used, as Linux counts them."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_ctrl_c_is_heard_within_a_second() -> None:
    """A process that trains a long pack ends within a second of SIGINT, measured in its own processor time."""
    code = """
import dataclasses
from search_spaces import PROTOCOLS, grid
from study.packs import Pack
from study.run_pack import run_pack
from tests.study.engines.test_compiled import small
run_pack(small())
print("training", flush=True)
run_pack(Pack(grid(["20-10-20"], [0.9], [0.01], range(4000))[0], PROTOCOLS["dissertation"], "float32", "compiled"))
"""
    before = os.times()
    process = started(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    began = processor_seconds(process.pid)
    while processor_seconds(process.pid) < began + 1.5:
        time.sleep(0.02)
    interrupted = processor_seconds(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used - interrupted < 1
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors


# The SIMD type


@DTYPES
def test_rows_are_aligned_and_hold_a_vector_each(dtype: str) -> None:
    """Rows begin at multiples of 64 bytes and hold 16 float32 or 8 float64."""
    for count in (1, 3, 100):
        array = zero_rows(count, dtype)
        assert array.ctypes.data % 64 == 0
        assert array.shape == (count, lanes_of(dtype)) == (count, 64 // np.dtype(dtype).itemsize)
        assert not array.any()


def test_replicates_of_a_pack_may_be_fewer_than_lanes() -> None:
    """One replicate alone is trained, and its row is that of the pack."""
    pack = small()
    alone: Replicates = pack.replicates.take(slice(7, 8))
    (row,) = science(run_pack.run_pack(dataclasses.replace(pack, replicates=alone))).values()
    assert row in science(run_pack.run_pack(pack)).values()
