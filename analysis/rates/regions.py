"""Failure regions: connected parts of the space whose failure rate is at or above a level, and how certain each is.

The rate is that of the failure surface (`search_spaces/surface`) at the study's cells. Whether a region exists at all is
tested on the replicates themselves, in windows that are fixed before any outcome is seen.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label, uniform_filter
from scipy.special import betainc, rel_entr

from analysis.rates.cells import MOST_LEVELS, rate_interval
from analysis.rates.tally import ENOUGH, Bools, Floats, Ints, Tally, architecture_index, on_axes, plane_of
from search_spaces.coordinates import Axis
from search_spaces.errors import MisuseError
from search_spaces.failures import failed, failing_verdicts
from search_spaces.surface.domain import Counts, Domain, grid_cell
from search_spaces.surface.posterior import Posterior


@dataclass(frozen=True)
class Region:
    """A connected part of architecture × two coordinates whose failure rate is at or above the level."""

    name: str
    """The failure, the architectures, and the third of each axis in which its middle lies, so that more seeds seldom change it."""
    failure: str
    architectures: list[str]
    extents: dict[str, tuple[float, float]]
    """Lowest and highest value in its cells, by the coordinate's name."""
    volume: float
    """Its share of the study's cells, in [0, 1]."""
    peak_rate: float
    """The rate at the cell around which rates are highest (`peak_of`): that of its own replicates if there are ENOUGH, else the
    surface's."""
    peak_interval: tuple[float, float]
    """95 % interval, from the same source as `peak_rate`."""
    replicates: int
    confidence: float
    """1 − the p value, adjusted for all windows of the map, of "its rate is below the level everywhere". 0.95 or more is wrong
    in at most one map in twenty, however the peak was chosen; 0 is what chance gives in a map of this size."""
    neighbours: list[str]
    """The verdicts beyond its borders, the commonest first: those of at least a tenth of the bordering replicates, except its
    own failure."""

    def to_mapping(self) -> dict[str, Any]:
        """All fields, for JSON; each extent under the name of its coordinate."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():
            fields |= value if name == "extents" else {name: value}
        return fields


@dataclass(frozen=True, eq=False)
class Nodes:
    """The cells that make up regions: the lattice of the study's values.

    An axis of more than MOST_LEVELS values (of a random search or a map) is cut into BINS bins of equal width in its units,
    each represented by its middle.
    """

    domain: Domain
    x: Floats
    """(U,)"""
    y: Floats
    """(V,)"""
    rows: tuple[Ints, Ints, Ints]
    """The indices (a, u, v) of each row's node."""
    known: Bools
    """(A, U, V): which nodes can belong to a region. A lattice's cell must be measured; along a binned axis the surface fills
    gaps."""

    @classmethod
    def of(cls, frame: pd.DataFrame, domain: Domain) -> Nodes:
        """The nodes of a frame's rows."""
        (x, at_u, many_u), (y, at_v, many_v) = (
            _places(axis, frame[axis.coordinate.name].to_numpy(np.float64)) for axis in (domain.x, domain.y)
        )
        rows = architecture_index(frame, domain), at_u, at_v
        known = np.zeros((len(domain.architectures), len(x), len(y)), dtype=bool)
        known[rows] = True
        for axis, many in ((1, many_u), (2, many_v)):
            known |= known.any(axis, keepdims=True) & many
        return cls(domain, x, y, rows, known)

    def posterior(self, surface_at: Tally, failed: Bools) -> tuple[Floats, Floats, Floats]:
        """Mean rate and the ends of its 95 % interval, (A, U, V) each; NaN at nodes that are not known."""
        a, i, j = np.nonzero(self.known)
        made: Posterior = surface_at.surface(failed).at(a, self.x[i], self.y[j])
        mean, low, high = (np.full(self.known.shape, np.nan) for _ in range(3))
        mean[self.known], (low[self.known], high[self.known]) = made.mean, made.interval(0.95)
        return mean, low, high

    def count(self, which: Bools) -> Ints:
        """(A, U, V): the number of chosen rows in each node."""
        flat = np.ravel_multi_index(self.rows, self.known.shape)[which]
        return np.bincount(flat, minlength=self.known.size).reshape(self.known.shape)


