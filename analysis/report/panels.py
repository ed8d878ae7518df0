"""The figures of a study, each with its caption: those of the report, and from Python those of `analysis.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons.ablations import Ablation
from analysis.comparisons.published import published_replicates
from analysis.figures import verdicts as plots
from analysis.figures.ablation import plot_ablation
from analysis.figures.failure_curves import failure_curves, plot_failure_curves, plot_verdict_rates
from analysis.figures.l1 import l1_figure
from analysis.figures.learned_map import map_figure
from analysis.figures.order_parameters import order_parameter_curve, plot_order_parameter
from analysis.figures.phase import phase_diagram, plot_phase_diagram, plot_phase_diagrams
from analysis.figures.regions import plot_region_map, region_map
from analysis.figures.replicates import gram, metric_scatter, plot_gram_matrix, plot_metric_scatter
from analysis.figures.style import counts_text
from analysis.rates.cells import counted
from analysis.rates.regions import Region
from analysis.report.layout import WHOLE_WIDTH, WITH_BAR, Panel, column_width, grid, single
from analysis.report.study_rows import COLLAPSE, DEATH, StudyRows, slug
from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.coordinates import PLANE
from search_spaces.failures import FailureKind
from search_spaces.study_files import StudySpec
from study.engines.registry import engine_for
from study.packs import Pack
from study.run_pack import train_autoencoders

METRICS_DRAWN = (
    "ae_loss", "ae_diagonal_mean", "ae_features_represented", "ae_dimensions_per_feature",
    "explained_variance", "l0", "dead_latents", "max_firing_rate",
    "procrustes_hidden_recon", "cka_hidden_recon", "mcc_corrected", "f1_latents_features",
)  # fmt: skip
"""The metrics that the page draws by sparsity; `mcc_corrected` is (mcc − chance)/(1 − chance)."""
ORDER_COLUMN = "ae_dimensions_per_feature"
MOST_GRAMS, MOST_DOTS, MOST_ORDER_PANELS, MOST_ARCHITECTURES, MOST_REGION_MAPS = 8, 4_000, 8, 24, 8
MOST_SERIES = 3
"""Of more series, curves are drawn in a panel each."""
LEAST_LEVELS = 4
"""Of both coordinates: the result of a grid of fewer is drawn as bars, not as phase diagrams."""
HIGHEST_ORDER = 2.0
"""The upper end of the axis of dimensions per feature: a collapsed autoencoder has tens."""
AXES = {coordinate.name: coordinate.values for coordinate in PLANE} | {"architecture": "architectures"}


def result_panel(study: StudyRows) -> Panel:
    """The one figure that is the study's result.

    That is the map of a map, the safe interval of an L1 search, the phase diagrams of a plane, and otherwise the verdicts.
    """
    if study.map is not None:
        return map_panel(study)
    if study.l1:
        return l1_panel(study)
    return phase_panel(study) if is_plane(study) else verdict_panel(study)


def is_plane(study: StudyRows) -> bool:
    """Whether the study is a grid of enough levels of both coordinates for phase diagrams to be its result."""
    return not study.searched and has_plane(study.frame)


def has_plane(frame: pd.DataFrame) -> bool:
    """Whether rows have enough levels of both coordinates for a phase diagram."""
    return min(frame[axis.name].nunique() for axis in PLANE) >= LEAST_LEVELS and bool((frame[PLANE.y.name] > 0).any())


def map_panel(study: StudyRows) -> Panel:
    """The map, which is that of map.png."""
    shown = study.map
    assert shown is not None
    kinds = "" if not any(shown.shares.values()) else " Names and dotted lines: which kind of failure is the commonest there."
    caption = (
        f"Light is safe, dark fails. Line: where {shown.level:.0%} of the seeds fail; dashed: where the side is 95 % sure.{kinds} "
        "Hatched: nothing was trained near."
    )
    return Panel("map", map_figure(shown), caption, wide=True)


def l1_panel(study: StudyRows) -> Panel:
    """The safe interval of l1 by sparsity."""
    first = study.l1[0]
    edges = (
        f"Outside the edges more seeds fail ({', '.join(first.failure)}) than the level allows"
        if first.safe_probability is not None
        else "Above the upper edge more seeds die or starve than the level allows, below the lower edge more codes are dense"
    )
    caption = (
        f"{edges}; lines: {100 * first.interval_level:.0f} % intervals. Replicates whose autoencoder collapsed are left out. "
        "Diamonds: the best l1 of the replicates without any failure. Dotted: where SAEs die by the closed form, where it has been "
        "found to hold (unit decoder columns, or 12 latents and more; within a factor of 4)."
    )
    return Panel("l1", l1_figure(study.l1), caption, wide=True)


# What became of the replicates


def verdict_panel(study: StudyRows) -> Panel:
    """The verdicts: by the coordinate of most levels, a panel for each architecture; for a single cell, the rate of each."""
    if len(study.cells) == 1:
        figure, ax = single((1.4, 0.3, 0.7, 0.5), (WHOLE_WIDTH, 3.2))
        plot_verdict_rates(study.frame, ax)
        return Panel(
            "verdicts", figure, f"Share of the seeds with 95 % Jeffreys intervals; {counted(len(study.frame), 'replicate')}."
        )
    axis = verdict_axis(study)
    if axis != "architecture" and len(study.architectures) > 1:
        return _composition_multiples(study, axis)
    return replace(composition_panel(study, axis, WHOLE_WIDTH), name="verdicts")


def verdict_axis(study: StudyRows) -> str:
    """The axis of `verdict_panel`: that of most levels, of equal ones sparsity."""
    return max((PLANE.x.name, PLANE.y.name, "architecture"), key=lambda name: study.frame[name].nunique())


def ablation_panel(found: Ablation) -> Panel:
    """The change of the failure rate by each difference."""
    figure, ax = single((2.9, 0.2, 0.6, 0.4), (WHOLE_WIDTH, 1.2 + 0.22 * len(found.table)))
    plot_ablation(found.table, found.ends, ax, found.failure)
    seeds = counts_text(found.table["seeds"].to_numpy(dtype=np.int64))
    caption = f"Paired change of the failure rate, 95 % intervals, {seeds} seeds each; filled marks: beyond chance (Holm)."
    return Panel("ablation", figure, caption, wide=True)


def composition_panel(study: StudyRows, axis: str, width: float = 5.4) -> Panel:
    """The shares of the verdicts along one axis."""
    figure, ax = single(size=(width, 3.5))
    composition = plots.verdict_composition(study.frame, axis, study.searched)
    plots.plot_verdict_composition(composition, ax)
    return Panel(f"verdicts_{axis}", figure, f"{_over(study, axis)}. {composition.caption}", wide=width > 6)


def _over(study: StudyRows, axis: str, of_panels: str = "") -> str:
    others = [words for name, words in AXES.items() if name not in (axis, of_panels) and study.varies(name)]
    return f"Verdicts by {axis}, over all {', '.join(others)}{' and ' if others else ''}seeds"


def _composition_multiples(study: StudyRows, axis: str) -> Panel:
    shown = study.architectures[:MOST_ARCHITECTURES]
    columns = min(4, len(shown))
    width = column_width(columns) - 0.3
    figure, axes = grid(len(shown), columns, (width, 0.75 * width), (0.3, 0.75), (0.62, 0.1, 1.05, 0.55))
    entries: dict[str, Any] = {}
    for place, (ax, name) in enumerate(zip(axes, shown)):
        plots.plot_verdict_composition(plots.verdict_composition(study.of(name), axis, study.searched), ax)
        entries |= dict(zip(*reversed(ax.get_legend_handles_labels())))
        ax.set_title(name, fontsize=9)
        _outer(ax, place, columns, len(shown))
        if legend := ax.get_legend():
            legend.remove()
    figure.suptitle(plots.verdict_composition(study.frame, axis, study.searched).title, fontsize=10)
    figure.legend(list(entries.values()), list(entries), loc="lower center", ncols=9, frameon=False, fontsize=8)
    caption = f"{_over(study, axis, 'architecture')}, a panel for each architecture. {counted(len(study.frame), 'replicate')}."
    return Panel("verdicts", figure, caption, wide=True)


def _outer(ax: Any, place: int, columns: int, count: int) -> None:
    """Label the axes only at the left of each row and below the last panel of each column."""
    if place % columns:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)
    if place + columns < count:
        ax.set_xlabel("")


def own_composition(study: StudyRows, architecture: str) -> Panel:
    """The shares of the verdicts of one architecture, by sparsity."""
    figure, ax = single()
    composition = plots.verdict_composition(study.of(architecture), searched=study.searched)
    plots.plot_verdict_composition(composition, ax)
    return Panel(f"verdicts_{slug(architecture)}", figure, f"Verdicts of {architecture} by sparsity. {composition.caption}")


def own_l1(study: StudyRows, architecture: str) -> Panel:
    """The safe interval of l1 of one architecture."""
    own = [interval for interval in study.l1 if interval.architecture == architecture]
    return Panel(f"l1_{slug(architecture)}", l1_figure(own), f"Safe values of l1 of {architecture}.")


def collapse_panel(study: StudyRows, curves: pd.DataFrame) -> Panel:
    """How often the autoencoder itself collapses, by sparsity."""
    without = " Without seed 123, which is known because it collapses." if len(published_replicates(study.frame)) else ""
    return _curves_panel("collapse", curves, COLLAPSE, f"{counted(len(study.autoencoders), 'autoencoder')}, each once.{without}")


def verdict_rates_panel(study: StudyRows, curves: pd.DataFrame) -> Panel:
    """The rate of each verdict by sparsity."""
    return _curves_panel("verdict_rates", curves, "any", f"{counted(len(study.frame), 'replicate')}.")


def _curves_panel(name: str, curves: pd.DataFrame, failure: str, of_what: str) -> Panel:
    caption = f"Share of the seeds with 95 % Jeffreys intervals; {of_what}"
    series = list(dict.fromkeys(curves["series"]))
    if len(series) > MOST_SERIES:
        return Panel(name, _curve_multiples(curves, series, failure), caption, wide=True)
    figure, ax = single()
    plot_failure_curves(curves, ax, failure)
    return Panel(name, figure, caption)


def _curve_multiples(curves: pd.DataFrame, series: list[str], failure: str) -> Figure:
    """A panel for each series, all with the same scales."""
    columns = min(4, len(series))
    width = column_width(columns) - 0.3
    figure, axes = grid(len(series), columns, (width, 0.7 * width), (0.3, 0.62), (0.62, 0.1, 0.5, 0.35))
    left, right = curves["x"].min(), curves["x"].max()
    for place, (ax, name) in enumerate(zip(axes, series)):
        own = curves[curves["series"] == name]
        plot_failure_curves(own, ax, failure)
        top = own.loc[own["rate"].idxmax()]
        most = f"up to {top['rate']:.0%} at {PLANE.x.symbol} = {top['x']:.3g}" if top["failures"] else "none"
        ax.set_title(f"{name}: {most}", fontsize=9)
        ax.set_ylim(0, min(100, 105 * curves["high"].max()))
        ax.set_xlim(left - 0.05 * (right - left), right + 0.05 * (right - left))
        _outer(ax, place, columns, len(series))
    return figure


# Phase diagrams and regions


def phase_panel(study: StudyRows) -> Panel:
    """The failure rate of every cell, a panel for each architecture."""
    shown = study.architectures[:MOST_ARCHITECTURES]
    diagrams = [phase_diagram(study.of(name), name, fitted=study.fitted.get(name), deaths=study.deaths_of(name)) for name in shown]
    columns = min(4, len(shown))
    width = column_width(columns) if columns > 1 else 6.5
    figure, axes = grid(len(shown), columns, (width, 0.85 * width), (0.15, 0.35), (0.8, 0.1, 0.8, 0.6))
    plot_phase_diagrams(diagrams, axes)
    fitted, few = any(diagram.fitted is not None for diagram in diagrams), any(diagram.few.any() for diagram in diagrams)
    return Panel("phase_diagrams", figure, _phase_caption(study, fitted, few), wide=True)


def _phase_caption(study: StudyRows, fitted: bool, few: bool) -> str:
    line = (
        " Line: where the smoothed rate is 50 %; dashed: where it is 95 % sure to be on either side."
        if fitted
        else " Bars: 90 % intervals of where the rate crosses 50 %, along l1 or S."
    )
    ringed, left_out = " Ringed: few seeds." if few else "", len(study.architectures) - MOST_ARCHITECTURES
    return (
        f"Share of the seeds that failed in any way, {counted(len(study.frame), 'replicate')}, {_seeds_a_cell(study)} per cell; "
        f"titles: the cells where half or more fail.{line} Orange: where all latents die by the closed forms.{ringed} "
        f"Hatched: not measured.{f' The {left_out} widest are left out.' if left_out > 0 else ''}"
    )


def _seeds_a_cell(study: StudyRows) -> str:
    fewest, most = study.cells["replicates"].min(), study.cells["replicates"].max()
    return counted(int(most), "seed") if fewest == most else f"{fewest} to {most} seeds"


def death_panel(study: StudyRows, architecture: str) -> Panel:
    """Where all latents are dead, for one architecture."""
    diagram = phase_diagram(study.measured_of(architecture), architecture, DEATH, deaths=study.deaths_of(architecture))
    figure, ax = single(WITH_BAR, (4.9, 4.2))
    mesh = plot_phase_diagram(diagram, ax)
    if mesh is not None:
        figure.colorbar(mesh, ax=ax, label="all latents dead, share of seeds", shrink=0.85)
    return Panel(f"death_{slug(architecture)}", figure, f"All latents dead, whatever the reason. {diagram.caption}")


def regions_panel(study: StudyRows, regions: Sequence[Region]) -> Panel:
    """A small map of each of the first regions."""
    shown = regions[:MOST_REGION_MAPS]
    columns = 4
    figure, axes = grid(len(shown), min(columns, len(shown)), (2.2, 1.55), (0.45, 0.75), (0.6, 0.15, 0.45, 0.45))
    for place, (ax, region) in enumerate(zip(axes, shown)):
        plot_region_map(region_map(study.frame, region), ax)
        if place % columns == 0:
            ax.set_ylabel(PLANE.y.label, fontsize=8)
        if place + columns >= len(shown):
            ax.set_xlabel(PLANE.x.label, fontsize=8)
    caption = (
        f"The {len(shown)} surest of {counted(len(regions), 'region')}, each framed in its middle architecture; titles: the rate "
        "at the peak and its 95 % interval. Light is safe, dark fails in that way; ringed: few seeds; hatched: not measured."
    )
    return Panel("regions", figure, caption, wide=True)


# The autoencoder


def order_panel(study: StudyRows) -> Panel:
    """Dimensions per feature by sparsity, beside its closed form, a panel for each architecture."""
    shown = study.architectures[:MOST_ORDER_PANELS]
    curves = [order_parameter_curve(study.measured_of(name), name, ORDER_COLUMN) for name in shown]
    columns = min(4, len(shown))
    width = column_width(columns) - 0.45
    figure, axes = grid(len(shown), columns, (width, 0.75 * width), (0.45, 0.85), (0.62, 0.1, 0.5, 0.45))
    for place, (ax, curve) in enumerate(zip(axes, curves)):
        plot_order_parameter(curve, ax)
        ax.set_title(curve.title.replace(f": {curve.label}", ""), fontsize=8)
        if place and (legend := ax.get_legend()):
            legend.remove()
        _outer(ax, place, columns, len(shown))
    top = min(max(ax.get_ylim()[1] for ax in axes), HIGHEST_ORDER)
    for ax in axes:
        ax.set_ylim(0, top)
    caption = f"D* by sparsity, up to {HIGHEST_ORDER:g} (collapsed autoencoders have more). Each panel: {curves[0].caption}"
    return Panel("order_parameters", figure, caption, wide=len(shown) > 1)


def gram_panel(study: StudyRows) -> Panel | None:
    """WᵀW of a few autoencoders, trained again; None if no replicate has one or the engine is not installed here."""
    exact = study.rows[study.rows["failure"] != FailureKind.CRASHED.value]
    if exact.empty or not engine_for(study.spec.engine, study.spec.protocol).is_installed:
        return None
    chosen = chosen_for_grams(exact)
    W = _trained_weights(chosen, study.spec)
    figure, axes = grid(len(chosen), min(4, len(chosen)), (1.9, 1.9), (0.35, 0.85), (0.35, 0.95, 0.3, 0.65))
    for lane, (ax, row) in enumerate(zip(axes, chosen.itertuples())):
        image = plot_gram_matrix(gram(W[..., lane]), ax, f"S = {row.sparsity:.3g}, seed {row.seed}\n{row.failure}")
    figure.colorbar(image, cax=figure.add_axes((1 - 0.75 / figure.get_figwidth(), 0.25, 0.14 / figure.get_figwidth(), 0.5)))
    caption = (
        f"{counted(len(chosen), 'autoencoder')} of {chosen['architecture'].iloc[0]}, one per sparsity, trained again. Ones on the "
        "diagonal: represented features. Blue and red off it: features that share a direction. A gap on it: a lost feature."
    )
    return Panel("grams", figure, caption, wide=len(chosen) > 2)


def _trained_weights(chosen: pd.DataFrame, spec: StudySpec) -> Any:
    """W (n_hidden, n_features, R) of the chosen rows' autoencoders."""
    replicates = [
        Replicate(
            Cell(Architecture.parse(row.architecture), row.sparsity, row.l1), row.seed, row.data_seed, row.ae_seed, row.sae_seed
        )
        for row in chosen.itertuples()
    ]
    return train_autoencoders(Pack(Replicates.of(replicates), spec.protocol, spec.dtype, spec.engine)).W


