"""How large a study may get: `python -m tests.benchmarks.scale [ROWS]`. Asserts nothing; five minutes, one of them for the report.

Many trials: 1,000 packs of one tiny replicate through Ray Tune on two workers: what Tune and the driver cost beside the training.
Many rows: a study of the space `full` with ROWS rows (default 960,000) that no one trained, planned and read by what users call,
each in a process of its own, whose time after its imports and whose peak memory are printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from search_spaces import Replicates
from search_spaces.spaces import SPACES
from study.packs import missing_packs, plan_packs
from study.specification import study_spec
from study.storage.schema import MEASURED, names_of
from study.storage.study_folder import Storage
from study.verdict_rows import crashed_rows
from tests.benchmarks.machine import machine

TRIALS = 1_000
STARTS = 5

LAUNCH = """
import json, resource, sys, time
from study import launch
times, busy = [], []
def note(told):
    times.append(told.seconds)
    busy.append(time.process_time())
outcome = launch(json.loads(sys.argv[1]), storage=sys.argv[2], workers=2, on_progress=note)
print(outcome.state, outcome.trained, times[-1], busy[-1] - busy[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
STEP = """
import resource, sys, time
{before}
began, busy = time.perf_counter(), time.process_time()
{code}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(time.perf_counter() - began, time.process_time() - busy, peak)
"""
STATUS = "from study.storage.status import status"
PLANS = "from study.packs import missing_packs, plan_packs; from study.storage.status import existing_study, read_spec"
RATES = "from analysis.frames import FOR_RATES, load; from analysis.rates.{file} import {names}"
STEPS = {
    "driver's start: plan, packs and their ids": (
        PLANS,
        "spec = read_spec(existing_study('full', sys.argv[1])); packs = plan_packs(missing_packs(spec, ())[0], 'auto', 2)\n"
        "[pack.pack_id for pack in packs]",
    ),
    "resume's check of every column": (PLANS, "existing_study('full', sys.argv[1]).corrupt_shards()"),
    "status, the first": (STATUS, "status('full', sys.argv[1])"),
    "status, the second": (f"{STATUS}; status('full', sys.argv[1])", "status('full', sys.argv[1])"),
    "one more shard in the tallies": (
        "from study.storage.status import existing_study, read_spec; from study.storage.tallies import Tallies; import pathlib\n"
        "folder = existing_study('full', sys.argv[1]); spec, tallies = read_spec(folder), Tallies(folder)\n"
        "last = sorted(pathlib.Path(folder.path, 'rows').iterdir())[-1]; away = last.rename(last.with_suffix('.away'))\n"
        "tallies.update(spec); away.rename(last)",
        "tallies.update(spec)",
    ),
    "counts of its cells": (
        f"{STATUS}; from study.storage.tallies import tallies_of; from study.storage.status import existing_study\n"
        "status('full', sys.argv[1])",
        "tallies_of(existing_study('full', sys.argv[1])).cells()",
    ),
    "rate of a cell": (
        RATES.format(file="at_cells", names="failure_rates, one_cell"),
        "failure_rates(load('full', sys.argv[1], FOR_RATES), one_cell('10-5-10', 0.9, 0.02))",
    ),
    "regions": (RATES.format(file="regions", names="all_regions"), "all_regions(load('full', sys.argv[1], FOR_RATES))"),
    "load of all columns": ("from analysis import load", "load('full', sys.argv[1])"),
    "report": ("from analysis import write_report", "write_report('full', sys.argv[1])"),
}
"""What is done before the clock starts, and what is timed, by its description."""


def main() -> None:
    """Measure and print."""
    print(machine())
    cells = SPACES["full"].size // len(SPACES["full"].seeds)
    seeds = max(1, (int(sys.argv[1]) if len(sys.argv) > 1 else SPACES["full"].size) // cells)
    print(f"`sae-study --help`: {min(_starts()):.2f} s, the quickest of {STARTS}")
    with tempfile.TemporaryDirectory() as storage:
        _print_many_trials(storage)
        began = time.perf_counter()
        shards, megabytes = _write_rows(Path(storage), seeds)
        print(f"{seeds * cells:,} rows in {shards} shards, {megabytes:,.0f} MB, written in {time.perf_counter() - began:.0f} s")
        for what, (before, code) in STEPS.items():
            seconds, busy, peak = map(float, _told(STEP.format(before=before, code=code), storage))
            print(f"  {what}: {seconds:.3f} s, {busy:.3f} s of a core, peak memory {peak:.2f} GB", flush=True)


def _starts() -> Iterator[float]:
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "service.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        yield time.perf_counter() - began


def _print_many_trials(storage: str) -> None:
    tiny = {"base": "dissertation", "samples": 20, "ae_epochs": 1, "sae_epochs": 1}
    space = {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": [0.01], "seeds": f"0:{TRIALS}"}
    study = {"name": "trials", "protocol": tiny, "pack_size": 1, "space": space}
    state, trained, seconds, busy, gigabytes = _told(LAUNCH, json.dumps(study), storage)
    rate, own = int(trained) / float(seconds), float(busy) / int(trained) * 1e3
    print(f"{trained} trials ({state}): {rate:.0f} per second from the first on; {own:.1f} ms of a core each in the driver,")
    print(f"  whose peak memory is {float(gigabytes):.2f} GB")


def _told(code: str, *arguments: str) -> list[str]:
    """The last line that a separate Python process prints."""
    told = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return told.stdout.splitlines()[-1].split()


def _write_rows(storage: Path, seeds: int) -> tuple[int, float]:
    """Store a study of `full` with this many seeds, verdicts and metrics by chance; returns its number of shards and its MB."""
    spec = study_spec("full", dtype="float32", seeds=f"0:{seeds}")
    folder, source = Storage.at(storage).study("full"), np.random.default_rng(0)
    folder.write_text("study.yaml", yaml.safe_dump(spec.to_mapping(), sort_keys=False))
    for number, pack in enumerate(plan_packs(missing_packs(spec, ())[0], "auto", 2)):
        rows = crashed_rows(pack, study="full", trial_id=f"{number:08x}")
        for name in names_of(*MEASURED):
            kind = rows.schema.field(name)
            if kind.type != pa.string():
                values = source.integers(0, 6, len(pack)) if pa.types.is_integer(kind.type) else source.uniform(size=len(pack))
                rows = rows.set_column(rows.column_names.index(name), kind, pa.array(values, kind.type))
        verdicts = pa.array(_verdicts(pack.replicates, source))
        rows = rows.set_column(rows.column_names.index("failure"), rows.schema.field("failure"), verdicts)
        folder.write_shard(pack.pack_id, rows)
    shards = list((storage / "full" / "rows").iterdir())
    return len(shards), sum(path.stat().st_size for path in shards) / 1e6


def _verdicts(replicates: Replicates, source: np.random.Generator) -> np.ndarray:
    """Dead above an edge of l1 that falls with density, dense below another, sometimes collapsed where sparse; else none."""
    chance, log_l1 = (lambda: source.uniform(size=len(replicates))), np.log10(replicates.l1)
    dead = chance() < 1 / (1 + np.exp(-4 * (log_l1 + 1.5 - 2 * (1 - replicates.sparsity))))
    dense = ~dead & (chance() < 1 / (1 + np.exp(3 * (log_l1 + 3))))
    collapsed = chance() < 0.02 * replicates.sparsity**6
    return np.where(collapsed, "ae_collapsed", np.where(dead, "sae_dead", np.where(dense, "sae_dense", "none")))


if __name__ == "__main__":
    main()
