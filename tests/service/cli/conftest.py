"""The command, run in this process; a study that is done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces import study_from
from service.cli import app as cli
from study.packs import Pack
from study.run_pack import run_pack
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
