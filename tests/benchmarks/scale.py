"""How large a study may get: `python -m tests.benchmarks.scale [ROWS]`. Asserts nothing; three minutes.

Many trials: 1,000 packs of one tiny replicate through Ray Tune on two workers: what Tune and the driver cost beside the training.
Many rows: ROWS (default 5,000,000) of a map's study in packs of 2,000, read as `map` and `report` read them, each in a process
of its own whose peak memory is reported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from search_spaces import PROTOCOLS, Replicates, study_from
from search_spaces.cells import Architecture
from study.packs import Pack
from study.searching.batches import LEARNER_COLUMNS
from study.storage.study_folder import Storage
from study.verdict_rows import crashed_rows
from tests.benchmarks.machine import machine

TRIALS = 1_000
ROWS_A_SHARD = 2_000

LAUNCH = """
import json, resource, sys, time
from study import launch
times, busy = [], []
def note(told):
    times.append(told.seconds)
    busy.append(time.process_time())
outcome = launch(json.loads(sys.argv[1]), storage=sys.argv[2], workers=2, on_progress=note)
print(outcome.state, outcome.trained, times[-1], busy[-1] - busy[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""
READ = """
import resource, sys, time
from analysis import load
from study.storage.study_folder import Storage
began = time.perf_counter()
columns = sys.argv[2].split(",")
rows = Storage.at(sys.argv[1]).study("many").read_shards(columns).rows if columns != [""] else load("many", sys.argv[1])
print(len(rows), time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def main() -> None:
    """Measure and print."""
    print(machine())
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with tempfile.TemporaryDirectory() as folder:
        _print_many_trials(folder)
        began = time.perf_counter()
        megabytes = _write_rows(Path(folder), rows)
        print(
            f"{rows:,} rows in {rows // ROWS_A_SHARD:,} shards, {megabytes:,.0f} MB, written in {time.perf_counter() - began:.0f} s"
        )
        for what, columns in (("for a map", LEARNER_COLUMNS), ("whole, as load gives them", ())):
            count, seconds, gigabytes = _told(READ, folder, ",".join(columns))
            print(f"  read {what}: {float(seconds):.1f} s, peak memory {float(gigabytes):.1f} GB ({int(count):,} rows)")


def _print_many_trials(storage: str) -> None:
    tiny = {"base": "dissertation", "samples": 20, "ae_epochs": 1, "sae_epochs": 1}
    space = {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": [0.01], "seeds": f"0:{TRIALS}"}
    study = {"name": "trials", "protocol": tiny, "pack_size": 1, "space": space}
    state, trained, seconds, busy, megabytes = _told(LAUNCH, json.dumps(study), storage)
    rate, own = int(trained) / float(seconds), float(busy) / int(trained) * 1e3
    print(f"{trained} trials ({state}): {rate:.0f} per second from the first on; {own:.1f} ms of a core each in the driver,")
    print(f"  whose peak memory is {float(megabytes):,.0f} MB")


def _told(code: str, *arguments: str) -> list[str]:
    """The last line that a separate Python process prints."""
    told = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return told.stdout.splitlines()[-1].split()


def _write_rows(storage: Path, count: int) -> float:
    """A study with this many rows, as a map leaves them: cells anywhere, verdicts by chance; returns its size in MB."""
    folder = Storage.at(storage).study("many")
    space = {"architectures": ["10-5-10"], "sparsities": [0.9], "l1": [0.01], "seeds": f"0:{count}"}
    folder.write_text(
        "study.yaml", json.dumps(study_from({"name": "many", "protocol": "dissertation", "space": space}).to_mapping())
    )
    source = np.random.default_rng(0)
    metrics = ("ae_loss", "sae_loss", "sae_mse", "l0", "mcc_decoder_features", "f1_latents_features")
    for shard in range(count // ROWS_A_SHARD):
        seeds = np.arange(shard * ROWS_A_SHARD, (shard + 1) * ROWS_A_SHARD)
        sparsity, l1 = source.uniform(0.3, 0.98, len(seeds)), 10 ** source.uniform(-4, 0, len(seeds))
        replicates = Replicates(Architecture(10, 5), sparsity, l1, seeds, seeds, seeds, seeds)
        pack = Pack(replicates, PROTOCOLS["dissertation"], "float32", "compiled")
        rows = crashed_rows(pack, study="many", trial_id=f"{shard:08x}")
        for name in metrics:
            rows = rows.set_column(
                rows.column_names.index(name), rows.schema.field(name), pa.array(source.uniform(size=len(seeds)))
            )
        verdicts = pa.array(np.array(["none", "sae_dead", "sae_dense"])[source.integers(0, 3, len(seeds))])
        rows = rows.set_column(rows.column_names.index("failure"), rows.schema.field("failure"), verdicts)
        folder.write_shard(pack.pack_id, rows)
    return sum(path.stat().st_size for path in (storage / "many" / "rows").iterdir()) / 1e6


if __name__ == "__main__":
    main()
