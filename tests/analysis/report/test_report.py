"""The report's page, its findings and files, and the comparison of two studies on disk."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis import load
from analysis.figures.verdicts import verdict_composition
from analysis.rates.claims import monotonicity
from analysis.rates.regions import all_regions
from analysis.report import panels
from analysis.report.definitions import MCC_CORRECTED
from analysis.report.findings import findings, page_findings, published_claim, region_sentences, verdict_sentences
from analysis.report.page import write_report
from analysis.report.sections import MOST_LINES
from analysis.report.study_rows import COLLAPSE, StudyRows, study_rows
from analysis.searches.failure_map import failure_map
from analysis.searches.results import keep
from analysis.transitions.crossings import Answer
from search_spaces import failures as table_of_verdicts
from search_spaces import study_from
from search_spaces.coordinates import L1
from search_spaces.failures import Verdict, verdict_named
from search_spaces.learners.failure_map import Refinement
from search_spaces.study_files import StudySpec
from study import failures as conditions
from study import run_here
from study.failures import register_verdict
from study.packs import Pack
from study.run_pack import run_pack
from study.searching.learner_of import learner_of
from study.storage.schema import row_schema
from study.storage.study_folder import Storage
from study.verdict_rows import crashed_rows
from tests.analysis.rates.test_regions import L1S, SPARSITIES, box, lattice
from tests.conftest import TINY
from tests.service.cli.conftest import Run, run

__all__ = ["run"]

PLANE = {
    "architectures": ["5-3-5", "10-5-10"],
    "sparsities": [0.3, 0.5, 0.7, 0.8, 0.9, 0.98],
    "l1": [0.001, 0.01, 0.03, 0.1, 0.3, 1.0],
    "seeds": "0:6",
}
LINE = {"architectures": ["10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01], "seeds": "0:3"}


def spec_of(space: dict[str, Any], name: str = "made", protocol: object = TINY) -> StudySpec:
    """A study file."""
    return study_from({"name": name, "protocol": protocol, "space": space})


def store(storage: Path, spec: StudySpec, rows: pd.DataFrame | None = None, train: bool = True) -> None:
    """A study on disk, written without Ray; `rows` replace trained ones."""
    folder = Storage.at(storage).study(spec.name)
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    packs = [Pack(own, spec.protocol, spec.dtype, "compiled") for own in spec.replicates()]
    if rows is not None:
        folder.write_shard(packs[0].pack_id, pa.Table.from_pandas(rows, row_schema(), preserve_index=False))
    elif train:
        for pack in packs:
            folder.write_shard(pack.pack_id, run_pack(pack, study=spec.name))


def trained(spec: StudySpec) -> pd.DataFrame:
    """Its rows, as the schema has them."""
    return run_here(spec).to_pandas()


def written(storage: Path, name: str = "made") -> tuple[str, Path]:
    """The page's text and its folder."""
    page = Path(write_report(name, str(storage), str(storage / "out")))
    return page.read_text(), page.parent


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyRows, str]:
    """A plane of 432 replicates: its storage, its rows, its page."""
    storage = tmp_path_factory.mktemp("plane")
    spec = spec_of(PLANE, protocol="dissertation")
    store(storage, spec)
    page, _ = written(storage)
    return storage, StudyRows("made", spec, load("made", storage)), page


def told(study: StudyRows) -> dict[str, str]:
    """The page's findings by their titles."""
    return {finding.title: " ".join(finding.sentences) for finding in page_findings(study)}


def assert_whole(page: str, folder: Path) -> None:
    """Nothing is fetched; every named file exists; every link has its anchor; every figure has both files."""
    assert "http" not in page
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    local = {link for link in links if not link.startswith(("#", "data:"))}
    assert {"rows.csv", "rows.parquet", "study.yaml"} <= local
    assert local <= {path.name for path in folder.iterdir()}
    assert {link[1:] for link in links if link.startswith("#")} <= set(re.findall(r'id="([^"]*)"', page))
    figures = {path.stem for path in folder.glob("*.png")}
    assert figures == {path.stem for path in folder.glob("*.svg")}
    assert page.count("<img") == len(figures)
    assert all(re.findall(r'<img [^>]*alt="([^"]+)"', page))


