"""Which result belongs to a search: each kind of learner has one entry in RESULTS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.searches.contract import SearchResult
from analysis.searches.failure_map import failure_map
from analysis.searches.l1 import l1_result
from search_spaces.learners.contract import Learner
from search_spaces.learners.failure_map import Refinement
from search_spaces.learners.l1_search import L1Learner
from study.storage.study_folder import StudyFolder

RESULTS: dict[type[Any], Callable[[StudyFolder, Any], SearchResult]] = {Refinement: failure_map, L1Learner: l1_result}
"""By type of learner, the function that makes the result from a study's folder and its finished learner."""


def search_result(folder: StudyFolder, learner: Learner) -> SearchResult | None:
    """The result of a study's search; None for a learner without a result beyond its rows."""
    made = RESULTS.get(type(learner))
    return made(folder, learner) if made else None


def keep(folder: StudyFolder, result: SearchResult) -> list[str]:
    """Write the files of a result beside the rows; returns where they are."""
    files = result.files()
    for name, content in files.items():
        folder.write_bytes(name, content)
    return [folder.place(name) for name in files]
