"""Failure rates at any cell, measured or estimated by the surface."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from analysis.frames import load
from analysis.rates.at_cells import RATE_COLUMNS, failure_rates, one_cell, read_cells
from analysis.rates.cells import rate_interval
from analysis.rates.regions import failure_regions
from analysis.rates.tally import ENOUGH, Tally
from search_spaces import MisuseError, study_from
from search_spaces.surface.surface import fit_surface
from study.run_pack import run_pack
from study.searching.batches import LEARNER_COLUMNS, Batches
from study.searching.learner_of import learner_of
from study.storage.schema import row_schema
from study.storage.study_folder import Storage
from tests.analysis.rates.test_regions import L1S, SPARSITIES, box, frame_of, lattice
from tests.conftest import TINY
from tests.service.cli.conftest import Run, run, stored  # noqa: F401

COLUMNS = ["architecture", "sparsity", "l1", *RATE_COLUMNS]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A smooth slope along sparsity, 30 seeds per cell; one cell has 40 more."""
    frame = lattice(lambda a, i, j: 0.05 + 0.08 * i, 30)
    more = frame_of("8-4-8", SPARSITIES[6], L1S[4], range(40), ["sae_dead"] * 20 + ["none"] * 20)
    return pd.concat([frame, more], ignore_index=True)


def test_measured_where_there_are_enough(frame: pd.DataFrame) -> None:
    """A cell of 70 replicates has its own rate, k/n with Jeffreys' interval at 95 %; one of 30 does not."""
    told = failure_rates(frame, pd.concat([one_cell("8-4-8", SPARSITIES[6], L1S[4]), one_cell("8-4-8", SPARSITIES[6], L1S[5])]))
    here = frame[(frame["architecture"] == "8-4-8") & (frame["sparsity"] == SPARSITIES[6]) & (frame["l1"] == L1S[4])]
    k, n = (here["failure"] != "none").sum(), len(here)
    low, high = rate_interval(k, n)
    assert told.columns.tolist() == COLUMNS
    assert told["source"].tolist() == ["measured", "surface"]
    assert told["replicates"].tolist() == [70, 30]
    assert told.iloc[0][["rate", "low", "high"]].tolist() == pytest.approx([k / n, float(low), float(high)])
    assert n >= ENOUGH > 30


def test_surface_elsewhere(frame: pd.DataFrame) -> None:
    """Between cells nine of ten intervals hold the true rate, 0.05 + 0.08 i, and rates are near it."""
    generator = np.random.default_rng(4)
    place = generator.uniform(0, 11, 400)
    sparsity = np.interp(place, np.arange(12), SPARSITIES)
    cells = pd.DataFrame({"architecture": "6-3-6", "sparsity": sparsity, "l1": 10 ** generator.uniform(-4, 0, 400)})
    told = failure_rates(frame, cells)
    truth = 0.05 + 0.08 * place
    assert (told["source"] == "surface").all()
    assert (told["replicates"] == 0).all()
    assert ((told["low"] <= truth) & (truth <= told["high"])).mean() > 0.9
    assert np.abs(told["rate"] - truth).mean() < 0.04
    assert told[["sparsity", "l1"]].equals(cells[["sparsity", "l1"]])


def test_surface_at_a_cell_is_the_surface(frame: pd.DataFrame) -> None:
    """The surface agrees with one that reads the cells in eight batches."""
    told = failure_rates(frame, one_cell("5-3-5", SPARSITIES[3], L1S[7]))
    tally = Tally.of(frame)
    counts = tally.counts((frame["failure"] != "none").to_numpy())
    with threadpool_limits(1, "blas"):
        other = fit_surface(tally.domain, counts).at("5-3-5", SPARSITIES[3], L1S[7])
    assert told["rate"].item() == pytest.approx(other.mean.item(), abs=0.03)


def test_measured_and_surface_tell_the_same() -> None:
    """With 400 seeds per cell, the surface between neighbours lies between their rates, up to a tolerance."""
    frame = lattice(lambda a, i, j: 0.05 + 0.08 * i, 400, architectures=["5-3-5"])
    at, between = (failure_rates(frame, one_cell("5-3-5", s, L1S[6])) for s in (SPARSITIES[5], sum(SPARSITIES[5:7]) / 2))
    assert (at["source"].item(), between["source"].item()) == ("measured", "surface")
    assert at["rate"].item() == pytest.approx(0.45, abs=0.06)
    assert between["rate"].item() == pytest.approx(0.49, abs=0.06)


