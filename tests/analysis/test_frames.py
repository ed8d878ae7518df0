"""Rates, regions, figures and the report, on frames whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binom

from analysis import load, tune_frame
from analysis.comparisons.published import FOR_PUBLISHED, published_experiment, rate_text, side_by_side
from analysis.figures import verdicts as plots
from analysis.figures.failure_curves import failure_curves
from analysis.frames import FOR_RATES, tidy
from analysis.rates.at_cells import failure_rates, one_cell
from analysis.rates.cells import cell_rates, on_lattice, rate_interval
from analysis.rates.regions import all_regions
from analysis.report.page import findings, verdict_table, write_report
from search_spaces import MisuseError, study_from
from search_spaces.failures import FailureKind, failed, verdicts
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.study_folder import Storage
from study.verdict_rows import crashed_rows
from tests.conftest import TINY
from tests.study.test_replicate import EARLIER_STUDY


def frame_of(failures: dict[tuple[str, float, float], list[str]]) -> pd.DataFrame:
    """A frame with the columns that rates and regions read: verdicts by (architecture, sparsity, l1)."""
    rows = []
    for (architecture, sparsity, l1), kinds in failures.items():
        n_features, n_hidden, _ = map(int, architecture.split("-"))
        for seed, kind in enumerate(kinds):
            rows.append((architecture, n_features, n_hidden, sparsity, l1, seed, kind, kind in ("sae_dead", "ae_collapsed")))
    columns = ["architecture", "n_features", "n_hidden", "sparsity", "l1", "seed", "failure", "sae_all_dead"]
    return pd.DataFrame(rows, columns=columns)


def made(storage: Path, seeds: object = "0:3", rows: bool = True, crashed: bool = False) -> None:
    """A study `made` on disk, written without Ray."""
    space = {"architectures": ["10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01], "seeds": seeds}
    spec = study_from({"name": "made", "protocol": TINY, "space": space})
    folder = Storage.at(storage).study("made")
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    pack = Pack(spec.replicates()[0], spec.protocol, spec.dtype, "reference")
    if rows:
        folder.write_shard(pack.pack_id, crashed_rows(pack) if crashed else run_pack(pack, study="made"))


@pytest.mark.parametrize("replicates", [1, 5, 30, 200])
def test_rate_interval_holds_the_truth(replicates: int) -> None:
    """Averaged over rates from 0.01 to 0.99 the 95 % interval covers nominal minus two points; exact, by the binomial."""
    k = np.arange(replicates + 1)
    low, high = rate_interval(k, np.full_like(k, replicates))
    assert low[0] == 0
    assert high[-1] == 1
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    rates = np.linspace(0.01, 0.99, 99)
    covered = [binom.pmf(k, replicates, p)[(low <= p) & (p <= high)].sum() for p in rates]
    assert np.mean(covered) > 0.93


def test_interval_of_nothing_is_everything() -> None:
    """Without replicates the interval is (0, 1)."""
    low, high = rate_interval(0, 0)
    assert (float(low), float(high)) == (0, 1)
    assert rate_text(0, 0) == "no replicate"
    assert rate_text(1, 100).startswith("1 of 100 seeds, 1.0% [95 % interval 0.1% to ")


def test_cells_are_counted() -> None:
    """Rates are ordered by architecture in order of width, sparsity and l1, for each kind of failure or for any."""
    frame = frame_of(
        {
            ("10-5-10", 0.9, 0.01): ["none", "sae_dead", "sae_dense", "sae_dead"],
            ("5-3-5", 0.9, 0.01): ["none", "none"],
            ("10-5-10", 0.5, 0.01): ["ae_collapsed"],
        }
    )
    rates = cell_rates(frame)
    assert rates["architecture"].tolist() == ["5-3-5", "10-5-10", "10-5-10"]
    assert rates["sparsity"].tolist() == [0.9, 0.5, 0.9]
    assert rates["failures"].tolist() == [0, 1, 3]
    assert cell_rates(frame, "sae_dead")["rate"].tolist() == [0, 0, 0.5]
    assert failed(frame, "sae_all_dead").sum() == 3
    with pytest.raises(MisuseError, match="Did you mean 'sae_dead'"):
        failed(frame, "sae_deed")


def test_verdict_shares_sum_to_one() -> None:
    """The shares of verdicts sum to one at each sparsity and are those of the frame."""
    frame = frame_of({("5-3-5", 0.5, 0.01): ["none", "none", "sae_dead"], ("5-3-5", 0.9, 0.01): ["unfaithful"]})
    composition = plots.verdict_composition(frame)
    np.testing.assert_allclose(composition.shares.sum(axis=0), 1)
    assert composition.kinds == (FailureKind.SAE_DEAD, FailureKind.UNFAITHFUL, FailureKind.NONE)
    assert composition.shares[0].tolist() == [1 / 3, 0]
    assert composition.replicates.tolist() == [3, 1]


def test_a_verdict_that_is_not_registered_is_refused() -> None:
    """An unknown verdict is refused, as figures and shares would omit its replicates; the message says what to import."""
    rows = Storage.at(EARLIER_STUDY.parent).study(EARLIER_STUDY.name).read_shards().rows
    place = rows.schema.get_field_index("failure")
    with pytest.raises(MisuseError, match="'lopsided' is unknown"):
        tidy(rows.set_column(place, "failure", pa.array(["lopsided"] * len(rows))))
    assert len(tidy(rows)) == len(rows)


def test_every_verdict_has_a_colour_and_a_sentence() -> None:
    """Every verdict has a style that distinguishes it from the others, one added later too."""
    assert len({(verdict.colour, verdict.pattern) for verdict in verdicts()}) == len(verdicts())
    assert all(verdict.meaning for verdict in verdicts())


def test_published_table_is_whole() -> None:
    """The published table has seven sparsities and our column names; the comparison is empty for a frame without the replicates."""
    table = published_experiment()
    assert table["sparsity"].tolist() == [0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert table.loc[table["sparsity"] == 0.9, "dead_latents"].item() == 10


def test_frame_is_typed(tmp_path: Path) -> None:
    """Counts are integers, metrics floats, times timestamps; the published comparison finds nothing under another protocol."""
    made(tmp_path)
    frame = load("made", tmp_path)
    assert frame["seed"].dtype == "int64"
    assert frame["dead_latents"].dtype == "Int64"
    assert frame["ae_loss"].dtype == "float64"
    assert frame["sae_all_dead"].dtype == "bool"
    assert frame["finished_at"].dt.tz is not None
    assert side_by_side(frame).empty
    assert verdict_table(frame)["replicates"].tolist() == [3, 3]
    assert len(load(tmp_path / "made")) == 6


def test_columns_that_rates_need_are_enough(tmp_path: Path) -> None:
    """Rates, regions, the sentences and the table after a launch are the same from these columns as from all of them."""
    space = {"architectures": ["10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01, 0.1], "seeds": "123:126"}
    spec = study_from({"name": "made", "protocol": "dissertation", "space": space})
    folder, pack = Storage.at(tmp_path).study("made"), Pack(spec.replicates()[0], spec.protocol, spec.dtype, "reference")
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    folder.write_shard(pack.pack_id, crashed_rows(pack))
    whole, few = load("made", tmp_path), load("made", tmp_path, [*FOR_RATES, *FOR_PUBLISHED])
    pd.testing.assert_frame_equal(few, whole[list(few)])
    assert findings(few, 12) == findings(whole, 12)
    assert "published" in findings(few, 12)[0]
    pd.testing.assert_frame_equal(verdict_table(few), verdict_table(whole))
    assert "sae_all_dead" not in load("made", tmp_path, ["l1"])
    few = load("made", tmp_path, FOR_RATES)
    assert all_regions(few) == all_regions(whole) != []
    cells = one_cell("10-5-10", 0.9, 0.02)
    for failure in ("any", "sae_all_dead"):
        pd.testing.assert_frame_equal(failure_rates(few, cells, failure), failure_rates(whole, cells, failure))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["empty", "one row", "all crashed", "half"])
def test_poor_studies_give_a_page_that_says_so(tmp_path: Path, case: str) -> None:
    """With no row, one row, nothing measured, or an unfinished study, every reader works and the page says so."""
    made(tmp_path, seeds=[5] if case == "one row" else "0:3", rows=case != "empty", crashed=case == "all crashed")
    if case == "half":
        space = {"architectures": ["10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01], "seeds": "0:9"}
        more = study_from({"name": "made", "protocol": TINY, "space": space})
        Storage.at(tmp_path).study("made").write_text("study.yaml", json.dumps(more.to_mapping()))
    frame = load("made", tmp_path)
    expected = {"empty": 0, "one row": 2, "all crashed": 6, "half": 6}[case]
    assert len(frame) == expected
    packs = tune_frame("made", tmp_path)  # Tune has never seen them, so the rows are counted
    assert packs["replicates"].sum() == expected
    assert (packs["run"] == "").all()
    assert (cell_rates(frame)["replicates"].sum() if expected else 0) == expected
    page = Path(write_report("made", str(tmp_path), str(tmp_path / "out"))).read_text()
    told = {"empty": "No row is stored yet", "one row": "2 replicates", "all crashed": "crashed 6 (100.0%)", "half": "not finished"}
    assert told[case] in page
    assert told[case] in " ".join(findings(frame, 18 if case == "half" else max(expected, 1)))


def test_random_search_is_binned_before_it_is_mapped() -> None:
    """6,000 cells of one seed off any lattice become 12 × 12 bins that pool their seeds."""
    generator = np.random.default_rng(0)
    sparsity, l1 = generator.uniform(0.3, 0.98, 6000), 10 ** generator.uniform(-4, 0, 6000)
    cells = {("5-3-5", s, c): ["sae_dead" if c > 0.1 else "none"] for s, c in zip(sparsity.tolist(), l1.tolist())}
    frame = frame_of(cells)
    rates = cell_rates(on_lattice(frame))
    assert len(rates) == 144
    assert rates["replicates"].sum() == 6000
    pd.testing.assert_frame_equal(on_lattice(frame.head(50)), frame.head(50))


def test_collapse_counts_once_for_each_autoencoder() -> None:
    """One collapsed AE under two l1 values is one collapse, not two."""
    one = frame_of({("5-3-5", 0.9, l1): ["ae_collapsed", "none", "none"] for l1 in (0.01, 0.1)})
    frame = one.assign(data_seed=one["seed"], ae_seed=one["seed"])
    curves = failure_curves(frame, "ae_collapsed")
    assert curves["replicates"].tolist() == [3]
    assert curves["rate"].tolist() == [1 / 3]
