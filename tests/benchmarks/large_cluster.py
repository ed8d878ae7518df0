"""What 10⁸ replicates on 1,000 nodes would demand of one driver: `python -m tests.benchmarks.large_cluster [REPLICATES NODES]`.

A simulation of the driver's queue. Its unit costs were measured on the machine and commit that docs/cluster.md names: the
seconds that Tune's loop spends on a trial, the driver's memory, a row's bytes, what an engine trains a second. Workers train
packs whose times scatter by a tenth; a finished one waits until the driver has taken its result and handed it the next pack.
"""

from __future__ import annotations

import heapq
import sys
from collections import deque

import numpy as np

CORES = 16
"""Of a node."""
TRIALS_A_SECOND = 30.0
"""That Tune's loop hands out and takes in, with reused actors."""
ACTORS_A_SECOND = 40.0
"""Workers that start, over the whole cluster, before the first pack."""
DRIVER_MEGABYTES, MEGABYTES_A_TRIAL = 300.0, 0.06
BYTES_A_ROW = 400
REPLICATES_A_CORE_SECOND = {"10-5-10, float32": 400.0, "10-5-10, float64": 170.0, "20-10-20, float64": 40.0}
SCATTER = 0.1


def simulate(replicates: int, workers: int, packs: int, core_rate: float, seed: int = 0) -> tuple[float, float, float]:
    """Seconds from the first pack to the last row, the share of them that the driver was busy, and the workers'."""
    rng = np.random.default_rng(seed)
    seconds = replicates / packs / core_rate * np.clip(1 + SCATTER * rng.standard_normal(packs), 0.5, 2)
    service = 1 / TRIALS_A_SECOND
    todo = deque(seconds.tolist())
    running: list[float] = []  # when each worker's pack is done
    driver = busy = 0.0
    for _ in range(min(workers, packs)):  # handed out one after the other
        driver += service
        heapq.heappush(running, driver + todo.popleft())
    busy = driver
    end = 0.0
    while running:
        done = heapq.heappop(running)
        driver = max(driver, done) + service
        busy += service
        end = driver
        if todo:
            heapq.heappush(running, driver + todo.popleft())
    return end, busy / end, float(seconds.sum() / (end * min(workers, packs)))


def main() -> None:
    """Print a table."""
    replicates, nodes = (int(float(argument)) for argument in sys.argv[1:3]) if len(sys.argv) > 2 else (10**8, 1000)
    workers = nodes * CORES
    print(
        f"{replicates:,} replicates, {nodes:,} nodes of {CORES} cores; {workers / ACTORS_A_SECOND / 60:.0f} min to start workers\n"
    )
    print(
        "| replicates | packs | seconds per pack | makespan | driver busy | workers busy | rows/s | driver memory | files | rows |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, core_rate in REPLICATES_A_CORE_SECOND.items():
        for packs in (3_000, 10_000, 32_000):
            end, driver, worker = simulate(replicates, workers, packs, core_rate)
            print(
                f"| {name} | {packs:,} | {replicates / packs / core_rate:.0f} | {end / 60:.1f} min | {driver:.0%} | {worker:.0%} "
                f"| {replicates / end:,.0f} | {DRIVER_MEGABYTES + MEGABYTES_A_TRIAL * packs:,.0f} MB | {packs:,} shards "
                f"| {replicates * BYTES_A_ROW / 1e9:.0f} GB |"
            )


if __name__ == "__main__":
    main()