BINS = 24


def _places(axis: Axis, values: Floats) -> tuple[Floats, Ints, bool]:
    """The nodes of an axis, the node of each row, and whether the nodes are bins."""
    levels, at = np.unique(values, return_inverse=True)
    if len(levels) <= MOST_LEVELS:
        return levels, at, False
    return axis.from_unit((np.arange(BINS) + 0.5) / BINS), grid_cell(axis.to_unit(values), BINS), True


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def failure_regions(frame: pd.DataFrame, failure: str = "any", level: float = 0.5, domain: Domain | None = None) -> list[Region]:
    """Regions of one failure, the most certain first; rows that are not `on_axes` are left out.

    A region consists of cells whose posterior mean rate is at or above the level and that are adjacent along one of the three
    axes; cells that touch only at a corner are not joined. domain: that of a search (`StudySpec.domain`); by default what the
    rows span.
    """
    return _regions(frame, [failure], level, domain)


def all_regions(frame: pd.DataFrame, level: float = 0.5, domain: Domain | None = None) -> list[Region]:
    """Regions of any failure, then of each kind that occurs."""
    there = set(frame["failure"].unique())
    return _regions(frame, ["any", *(verdict.name for verdict in failing_verdicts() if verdict.name in there)], level, domain)


def _regions(frame: pd.DataFrame, failures: list[str], level: float, domain: Domain | None) -> list[Region]:
    if not 0 < level < 1:
        raise MisuseError(f"level={level} is outside (0, 1). It is a failure rate, for example 0.5.")
    mapped = frame[on_axes(frame, plane_of(domain))]
    outcomes = {failure: failed(mapped, failure).to_numpy(dtype=bool) for failure in failures}
    if frame.empty:
        return []
    tally = Tally.of(mapped, domain)
    atlas = _Atlas(tally, Nodes.of(mapped, tally.domain), SharedAutoencoders.of(mapped, tally.domain), _verdicts(mapped), level)
    return [region for failure, rows in outcomes.items() for region in atlas.regions(failure, rows)]


def region_table(regions: list[Region]) -> pd.DataFrame:
    """One row per region, as text."""
    rows = [
        {
            "region": region.name,
            **{name: _span(extent) for name, extent in region.extents.items()},
            "volume": f"{region.volume:.1%}",
            "peak rate [95 %]": f"{region.peak_rate:.0%} [{region.peak_interval[0]:.0%}, {region.peak_interval[1]:.0%}]",
            "replicates": str(region.replicates),
            "confidence": f"{region.confidence:.3f}",
            "beyond": ", ".join(region.neighbours),
        }
        for region in regions
    ]
    return pd.DataFrame(rows)


def _span(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.4g}" for end in ends)
    return low if ends[0] == ends[1] else f"{low} to {high}"


def _verdicts(frame: pd.DataFrame) -> dict[str, Bools]:
    """Which rows have each verdict that occurs."""
    return {str(kind): (frame["failure"] == kind).to_numpy(dtype=bool) for kind in frame["failure"].unique()}


@dataclass(frozen=True, eq=False)
class _Atlas:
    """The data that the maps of all failures share."""

    tally: Tally
    nodes: Nodes
    autoencoders: SharedAutoencoders
    verdicts: dict[str, Bools]
    level: float

    def regions(self, failure: str, rows: Bools) -> list[Region]:
        """The regions of one failure; `rows` marks the rows that have it."""
        counts = self.tally.counts(rows)
        if _highest(counts) < self.level:
            return []  # without fitting a surface
        sheet = _Sheet.of(self, rows)
        found = [sheet.region(failure, number) for number in range(1, sheet.count + 1)]
        named = zip(found, _distinct([name for _, name, _ in found], [place for _, _, place in found]))
        regions = [replace(region, name=name) for (region, _, _), name in named]
        return sorted(regions, key=lambda region: (-region.confidence, -region.volume, region.name))


def _highest(counts: Counts) -> float:
    """An upper bound of the smoothed rates, which are means of the cells' rates, drawn towards ½ if a cell has few seeds."""
    k, n = counts.failures, counts.replicates
    return float(np.maximum(k / n, (k + 0.5) / (n + 1)).max())


