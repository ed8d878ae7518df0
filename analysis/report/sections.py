"""The sections of a report, each with its figures, tables and text, made from a study's rows (`study_rows.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparisons.ablations import compared_arms
from analysis.comparisons.published import side_by_side
from analysis.rates.claims import probability_text
from analysis.rates.regions import Region
from analysis.report.definitions import metrics_table, verdicts_table
from analysis.report.findings import architecture_sentences, headline, range_text, verdict_table
from analysis.report.layout import Panel, Section, Sheet, cell_text
from analysis.report.panels import (
    AXES,
    MOST_ARCHITECTURES,
    ablation_panel,
    collapse_panel,
    composition_panel,
    curves_of,
    death_panel,
    gram_panel,
    has_plane,
    is_plane,
    metrics_panel,
    order_panel,
    own_composition,
    own_l1,
    phase_panel,
    regions_panel,
    result_panel,
    scatter_panel,
    verdict_axis,
    verdict_rates_panel,
)
from analysis.report.study_rows import COLLAPSE, StudyRows, slug
from analysis.searches.l1 import L1Result, l1_table
from analysis.transitions.critical_points import CriticalPoint, critical_table
from analysis.transitions.crossings import Answer, Crossing
from search_spaces.coordinates import L1

SCATTERS = (("explained_variance", "mcc_corrected"), ("explained_variance", "procrustes_hidden_recon"))
MOST_LINES = 150
"""Largest number of rows of a table on the page; its CSV file has all."""


def sections(study: StudyRows) -> Iterator[Section]:
    """The sections for which the study has data, in the order of the page; each is computed when it is needed.

    The result comes first, then the regions, then each architecture, then the rest.
    """
    if study.rows.empty:
        return
    if study.spec.arms:
        yield _ablation_section(study)
        return
    of_measured = (_order_section, _metrics_section, _trust_section) if len(study.measured) else ()
    yield from _made(study, _result_section, _region_section)
    yield from architecture_sections(study)
    yield from _made(
        study, _published_section, _l1_section, _verdict_section, _collapse_section, _phase_section, *of_measured, _gram_section,
        _cells_section, _definitions_section,
    )  # fmt: skip


def _ablation_section(study: StudyRows) -> Section:
    """The protocols of the study beside each other; no other section tells protocols apart."""
    found = compared_arms(study.rows, study.spec.arms)
    return Section(
        "Result",
        "result",
        "Each protocol is compared, over the seeds that both have, with that of the first two which is nearer to it.",
        found.sentences,
        [ablation_panel(found)] if len(found.table) else (),
        [Sheet("ablation", found.table.assign(l1=found.table["l1"].map(str)), found.shown())],
    )


def _made(study: StudyRows, *makers: Callable[[StudyRows], Section | None]) -> Iterator[Section]:
    return (section for make in makers if (section := make(study)) is not None)


def _result_section(study: StudyRows) -> Section:
    return Section("Result", "result", sentences=headline(study), panels=[result_panel(study)])


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
    return Section(
        "Safe values of l1",
        "l1",
        "From an adaptive search: each replicate was trained where it was most informative about an edge or the best value.",
        sheets=[Sheet("l1", l1_table(study.l1), L1Result(study.l1, study.spec.protocol).table())],
    )


def _verdict_section(study: StudyRows) -> Section:
    if study.searched:
        return Section("What became of the replicates", "verdicts")
    drawn = None if is_plane(study) else verdict_axis(study)
    panels = [composition_panel(study, axis) for axis in AXES if axis != drawn and study.varies(axis)]
    return Section("What became of the replicates", "verdicts", panels=panels)


def _collapse_section(study: StudyRows) -> Section | None:
    """How often the autoencoder itself collapses, and the rate of each verdict, along sparsity."""
    if not study.varies("sparsity"):
        return None
    collapses, verdicts = curves_of(study)
    panels = [collapse_panel(study, collapses)] if collapses["failures"].sum() else []
    if len(verdicts) and not study.searched:
        panels.append(verdict_rates_panel(study, verdicts))
    shown = [collapses.assign(failure=COLLAPSE), *([] if study.searched else [verdicts.assign(failure="each")])]
    return Section(
        "Failure probability by sparsity",
        "collapse",
        "",
        [f"{name}: {curve.sentence}" for name, curve in study.collapse.items()] if len(study.collapse) > 1 else (),
        panels,
        [Sheet("failure_curves", pd.concat(shown), pd.DataFrame())],
    )


# Phase diagrams


def _phase_section(study: StudyRows) -> Section | None:
    if not study.varies("sparsity", "l1"):
        return None
    return Section(
        "Critical l1 of the SAE's death" if study.searched or is_plane(study) else "Phase diagrams over sparsity and l1",
        "phase",
        "Each architecture has its own diagram of the death of the SAE above, with critical points.",
        panels=[] if study.searched or is_plane(study) else [phase_panel(study)],
        sheets=[Sheet("critical_points", critical_table(study.deaths), pd.DataFrame())],
    )


def _region_section(study: StudyRows) -> Section | None:
    if not study.regions:
        return None
    regions = sorted(study.regions, key=lambda region: (-region.confidence, -region.volume))
    data, shown = (pd.DataFrame([of(region) for region in regions]) for of in (Region.to_mapping, _region_line))
    return Section(
        "Failure regions",
        "regions",
        "Connected cells whose smoothed failure rate is at least one half, the most certain first. Confidence is that the region "
        "exists, given the search among many cells: 0.95 or more is wrong in at most one map in twenty; 0 does not mean absent.",
        panels=[regions_panel(study, regions)],
        sheets=[Sheet("regions", data, shown)],
    )


def _region_line(region: Region) -> dict[str, object]:
    return {
        "region": region.name,
        "rate at the peak [95 %]": f"{region.peak_rate:.0%} [{region.peak_interval[0]:.0%}, {region.peak_interval[1]:.0%}]",
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
        panels=[order_panel(study)],
        sheets=[Sheet("transitions", table, shown, "Where each statement crosses half of the seeds.")],
    )


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
    panel = gram_panel(study)
    return None if panel is None else Section("WᵀW of the autoencoder", "grams", panels=[panel])


# Metrics


def _metrics_section(study: StudyRows) -> Section | None:
    panel = metrics_panel(study)
    return None if panel is None else Section("Metrics of AE and SAE by sparsity", "metrics", panels=[panel])


def _trust_section(study: StudyRows) -> Section:
    panels = [
        scatter_panel(study, x, y) for x, y in SCATTERS if study.measured[x].notna().any() and study.measured[y].notna().any()
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


# Cell by cell, architecture by architecture


def _cells_section(study: StudyRows) -> Section:
    return Section(
        "Failure rate of every cell",
        "cells",
        "Any failure; Jeffreys 95 % intervals.",
        sheets=[Sheet("cells", verdict_table(study.frame))],
        folded=len(study.cells) > 30,
    )


def _definitions_section(study: StudyRows) -> Section:
    return Section(
        "What the words mean",
        "definitions",
        "A verdict is the first that applies. F are the features that the autoencoder represents (‖W_i‖² > ½).",
        sheets=[
            Sheet("verdict_definitions", verdicts_table(study.rows, study.spec.protocol)),
            Sheet("metric_definitions", metrics_table(study.frame)),
        ],
    )


def architecture_sections(study: StudyRows) -> Iterator[Section]:
    """One section per architecture, if there are several or a plane to show."""
    if len(study.architectures) > 1 or study.varies("sparsity", "l1"):
        yield from (_architecture_section(study, name) for name in study.architectures[:MOST_ARCHITECTURES])


def _architecture_section(study: StudyRows, architecture: str) -> Section:
    shown = death_table(study.deaths_of(architecture))
    return Section(
        architecture,
        f"architecture-{slug(architecture)}",
        sentences=architecture_sentences(study, architecture),
        panels=[_architecture_panel(study, architecture)],
        sheets=[Sheet(f"critical_l1_{slug(architecture)}", shown, note="Critical l1 of the SAE's death.")] if len(shown) else (),
        folded=True,
    )


def _architecture_panel(study: StudyRows, architecture: str) -> Panel:
    if any(interval.architecture == architecture for interval in study.l1):
        return own_l1(study, architecture)
    return death_panel(study, architecture) if has_plane(study.of(architecture)) else own_composition(study, architecture)


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
