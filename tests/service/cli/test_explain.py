"""`sae-study diagnose`: what it prints and writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.diagnosis.diagnose import CHANGES
from search_spaces.failures import FailureKind
from study.failures import Cause
from tests.service.cli.conftest import Run

CHANGE = {change.name: change for change in CHANGES}


def test_json_has_what_was_promised(run: Run, tmp_path: Path) -> None:
    """One document; a rate with its interval per change; one entry per output or latent; both figures."""
    code, out, err = run("diagnose", "3-2-3/4", "--sparsity", 0.9, "--l1", 0.01, "--seed", 4, "--json", "--out", tmp_path / "new")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["failure"] in {kind.value for kind in FailureKind}
    assert found["cause"] in {cause.value for cause in Cause} - {"unknown"}
    assert {"replicates", "failures", "rate", "low", "high"} <= set(found["base_rate"])
    assert found["base_rate"]["replicates"] == 1000
    assert [one["change"] for one in found["interventions"]] == list(CHANGE)
    for one in found["interventions"]:
        assert one["seeds"] == (100 if CHANGE[one["change"]].draws else 1)
        assert one["rate"] == one["failures"] / one["seeds"]
        assert 0 <= one["low"] <= one["rate"] <= one["high"] <= 1
        assert one["failures"] + sum(one["other"].values()) <= one["seeds"]
    assert len(found["trajectory"]["ae_outputs_died_at"]) == 3
    assert len(found["trajectory"]["sae_latents_died_at"]) == 4
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [".png", ".svg"]
    assert found["verdict"].startswith("3-2-3/4 at S = 0.9")


def test_without_an_sae_only_the_autoencoder_is_diagnosed(run: Run, tmp_path: Path) -> None:
    """Six changes, no latents; a table and a paragraph for people; the figure under the name given."""
    cell = ("3-2-3", "--sparsity", 0.98, "--l1", 0.01, "--seed", 2, "--protocol", "dissertation-diagnosis")
    code, out, err = run("diagnose", *cell, "--out", tmp_path / "why.svg")
    assert (code, err) == (0, "")
    assert (tmp_path / "why.svg").read_text().startswith("<?xml")
    assert "ae_epochs*4" in out
    assert not {"sae_seed", "l1*0", "rescale"} & set(out.split())
    found = json.loads(run("diagnose", *cell, "--json")[1])
    assert found["trajectory"]["sae_latents_died_at"] == []
    assert len(found["interventions"]) == 6


GOOD = ["3-2-3", "--sparsity", "0.9", "--l1", "0.01", "--seed", "1"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["3-2", *GOOD[1:]], "architecture='3-2'"),
        (["3-3-3", *GOOD[1:]], "no bottleneck"),
        ([*GOOD, "--sparsity", "1"], "sparsity=1.0 is outside [0, 1)"),
        ([*GOOD, "--sparsity", "nan"], "sparsity=nan"),
        ([*GOOD, "--l1", "-1"], "l1=-1.0"),
        ([*GOOD, "--seed", "-1"], "seed=-1"),
        ([*GOOD, "--seed", "one"], "--seed"),
        ([*GOOD, "--protocol", "dissertaton"], "Did you mean 'dissertation'?"),
        ([*GOOD, "--out", __file__], "neither .png nor .svg"),
        (GOOD[:-2], "Missing option '--seed'"),
    ],
)
def test_misuse_is_one_line_and_exit_2(run: Run, arguments: list[str], complaint: str) -> None:
    """Refused before anything is trained."""
    code, out, err = run("diagnose", *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
