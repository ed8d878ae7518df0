"""Engines by name: what is known about them before they are imported, and which one `auto` chooses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import PROTOCOLS, MisuseError, Protocol, protocol_from
from study.engines import registry
from study.engines.registry import ENGINES, engine_for
from study.variants.registry import variant_of

EARLIER_STUDY = Path(__file__).parents[2] / "golden" / "three-shards"
STEERED = protocol_from({"base": "sound", "sae_target_l0": 1.0})


def test_auto_is_the_fastest_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """With lane code `compiled`; without, `torch` if PyTorch is installed and can train the protocol, else `reference`."""
    protocol = PROTOCOLS["sound"]
    assert engine_for("auto", protocol).name == "compiled"
    monkeypatch.setattr(type(variant_of(protocol)), "has_lane_code", property(lambda self: False))
    assert engine_for("auto", protocol).name == "torch"
    assert engine_for("auto", STEERED).name == "reference"
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert engine_for("auto", protocol).name == "reference"


@pytest.mark.parametrize(("engine", "protocol"), [("torch", STEERED), ("nonesuch", PROTOCOLS["sound"])])
def test_an_engine_that_cannot_is_refused_by_name(engine: str, protocol: Protocol) -> None:
    """The message names the engine, and the engines that can train the protocol."""
    with pytest.raises(MisuseError, match=rf"{engine}.*(compiled|Engines)"):
        engine_for(engine, protocol)


def test_every_name_that_help_lists_is_an_engine() -> None:
    """So is `auto`."""
    assert {engine_for(name, PROTOCOLS["sound"]).name for name in ENGINES} == set(ENGINES) - {"auto"}


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find(name, package)
from analysis import load, write_report
from search_spaces import MisuseError
from study import launch
from study.storage.status import status

storage = sys.argv[1]
assert status("three-shards", storage).planned == 24
page = open(write_report("three-shards", storage)).read()
assert "engine 'torch', which trained them, is not installed here" in page.replace("&#39;", "'")
try:
    launch("smoke", name="other", engine="torch", storage=storage)
except MisuseError as error:
    assert "needs PyTorch" in str(error)
    print("refused")
assert "torch" not in sys.modules
"""


def test_a_torch_study_is_read_where_pytorch_is_absent(tmp_path: Path) -> None:
    """Status and report need no engine; a launch is refused before anything starts."""
    study = Path(shutil.copytree(EARLIER_STUDY, tmp_path / "three-shards"))
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(text.replace("engine: auto", "engine: torch"))
    line = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["refused"]
    assert not (tmp_path / "other").exists()
