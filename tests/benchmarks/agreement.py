"""Do precisions and engine families fail equally often? `python -m tests.benchmarks.agreement [SEEDS]`. Prints one table.

Online training amplifies the last bit, so trainings in float32, or by an engine that adds in another order, end with other weights
than in float64. A study reports rates over seeds. Here they are compared with those of float64 by a test of equal proportions
(Fisher's exact test, which does not use that the seeds are the same), for 10-5-10, l1 = 0.01, `dissertation`. Default: 2,000 seeds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from scipy.stats import false_discovery_control, fisher_exact

from search_spaces import PROTOCOLS, grid
from study.packs import Pack
from study.run_pack import run_pack
from tests.benchmarks.machine import machine

SPARSITIES = (0.5, 0.8, 0.9, 0.98)
ASKED = ("any", "ae_collapsed", "sae_dead", "sae_starved", "sae_dense", "unfaithful", "unrecovered")
ROADS = (("compiled", "float64"), ("compiled", "float32"), ("torch", "float32"), ("torch", "float64"))


def failures(engine: str, dtype: str, sparsity: float, seeds: int) -> Counter[str]:
    """How many of the seeds failed, in total and by kind."""
    replicates = grid(["10-5-10"], [sparsity], [0.01], range(seeds))[0]
    counts = Counter(run_pack(Pack(replicates, PROTOCOLS["dissertation"], dtype, engine))["failure"].to_pylist())
    return counts + Counter(any=seeds - counts["none"])


def main() -> None:
    """Measure and print."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{machine()}; {seeds} seeds a sparsity\n")
    counted, p_values = {}, []
    for engine, dtype in ROADS:
        began = time.perf_counter()
        for sparsity in SPARSITIES:
            counted[engine, dtype, sparsity] = failures(engine, dtype, sparsity, seeds)
        print(f"{engine} {dtype}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"\n| S | failure | {' | '.join(f'{e} {d}' for e, d in ROADS)} |\n| --- | --- |{' --- |' * len(ROADS)}")
    for sparsity in SPARSITIES:
        for kind in ASKED:
            expected, cells = counted[*ROADS[0], sparsity][kind], []
            for road in ROADS[1:]:
                found = counted[*road, sparsity][kind]
                p = float(fisher_exact([[found, seeds - found], [expected, seeds - expected]]).pvalue)
                p_values.append(p)
                cells.append(f"{found / seeds:.2%} (p = {p:.2f})")
            print(f"| {sparsity} | {kind} | {expected / seeds:.2%} | {' | '.join(cells)} |")
    small, corrected = sum(p < 0.05 for p in p_values), min(false_discovery_control(p_values))
    print(f"\n{len(p_values)} comparisons: {small} with p < 0.05, the smallest {min(p_values):.3f}, {corrected:.2f} corrected")


if __name__ == "__main__":
    main()
