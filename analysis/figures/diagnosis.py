"""The figure of a diagnosis: how often the failure occurs under each change, and when units died."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.diagnosis.diagnose import Diagnosis
from analysis.figures.render import own_settings
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, verdict_named
from search_spaces.paths import Given, local_path, shown
from study.storage.local_files import refuse_unwritable_file, refuse_unwritable_folder, write_out

_Float = NDArray[np.float64]

CURED, NOT_CURED, BASE_COLOUR = "#009E73", "#D55E00", "#333333"
TICK, CROSS = "$✓$", "$✗$"
KINDS = (".png", ".svg")


@dataclass(frozen=True, eq=False)
class InterventionRates:
    """How often the failure occurs in the cell (first) and under each change; all arrays (changes + 1,)."""

    failure: str
    labels: tuple[str, ...]
    rate: _Float
    low: _Float
    high: _Float
    trainings: NDArray[np.int64]
    cures: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AliveCurve:
    """The number of units alive after each number of updates, with a step at each death; arrays (steps,)."""

    units: str
    updates: NDArray[np.int64]
    """From 0 to the end of training."""
    alive: NDArray[np.int64]


def intervention_rates(diagnosis: Diagnosis) -> InterventionRates:
    """The rates of a diagnosis as arrays."""
    names, rates, cures = zip(*diagnosis.rates(), strict=True)
    rate, low, high = (np.array([getattr(one, name) for one in rates]) for name in ("rate", "low", "high"))
    trainings = np.array([one.replicates for one in rates])
    return InterventionRates(diagnosis.base_rate.failure, names, rate, low, high, trainings, np.array(cures))


def alive_curves(diagnosis: Diagnosis) -> list[AliveCurve]:
    """The curves of the AE's outputs and, if there is an SAE, of its latents."""
    course = diagnosis.trajectory
    curves = [_alive_curve("outputs of the AE", course.ae_outputs_died_at, course.ae_steps)]
    if course.sae_latents_died_at:
        curves.append(_alive_curve("latents of the SAE", course.sae_latents_died_at, course.sae_steps))
    return curves


def _alive_curve(units: str, died_at: tuple[int | None, ...], steps: int) -> AliveCurve:
    deaths = np.array([at for at in died_at if at is not None], dtype=np.int64)
    updates = np.unique(np.concatenate([[0, steps], deaths]))
    return AliveCurve(units, updates, len(died_at) - (deaths <= updates[:, None]).sum(axis=1))


def plot_intervention_rates(rates: InterventionRates, ax: Axes) -> None:
    """Draw one line per change: the rate with its interval, or a tick or cross for a single training.

    The cell's base rate is a line down the figure, with its interval: a change that only draws anew is expected there. Green are
    the changes that cure.
    """
    place = np.arange(len(rates.labels))
    ax.axvline(50, color="#bbbbbb", linewidth=1, zorder=0)
    ax.axvspan(100 * rates.low[0], 100 * rates.high[0], color="#dddddd", zorder=0)
    ax.axvline(100 * rates.rate[0], color=BASE_COLOUR, linestyle="--", linewidth=1, zorder=0)
    for y, several, cures in zip(place, rates.trainings > 1, rates.cures, strict=True):
        colour = BASE_COLOUR if y == 0 else CURED if cures else NOT_CURED
        bars = 100 * np.array([[rates.rate[y] - rates.low[y]], [rates.high[y] - rates.rate[y]]]) if several else None
        marker, size = ("o", 5) if several else (CROSS if rates.rate[y] > 0 else TICK, 7)
        style: dict[str, Any] = {"color": colour, "capsize": 2, "markersize": size, "clip_on": False}
        ax.errorbar(100 * rates.rate[y], y, xerr=bars, linestyle="none", marker=marker, **style)
    named = zip(rates.labels, rates.trainings, strict=True)
    ax.set_yticks(place, [f"{label} ({trainings:,})" for label, trainings in named], fontsize=8)
    for text, cures in zip(ax.get_yticklabels()[1:], rates.cures[1:]):
        text.set_color(CURED if cures else "black")
        text.set_fontweight("bold" if cures else "normal")
    ax.invert_yaxis()
    ax.set_xlim(-2, 102)
    what = "failing in any way" if rates.failure == "any" else rates.failure
    ax.set_xlabel(
        f"{what}, % of trainings (their number in brackets); dashed: base rate of the cell, grey: its interval\n"
        "green and bold: cures; ✓ ✗: one training, without or with the failure",
        fontsize=8,
    )


def plot_alive_curves(curves: list[AliveCurve], ax: Axes) -> None:
    """Draw the units alive against updates, on a logarithmic axis that begins at 0."""
    looks = ((verdict_named(FailureKind.AE_COLLAPSED).colour, "-"), (verdict_named(FailureKind.SAE_STARVED).colour, "--"))
    for curve, (colour, style) in zip(curves, looks, strict=False):
        ax.step(curve.updates, curve.alive, where="post", color=colour, linestyle=style, label=curve.units, clip_on=False)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(0, max(curve.updates[-1] for curve in curves))
    ax.set_ylim(0, 1.05 * max(curve.alive[0] for curve in curves))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("updates", fontsize=8)
    ax.set_ylabel("alive", fontsize=8)
    ax.legend(frameon=False, fontsize=8)


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """The figure: on the left the failure under each change, on the right when the replicate's own units died."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    plot_intervention_rates(intervention_rates(diagnosis), left)
    plot_alive_curves(alive_curves(diagnosis), right)
    cell, failure = diagnosis.replicate.cell, diagnosis.failure
    finding = "does not fail" if failure == FailureKind.NONE else f"{failure}, cause {diagnosis.cause.value}"
    figure.suptitle(
        f"{cell.architecture}, S = {cell.sparsity:g}, l1 = {cell.l1:g}, seed {diagnosis.replicate.seed}: {finding}", fontsize=11
    )
    return figure


def figure_files(out: Given, stem: str) -> list[Path]:
    """The files of a figure: `out` itself if it names a PNG or SVG, else both in that folder. MisuseError for another file."""
    path = local_path(out, "--out")
    if path.suffix.lower() in KINDS and not path.is_dir():
        return [path]
    if path.exists() and not path.is_dir():
        raise MisuseError(f"--out={shown(out)} is a file, neither .png nor .svg. Name such a file, or a folder.")
    return [path / f"{stem}{kind}" for kind in KINDS]


def refuse_unwritable(out: Given) -> None:
    """Raise MisuseError if `write_figure` could not write there. Makes the folder that is missing."""
    for file in figure_files(out, "figure"):
        refuse_unwritable_folder(file.parent, "--out")
        refuse_unwritable_file(file, "--out")


def write_figure(diagnosis: Diagnosis, out: Given) -> list[str]:
    """Draw the figure into the files of `figure_files` and return their names. MachineError if they cannot be written."""
    cell = diagnosis.replicate.cell
    shape = str(cell.architecture).replace("/", "_")
    files = figure_files(out, f"diagnosis_{shape}_S{cell.sparsity:g}_l1_{cell.l1:g}_seed{diagnosis.replicate.seed}")
    refuse_unwritable(out)
    with own_settings():
        figure = diagnosis_figure(diagnosis)
        for file in files:
            kind = file.suffix.lower().removeprefix(".")
            draw = partial(figure.savefig, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
            write_out(file, "--out", draw)
    return [str(file) for file in files]