@dataclass(frozen=True, eq=False)
class _Sheet:
    """One failure's map, cut into regions."""

    atlas: _Atlas
    mean: Floats
    low: Floats
    high: Floats
    failures: Ints
    replicates: Ints
    labels: Ints
    """(A, U, V): the number of the region, or 0 outside."""
    count: int
    confidence: Floats
    """(count + 1,): by the number of the region; the first belongs to none."""

    @classmethod
    def of(cls, atlas: _Atlas, rows: Bools) -> _Sheet:
        mean, low, high = atlas.nodes.posterior(atlas.tally, rows)
        labels, count = label(mean >= atlas.level)
        replicates = atlas.nodes.count(np.ones(len(rows), dtype=bool))
        sure = confidences(atlas.autoencoders, rows, atlas.nodes, labels, atlas.level)
        return cls(atlas, mean, low, high, atlas.nodes.count(rows), replicates, labels, count, sure)

    def region(self, failure: str, number: int) -> tuple[Region, str, str]:
        """A region, its name, and its middle, which distinguishes it from others of the same name."""
        inside, nodes = self.labels == number, self.atlas.nodes
        a, i, j = np.nonzero(inside)
        name, middle = _name(failure, nodes, a, i, j)
        rate, interval = self._peak(inside)
        region = Region(
            name=name,
            failure=failure,
            architectures=[nodes.domain.architectures[index] for index in np.unique(a)],
            extents={
                axis.coordinate.name: (float(values[at.min()]), float(values[at.max()]))
                for axis, values, at in ((nodes.domain.x, nodes.x, i), (nodes.domain.y, nodes.y, j))
            },
            volume=float(inside.sum() / nodes.known.sum()),
            peak_rate=rate,
            peak_interval=interval,
            replicates=int(self.replicates[inside].sum()),
            confidence=float(self.confidence[number]),
            neighbours=[kind for kind in self._beyond(inside) if kind != failure],
        )
        return region, name, middle

    def _peak(self, inside: Bools) -> tuple[float, tuple[float, float]]:
        peak = peak_of(self.mean, inside)
        k, n = self.failures[peak], self.replicates[peak]
        if n < ENOUGH:
            return float(self.mean[peak]), (float(self.low[peak]), float(self.high[peak]))
        low, high = rate_interval(k, n)
        return float(k / n), (float(low), float(high))

    def _beyond(self, inside: Bools) -> list[str]:
        border = binary_dilation(inside) & self.atlas.nodes.known & ~inside
        rows = border[self.atlas.nodes.rows]
        shares = {kind: float((which & rows).sum() / max(rows.sum(), 1)) for kind, which in self.atlas.verdicts.items()}
        return [kind for kind in sorted(shares, key=lambda kind: (-shares[kind], kind)) if shares[kind] >= TENTH]


TENTH = 0.1


def peak_of(mean: Floats, inside: Bools) -> tuple[int, ...]:
    """The region's cell whose neighbourhood (a box of three cells per side) has the highest mean rate.

    It is not simply the highest cell: among many cells of similar rates, that is the luckiest one, and its interval is too
    high.
    """
    known = np.isfinite(mean)
    weight = uniform_filter(known.astype(np.float64), 3, mode="nearest")
    around = uniform_filter(np.where(known, mean, 0.0), 3, mode="nearest") / np.maximum(weight, 1e-9)
    return tuple(map(int, np.unravel_index(np.where(inside, around, -1).argmax(), inside.shape)))


def _name(failure: str, nodes: Nodes, a: Ints, i: Ints, j: Ints) -> tuple[str, str]:
    """The name, such as "any@5-3-5..10-5-10,sparse,high-l1", and the middle, such as "S=0.9,l1=0.01"."""
    names = nodes.domain.architectures
    span = names[a.min()] if a.min() == a.max() else f"{names[a.min()]}..{names[a.max()]}"
    thirds, middles = [], []
    for axis, values, at in ((nodes.domain.x, nodes.x, i), (nodes.domain.y, nodes.y, j)):
        middle = axis.to_unit(values)[at].mean()
        if axis.varies:
            thirds.append(axis.coordinate.thirds[min(int(3 * middle), 2)])
        digits = 2 if axis.coordinate.scale == "log" else 3
        middles.append(f"{axis.coordinate.symbol}={float(axis.from_unit(middle)):.{digits}g}")
    return ",".join([f"{failure}@{span}", *thirds]), ",".join(middles)