def test_few_cells_say_little_of_what_lies_between() -> None:
    """With 0 of 100 at one l1 and 100 of 100 at the next, the interval between is (0, 1); at the cells it is their own."""
    frame = frame_of("5-3-5", 0.9, [0.01] * 100 + [1.0] * 100, range(200), ["none"] * 100 + ["sae_dead"] * 100)
    low, middle, high = (failure_rates(frame, one_cell("5-3-5", 0.9, l1)).iloc[0] for l1 in (0.01, 0.05, 1.0))
    assert (low["rate"], middle["source"], high["rate"]) == (0, "surface", 1)
    assert (middle["low"], middle["high"]) == (0, 1)


def test_zero_l1_is_a_map_of_its_own(frame: pd.DataFrame) -> None:
    """Cells at l1 = 0 are reported from their rows; asking for one in a study without such rows is misuse."""
    both = pd.concat([frame, lattice(0.0, 60, l1s=(0.0,))], ignore_index=True)
    told = failure_rates(both, pd.concat([one_cell("5-3-5", SPARSITIES[3], 0.0), one_cell("5-3-5", SPARSITIES[3], 0.01)]))
    assert told["source"].tolist() == ["measured", "surface"]
    assert told["rate"].iloc[0] == 0 < told["rate"].iloc[1]
    with pytest.raises(MisuseError, match="l1=0"):
        failure_rates(frame, one_cell("5-3-5", SPARSITIES[3], 0.0))


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        (one_cell("5-3-5", 0.99, 0.01), "sparsity=0.99 is outside"),
        (one_cell("5-3-5", 0.5, 10.0), "l1=10 is outside .*, 0.0001 to 1.*nearest measured cell is S = 0.48, l1 = 1 "),
        (one_cell("7-3-7", 0.5, 0.01), "architecture='7-3-7' is not in"),
        (pd.DataFrame({"architecture": ["5-3-5"], "l1": [1.0]}), "lack the columns sparsity"),
        (pd.DataFrame({"architecture": ["5-3-5"], "sparsity": ["much"], "l1": [1.0]}), "sparsity is 'much'"),
        (pd.DataFrame({"architecture": ["five"], "sparsity": [0.5], "l1": [1.0]}), "architecture='five'"),
    ],
)
def test_cells_that_cannot_be_told_are_refused(frame: pd.DataFrame, cells: object, complaint: str) -> None:
    """The error is one line that says what is wrong."""
    given = cells() if callable(cells) else cells
    with pytest.raises(MisuseError, match=complaint) as refused:
        failure_rates(frame, given)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_no_rows_no_rates() -> None:
    """Without rows there are no rates, and without cells the answer is empty."""
    frame = lattice(box((0, 3), (0, 3), (0, 3)), 2)
    with pytest.raises(MisuseError, match="no rows yet"):
        failure_rates(frame.head(0), one_cell("5-3-5", 0.5, 0.01))
    assert failure_rates(frame, one_cell("5-3-5", 0.5, 0.01).head(0)).columns.tolist() == COLUMNS


