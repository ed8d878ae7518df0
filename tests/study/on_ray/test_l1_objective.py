"""The usual way: any Tune searcher over l1, one pack of seeds per trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from search_spaces import Architecture, Cell, MisuseError, Replicate, Replicates, protocol_from
from study.on_ray.l1_objective import l1_objective
from study.packs import Pack
from study.run_pack import run_pack
from tests.conftest import TINY


def rows_at(l1: float) -> dict[str, np.ndarray]:
    replicates = Replicates.of(Replicate(Cell(Architecture.parse("5-3-5"), 0.9, l1), seed) for seed in range(4))
    table = run_pack(Pack(replicates, protocol_from(TINY), "float64", "compiled"))
    return {name: table[name].to_numpy() for name in ("mcc_decoder_features", "f1_latents_features", "failure", "l0")}


@pytest.mark.parametrize(("recovery", "column"), [("mcc", "mcc_decoder_features"), ("f1", "f1_latents_features")])
def test_the_objective_is_the_mean_over_seeds_with_a_sound_autoencoder(recovery: str, column: str) -> None:
    figures = l1_objective("5-3-5", 0.9, seeds="0:4", recovery=recovery, protocol=TINY)({"l1": 0.003})
    rows = rows_at(0.003)
    sound = rows["failure"] != "ae_collapsed"
    assert 0 < sound.sum() <= 4
    assert figures["recovery"] == pytest.approx(rows[column][sound].mean(), rel=1e-12)
    assert figures["l0"] == pytest.approx(rows["l0"][sound].mean(), rel=1e-12)
    assert figures["failure_rate"] == (rows["failure"][sound] != "none").mean()
    assert figures["ae_collapsed"] == 4 - sound.sum()
    assert figures["replicates"] == 4


def test_the_cell_may_come_from_the_trial() -> None:
    given = l1_objective("5-3-5", 0.9, seeds="0:2", protocol=TINY)({"l1": 0.01})
    assert l1_objective(seeds="0:2", protocol=TINY)({"architecture": "5-3-5", "sparsity": 0.9, "l1": 0.01}) == given
    with pytest.raises(MisuseError, match="sparsity is in neither"):
        l1_objective("5-3-5", protocol=TINY)({"l1": 0.01})


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(MisuseError, match="recovery='r2'"):
        l1_objective("5-3-5", 0.9, recovery="r2")
    with pytest.raises(MisuseError, match="dtype"):
        l1_objective("5-3-5", 0.9, dtype="float16")
    with pytest.raises(MisuseError, match="seeds"):
        l1_objective("5-3-5", 0.9, seeds="4:4")


@pytest.mark.ray
def test_optuna_searches_l1(local_ray: Path, tmp_path: Path) -> None:
    """Six trials, four of them Optuna's random start; what Tune calls best is what the rows say."""
    found = tune.Tuner(
        l1_objective("5-3-5", 0.9, seeds="0:4", protocol=TINY),
        param_space={"l1": tune.loguniform(1e-4, 10)},
        tune_config=tune.TuneConfig(
            metric="recovery", mode="max", search_alg=OptunaSearch(seed=0), num_samples=6, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert len(found) == 6
    assert not found.errors
    tried = {result.config["l1"]: result.metrics["recovery"] for result in found}
    assert len(tried) == 6
    best = found.get_best_result()
    assert best.metrics["recovery"] == max(tried.values())
    rows = rows_at(best.config["l1"])
    assert best.metrics["recovery"] == pytest.approx(rows["mcc_decoder_features"][rows["failure"] != "ae_collapsed"].mean())
