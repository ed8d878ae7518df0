"""The numbers of the figures, their colours, and that every drawing copes with every unusual frame."""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures import failure_curves as curve_plots
from analysis.figures import order_parameters as order_plots
from analysis.figures import phase as phase_plots
from analysis.figures import regions as region_plots
from analysis.figures import replicates as replicate_plots
from analysis.figures import verdicts as plots
from analysis.figures.style import edges, level_ticks, log_ticks
from analysis.rates.regions import all_regions
from analysis.transitions.critical_points import ORDER_PARAMETERS
from search_spaces.coordinates import L1
from search_spaces.failures import verdicts
from study.metrics.autoencoder import feature_dimensionality
from tests.analysis.transitions.test_critical_points import death, study_frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Deaths at l1 = 0.05 in two architectures, with two metrics."""
    made = study_frame(death, ("10-5-10", "5-3-5"), seeds=6)
    return made.assign(explained_variance=np.linspace(0, 1, len(made)), l0=np.linspace(5, 0, len(made)))


ODD = ["empty", "one row", "all failed", "none failed", "NaN metrics", "l1 = 0", "one sparsity", "one seed", "scattered"]


def odd_frame(frame: pd.DataFrame, case: str) -> pd.DataFrame:
    """Frames that a study may have by accident."""
    numbers = ["explained_variance", "l0", *(c for c in frame if c.startswith("ae_") and c != "ae_seed")]
    frame = frame[frame["seed"] < 2] if case not in ("empty", "one row", "one seed") else frame
    return {
        "empty": frame.head(0),
        "one row": frame.head(1),
        "all failed": frame.assign(failure="sae_dead", sae_all_dead=True),
        "none failed": frame.assign(failure="none", sae_all_dead=False),
        "NaN metrics": frame.assign(**dict.fromkeys(numbers, np.nan)),
        "l1 = 0": frame.assign(l1=0.0),
        "one sparsity": frame[frame["sparsity"] == 0.3],
        "one seed": frame[frame["seed"] == 0],
        "scattered": frame.iloc[::37],
    }[case]


def written(figure: Figure, *kinds: str) -> None:
    """Everything is rendered, small."""
    for kind in kinds:
        figure.savefig(io.BytesIO(), format=kind, dpi=30)


# Colours


def lightness(colour: str) -> float:
    """CIE L* of a colour #rrggbb, 0 (black) to 100 (white): its lightness in black and white."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 216 / 24389 else luminance * 24389 / 27


def test_verdicts_differ_in_lightness_or_hatch_and_in_marker() -> None:
    """In black and white, fills whose L* is closer than 8 have different hatches; no two verdicts share a marker."""
    for one, other in combinations(verdicts(), 2):
        apart = abs(lightness(one.colour) - lightness(other.colour))
        assert apart >= 8 or one.pattern != other.pattern, (one.name, other.name)
        assert apart >= 2.5, (one.name, other.name)
    assert len({verdict.marker for verdict in verdicts()}) == len(verdicts())


DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
PROTANOPIA = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["full", "deuteranopia", "protanopia"])
def test_verdicts_are_told_apart_by_the_colour_blind(sight: np.ndarray[Any, Any]) -> None:
    """At full severity (Machado, Oliveira, Fernandes 2009) colours are at least 0.08 apart in linear RGB, or differ in hatch."""

    def seen(colour: str) -> np.ndarray[Any, Any]:
        c = np.array(to_rgb(colour))
        return sight @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)

    for one, other in combinations(verdicts(), 2):
        assert np.linalg.norm(seen(one.colour) - seen(other.colour)) > 0.08 or one.pattern != other.pattern


@pytest.mark.parametrize(("colour", "expected"), [("#000000", 0), ("#ffffff", 100), ("#777777", 50.03), ("#ff0000", 53.24)])
def test_lightness_has_the_published_values(colour: str, expected: float) -> None:
    """CIE L* under D65."""
    assert lightness(colour) == pytest.approx(expected, abs=0.02)


# Axes