def _distinct(names: list[str], middles: list[str]) -> Iterator[str]:
    """The names; repeated ones get their middles appended, and those that still repeat a number."""
    twice = Counter(names)
    longer = [f"{name},{middle}" if twice[name] > 1 else name for name, middle in zip(names, middles)]
    seen: Counter[str] = Counter()
    for name in longer:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}"


# --- does a region exist at all?


@dataclass(frozen=True, eq=False)
class SharedAutoencoders:
    """Which rows share an autoencoder: SAEs at several values of y on one AE fail together and are not independent evidence."""

    of_row: Ints
    """(rows,): the index of each row's autoencoder."""
    architecture: Ints
    """(autoencoders,)"""
    first_row: Ints
    """(autoencoders,): one row of each."""

    @classmethod
    def of(cls, frame: pd.DataFrame, domain: Domain) -> SharedAutoencoders:
        """Autoencoders are identified by architecture, x, y (unless y affects only the SAE), and the seeds of data and AE.

        Without seed columns every row counts as an autoencoder of its own.
        """
        x, y = domain.plane
        if x.of_the_sae:
            raise MisuseError(
                f"x={x.name} affects only the SAE; regions allow this only for y, along which autoencoders are shared."
            )
        seeds = [column for column in ("data_seed", "ae_seed") if column in frame.columns]
        index = architecture_index(frame, domain)
        if not seeds:
            return cls(np.arange(len(frame)), index, np.arange(len(frame)))
        code = index
        for column in (x.name, *([] if y.of_the_sae else [y.name]), *seeds):
            part, values = pd.factorize(frame[column])
            code = np.unique(code * len(values) + part, return_inverse=True)[1]
        _, first, of_row = np.unique(code, return_index=True, return_inverse=True)
        return cls(of_row, index[first], first)

    @property
    def shared(self) -> bool:
        """Whether any autoencoder has several rows."""
        return len(self.first_row) < len(self.of_row)

    def count(self, nodes: Nodes, weights: Bools | None) -> Floats:
        """(autoencoders, V): the number of rows, or the sum of their weights."""
        shape = len(self.first_row), nodes.known.shape[2]
        flat = self.of_row * shape[1] + nodes.rows[2]
        found: Floats = np.bincount(flat, weights=weights, minlength=shape[0] * shape[1]).astype(np.float64)
        return found.reshape(shape)

    def summed(self, nodes: Nodes, values: Floats) -> Floats:
        """The sum (A, U, V) over the autoencoders at each place of values (autoencoders, V)."""
        rows, columns, _ = nodes.known.shape
        place = self.architecture * columns + nodes.rows[1][self.first_row]
        sums: list[Any] = [np.bincount(place, weights=column, minlength=rows * columns) for column in values.T]
        return np.stack(sums, axis=1).reshape(rows, columns, -1)


WIDTHS = (1, 2, 3, 5, 8)
"""Widths of windows along x and y, in cells; along the architectures they are 1, 2, 4 and so on."""
SINGLE_CELLS = 0.25
"""The share of the error that is allotted to single cells; the other sizes of windows share the rest evenly."""


def confidences(autoencoders: SharedAutoencoders, rows: Bools, nodes: Nodes, labels: Ints, level: float) -> Floats:
    """(regions + 1,): 1 − the adjusted p-value of "the rate is below the level everywhere in the region".

    A window is a box of nodes. Its p is the probability of at least as many failures if every rate in it were at the level: a
    binomial tail, or a bound of it (`_chance`). The windows, and the share w of the error of each, are fixed before any
    outcome is seen. By Bonferroni, the probability that any window without a rate at the level has p ≤ w α is thus at most
    α, and a region may choose the best window that lies wholly inside it. The confidence is 1 − min p/w.
    """
    least = np.ones(labels.max() + 1)
    families = _families(nodes.known.shape)
    for width, sizes in itertools.groupby(families, key=lambda size: size[2]):
        evidence = Evidence.along_y(autoencoders, rows, nodes, width)
        for size in sizes:
            score, trials = (_boxes(part, (*size[:2], 1)) for part in (evidence.score, evidence.trials))
            owner = _owner(labels, nodes.known, size)
            chosen = (owner > 0) & (trials > 0)
            chance = _chance(score[chosen], trials[chosen], level, evidence.exact)
            share = _error_share(size, len(families)) / max((trials > 0).sum(), 1)
            np.minimum.at(least, owner[chosen], chance / share)
    return 1 - np.minimum(least, 1)


