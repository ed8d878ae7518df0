"""The result of an adaptive map: its regions, its remaining uncertainty and its figure, stored in the study's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from zipfile import BadZipFile

import pandas as pd

from analysis.figures.learned_map import MapDiagram, map_diagram, map_figure
from analysis.figures.render import draw, own_settings
from analysis.frames import load, tidy
from analysis.rates.regions import Region, failure_regions, region_table
from analysis.rates.tally import Tally
from search_spaces.failures import failed
from search_spaces.learners.failure_map import Refinement
from search_spaces.searches import MapSearch
from search_spaces.study_files import StudySpec
from study.storage.study_folder import StudyFolder

MAP_FILE, DIAGRAM_FILE = "map.json", "map.npz"


@dataclass(frozen=True)
class FailureMap:
    """The current state of an adaptive map."""

    failure: str
    level: float
    replicates: int
    """Number of trained replicates, not counting those of earlier studies."""
    expected_misclassified_volume: float
    """Expected share of the space on the wrong side of the border as drawn (docs/map.md compares it with true shares)."""
    expected_regret: float
    """The same share, with each place weighted by the distance of its rate from the level."""
    regions: list[Region]
    """The regions, the most certain first."""
    diagram: MapDiagram = field(repr=False, compare=False)
    """The map over the space."""

    def to_mapping(self) -> dict[str, Any]:
        """All fields except the diagram."""
        plain = {name: value for name, value in vars(self).items() if name != "diagram"}
        return plain | {"regions": [region.to_mapping() for region in self.regions]}

    def table(self) -> pd.DataFrame:
        """The regions as text."""
        return region_table(self.regions)

    def sentences(self) -> list[str]:
        """How certain the map is."""
        unsure = (
            f"{self.replicates} replicates; an expected {self.expected_misclassified_volume:.1%} of the space is on the wrong side "
            f"of the border as drawn (regret {self.expected_regret:.4f})."
        )
        return [unsure] if self.regions else [f"No cell fails at a rate of {self.level:g} or more.", unsure]

    def files(self) -> dict[str, bytes]:
        """The map as JSON and NPZ, and its figure as PNG and SVG."""
        with own_settings():
            png, svg = draw(map_figure(self.diagram))
        return {
            MAP_FILE: json.dumps(self.to_mapping(), indent=2).encode(),
            DIAGRAM_FILE: self.diagram.to_bytes(),
            "report/map.png": png,
            "report/map.svg": svg,
        }


def failure_map(folder: StudyFolder, learner: Refinement) -> FailureMap:
    """The map of a study, from its folder and its learner, which has received all of its rows."""
    frame, search = with_earlier(folder, load(folder.name, folder.storage.given)), learner.spec.search
    return FailureMap(
        search.failure,
        search.level,
        learner.replicates,
        learner.expected_misclassified_volume,
        learner.expected_regret,
        failure_regions(frame, search.failure, search.level, learner.spec.domain),
        map_diagram(learner.surface, search.failure, search.level, frame),
    )


def with_earlier(folder: StudyFolder, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a map, with those of the earlier studies that it was started from."""
    earlier = folder.read_earlier()
    return frame if earlier is None else pd.concat([frame, tidy(earlier)], ignore_index=True)


def read_diagram(folder: StudyFolder, replicates: int) -> MapDiagram | None:
    """The stored map, if it was made from this number of replicates; None if the search has gone on, or has not finished."""
    content = folder.read_bytes(DIAGRAM_FILE)
    try:
        found = None if content is None else MapDiagram.from_bytes(content)
    except (BadZipFile, KeyError, TypeError, ValueError):  # damaged, or of another version
        return None
    return found if found is not None and found.replicates == replicates else None


def map_of(folder: StudyFolder, spec: StudySpec, rows: pd.DataFrame) -> MapDiagram | None:
    """The stored map of a study's rows; if there is none of them all, one that is fitted to them. None for another study."""
    search = spec.search
    if not isinstance(search, MapSearch) or rows.empty:
        return None
    frame = with_earlier(folder, rows)
    if (stored := read_diagram(folder, len(frame))) is not None:
        return stored
    surface = Tally.of(frame, spec.domain).surface(failed(frame, search.failure).to_numpy(dtype=bool))
    return map_diagram(surface, search.failure, search.level, frame)