def test_edges_lie_between_their_values() -> None:
    """Edges lie midway, on request in the logarithm; a single value has a cell too."""
    np.testing.assert_allclose(edges(np.array([0.0, 1.0, 3.0])), [-0.5, 0.5, 2.0, 4.0])
    np.testing.assert_allclose(edges(np.array([0.01, 0.1]), logarithmic=True), 10.0 ** np.array([-2.5, -1.5, -0.5]))
    np.testing.assert_allclose(edges(np.array([0.5])), [0.48, 0.52])


def test_log_axis_labels_its_decades() -> None:
    """Every decade from 1e-4 to 1 is labelled, steps between are not."""
    ax = Figure().subplots()
    log_ticks(ax, "y")
    ax.set_ylim(1e-4, 1)
    inside = [v for v in ax.yaxis.get_majorticklocs() if 0.99e-4 <= v <= 1.01]
    np.testing.assert_allclose(inside, [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert not any(ax.yaxis.get_minor_formatter().format_ticks(ax.yaxis.get_minorticklocs()))


def test_levels_are_thinned_before_they_touch() -> None:
    """25 levels have every second label."""
    ax = Figure().subplots()
    level_ticks(ax, np.linspace(0.3, 0.98, 25))
    assert len(ax.get_xticks()) == 13


# Numbers


def test_phase_diagram_has_the_rates_of_its_cells(frame: pd.DataFrame) -> None:
    """Rates are as counted by hand; gaps are NaN; it has the closed forms of unit columns; the title gives the share of cells."""
    cut = frame[~((frame["sparsity"] == 0.3) & (frame["l1"] == 1))]
    diagram = phase_plots.phase_diagram(cut, "10-5-10", "sae_dead")
    assert diagram.rate.shape == (9, 9)
    assert np.isnan(diagram.rate[-1, 0])
    assert diagram.replicates[-1, 0] == 0
    one = cut[(cut["architecture"] == "10-5-10") & (cut["sparsity"] == 0.98) & (cut["l1"] == diagram.y[5])]
    assert diagram.rate[5, -1] == (one["failure"] == "sae_dead").mean()
    np.testing.assert_allclose(diagram.lines["death line 2‖w‖"], 2)
    measured = diagram.rate[np.isfinite(diagram.rate)]
    assert f"in {(measured >= 0.5).mean():.0%} of cells" in diagram.title
    assert "480 replicates, 6 seeds per cell" in diagram.caption
    assert all(point.crossing.low <= point.crossing.estimate for point in diagram.critical)


def test_phase_diagram_shows_what_was_not_measured(frame: pd.DataFrame) -> None:
    """The rectangles hold exactly the measured rates, nothing in between; the axis reaches the death line above them."""
    diagram = phase_plots.phase_diagram(frame, "5-3-5", "sae_dead")
    ax = Figure().subplots()
    mesh = phase_plots.plot_phase_diagram(diagram, ax)
    assert isinstance(mesh, QuadMesh)
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan), diagram.rate)
    assert ax.patch.get_hatch()
    assert ax.get_ylim()[1] > 2
    assert ax.get_yscale() == "log"


def test_surface_is_drawn_as_lines_over_the_cells(frame: pd.DataFrame) -> None:
    """Level and certainty are three contours of the given arrays, absent if the surface never reaches them."""
    S, l1 = np.linspace(0.3, 0.98, 30), np.geomspace(1e-4, 1, 40)
    mean = np.broadcast_to(np.linspace(0, 1, 40)[:, None], (40, 30))
    flat = np.full((40, 30), 0.2)
    for values, contours in ((mean, 3), (flat, 0)):
        diagram = phase_plots.phase_diagram(frame, "5-3-5", fitted=phase_plots.FittedRate(S, l1, values, values))
        ax = Figure().subplots()
        phase_plots.plot_phase_diagram(diagram, ax)
        assert sum(type(artist).__name__ == "QuadContourSet" for artist in ax.collections) == contours
        assert "fitted 50%" in diagram.caption
        assert diagram.critical == ()


