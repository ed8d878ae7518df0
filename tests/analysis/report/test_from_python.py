"""Figures, regions, rates and comparisons as functions of a study: by its name and as a frame."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import analysis
from analysis import figures
from search_spaces import study_from
from search_spaces.errors import MisuseError
from study import run_here
from tests.analysis.report.test_report import store

SPACE = {
    "architectures": ["5-3-5", "8-4-8"],
    "sparsities": [0.3, 0.6, 0.9, 0.98],
    "l1": [0.001, 0.01, 0.1, 1.0],
    "seeds": "0:3",
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies, of the same cells and of a part of them."""
    place = tmp_path_factory.mktemp("storage")
    for name, seeds in (("one", "0:3"), ("other", "1:4")):
        store(place, study_from({"name": name, "protocol": "dissertation", "dtype": "float32", "space": {**SPACE, "seeds": seeds}}))
    return place


@pytest.fixture(scope="module")
def frame(storage: Path) -> pd.DataFrame:
    """The rows of one."""
    return analysis.load("one", storage)


FIGURES = ("result", "verdict_bars", "collapse", "verdict_rates", "phase_diagram", "region_maps", "order_parameter", "metrics")


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_function_of_a_study(storage: Path, frame: pd.DataFrame, name: str) -> None:
    """By its name and as a frame, with the same titles."""
    drawn = [getattr(figures, name)("one", storage=storage), getattr(figures, name)(frame)]
    titles = [[ax.get_title() for ax in figure.axes] for figure in drawn]
    assert all(isinstance(figure, Figure) for figure in drawn)
    assert titles[0] == titles[1] != []


def test_two_metrics_are_drawn_against_each_other(frame: pd.DataFrame) -> None:
    """The names of the metrics are given; those of figures are listed."""
    assert "l0 against explained_variance" in figures.metric_scatter(frame, "explained_variance", "l0").axes[0].get_title()
    assert set(FIGURES) <= set(figures.__all__)
    with pytest.raises(AttributeError, match="no_such_figure"):
        figures.no_such_figure  # noqa: B018


@pytest.mark.parametrize("name", ["failure_map", "safe_l1"])
def test_figure_of_a_search_is_refused_for_a_grid(storage: Path, name: str) -> None:
    """In one sentence; so is a study that is not there, and a frame without rows."""
    with pytest.raises(MisuseError, match="'one' has no rows for this figure"):
        getattr(figures, name)("one", storage=storage)
    with pytest.raises(MisuseError):
        getattr(figures, name)("nowhere", storage=storage)


def test_frame_of_an_unnamed_protocol_is_refused(frame: pd.DataFrame) -> None:
    """Its closed forms are not known from the rows."""
    with pytest.raises(MisuseError, match="name of a study"):
        figures.phase_diagram(frame.assign(protocol="mine"))
    with pytest.raises(MisuseError, match="name of a study"):
        figures.phase_diagram(frame.head(0))


def test_regions_rate_and_compare_take_names_and_frames(storage: Path, frame: pd.DataFrame) -> None:
    """The answers are the same, and those of the functions of frames."""
    assert analysis.regions("one", storage=storage) == analysis.regions(frame) != []
    assert analysis.regions(frame, "sae_dead") == analysis.failure_regions(frame, "sae_dead")
    named, given = analysis.rate("one", "5-3-5", 0.9, 0.1, storage=storage), analysis.rate(frame, "5-3-5", 0.9, 0.1)
    assert named.to_dict() == given.to_dict()
    assert given["low"] <= given["rate"] <= given["high"]
    other = analysis.load("other", storage)
    assert analysis.compare("one", "other", storage=storage).sentences == analysis.compare(frame, other).sentences


def test_rows_that_were_never_stored_are_a_study_too() -> None:
    """What `run_here` returns, as a frame of pandas."""
    spec = study_from({"name": "here", "protocol": "dissertation", "space": {**SPACE, "architectures": ["5-3-5"], "seeds": [0]}})
    rows = analysis.frames.tidy(run_here(spec))
    assert figures.verdict_bars(rows).axes[0].get_title()
