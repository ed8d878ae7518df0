"""The command line: what it refuses, what it prints, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search_spaces import PROTOCOLS, grid, study_from
from service.cli import app as cli
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import row_schema
from study.storage.study_folder import Storage
from tests.conftest import TINY

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sae-study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A storage with the finished study `made`, written without Ray."""
    spec = study_from(
        {
            "name": "made",
            "protocol": TINY,
            "space": {"architectures": ["5-3-5"], "sparsities": [0.5, 0.9], "l1": [0.01, 1.0], "seeds": "0:4"},
        }
    )
    folder = Storage.at(tmp_path).study("made")
    (own,) = spec.replicates()
    pack = Pack(own, spec.protocol, spec.dtype, "reference")
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    folder.write_text("manifest.json", "{}")
    folder.write_shard(pack.pack_id, run_pack(pack, study="made"))
    return tmp_path


def study_file(folder: Path, text: str) -> Path:
    """A study file with this text."""
    path = folder / "study.yaml"
    path.write_text(text)
    return path


SPACE = "{architectures: [10-5-10], sparsities: [%s], l1: [%s], seeds: %s}"


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        (SPACE % ("1.2", "0.01", "[1]"), "sparsity=1.2"),
        (SPACE % (".nan", "0.01", "[1]"), "sparsity=nan"),
        (SPACE % ("sparse", "0.01", "[1]"), "sparsity='sparse'"),
        (SPACE.replace("10-5-10", "10-5-9") % ("0.9", "0.01", "[1]"), "architecture='10-5-9'"),
        (SPACE % ("0.9", "-1", "[1]"), "l1=-1"),
        (SPACE % ("0.9", ".inf", "[1]"), "l1=inf"),
        (SPACE % ("0.9", "0.01", "[]"), "seeds is empty"),
        ("disertation", "space='disertation'"),
    ],
)
def test_bad_study_is_one_line_and_exit_2(run: Run, tmp_path: Path, space: str, complaint: str) -> None:
    """Nothing is started, nothing is written."""
    storage = tmp_path / "studies"
    file = study_file(tmp_path, f"name: bad\nprotocol: dissertation\nspace: {space}\n")
    code, out, err = run("launch", file, "--storage", storage)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not storage.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["launch", "nowhere"], "space='nowhere' is unknown"),
        (["launch", "absent.yaml"], "cannot be read"),
        (["launch", "smoke", "--protocol", "sond"], "Did you mean 'sound'?"),
        (["launch", "smoke", "--engine", "warp"], "engine"),
        (["launch", "smoke", "--dtype", "float8"], "dtype"),
        (["launch", "smoke", "--seeds", "9"], None),
        (["launch", "smoke", "--seeds", "5:5"], "seeds='5:5' is empty"),
        (["launch", "smoke", "--pack-size", "-3"], "pack_size"),
        (["launch", "smoke", "--workers", "0"], "workers=0"),
        (["launch", "smoke", "--address", "127.0.0.1:9"], "address='127.0.0.1:9' cannot be reached"),
        (["launch", "smoke", "--address", "nonsense"], "no Ray address"),
        (["launch", "smoke", "--address", "foo..bar:6379"], "address='foo..bar:6379' cannot be reached"),
        (["launch", "smoke", "--pack-size", "²"], "pack_size='²'"),
        (["launch", "smoke", "--colour"], "No such option"),
        (["launch"], "Missing argument"),
        (["rows", "absent", "--out", "x.csv"], "study='absent' is not in storage"),
        (["rows", "absent", "--out", "x.xlsx"], ".parquet nor .csv"),
        (["resume", "absent"], "study='absent' is not in storage"),
        (["status", "absent"], "study='absent' is not in storage"),
        (["stop", "absent"], "study='absent' is not in storage"),
        (["report", "absent"], "study='absent' is not in storage"),
        (["regions", "absent"], "study='absent' is not in storage"),
        (["replicate", "absent", "abc"], "study='absent' is not in storage"),
        (["fly"], "No such command"),
    ],
)
def test_misuse_is_one_line_and_exit_2(run: Run, tmp_path: Path, arguments: list[str], complaint: str | None) -> None:
    """What was wrong, what was expected; no traceback; the storage is left as it was."""
    storage = ["--storage", str(tmp_path / "studies")] if len(arguments) > 1 else []
    if complaint is None:
        arguments, complaint = [*arguments[:-1], "nine"], "seeds='nine' is no range"
    code, out, err = run(*arguments, *storage)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "studies").exists()


def test_storage_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    """A file stands where the folder should be; an unknown kind of address."""
    (tmp_path / "file").write_text("")
    code, _, err = run("launch", "smoke", "--storage", tmp_path / "file")
    assert code == 2
    assert "cannot be written" in err
    assert len(err.strip().splitlines()) == 1
    code, _, err = run("list", "--storage", "gopher://x/y")
    assert code == 2
    assert "cannot be opened" in err


