"""What a launch, search or resume came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from service.cli.printing import err, out, print_json, print_table, print_verdicts, warn_of_gaps
from study.storage.study_folder import Storage, StudyFolder

if TYPE_CHECKING:
    from analysis.searches.contract import SearchResult
    from study.on_ray.driver import Outcome

MOST_ERRORS_SHOWN = 10


def tell_outcome(outcome: Outcome, storage: str, as_json: bool) -> None:
    """What a launch, search or resume came to."""
    from analysis.searches.results import search_result

    folder = Storage.at(storage).study(outcome.study)
    document = {name: value for name, value in vars(outcome).items() if name != "learner"}
    if outcome.learner is not None and outcome.state != "done":
        if as_json:
            print_json({**document, **outcome.learner.summary()})
    elif outcome.learner is not None and (found := search_result(folder, outcome.learner)) is not None:
        _tell_search(found, document, folder, as_json)
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


def _tell_search(found: SearchResult, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """What the search found; its files."""
    from analysis.searches.results import keep

    files = keep(folder, found)
    if as_json:
        print_json({**document, **found.to_mapping(), "files": files})
        return
    print_table(found.table())
    for sentence in found.sentences():
        out.print(sentence)
    out.print("Written: " + ", ".join(files))
