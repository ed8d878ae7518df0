"""Commands that read what is stored."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from study.storage.schema import row_schema
from study.storage.study_folder import Storage
from tests.service.cli.conftest import Run


def test_spaces_are_listed(run: Run) -> None:
    """As JSON and for people."""
    code, out, _ = run("spaces", "--json")
    assert code == 0
    assert {row["space"]: row["replicates"] for row in json.loads(out)["spaces"]}["full"] == 960_000
    assert "dissertation" in run("spaces")[1]


def test_broken_study_hides_no_other(run: Run, stored: Path) -> None:
    """`status` of all studies reports the one that cannot be read, and shows the others."""
    (stored / "broken").mkdir()
    (stored / "broken" / "study.yaml").write_text("name: [")
    code, out, err = run("status", "--storage", stored)
    assert code == 0
    assert "made: done" in out
    assert "broken/study.yaml, line 2, column 1" in err


def test_status_and_list_show_what_is_stored(run: Run, stored: Path) -> None:
    """All rows are stored and no driver is running: done."""
    code, out, _ = run("status", "made", "--storage", stored, "--json")
    answer = json.loads(out)
    assert (code, answer["state"], answer["done"], answer["planned"]) == (0, "done", 16, 16)
    assert json.loads(run("list", "--storage", stored, "--json")[1]) == {"studies": ["made"]}
    assert "made: done" in run("status", "--storage", stored)[1]
    assert run("list", "--storage", stored / "empty")[0] == 0


def test_status_says_why_a_study_failed(run: Run, stored: Path) -> None:
    """In text and in JSON, from the record that the driver left."""
    folder = Storage.at(stored).study("made")
    for shard in folder.shard_ids():
        folder.set_aside([shard])
    folder.write_text("driver.json", json.dumps({"state": "failed", "errors": ["pack p raised again and again: out of luck"]}))
    code, out, _ = run("status", "made", "--storage", stored)
    assert (code, out.splitlines()[0]) == (0, "made: failed, 0 of 16 replicates; failures: none")
    assert out.splitlines()[1] == "  error: pack p raised again and again: out of luck"
    assert json.loads(run("status", "--storage", stored, "--json")[1])["studies"][0]["errors"] == [
        "pack p raised again and again: out of luck"
    ]


def test_rows_are_written(run: Run, stored: Path) -> None:
    """The same frame as Parquet and as CSV."""
    for kind in ("parquet", "csv"):
        code, out, err = run("rows", "made", "--out", stored / f"rows.{kind}", "--storage", stored)
        assert (code, err) == (0, "")
        assert "16 rows" in out
    parquet, csv = pd.read_parquet(stored / "rows.parquet"), pd.read_csv(stored / "rows.csv")
    assert list(parquet.columns) == list(csv.columns) == [*row_schema().names, "sae_all_dead"]
    np.testing.assert_array_equal(parquet["sae_mse"], csv["sae_mse"])
    assert parquet["failure"].tolist() == csv["failure"].tolist()


def test_replicate_is_trained_again(run: Run, stored: Path) -> None:
    """Alone, from the stored fields: identical in every science column; a tampered row is reported."""
    rows = Storage.at(stored).study("made").read_shards().rows
    replicate_id = rows["replicate_id"][5].as_py()
    code, out, _ = run("replicate", "made", replicate_id[:9], "--storage", stored, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["identical"] is True
    assert answer["stored"]["sae_mse"] == answer["again"]["sae_mse"]
    code, _, err = run("replicate", "made", "zzz", "--storage", stored)
    assert code == 2
    assert "names 0 of the 16 rows" in err

    changed = rows.to_pandas()
    changed.loc[5, "l0"] += 1
    (shard,) = (stored / "made" / "rows").glob("*.parquet")
    changed.to_parquet(shard, index=False)
    code, out, _ = run("replicate", "made", replicate_id, "--storage", stored, "--json")
    assert code == 1
    assert json.loads(out)["differing"] == ["l0"]


def test_a_printed_sparsity_is_a_measured_one(run: Run, stored: Path) -> None:
    """Six digits are printed of 0.918181818182, and can be typed back; a rate between cells names those beside it."""
    shard = next((stored / "made" / "rows").glob("*.parquet"))
    rows = pd.read_parquet(shard)
    rows.assign(sparsity=rows["sparsity"].replace(0.9, 0.918181818182)).to_parquet(shard, index=False)
    for given in ("0.918182", "0.918"):
        code, out, _ = run("rate", "made", "5-3-5", "--sparsity", given, "--l1", "0.01", "--storage", stored)
        assert (code, "S = 0.918182, l1 = 0.01" in out, "4 replicates at this cell" in out) == (0, True, True)
    out = run("rate", "made", "5-3-5", "--sparsity", "0.9", "--l1", "0.01", "--storage", stored)[1]
    assert "0 replicates at this cell\nNearest measured cells: S = 0.918182, l1 = 0.01 (" in out


def test_rates_of_a_file_are_printed(run: Run, stored: Path, tmp_path: Path) -> None:
    """As CSV, unless --out names a file."""
    (tmp_path / "cells.csv").write_text("architecture,sparsity,l1\n5-3-5,0.5,0.01\n5-3-5,0.9,1\n")
    code, out, _ = run("rate", "made", "--cells", tmp_path / "cells.csv", "--storage", stored)
    assert code == 0
    assert pd.read_csv(io.StringIO(out))["replicates"].tolist() == [4, 4]


def test_regions_have_their_fields(run: Run, stored: Path) -> None:
    """The names of the fields, on which others rely."""
    code, out, _ = run("regions", "made", "--storage", stored, "--json")
    regions = json.loads(out)["regions"]
    assert code == 0
    assert regions
    assert regions[0].keys() == {
        "name", "failure", "architectures", "sparsity", "l1", "volume", "peak_rate", "peak_interval", "replicates", "confidence",
        "neighbours",
    }  # fmt: skip
    assert run("regions", "made", "--storage", stored, "--failure", "dead")[0] == 2
    assert run("regions", "made", "--storage", stored, "--level", "2")[0] == 2
    assert "any@" in run("regions", "made", "--storage", stored)[1]


def test_regions_say_what_they_leave_out(run: Run, stored: Path) -> None:
    """Replicates of l1 = 0: on standard error, and in the document."""
    shard = next((stored / "made" / "rows").glob("*.parquet"))
    rows = pd.read_parquet(shard)
    rows.assign(l1=rows["l1"].where(rows["l1"] < 1, 0.0)).to_parquet(shard, index=False)
    code, out, err = run("regions", "made", "--storage", stored, "--json")
    assert (code, json.loads(out)["left_out_l1_zero"]) == (0, 8)
    assert "8 replicates with l1 = 0 are left out" in err
