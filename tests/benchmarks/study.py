"""How fast a study is made, read and stopped: `python -m tests.benchmarks.study`. Prints one table; asserts nothing.

The machines that this runs on are noisy: read ratios within one run, and medians.
"""

from __future__ import annotations

import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from analysis import load
from search_spaces import PROTOCOLS, grid
from study.packs import Pack
from study.row_store import Storage
from study.run_pack import run_pack

ROWS, SHARDS = 100_000, 200


def main() -> None:
    """Measure and print."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, commit {commit}")
    protocol = PROTOCOLS["dissertation"]
    for architecture in ("5-3-5", "10-5-10", "20-10-20"):
        for dtype in ("float64", "float32"):
            pack = Pack(grid([architecture], [0.9], [0.01], range(128))[0], protocol, dtype, "reference")
            seconds = _seconds(lambda pack=pack: run_pack(pack), repeats=1)
            print(f"run_pack reference {architecture} {dtype}, 128 seeds: {128 / seconds:.1f} replicates/s")
    with tempfile.TemporaryDirectory() as folder:
        _write_rows(Path(folder))
        print(f"load of {ROWS} rows in {SHARDS} shards: {_seconds(lambda: load('many', folder)):.2f} s")
        for _ in range(3):
            print(f"Ctrl-C to exit, packs in flight: {_ctrl_c_seconds(Path(folder)):.2f} s")


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _write_rows(storage: Path) -> None:
    """A study of many rows: those of a small pack, under ids of their own."""
    folder = Storage.at(storage).study("many")
    folder.write_text(
        "study.yaml",
        "{name: many, protocol: dissertation, space: {architectures: [5-3-5], sparsities: [0.9], l1: [0.01], seeds: 0:100000}}",
    )
    tiny = Pack(
        grid(["5-3-5"], [0.9], [0.01], range(ROWS // SHARDS))[0], PROTOCOLS["dissertation-diagnosis"], "float64", "reference"
    )
    rows = run_pack(tiny)
    for shard in range(SHARDS):
        ids = pa.array([f"{shard * len(rows) + row:020x}" for row in range(len(rows))])
        folder.write_shard(f"{shard:020x}", rows.set_column(0, "replicate_id", ids))


def _ctrl_c_seconds(storage: Path) -> float:
    """From SIGINT to the end of a driver whose workers are in mid-pack."""
    command = [sys.executable, "-m", "service.cli", "launch", "dissertation", "--storage", str(storage), "--pack-size", "8"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shards = len(Storage.at(storage).study("dissertation").shard_ids())
    while len(Storage.at(storage).study("dissertation").shard_ids()) == shards:
        time.sleep(0.1)
    began = time.perf_counter()
    driver.send_signal(signal.SIGINT)
    driver.wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
