"""The outcome of a launch, a search or a resumed study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType

from service.cli.leads import after_study
from service.cli.printing import complain, err, show, table_of, verdicts_table, warn_of_gaps
from study.storage.drivers import StudyState
from study.storage.status import read_spec
from study.storage.study_folder import Storage, StudyFolder

if TYPE_CHECKING:
    from analysis.searches.contract import SearchResult
    from study.on_ray.outcome import Outcome

MOST_ERRORS_SHOWN = 10

Found = tuple[dict[str, Any], Iterable[RenderableType], Iterable[str]]
"""What a study found: the fields of its JSON document, what is shown to people, and what they may do next."""


def show_outcome(outcome: Outcome, storage: str, as_json: bool) -> None:
    """Print the outcome, and exit with code 1 unless the study is done."""
    folder = Storage.at(storage).study(outcome.study)
    document, shown, lead = _found(outcome, folder)
    fields = {name: value for name, value in vars(outcome).items() if name != "learner"}
    show(fields | document, chain(shown, [str(outcome)], lead), as_json)
    for error in outcome.errors[:MOST_ERRORS_SHOWN]:
        complain(error)
    if len(outcome.errors) > MOST_ERRORS_SHOWN:
        err.print(f"… and {len(outcome.errors) - MOST_ERRORS_SHOWN} more errors")
    if outcome.state == StudyState.STOPPED:
        err.print(f"stopped with {outcome.planned - outcome.done} replicates to go; continue with: {folder.command('resume')}")
    if outcome.state != StudyState.DONE:
        raise typer.Exit(1)


def _found(outcome: Outcome, folder: StudyFolder) -> Found:
    """The result of the study; for an unfinished search, how far it is."""
    from analysis.searches.results import search_result

    if outcome.learner is None:
        return _ablation(folder) if read_spec(folder).arms else _verdicts(outcome, folder)
    if outcome.state != StudyState.DONE:
        return dict(outcome.learner.summary()), (), ()
    result = search_result(folder, outcome.learner)
    return _verdicts(outcome, folder) if result is None else _search(result, folder)


def _verdicts(outcome: Outcome, folder: StudyFolder) -> Found:
    """The verdicts by cell, and the findings."""
    from analysis.comparisons.published import FOR_PUBLISHED
    from analysis.frames import FOR_RATES, load
    from analysis.report.page import findings, verdict_table

    frame = load(outcome.study, folder.storage.given, [*FOR_RATES, *FOR_PUBLISHED, "l0_outcome"])
    warn_of_gaps(frame, folder)
    sentences = findings(frame, outcome.planned)

    def shown() -> Iterator[RenderableType]:
        yield from verdicts_table(verdict_table(frame))
        yield from sentences

    return {"findings": sentences}, shown(), [after_study(folder, frame)]


def _ablation(folder: StudyFolder) -> Found:
    """The protocols of the study compared, and what is missing in its rows."""
    from analysis.comparisons.ablations import ablation

    found = ablation(folder.name, folder.storage.given)
    return {"ablation": found.to_mapping()}, chain(table_of(found.shown()), found.sentences), [after_study(folder)]


def _search(found: SearchResult, folder: StudyFolder) -> Found:
    """The result of a finished search, whose files are kept with its rows."""
    from analysis.searches.results import keep

    files = keep(folder, found)
    shown = chain(table_of(found.table()), found.sentences(), ["Written: " + ", ".join(files)])
    return {**found.to_mapping(), "files": files}, shown, [after_study(folder)]
