"""What may be done next: the last line of most commands, with commands that can be pasted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from search_spaces.cells import SEED_COLUMNS
from search_spaces.failures import FailureKind
from search_spaces.protocol import PROTOCOLS
from study.storage.drivers import StudyState
from study.storage.status import read_spec

if TYPE_CHECKING:
    import pandas as pd

    from search_spaces.protocol import Protocol
    from study.storage.study_folder import StudyFolder

NO_CAUSE = (FailureKind.NONE.value, FailureKind.CRASHED.value)
"""Verdicts that `diagnose` cannot explain."""


def next_steps(*commands: str) -> str:
    """One line of commands."""
    return "Next: " + ", ".join(f"`{command}`" for command in commands)


def after_study(folder: StudyFolder, frame: pd.DataFrame | None = None) -> str:
    """What reads the rows of a study and, if they are given, explains a failure in its worst cell."""
    failing = None if frame is None else failing_replicate(frame, read_spec(folder).protocol)
    return next_steps(*_readers(folder), *([failing] if failing else []))


def after_status(folder: StudyFolder, state: StudyState) -> str:
    """What continues, stops or reads a study in this state."""
    if state == StudyState.RUNNING:
        return next_steps(folder.command("report"), folder.command("stop"))
    if state == StudyState.DONE:
        return next_steps(*_readers(folder))
    return next_steps(folder.command("resume"))


def _readers(folder: StudyFolder) -> list[str]:
    """The commands that read the rows of a finished study; `regions` takes no study of several protocols."""
    several = folder.exists() and read_spec(folder).arms
    return [folder.command("report"), *([] if several else [folder.command("regions")])]


def failing_replicate(frame: pd.DataFrame, protocol: Protocol) -> str | None:
    """The command that diagnoses a replicate of the cell that fails most often: the first one with its most frequent verdict.

    None if nothing failed, and for protocols without a name, because the command takes only named ones.
    """
    names = [name for name, one in PROTOCOLS.items() if one == protocol]
    one_seed = frame[list(SEED_COLUMNS)].eq(frame["seed"], axis=0).all(axis=1)
    failed = frame[~frame["failure"].isin(NO_CAUSE) & one_seed]
    if failed.empty or not names:
        return None
    cell = ["architecture", "sparsity", "l1"]
    shares = failed.groupby(cell).size() / frame.groupby(cell).size()
    there = failed[(failed[cell] == list(shares.idxmax())).all(axis=1)]
    return diagnosing(there[there["failure"] == there["failure"].mode()[0]].iloc[0], names[0])


def diagnosing(row: pd.Series, protocol: str) -> str:
    """The command that diagnoses the replicate of this row."""
    coordinates = f"--sparsity {float(row['sparsity'])!r} --l1 {float(row['l1'])!r} --seed {int(row['seed'])}"
    under = "" if protocol == "dissertation" else f" --protocol {shlex.quote(protocol)}"
    return f"sae-study diagnose {row['architecture']} {coordinates}{under}"
