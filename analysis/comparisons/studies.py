"""Compares two studies (protocols, engines, versions): which rates and metrics differ beyond chance, cell by cell.

If the two share seeds, they are paired by seed, which removes the variation between seeds: McNemar's test for verdicts,
Wilcoxon's signed ranks for metrics. Otherwise the tests are Fisher's exact test, and Mann and Whitney's. Pairing is valid
whether or not a seed gives the same draws on both sides. Every table is corrected for multiple tests. For the studies as a
whole the seed is the unit, because the cells of a study share seeds and are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import fisher_exact, mannwhitneyu, t, wilcoxon

from analysis.rates.cells import CELL, counted, rate_interval
from analysis.rates.claims import DRAWS, RESAMPLING, independent
from analysis.rates.significance import LEVEL, benjamini_hochberg, holm, mcnemar, p_text, seed_columns
from search_spaces.errors import MisuseError
from search_spaces.failures import failed
from study.data import stream
from study.metrics.sae import corrected_mcc
from study.storage.schema import not_science

_Float = NDArray[np.float64]

METRICS_COMPARED = ("ae_loss", "explained_variance", "l0", "mcc_corrected", "f1_latents_features")
"""The metrics that are compared by default; `mcc_corrected` is (mcc − chance)/(1 − chance)."""
PAIRED_FROM = 0.5
"""A cell is paired if at least this share of the smaller side's seeds is shared; other seeds then do not count."""
MOST_LISTED = 3
DIGITS = 12
"""Cells are the same if sparsity and l1 agree to this many significant digits: levels from two formulas may differ in the last."""


@dataclass(frozen=True)
class Overall:
    """The two studies over all cells that they share."""

    shift: float
    """The first one's rate minus the other's; NaN without a shared cell."""
    low: float
    high: float
    """`low` and `high` are the ends of the shift's 95 % interval, with seeds as the units."""
    p_shift: float
    """p of no difference against a shift: the sides of seeds are exchanged if paired, or dealt again if unpaired."""
    p_pattern: float
    """p of no difference against differences of any sign: the statistic is the sum of the cells' chi-squares."""
    paired: bool
    seeds: int
    """The number of units: shared seeds if paired, else the seeds of both."""

    @property
    def p_value(self) -> float:
        """p of both tests together, by Bonferroni."""
        return float(min(1.0, 2 * min(self.p_shift, self.p_pattern)))


