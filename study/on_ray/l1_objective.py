"""An objective for any of Ray Tune's searchers to tune l1. It is robust over seeds, because one trial is a pack of seeds.

    from ray import tune
    from ray.tune.search.optuna import OptunaSearch
    from study.on_ray.l1_objective import l1_objective

    found = tune.Tuner(
        l1_objective("10-5-10", 0.9, seeds="0:8"),
        param_space={"l1": tune.loguniform(1e-4, 10)},
        tune_config=tune.TuneConfig(metric="recovery", mode="max", search_alg=OptunaSearch(), num_samples=32),
    ).fit()
    found.get_best_result().config["l1"]

`sae-study l1` needs fewer replicates and reports how certain it is. This is for those who want their own searcher or scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, before_sae
from search_spaces.protocol import Protocol, protocol_from
from search_spaces.searches import RECOVERY_COLUMNS
from search_spaces.spaces import parse_seeds
from study.packs import Pack
from study.run_pack import run_pack


def l1_objective(
    architecture: str | None = None,
    sparsity: float | None = None,
    *,
    seeds: object = "0:8",
    recovery: str = "mcc",
    protocol: object = "dissertation",
    engine: str = "auto",
    dtype: str = "float64",
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function trainable for Tune: {"l1": …} → figures of a pack of all seeds at that l1.

    architecture, sparsity: if left out, they are read from the trial's configuration, so that Tune can search them too. Every
    trial trains the same seeds, so that two trials differ by l1 alone. recovery: `mcc` (signed) or `f1`.

    The figures, over the seeds whose autoencoder is sound (NaN if none is):

    * `recovery`, `l0`, `explained_variance`: means.
    * `failure_rate`, `sae_dead_rate`: shares.

    And over all seeds: `ae_collapsed`, a count, and `replicates`. Raises MisuseError.
    """
    if recovery not in RECOVERY_COLUMNS:
        raise MisuseError(f"recovery={recovery!r} is unknown. Expected one of {', '.join(RECOVERY_COLUMNS)}.")
    if dtype not in ("float64", "float32"):
        raise MisuseError(f"dtype={dtype!r} is unknown. Expected float64 or float32.")
    fixed = {"architecture": architecture, "sparsity": sparsity}
    own_seeds, own_protocol = parse_seeds(seeds), protocol_from(protocol)

    def objective(config: dict[str, Any]) -> dict[str, Any]:
        at = config | {name: value for name, value in fixed.items() if value is not None}
        return _figures(_pack(at, own_seeds, own_protocol, engine, dtype), RECOVERY_COLUMNS[recovery])

    return objective


def _pack(at: dict[str, Any], seeds: Iterable[int], protocol: Protocol, engine: str, dtype: str) -> Pack:
    for name in ("architecture", "sparsity", "l1"):
        if name not in at:
            raise MisuseError(f"{name} is in neither l1_objective(…) nor the trial's configuration. Give it in one of them.")
    cell = Cell(Architecture.parse(at["architecture"]), at["sparsity"], at["l1"])
    return Pack(Replicates.of(Replicate(cell, seed) for seed in seeds), protocol, dtype, engine)


def _figures(pack: Pack, recovery: str) -> dict[str, Any]:
    rows = run_pack(pack)
    counts = Counter(rows["failure"].to_pylist())
    sound = rows.filter(pc.invert(pc.is_in(rows["failure"], pa.array(before_sae()))))
    verdicts = np.array(sound["failure"].to_pylist(), dtype=object)

    def mean(column: str) -> float:
        return float(np.mean(sound[column].to_numpy())) if len(sound) else float("nan")

    return {
        "recovery": mean(recovery),
        "failure_rate": float(np.mean(verdicts != FailureKind.NONE.value)) if len(sound) else float("nan"),
        "sae_dead_rate": float(np.mean(verdicts == FailureKind.SAE_DEAD.value)) if len(sound) else float("nan"),
        "l0": mean("l0"),
        "explained_variance": mean("explained_variance"),
        "ae_collapsed": counts[FailureKind.AE_COLLAPSED.value],
        "replicates": len(pack),
    }
