"""What an adaptive map came to: its regions, how much of it is still unsure, its figure; kept in the study's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.figures.failure_map import map_figure
from analysis.figures.render import draw
from analysis.frames import load, tidy
from analysis.rates.regions import Region, failure_regions, region_table
from search_spaces.learners.failure_map import Refinement
from search_spaces.surface.surface import Surface
from study.storage.study_folder import StudyFolder

MAP_FILE = "map.json"


@dataclass(frozen=True)
class FailureMap:
    """An adaptive map as it is now."""

    failure: str
    level: float
    replicates: int
    """Trained, those of earlier studies not counted."""
    expected_misclassified_volume: float
    """Expected share of the space on the wrong side of the border: two to six times the true one where that could be known."""
    expected_regret: float
    """The same, each place weighted by how far its rate is from the level."""
    regions: list[Region]
    """The surest first."""
    surface: Surface = field(repr=False, compare=False)
    """P(failure) over the space."""

    def to_mapping(self) -> dict[str, Any]:
        """All but the surface."""
        plain = {name: value for name, value in vars(self).items() if name != "surface"}
        return plain | {"regions": [region.to_mapping() for region in self.regions]}

    def table(self) -> pd.DataFrame:
        """The regions."""
        return region_table(self.regions)

    def sentences(self) -> list[str]:
        """How sure the map is."""
        unsure = (
            f"{self.replicates} replicates; an expected {self.expected_misclassified_volume:.1%} of the space is on the wrong side "
            f"of the border as drawn (regret {self.expected_regret:.4f})."
        )
        return [unsure] if self.regions else [f"No cell fails at a rate of {self.level:g} or more.", unsure]

    def files(self) -> dict[str, bytes]:
        """map.json, and the figure as PNG and SVG."""
        png, svg = draw(map_figure(self.surface, self.failure, self.level))
        return {
            MAP_FILE: json.dumps(self.to_mapping(), indent=2).encode(),
            "report/map.png": png,
            "report/map.svg": svg,
        }


def failure_map(folder: StudyFolder, learner: Refinement) -> FailureMap:
    """The map of a study whose learner was led through its rows, and those that it started from."""
    frame = load(folder.name, folder.storage.given)
    if (earlier := folder.read_earlier()) is not None:
        frame = pd.concat([frame, tidy(earlier)], ignore_index=True)
    search = learner.spec.search
    return FailureMap(
        search.failure,
        search.level,
        learner.replicates,
        learner.expected_misclassified_volume,
        learner.expected_regret,
        failure_regions(frame, search.failure, search.level, learner.spec.domain),
        learner.surface,
    )
