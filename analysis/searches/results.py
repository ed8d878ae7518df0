"""The result of a study's search: one line per kind in RESULTS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis.searches.contract import SearchResult
from analysis.searches.failure_map import failure_map
from analysis.searches.l1 import l1_result
from search_spaces.learners.contract import Learner
from search_spaces.searches import L1Search, MapSearch, Search
from study.storage.status import read_spec
from study.storage.study_folder import StudyFolder

RESULTS: dict[type[Search], Callable[[StudyFolder, Any], SearchResult]] = {MapSearch: failure_map, L1Search: l1_result}
"""What makes a result from a study's folder and its learner, done."""


def search_result(folder: StudyFolder, learner: Learner) -> SearchResult | None:
    """What a study's search came to; None for a kind that has nothing to say beyond its rows."""
    search = read_spec(folder).search
    made = RESULTS.get(type(search)) if search else None
    return made(folder, learner) if made else None


def keep(folder: StudyFolder, result: SearchResult) -> list[str]:
    """Write the result's files beside the rows. Their places."""
    files = result.files()
    for name, content in files.items():
        folder.write_bytes(name, content)
    return [folder.place(name) for name in files]