@dataclass(frozen=True, eq=False)
class Comparison:
    """The differences between two studies. Tables have one row per shared cell (and metric)."""

    failure: str
    names: tuple[str, str]
    cells: pd.DataFrame
    """architecture, sparsity, l1; replicates, failures and rate of both (`_one`, `_other`); common_seeds, only_one, only_other
    (failures of shared seeds on only one side); difference (first minus other) with its 95 % interval (low, high); test,
    p_value, p_holm, p_fdr. In a paired cell, rates and difference are those of the shared seeds."""
    metrics: pd.DataFrame
    """architecture, sparsity, l1, metric; defined and median (of both), difference (if paired, the median over pairs); test,
    p_value, p_holm, p_fdr, NaN if nothing is defined."""
    overall: Overall
    unshared_cells: tuple[int, int]
    """Number of cells that only the first has, and that only the other has."""
    pairs: int
    """Number of replicates that both have."""
    same_verdict: int
    identical: int
    """`same_verdict` counts the pairs with the same verdict, `identical` those in which every number is the same to the bit."""

    @property
    def differing(self) -> pd.DataFrame:
        """The cells whose rates differ beyond chance (Holm), the most certain first."""
        return self.cells[self.cells["p_holm"] <= LEVEL].sort_values("p_value", kind="stable")

    def to_mapping(self) -> dict[str, Any]:
        """All fields as one JSON document."""
        return {
            "failure": self.failure,
            "sentences": self.sentences,
            "overall": {**vars(self.overall), "p_value": self.overall.p_value},
            "unshared_cells": list(self.unshared_cells),
            "pairs": self.pairs,
            "same_verdict": self.same_verdict,
            "identical": self.identical,
            "cells": self.cells.to_dict("records"),
            "metrics": self.metrics.to_dict("records"),
        }

    @property
    def sentences(self) -> list[str]:
        """The tables in sentences."""
        if self.cells.empty:
            return [f"{self.names[0]} and {self.names[1]} share no cell, so nothing can be compared."]
        return [self._extent(), self._overall(), self._cells(), *self._metrics()]

    def _extent(self) -> str:
        one, other = self.names
        text = f"{one} and {other} share {counted(len(self.cells), 'cell')}"
        if any(self.unshared_cells):
            text += f" ({self.unshared_cells[0]} only in {one}, {self.unshared_cells[1]} only in {other}, left out)"
        if self.pairs == 0:
            return f"{text} and no seed."
        return (
            f"{text} and {counted(self.pairs, 'replicate')}: {self.same_verdict} ({self.same_verdict / self.pairs:.1%}) "
            f"have the same verdict on both sides and {self.identical} are the same to the bit."
        )

    def _overall(self) -> str:
        of = self.overall
        interval = f"{of.shift:+.1%} [95 % interval {of.low:+.1%} to {of.high:+.1%}]"
        what = f"Over all shared cells, the rate of {self.failure} in {self.names[0]} minus that in {self.names[1]} is {interval}"
        verdict = "the two differ beyond chance" if of.p_value <= LEVEL else "no difference beyond chance"
        units = f"{counted(of.seeds, 'seed')}, {'paired' if of.paired else 'unpaired'}"
        return f"{what}: {verdict} (shift {p_text(of.p_shift)}, pattern over cells {p_text(of.p_pattern)}; {units})."

    def _cells(self) -> str:
        differ = self.differing
        if differ.empty:
            half = float(((self.cells["high"] - self.cells["low"]) / 2).median())
            return (
                f"In no cell do the rates of {self.failure} differ beyond chance (Holm over {len(self.cells)}); "
                f"in the median, a cell's difference is known to ±{half:.0%}."
            )
        texts = [
            f"{_cell_text(row)}: {row.rate_one:.1%} against {row.rate_other:.1%} ({p_text(row.p_value)}, {row.test})"
            for row in differ.head(MOST_LISTED).itertuples()
        ]
        share = f"{len(differ)} of {len(self.cells)} cells (Holm)"
        return f"The rates of {self.failure} differ beyond chance in {share}: {_listed(texts, differ)}."

    def _metrics(self) -> list[str]:
        return [self._metric(str(name), table) for name, table in self.metrics.groupby("metric", sort=False)]

    def _metric(self, name: str, table: pd.DataFrame) -> str:
        tested = table["p_value"].notna().sum()
        if tested == 0:
            return f"There is no cell in which {name} is defined on both sides."
        differ = table[table["p_holm"] <= LEVEL].sort_values("p_value", kind="stable")
        if differ.empty:
            return f"{name} differs beyond chance in none of {counted(int(tested), 'cell')}."
        texts = [
            f"{_cell_text(row)}: median {row.median_one:.4g} against {row.median_other:.4g}, by {row.difference:+.2g} "
            f"({p_text(row.p_value)}, {row.test})"
            for row in differ.head(MOST_LISTED).itertuples()
        ]
        return f"{name} differs beyond chance in {len(differ)} of {tested} cells: {_listed(texts, differ)}."


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def compare(one: pd.DataFrame, other: pd.DataFrame, failure: str = "any", metrics: Sequence[str] = METRICS_COMPARED) -> Comparison:
    """Compare the frames of two studies (as `analysis.load` returns them), cell by cell and as a whole.

    metrics: the columns to compare; those that are missing in a frame are skipped. MisuseError for an unknown failure, and if a
    frame repeats a replicate.
    """
    left, right = _prepared(one, failure), _prepared(other, failure)
    on = [*CELL, *seed_columns(left, right)]
    _each_once(left, on)
    _each_once(right, on)
    shared = left[CELL].drop_duplicates().merge(right[CELL].drop_duplicates(), on=CELL)
    lost = (_cell_count(left) - len(shared), _cell_count(right) - len(shared))
    left, right = left.merge(shared, on=CELL), right.merge(shared, on=CELL)
    pairs = left.merge(right, on=on, suffixes=("_one", "_other"))
    cells = _cells_table(left, right, pairs)
    known = [name for name in metrics if name in left and name in right]
    return Comparison(
        failure=failure,
        names=_names(one, other),
        cells=cells,
        metrics=_metrics_table(left, right, pairs, cells, known),
        overall=_overall(left, right, pairs, on[len(CELL) :]),
        unshared_cells=lost,
        pairs=len(pairs),
        same_verdict=int((pairs["failure_one"] == pairs["failure_other"]).sum()),
        identical=int(_identical(left, right, pairs, on).sum()),
    )


