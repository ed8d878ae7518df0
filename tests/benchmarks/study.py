"""How fast a study is made, read and stopped: `python -m tests.benchmarks.study [REPLICATES]`. Asserts nothing.

REPLICATES (default 100,000) are trained in float32 through Ray Tune: about a minute for each 50,000 on two cores. The machines
that this runs on are noisy: read ratios within one run, and medians.
"""

from __future__ import annotations

import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis import load, tune_frame
from search_spaces import PROTOCOLS, grid
from study import launch
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.study_folder import Storage
from tests.benchmarks.machine import machine

ROWS, SHARDS = 100_000, 200


def main() -> None:
    """Measure and print."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        _write_rows(Path(folder))
        print(f"load of {ROWS} rows in {SHARDS} shards: {_seconds(lambda: load('many', folder)):.2f} s")
        for _ in range(3):
            print(f"Ctrl-C to exit, packs in flight: {_ctrl_c_seconds(Path(folder)):.2f} s")
        _print_large_study(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, folder)


def _print_large_study(replicates: int, folder: str) -> None:
    """A study of 10 sparsities, 10 l1 values and enough seeds, on two workers."""
    space = {
        "architectures": ["10-5-10"],
        "sparsities": {"from": 0.3, "to": 0.98, "count": 10},
        "l1": {"from": 1e-4, "to": 1, "count": 10, "scale": "log"},
        "seeds": f"0:{replicates // 100}",
    }
    study = {"name": "large", "protocol": "dissertation", "dtype": "float32", "space": space}
    since_first_pack = 0.0

    def note(progress: Any) -> None:
        nonlocal since_first_pack
        since_first_pack = progress.seconds

    outcome = launch(study, storage=folder, workers=2, on_progress=note)
    packs = tune_frame("large", folder)
    in_packs = packs["pack_seconds"].sum() / 2
    began = time.perf_counter()
    rows = len(load("large", folder))
    print(f"study of {rows:,} replicates in {len(packs)} packs, 2 workers, float32: {outcome.seconds:.0f} s")
    ratio = since_first_pack / in_packs
    print(f"  from the first pack on {since_first_pack:.1f} s = {ratio:.3f} × the packs' seconds / 2 ({in_packs:.1f} s)")
    print(f"  {rows / since_first_pack:,.0f} replicates/s; rows loaded in {time.perf_counter() - began:.1f} s")
    print(f"  peak memory of the driver: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


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