def _families(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sizes of windows, ordered by their width along y."""
    doubled = tuple(2**power for power in range(16))
    choices = [[width for width in widths if width <= side] for widths, side in zip((doubled, WIDTHS, WIDTHS), shape)]
    return sorted(itertools.product(*choices), key=lambda size: size[2])


def _error_share(size: tuple[int, ...], families: int) -> float:
    if families == 1:
        return 1.0
    return SINGLE_CELLS if size == (1, 1, 1) else (1 - SINGLE_CELLS) / (families - 1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Independent outcomes in windows of one width along y: (A, U, V − width + 1)."""

    score: Floats
    """Sum over autoencoders of the share of their rows in the window that failed."""
    trials: Floats
    """Number of autoencoders that have rows in the window."""
    exact: bool
    """Whether every such share is 0 or 1, so that the binomial tail is exact."""

    @classmethod
    def along_y(cls, autoencoders: SharedAutoencoders, rows: Bools, nodes: Nodes, width: int) -> Evidence:
        """The evidence of the rows; `rows` marks those that failed."""
        if not autoencoders.shared:
            every = np.ones(len(rows), dtype=bool)
            score, trials = (_slid(nodes.count(which).astype(np.float64), 2, width) for which in (rows, every))
            return cls(score, trials, exact=True)
        failures, trials = (_slid(autoencoders.count(nodes, weights), 1, width) for weights in (rows, None))
        share, there = failures / np.maximum(trials, 1), (trials > 0).astype(np.float64)
        return cls(autoencoders.summed(nodes, share), autoencoders.summed(nodes, there), exact=bool(trials.max() <= 1))


def _boxes(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Sums over all boxes of the given size that fit."""
    for axis, width in enumerate(size):
        values = _slid(values, axis, width)
    return values


def _slid(values: NDArray[Any], axis: int, width: int, combine: np.ufunc = np.add) -> NDArray[Any]:
    """Sums (or minima, or maxima) over `width` neighbours along an axis."""
    places = values.shape[axis] - width + 1
    before = (slice(None),) * axis
    return combine.reduce([values[(*before, slice(start, start + places))] for start in range(width)])


def _owner(labels: Ints, known: Bools, size: tuple[int, ...]) -> Ints:
    """The number of the region that holds all known nodes of each window; 0 if there is none."""
    lowest, highest = np.where(known, labels, np.iinfo(labels.dtype).max), np.where(known, labels, -1)
    for axis, width in enumerate(size):
        lowest, highest = _slid(lowest, axis, width, np.minimum), _slid(highest, axis, width, np.maximum)
    return np.where(lowest == highest, lowest, 0)


def _chance(score: Floats, trials: Floats, level: float, exact: bool) -> Floats:
    """An upper bound of P(sum ≥ score) for independent summands in [0, 1] whose means are at most the level.

    If all are 0 or 1, it is the binomial tail itself. Otherwise it is the smaller of e times that tail at the whole number
    below (Bentkus 2004, "On Hoeffding's inequalities", theorem 1.2) and exp(−n KL(score/n ‖ level)) (Hoeffding 1963,
    theorem 1).
    """
    whole = np.floor(score + 1e-9)
    tail = np.where(whole > 0, betainc(np.maximum(whole, 1), np.maximum(trials - whole, 0) + 1, level), 1.0)
    if exact:
        return tail
    mean = np.clip(score / trials, level, 1)
    entropy = rel_entr(mean, level) + rel_entr(1 - mean, 1 - level)
    return np.minimum(np.minimum(np.e * tail, np.exp(-trials * entropy)), 1.0)