def test_curves_count_as_the_frame_does(frame: pd.DataFrame) -> None:
    """There are curves by architecture and by kind, along both axes; intervals hold the rates; the title names the highest."""
    curves = curve_plots.failure_curves(frame, "sae_dead", along=L1)
    assert curves["series"].drop_duplicates().tolist() == ["5-3-5", "10-5-10"]
    assert (curves["replicates"] == 54).all()
    assert curves["failures"].sum() == (frame["failure"] == "sae_dead").sum()
    assert ((curves["low"] <= curves["rate"]) & (curves["rate"] <= curves["high"])).all()
    assert curve_plots.curves_title(curves, "sae_dead", L1).startswith("Highest: sae_dead, 5-3-5, 100% at l1 = ")
    kinds = curve_plots.failure_curves(frame, by="failure")
    assert kinds["series"].unique().tolist() == ["sae_dead"]


def test_collapses_are_counted_for_each_autoencoder(frame: pd.DataFrame) -> None:
    """Nine l1 values on one autoencoder are one collapse by sparsity."""
    curves = curve_plots.failure_curves(frame.assign(failure="ae_collapsed"), "ae_collapsed")
    assert (curves["replicates"] == 6).all()


@pytest.mark.parametrize("column", [parameter.column for parameter in ORDER_PARAMETERS])
def test_order_parameter_of_perfect_pairs_is_its_closed_form(frame: pd.DataFrame, column: str) -> None:
    """The theory's candidates lie on the theory's line, at every sparsity."""
    curve = order_plots.order_parameter_curve(frame, "10-5-10", column)
    np.testing.assert_allclose(curve.quantiles[2], np.interp(curve.sparsities, curve.theory_sparsities, curve.theory), rtol=1e-9)
    assert curve.caption.startswith("54 autoencoders, 6 per sparsity")


@pytest.mark.parametrize("by", ["sparsity", "l1", "architecture"])
def test_verdicts_are_composed_along_any_axis(frame: pd.DataFrame, by: str) -> None:
    """Shares sum to one per bar; architectures come in order of width; the title names the commonest failure."""
    composition = plots.verdict_composition(frame, by)
    np.testing.assert_allclose(composition.shares.sum(axis=0), 1)
    assert composition.replicates.sum() == len(frame)
    assert composition.title.startswith("Most often sae_dead: up to ")
    if by == "architecture":
        assert composition.levels == ("5-3-5", "10-5-10")


def test_scatter_leaves_out_what_is_missing_and_keeps_what_is_rare(frame: pd.DataFrame) -> None:
    """Missing values are counted, not drawn; each verdict is thinned separately; the rank correlation is Spearman's."""
    many = pd.concat([frame] * 4, ignore_index=True)
    many.loc[:9, "l0"] = np.nan
    many.loc[50, "failure"] = "diverged"
    scatter = replicate_plots.metric_scatter(many, "explained_variance", "l0")
    assert scatter.left_out == 10
    assert len(scatter.points) == len(many) - 10
    drawn = scatter.drawn["failure"].value_counts()
    assert drawn["diverged"] == 1
    assert drawn.max() <= replicate_plots.MOST_MARKS
    assert scatter.correlation == pytest.approx(-1)
    assert "10 without one of the two" in scatter.caption
    per_ae = replicate_plots.metric_scatter(frame, "ae_loss", "ae_diagonal_mean")
    assert len(per_ae.points) == len(frame) / 9
    assert "autoencoders" in per_ae.caption


def test_gram_is_that_of_the_weights() -> None:
    """WᵀW equals loops, D_i its definition, `represented` the norms; weights that are not finite count as 0."""
    W = np.random.default_rng(2).normal(size=(3, 5))
    shown = replicate_plots.gram(W)
    np.testing.assert_allclose(shown.matrix, [[a @ b for b in W.T] for a in W.T])
    np.testing.assert_allclose(shown.dimensionality, feature_dimensionality(W))
    assert shown.represented == sum(float(w @ w) > 0.5 for w in W.T)
    W[:, 0] = np.inf
    assert replicate_plots.gram(W).matrix[0].tolist() == [0] * 5
    ax = Figure().subplots()
    image = replicate_plots.plot_gram_matrix(shown, ax, "S = 0.9")
    assert image.get_clim() == (-1, 1)
    assert ax.get_title() == f"S = 0.9\n{shown.title}"


