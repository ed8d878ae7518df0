"""The failure rate at any cell in a study's range: measured if the cell has enough replicates, otherwise from the surface."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.rates.cells import cell_rates, rate_interval
from analysis.rates.tally import ENOUGH, Bools, Floats, Ints, Tally, on_axes, plane_of
from search_spaces.cells import Architecture
from search_spaces.coordinates import PLANE, Coordinate, Plane, half_a_digit
from search_spaces.errors import MisuseError, reason
from search_spaces.failures import failed
from search_spaces.paths import Given, local_path, shown
from search_spaces.surface.domain import Counts, Domain
from search_spaces.surface.posterior import CONFIDENCE
from search_spaces.surface.surface import Surface

SAME = 1e-9
"""A requested cell is a measured one if it differs from it by no more than this share of an axis."""
RATE_COLUMNS = ("failure", "rate", "low", "high", "confidence", "source", "replicates")


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def failure_rates(
    frame: pd.DataFrame,
    cells: pd.DataFrame,
    failure: str = "any",
    confidence: float = CONFIDENCE,
    domain: Domain | None = None,
) -> pd.DataFrame:
    """The rate at each requested cell, one row per cell in the same order: the cell's columns and RATE_COLUMNS.

    A cell of ENOUGH replicates or more is `measured`: k/n with Jeffreys' interval. Any other cell is estimated from the
    `surface` fitted to all replicates, including its own (`replicates` counts these): posterior mean and central interval.
    If the study has too few cells to be smoothed, a cell between them gets the rate of the nearest one, and an interval that
    holds those of all measured cells around it. l1 = 0 (or 0 of another logarithmic coordinate) lies on no surface and is
    treated as a map of its own. domain: that of a search (`StudySpec.domain`); by default what the rows span. A number that
    is a measured one as it is printed (0.918182 for 0.918181818182) means that one.

    Raises MisuseError for missing columns, no rows, an unknown architecture or failure, and cells outside the study's range.
    """
    plane = plane_of(domain)
    asked, outcome = checked_cells(cells, plane), failed(frame, failure).to_numpy(dtype=bool)
    if frame.empty:
        raise MisuseError("The study has no rows yet, so it has no rates. Try again when replicates are done.")
    asked = asked.assign(**{axis.name: as_measured(asked[axis.name], frame[axis.name]) for axis in plane})
    rates = asked.assign(failure=failure, rate=np.nan, low=np.nan, high=np.nan, confidence=confidence, source="", replicates=0)
    for rows, which in _maps(frame, asked, plane):
        if which.any():
            tally = Tally.of(frame[rows], domain)
            _check_range(tally.domain, asked[which], frame[rows])
            part = _rates(tally, outcome[rows], asked[which], confidence)
            rates.loc[which, list(part)] = pd.DataFrame(part, index=asked.index[which])
    return rates.astype({"replicates": "int64"})[[*plane.cell, *RATE_COLUMNS]]


def checked_cells(cells: pd.DataFrame, plane: Plane = PLANE) -> pd.DataFrame:
    """The three columns of the cells, typed; MisuseError for a missing column or an invalid value."""
    missing = [column for column in plane.cell if column not in cells.columns]
    if missing:
        raise MisuseError(f"cells lack the columns {', '.join(missing)}. Expected {', '.join(plane.cell)}, one cell per row.")
    numbers = {axis.name: pd.to_numeric(cells[axis.name], errors="coerce").to_numpy(np.float64) for axis in plane}
    for column, values in numbers.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise MisuseError(f"{column}{_of_cell(cells, row)} is {cells[column].iloc[row]!r}. Expected a number.")
    names = {given: str(Architecture.parse(given)) for given in cells["architecture"].unique()}
    return pd.DataFrame({"architecture": [names[given] for given in cells["architecture"]], **numbers})


def _of_cell(cells: pd.DataFrame, row: int) -> str:
    """Which of several cells an error is about; nothing to add for a single one."""
    return f" of cell {row + 1}" if len(cells) > 1 else ""


def as_measured(given: pd.Series, measured: pd.Series) -> Floats:
    """The given numbers, each replaced by the measured one that is printed so with at least three digits, if one alone is."""
    there = np.unique(measured.to_numpy(np.float64))
    halves = np.array([half_a_digit(value) for value in given])
    low, high = np.searchsorted(there, given - halves), np.searchsorted(there, given + halves, side="right")
    return np.where(high - low == 1, there[np.minimum(low, len(there) - 1)], given)


def nearest_cells(frame: pd.DataFrame, cell: pd.Series, failure: str = "any", plane: Plane = PLANE) -> pd.DataFrame:
    """The measured cells of a cell's architecture with their rates (`cell_rates`), the nearest to it first."""
    rates = cell_rates(frame[frame["architecture"] == cell["architecture"]], failure, plane)
    distance = sum(_distances(rates[axis.name], cell[axis.name], axis) ** 2 for axis in plane)
    return rates.loc[np.argsort(distance, kind="stable")]


def cells_in_words(cells: pd.DataFrame, plane: Plane = PLANE) -> list[str]:
    """Measured cells with their rates, as `S = 0.85, l1 = 0.01 (12 of 1000 replicates fail)`."""
    return [
        ", ".join(f"{axis.symbol} = {row[axis.name]:g}" for axis in plane) + f" ({row['failures']} of {row['replicates']} fail)"
        for row in cells.to_dict("records")
    ]


