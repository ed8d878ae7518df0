"""A declared study: its specification is stored, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import MisuseError, study_from
from study.declaration import declare
from study.storage.status import read_spec, status
from study.storage.study_folder import Storage
from tests.conftest import TINY

SPEC = {
    "name": "s",
    "protocol": TINY,
    "space": {"architectures": ["5-3-5"], "sparsities": [0.5], "l1": [0.01], "seeds": "0:2"},
}


def test_declared_study_waits(tmp_path: Path) -> None:
    """Declaring it again changes nothing; another study of that name is refused."""
    folder = declare(study_from(SPEC), Storage.at(tmp_path))
    declare(study_from(SPEC), Storage.at(tmp_path))
    assert folder.listing() == ["study.yaml"]
    assert read_spec(folder) == study_from(SPEC)
    assert (status("s", tmp_path).state, status("s", tmp_path).done) == ("waiting", 0)
    with pytest.raises(MisuseError, match="another specification"):
        declare(study_from(SPEC | {"dtype": "float32"}), Storage.at(tmp_path))


def test_folder_that_is_no_study_is_left_alone(tmp_path: Path) -> None:
    """Whoever's it is."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").touch()
    with pytest.raises(MisuseError, match="is not a study"):
        declare(study_from(SPEC), Storage.at(tmp_path))
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["thesis.tex"]