ODD = {
    "empty": "No row is stored yet, of 6 planned",
    "one row": "1 replicate in 1 cell: 1 fail",
    "all crashed": "crashed 6 (100.0%)",
    "none failed": "No replicate failed: the failure rate is below",
    "no numbers": "6 replicates in 2 cells",
    "half": "3 of 6 planned replicates are stored: the study is not finished",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_study_gives_a_page_that_says_so(tmp_path: Path, case: str) -> None:
    """A page is written for no row, one row, only crashes, no failure, no metrics, and half of the rows."""
    spec = spec_of(LINE)
    rows = trained(spec)
    if case == "one row":
        rows = rows.head(1).assign(failure="sae_dead")
    elif case == "all crashed":
        rows = pd.concat([crashed_rows(Pack(own, spec.protocol, spec.dtype, "compiled")).to_pandas() for own in spec.replicates()])
    elif case == "none failed":
        rows = rows.assign(failure="none", dead_latents=0)
    elif case == "no numbers":
        floats = [name for name in rows.select_dtypes("float64") if name not in ("sparsity", "l1", "wall_seconds")]
        rows = rows.assign(**dict.fromkeys(floats, np.nan))
    elif case == "half":
        rows = rows.head(3)
    store(tmp_path, spec, None if case == "empty" else rows, train=False)
    page, folder = written(tmp_path)
    assert ODD[case] in page
    assert ODD[case].partition(":")[0] in " ".join(findings(load("made", tmp_path), 6))
    assert_whole(page, folder)


WILD = {
    "text.usetex": True,
    "font.family": "no such font",
    "font.size": 30,
    "savefig.bbox": "tight",
    "savefig.facecolor": "black",
    "savefig.transparent": True,
    "figure.dpi": 300,
    "figure.autolayout": True,
    "axes.prop_cycle": matplotlib.cycler(color=["red"]),
    "axes.grid": True,
    "axes.formatter.use_locale": True,
    "axes.unicode_minus": False,
    "image.cmap": "hot",
    "lines.linewidth": 9,
    "path.sketch": (5, 50, 5),
    "svg.fonttype": "path",
    "svg.hashsalt": None,
    "hatch.color": "red",
    "errorbar.capsize": 9,
}
"""Settings of Matplotlib that a user may have in a file or set in a notebook."""


@pytest.mark.slow
def test_report_does_not_depend_on_the_callers_settings(tmp_path: Path) -> None:
    """Every file has the same bytes, and the settings stay as they were."""
    store(tmp_path, spec_of({**LINE, "l1": [0.01, 0.1]}))
    files = {path.name: path.read_bytes() for path in written(tmp_path)[1].iterdir()}
    with matplotlib.rc_context(WILD), np.errstate(all="raise"):
        before = dict(matplotlib.rcParams)
        again = {path.name: path.read_bytes() for path in written(tmp_path)[1].iterdir()}
        assert dict(matplotlib.rcParams) == before
    assert [name for name in files if files[name] != again[name]] == []


@pytest.mark.slow
def test_page_is_whole(plane: tuple[Path, StudyRows, str]) -> None:
    """The page works offline, and has every section of a plane and every finding."""
    storage, study, page = plane
    assert_whole(page, storage / "out")
    for anchor in ("verdicts", "collapse", "phase", "regions", "order", "metrics", "trust", "grams", "cells", "made"):
        assert f'id="{anchor}"' in page
    assert 'id="architecture-10-5-10"' in page
    plain = page.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
    assert all(sentence in plain for finding in page_findings(study) for sentence in finding.sentences)


@pytest.mark.slow
def test_rows_lie_beside_the_page(plane: tuple[Path, StudyRows, str]) -> None:
    """CSV and Parquet files hold the frame to the last digit."""
    storage, study, _ = plane
    text, parquet = pd.read_csv(storage / "out" / "rows.csv"), pd.read_parquet(storage / "out" / "rows.parquet")
    assert list(text.columns) == list(parquet.columns) == list(study.rows.columns)
    np.testing.assert_array_equal(text["ae_loss"], study.rows["ae_loss"])
    np.testing.assert_array_equal(parquet["sae_mse"], study.rows["sae_mse"])
    assert text["failure"].tolist() == study.rows["failure"].tolist()
    assert text["sae_all_dead"].tolist() == study.rows["sae_all_dead"].tolist()


@pytest.mark.slow
def test_verdict_shares_are_those_of_the_rows(plane: tuple[Path, StudyRows, str]) -> None:
    """The figures in the sentences equal counts of the rows."""
    _, study, _ = plane
    counts = Counter(study.rows["failure"])
    sentence = told(study)["Verdicts"]
    for kind, count in counts.items():
        assert f"{kind} {count} ({100 * count / 432:.1f}%)" in sentence
    assert f"432 replicates in 72 cells: {432 - counts['none']} fail" in sentence
    dead = [row for row in study.rows.to_dict("records") if row["dead_latents"] == row["n_latents"]]
    assert f"All latents are dead in {len(dead)} replicates" in sentence


@pytest.mark.slow
def test_collapse_is_counted_once_an_autoencoder(plane: tuple[Path, StudyRows, str]) -> None:
    """Six SAEs share an autoencoder: 72 of them, not 432."""
    _, study, _ = plane
    collapsed = {
        (row["architecture"], row["sparsity"], row["seed"])
        for row in study.rows.to_dict("records")
        if row["failure"] == "ae_collapsed"
    }
    sentence = told(study)["Collapse of the autoencoder by sparsity"]
    assert (f"{len(collapsed)} of 72 autoencoders collapsed" if collapsed else "none of 72 autoencoders") in sentence


def test_only_sure_regions_are_told() -> None:
    """Of a box of deaths with 20 seeds, the sentence names its ends; of one with 2 seeds, which may be chance, it names nothing."""
    where = box((0, 3), (3, 8), (2, 9))
    (sentence,) = region_sentences(all_regions(lattice(where, 20)))
    ends = f"S {SPARSITIES[3]:.3g} to {SPARSITIES[8]:.3g}, l1 {L1S[2]:.3g} to {L1S[9]:.3g}"
    assert sentence.startswith(f"sae_dead: 5-3-5 … 10-5-10, {ends}")
    (unsure,) = region_sentences(all_regions(lattice(where, 2)))
    assert "sae_dead" not in unsure
    assert "chance" in unsure
    assert region_sentences([]) == []


@pytest.mark.slow
def test_collapse_is_told_alike_everywhere(plane: tuple[Path, StudyRows, str]) -> None:
    """The p values are Holm's over the architectures, in the summary and in each architecture's own sentence."""
    _, study, _ = plane
    for architecture, curve in study.collapse.items():
        own = study.autoencoders[study.autoencoders["architecture"] == architecture].assign(k=lambda f: f["failure"] == COLLAPSE)
        counts = own.groupby("sparsity")["k"].agg(["sum", "size"])
        alone = monotonicity(counts.index.to_list(), counts["sum"].to_list(), counts["size"].to_list())
        assert curve.p_never_falls >= alone.p_never_falls
        assert curve.p_never_rises >= alone.p_never_rises


def test_verdicts_of_a_search_are_no_rates() -> None:
    """Where a search chose the cells, neither a sentence nor a title makes a rate of the shares of its replicates."""
    frame = lattice(0.3, 4)
    assert any("no failure rates" in text for text in verdict_sentences(frame, searched=True))
    assert not any("no failure rates" in text for text in verdict_sentences(frame))
    assert "%" not in verdict_composition(frame, searched=True).title
    assert "%" in verdict_composition(frame).title


@pytest.mark.slow
def test_critical_l1_lies_where_the_counts_pass_one_half(plane: tuple[Path, StudyRows, str]) -> None:
    """Every critical l1 lies, within a factor of 1.5, between the levels at which half of the seeds die."""
    _, study, _ = plane
    crossed = [p for p in study.deaths if p.axis == L1 and p.crossing.answer is Answer.CROSSED]
    assert crossed
    for point in crossed:
        column = study.rows[(study.rows["architecture"] == point.architecture) & (study.rows["sparsity"] == point.at)]
        rates = column.groupby("l1")["sae_all_dead"].mean()
        below, above = rates.index[rates < 0.5].max(), rates.index[rates > 0.5].min()
        assert min(below, above) / 1.5 <= point.crossing.estimate <= 1.5 * max(below, above)
    estimates = [point.crossing.estimate for point in crossed]
    assert f"critical l1 of {min(estimates):.3g} to {max(estimates):.3g}" in told(study)["Critical l1 of the SAE's death"]


@pytest.mark.slow
def test_closed_form_that_holds_nowhere_gets_no_factor(plane: tuple[Path, StudyRows, str]) -> None:
    """A factor is said only of a closed form that some interval holds."""
    _, study, _ = plane
    crossed = [p for p in study.deaths if p.axis == L1 and p.crossing.answer is Answer.CROSSED]
    held = Counter(form.name for point in crossed for form in point.predictions if point.holds(form))
    sentence = told(study)["Critical l1 of the SAE's death"]
    for name in {form.name for point in crossed for form in point.predictions}:
        assert (f"“{name}” does not hold here" in sentence) == (held[name] == 0)
        assert (f"“{name}”: within the 90 % interval in {held[name]} of" in sentence) == (held[name] > 0)


@pytest.mark.slow
def test_trust_table_counts_pairs(plane: tuple[Path, StudyRows, str]) -> None:
    """The AUC of a metric equals a loop over all pairs of a healthy and a failing replicate of the same cell."""
    _, study, page = plane
    wins = pairs = 0.0
    for _, cell in study.rows.groupby(["architecture", "sparsity", "l1"]):
        healthy = cell.loc[cell["failure"] == "none", "explained_variance"]
        failing = cell.loc[cell["failure"] != "none", "explained_variance"]
        for one in healthy:
            wins += sum(1.0 if one > other else 0.5 if one == other else 0.0 for other in failing)
            pairs += len(failing)
    of = study.trust.table.set_index("metric").loc["explained_variance"]
    assert of["auc"] == pytest.approx(wins / pairs, abs=1e-12)
    assert f"{wins / pairs:.2f} [{of['low']:.2f}, {of['high']:.2f}]" in page


@pytest.mark.slow
def test_published_claim_is_judged_without_its_own_seed(tmp_path: Path) -> None:
    """Seed 123 is reported, but is no evidence for a maximum that was noticed because of it."""
    space = {"architectures": ["10-5-10"], "sparsities": [0.85, 0.9, 0.95], "l1": [0.01], "seeds": [123, *range(12)]}
    spec = spec_of(space, protocol="dissertation")
    store(tmp_path, spec)
    study = StudyRows("made", spec, load("made", tmp_path))
    collapses = [
        sum(
            row["failure"] == "ae_collapsed" for row in study.rows.to_dict("records") if row["sparsity"] == S and row["seed"] != 123
        )
        for S in (0.85, 0.9, 0.95)
    ]
    claim = published_claim(study)
    assert claim is not None
    assert list(claim.failures) == collapses
    assert claim.replicates == (12, 12, 12)
    assert "is ae_collapsed, not an SAE failure" in told(study)["The published failure"]
    page, folder = written(tmp_path)
    assert "The published claim, 10-5-10" in page
    assert (folder / "published.csv").exists()
    assert_whole(page, folder)


def test_long_table_is_cut_on_the_page_alone(tmp_path: Path) -> None:
    """Of 400 cells, the file has all."""
    space = {"architectures": ["5-3-5"], "sparsities": [s / 50 for s in range(20)], "l1": [10 ** (-k / 5) for k in range(20)]}
    spec = spec_of({**space, "seeds": [1]})
    store(tmp_path, spec, crashed_rows(Pack(spec.replicates()[0], spec.protocol, spec.dtype, "compiled")).to_pandas())
    page, folder = written(tmp_path)
    assert f"The first {MOST_LINES} of 400 rows" in page
    assert len(pd.read_csv(folder / "cells.csv")) == 400
    assert_whole(page, folder)


@pytest.mark.slow
def test_report_goes_to_the_studys_folder(run: Run, plane: tuple[Path, StudyRows, str]) -> None:
    """Unless --out says otherwise; the command prints a path, or JSON."""
    storage, _, _ = plane
    code, out, _ = run("report", "made", "--storage", storage, "--json")
    page = Path(json.loads(out)["page"])
    assert (code, page.parent) == (0, storage / "made" / "report")
    assert_whole(page.read_text(), page.parent)


def map_study(storage: Path, replicates: int = 600) -> StudyRows:
    """A finished map of 5-3-5 on disk."""
    space = {"architectures": ["5-3-5"], "sparsities": {"from": 0.3, "to": 0.98}, "l1": {"from": 1e-4, "to": 1}, "seeds": [0]}
    search = {"kind": "map", "budget": replicates, "first_pass": 512}
    spec = study_from({"name": "mapped", "protocol": "dissertation", "dtype": "float32", "space": space, "search": search})
    folder = Storage.at(storage).study("mapped")
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    learner = cast(Refinement, learner_of(spec))
    folder.write_shard("rows", run_here(spec, learner))
    keep(folder, failure_map(folder, learner))
    return study_rows("mapped", str(storage))


@pytest.mark.slow
def test_maps_report_shows_the_map(tmp_path: Path) -> None:
    """Its first figure has the bytes of map.png, and the page says the same share; shares of what was trained are no rates."""
    study = map_study(tmp_path)
    drawn = (tmp_path / "mapped" / "report" / "map.png").read_bytes()
    assert study.map is not None
    page, folder = written(tmp_path, "mapped")
    assert (folder / "map.png").read_bytes() == drawn
    assert page.index("<img") == page.index("<img", page.index('id="result"'))
    assert f"fail in {study.map.share('5-3-5'):.0%} of the plane" in page
    assert not list(folder.glob("verdict*.png")) + list(folder.glob("phase_diagrams.png"))
    assert_whole(page, folder)


@pytest.mark.slow
def test_map_of_an_unfinished_search_is_fitted_to_its_rows(tmp_path: Path) -> None:
    """Without the stored map, with a damaged one, and with one of fewer rows."""
    stored, folder = map_study(tmp_path).map, Storage.at(tmp_path).study("mapped")
    for content in (None, b"no map", replace(stored, replicates=7).to_bytes()):
        folder.delete("map.npz")
        if content is not None:
            folder.write_bytes("map.npz", content)
        again = study_rows("mapped", str(tmp_path)).map
        assert again is not None
        assert again.replicates == stored.replicates
        assert again.share("5-3-5") == pytest.approx(stored.share("5-3-5"), abs=0.08)


def test_page_defines_its_words(tmp_path: Path) -> None:
    """Every verdict that occurs with its meaning, and every metric that is drawn, the corrected MCC included."""
    spec = spec_of(LINE, protocol="dissertation")
    store(tmp_path, spec)
    page, _ = written(tmp_path)
    plain = html.unescape(page.replace("<wbr>", ""))
    for name in load("made", tmp_path)["failure"].unique():
        assert verdict_named(name).meaning in plain
    assert MCC_CORRECTED in plain
    assert MCC_CORRECTED.split(":")[0] in (Path(__file__).parents[3] / "docs" / "definitions.md").read_text().replace("`", "")


def test_many_series_are_small_multiples() -> None:
    """Of eight architectures, each has a panel of its own with its name, and all have the same scale."""
    names = [f"{n}-3-{n}" for n in range(5, 13)]
    rows = pd.DataFrame(
        [(name, S, f, f / 10) for name in names for S, f in ((0.3, 0), (0.9, 3))], columns=["series", "x", "failures", "rate"]
    )
    rows = rows.assign(replicates=10, low=rows["rate"] * 0.9, high=rows["rate"] * 1.1 + 0.1)
    figure = panels._curves_panel("collapse", rows, COLLAPSE, "autoencoders").figure
    assert [ax.get_title().partition(":")[0] for ax in figure.axes] == names
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_first_screen_is_the_result(tmp_path: Path) -> None:
    """Of a grid: its figure, then at most three sentences, then the rest; a single cell has the rate of each verdict."""
    store(tmp_path, spec_of({**LINE, "sparsities": [0.9]}))
    page, folder = written(tmp_path)
    result = page[page.index('id="result"') : page.index("</section>")]
    assert 'src="data:image/png' in result
    assert result.count("<p>") <= 3
    assert 'id="regions"' not in result
    assert "verdicts" in {path.stem for path in folder.glob("*.png")}


def test_comparison_counts_what_differs(run: Run, tmp_path: Path) -> None:
    """Two protocols over the same seeds: discordant pairs and p values by hand; a study is identical to itself."""
    space = {"architectures": ["5-3-5"], "sparsities": [0.5, 0.9], "l1": [0.01], "seeds": "0:12"}
    rows = trained(spec_of(space))
    store(tmp_path, spec_of(space, "one"), rows.assign(failure="none"))
    store(tmp_path, spec_of(space, "other"), rows.assign(failure=np.where(rows["sparsity"] == 0.9, "unfaithful", "none")))
    code, out, err = run("compare", "one", "other", "--storage", tmp_path)
    assert (code, err) == (0, "")
    assert "one and other share 2 cells and 24 replicates: 12 (50.0%) have the same verdict" in out
    assert "0 of 12" in out
    assert "12 of 12" in out
    document = json.loads(run("compare", "one", "other", "--storage", tmp_path, "--json")[1])
    dense, sparse = sorted(document["cells"], key=lambda cell: float(cell["sparsity"]))
    assert (dense["only_one"], dense["only_other"], sparse["only_one"], sparse["only_other"]) == (0, 0, 0, 12)
    assert sparse["p_value"] == pytest.approx(2 * 0.5**12)  # twelve seeds, all to one side
    assert document["overall"]["shift"] == -0.5
    assert document["identical"] == 24
    code, out, _ = run("compare", "one", "one", "--storage", tmp_path, "--json")
    assert (code, json.loads(out)["same_verdict"]) == (0, 24)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["made", "absent"], "study='absent' is not in storage"), (["made", "made", "--failure", "ded"], "failure='ded' is unknown")],
)
@pytest.mark.slow
def test_comparison_refuses_what_is_not_there(
    run: Run, plane: tuple[Path, StudyRows, str], arguments: list[str], complaint: str
) -> None:
    """Misuse is one line and exit code 2."""
    code, out, err = run("compare", *arguments, "--storage", plane[0])
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1


def test_a_registered_verdict_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, drawn and compared like the built-in ones."""
    monkeypatch.setattr(table_of_verdicts, "VERDICTS", [*table_of_verdicts.VERDICTS])
    monkeypatch.setattr(conditions, "CONDITIONS", {**conditions.CONDITIONS})
    blue = {"colour": "#0000ff", "pattern": "oo", "marker": "h"}
    lopsided = Verdict(
        "lopsided", "one latent fires too often", "`max_firing_rate` > 0.1", ("max_firing_rate",), of_sae=True, **blue
    )
    register_verdict(lopsided, lambda row, protocol: row["max_firing_rate"] > 0.1, before="sae_dead")
    store(tmp_path, spec_of(LINE, protocol="dissertation"))
    counts = load("made", tmp_path)["failure"].value_counts()
    page, folder = written(tmp_path)
    assert counts["lopsided"] > 0
    assert f"lopsided {counts['lopsided']}" in page
    assert blue["colour"] in (folder / "verdicts.svg").read_text()
    assert pd.read_csv(folder / "cells.csv")["lopsided"].sum() == counts["lopsided"]