# Drawings


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ODD)
def test_every_drawing_bears_an_odd_frame(frame: pd.DataFrame, case: str) -> None:
    """All figures of the frame are rendered without a warning (one frame's as SVG too), and global styles stay as they are."""
    odd, before = odd_frame(frame, case), dict(matplotlib.rcParams)
    figure = Figure(figsize=(14, 9))
    axes = list(figure.subplots(3, 4).ravel())
    plots.plot_verdict_composition(plots.verdict_composition(odd), axes[0])
    plots.plot_verdict_composition(plots.verdict_composition(odd, "architecture"), axes[1])
    phase_plots.plot_phase_diagram(phase_plots.phase_diagram(odd, "10-5-10", "sae_dead"), axes[2])
    curve_plots.plot_failure_curves(curve_plots.failure_curves(odd), axes[3])
    curve_plots.plot_failure_curves(curve_plots.failure_curves(odd, by="failure"), axes[4])
    if case != "l1 = 0":
        curve_plots.plot_failure_curves(curve_plots.failure_curves(odd, along=L1), axes[5], along=L1)
    replicate_plots.plot_metric_scatter(replicate_plots.metric_scatter(odd, "explained_variance", "l0"), axes[6], log_x=True)
    for ax, parameter in zip(axes[7:], ORDER_PARAMETERS):
        order_plots.plot_order_parameter(order_plots.order_parameter_curve(odd, "10-5-10", parameter.column), ax)
    assert all(ax.get_title() for ax in [*axes[:5], *axes[6:11]])
    with matplotlib.rc_context({"svg.hashsalt": "x"}):
        written(figure, "png", *(["svg"] if case == "scattered" else []))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("case", ["empty", "none failed", "scattered"])
def test_small_multiples_bear_an_odd_frame(frame: pd.DataFrame, case: str) -> None:
    """Unused Axes are switched off; the measured ones share their limits."""
    odd = odd_frame(frame, case)
    diagrams = [phase_plots.phase_diagram(odd, name) for name in odd["architecture"].unique()]
    figure = Figure(layout="constrained")
    axes = list(figure.subplots(2, 2).ravel())
    phase_plots.plot_phase_diagrams(diagrams, axes)
    written(figure, "png")
    assert [ax.axison for ax in axes] == [place < len(diagrams) for place in range(4)]
    assert len({ax.get_ylim() for ax in axes[: len(diagrams)]}) <= 1


def test_cells_of_few_seeds_are_ringed(frame: pd.DataFrame) -> None:
    """A cell of 2 seeds beside cells of 12, but no cell where all have few."""
    many = pd.concat([frame.assign(seed=frame["seed"] + 100 * k) for k in range(10)])
    thin = (many["sparsity"] == 0.3) & (many["l1"] == many["l1"].min()) & (many["seed"] >= 2)
    diagram = phase_plots.phase_diagram(many[~thin], "5-3-5")
    assert diagram.few.sum() == 1
    assert diagram.replicates[diagram.few] == [2]
    assert "Ringed: fewer than 10 seeds" in diagram.caption
    assert not phase_plots.phase_diagram(frame, "5-3-5").few.any()


def test_region_is_framed_by_its_own_cells(frame: pd.DataFrame) -> None:
    """The frame reaches from the edge of the first cell to that of the last, in the middle architecture."""
    region = all_regions(frame)[0]
    shown = region_plots.region_map(frame, region)
    ax = Figure().subplots()
    region_plots.plot_region_map(shown, ax)
    (box,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    low, high = region.extents["sparsity"]
    assert box.get_x() < low <= high < box.get_x() + box.get_width()
    assert shown.architecture in region.architectures
    assert f"peak {region.peak_rate:.0%}" in ax.get_title()


def test_cell_shows_the_rate_of_each_verdict(frame: pd.DataFrame) -> None:
    """A bar for each verdict, as long as its share; the title counts the failures."""
    cell = frame.head(10).assign(failure=["sae_dead"] * 3 + ["none"] * 7)
    ax = Figure().subplots()
    curve_plots.plot_verdict_rates(cell, ax)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([30, 70])
    assert ax.get_title() == "3 of 10 seeds fail (30%)"
