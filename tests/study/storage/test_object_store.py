"""A study on an S3-compatible object store (moto's server on loopback): launched, killed, resumed, loaded, reported."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis import load, tune_frame
from search_spaces import MachineError, MisuseError
from study import launch
from study.on_ray.watch import Progress
from study.packs import missing_packs
from study.storage.status import existing_study, status
from study.storage.study_folder import Storage, StudyFolder
from study.verdict_rows import crashed_rows
from tests.study.on_ray.test_driver import LONGER, science, study, undisturbed


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty folder in an existing bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    own = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (own | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}).items():
            environment.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        options = f"endpoint_override={host}:{port}&scheme=http"
        Storage.at(f"s3://studies?{options}&allow_bucket_creation=true").filesystem.create_dir("studies")
        yield f"s3://studies/in/a/folder?{options}"
        server.stop()


@pytest.fixture
def folder(bucket: str, request: pytest.FixtureRequest) -> StudyFolder:
    """A study's folder that does not exist yet."""
    return Storage.at(bucket).study(request.node.name)


def test_files_are_written_read_and_removed(folder: StudyFolder) -> None:
    """A missing file is no error. A folder that has become empty is removed, so that the study is not listed."""
    assert not folder.exists()
    assert folder.read_text("driver.json") is None
    assert folder.listing() == folder.shard_ids() == folder.tune_runs() == []
    folder.write_text("driver.json", "{}")
    assert folder.read_json("driver.json") == {}
    folder.delete("driver.json")
    folder.delete("driver.json")
    assert folder.listing() == []
    folder.write_text("study.yaml", "name: s")
    assert folder.name in folder.storage.studies()


def test_corrupt_shard_is_set_aside(folder: StudyFolder) -> None:
    """It is renamed once; if another driver has already done so, that is no error."""
    pack = missing_packs(study(), ())[0][0]
    folder.write_shard(pack.pack_id, crashed_rows(pack, study="s"))
    assert len(folder.read_shards().rows) == len(pack)
    folder.set_aside([pack.pack_id])
    folder.set_aside([pack.pack_id])
    assert folder.shard_ids() == []
    aside = f"{folder.path}/rows/{pack.pack_id}.parquet.corrupt"
    assert folder.storage.filesystem.get_file_info(aside).is_file


def test_place_is_written_as_it_was_given() -> None:
    """A URI's options stay at its end; a path becomes absolute; credentials in a URI are refused, and not repeated."""
    storage = Storage.at("s3://bucket/folder?endpoint_override=127.0.0.1:1&scheme=http")
    assert storage.place("s/rows") == "s3://bucket/folder/s/rows?endpoint_override=127.0.0.1:1&scheme=http"
    assert Storage.at(storage.place()) == storage
    assert Storage.at("x").place("s") == f"{os.getcwd()}/x/s"
    with pytest.raises(MisuseError, match="credentials") as refused:
        Storage.at("s3://name:secret@bucket/folder")
    assert "secret" not in str(refused.value)


def test_bucket_that_is_not_there_is_misuse(bucket: str) -> None:
    """No study is in it, and none can be written to it. If a bucket goes in mid-study, the machine is at fault, not the user."""
    missing = Storage.at(bucket.replace("studies", "elsewhere", 1))
    assert missing.studies() == []
    with pytest.raises(MisuseError, match="cannot be written"):
        missing.study("s").refuse_unwritable()
    with pytest.raises(MachineError, match="cannot be written"):
        missing.study("s").write_text("driver.json", "{}")
    with pytest.raises(MisuseError, match="cannot be opened"):
        Storage.at("s3://bucket/folder?endpoint=typo")
    with pytest.raises(MisuseError, match="No study is there"):
        existing_study("s", missing.given)


@pytest.mark.slow
@pytest.mark.ray
def test_bucket_that_goes_away_stops_the_study(bucket: str, local_ray: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At once, with what is done and how to go on, by a machine's error and none of Tune's."""
    place = bucket.replace("studies", "passing", 1)
    Storage.at(f"{place}&allow_bucket_creation=true").filesystem.create_dir("passing")
    filesystem = Storage.at(f"{place}&allow_bucket_deletion=true").filesystem

    def delete(progress: Progress) -> None:
        filesystem.delete_dir_contents("passing", missing_dir_ok=True)
        filesystem.delete_dir("passing")

    with pytest.raises(MachineError, match=r"\d+ of 24 replicates were stored\..*sae-study resume s"):
        launch(study(LONGER, seeds="0:3"), storage=place, workers=1, on_progress=delete)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.ray
def test_study_lives_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Rows and Tune's files alike: launch, SIGKILL in mid-study, resume, load, report, with s3:// throughout."""
    spec = study(LONGER, seeds="0:3")
    file = tmp_path / "given.yaml"
    file.write_text(json.dumps(spec.to_mapping()))

    def command(*arguments: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "service.cli", *arguments, "--storage", bucket]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    driver = command("launch", str(file), "--workers", "1")
    deadline = time.monotonic() + 90
    while len(Storage.at(bucket).study("s").shard_ids()) < 2:
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    time.sleep(1)
    there = status("s", bucket)
    assert there.state == "interrupted"
    assert 0 < len(load("s", bucket)) == there.done < there.planned

    resumed = command("resume", "s", "--workers", "1", "--json")
    printed, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert json.loads(printed)["trained"] == there.planned - there.done
    pd.testing.assert_frame_equal(science(bucket), undisturbed(spec), check_exact=True)
    packs_told = tune_frame("s", bucket)
    assert len(load(Storage.at(bucket).place("s"))) == 24
    assert set(packs_told["pack_id"]) == set(Storage.at(bucket).study("s").shard_ids())
    assert {"training_iteration", "config/pack_id"} <= set(packs_told.columns)

    reported = command("report", "s", "--json")
    printed, errors = reported.communicate(timeout=120)
    assert reported.returncode == 0, errors
    assert json.loads(printed)["page"] == Storage.at(bucket).place("s/report/index.html")
    page = Storage.at(bucket).study("s").read_text("report/index.html")
    assert page is not None
    assert "24" in page
    assert not os.path.exists("s3:")
    assert not [name for name in os.listdir(".") if name.startswith("s3")]
