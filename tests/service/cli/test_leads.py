"""What commands suggest next."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest

from search_spaces import PROTOCOLS
from service.cli.leads import after_status, after_study, failing_replicate
from study.storage.drivers import StudyState
from study.storage.study_folder import Storage
from tests.service.cli.conftest import Run


def frame(failures: dict[float, list[str]]) -> pd.DataFrame:
    """Replicates of a cell per sparsity, with these verdicts."""
    cells = [(sparsity, seed, kind) for sparsity, kinds in failures.items() for seed, kind in enumerate(kinds)]
    rows = pd.DataFrame(cells, columns=["sparsity", "seed", "failure"]).assign(architecture="10-5-10", l1=1e-5)
    return rows.assign(**dict.fromkeys(["data_seed", "ae_seed", "sae_seed"], rows["seed"]))


def test_the_worst_cell_is_diagnosed() -> None:
    """A replicate with the most frequent verdict of the cell that fails most often; its numbers are given in full."""
    rows = frame({0.5: ["none", "sae_dead"], 0.918181818182: ["sae_dense", "sae_dead", "sae_dead"], 0.95: ["crashed"]})
    wanted = "sae-study diagnose 10-5-10 --sparsity 0.918181818182 --l1 1e-05 --seed 1"
    assert failing_replicate(rows, PROTOCOLS["dissertation"]) == wanted
    assert failing_replicate(rows, PROTOCOLS["sound"]) == f"{wanted} --protocol sound"


def test_nothing_is_diagnosed_where_the_command_could_not() -> None:
    """No failure, a protocol without a name, seeds that differ, no rows."""
    rows = frame({0.5: ["sae_dead"]})
    unnamed = PROTOCOLS["sound"].__class__(samples=400)
    assert failing_replicate(rows, unnamed) is None
    for none in (rows.assign(failure="none"), rows.assign(ae_seed=7), rows.head(0)):
        assert failing_replicate(none, PROTOCOLS["sound"]) is None


@pytest.mark.parametrize(
    ("state", "verbs"),
    [(StudyState.DONE, ["report", "regions"]), (StudyState.RUNNING, ["report", "stop"]), (StudyState.STOPPED, ["resume"])],
)
def test_a_status_leads_on(state: StudyState, verbs: list[str]) -> None:
    assert after_status(Storage.at("elsewhere").study("s"), state) == "Next: " + ", ".join(
        f"`sae-study {verb} s --storage elsewhere`" for verb in verbs
    )


def test_what_is_suggested_runs(run: Run, stored: Path) -> None:
    """Each command of the line after a study, as it is printed."""
    folder = Storage.at(stored).study("made")
    commands = after_study(folder).split("`")[1::2]
    assert len(commands) == 2
    for command in commands:
        code, out, _ = run(*shlex.split(command)[1:])
        assert (code, "Next: " in out) == (0, True)
