"""Which metrics can be trusted where: whether they stay defined, informative and stable in replicates that failed.

The replicates of a study are grouped by verdict. For every metric and group, the tables say

- how often the metric is defined, and its quantiles,
- whether it separates healthy from failing replicates of the same cell,
- how much it scatters between seeds,
- whether it says more than the reconstruction error does.

Verdicts are defined by some of the metrics. Those separate them by definition, and are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.rates.cells import CELL, rate_interval
from analysis.rates.significance import seed_columns
from search_spaces.failures import FailureKind, failed, failing_verdicts
from study.metrics.sae import corrected_mcc
from study.storage.schema import REAL, WHOLE, Group, columns

_Float = NDArray[np.float64]
_Mask = NDArray[np.bool_]

SIMILARITIES = (
    "procrustes_hidden_recon", "cka_hidden_recon", "rsa_hidden_recon", "explained_variance",
    "mcc_decoder_features", "mcc_corrected", "mmcs_decoder_features", "f1_latents_features", "l0",
)  # fmt: skip
"""The metrics that are compared, with those registered as similarities; `mcc_corrected` is (mcc − chance)/(1 − chance)."""
ERROR = "explained_variance"
"""The measure of reconstruction error that a metric may merely restate."""
BY_CONVENTION = ("mcc_decoder_features", "mcc_corrected", "mmcs_decoder_features", "f1_latents_features")
"""Metrics that are set to 0 if no latent is alive."""
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
LEAST = 10
"""Number of defined values that each of two groups needs to be compared."""
MOST_TRIALS = 1.5
"""Largest effective number of trials of an AUC, in multiples of the smaller side's values: that of ½ from equal, independent
sides."""
LEAST_SEEDS = 5
"""Number of defined values that a cell needs for a spread between seeds."""
TELLS, RESTATES = 0.8, 0.9
"""In sentences, a metric separates a failure if the interval of its AUC lies beyond TELLS, and restates the error if its rank
correlation with it is at least RESTATES."""


@dataclass(frozen=True)
class Separation:
    """How well the values of a metric separate healthy from failing replicates."""

    auc: float
    """P(healthy above failing) + ½ P(equal), over pairs in the same stratum; NaN with fewer than LEAST values on either side."""
    low: float
    high: float
    """`low` and `high` are the ends of the 95 % interval, with seeds as the units."""
    healthy: int
    failing: int
    """`healthy` and `failing` count the values that have a partner in their stratum."""


@dataclass(frozen=True, eq=False)
class MetricTrust:
    """The evidence about each metric; all tables are computed from the rows of one study."""

    table: pd.DataFrame
    """One row per metric: the share defined among healthy, failing and all-dead replicates; auc, low, high of healthy against
    failing in the same cell; spread_healthy and spread_failing (median over cells of the interquartile range between seeds);
    error_rank_correlation (Spearman's, within cells) with the explained variance; in_verdict."""
    by_verdict: pd.DataFrame
    """One row per metric and group (healthy, failing, each kind, all_dead): replicates, defined (share), q05, q25, median, q75,
    q95."""
    separation: pd.DataFrame
    """One row per metric and kind: replicates, auc, low, high, healthy, failing, within_cells (False if no cell holds enough of
    both, so that pairs are formed over all cells), looks_healthy (the share of the kind's defined values between the healthy
    ones' q05 and q95), by_definition."""

    @property
    def sentences(self) -> list[str]:
        """Which metrics to trust where, with the figures that support it."""
        counts = self.by_verdict.drop_duplicates("group").set_index("group")["replicates"]
        healthy, failing = (int(counts.get(group, 0)) for group in ("healthy", "failing"))
        sentences = [f"{healthy} replicates are healthy and {failing} fail."]
        if min(healthy, failing) < LEAST:
            return [f"{sentences[0]} Not enough replicates to compare metrics: at least {LEAST} of each are needed."]
        kinds = [_kind_sentence(str(kind), rows) for kind, rows in self.separation.groupby("kind", sort=False) if kind != "failing"]
        return sentences + [_metric_sentence(row) for row in self.table.to_dict("records")] + kinds


def metric_trust(frame: pd.DataFrame) -> MetricTrust:
    """Compare the metrics of a study, given the frame of `analysis.load`; missing columns count as undefined everywhere."""
    values = _values(frame)
    groups = _groups(frame)
    cell, seed = (_codes(frame, names) for names in (CELL, seed_columns(frame)))
    by_verdict = pd.DataFrame(
        [_distribution(metric, group, own[mask]) for metric, own in values.items() for group, mask in groups.items()]
    )
    kinds = [kind for kind in groups if kind not in ("healthy", "all_dead")]
    separation = pd.DataFrame(
        [row for metric, own in values.items() for row in _separation_rows(metric, kinds, own, groups, cell, seed)]
    )
    rows = [_table_row(metric, values, groups, cell, by_verdict, separation) for metric in values]
    return MetricTrust(pd.DataFrame(rows), by_verdict, separation)


def _values(frame: pd.DataFrame) -> dict[str, _Float]:
    """Every metric as floats (rows,), NaN where it is undefined or not finite."""
    compared = _compared()
    names = {*compared, "mcc_chance"} - {"mcc_corrected"}
    found = {name: frame[name] if name in frame else pd.Series(np.nan, frame.index) for name in names}
    arrays = {name: column.to_numpy(dtype=np.float64, na_value=np.nan) for name, column in found.items()}
    arrays["mcc_corrected"] = corrected_mcc(arrays["mcc_decoder_features"], arrays["mcc_chance"])
    return {name: np.where(np.isfinite(arrays[name]), arrays[name], np.nan) for name in compared}


def _compared() -> list[str]:
    registered = [column.name for column in columns(Group.SIMILARITY) if column.type in (REAL, WHOLE)]
    return list(dict.fromkeys([*SIMILARITIES, *(name for name in registered if name != "mcc_chance")]))


def _of_the_verdict(metric: str) -> bool:
    """Whether a verdict depends on the metric, so that healthy replicates were selected by it."""
    return metric == "mcc_corrected" or any(metric in verdict.columns for verdict in failing_verdicts())


def _groups(frame: pd.DataFrame) -> dict[str, _Mask]:
    """Masks of healthy, failing, each kind that occurs, and all_dead: every latent dead, whatever the verdict."""
    failing = failed(frame).to_numpy(dtype=bool)
    kinds = {kind.name: (frame["failure"] == kind.name).to_numpy(dtype=bool) for kind in failing_verdicts()}
    dead = failed(frame, "sae_all_dead").to_numpy(dtype=bool)
    return {"healthy": ~failing, "failing": failing, **{kind: mask for kind, mask in kinds.items() if mask.any()}, "all_dead": dead}


def _codes(frame: pd.DataFrame, names: list[str]) -> NDArray[np.int64]:
    """(rows,): a number for each combination of the columns' values; without columns each row has its own."""
    if not names or frame.empty:
        return np.arange(len(frame))
    return frame.groupby(names, sort=True).ngroup().to_numpy(dtype=np.int64)


# One metric in one group


def _distribution(metric: str, group: str, values: _Float) -> dict[str, Any]:
    defined = values[~np.isnan(values)]
    quantiles = np.quantile(defined, list(QUANTILES.values())) if len(defined) else np.full(len(QUANTILES), np.nan)
    share = len(defined) / len(values) if len(values) else np.nan
    return {
        "metric": metric,
        "group": group,
        "replicates": len(values),
        "defined": share,
        **dict(zip(QUANTILES, quantiles.tolist())),
    }


def separation(
    values: _Float, healthy: _Mask, failing: _Mask, stratum: NDArray[np.int64], unit: NDArray[np.int64] | None = None
) -> Separation:
    """AUC over pairs (healthy, failing) in the same stratum, with DeLong's variance summed over units; all arguments (rows,).

    AUC = Σ wins / Σ pairs. The influence of a replicate is its wins minus AUC times its partners; the variance is the sum over
    units of the squared sum of influences (DeLong, DeLong, Clarke-Pearson 1988; Obuchowski 1997 for units of several
    replicates). The interval is Jeffreys' for the number of independent trials that has this variance. At an AUC of 0 or 1,
    where the variance is 0, that number is the smaller number of units, so that the interval is never a point. NaN values do
    not count.
    """
    order = np.lexsort((values, stratum))
    units = np.arange(len(values)) if unit is None else unit
    return _separation_of_sorted(values[order], healthy[order], failing[order], stratum[order], units[order])


def _separation_of_sorted(
    values: _Float, healthy: _Mask, failing: _Mask, stratum: NDArray[np.int64], unit: NDArray[np.int64]
) -> Separation:
    """`separation` of rows in the order of stratum and, within it, value."""
    keep = (healthy | failing) & ~np.isnan(values)
    wins, partners = _pair_wins(values[keep], healthy[keep], stratum[keep])
    paired = partners > 0
    wins, partners, above = wins[paired], partners[paired], healthy[keep][paired]
    counts = int(above.sum()), int((~above).sum())
    if min(counts) < LEAST:
        return Separation(np.nan, np.nan, np.nan, *counts)
    pairs = float(partners[above].sum())
    auc = float(wins[above].sum()) / pairs
    own = unit[keep][paired]
    variance = float((np.bincount(own, wins - auc * partners) ** 2).sum()) / pairs**2
    seeds = float(min(np.count_nonzero(np.bincount(own[side])) for side in (above, ~above)))
    trials = min(auc * (1 - auc) / variance, MOST_TRIALS * min(counts)) if variance > 0 else seeds
    low, high = rate_interval(auc * trials, trials)
    return Separation(auc, float(low), float(high), *counts)


def _pair_wins(v: _Float, h: _Mask, s: NDArray[np.int64]) -> tuple[_Float, NDArray[np.int64]]:
    """For each value v its pairs with “healthy above failing” (ties count ½), and its partners; all (rows,), sorted by (s, v).

    h: healthy. The pairs of a healthy value are with failing values below it in its stratum s, those of a failing value with
    healthy ones above it.
    """
    new_stratum = np.concatenate([[True], np.diff(s) != 0])[: len(s)]
    new_value = new_stratum | np.concatenate([[True], np.diff(v) != 0])[: len(v)]
    in_stratum, in_ties = (np.cumsum(new) - 1 for new in (new_stratum, new_value))
    wins, partners = np.empty(len(v)), np.empty(len(v), dtype=np.int64)
    for own, others in ((h, ~h), (~h, h)):
        of_ties, of_stratum = (np.bincount(of, others).astype(np.int64) for of in (in_ties, in_stratum))
        before = np.cumsum(of_ties) - of_ties  # others at smaller values, earlier strata included
        earlier = np.cumsum(of_stratum) - of_stratum
        below = (before[in_ties] - earlier[in_stratum] + of_ties[in_ties] / 2)[own]
        partners[own] = of_stratum[in_stratum[own]]
        wins[own] = below if own is h else partners[own] - below
    return wins, partners


def _separation_rows(
    metric: str, kinds: list[str], values: _Float, groups: dict[str, _Mask], cell: NDArray[np.int64], seed: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """One row per kind; the rows are sorted once for all of them."""
    order = np.lexsort((values, cell))
    values, cell, seed, healthy = values[order], cell[order], seed[order], groups["healthy"][order]
    return [_separation_row(metric, kind, values, healthy, groups[kind][order], cell, seed) for kind in kinds]


def _separation_row(
    metric: str, kind: str, values: _Float, healthy: _Mask, failing: _Mask, cell: NDArray[np.int64], seed: NDArray[np.int64]
) -> dict[str, Any]:
    within = _separation_of_sorted(values, healthy, failing, cell, seed)
    enough = not np.isnan(within.auc)
    found = within if enough else separation(values, healthy, failing, np.zeros_like(cell), seed)
    by_definition = _of_the_verdict(metric) or (kind == FailureKind.SAE_DEAD.value and metric in BY_CONVENTION)
    looks = _looks_healthy(values[healthy], values[failing])
    return {
        "metric": metric, "kind": kind, "replicates": int(failing.sum()), **vars(found),
        "within_cells": enough, "looks_healthy": looks, "by_definition": by_definition,
    }  # fmt: skip


def _looks_healthy(healthy: _Float, failing: _Float) -> float:
    """The share of defined failing values between the 5 % and the 95 % quantile of the healthy ones."""
    healthy, failing = healthy[~np.isnan(healthy)], failing[~np.isnan(failing)]
    if not len(healthy) or not len(failing):
        return np.nan
    low, high = np.quantile(healthy, [0.05, 0.95])
    return float(((failing >= low) & (failing <= high)).mean())


def spread_between_seeds(values: _Float, mask: _Mask, cell: NDArray[np.int64]) -> float:
    """The median over cells of the interquartile range of the defined values; cells with fewer than LEAST_SEEDS do not count."""
    keep = mask & ~np.isnan(values)
    of_cell = pd.Series(values[keep]).groupby(cell[keep])
    enough = of_cell.size() >= LEAST_SEEDS
    ranges = (of_cell.quantile(0.75) - of_cell.quantile(0.25))[enough]
    return float(ranges.median()) if len(ranges) else np.nan


def rank_correlation_within(one: _Float, other: _Float, cell: NDArray[np.int64]) -> float:
    """Spearman's correlation within cells: that of the ranks centred within each cell, over all cells; NaN below LEAST rows."""
    keep = ~np.isnan(one) & ~np.isnan(other)
    if keep.sum() < LEAST:
        return np.nan
    a, b = (_centred_ranks(values[keep], cell[keep]) for values in (one, other))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else np.nan


def _centred_ranks(values: _Float, cell: NDArray[np.int64]) -> pd.Series[float]:
    """Ranks within each cell minus their mean, as shares of the cell's size: exactly 0 if all are equal."""
    of_cell = pd.Series(values).groupby(cell)
    size = of_cell.transform("size")
    return (of_cell.rank() - (size + 1) / 2) / size


def _table_row(
    metric: str,
    values: dict[str, _Float],
    groups: dict[str, _Mask],
    cell: NDArray[np.int64],
    by_verdict: pd.DataFrame,
    separations: pd.DataFrame,
) -> dict[str, Any]:
    own = by_verdict[by_verdict["metric"] == metric].set_index("group")
    (of,) = separations[(separations["metric"] == metric) & (separations["kind"] == "failing")].to_dict("records")
    return {
        "metric": metric,
        **{f"defined_{group}": own.loc[group, "defined"] for group in ("healthy", "failing", "all_dead")},
        **{f"median_{group}": own.loc[group, "median"] for group in ("healthy", "failing")},
        **{name: of[name] for name in ("auc", "low", "high", "within_cells", "looks_healthy")},
        **{f"spread_{group}": spread_between_seeds(values[metric], groups[group], cell) for group in ("healthy", "failing")},
        "error_rank_correlation": rank_correlation_within(values[metric], values[ERROR], cell),
        "in_verdict": _of_the_verdict(metric),
    }


# Words


def _metric_sentence(row: dict[str, Any]) -> str:
    parts = [_defined_text(row), _telling_text(row), _stability_text(row)]
    if row["metric"] != ERROR and not np.isnan(row["error_rank_correlation"]):
        restates = abs(row["error_rank_correlation"]) >= RESTATES
        says = f"restates {ERROR}" if restates else f"does not restate {ERROR}"
        parts.append(f"{says} (rank correlation within cells {row['error_rank_correlation']:.2f})")
    return f"{row['metric']}: {'; '.join(parts)}."


def _defined_text(row: dict[str, Any]) -> str:
    text = f"defined in {row['defined_healthy']:.0%} of healthy and {row['defined_failing']:.0%} of failing replicates"
    dead = row["defined_all_dead"]
    return text if np.isnan(dead) else f"{text}, {dead:.0%} of those with all latents dead"


def _telling_text(row: dict[str, Any]) -> str:
    if np.isnan(row["auc"]):
        return "not enough defined values on both sides to say whether it separates failures"
    marked = ", but the verdict depends on it" if row["in_verdict"] else ""
    where = "in the same cell" if row["within_cells"] else "over all cells"
    return f"{_telling(row)} failing from healthy {where} ({_auc_text(row)}{marked})"


def _telling(row: dict[str, Any]) -> str:
    if max(row["low"], 1 - row["high"]) >= TELLS:
        return "separates"
    if row["low"] <= 0.5 <= row["high"]:
        return "is not shown to separate"
    return "partly separates"


def _stability_text(row: dict[str, Any]) -> str:
    healthy, failing = row["spread_healthy"], row["spread_failing"]
    if np.isnan(healthy) or np.isnan(failing):
        return f"not enough seeds in healthy and in failing cells ({LEAST_SEEDS} in one) to compare its spread"
    ratio = f", {_figures(failing / healthy)} times as much" if healthy > 0 else ""
    return f"spread between seeds {healthy:.2g} in healthy, {failing:.2g} in failing replicates{ratio}"


def _auc_text(row: dict[str, Any]) -> str:
    return f"AUC {row['auc']:.2f} [95 % interval {row['low']:.2f} to {row['high']:.2f}]"


def _kind_sentence(kind: str, rows: pd.DataFrame) -> str:
    """The metric that separates a kind of failure best, and those that do so less surely, among those that do not define it."""
    guides = rows[~rows["by_definition"].astype(bool) & rows["auc"].notna()]
    if guides.empty:
        return _silence(kind, rows)
    ordered = guides.assign(clear=(guides["auc"] - 0.5).abs()).sort_values(["clear", "metric"], ascending=[False, True])
    best = ordered.iloc[0].to_dict()
    evidence = f"{_auc_text(best)}, {best['failing']} failing"
    best_text = f"{kind}: the best metric, {best['metric']}, {_telling(best)} it from healthy ({evidence})"
    blind = [row for row in ordered.iloc[1:].to_dict("records") if _telling(row) != "separates"]
    if not blind:
        return f"{best_text}; the others that do not define it separate it too."
    listed = ", ".join(f"{row['metric']} (AUC {row['auc']:.2f}; {row['looks_healthy']:.0%} look healthy)" for row in blind[::-1])
    return f"{best_text}; less surely: {listed}."


def _silence(kind: str, rows: pd.DataFrame) -> str:
    """Why no metric can be recommended for a kind: too few replicates, or too few defined values of the metrics."""
    count = int(rows["replicates"].max())
    if count < LEAST:
        return f"{kind}: not enough replicates ({count}, {LEAST} needed)."
    others = rows[~rows["by_definition"].astype(bool)]
    defined = ", ".join(f"{row.metric} {row.failing} of {count}" for row in others.itertuples())
    return f"{kind}: no metric that does not define it has {LEAST} defined values to compare ({defined})."


def _figures(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
