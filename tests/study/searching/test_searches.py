"""Adaptive searches as studies: the specification decides what they ask for, and an interrupted search ends in the same way."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from analysis import load, recommend_l1
from analysis.searches.l1 import FORMER, L1Result, l1_mapping, l1_sentences, l1_table, place_in, read_l1
from search_spaces import Architecture, MisuseError, Replicates, grid, protocol_from
from search_spaces.coordinates import L1, SPARSITY, Axis
from search_spaces.learners.contract import Rows
from search_spaces.learners.failure_map import Refinement
from search_spaces.learners.l1_search import L1Interval, L1Learner, LowerEdge, UpperEdge
from search_spaces.searches import SEARCHES, L1Search, MapSearch, Search
from search_spaces.spaces import GridSpace
from search_spaces.study_files import StudySpec, study_from
from service.cli.app import app
from service.cli.run import search_command
from study import launch, resume, run_here
from study.searching.learner_of import earlier_rows, learner_of, predicted_edge, register_search
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
    assert (learner.spec.search.failure, learner.spec.search.level, learner.spec.search.budget) == ("sae_dead", 0.3, 77)


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
        ({"kind": "l1", "failure": ["dead"]}, "expected failures of the SAE"),
        ({"kind": "l1", "failure": "sae_dead+sae_densee"}, "Did you mean 'sae_dense'"),
        ({"kind": "l1", "failure": []}, "expected failures of the SAE"),
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


def test_ranges_without_a_count_are_searched_from_end_to_end() -> None:
    """Whatever the kind; an l1 search over a list with the same ends asks for the same."""
    ranges = {"sparsities": {"from": 0.5, "to": 0.9}, "l1": {"from": 1e-3, "to": 1.0}}
    spec = study_from(mapping(kind="map") | {"space": mapping()["space"] | ranges})
    assert spec.domain == searched(kind="map").domain
    assert spec.search_budget == MapSearch().budget
    one_range = study_from(mapping(kind="l1") | {"space": mapping()["space"] | {"l1": ranges["l1"]}})
    first, second = (learner_of(one) for one in (one_range, searched(kind="l1")))
    assert [list(part) for part in first.ask()] == [list(part) for part in second.ask()]


def test_an_l1_search_looks_at_single_sparsities() -> None:
    space = mapping()["space"] | {"sparsities": {"from": 0.5, "to": 0.9}}
    with pytest.raises(MisuseError, match=r"sparsities from 0\.5 to 0\.9 need a count"):
        study_from(mapping(kind="l1") | {"space": space})


class CornersSearch(Search):
    """A kind of search from outside: the corners of a space, once each."""

    kind: Literal["corners"] = "corners"
    seed: int = 5
    """The one seed."""

    def most_replicates(self, space: GridSpace) -> int:
        return 4 * len(space.architectures)


class Corners:
    """A learner that asks once."""

    def __init__(self, search: CornersSearch, spec: StudySpec, _: object) -> None:
        assert isinstance(spec.space, GridSpace)
        ends = [(min(axis), max(axis)) for axis in (spec.space.sparsities, spec.space.l1)]
        self.waiting = grid(spec.space.architectures, *ends, [search.seed])
        self.done = False

    def ask(self) -> list[Replicates]:
        asked, self.waiting = self.waiting, []
        return asked

    def tell(self, rows: Rows) -> None:
        self.done = True

    def summary(self) -> dict[str, float]:
        return {}


def test_a_further_kind_of_search_is_one_class_and_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Study files, learners, plans and commands then know it."""
    monkeypatch.setitem(SEARCHES, "corners", CornersSearch)  # put back after the test
    register_search(CornersSearch, Corners)
    spec = searched(kind="corners", seed=9)
    assert study_from(spec.to_mapping()) == spec
    assert run_here(spec)["seed"].to_pylist() == [9] * 8
    assert spec.search_budget == 8
    options = inspect.signature(search_command(CornersSearch)).parameters
    assert options["seed"].annotation.__metadata__[0].help == "The one seed. Default: 5."
    with pytest.raises(MisuseError, match="Did you mean 'corners'"):
        searched(kind="corner")


def test_a_kind_of_search_that_is_taken_is_refused() -> None:
    """What `kind: map` means never changes under a study."""
    another = type("Another", (MapSearch,), {})
    with pytest.raises(ValueError, match="kind 'map' is registered for another class"):
        register_search(another, Corners)
    assert SEARCHES["map"] is MapSearch


