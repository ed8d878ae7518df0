"""What an adaptive map came to: its regions, how much of it is still unsure, its figure; kept in the study's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pandas as pd

from analysis.figures.failure_map import map_figure
from analysis.figures.render import draw
from analysis.frames import load, tidy
from analysis.rates.regions import Region, failure_regions
from search_spaces.learners.failure_map import Refinement
from study.storage.study_folder import StudyFolder

MAP_FILE = "map.json"


@dataclass(frozen=True)
class FailureMap:
    """An adaptive map as it stands."""

    failure: str
    level: float
    replicates: int
    """Trained, those of earlier studies not counted."""
    estimated_misclassified_volume: float
    """Expected share of the space on the wrong side of the border: two to six times the true one where that could be known."""
    estimated_regret: float
    """The same, each place weighted by how far its rate is from the level."""
    regions: list[Region]
    """The surest first."""


def failure_map(folder: StudyFolder, learner: Refinement) -> FailureMap:
    """The map of a study whose learner was led through its rows, and those that it started from."""
    frame = load(folder.name, folder.storage.given)
    if (earlier := folder.read_earlier()) is not None:
        frame = pd.concat([frame, tidy(earlier)], ignore_index=True)
    spec = learner.spec
    return FailureMap(
        spec.failure,
        spec.level,
        learner.told,
        learner.expected_misclassified_volume,
        learner.expected_regret,
        failure_regions(frame, spec.failure, spec.level, spec.domain),
    )


def write_map(folder: StudyFolder, learner: Refinement, found: FailureMap) -> list[str]:
    """Keep the map beside its rows: map.json, and the figure as PNG and SVG. The files' names within the study's folder."""
    png, svg = draw(map_figure(learner.surface, found.failure, found.level))
    content = {MAP_FILE: json.dumps(asdict(found), indent=2).encode(), "report/map.png": png, "report/map.svg": svg}
    for name, data in content.items():
        folder.write_bytes(name, data)
    return list(content)
