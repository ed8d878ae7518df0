"""The figures of `analysis.figures`: each is a function of a study, which is a name in a storage or a frame of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.render import own_settings
from analysis.report import panels
from analysis.report.layout import Panel
from analysis.report.study_rows import StudyRows, study_rows
from search_spaces.errors import MisuseError
from search_spaces.paths import Given
from study.storage.study_folder import DEFAULT_STORAGE

Study: TypeAlias = str | pd.DataFrame


def result(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The one figure that is the result: the map, the safe l1, phase diagrams, or verdicts."""
    return _drawn(study, storage, panels.result_panel)


def failure_map(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The learned failure rate of a map search, as in its map.png. MisuseError for another study."""
    return _drawn(study, storage, lambda of: None if of.map is None else panels.map_panel(of))


def safe_l1(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The safe interval of l1 by sparsity, of a finished L1 search. MisuseError for another study."""
    return _drawn(study, storage, lambda of: panels.l1_panel(of) if of.l1 else None)


def verdict_bars(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The shares of the verdicts along the coordinate of most levels, a panel for each architecture."""
    return _drawn(study, storage, panels.verdict_panel)


def collapse(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """How often the autoencoder collapses, by sparsity."""
    return _drawn(study, storage, lambda of: panels.collapse_panel(of, panels.curves_of(of)[0]))


def verdict_rates(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The rate of each verdict, by sparsity. MisuseError for a search, which chose where to train."""
    return _drawn(study, storage, lambda of: None if of.searched else panels.verdict_rates_panel(of, panels.curves_of(of)[1]))


def phase_diagram(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """The failure rate of every cell over sparsity and l1, a panel for each architecture."""
    return _drawn(study, storage, lambda of: panels.phase_panel(of) if of.varies("sparsity", "l1") else None)


def region_maps(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """A small map of each of the surest failure regions."""
    return _drawn(study, storage, lambda of: panels.regions_panel(of, of.regions) if of.regions else None)


def order_parameter(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """Dimensions per feature of the autoencoders by sparsity, beside the closed form."""
    return _drawn(study, storage, panels.order_panel)


def metrics(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """Metrics of AE and SAE by sparsity, a dot for each replicate."""
    return _drawn(study, storage, panels.metrics_panel)


def metric_scatter(study: Study, x: str, y: str, storage: Given = DEFAULT_STORAGE) -> Figure:
    """Two metrics of the same replicates against each other."""
    return _drawn(study, storage, lambda of: panels.scatter_panel(of, x, y))


def gram_matrices(study: Study, storage: Given = DEFAULT_STORAGE) -> Figure:
    """WᵀW of a few autoencoders, which are trained again."""
    return _drawn(study, storage, panels.gram_panel)


def _drawn(study: Study, storage: Given, make: Callable[[StudyRows], Panel | None]) -> Figure:
    rows = study_rows(study, storage)
    rows.spec.refuse_several()
    with own_settings():
        panel = None if rows.rows.empty else make(rows)
    if panel is None:
        raise MisuseError(f"Study {rows.name!r} has no rows for this figure. The report shows the figures that a study has.")
    return panel.figure