def _prepared(frame: pd.DataFrame, failure: str) -> pd.DataFrame:
    """The rows that count once, ordered by cell, with `failed`, `mcc_corrected` and levels of DIGITS digits."""
    frame = independent(frame, failure)
    levels = {axis: [float(f"{value:.{DIGITS}g}") for value in frame[axis]] for axis in ("sparsity", "l1")}
    frame = frame.assign(failed=failed(frame, failure).astype(bool), **levels)
    if {"mcc_decoder_features", "mcc_chance"} <= set(frame):
        mcc, chance = (frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("mcc_decoder_features", "mcc_chance"))
        frame = frame.assign(mcc_corrected=corrected_mcc(mcc, chance))
    widths = [name for name in ("n_features", "n_hidden") if name in frame]
    return frame.sort_values([*widths, *CELL, *seed_columns(frame)], ignore_index=True)


def _each_once(frame: pd.DataFrame, on: list[str]) -> None:
    twice = frame[frame.duplicated(on)]
    if len(twice):
        row = twice.iloc[0]
        raise MisuseError(
            f"{len(twice)} rows repeat a replicate, the first at {row['architecture']}, S={row['sparsity']:g}, l1={row['l1']:g}. "
            "Give one study of one protocol per frame, with each replicate once."
        )


def _names(one: pd.DataFrame, other: pd.DataFrame) -> tuple[str, str]:
    names = one.attrs.get("study", ""), other.attrs.get("study", "")
    return names if all(names) and names[0] != names[1] else ("the first", "the second")


def _cell_count(frame: pd.DataFrame) -> int:
    return len(frame[CELL].drop_duplicates())


def _identical(left: pd.DataFrame, right: pd.DataFrame, pairs: pd.DataFrame, on: list[str]) -> NDArray[np.bool_]:
    """(pairs,): whether every number from training is the same on both sides, with NaN equal to NaN."""
    names = [name for name in left if name in right and name not in (*on, *not_science(), "failed") and is_numeric(left[name])]
    same = np.ones(len(pairs), dtype=bool)
    for name in names:
        first, second = (pairs[f"{name}_{side}"].to_numpy(dtype=np.float64, na_value=np.nan) for side in ("one", "other"))
        same &= (first == second) | (np.isnan(first) & np.isnan(second))
    return same


def is_numeric(column: pd.Series[float]) -> bool:
    """Whether a column holds numbers (or booleans)."""
    return bool(pd.api.types.is_numeric_dtype(column))


# Cells