@pytest.mark.parametrize("search", [MapSearch, L1Search])
def test_every_field_of_a_search_has_a_default_and_a_meaning(search: type[Search]) -> None:
    """They are those of its command too."""
    for name, field in search.model_fields.items():
        assert not field.is_required()
        assert name == "kind" or field.description


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
    assert predicted_edge(ten, 0.9, protocol_from("sound")) == 2.0
    small = predicted_edge(ten, 0.9, protocol_from("dissertation"))
    tenfold = predicted_edge(ten, 0.9, protocol_from({"base": "dissertation", "sae_init_scale": 10}))
    assert small is not None
    assert 0.03 < small < 0.1
    assert tenfold == pytest.approx(10 * small)
    assert predicted_edge(ten, 0.9, protocol_from({"base": "dissertation", "sae_input": "rescaled"})) is None


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
    assert isinstance(stored.upper_edge_interval, tuple)
    with pytest.raises(MisuseError, match=r"has not searched 5-3-5 at sparsity 0\.7"):
        recommend_l1("5-3-5", 0.7, study="searched", storage=storage)
    with pytest.raises(MisuseError, match="a protocol of its own"):
        recommend_l1("5-3-5", 0.9, study="searched", storage=storage, protocol="sound")


def test_results_of_earlier_searches_are_read(tmp_path: Path) -> None:
    """An l1.json with the names that its figures had before gives the same result."""
    folder = Storage.at(tmp_path).study("searched")
    folder.write_text("study.yaml", json.dumps(mapping(kind="l1")))
    now = dataclasses.asdict(interval())
    del now["interval_level"]
    before = {new: old for old, new in FORMER.items()}
    folder.write_text("l1.json", json.dumps({"cells": [{before.get(key, key): value for key, value in now.items()}]}))
    assert read_l1(folder) == (interval(interval_level=0.9),)


def test_results_of_another_version_are_made_anew(tmp_path: Path) -> None:
    """There is no traceback; the error names the command that writes them."""
    folder = Storage.at(tmp_path).study("searched")
    folder.write_text("study.yaml", json.dumps(mapping(kind="l1")))
    folder.write_text("l1.json", json.dumps({"cells": [{"architecture": "5-3-5", "safe_high": 0.1}]}))
    with pytest.raises(MisuseError, match="sae-study resume searched"):
        read_l1(folder)


def test_an_l1_is_recommended_without_ray() -> None:
    found = recommend_l1("5-3-5", 0.9, protocol=TINY, budget=96)
    assert found.replicates == 96
    assert found.best_l1_interval is not None
    assert found.best_l1 is not None
    assert found.best_l1_interval[0] <= found.best_l1 <= found.best_l1_interval[1]


def interval(**fields: Any) -> L1Interval:
    given: dict[str, Any] = {
        "architecture": "10-5-10",
        "sparsity": 0.9,
        "lower_edge": 0.004,
        "lower_edge_interval": (0.003, 0.006),
        "upper_edge": 0.03,
        "upper_edge_interval": (0.02, 0.04),
        "monotone": True,
        "best_l1": 0.01,
        "best_l1_interval": (0.008, 0.02),
        "best_recovery": 0.9,
        "predicted_edge": 0.05,
        "replicates": 250,
        "autoencoders": 120,
        "failed_before_sae": 3,
        "upper": UpperEdge.INSIDE,
        "lower": LowerEdge.INSIDE,
        "bump_l1": None,
    }
    return L1Interval(**given | fields)


