"""Commands that run studies: what they refuse, what they plan, what they print."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.service.cli.conftest import Run


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


def test_storage_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    """Because a file is where the folder should be, or the kind of address is unknown."""
    (tmp_path / "file").write_text("")
    code, _, err = run("launch", "smoke", "--storage", tmp_path / "file")
    assert code == 2
    assert "is no folder" in err
    assert len(err.strip().splitlines()) == 1
    code, _, err = run("list", "--storage", "gopher://x/y")
    assert code == 2
    assert "cannot be opened" in err


def test_port_that_is_no_ray_is_refused(run: Run, tmp_path: Path) -> None:
    """Ray itself would wait for minutes at such a port; that of its dashboard is one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, _, err = run("launch", "smoke", "--address", f"127.0.0.1:{server.server_port}", "--storage", tmp_path / "studies")
        server.shutdown()
    assert code == 2
    assert "but not as Ray does" in err
    assert not (tmp_path / "studies").exists()


def test_folder_that_is_no_study_is_left_alone(run: Run, tmp_path: Path) -> None:
    """A folder of somebody's documents is not written to."""
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "thesis.tex").write_text("my thesis")
    code, _, err = run("launch", "smoke", "--storage", tmp_path)
    assert code == 2
    assert "is not a study" in err
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == ["thesis.tex"]


def test_dry_run_plans_and_does_nothing(run: Run, tmp_path: Path) -> None:
    """It prints replicates, packs and cost, and does not create the storage."""
    code, out, _ = run("launch", "dissertation", "--dry-run", "--json", "--storage", tmp_path / "studies", "--workers", "2")
    plan = json.loads(out)
    assert code == 0
    assert plan["replicates"] == 7000
    assert plan["packs"] * plan["replicates_per_pack"] >= 7000
    assert plan["core_hours"] > 0
    assert not (tmp_path / "studies").exists()


@pytest.mark.ray
def test_launch_prints_one_json_document(local_ray: Path, run: Run, tmp_path: Path) -> None:
    """There is nothing else on standard output, whatever Ray and Tune print."""
    file = study_file(tmp_path, f"name: j\nprotocol: {json.dumps(TINY)}\nspace: {SPACE % ('0.9', '0.01', '[1, 2]')}\n")
    code, out, _ = run("launch", file, "--storage", tmp_path / "studies", "--json")
    answer = json.loads(out)
    assert (code, answer["state"], answer["done"]) == (0, "done", 2)
    assert answer["findings"]
    code, out, _ = run("resume", "j", "--storage", tmp_path / "studies")
    assert code == 0
    assert "Study j: done, 0 replicates trained" in out
