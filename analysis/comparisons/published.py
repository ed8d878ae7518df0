"""The source study's published figures beside ours. The finding that this project starts from is among them.

The tables come from a public repository, Ilube-C/Can-SAEs-disentangle-superposed-features, 10-5-10, seed 123. Its *experiment*
(2,000 samples, 5 AE epochs, 20 SAE epochs, l1 = 0.01) reported "complete SAE failure at sparsity 0.9"; its *diagnosis* run
(1,000 samples, 2 AE epochs) used other data.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from analysis.rates.cells import rate_interval
from search_spaces.cells import Architecture, Cell, Replicate
from search_spaces.failures import FailureKind, verdict_named
from search_spaces.protocol import PROTOCOLS

PUBLISHED = Replicate(Cell(Architecture(10, 5), 0.9, 0.01), 123)
"""The replicate whose failure was published."""

_COLUMNS = {
    "ae_loss": "ae_loss",
    "sae_mse": "sae_mse",
    "sae_active_fraction": "active_fraction",
    "sae_dead_latents": "dead_latents",
    "procrustes_source": "procrustes_hidden_recon",
    "linear_cka": "cka_hidden_recon",
}


FOR_PUBLISHED = ("protocol_id", "dtype", "ae_loss", "ae_loss_bias_only", "ae_dead_outputs")
"""The columns that `published_finding` needs beside those of failure rates."""


def published_experiment() -> pd.DataFrame:
    """The published table of the *experiment*, one row per sparsity, under our column names."""
    with (files("analysis.comparisons") / "published_figures" / "dissertation_10-5-10.csv").open() as file:
        table = pd.read_csv(file)
    return table[["sparsity", *_COLUMNS]].rename(columns=_COLUMNS)


def published_replicates(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a study that are the published replicates, with the same cell, seed and protocol."""
    seeds = (frame[["seed", "data_seed", "ae_seed", "sae_seed"]] == PUBLISHED.seed).all(axis=1)
    same = (
        (frame["architecture"] == str(PUBLISHED.cell.architecture))
        & (frame["l1"] == PUBLISHED.cell.l1)
        & (frame["protocol_id"] == PROTOCOLS["dissertation"].protocol_id)
    )
    return frame[seeds & same & (frame["dtype"] == "float64")].sort_values("sparsity")


def side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """Published and reproduced figures by sparsity, with our verdict; empty if the study has none of the replicates.

    Columns: sparsity, failure, then `<column> published` and `<column> reproduced` of each compared column.
    """
    ours = published_replicates(frame)
    merged = published_experiment().merge(
        ours[["sparsity", *_COLUMNS.values(), "failure"]], on="sparsity", suffixes=(" published", " reproduced")
    )
    ordered = [f"{column} {whose}" for column in _COLUMNS.values() for whose in ("published", "reproduced")]
    return merged[["sparsity", "failure", *ordered]]


def published_finding(frame: pd.DataFrame) -> list[str]:
    """What the study says about the published failure, in sentences computed from its rows; none if it was not trained."""
    ours, at = published_replicates(frame), PUBLISHED.cell
    one = ours[ours["sparsity"] == at.sparsity]
    if one.empty:
        return []
    row = one.iloc[0]
    verdict = verdict_named(row["failure"])
    fails = verdict.name != FailureKind.NONE
    what = "no failure" if not fails else "an SAE failure" if verdict.of_sae else "not an SAE failure"
    sentences = [
        f"The published “complete SAE failure” ({at.architecture}, S = {at.sparsity}, l1 = {at.l1}, seed {PUBLISHED.seed}) is "
        f"{verdict.name}, {what}: "
        f"{verdict.meaning}. AE loss {row['ae_loss']:.4f} against {row['ae_loss_bias_only']:.4f} for a bias alone; "
        f"{row['ae_dead_outputs']} of {row['n_features']} output ReLUs are dead."
    ]
    if fails:
        same_cell = (frame["architecture"] == str(at.architecture)) & (frame["l1"] == at.l1) & (frame["sparsity"] == at.sparsity)
        cell = frame[same_cell]
        same, others = cell["failure"] == verdict.name, cell["seed"] != PUBLISHED.seed
        sentences.append(
            f"In its cell {verdict.name} occurs in {rate_text(int(same.sum()), len(cell))}; without seed {PUBLISHED.seed}, which "
            f"was reported because it fails, in {rate_text(int((same & others).sum()), int(others.sum()))}."
        )
    return sentences


def rate_text(failures: int, replicates: int) -> str:
    """A rate as text: counts, per cent and the 95 % interval."""
    if replicates == 0:
        return "no replicate"
    low, high = rate_interval(failures, replicates)
    return f"{failures} of {replicates} seeds, {failures / replicates:.1%} [95 % interval {float(low):.1%} to {float(high):.1%}]"
