"""What a launch, search or resume came to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType
from rich.table import Column, Table

from service.cli.printing import complain, err, regions_table, show, verdicts_table, warn_of_gaps
from study.storage.study_folder import Storage, StudyFolder

if TYPE_CHECKING:
    from analysis.searches.failure_map import FailureMap
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Interval, L1Learner
    from study.on_ray.driver import Outcome

MOST_ERRORS_SHOWN = 10

Found = tuple[dict[str, Any], Iterable[RenderableType]]
"""What a study found: the fields of its JSON document, and what is shown to people."""


def show_outcome(outcome: Outcome, storage: str, as_json: bool) -> None:
    """What a launch, search or resume came to; exit code 1 unless it is done."""
    folder = Storage.at(storage).study(outcome.study)
    document, shown = _found(outcome, folder)
    sentence = (
        f"Study {outcome.study}: {outcome.state}, {outcome.trained} replicates trained in {outcome.seconds:.0f} s by the "
        f"{outcome.engine} engine, rows in {outcome.path}"
    )
    fields = {name: value for name, value in vars(outcome).items() if name != "learner"}
    show(fields | document, chain(shown, [sentence]), as_json)
    for error in outcome.errors[:MOST_ERRORS_SHOWN]:
        complain(error)
    if len(outcome.errors) > MOST_ERRORS_SHOWN:
        err.print(f"… and {len(outcome.errors) - MOST_ERRORS_SHOWN} errors more")
    if outcome.state == "stopped":
        err.print(f"stopped with {outcome.planned - outcome.done} replicates to go; go on with: {folder.command('resume')}")
    if outcome.state != "done":
        raise typer.Exit(1)


def _found(outcome: Outcome, folder: StudyFolder) -> Found:
    """Of a search that is not done, how far it is."""
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Learner

    if outcome.learner is not None and outcome.state != "done":
        return dict(outcome.learner.summary()), ()
    if isinstance(outcome.learner, Refinement):
        return _map(outcome.learner, folder)
    if isinstance(outcome.learner, L1Learner):
        return _l1(outcome.learner, folder)
    return _verdicts(outcome, folder)


def _verdicts(outcome: Outcome, folder: StudyFolder) -> Found:
    """The verdicts by cell, and the findings."""
    from analysis.frames import load
    from analysis.report.page import findings, verdict_table

    frame = load(outcome.study, folder.storage.given)
    warn_of_gaps(frame, folder)
    sentences = findings(frame, outcome.planned)

    def shown() -> Iterator[RenderableType]:
        yield from verdicts_table(verdict_table(frame))
        yield from sentences

    return {"findings": sentences}, shown()


def _map(learner: Refinement, folder: StudyFolder) -> Found:
    """The failure regions, and how much of the map is unsure."""
    from analysis.searches.failure_map import failure_map, write_map

    found = failure_map(folder, learner)
    files = [folder.place(name) for name in write_map(folder, learner, found)]
    return {**asdict(found), "files": files}, _map_shown(found, files, folder.name)


def _map_shown(found: FailureMap, files: list[str], name: str) -> Iterator[RenderableType]:
    if found.regions:
        yield from regions_table(found.regions)
    else:
        yield f"No cell of {name} fails at a rate of {found.level:g} or more."
    yield (
        f"{found.replicates} replicates; an expected {found.estimated_misclassified_volume:.1%} of the space is on the wrong side "
        f"of the border as drawn (regret {found.estimated_regret:.4f})."
    )
    yield "Map: " + ", ".join(files)


def _l1(learner: L1Learner, folder: StudyFolder) -> Found:
    """The safe interval and the best l1 of every cell."""
    from analysis.searches.l1 import l1_sentences, write_l1
    from study.storage.status import read_spec

    found = learner.results()
    sentences = l1_sentences(found, read_spec(folder).protocol)
    files = [folder.place(name) for name in write_l1(folder, found)]
    document = {"cells": [asdict(interval) for interval in found], "findings": sentences, "files": files}
    return document, (_l1_table(found), *sentences, "Written: " + ", ".join(files))


def _l1_table(found: list[L1Interval]) -> Table:
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
    return table


def _with_interval(value: float, ends: tuple[float | None, float | None]) -> str:
    low, high = ("…" if end is None else f"{end:.3g}" for end in ends)
    return f"{value:.3g} [{low}, {high}]"