def _cells_table(left: pd.DataFrame, right: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    table = _counts(left, "one").merge(_counts(right, "other"), on=CELL).merge(_pair_counts(pairs), on=CELL, how="left")
    table = table.fillna(dict.fromkeys(_PAIR_COUNTS, 0)).astype(dict.fromkeys(_PAIR_COUNTS, "int64"))
    smaller = table[["replicates_one", "replicates_other"]].min(axis=1)
    paired = (table["common_seeds"] >= PAIRED_FROM * smaller) & (table["common_seeds"] > 0)
    for side in ("one", "other"):
        table.loc[paired, f"replicates_{side}"] = table["common_seeds"]
        table.loc[paired, f"failures_{side}"] = table["both"] + table[f"only_{side}"]
        table[f"rate_{side}"] = table[f"failures_{side}"] / table[f"replicates_{side}"]
    table = table.assign(difference=table["rate_one"] - table["rate_other"], **_difference_interval(table, paired))
    unpaired = [_fisher(row) for row in table[["failures_one", "replicates_one", "failures_other", "replicates_other"]].to_numpy()]
    p = np.where(paired, mcnemar(table["only_one"], table["only_other"]), unpaired)
    silent = np.where(paired, table["only_one"] + table["only_other"] == 0, _all_alike(table))
    return _corrected(table.assign(test=np.where(paired, "McNemar", "Fisher"), p_value=p), silent.astype(bool)).drop(columns="both")


_PAIR_COUNTS = ("common_seeds", "both", "only_one", "only_other")


def _counts(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    return frame.groupby(CELL, sort=False)["failed"].agg(**{f"replicates_{side}": "size", f"failures_{side}": "sum"}).reset_index()


def _pair_counts(pairs: pd.DataFrame) -> pd.DataFrame:
    first, second = pairs["failed_one"].astype(bool), pairs["failed_other"].astype(bool)
    counted = pairs[CELL].assign(common_seeds=1, both=first & second, only_one=first & ~second, only_other=~first & second)
    return counted.groupby(CELL, sort=False)[list(_PAIR_COUNTS)].sum().reset_index()


def _fisher(row: NDArray[np.int64]) -> float:
    k, n, other_k, other_n = row
    return float(fisher_exact([[k, n - k], [other_k, other_n - other_k]]).pvalue)


def _all_alike(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Cells in which no replicate of either side failed, or every one."""
    total = (table["failures_one"] + table["failures_other"]).to_numpy()
    return (total == 0) | (total == (table["replicates_one"] + table["replicates_other"]).to_numpy())


def _corrected(table: pd.DataFrame, silent: NDArray[np.bool_]) -> pd.DataFrame:
    """The table with p_holm and p_fdr; a cell that could not differ, given its total, gets 1 and does not count (Tarone 1990)."""
    p = np.where(silent, np.nan, table["p_value"])
    return table.assign(
        **{name: np.where(silent, 1.0, adjust(p)) for name, adjust in (("p_holm", holm), ("p_fdr", benjamini_hochberg))}
    )


def _difference_interval(table: pd.DataFrame, paired: pd.Series[bool]) -> dict[str, _Float]:
    """Newcombe's hybrid interval of p₁ − p₂ from the two Jeffreys intervals (1998; if paired, his method 10).

    The lower end is d − √(a² − 2φab + b²) with a = p₁ − l₁, b = u₂ − p₂ and φ the correlation of the pairs, 0 if unpaired; the
    upper end is analogous.
    """
    p, q = table["rate_one"].to_numpy(dtype=np.float64), table["rate_other"].to_numpy(dtype=np.float64)
    (l1, u1), (l2, u2) = (rate_interval(table[f"failures_{side}"], table[f"replicates_{side}"]) for side in ("one", "other"))
    both = np.where(paired, table["both"] / np.maximum(table["common_seeds"], 1), p * q)
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    phi = np.divide(both - p * q, spread, out=np.zeros_like(p), where=spread > 0)

    def half(a: _Float, b: _Float) -> _Float:
        return np.sqrt(np.maximum(a**2 - 2 * phi * a * b + b**2, 0))

    return {"low": p - q - half(p - l1, u2 - q), "high": p - q + half(u1 - p, q - l2)}


# The whole


def _overall(left: pd.DataFrame, right: pd.DataFrame, pairs: pd.DataFrame, on: list[str]) -> Overall:
    if len(left) == 0:
        return Overall(np.nan, np.nan, np.nan, np.nan, np.nan, False, 0)
    if on and len(pairs) >= PAIRED_FROM * min(len(left), len(right)):
        return _overall_paired(pairs, on)
    return _overall_unpaired(left, right, on)


def _overall_paired(pairs: pd.DataFrame, on: list[str]) -> Overall:
    """Exchange the two sides of whole seeds, which is valid however the cells of a seed depend on each other."""
    unit, cell = pairs.groupby(on, sort=True).ngroup().to_numpy(), pairs.groupby(CELL, sort=True).ngroup().to_numpy()
    d = pairs["failed_one"].to_numpy(dtype=np.float64) - pairs["failed_other"].to_numpy(dtype=np.float64)
    by_unit = sparse.csr_array((d, (cell, unit)))  # (cells, units)
    discordant = np.maximum(abs(by_unit).sum(axis=1), 1)[:, None]

    def statistics(signs: _Float) -> tuple[_Float, _Float]:
        excess = by_unit @ signs  # (cells, units) (units, draws) -> (cells, draws)
        return np.abs(excess.sum(axis=0)), (excess**2 / discordant).sum(axis=0)

    units = by_unit.shape[1]
    p_shift, p_pattern = _resampled(statistics, np.ones(units), lambda source, draws: source.choice([-1.0, 1.0], (units, draws)))
    sums, sizes = np.bincount(unit, d), np.bincount(unit)
    shift = float(d.mean())
    error = np.sqrt(((sums - shift * sizes) ** 2).sum()) / sizes.sum()
    return Overall(shift, *_shift_interval(shift, error, units), p_shift, p_pattern, True, units)


def _overall_unpaired(left: pd.DataFrame, right: pd.DataFrame, on: list[str]) -> Overall:
    """Deal the seeds, each with all its cells, again to the two sides.

    The shift is Mantel and Haenszel's, with weights n₁n₂/(n₁ + n₂) for the cells.
    """
    rows = pd.concat([left.assign(side=1), right.assign(side=0)], ignore_index=True)
    unit = (rows.groupby(["side", *on], sort=True).ngroup() if on else pd.Series(rows.index)).to_numpy()
    cell = rows.groupby(CELL, sort=True).ngroup().to_numpy()
    x, side = rows["failed"].to_numpy(dtype=np.float64), rows["side"].to_numpy(dtype=np.float64)
    failures, presence = (sparse.csr_array((values, (cell, unit))) for values in (x, np.ones_like(x)))
    k, n = np.bincount(cell, x)[:, None], np.bincount(cell)[:, None].astype(np.float64)

    def statistics(sides: _Float) -> tuple[_Float, _Float]:
        dealt = presence @ sides
        excess = failures @ sides - dealt * k / n
        variance = dealt * (n - dealt) * k * (n - k) / n**3
        return np.abs(excess.sum(axis=0)), np.divide(excess**2, variance, out=np.zeros_like(excess), where=variance > 0).sum(axis=0)

    of_unit = np.zeros(unit.max() + 1)
    of_unit[unit] = side
    p_shift, p_pattern = _resampled(
        statistics, of_unit, lambda source, draws: source.permuted(np.tile(of_unit[:, None], draws), axis=0)
    )
    shift, error = _weighted_shift(x, side, cell, unit)
    return Overall(shift, *_shift_interval(shift, error, len(of_unit)), p_shift, p_pattern, False, len(of_unit))


def _weighted_shift(x: _Float, side: _Float, cell: NDArray[np.int64], unit: NDArray[np.int64]) -> tuple[float, float]:
    """Mantel and Haenszel's difference of the rates of failure x, and its standard error with seeds as the units; all (rows,)."""
    first, both = np.bincount(cell, side), np.bincount(cell).astype(np.float64)
    weight = first * (both - first) / both
    weight /= weight.sum()
    rates = [np.bincount(cell, x * own) / np.bincount(cell, own) for own in (side, 1 - side)]
    size, rate = (np.where(side == 1, a[cell], b[cell]) for a, b in ((first, both - first), rates))
    error = np.sqrt((np.bincount(unit, weight[cell] * (x - rate) / size) ** 2).sum())
    return float(weight @ (rates[0] - rates[1])), float(error)


def _shift_interval(shift: float, error: float, units: int) -> tuple[float, float]:
    """± t · error, within [−1, 1]; if no unit varies, ± the upper end of the interval for 0 failures in as many units."""
    half = float(rate_interval(0, units)[1]) if error < 1e-12 or units < 2 else float(t.ppf(0.975, units - 1)) * error
    return max(shift - half, -1.0), min(shift + half, 1.0)


CHUNK = 500


def _resampled(
    statistics: Callable[[_Float], tuple[_Float, _Float]],
    observed: _Float,
    draw: Callable[[np.random.Generator, int], _Float],
) -> tuple[float, float]:
    """p values of two statistics: (1 + draws at least as large)/(1 + DRAWS); observed (units,), draws (units, draws)."""
    here = [value[0] for value in statistics(observed[:, None])]
    as_large = np.zeros(2)
    source = stream(len(observed), RESAMPLING)
    for start in range(0, DRAWS, CHUNK):
        drawn = statistics(draw(source, min(CHUNK, DRAWS - start)))
        as_large += [(values >= value - 1e-9 * (1 + value)).sum() for values, value in zip(drawn, here)]
    shift, pattern = (1 + as_large) / (1 + DRAWS)
    return float(shift), float(pattern)


# Metrics


def _metrics_table(
    left: pd.DataFrame, right: pd.DataFrame, pairs: pd.DataFrame, cells: pd.DataFrame, metrics: Sequence[str]
) -> pd.DataFrame:
    """One row per cell and metric, corrected over the cells of each metric."""
    groups = [dict(list(rows.groupby(CELL, sort=False))) for rows in (left, right, pairs)]
    tables = []
    for metric in metrics:
        rows = []
        for cell in cells.itertuples():
            key = (cell.architecture, cell.sparsity, cell.l1)
            if cell.test == "McNemar":
                values = [_values(groups[2][key], f"{metric}_{side}") for side in ("one", "other")]
                rows.append((*key, metric, *_paired_ranks(*values)))
            else:
                rows.append((*key, metric, *_unpaired_ranks(*(_values(group[key], metric) for group in groups[:2]))))
        tables.append(pd.DataFrame(rows, columns=_METRIC_COLUMNS))
    corrected = [table.assign(p_holm=holm(table["p_value"]), p_fdr=benjamini_hochberg(table["p_value"])) for table in tables]
    return pd.concat(corrected, ignore_index=True) if corrected else pd.DataFrame(columns=[*_METRIC_COLUMNS, "p_holm", "p_fdr"])


_METRIC_COLUMNS = [*CELL, "metric", "defined_one", "defined_other", "median_one", "median_other", "difference", "test", "p_value"]


_Ranks = tuple[int, int, float, float, float, str, float]


def _values(rows: pd.DataFrame, name: str) -> _Float:
    return rows[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _paired_ranks(one: _Float, other: _Float) -> _Ranks:
    """Wilcoxon's signed-rank test and medians over the pairs that are defined on both sides; p is 1 if no pair differs."""
    defined = ~np.isnan(one) & ~np.isnan(other)
    first, second = one[defined], other[defined]
    changed = first != second
    if not len(first):
        p = np.nan
    elif not changed.any():
        p = 1.0
    else:
        p = float(wilcoxon(first[changed], second[changed]).pvalue)
    counts = int((~np.isnan(one)).sum()), int((~np.isnan(other)).sum())
    return *counts, _median(first), _median(second), _median(np.where(changed, first - second, 0)), "Wilcoxon", p


def _unpaired_ranks(one: _Float, other: _Float) -> _Ranks:
    """Mann and Whitney's test over the defined values."""
    first, second = one[~np.isnan(one)], other[~np.isnan(other)]
    p = float(mannwhitneyu(first, second).pvalue) if len(first) and len(second) else np.nan
    medians = _median(first), _median(second)
    return len(first), len(second), *medians, medians[0] - medians[1], "Mann–Whitney", p


def _median(values: _Float) -> float:
    return float(np.median(values)) if len(values) else np.nan


# Words


def _cell_text(row: object) -> str:
    return f"{row.architecture}, S={row.sparsity:g}, l1={row.l1:g}"  # type: ignore[attr-defined]


def _listed(texts: list[str], differ: pd.DataFrame) -> str:
    rest = len(differ) - len(texts)
    return "; ".join(texts) + (f"; and {rest} more" if rest else "")