def _distances(values: pd.Series, at: float, axis: Coordinate) -> Floats:
    """How far the values are from one of them, in units of their spread."""
    scaled = values.to_numpy(np.float64)
    if axis.scale == "log":
        smallest = min(scaled[scaled > 0].min(initial=np.inf), at or np.inf)
        scaled, at = np.log10(np.maximum(scaled, smallest / 10)), float(np.log10(max(at, smallest / 10)))
    return np.abs(scaled - at) / (np.ptp(scaled) or 1.0)


def one_cell(architecture: str | None, x: float | None, y: float | None, plane: Plane = PLANE) -> pd.DataFrame:
    """A single cell in the form that `failure_rates` takes."""
    return checked_cells(pd.DataFrame([(architecture, x, y)], columns=plane.cell), plane)


def read_cells(path: Given, plane: Plane = PLANE) -> pd.DataFrame:
    """The cells in a CSV file; MisuseError if it cannot be read."""
    file = local_path(path, "cells")
    try:
        return checked_cells(pd.read_csv(file, dtype={"architecture": str}, keep_default_na=False), plane)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MisuseError(
            f"cells={shown(path)} cannot be read ({reason(error)}). Give a CSV file with the columns {', '.join(plane.cell)}."
        ) from None


def _maps(frame: pd.DataFrame, asked: pd.DataFrame, plane: Plane) -> list[tuple[Bools, Bools]]:
    """Rows and cells of each map: those on the axes, and those at 0 of a logarithmic axis.

    If no row is at such a 0, a cell there goes to the first map, whose surface refuses it.
    """
    rows = on_axes(frame, plane)
    if rows.all():
        return [(rows, np.ones(len(asked), dtype=bool))]
    zero = asked[[axis.name for axis in plane if axis.scale == "log"]].eq(0).any(axis=1).to_numpy()
    return [(rows, ~zero), (~rows, zero)]


def _rates(tally: Tally, outcome: Bools, asked: pd.DataFrame, confidence: float) -> dict[str, object]:
    """rate, low, high, source and replicates of the requested cells, by name."""
    a, x, y = (asked[column].to_numpy() for column in tally.domain.plane.cell)
    a, u, v = tally.domain.index(a), tally.domain.x.to_unit(x), tally.domain.y.to_unit(y)
    counts = tally.counts(outcome)
    k, n = _own(counts, a, u, v)
    measured = n >= ENOUGH
    rate = np.where(measured, k / np.maximum(n, 1), np.nan)
    low, high = rate_interval(k, n, confidence)
    if not measured.all():
        there = ~measured
        surface = tally.surface(outcome)
        made = surface.at(a[there], x[there], y[there])
        rate[there], (low[there], high[there]) = made.mean, made.interval(confidence)
        _widen(surface, (a, u, v), there & (n == 0), low, high, confidence)
    return {"rate": rate, "low": low, "high": high, "source": np.where(measured, "measured", "surface"), "replicates": n}


def _check_range(domain: Domain, asked: pd.DataFrame, frame: pd.DataFrame) -> None:
    """MisuseError, in the study's terms, for the first cell that lies outside."""
    unknown = asked["architecture"][~asked["architecture"].isin(domain.architectures)]
    if len(unknown):
        raise MisuseError(f"architecture={unknown.iloc[0]!r} is not in the study, which has {', '.join(domain.architectures)}.")
    for axis in (domain.x, domain.y):
        column, low, high = axis.coordinate.name, axis.low, axis.high
        outside = asked[column][(asked[column] < low * (1 - SAME)) | (asked[column] > high * (1 + SAME))]
        if len(outside):
            extent = f"range, {low:g} to {high:g}" if low < high else f"only {column}, {low:g}"
            near = nearest_cells(frame, asked.loc[outside.index[0]], plane=domain.plane).head(1)
            nearest = f" The nearest measured cell is {'; '.join(cells_in_words(near, domain.plane))}." if len(near) else ""
            raise MisuseError(
                f"{column}={outside.iloc[0]:g}{_of_cell(asked, outside.index[0])} is outside the study's {extent}: "
                f"nothing was measured there.{nearest}"
            )


def _own(counts: Counts, a: Ints, u: Floats, v: Floats) -> tuple[Ints, Ints]:
    """Failures and replicates of the measured cell at each place; 0 and 0 if there is none."""
    known = {key: row for row, key in enumerate(_keys(counts.architecture, counts.u, counts.v))}
    rows = np.array([known.get(key, -1) for key in _keys(a, u, v)], dtype=np.int64)
    there = rows >= 0
    return np.where(there, counts.failures[rows], 0), np.where(there, counts.replicates[rows], 0)


def _keys(a: Ints, u: Floats, v: Floats) -> list[tuple[int, int, int]]:
    places = (np.rint(x / SAME).astype(np.int64).tolist() for x in (u, v))
    return list(zip(a.tolist(), *places))


def _widen(surface: Surface, at: tuple[Ints, Floats, Floats], which: Bools, low: Floats, high: Floats, confidence: float) -> None:
    """Widen intervals between cells that are not smoothed to the hull of those of the measured cells around, in place."""
    if surface.process is not None:
        return
    ends = rate_interval(surface.counts.failures, surface.counts.replicates, confidence)
    for place in np.flatnonzero(which):
        a, u, v = (axis[place] for axis in at)
        mine = surface.counts.architecture == a
        around = mine & _next_to(surface.counts.u, mine, u) & _next_to(surface.counts.v, mine, v)
        if around.any():
            low[place], high[place] = min(low[place], ends[0][around].min()), max(high[place], ends[1][around].max())


def _next_to(axis: Floats, mine: Bools, x: float) -> Bools:
    """Which points lie at the nearest value on either side of x, or at x itself."""
    below, above = axis[mine & (axis <= x)], axis[mine & (axis >= x)]
    return (axis == below.max(initial=-1)) | (axis == above.min(initial=2))