@pytest.mark.parametrize(
    ("fields", "l1", "said"),
    [
        ({}, 0.01, "inside the safe interval"),
        ({}, 0.005, "inside the safe interval, but within the uncertainty of its edge"),
        ({}, 0.001, "below the safe interval: the code is dense"),
        ({}, 0.035, "above the safe interval: SAEs die, but within the uncertainty of the edge"),
        (
            {"upper_edge": None, "upper_edge_interval": (None, None), "upper": UpperEdge.ABOVE_RANGE},
            5.0,
            "inside the safe interval",
        ),
        (
            {"lower_edge": None, "lower_edge_interval": (None, None), "lower": LowerEdge.BELOW_RANGE},
            1e-4,
            "inside the safe interval",
        ),
        (
            {"upper_edge": 0.002, "upper_edge_interval": (0.001, 0.003)},
            0.003,
            "in no safe interval, for there is none: codes are dense up to 0.004, and from 0.002 on SAEs die",
        ),
        ({"upper_edge": None, "upper": UpperEdge.BELOW_RANGE}, 0.003, "in no safe interval, for there is none"),
        (
            {"upper_edge": None, "upper": UpperEdge.NOT_MONOTONE, "monotone": False},
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
    assert interval(upper_edge=0.001).nothing_safe
    assert not interval().nothing_safe


def test_an_empty_interval_is_none_wherever_it_is_shown() -> None:
    """In the table, the CSV's rows and JSON; the best l1 is said to be unsafe there."""
    empty = interval(upper_edge=0.001, best_nearby=96, best_failed=94)
    assert L1Result((empty,), protocol_from("dissertation")).table()["safe l1"].tolist() == ["none"]
    assert l1_table([empty])["safe"].tolist() == ["none"]
    assert l1_mapping(empty)["safe"] == "none"
    assert l1_mapping(empty)["best_place"] == "unsafe: no l1 is safe"
    assert L1Result((empty,), protocol_from("dissertation")).table()["it is"].tolist() == [
        "unsafe: no l1 is safe, 94 of 96 fail there"
    ]
    sentences = l1_sentences([empty, interval(sparsity=0.8)], protocol_from("sound"))
    assert any("1 of 2 best values of l1 are unsafe: 10-5-10 at S = 0.9." in one for one in sentences)


def test_a_best_l1_whose_interval_spans_a_decade_is_hardly_known() -> None:
    wide = interval(best_l1_interval=(0.001, 0.02))
    assert any("1 of 1 best values of l1 are hardly known" in one for one in l1_sentences([wide], protocol_from("sound")))
    assert l1_table([wide])["best_decades"].tolist() == [pytest.approx(np.log10(20))]


def test_a_union_is_written_in_any_of_three_ways() -> None:
    """Several options, commas, or plus signs; `any` is every failure of the SAE on a healthy autoencoder."""
    ways = [["sae_dead", "sae_dense"], "sae_dead,sae_dense", ["sae_dead+sae_dense"], "sae_dead, sae_dense,sae_dead"]
    searches = [L1Search(failure=way) for way in ways]  # type: ignore[arg-type]
    assert {search.failure for search in searches} == {("sae_dead", "sae_dense")}
    assert not searches[0].rises
    assert L1Search().rises
    assert set(L1Search(failure=("any",)).kinds) == {"sae_dead", "sae_starved", "sae_dense", "unfaithful", "unrecovered"}


def test_a_printed_sparsity_finds_its_cell(tmp_path: Path) -> None:
    """What the tool prints can be typed back; what may be two cells is refused by naming both."""
    folder = Storage.at(tmp_path).study("searched")
    folder.write_text("study.yaml", json.dumps(mapping(kind="l1")))
    cells = [l1_mapping(interval(sparsity=sparsity)) for sparsity in (0.918181818182, 0.5000001, 0.5000002)]
    folder.write_text("l1.json", json.dumps({"cells": cells}))
    for printed in (0.918182, 0.918, 0.918181818182):
        assert recommend_l1("10-5-10", printed, study="searched", storage=str(tmp_path)).sparsity == 0.918181818182
    with pytest.raises(MisuseError, match=r"may be any of 0\.5000001, 0\.5000002"):
        recommend_l1("10-5-10", 0.5, study="searched", storage=str(tmp_path))
    with pytest.raises(MisuseError, match="has not searched"):
        recommend_l1("10-5-10", 0.92, study="searched", storage=str(tmp_path))


def test_any_failure_of_a_real_search_has_two_edges_or_none() -> None:
    """At 5-3-5 under a tiny protocol nothing works: "none", with the lowest rate and where it is."""
    found = recommend_l1("5-3-5", 0.9, protocol=TINY, failure="any", budget=96)
    assert (found.upper, found.lower) == ("none", "none")
    assert found.nothing_safe
    assert found.least_rate is not None
    assert found.least_rate_interval is not None
    assert found.least_rate_interval[0] <= found.least_rate <= found.least_rate_interval[1]
    assert found.least_rate > 0.1
    (row,) = l1_table([found]).to_dict("records")
    assert (row["safe"], row["failure"]) == ("none", "any")
    assert any("no l1 keeps failures at or below 10 % of the seeds" in one for one in l1_sentences([found], protocol_from("sound")))
