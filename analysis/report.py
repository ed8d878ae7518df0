"""One HTML page about a study: findings in sentences computed from its rows, figures, tables, how it was made."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import plots
from analysis.failure_regions import all_regions
from analysis.frames import load
from analysis.published import published_finding, published_replicates, side_by_side
from analysis.statistics import cell_rates, on_lattice
from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.spaces import StudySpec
from study.engines import engine_named
from study.failures import FailureKind
from study.packs import Pack
from study.row_store import DEFAULT_STORAGE, StudyFolder
from study.run_pack import train_autoencoders
from study.sae_metrics import corrected_mcc
from study.status import existing_study, read_spec

METRICS = (
    "ae_loss", "ae_diagonal_mean", "ae_features_represented", "ae_dimensions_per_feature",
    "explained_variance", "l0", "dead_latents", "max_firing_rate",
    "procrustes_hidden_recon", "cka_hidden_recon", "mcc_corrected", "f1_latents_features",
)  # fmt: skip
"""The metrics that the page draws by sparsity; `mcc_corrected` is (mcc − chance)/(1 − chance)."""
MOST_GRAMS = 8
FOLD_ABOVE = 30


@dataclass(frozen=True)
class _Section:
    title: str
    text: str = ""
    figure: Figure | None = None
    name: str = ""
    """Of the figure's or table's files."""
    caption: str = ""
    data: pd.DataFrame | None = None
    """The table: as a CSV file, and on the page where `shown` is not given."""
    shown: pd.DataFrame | None = None


def write_report(study: str, storage: str = DEFAULT_STORAGE, out: str | None = None) -> str:
    """Write index.html, its figures (PNG, SVG) and tables (CSV); returns where the page is.

    Goes to the study's folder under report/ unless `out` names a local folder. Trains a few autoencoders anew for their
    WᵀW matrices: rows hold no weights.
    """
    folder = existing_study(study, storage)
    spec = read_spec(folder)
    frame = load(study, storage)
    with matplotlib.rc_context({"font.family": "sans-serif", "svg.hashsalt": "sae-study", "hatch.linewidth": 0.5}):
        sections = _sections(frame, spec)
        contents = _files(frame, spec, folder, sections)
    if out is None:
        for name, content in contents.items():
            folder.write_bytes(f"report/{name}", content)
        return f"{folder.path}/report/index.html"
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (place / name).write_bytes(content)
    return str(place / "index.html")


def findings(frame: pd.DataFrame, planned: int) -> list[str]:
    """What the rows say, in sentences; nothing in them is fixed but their form."""
    if frame.empty:
        return [f"No row is there yet, of {planned} planned."]
    sentences = (
        [f"{len(frame)} of {planned} planned replicates are there: the study is not finished."] if len(frame) < planned else []
    )
    sentences += published_finding(frame)
    counts = frame["failure"].value_counts()
    kinds = [
        f"{kind.value} {counts[kind.value]} ({counts[kind.value] / len(frame):.1%})" for kind in FailureKind if kind.value in counts
    ]
    cells = len(frame.drop_duplicates(["architecture", "sparsity", "l1"]))
    sentences.append(f"{len(frame)} replicates in {cells} cells. Verdicts: {', '.join(kinds)}.")
    collapsed = frame["failure"] == FailureKind.AE_COLLAPSED.value
    all_dead = frame["sae_all_dead"]
    if all_dead.any():
        sentences.append(
            f"All latents are dead in {int(all_dead.sum())} replicates; in {int((all_dead & collapsed).sum())} of them the "
            "autoencoder itself had collapsed."
        )
    return sentences


def verdict_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Per cell: replicates, the rate of any failure with its interval, and how many seeds got each verdict."""
    rates = cell_rates(frame)
    interval = [f"{row.rate:.0%} [{row.low:.0%}, {row.high:.0%}]" for row in rates.itertuples()]
    table = rates[["architecture", "sparsity", "l1", "replicates"]].assign(**{"any failure [95 %]": interval})
    counts = frame.groupby(["architecture", "sparsity", "l1", "failure"]).size().unstack(fill_value=0).reset_index()
    kinds = [kind.value for kind in FailureKind if kind.value in counts.columns]
    return table.merge(counts[["architecture", "sparsity", "l1", *kinds]], on=["architecture", "sparsity", "l1"])