def test_port_that_is_no_ray_is_refused(run: Run, tmp_path: Path) -> None:
    """Ray itself waits there for minutes; its dashboard's port is such a one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, _, err = run("launch", "smoke", "--address", f"127.0.0.1:{server.server_port}", "--storage", tmp_path / "studies")
        server.shutdown()
    assert code == 2
    assert "but not as Ray does" in err
    assert not (tmp_path / "studies").exists()


def test_folder_that_is_no_study_is_left_alone(run: Run, tmp_path: Path) -> None:
    """Somebody's documents are not written into."""
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "thesis.tex").write_text("my thesis")
    code, _, err = run("launch", "smoke", "--storage", tmp_path)
    assert code == 2
    assert "is no study" in err
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == ["thesis.tex"]


def test_broken_study_hides_no_other(run: Run, stored: Path) -> None:
    """`status` of all tells the one that cannot be read, and goes on."""
    (stored / "broken").mkdir()
    (stored / "broken" / "study.yaml").write_text("name: [")
    code, out, err = run("status", "--storage", stored)
    assert code == 0
    assert "made: done" in out
    assert "broken/study.yaml is not YAML" in err


def test_dry_run_plans_and_does_nothing(run: Run, tmp_path: Path) -> None:
    """Replicates, packs, cost; the storage is not made."""
    code, out, _ = run("launch", "dissertation", "--dry-run", "--json", "--storage", tmp_path / "studies", "--workers", "2")
    plan = json.loads(out)
    assert code == 0
    assert plan["replicates"] == 7000
    assert plan["packs"] * plan["replicates_per_pack"] >= 7000
    assert plan["core_hours"] > 0
    assert not (tmp_path / "studies").exists()


def test_spaces_are_listed(run: Run) -> None:
    """As JSON and for people."""
    code, out, _ = run("spaces", "--json")
    assert code == 0
    assert {row["space"]: row["replicates"] for row in json.loads(out)["spaces"]}["full"] == 960_000
    assert "dissertation" in run("spaces")[1]


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


def test_replicate_is_made_again(run: Run, stored: Path) -> None:
    """Alone, from the stored fields: identical in every science column; a tampered row is told."""
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


def test_status_and_list_tell_what_is_there(run: Run, stored: Path) -> None:
    """All rows there and no driver: done."""
    code, out, _ = run("status", "made", "--storage", stored, "--json")
    answer = json.loads(out)
    assert (code, answer["state"], answer["done"], answer["planned"]) == (0, "done", 16, 16)
    assert json.loads(run("list", "--storage", stored, "--json")[1]) == {"studies": ["made"]}
    assert "made: done" in run("status", "--storage", stored)[1]
    assert run("list", "--storage", stored / "empty")[0] == 0


def test_regions_have_their_fields(run: Run, stored: Path) -> None:
    """Names that others rely on."""
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
    assert "8 replicates of l1 = 0 are left out" in err


@pytest.mark.ray
def test_launch_prints_one_json_document(local_ray: Path, run: Run, tmp_path: Path) -> None:
    """And nothing else on standard output, whatever Ray and Tune print."""
    file = study_file(tmp_path, f"name: j\nprotocol: {json.dumps(TINY)}\nspace: {SPACE % ('0.9', '0.01', '[1, 2]')}\n")
    code, out, _ = run("launch", file, "--storage", tmp_path / "studies", "--json")
    answer = json.loads(out)
    assert (code, answer["state"], answer["done"]) == (0, "done", 2)
    assert answer["findings"]
    code, out, _ = run("resume", "j", "--storage", tmp_path / "studies")
    assert code == 0
    assert "Study j: done, 0 replicates trained" in out


def test_command_is_installed() -> None:
    """`sae-study` and `python -m service.cli` are the same command."""
    for command in ([str(Path(sys.executable).with_name("sae-study"))], [sys.executable, "-m", "service.cli"]):
        shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "launch" in shown
        assert "regions" in shown


@pytest.mark.slow
def test_published_replicate_is_judged_from_its_row(stored: Path) -> None:
    """The sentence about the published failure comes from the row: with a healthy AE it would say so."""
    from analysis.comparisons.published import published_finding

    pack = Pack(grid(["10-5-10"], [0.9], [0.01], [123, 0])[0], PROTOCOLS["dissertation"], "float64", "reference")
    frame = run_pack(pack).to_pandas()
    sentences = published_finding(frame)
    assert "is ae_collapsed, not an SAE failure" in sentences[0]
    assert "1 of 2 seeds" in sentences[1]
    healthy = frame.assign(failure="sae_dead")
    assert "is sae_dead, an SAE failure" in published_finding(healthy)[0]
    assert published_finding(frame[frame["seed"] != 123]) == []
