"""A storage that fills, vanishes or belongs to somebody else, and paths as shells pass them on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.field.conftest import ROOT, Run

MANY = """\
name: tiny
protocol: {base: dissertation, samples: 200, ae_epochs: 1, sae_epochs: 1}
space: {architectures: ["5-3-5"], sparsities: [0.5], l1: [0.01], seeds: "0:%d"}
pack_size: %d
"""
MOST_SECONDS = 10.0
"""From the first write that is refused to the end of the run."""

# Starts a long study on a disk of 40 MB, has $FAULT happen, and prints the exit code and the seconds to the end of the run.
IN_MID_STUDY = """
mkdir disk && mount -t tmpfs -o size=40m tmpfs disk
$SAE_STUDY launch many.yaml --storage disk/here --workers 1 2> errors & driver=$!
until ls disk/here/tiny/rows/*.parquet > /dev/null 2>&1; do sleep 0.1; done
eval "$FAULT"; began=$(date +%s%N)
wait $driver; echo "$? $(( ($(date +%s%N) - began) / 1000000 ))"
grep -v replicates, errors
find disk -name '*.part' -o -path '*tune' | grep -c .
"""


def test_a_disk_that_fills_stops_the_study(in_namespace: Run, tmp_path: Path) -> None:
    """It is told as failed, with what is done; nothing else is left; with more room the rest is trained."""
    (tmp_path / "many.yaml").write_text(MANY % (400, 10))
    done = in_namespace(
        "mkdir small && mount -t tmpfs -o size=400k tmpfs small\n"
        "$SAE_STUDY launch many.yaml --storage small --workers 1 2> errors; echo $?\n"
        "newest=$(stat -c %Y small/tiny/rows/*.parquet | sort -n | tail -1); echo $(( $(date +%s) - newest ))\n"
        "tail -n 1 errors; grep -c Traceback errors; ls small/tiny/rows | wc -l; find small -name '*.part' | wc -l\n"
        "$SAE_STUDY status tiny --storage small --json | tr '\\n' ' '; echo\n"
        "$SAE_STUDY resume tiny --storage small > /dev/null 2> errors; echo $?; tail -n 1 errors\n"
        "mount -o remount,size=40m small\n"
        "$SAE_STUDY resume tiny --storage small --json | tr '\\n' ' '"
    )

    code, seconds, error, traces, shards, parts, status, refused, refusal, resumed = done.stdout.splitlines()
    stored = 10 * int(shards)
    assert (code, traces, parts) == ("1", "0", "0")
    assert int(seconds) <= MOST_SECONDS
    assert "No space left on device" in error
    assert f"{stored} of 400 replicates were stored" in error
    assert error.endswith("sae-study resume tiny --storage small")
    there = json.loads(status)
    assert (there["state"], there["done"], there["planned"]) == ("failed", stored, 400)
    assert "No space left on device" in there["errors"][0]
    assert refused == "2"
    assert "No space left on device" in refusal
    outcome = json.loads(resumed)
    assert (outcome["state"], outcome["trained"], outcome["done"]) == ("done", 400 - stored, 400)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("rm -rf disk/here/tiny", "deleted, renamed or unmounted"),
        ("mount -o remount,ro disk", "Read-only file system"),
    ],
)
def test_a_storage_that_goes_away_stops_the_study(in_namespace: Run, tmp_path: Path, fault: str, told: str) -> None:
    """Within seconds, in one line, and nothing is written in its place."""
    (tmp_path / "many.yaml").write_text(MANY % (200_000, 100))
    done = in_namespace(IN_MID_STUDY, env={"FAULT": fault})

    ended, error, left = done.stdout.splitlines()
    code, milliseconds = ended.split()
    assert code == "1"
    assert int(milliseconds) <= 1000 * MOST_SECONDS
    assert told in error
    assert re.search(r"\d+ of 200000 replicates were stored", error)
    assert left == ("1" if "ro" in fault.split(",") or "remount" in fault else "0")


def test_a_study_of_another_user_is_read_and_reported_elsewhere(in_namespace: Run) -> None:
    """Its folder is refused before the work, with the remedy; nothing of it can be read where its owner forbids it."""
    golden = ROOT / "tests" / "golden"
    done = in_namespace(
        f"cp -r {golden} theirs; mkdir closed; cp -r theirs/three-shards closed/study\n"
        "chmod 700 closed; chown -R 1234 theirs closed\n"
        # Root without its power over the files of others: an interpreter in /root can be used by no other user.
        'try() { setpriv --bounding-set -dac_override,-dac_read_search $SAE_STUDY "$@" 2>&1 | tail -n 1; echo ${PIPESTATUS[0]}; }\n'
        "try report three-shards --storage theirs\n"
        "try resume three-shards --storage theirs\n"
        "try launch smoke --storage theirs --dry-run\n"
        "try status study --storage closed\n"
        "try rows three-shards --storage theirs --out theirs/rows.csv\n"
        "try rows three-shards --storage theirs --out rows.csv; ls rows.csv theirs"
    )

    lines = done.stdout.splitlines()
    told, codes = lines[:12:2], lines[1:12:2]
    assert codes == ["2", "2", "2", "1", "2", "0"], done.stdout
    assert all("cannot be written" in line for line in (told[0], told[1], told[2], told[4])), told
    assert told[0].endswith("Choose another folder for the report with --out.")
    assert "Permission denied" in told[3]
    assert lines[12:] == ["rows.csv", "", "theirs:", *sorted(path.name for path in golden.iterdir())]


def test_a_study_file_may_be_a_pipe(in_namespace: Run, tiny_file: Path) -> None:
    """Written as /dev/stdin or as a process substitution."""
    done = in_namespace(
        f"cat {tiny_file} | $SAE_STUDY launch /dev/stdin --dry-run | grep -w replicates\n"
        f"$SAE_STUDY launch <(cat {tiny_file}) --dry-run | grep -w replicates"
    )

    assert done.stdout.split() == ["replicates", "4"] * 2, done.stderr


def test_a_deleted_working_directory_is_told(in_namespace: Run, tiny_file: Path) -> None:
    """A relative path has no meaning there, and Ray does not start; what needs neither works."""
    done = in_namespace(
        "mkdir gone && cd gone && rmdir ../gone\n"
        "$SAE_STUDY status --storage x 2>&1; echo $?\n"
        f"$SAE_STUDY launch {tiny_file} --storage {tiny_file.parent}/st --workers 1 2>&1; echo $?\n"
        f"$SAE_STUDY list --storage {tiny_file.parent}; echo $?"
    )

    told, code, of_launch, code_of_launch, listed, code_of_list = done.stdout.splitlines()
    assert told == of_launch == "error: the working directory is gone. `cd` to one that is there."
    assert (code, code_of_launch, code_of_list) == ("2", "2", "0")
    assert listed.startswith("No studies")


def test_odd_names_are_paths_like_others(sae_study: Run, tmp_path: Path, tiny_file: Path) -> None:
    """Blanks, brackets and letters of any script; `~` where the shell leaves it alone, for every file that is written."""
    storage = tmp_path / "a [1]* b" / "ü"
    env = {"HOME": str(tmp_path)}
    assert sae_study("launch", tiny_file, "--storage", storage, "--workers", "1").returncode == 0
    cells = tmp_path / "cells.csv"
    cells.write_text("architecture,sparsity,l1\n5-3-5,0.5,0.01\n")
    for arguments in (
        ["report", "tiny", "--out=~/rep"],
        ["rows", "tiny", "--out=~/rows.csv"],
        ["rate", "tiny", "--cells=~/cells.csv", "--out=~/rates.csv"],
    ):
        done = sae_study(*arguments, f"--storage=~/{storage.relative_to(tmp_path)}", env=env)
        assert done.returncode == 0, done.stderr
    assert {"rep", "rows.csv", "rates.csv"} < {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()
    assert not list(tmp_path.rglob("*.part"))
