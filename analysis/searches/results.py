"""The result of a study's search: one line per learner in RESULTS."""

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
"""What makes a result from a study's folder and its learner, done."""


def search_result(folder: StudyFolder, learner: Learner) -> SearchResult | None:
    """What a study's search came to; None for a learner that has nothing to say beyond its rows."""
    made = RESULTS.get(type(learner))
    return made(folder, learner) if made else None


def keep(folder: StudyFolder, result: SearchResult) -> list[str]:
    """Write the result's files beside the rows. Their places."""
    files = result.files()
    for name, content in files.items():
        folder.write_bytes(name, content)
    return [folder.place(name) for name in files]
