"""A metric in its own file: its columns in rows, shards and frames, and where they are missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load
from search_spaces import PROTOCOLS, Protocol, grid
from study import data
from study.metrics import contract
from study.metrics.contract import Metric, Trained, register_metric
from study.packs import Pack
from study.run_pack import run_pack
from study.storage import schema
from study.storage.schema import REAL, TEXT, Column, Group, columns, names_of, register_column, row_schema
from study.storage.study_folder import Storage

BRIEF = dataclasses.replace(PROTOCOLS["dissertation"], samples=120, ae_epochs=1, sae_epochs=1)
NORM = Column("sae_decoder_norm_mean", REAL, Group.SAE, 3, "mean norm of the decoder's columns")
WIDEST = Column("ae_widest_feature", REAL, Group.AUTOENCODER, 3, "largest norm of a column of W")


def decoder_norm(trained: Trained) -> dict[str, np.ndarray]:
    """W_dec is (L, H, R)."""
    assert trained.saes is not None
    return {NORM.name: np.linalg.norm(trained.saes.W_dec, axis=1).mean(axis=0)}


def widest_feature(trained: Trained) -> dict[str, np.ndarray]:
    """W is (H, N, A)."""
    return {WIDEST.name: np.linalg.norm(trained.autoencoders.W, axis=0).max(axis=0)[trained.ae_of_sae]}


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is removed after it."""
    monkeypatch.setattr(schema, "COLUMNS", [*schema.COLUMNS])
    monkeypatch.setattr(contract, "METRICS", [])


def small(protocol: Protocol = BRIEF) -> Pack:
    """Three replicates on two autoencoders."""
    (replicates,) = grid(["5-3-5"], [0.5, 0.8], [0.01, 0.1], [1])
    return Pack(replicates.take(np.arange(3)), protocol, "float64", "compiled")


def test_a_registered_metric_is_a_column_of_rows_shards_and_frames(tmp_path: Path) -> None:
    """One call adds it at the end of its group; all other columns are as they were."""
    before = run_pack(small())
    register_metric(Metric((NORM,), decoder_norm))
    register_metric(Metric((WIDEST,), widest_feature))
    rows = run_pack(small())
    names = rows.schema.names
    assert names[names.index("l0_outcome") + 1] == NORM.name
    assert names[names.index("hidden_rms") + 1] == WIDEST.name
    assert [name for name in names if name not in (NORM.name, WIDEST.name)] == before.schema.names
    same = [name for name in before.schema.names if name not in ("wall_seconds", "finished_at")]
    pd.testing.assert_frame_equal(rows.select(same).to_pandas(), before.select(same).to_pandas(), check_exact=True)
    assert rows.schema == row_schema()
    folder = Storage.at(tmp_path).study("made")
    folder.write_text("study.yaml", json.dumps({"name": "made", "space": {}}))
    folder.write_shard("old", before)
    assert load("made", tmp_path)[NORM.name].isna().all()
    folder.write_shard("new", rows)
    folder.set_aside(["old"])
    assert load("made", tmp_path)[NORM.name].tolist() == rows[NORM.name].to_pylist()
    assert (load("made", tmp_path)[NORM.name] > 0).all()


def test_a_metric_of_the_sae_is_missing_without_one() -> None:
    """It is not measured if the protocol trains no SAE; a metric of the autoencoder is."""
    register_metric(Metric((NORM,), decoder_norm))
    register_metric(Metric((WIDEST,), widest_feature))
    rows = run_pack(small(dataclasses.replace(BRIEF, sae_epochs=0)))
    assert np.isnan(rows[NORM.name].to_numpy()).all()
    assert (rows[WIDEST.name].to_numpy() > 0).all()


def test_a_metric_is_missing_where_a_weight_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never sees such a weight, so that linear algebra on it raises nothing; its pack mates keep their values."""
    register_metric(Metric((WIDEST,), widest_feature))
    whole = run_pack(small())[WIDEST.name].to_numpy()
    draw = data.ae_initial_weights

    def broken(architecture, seed, protocol):  # type: ignore[no-untyped-def]
        return draw(architecture, seed, protocol) * (np.nan if seed == 2 else 1)

    monkeypatch.setattr(data, "ae_initial_weights", broken)
    (replicates,) = grid(["5-3-5"], [0.5], [0.01], [1, 2])
    found = run_pack(Pack(replicates, BRIEF, "float64", "compiled"))
    assert found["failure"][1].as_py() == "diverged"
    assert found[WIDEST.name][0].as_py() == whole[0]
    assert np.isnan(found[WIDEST.name][1].as_py())


def test_metrics_see_what_was_measured_before_them() -> None:
    """The built-in columns, those of metrics that were registered earlier, and the SAE's moments."""
    seen = {}
    register_metric(Metric((WIDEST,), widest_feature))

    def looking(trained: Trained) -> dict[str, np.ndarray]:
        seen.update(trained.columns)
        fires = trained.sae_moments.latents.sum(axis=1) / trained.x.shape[1]
        np.testing.assert_array_equal(fires, trained.columns["l0"])
        return {"words": np.array(["dense" if of > 1 else "sparse" for of in fires], dtype=object)}

    register_metric(Metric((Column("words", TEXT, Group.SAE, 3, "in words"),), looking))
    assert set(run_pack(small())["words"].to_pylist()) <= {"dense", "sparse"}
    assert {"ae_loss", "l0", WIDEST.name} <= set(seen)


def test_a_metric_must_give_one_value_per_replicate() -> None:
    """The message says how many values it gave."""
    register_metric(Metric((WIDEST,), lambda trained: {WIDEST.name: np.zeros(7)}))
    with pytest.raises(ValueError, match=r"ae_widest_feature.*\(7,\).*\(3,\)"):
        run_pack(small())


def test_a_name_stands_for_one_column() -> None:
    """An existing column cannot be given another meaning; registering the same column again changes nothing."""
    register_metric(Metric((WIDEST,), widest_feature))
    register_metric(Metric((WIDEST,), widest_feature))
    assert names_of().count(WIDEST.name) == 1
    with pytest.raises(ValueError, match=r"'l0' is taken"):
        register_column(dataclasses.replace(NORM, name="l0"))
    with pytest.raises(ValueError, match="since=1"):
        register_column(dataclasses.replace(NORM, since=1))


def test_columns_are_in_the_order_of_their_groups() -> None:
    """The table itself is in the order of the row, and a group is one run of columns."""
    assert columns() == schema.COLUMNS
    assert [column for group in Group for column in columns(group)] == columns()
    assert len(set(names_of())) == len(names_of())