def chosen_for_grams(frame: pd.DataFrame) -> pd.DataFrame:
    """One replicate per sparsity, of one architecture: the published ones if the study has them, else the first seeds."""
    published = published_replicates(frame)
    if len(published):
        return published.head(MOST_GRAMS)
    own = frame[frame["architecture"] == frame["architecture"].iloc[0]]
    one_each = own.sort_values(["sparsity", "seed", "l1"]).drop_duplicates("sparsity")
    return one_each.iloc[np.unique(np.linspace(0, len(one_each) - 1, min(MOST_GRAMS, len(one_each))).astype(int))]


# Metrics


def metrics_panel(study: StudyRows) -> Panel | None:
    """Metrics of AE and SAE by sparsity; None if no row has one."""
    frame = study.measured
    shown = [metric for metric in METRICS_DRAWN if frame[metric].notna().any()]
    if not shown:
        return None
    figure, axes = grid(len(shown), min(4, len(shown)), (2.2, 1.65), (0.55, 0.75), (0.5, 0.15, 0.95, 0.3))
    sample = frame if len(frame) <= MOST_DOTS else frame.sample(MOST_DOTS, random_state=0)
    for ax, metric in zip(axes, shown):
        plots.plot_metric_by_sparsity(sample, metric, ax)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=9, frameon=False, markerscale=3, fontsize=8)
    drawn = f"{len(sample)} of {len(frame)}" if len(sample) < len(frame) else str(len(frame))
    caption = f"Each dot is a replicate ({drawn}), in the colour of its verdict; the bar is the median of the drawn ones."
    return Panel("metrics", figure, caption, wide=True)


def scatter_panel(study: StudyRows, x: str, y: str) -> Panel:
    """One metric against another."""
    figure, ax = single((0.8, 1.35, 0.6, 0.3))
    scatter = metric_scatter(study.measured, x, y)
    plot_metric_scatter(scatter, ax)
    return Panel(f"scatter_{y}", figure, scatter.caption)


def curves_of(study: StudyRows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rate of collapse of the autoencoders by sparsity, and that of each verdict."""
    return failure_curves(study.autoencoders, COLLAPSE), failure_curves(study.frame, by="failure")
