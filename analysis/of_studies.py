"""What the commands `regions`, `rate` and `compare` answer, as functions of studies: names in a storage, or frames of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pandas as pd

from analysis.comparisons import studies
from analysis.frames import load
from analysis.rates.at_cells import failure_rates, one_cell
from analysis.rates.regions import Region, all_regions, failure_regions
from search_spaces.paths import Given
from search_spaces.surface.domain import Domain
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE

Study: TypeAlias = str | pd.DataFrame


def regions(study: Study, failure: str | None = None, level: float = 0.5, storage: Given = DEFAULT_STORAGE) -> list[Region]:
    """The failure regions of a study, the most certain first: of one failure, or of any and then of each kind that occurs.

    Raises MisuseError if there is no such study or failure, and for a level outside (0, 1).
    """
    frame, domain = _rows_and_domain(study, storage)
    return all_regions(frame, level, domain) if failure is None else failure_regions(frame, failure, level, domain)


def rate(
    study: Study, architecture: str, sparsity: float, l1: float, failure: str = "any", storage: Given = DEFAULT_STORAGE
) -> pd.Series:
    """The failure rate at one cell: `rate` with its interval `low` to `high`, its `source` and `replicates` (`failure_rates`).

    Raises MisuseError if there is no such study or failure, and for a cell outside the study's range.
    """
    frame, domain = _rows_and_domain(study, storage)
    return failure_rates(frame, one_cell(architecture, sparsity, l1), failure, domain=domain).iloc[0]


def compare(
    one: Study,
    other: Study,
    failure: str = "any",
    metrics: Sequence[str] = studies.METRICS_COMPARED,
    storage: Given = DEFAULT_STORAGE,
) -> studies.Comparison:
    """Which failure rates and metrics differ beyond chance between two studies (`analysis.comparisons.studies.compare`)."""
    frames = [_rows_and_domain(study, storage)[0] for study in (one, other)]
    return studies.compare(frames[0], frames[1], failure, metrics)


def _rows_and_domain(study: Study, storage: Given) -> tuple[pd.DataFrame, Domain | None]:
    """The rows of a study, and the ranges that its specification declares, if any; a frame declares none."""
    if isinstance(study, pd.DataFrame):
        return study, None
    spec = read_spec(existing_study(study, storage))
    spec.refuse_several()
    return load(study, storage), spec.domain