def _sections(frame: pd.DataFrame, spec: StudySpec) -> list[_Section]:
    if frame.empty:
        return []
    sections = []
    exact = frame[frame["failure"] != FailureKind.CRASHED.value]
    frame = on_lattice(frame)
    frame = frame.assign(mcc_corrected=corrected_mcc(frame["mcc_decoder_features"], frame["mcc_chance"]))
    comparison = side_by_side(frame)
    if len(comparison):
        sections.append(
            _Section(
                "Published and reproduced, seed 123",
                "Each figure as published / as reproduced here, and the verdict. Where the SAE is dead its "
                "reconstruction is constant: the published similarities are rounding noise there, ours are missing (–).",
                name="published",
                data=comparison,
                shown=_paired(comparison),
            )
        )
    sections.append(_verdict_section(frame))
    rates = cell_rates(frame)
    sections.append(
        _Section("Failure rate of every cell", "Any failure; Jeffreys 95 % intervals.", name="cells", data=verdict_table(frame))
    )
    if rates["l1"].nunique() > 1 and rates["sparsity"].nunique() > 1:
        sections.append(_map_section(frame))
    measured = frame[frame["failure"] != FailureKind.CRASHED.value]
    if len(measured):
        sections.append(_metrics_section(measured))
    regions = pd.DataFrame([vars(region) for region in all_regions(frame)])
    if len(regions):
        sections.append(
            _Section(
                "Failure regions",
                "Connected cells whose smoothed failure rate is at least one half, the surest first. A confidence of 0.95 or more "
                "is wrong in at most one map in twenty; neighbours are the verdicts beyond a region's borders.",
                name="regions",
                data=regions,
            )
        )
    if len(exact):
        sections.append(_gram_section(exact, spec))
    return sections


def _verdict_section(frame: pd.DataFrame) -> _Section:
    seeds = frame.groupby(["architecture", "sparsity", "l1"]).size()
    each = str(seeds.min()) if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    without = " without seed 123, which is known because it collapses," if len(published_replicates(frame)) else ""
    caption = (
        f"{len(frame)} replicates, {each} seeds a cell. Left: verdicts by sparsity. Right: how often the autoencoder itself "
        f"collapses,{without} with 95 % intervals; that comes before any question about the SAE."
    )
    return _Section("What became of the replicates", figure=verdict_figure(frame), name="verdicts", caption=caption)


def verdict_figure(frame: pd.DataFrame) -> Figure:
    """Verdicts by sparsity, and each architecture's rate of collapse of the autoencoder, with intervals."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    plots.plot_verdict_composition(plots.verdict_composition(frame), left)
    pooled = [name for name, column in (("architectures", "architecture"), ("l1 values", "l1")) if frame[column].nunique() > 1]
    left.set_title(f"Verdicts over all {', '.join([*pooled, 'seeds'])}", fontsize=10)
    others = frame.drop(published_replicates(frame).index)
    architectures = list(dict.fromkeys(cell_rates(frame)["architecture"]))
    for place, architecture in enumerate(architectures):
        curve = plots.failure_curve(others[others["architecture"] == architecture], FailureKind.AE_COLLAPSED.value)
        plots.plot_failure_curve(curve, right, place, len(architectures), architecture)
    right.set_title("The autoencoder's own collapse", fontsize=10)
    if len(architectures) > 1:
        right.legend(frameon=False, fontsize=7)
    return figure


def _map_section(frame: pd.DataFrame) -> _Section:
    architectures = list(dict.fromkeys(cell_rates(frame)["architecture"]))
    columns = min(4, len(architectures))
    rows = -(-len(architectures) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, architecture in zip(axes, architectures):
        plots.plot_rate_map(plots.rate_map(frame, architecture), ax)
    for ax in axes[len(architectures) :]:
        ax.set_axis_off()
    figure.colorbar(axes[0].collections[0], ax=list(axes), label="failure rate", shrink=0.8)
    return _Section(
        "Failure rate over sparsity and l1",
        figure=figure,
        name="rate_maps",
        caption=f"Share of the seeds that failed in any way, {len(frame)} replicates; hatched: not measured.",
    )


def _metrics_section(frame: pd.DataFrame) -> _Section:
    shown = [metric for metric in METRICS if frame[metric].notna().any()]
    rows = -(-len(shown) // 4)
    figure = Figure(figsize=(12, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
    sample = frame if len(frame) <= 20_000 else frame.sample(20_000, random_state=0)
    for ax, metric in zip(axes, shown):
        plots.plot_metric_by_sparsity(sample, metric, ax)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=9, frameon=False, markerscale=3, fontsize=8)
    drawn = f"{len(sample)} of {len(frame)}" if len(sample) < len(frame) else str(len(frame))
    return _Section(
        "Metrics of AE and SAE by sparsity",
        figure=figure,
        name="metrics",
        caption=f"Each dot a replicate ({drawn}), in the colour of its verdict; the bar is the median of all seeds.",
    )


def _gram_section(frame: pd.DataFrame, spec: StudySpec) -> _Section:
    chosen = _chosen_for_grams(frame)
    engine = engine_named(spec.engine).name
    replicates = [
        Replicate(
            Cell(Architecture.parse(row.architecture), row.sparsity, row.l1), row.seed, row.data_seed, row.ae_seed, row.sae_seed
        )
        for row in chosen.itertuples()
    ]
    figure = Figure(figsize=(1.55 * len(replicates) + 0.4, 2.1), layout="constrained")
    axes = figure.subplots(1, len(replicates), squeeze=False)[0]
    W = train_autoencoders(Pack(Replicates.of(replicates), spec.protocol, spec.dtype, engine)).W
    for lane, (ax, row) in enumerate(zip(axes, chosen.itertuples())):
        plots.plot_gram(np.nan_to_num(W[..., lane].astype(np.float64)), f"S = {row.sparsity:g}, seed {row.seed}\n{row.failure}", ax)
    figure.colorbar(axes[-1].images[0], ax=list(axes), shrink=0.7, aspect=12, pad=0.01)
    return _Section(
        f"WᵀW of the autoencoder, {chosen['architecture'].iloc[0]}",
        figure=figure,
        name="grams",
        caption="One replicate a sparsity, trained anew. A diagonal of ones: the features that are represented; blue and red off "
        "it: features that share a direction. A blank panel is a collapsed autoencoder.",
    )


def _chosen_for_grams(frame: pd.DataFrame) -> pd.DataFrame:
    """One replicate a sparsity, of one architecture: the published ones if they are there, else each one's first seed."""
    published = published_replicates(frame)
    if len(published):
        return published.head(MOST_GRAMS)
    own = frame[frame["architecture"] == frame["architecture"].iloc[0]]
    one_each = own.sort_values(["sparsity", "seed", "l1"]).drop_duplicates("sparsity")
    return one_each.iloc[np.unique(np.linspace(0, len(one_each) - 1, min(MOST_GRAMS, len(one_each))).astype(int))]


