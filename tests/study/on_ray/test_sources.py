"""Which sources train: what is hashed, what is refused, and when a resumed study warns."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces import MisuseError
from search_spaces.errors import MachineError
from study import launch
from study.on_ray import driver
from study.on_ray.sources import Found, driver_path, found, refuse_others, sources, warn_of_others
from tests.study.on_ray.test_driver import study

MODULE = "a_module_of_nobody_else"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Found]:
    """Writes a package of this text in a folder on Python's path, and says what is found."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / MODULE / "part").mkdir(parents=True)

    def make(text: str) -> Found:
        (tmp_path / MODULE / "__init__.py").write_text("raise SystemExit('it was run')")
        (tmp_path / MODULE / "part" / "inner.py").write_text(text)
        return found([MODULE])[MODULE]

    return make


def test_hash_is_of_every_file_of_a_package_and_of_nothing_else(made: Callable[[str], Found], tmp_path: Path) -> None:
    """One letter in a file of a subfolder changes it; compiled files, data and the place do not. Nothing is run."""
    place, digest = made("x = 1")
    assert place == str(tmp_path / MODULE)
    assert made("x = 2")[1] != digest
    (tmp_path / MODULE / "notes.txt").write_text("of no account")
    assert made("x = 1")[1] == digest


def test_what_is_not_there_is_not_found() -> None:
    assert found([MODULE, f"{MODULE}.inner"]) == {MODULE: ("", ""), f"{MODULE}.inner": ("", "")}


def test_folder_without_code_in_the_place_of_a_package_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes any folder of the name for a package."""
    (tmp_path / MODULE).mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    place, digest = found([MODULE])[MODULE]
    assert place == str(tmp_path / MODULE)
    assert digest not in ("", found(["study"])["study"][1])


def test_the_same_sources_elsewhere_are_accepted() -> None:
    refuse_others({"study": ("/here/study", "1")}, {"study": ("/there/study", "1")}, "node")


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (("/there/study.py", "2"), r"workers on node .* 'study' from /there/study\.py, .* imported from /here/study\. Rename it"),
        (("", ""), r"workers on node do not find 'study', .* from /here/study\. Put its folder"),
        (("/here/study", "2"), r"/here/study has changed since 'study' was imported\. Start Python again"),
    ],
)
def test_other_sources_are_refused_with_their_place(theirs: Found, told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        refuse_others({"study": ("/here/study", "1")}, {"study": theirs}, "node")


def test_resume_by_other_sources_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """One line, with both hashes; none for the same sources, and none for a manifest of the time before hashes."""
    (place, digest) = sources()["study"]
    for begun_with in ({}, {"study": digest}, {"an_extension": "not imported here"}):
        warn_of_others("s", begun_with)
    assert caplog.records == []
    warn_of_others("s", {"study": "0123", "search_spaces": sources()["search_spaces"][1]})
    ((_, level, line),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "study='s' was begun with other sources of 'study'" in line
    assert f"(0123 in its manifest.json; {digest} in {place})" in line


def test_workers_path_is_the_drivers_in_whatever_folder_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative entries become absolute, entries that are no folders are left out, and the order stays."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["sub", "", "/nowhere", "__editable__.finder", "/tmp"])
    assert driver_path() == [str(tmp_path / "sub"), str(tmp_path), "/tmp"]


@pytest.mark.ray
def test_worker_with_other_sources_stops_the_run(local_ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node that joins late: it trains nothing, and no pack is tried again."""
    place, _ = sources()["study"]
    monkeypatch.setattr(driver, "sources", lambda: sources() | {"study": (place, "another hash")})
    with pytest.raises(MachineError, match=r"study has changed since .* 0 of 48 replicates were stored"):
        launch(study(), storage=tmp_path)
