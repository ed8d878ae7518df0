"""The sections of a report, each with its figures, tables and text, made from a study's rows (`study_rows.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparisons.published import published_replicates, side_by_side
from analysis.figures import verdicts as plots
from analysis.figures.failure_curves import failure_curves, plot_failure_curves
from analysis.figures.l1 import l1_figure
from analysis.figures.order_parameters import order_parameter_curve, plot_order_parameter
from analysis.figures.phase import phase_diagram, plot_phase_diagram, plot_phase_diagrams
from analysis.figures.replicates import gram, metric_scatter, plot_gram_matrix, plot_metric_scatter
from analysis.rates.cells import counted
from analysis.rates.claims import probability_text
from analysis.rates.regions import Region
from analysis.report.findings import architecture_sentences, collapse_sentences, range_text, span_text, verdict_table
from analysis.report.study_rows import COLLAPSE, DEATH, StudyRows, slug
from analysis.searches.l1 import L1Result, l1_table
from analysis.transitions.critical_points import CriticalPoint, critical_table
from analysis.transitions.crossings import Answer, Crossing
from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.coordinates import L1, PLANE
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
SCATTERS = (("explained_variance", "mcc_corrected"), ("explained_variance", "procrustes_hidden_recon"))
ORDER_COLUMN = "ae_dimensions_per_feature"
MOST_GRAMS, MOST_DOTS, MOST_ORDER_PANELS, MOST_ARCHITECTURES = 8, 4_000, 8, 24
MOST_LINES = 150
"""Largest number of rows of a table on the page; its CSV file has all."""
HIGHEST_ORDER = 2.0
"""The upper end of the axis of dimensions per feature: a collapsed autoencoder has tens."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A figure with its caption."""

    name: str
    """The name of its files."""
    figure: Figure
    caption: str
    wide: bool = False
    """Whether it takes the page's whole width, so that a narrow screen scrolls it."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table: the whole of it for a CSV file, and the part that the page shows."""

    name: str
    data: pd.DataFrame
    shown: pd.DataFrame | None = None
    """The table on the page; None: `data` itself."""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page: a heading and what is below it."""

    title: str
    anchor: str
    text: str = ""
    sentences: Sequence[str] = ()
    """Further findings, shown as a list."""
    panels: Sequence[Panel] = ()
    sheets: Sequence[Sheet] = ()
    folded: bool = False
    """Whether it opens only on demand."""


def sections(study: StudyRows) -> Iterator[Section]:
    """The sections for which the study has data, in the order of the page; each is computed when it is needed."""
    if study.rows.empty:
        return
    of_measured = (_order_section, _metrics_section, _trust_section) if len(study.measured) else ()
    makers: tuple[Callable[[StudyRows], Section | None], ...] = (
        _published_section, _l1_section, _verdict_section, _collapse_section, _phase_section, _region_section, *of_measured,
        _gram_section, _cells_section,
    )  # fmt: skip
    for make in makers:
        if (section := make(study)) is not None:
            yield section
    yield from architecture_sections(study)


def _seeds_a_cell(study: StudyRows) -> str:
    fewest, most = study.cells["replicates"].min(), study.cells["replicates"].max()
    return counted(int(most), "seed") if fewest == most else f"{fewest} to {most} seeds"


Margins: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom, top, in inches. Fixed margins take half the time of Matplotlib's constrained layout."""
_WITH_LEGEND: Margins = (0.62, 1.35, 0.78, 0.3)
_WITH_BAR: Margins = (0.65, 0.15, 0.95, 0.3)


def _single(margins: Margins = _WITH_LEGEND, size: tuple[float, float] = (5.4, 3.5)) -> tuple[Figure, Axes]:
    figure, (ax,) = _grid(1, 1, (size[0] - margins[0] - margins[1], size[1] - margins[2] - margins[3]), (0, 0), margins)
    return figure, ax