def _files(frame: pd.DataFrame, spec: StudySpec, folder: StudyFolder, sections: list[_Section]) -> dict[str, bytes]:
    """Every file of the report, by name."""
    contents: dict[str, bytes] = {}
    shown: list[dict[str, Any]] = []
    for section in sections:
        image, table = "", None
        if section.figure is not None:
            for kind in ("png", "svg"):
                buffer = io.BytesIO()
                section.figure.savefig(buffer, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
                contents[f"{section.name}.{kind}"] = buffer.getvalue()
                section.figure.set_layout_engine("none")  # laid out once for both
            image = base64.b64encode(contents[f"{section.name}.png"]).decode()
        if section.data is not None:
            contents[f"{section.name}.csv"] = section.data.to_csv(index=False).encode()
            page_table = section.data if section.shown is None else section.shown
            rows = [[_cell_text(value) for value in row] for row in page_table.itertuples(index=False)]
            table = {"heads": list(page_table.columns), "rows": rows, "folded": len(rows) > FOLD_ABOVE}
        shown.append({"title": section.title, "text": section.text, "caption": section.caption, "image": image, "table": table})
    manifest: dict[str, Any] = folder.read_json("manifest.json") or {}
    template = jinja2.Environment(autoescape=True).from_string((files("analysis") / "report.html").read_text(encoding="utf-8"))
    planned = sum(map(len, spec.replicates()))
    page = template.render(
        title=f"Where SAEs fail: study {folder.name}",
        subtitle=f"{len(frame)} replicates, protocol {spec.protocol.name} ({spec.protocol.protocol_id}), {spec.dtype}",
        findings=findings(frame, planned),
        sections=shown,
        command=f"sae-study launch study.yaml   # the file in the study's folder\nsae-study report {folder.name}",
        manifest=json.dumps(manifest, indent=2),
    )
    return {"index.html": page.encode(), **contents}


def _paired(comparison: pd.DataFrame) -> pd.DataFrame:
    """`<column> published` and `<column> reproduced` in one cell each."""
    columns = [name.removesuffix(" published") for name in comparison.columns if name.endswith(" published")]
    texts = {name: [_cell_text(value) for value in comparison[name]] for name in comparison.columns[2:]}
    pairs = {name: [" / ".join(pair) for pair in zip(texts[f"{name} published"], texts[f"{name} reproduced"])] for name in columns}
    return comparison[["sparsity", "failure"]].assign(**pairs)


def _cell_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell_text(v) for v in value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
