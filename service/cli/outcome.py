"""What a launch, search or resume came to."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Column, Table

from service.cli.printing import err, out, print_json, print_regions, print_verdicts, warn_of_gaps
from study.storage.study_folder import Storage, StudyFolder

if TYPE_CHECKING:
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Learner
    from study.on_ray.driver import Outcome

MOST_ERRORS_SHOWN = 10


def tell_outcome(outcome: Outcome, storage: str, as_json: bool) -> None:
    """What a launch, search or resume came to."""
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Learner

    folder = Storage.at(storage).study(outcome.study)
    document = {name: value for name, value in vars(outcome).items() if name != "learner"}
    if outcome.learner is not None and outcome.state != "done":
        if as_json:
            print_json({**document, **outcome.learner.summary()})
    elif isinstance(outcome.learner, Refinement):
        _tell_map(outcome.learner, document, folder, as_json)
    elif isinstance(outcome.learner, L1Learner):
        _tell_l1(outcome.learner, document, folder, as_json)
    else:
        _tell_verdicts(outcome, document, folder, as_json)
    if not as_json:
        out.print(
            f"Study {outcome.study}: {outcome.state}, {outcome.trained} replicates trained in {outcome.seconds:.0f} s by the "
            f"{outcome.engine} engine, rows in {outcome.path}"
        )
    for error in outcome.errors[:MOST_ERRORS_SHOWN]:
        err.print(f"error: {error}", markup=False)
    if len(outcome.errors) > MOST_ERRORS_SHOWN:
        err.print(f"… and {len(outcome.errors) - MOST_ERRORS_SHOWN} errors more")
    if outcome.state == "stopped":
        err.print(f"stopped with {outcome.planned - outcome.done} replicates to go; go on with: {folder.command('resume')}")
    if outcome.state != "done":
        raise typer.Exit(1)


def _tell_verdicts(outcome: Outcome, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The verdicts by cell, and the findings."""
    from analysis.frames import load
    from analysis.report.page import findings, verdict_table

    frame = load(outcome.study, folder.storage.given)
    sentences = findings(frame, outcome.planned)
    if as_json:
        print_json({**document, "findings": sentences})
    else:
        print_verdicts(verdict_table(frame))
        for sentence in sentences:
            out.print(sentence)
    warn_of_gaps(frame, folder)


def _tell_map(learner: Refinement, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The failure regions, and how much of the map is unsure."""
    from analysis.searches.failure_map import failure_map, write_map

    found = failure_map(folder, learner)
    files = [folder.place(name) for name in write_map(folder, learner, found)]
    if as_json:
        print_json({**document, **asdict(found), "files": files})
        return
    print_regions(found.regions, f"No cell of {folder.name} fails at a rate of {found.level:g} or more.")
    out.print(
        f"{found.replicates} replicates; an expected {found.estimated_misclassified_volume:.1%} of the space is on the wrong side "
        f"of the border as drawn (regret {found.estimated_regret:.4f})."
    )
    out.print("Map: " + ", ".join(files))


def _tell_l1(learner: L1Learner, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The safe interval and the best l1 of every cell."""
    from analysis.searches.l1 import l1_sentences, write_l1
    from study.storage.status import read_spec

    found = learner.results()
    sentences = l1_sentences(found, read_spec(folder).protocol)
    files = [folder.place(name) for name in write_l1(folder, found)]
    if as_json:
        print_json({**document, "cells": [asdict(interval) for interval in found], "findings": sentences, "files": files})
        return
    heads = ("sparsity", "safe from [90 %]", "safe to [90 %]", "best l1 [90 %]", "MCC", "closed form", "replicates", "AE collapsed")
    table = Table(Column("architecture", no_wrap=True), *heads)
    for cell in found:
        table.add_row(
            cell.architecture,
            f"{cell.sparsity:g}",
            cell.low if cell.safe_low is None else _with_interval(cell.safe_low, cell.safe_low_interval),
            cell.high if cell.safe_high is None else _with_interval(cell.safe_high, cell.safe_high_interval),
            "–" if cell.best_l1 is None else _with_interval(cell.best_l1, cell.best_l1_interval or (None, None)),
            "–" if cell.best_mcc is None else f"{cell.best_mcc:.3f}",
            "–" if cell.predicted_high is None else f"{cell.predicted_high:.3g}",
            str(cell.replicates),
            str(cell.ae_collapsed),
        )
    out.print(table)
    for sentence in sentences:
        out.print(sentence)
    out.print("Written: " + ", ".join(files))


def _with_interval(value: float, ends: tuple[float | None, float | None]) -> str:
    low, high = ("…" if end is None else f"{end:.3g}" for end in ends)
    return f"{value:.3g} [{low}, {high}]"
