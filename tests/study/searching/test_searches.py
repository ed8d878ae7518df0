"""Adaptive searches as studies: what they ask is in the specification, and a search that was cut off ends as it would have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from analysis import load, recommend_l1
from analysis.searches.l1 import l1_sentences, l1_table, nothing_safe, place_in
from search_spaces import Architecture, MisuseError, protocol_from
from search_spaces.coordinates import L1, SPARSITY, Axis
from search_spaces.learners.failure_map import Refinement
from search_spaces.learners.l1_search import L1Interval, L1Learner
from search_spaces.study_files import StudySpec, study_from
from service.cli.app import app
from study import launch, resume
from study.searching.learner_of import earlier_rows, learner_of, predicted_collapse
from study.storage.study_folder import Storage
from tests.conftest import TINY

NOWHERE = Storage.at("nowhere").study("none")


def mapping(**search: Any) -> dict[str, Any]:
    return {
        "name": "searched",
        "protocol": TINY,
        "dtype": "float32",
        "space": {"architectures": ["6-3-6", "5-3-5"], "sparsities": [0.5, 0.9], "l1": [1e-3, 1.0], "seeds": "7:9"},
        "search": search,
    }


def searched(**search: Any) -> StudySpec:
    return study_from(mapping(**search))


def test_a_map_searches_the_space_s_ranges() -> None:
    learner = learner_of(searched(kind="map", failure="sae_dead", level=0.3, budget=77))
    assert isinstance(learner, Refinement)
    domain = learner.spec.domain
    assert domain.architectures == ("5-3-5", "6-3-6")
    assert (domain.x, domain.y) == (Axis(SPARSITY, 0.5, 0.9), Axis(L1, 1e-3, 1.0))
    assert (learner.spec.failure, learner.spec.level, learner.spec.budget) == ("sae_dead", 0.3, 77)


def test_an_l1_search_has_a_column_for_each_architecture_and_sparsity() -> None:
    learner = learner_of(searched(kind="l1", budget=60, recovery="f1"))
    assert isinstance(learner, L1Learner)
    assert learner.spec.cells == (("6-3-6", 0.5), ("6-3-6", 0.9), ("5-3-5", 0.5), ("5-3-5", 0.9))
    assert learner.spec.l1 == (1e-3, 1.0)
    assert learner.spec.seed == 7
    assert learner.spec.score == "f1_latents_features"
    assert searched(kind="l1", budget=60).search_budget == 240


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"kind": "map", "failure": "dead"}, "failure='dead' is unknown"),
        ({"kind": "map", "level": 1.0}, "level"),
        ({"kind": "map", "budget": 0}, "budget"),
        ({"kind": "map", "earlier": ["nobody"]}, "study='nobody' is not in storage"),
        ({"kind": "l1", "failure": ["ae_collapsed"]}, "no l1 cures"),
        ({"kind": "l1", "failure": ["dead"]}, "too much l1 brings"),
        ({"kind": "l1", "failure": ["sae_dense"]}, "too much l1 brings"),
        ({"kind": "l1", "budget": 3}, "budget"),
        ({"kind": "walk"}, "search"),
        ({"kind": "map", "precision": 0.1}, "search"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search: dict[str, Any], said: str) -> None:
    def made() -> None:
        spec = searched(**search)
        learner_of(spec, earlier_rows(NOWHERE, spec))

    with pytest.raises(MisuseError, match=said):
        made()


def test_a_list_of_replicates_has_no_range_to_search() -> None:
    listed = {"replicates": [{"architecture": "5-3-5", "sparsity": 0.9, "l1": 0.01, "seed": 0}]}
    with pytest.raises(MisuseError, match="search needs a grid"):
        study_from(mapping(kind="map") | {"space": listed})


def test_an_sae_without_l1_has_none_to_search() -> None:
    spec = study_from(mapping(kind="l1") | {"protocol": {"base": "sound", "sae_variant": "topk", "sae_k": 2}})
    with pytest.raises(MisuseError, match="no L1 penalty"):
        learner_of(spec)


def test_the_closed_form_depends_on_how_decoders_start() -> None:
    ten = Architecture.parse("10-5-10")
    assert predicted_collapse(ten, 0.9, protocol_from("sound")) == 2.0
    small = predicted_collapse(ten, 0.9, protocol_from("dissertation"))
    tenfold = predicted_collapse(ten, 0.9, protocol_from({"base": "dissertation", "sae_init_scale": 10}))
    assert small is not None
    assert 0.03 < small < 0.1
    assert tenfold == pytest.approx(10 * small)
    assert predicted_collapse(ten, 0.9, protocol_from({"base": "dissertation", "sae_input": "rescaled"})) is None


@pytest.mark.ray
@pytest.mark.parametrize(
    "search",
    [
        {"kind": "l1", "budget": 96},
        {"kind": "map", "failure": "sae_dead", "budget": 300, "first_pass": 128},
    ],
)
def test_a_search_that_was_cut_off_ends_as_it_would_have(search: dict[str, Any], local_ray: Path, tmp_path: Path) -> None:
    whole = launch(mapping(**search), storage=tmp_path / "whole")
    assert whole.state == "done"
    rows = sorted((tmp_path / "whole" / "searched" / "rows").glob("*.parquet"), key=lambda shard: shard.stat().st_mtime)
    shutil.copytree(tmp_path / "whole" / "searched", tmp_path / "cut" / "searched")
    for shard in rows[len(rows) // 2 :]:
        (tmp_path / "cut" / "searched" / "rows" / shard.name).unlink()
    left = len(load("searched", str(tmp_path / "cut")))
    assert 0 < left < whole.trained
    gone_on = resume("searched", storage=tmp_path / "cut", pack_size=9)
    assert gone_on.state == "done"
    assert gone_on.trained == whole.trained - left
    frames = [load("searched", str(tmp_path / where)).set_index("replicate_id").sort_index() for where in ("whole", "cut")]
    assert (frames[0].index == frames[1].index).all()
    if isinstance(whole.learner, L1Learner) and isinstance(gone_on.learner, L1Learner):
        assert gone_on.learner.results() == whole.learner.results()
        assert sum(interval.replicates for interval in whole.learner.results()) == whole.trained
    if isinstance(whole.learner, Refinement) and isinstance(gone_on.learner, Refinement):
        assert np.array_equal(gone_on.learner.surface.on_grid().mean, whole.learner.surface.on_grid().mean)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.mark.ray
def test_the_map_command_tells_regions_and_writes_the_map(local_ray: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(mapping(kind="map", budget=200, first_pass=128)))
    storage = str(tmp_path / "studies")
    told = run("map", str(tmp_path / "study.yaml"), "--name", "searched", "--failure", "sae_dead", "--storage", storage, "--json")
    document = json.loads(told.stdout)
    assert document["replicates"] == 200 == len(load("searched", storage))
    assert 0 < document["expected_misclassified_volume"] < 0.5
    assert document["failure"] == "sae_dead"
    assert {region["failure"] for region in document["regions"]} <= {"sae_dead"}
    assert all(Path(file).stat().st_size > 0 for file in document["files"])
    again = json.loads(run("resume", "searched", "--storage", storage, "--json").stdout)
    assert again["trained"] == 0
    assert again["regions"] == document["regions"]
    (tmp_path / "other.yaml").write_text(json.dumps(mapping(kind="map", budget=60, earlier=["searched"]) | {"name": "next"}))
    following = json.loads(run("map", str(tmp_path / "other.yaml"), "--storage", storage, "--json").stdout)
    assert following["trained"] == 60
    assert not set(load("next", storage)["replicate_id"]) & set(load("searched", storage)["replicate_id"])
    shutil.rmtree(tmp_path / "studies" / "searched")
    assert json.loads(run("resume", "next", "--storage", storage, "--json").stdout)["regions"] == following["regions"]


@pytest.mark.ray
def test_the_l1_command_tells_intervals_that_recommend_l1_reads(local_ray: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(json.dumps(mapping(kind="l1", budget=96)))
    storage = str(tmp_path / "studies")
    document = json.loads(run("l1", str(tmp_path / "study.yaml"), "--storage", storage, "--json").stdout)
    cells = {(cell["architecture"], cell["sparsity"]): cell for cell in document["cells"]}
    assert len(cells) == 4
    assert all(cell["replicates"] == 96 for cell in cells.values())
    assert all(Path(file).stat().st_size > 0 for file in document["files"])
    stored = recommend_l1("5-3-5", 0.9, study="searched", storage=storage)
    assert stored.best_l1 == cells["5-3-5", 0.9]["best_l1"]
    assert isinstance(stored.safe_high_interval, tuple)
    with pytest.raises(MisuseError, match=r"has not searched 5-3-5 at sparsity 0\.7"):
        recommend_l1("5-3-5", 0.7, study="searched", storage=storage)
    with pytest.raises(MisuseError, match="a protocol of its own"):
        recommend_l1("5-3-5", 0.9, study="searched", storage=storage, protocol="sound")


def test_an_l1_is_recommended_without_ray() -> None:
    found = recommend_l1("5-3-5", 0.9, protocol=TINY, budget=96)
    assert found.replicates == 96
    assert found.best_l1_interval is not None
    assert found.best_l1 is not None
    assert found.best_l1_interval[0] <= found.best_l1 <= found.best_l1_interval[1]


def interval(**fields: Any) -> L1Interval:
    given: dict[str, Any] = {
        "architecture": "10-5-10", "sparsity": 0.9, "safe_low": 0.004, "safe_low_interval": (0.003, 0.006), "safe_high": 0.03,
        "safe_high_interval": (0.02, 0.04), "monotone": True, "best_l1": 0.01, "best_l1_interval": (0.008, 0.02), "best_mcc": 0.9,
        "predicted_high": 0.05, "replicates": 250, "autoencoders": 120, "ae_collapsed": 3, "high": "inside", "low": "inside",
        "bump_l1": None,
    }  # fmt: skip
    return L1Interval(**given | fields)


@pytest.mark.parametrize(
    ("fields", "l1", "said"),
    [
        ({}, 0.01, "inside the safe interval"),
        ({}, 0.005, "inside the safe interval, but within the uncertainty of its edge"),
        ({}, 0.001, "below the safe interval: the code is dense"),
        ({}, 0.035, "above the safe interval: SAEs die, but within the uncertainty of the edge"),
        ({"safe_high": None, "safe_high_interval": (None, None), "high": "never fails"}, 5.0, "inside the safe interval"),
        ({"safe_low": None, "safe_low_interval": (None, None), "low": "never dense"}, 1e-4, "inside the safe interval"),
        (
            {"safe_high": 0.002, "safe_high_interval": (0.001, 0.003)},
            0.003,
            "in no safe interval, for there is none: codes are dense up to 0.004, and from 0.002 on SAEs die",
        ),
        ({"safe_high": None, "high": "fails throughout"}, 0.003, "in no safe interval, for there is none"),
        (
            {"safe_high": None, "high": "not monotone", "monotone": False},
            0.003,
            "not placed: the failure rate is not monotone here",
        ),
    ],
)
def test_where_a_value_lies_is_told(fields: dict[str, Any], l1: float, said: str) -> None:
    assert place_in(interval(**fields), l1) == said


def test_the_source_s_failure_was_not_one_of_l1() -> None:
    sentences = l1_sentences([interval(), interval(sparsity=0.8)], protocol_from("dissertation"))
    assert sum("l1 = 0.01 at 10-5-10, S = 0.9 is inside the safe interval. Its failure (seed 123)" in one for one in sentences) == 1
    assert sum("6 of 500 replicates" in one for one in sentences) == 1
    assert not any("source" in one for one in l1_sentences([interval()], protocol_from("sound")))


def test_the_table_has_a_row_a_cell() -> None:
    table = l1_table([interval(), interval(sparsity=0.8, best_l1=None, best_l1_interval=None)])
    assert table["best_l1_interval_from"].tolist()[0] == 0.008
    assert np.isnan(table["best_l1_interval_to"].tolist()[1])
    assert nothing_safe(interval(safe_high=0.001))
    assert not nothing_safe(interval())
