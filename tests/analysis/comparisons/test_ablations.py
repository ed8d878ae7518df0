"""Protocols of one study, compared over the seeds that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.comparisons.ablations import compared_arms
from analysis.report.page import write_report
from search_spaces import MisuseError, StudySpec, study_from
from study import run_here
from study.declaration import declare
from study.packs import missing_packs
from study.planning import untimed_plan
from study.replicate import replicate_again
from study.run_pack import run_pack
from study.storage.status import status
from study.storage.study_folder import Storage
from tests.conftest import TINY
from tests.service.cli.conftest import run as run

SPACE: dict[str, Any] = {"architectures": ["5-3-5"], "sparsities": [0.9], "seeds": "0:6"}
ENDS = {"from": TINY, "to": TINY | {"sae_decoder_norm": "unit", "sae_learning_rate": 0.01}}


def tiny(**changes: Any) -> StudySpec:
    return study_from({"name": "ablated", "engine": "compiled", "ablate": ENDS, "space": SPACE | changes})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A storage with the finished study of four protocols, written without Ray."""
    folder = declare(tiny(), Storage.at(tmp_path))
    for pack in missing_packs(tiny(), ())[0]:
        folder.write_shard(pack.pack_id, run_pack(pack, study="ablated"))
    return tmp_path


def verdicts(spec: StudySpec, failing: dict[int, int]) -> pd.DataFrame:
    """Rows of the study in which, of each arm, the first so many seeds fail (all of those that are not mentioned)."""
    parts = []
    for place, (arm, own) in enumerate(zip(spec.arms, spec.replicates(), strict=True)):
        fails = np.arange(len(own)) < failing.get(place, len(own))
        columns = {name: getattr(own, name) for name in ("sparsity", "l1", "seed", "data_seed", "ae_seed", "sae_seed")}
        verdict = np.where(fails, "sae_dense", "none")
        parts.append(pd.DataFrame(columns | {"architecture": "5-3-5", "failure": verdict, "protocol_id": arm.protocol.protocol_id}))
    return pd.concat(parts, ignore_index=True)


def test_each_difference_has_its_paired_change() -> None:
    """By hand: of 40 seeds all fail in the first, none in the second, and the two single differences cure 30 and 1."""
    spec = tiny(seeds="0:40")
    found = compared_arms(verdicts(spec, {1: 0, 2: 10, 3: 39}), spec.arms)
    table = found.table
    assert list(table["change"]) == pytest.approx([-1, -0.75, -1 / 40])
    assert list(table["p_value"]) == pytest.approx([2 * 0.5**40, 2 * 0.5**30, 1])
    assert (table["p_holm"] >= table["p_value"]).all()
    assert ((table["low"] <= table["change"]) & (table["change"] <= table["high"])).all()
    assert set(table["seeds"]) == {40}
    assert any(
        "lower the rate of any failure beyond chance (Holm): sae_decoder_norm 100% → 25%" in text for text in found.sentences
    )
    assert any("make no difference beyond chance: sae_learning_rate" in text for text in found.sentences)


def test_protocols_at_their_own_l1_share_cells() -> None:
    """The l1 goes with the protocol: rows of both are paired by architecture, sparsity and seeds."""
    spec = study_from({"name": "a", "ablate": {"from": "dissertation", "to": "sound"}, "space": SPACE})
    table = compared_arms(verdicts(spec, {1: 0}), spec.arms).table
    assert len(table) == len(spec.arms) - 1
    assert set(table["seeds"]) == {6}
    assert {"l1"} <= set(table["difference"])


def test_an_arm_without_rows_is_left_out_and_one_protocol_has_nothing_to_compare() -> None:
    spec = tiny()
    frame = verdicts(spec, {})
    assert len(compared_arms(frame[frame["protocol_id"] == spec.protocols[0].protocol_id], spec.arms).table) == 0
    with pytest.raises(MisuseError, match="one protocol"):
        compared_arms(frame, ())
    with pytest.raises(MisuseError, match="failure='sae_ded'"):
        compared_arms(frame, spec.arms, "sae_ded")


def test_a_study_of_several_protocols_is_planned_resumed_and_read(stored: Path) -> None:
    """Every part counts: what is missing, how far it is, rows made again, and rows trained in this process."""
    spec, folder = tiny(), Storage.at(stored).study("ablated")
    rows = run_here(spec)
    assert len(rows) == spec.space.size == 6 * len(spec.arms) == status("ablated", stored).done == status("ablated", stored).planned
    assert missing_packs(spec, rows["replicate_id"].to_pylist()) == ([], len(rows))
    plan, _ = untimed_plan(Storage.at(stored).study("other"), spec, workers=1)
    assert (plan.planned, plan.packs) == (len(rows), len(spec.arms))
    assert replicate_again("ablated", rows["replicate_id"][-1].as_py(), stored)[2] == []
    assert len(analysis.ablation("ablated", stored).table) == 3
    folder.set_aside([folder.shard_ids()[0]])
    assert (status("ablated", stored).done, untimed_plan(folder, spec, workers=1)[0].done) == (len(rows) - 6, len(rows) - 6)
    frame = analysis.load("ablated", stored)
    assert set(frame["protocol_id"]) <= {protocol.protocol_id for protocol in spec.protocols}


def test_the_report_compares_the_protocols(stored: Path) -> None:
    """And shows nothing in which their rows would be mixed."""
    page = Path(write_report("ablated", stored)).read_text()
    assert "4 protocols" in page
    assert "Changed alone in" in page
    assert "sae_decoder_norm" in page
    assert "Failure probability" not in page


@pytest.mark.parametrize("command", [["regions", "ablated"], ["compare", "ablated", "ablated"]])
def test_commands_that_would_mix_protocols_refuse(run: Any, stored: Path, command: list[str]) -> None:
    code, _, err = run(*command, "--storage", stored)
    assert (code, err.count("\n")) == (2, 1)
    assert "compares 4 protocols" in err