def _grid(
    count: int, columns: int, panel: tuple[float, float], gap: tuple[float, float], margins: Margins
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of one size, in rows; all lengths in inches."""
    rows = -(-count // columns)
    left, right, bottom, top = margins
    width = left + columns * panel[0] + (columns - 1) * gap[0] + right
    height = bottom + rows * panel[1] + (rows - 1) * gap[1] + top
    figure = Figure(figsize=(width, height))
    spaces = {"wspace": gap[0] / panel[0], "hspace": gap[1] / panel[1]}
    edges = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces | edges).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, list(axes[:count])


# What became of the replicates


def _published_section(study: StudyRows) -> Section | None:
    comparison = side_by_side(study.frame)
    if comparison.empty:
        return None
    return Section(
        "Published and reproduced, seed 123",
        "published",
        "Each figure as published / as reproduced here, and the verdict. If the SAE is dead, its reconstruction is constant: "
        "the published similarities are then rounding noise, ours are missing (–).",
        sheets=[Sheet("published", comparison, paired(comparison))],
    )


def paired(comparison: pd.DataFrame) -> pd.DataFrame:
    """The comparison with `<column> published` and `<column> reproduced` in one cell."""
    columns = [name.removesuffix(" published") for name in comparison.columns if name.endswith(" published")]
    texts = {name: [cell_text(value) for value in comparison[name]] for name in comparison.columns[2:]}
    pairs = {name: [" / ".join(pair) for pair in zip(texts[f"{name} published"], texts[f"{name} reproduced"])] for name in columns}
    return comparison[["sparsity", "failure"]].assign(**pairs)


def _l1_section(study: StudyRows) -> Section | None:
    if not study.l1:
        return None
    of_both = study.l1[0].safe_probability is not None
    edges = (
        f"Outside the edges more seeds fail ({', '.join(study.l1[0].failure)}) than the level allows"
        if of_both
        else "Above the upper edge more seeds die or starve than the level allows, below the lower edge more codes are dense"
    )
    caption = (
        f"{edges}; lines: {study.l1[0].interval_level:.0%} intervals. Replicates whose autoencoder collapsed are left out. "
        "Diamonds: the best l1 of the replicates without any failure. Dotted: where SAEs die by the closed form, where it has been "
        "found to hold (unit decoder columns, or 12 latents and more; within a factor of 4)."
    ).replace("% intervals", " % intervals")
    return Section(
        "Safe values of l1",
        "l1",
        "From an adaptive search: each replicate was trained where it was most informative about an edge or the best value.",
        panels=[Panel("l1", l1_figure(study.l1), caption, wide=True)],
        sheets=[Sheet("l1", l1_table(study.l1), L1Result(study.l1, study.spec.protocol).table())],
    )


def _verdict_section(study: StudyRows) -> Section:
    axes = [axis for axis in _AXES if study.varies(axis)] or [PLANE.x.name]
    return Section("What became of the replicates", "verdicts", panels=[_composition_panel(study, axis) for axis in axes])


_AXES = {coordinate.name: coordinate.values for coordinate in PLANE} | {"architecture": "architectures"}


def _composition_panel(study: StudyRows, axis: str) -> Panel:
    figure, ax = _single()
    composition = plots.verdict_composition(study.frame, axis, study.spec.search is not None)
    plots.plot_verdict_composition(composition, ax)
    others = [words for name, words in _AXES.items() if name != axis and study.varies(name)]
    over = f"Verdicts by {axis}, over all {', '.join(others)}{' and ' if others else ''}seeds"
    name = "verdicts" if axis == PLANE.x.name else f"verdicts_{axis}"
    return Panel(name, figure, f"{over}. {composition.caption}")


def _collapse_section(study: StudyRows) -> Section | None:
    """How often the autoencoder itself collapses, and the rate of each verdict, along sparsity."""
    if not study.varies("sparsity"):
        return None
    collapses, verdicts = (
        failure_curves(study.autoencoders, COLLAPSE),
        failure_curves(study.frame, by="failure"),
    )
    without = " Without seed 123, which is known because it collapses." if len(published_replicates(study.frame)) else ""
    panels = []
    if collapses["failures"].sum():
        caption = f"{counted(len(study.autoencoders), 'autoencoder')}, each once.{without}"
        panels.append(_curves_panel("collapse", collapses, COLLAPSE, caption))
    if len(verdicts):
        panels.append(_curves_panel("verdict_rates", verdicts, "any", f"{counted(len(study.frame), 'replicate')}."))
    return Section(
        "Failure probability by sparsity",
        "collapse",
        " ".join(collapse_sentences(study)),
        [f"{name}: {curve.sentence}" for name, curve in study.collapse.items()] if len(study.collapse) > 1 else (),
        panels,
        [Sheet("failure_curves", pd.concat([collapses.assign(failure=COLLAPSE), verdicts.assign(failure="each")]), pd.DataFrame())],
    )


def _curves_panel(name: str, curves: pd.DataFrame, failure: str, of_what: str) -> Panel:
    figure, ax = _single()
    plot_failure_curves(curves, ax, failure)
    return Panel(name, figure, f"Share of the seeds with 95 % Jeffreys intervals; {of_what}")


# Phase diagrams


def _phase_section(study: StudyRows) -> Section | None:
    if not study.varies("sparsity", "l1"):
        return None
    return Section(
        "Phase diagrams over sparsity and l1",
        "phase",
        "Light is safe, dark fails. Each architecture has its own diagram of the death of the SAE below, with critical points.",
        panels=[_phase_panel(study)],
        sheets=[Sheet("critical_points", critical_table(study.deaths), pd.DataFrame())],
    )


def _phase_panel(study: StudyRows) -> Panel:
    shown = study.architectures[:MOST_ARCHITECTURES]
    diagrams = [phase_diagram(study.frame, name, fitted=study.fitted.get(name), deaths=study.deaths_of(name)) for name in shown]
    columns = min(4, len(shown))
    width = _column_width(columns)
    figure, axes = _grid(len(shown), columns, (width, 0.85 * width), (0.15, 0.35), (0.8, 0.1, 0.8, 0.3))
    plot_phase_diagrams(diagrams, axes)
    fitted = any(diagram.fitted is not None for diagram in diagrams)
    return Panel("phase_diagrams", figure, _phase_caption(study, fitted, len(study.architectures) - len(shown)), wide=columns > 1)


def _phase_caption(study: StudyRows, fitted: bool, left_out: int) -> str:
    line = (
        " Line: where the smoothed rate is 50 %; dashed: where it is 95 % sure to be on either side."
        if fitted
        else " Bars: 90 % intervals of where the rate crosses 50 %, along l1 or S."
    )
    return (
        f"Share of the seeds that failed in any way, {counted(len(study.frame), 'replicate')}, {_seeds_a_cell(study)} per cell; "
        f"titles: the cells where half or more fail.{line} Orange: where all latents die by the closed forms. "
        f"Hatched: not measured.{f' The {left_out} widest are left out.' if left_out else ''}"
    )


def _column_width(columns: int) -> float:
    """The width in inches of a panel, for a number of columns."""
    return min(4.2, 10.8 / columns)


def _region_section(study: StudyRows) -> Section | None:
    if not study.regions:
        return None
    data, shown = (pd.DataFrame([of(region) for region in study.regions]) for of in (Region.to_mapping, _region_line))
    return Section(
        "Failure regions",
        "regions",
        "Connected cells whose smoothed failure rate is at least one half, the most certain first. Confidence is that the region "
        "exists, given the search among many cells: 0.95 or more is wrong in at most one map in twenty; 0 does not mean absent.",
        sheets=[Sheet("regions", data, shown)],
    )


def _region_line(region: Region) -> dict[str, object]:
    return {
        "region": region.name,
        "rate at the peak [95 %]": f"{region.peak_rate:.0%} [{region.peak_interval[0]:.0%}, {region.peak_interval[1]:.0%}]",
        "architectures": span_text(region.architectures),
        **{name: range_text(extent) for name, extent in region.extents.items()},
        "share of cells": f"{region.volume:.1%}",
        "replicates": region.replicates,
        "confidence": probability_text(region.confidence),
        "beyond its borders": ", ".join(region.neighbours) or "–",
    }


# The autoencoder


def _order_section(study: StudyRows) -> Section | None:
    if not study.varies("sparsity"):
        return None
    table, shown = critical_table(study.transitions), transition_table(study.transitions)
    return Section(
        "Order parameters of the autoencoder, and their closed forms",
        "order",
        "Dimensions per feature D* falls below 1 where features begin to share directions.",
        panels=[_order_panel(study)],
        sheets=[Sheet("transitions", table, shown, "Where each statement crosses half of the seeds.")],
    )


def _order_panel(study: StudyRows) -> Panel:
    shown = study.architectures[:MOST_ORDER_PANELS]
    curves = [order_parameter_curve(study.measured, name, ORDER_COLUMN) for name in shown]
    columns = min(4, len(shown))
    width = _column_width(columns) - 0.4
    figure, axes = _grid(len(shown), columns, (width, 0.75 * width), (0.4, 0.85), (0.62, 0.1, 0.5, 0.45))
    for place, (ax, curve) in enumerate(zip(axes, curves)):
        plot_order_parameter(curve, ax)
        ax.set_title(curve.title.replace(f": {curve.label}", ""), fontsize=8)
        ax.set_ylim(0, min(ax.get_ylim()[1], HIGHEST_ORDER))
        if place and (legend := ax.get_legend()):
            legend.remove()
        if place % columns:
            ax.set_ylabel("")
    caption = f"D* by sparsity, up to {HIGHEST_ORDER:g} (collapsed autoencoders have more). Each panel: {curves[0].caption}"
    return Panel("order_parameters", figure, caption, wide=len(shown) > 1)


def transition_table(points: Sequence[CriticalPoint]) -> pd.DataFrame:
    """One row per crossing: its sparsity, the prediction of the closed form, and whether the interval holds it."""
    rows = []
    for point in points:
        (prediction,) = point.predictions or (None,)
        rows.append(
            {
                "architecture": point.architecture,
                "statement": point.quantity,
                "S at half of the seeds [90 %]": crossing_text(point),
                "closed form": "–" if prediction is None else prediction.name,
                "predicted S": np.nan if prediction is None else prediction.value,
                "agrees": "–" if prediction is None else _yes_no(point.holds(prediction)),
            }
        )
    return pd.DataFrame(rows)


def crossing_text(point: CriticalPoint) -> str:
    """The crossing with its interval, or why there is none; an open end lies beyond the measured range."""
    crossing = point.crossing
    if crossing.answer is Answer.TOO_FEW:
        return "too few seeds or levels"
    if crossing.answer is Answer.NOT_CROSSED:
        return f"none: stays {crossing.direction}"
    falls = "falls at " if crossing.direction == "falling" else ""
    return f"{falls}{crossing.estimate:.3g} {_interval_text(crossing, point.measured)}"


def _interval_text(crossing: Crossing, measured: tuple[float, float]) -> str:
    low = f"{crossing.low:.3g}" if crossing.low > measured[0] else f"< {measured[0]:.3g}"
    high = f"{crossing.high:.3g}" if crossing.high < measured[1] else f"> {measured[1]:.3g}"
    return f"[{low}, {high}]"


def _yes_no(held: bool | None) -> str:
    return "–" if held is None else "yes" if held else "no"


def _gram_section(study: StudyRows) -> Section | None:
    exact = study.rows[study.rows["failure"] != FailureKind.CRASHED.value]
    if exact.empty:
        return None
    chosen = chosen_for_grams(exact)
    title = f"WᵀW of the autoencoder, {chosen['architecture'].iloc[0]}"
    engine = engine_for(study.spec.engine, study.spec.protocol)
    if not engine.is_installed:
        return Section(title, "grams", f"Not drawn: engine {engine.name!r}, which trained them, is not installed here.")
    W = _trained_weights(chosen, study.spec)
    figure, axes = _grid(len(chosen), min(4, len(chosen)), (1.9, 1.9), (0.35, 0.85), (0.35, 0.95, 0.3, 0.65))
    for lane, (ax, row) in enumerate(zip(axes, chosen.itertuples())):
        image = plot_gram_matrix(gram(W[..., lane]), ax, f"S = {row.sparsity:.3g}, seed {row.seed}\n{row.failure}")
    figure.colorbar(image, cax=figure.add_axes((1 - 0.75 / figure.get_figwidth(), 0.25, 0.14 / figure.get_figwidth(), 0.5)))
    caption = (
        f"{counted(len(chosen), 'autoencoder')}, one per sparsity, trained again. Ones on the diagonal: represented features. Blue "
        "and red off it: features that share a direction. A gap on it: a lost feature."
    )
    return Section(title, "grams", panels=[Panel("grams", figure, caption, wide=len(chosen) > 2)])


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


def _metrics_section(study: StudyRows) -> Section | None:
    frame = study.measured
    shown = [metric for metric in METRICS_DRAWN if frame[metric].notna().any()]
    if not shown:
        return None
    figure, axes = _grid(len(shown), min(4, len(shown)), (2.2, 1.65), (0.55, 0.75), (0.5, 0.15, 0.95, 0.3))
    sample = frame if len(frame) <= MOST_DOTS else frame.sample(MOST_DOTS, random_state=0)
    for ax, metric in zip(axes, shown):
        plots.plot_metric_by_sparsity(sample, metric, ax)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=9, frameon=False, markerscale=3, fontsize=8)
    drawn = f"{len(sample)} of {len(frame)}" if len(sample) < len(frame) else str(len(frame))
    caption = f"Each dot is a replicate ({drawn}), in the colour of its verdict; the bar is the median of the drawn ones."
    return Section("Metrics of AE and SAE by sparsity", "metrics", panels=[Panel("metrics", figure, caption, wide=True)])


def _trust_section(study: StudyRows) -> Section:
    panels = [
        _scatter_panel(study.measured, x, y)
        for x, y in SCATTERS
        if study.measured[x].notna().any() and study.measured[y].notna().any()
    ]
    trust = study.trust
    return Section(
        "Which metrics to trust where",
        "trust",
        "How often each metric is defined, how well it separates healthy from failing replicates of the same cell (AUC: ½ is "
        "chance, 0 or 1 is certain), how much it scatters between seeds, and whether it merely restates the explained variance.",
        trust.sentences,
        panels,
        [
            Sheet("metric_trust", trust.table, trust_table(trust.table)),
            Sheet("metric_by_verdict", trust.by_verdict, pd.DataFrame()),
            Sheet("metric_separation", trust.separation, pd.DataFrame()),
        ],
    )


def trust_table(table: pd.DataFrame) -> pd.DataFrame:
    """The evidence about each metric, as the page shows it."""
    auc = ["–" if np.isnan(row.auc) else f"{row.auc:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    shares = {
        f"defined, {group.replace('_', ' ')}": [_percent(share) for share in table[f"defined_{group}"]]
        for group in ("healthy", "failing", "all_dead")
    }
    return pd.DataFrame(
        {
            "metric": table["metric"],
            **shares,
            "AUC healthy / failing [95 %]": auc,
            "part of the verdict": [_yes_no(bool(of)) for of in table["in_verdict"]],
            "failing that look healthy": [_percent(share) for share in table["looks_healthy"]],
            "spread of seeds, healthy": table["spread_healthy"],
            "failing": table["spread_failing"],
            "rank corr. with error": table["error_rank_correlation"],
        }
    )


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"


def _scatter_panel(frame: pd.DataFrame, x: str, y: str) -> Panel:
    figure, ax = _single((0.8, 1.35, 0.6, 0.3))
    scatter = metric_scatter(frame, x, y)
    plot_metric_scatter(scatter, ax)
    return Panel(f"scatter_{y}", figure, scatter.caption)


# Cell by cell, architecture by architecture


def _cells_section(study: StudyRows) -> Section:
    return Section(
        "Failure rate of every cell",
        "cells",
        "Any failure; Jeffreys 95 % intervals.",
        sheets=[Sheet("cells", verdict_table(study.frame))],
        folded=len(study.cells) > 30,
    )


def architecture_sections(study: StudyRows) -> Iterator[Section]:
    """One section per architecture, if there are several or a plane to show."""
    if len(study.architectures) > 1 or study.varies("sparsity", "l1"):
        yield from (_architecture_section(study, name) for name in study.architectures[:MOST_ARCHITECTURES])


def _architecture_section(study: StudyRows, architecture: str) -> Section:
    frame = study.of(architecture)
    planar = frame["sparsity"].nunique() > 1 and (frame["l1"] > 0).any() and frame["l1"].nunique() > 1
    shown = death_table(study.deaths_of(architecture))
    return Section(
        architecture,
        f"architecture-{slug(architecture)}",
        sentences=architecture_sentences(study, architecture),
        panels=[_death_panel(study, architecture) if planar else _own_composition(study, architecture)],
        sheets=[Sheet(f"critical_l1_{slug(architecture)}", shown, note="Critical l1 of the SAE's death.")] if len(shown) else (),
        folded=True,
    )


def _own_composition(study: StudyRows, architecture: str) -> Panel:
    figure, ax = _single()
    composition = plots.verdict_composition(study.of(architecture), searched=study.spec.search is not None)
    plots.plot_verdict_composition(composition, ax)
    return Panel(f"verdicts_{slug(architecture)}", figure, f"Verdicts of {architecture} by sparsity. {composition.caption}")


def _death_panel(study: StudyRows, architecture: str) -> Panel:
    diagram = phase_diagram(study.measured, architecture, DEATH, deaths=study.deaths_of(architecture))
    figure, ax = _single(_WITH_BAR, (4.9, 4.2))
    mesh = plot_phase_diagram(diagram, ax)
    if mesh is not None:
        figure.colorbar(mesh, ax=ax, label="all latents dead, share of seeds", shrink=0.85)
    return Panel(f"death_{slug(architecture)}", figure, f"All latents dead, whatever the reason. {diagram.caption}")


def death_table(points: Sequence[CriticalPoint]) -> pd.DataFrame:
    """One row per sparsity: the l1 above which half of the seeds have all latents dead, and each closed form."""
    return pd.DataFrame(
        [
            {
                "sparsity": point.at,
                "l1 at half of the seeds [90 %]": crossing_text(point),
                **{f"{p.name}{end}": value for p in point.predictions for end, value in _judged(point, p)},
            }
            for point in points
            if point.axis == L1
        ]
    )


def _judged(point: CriticalPoint, prediction: Any) -> list[tuple[str, object]]:
    return [("", prediction.value), (" within", _yes_no(point.holds(prediction)))]


def cell_text(value: Any) -> str:
    """A value as text in a table: four significant figures, or – if it is missing."""
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text(v) for v in value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