def test_cells_go_round_by_csv(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Thousands of cells are read from a file and written into one, which is itself a file of cells with the same answers."""
    generator = np.random.default_rng(5)
    size = 3000
    cells = pd.DataFrame(
        {
            "architecture": generator.choice(["5-3-5", "10-5-10"], size),
            "sparsity": generator.uniform(0.3, 0.96, size),
            "l1": 10 ** generator.uniform(-4, 0, size),
        }
    )
    cells.to_csv(tmp_path / "cells.csv", index=False)
    told = failure_rates(frame, read_cells(str(tmp_path / "cells.csv")))
    told.to_csv(tmp_path / "rates.csv", index=False)
    again = failure_rates(frame, read_cells(str(tmp_path / "rates.csv")))
    pd.testing.assert_frame_equal(again, told)


def test_command_tells_one_cell(run: Run, stored: Path) -> None:  # noqa: F811
    """The command prints a sentence, or one JSON document."""
    arguments = ["rate", "made", "5-3-5", "--sparsity", "0.9", "--l1", "0.01", "--storage", stored]
    code, text, _ = run(*arguments)
    assert code == 0
    assert "95% interval" in text
    document = json.loads(run(*arguments, "--json")[1])
    assert document["rates"][0].keys() == set(COLUMNS)
    assert document["rates"][0]["replicates"] == 4
    assert document["surface"] == 1


def test_the_whole_range_of_a_search_can_be_asked_for(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """`rate` accepts exactly the first and last sparsity and l1, even without replicates there; regions span the range."""
    search = {"kind": "map", "budget": 64, "first_pass": 64}
    space = {"architectures": ["5-3-5"], "sparsities": [0.3, 0.98], "l1": [1e-4, 1.0], "seeds": [0]}
    spec = study_from({"name": "mapped", "protocol": TINY, "space": space, "search": search})
    folder = Storage.at(tmp_path).study("mapped")
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    folder.write_text("manifest.json", "{}")
    batches = Batches(learner_of(spec), spec, row_schema(LEARNER_COLUMNS).empty_table())
    for pack in batches.learn():
        folder.write_shard(pack.pack_id, run_pack(pack, study="mapped"))
    rows = load("mapped", str(tmp_path))
    assert 0.3 < rows["sparsity"].min() < rows["sparsity"].max() < 0.98
    for sparsity in (0.3, 0.98):
        for l1 in (1e-4, 1.0):
            arguments = ["rate", "mapped", "5-3-5", "--sparsity", sparsity, "--l1", l1, "--storage", tmp_path, "--json"]
            (told,) = json.loads(run(*arguments)[1])["rates"]
            assert 0 <= told["low"] <= told["rate"] <= told["high"] <= 1
    code, _, error = run("rate", "mapped", "5-3-5", "--sparsity", 0.2999, "--l1", 1e-4, "--storage", tmp_path)
    assert (code, "outside the study's range, 0.3 to 0.98" in error) == (2, True)
    halves = (np.arange(24) + 0.5) / 24
    (whole,) = failure_regions(rows.assign(failure="sae_dead"), domain=spec.domain)
    assert whole.extents["sparsity"] == pytest.approx(tuple(0.3 + 0.68 * halves[[0, -1]]), rel=1e-12)
    assert whole.extents["l1"] == pytest.approx(tuple(10 ** (-4 + 4 * halves[[0, -1]])), rel=1e-12)


def test_command_tells_a_file(run: Run, stored: Path, tmp_path: Path) -> None:  # noqa: F811
    """A file of cells gives a file of rates."""
    one_cell("5-3-5", 0.7, 0.1).to_csv(tmp_path / "cells.csv", index=False)
    code, out, _ = run(
        "rate", "made", "--cells", tmp_path / "cells.csv", "--out", tmp_path / "r.csv", "--storage", stored, "--json"
    )
    assert (code, json.loads(out)["cells"]) == (0, 1)
    assert pd.read_csv(tmp_path / "r.csv").columns.tolist() == COLUMNS


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "one of the two"),
        (["5-3-5", "--sparsity", "0.9"], "one of the two"),
        (["5-3-5", "--sparsity", "0.9", "--cells", "c.csv"], "one of the two"),
        (["--cells", "absent.csv", "--out", "r.csv"], "cannot be read"),
        (["5-3-5", "--sparsity", "0.9", "--l1", "7"], "outside the study's range"),
        (["8-4-8", "--sparsity", "0.9", "--l1", "0.1"], "not in the study"),
        (["5-3-5", "--sparsity", "0.9", "--l1", "0.1", "--failure", "dead"], "failure='dead' is unknown"),
    ],
)
def test_misuse_of_the_command_is_one_line(run: Run, stored: Path, arguments: list[str], complaint: str) -> None:  # noqa: F811
    """Misuse exits with 2 and writes nothing."""
    code, out, err = run("rate", "made", *arguments, "--storage", stored)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("r.csv").exists()
