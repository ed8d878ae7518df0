"""Failure regions: connected parts of the space whose failure rate is at or above a level, and how certain each is.

The rate is that of the failure surface (`search_spaces/surface`) at the study's cells. Whether a region exists at all is
tested on the replicates themselves, in windows that are fixed before any outcome is seen. Replicates of one seed go together in
both: they are the same draws under other thresholds.
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
from analysis.rates.tally import Bools, Floats, Ints, Tally, architecture_index, on_axes, plane_of
from search_spaces.coordinates import Axis
from search_spaces.errors import MisuseError
from search_spaces.failures import failed, failing_verdicts
from search_spaces.surface.domain import Counts, Domain, grid_cell


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
    """The rate where rates are highest: half of the seeds say where that is, and the other half, from which this rate is, how
    high it is. ½, with the interval [0, 1], if the other half has no replicate there."""
    peak_interval: tuple[float, float]
    """95 % interval of `peak_rate`; each seed counts once."""
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

    def mean(self, surface_at: Tally, failed: Bools) -> Floats:
        """The surface's mean rate, (A, U, V); NaN at nodes that are not known."""
        a, i, j = np.nonzero(self.known)
        mean = np.full(self.known.shape, np.nan)
        mean[self.known] = surface_at.surface(failed).at(a, self.x[i], self.y[j]).mean
        return mean

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
    nodes = Nodes.of(mapped, tally.domain)
    atlas = _Atlas(tally, nodes, Seeds.of(mapped, nodes), _verdicts(mapped), level)
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
    seeds: Seeds
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
    rows: Bools
    """(rows,): which failed."""
    replicates: Ints
    """(A, U, V)"""
    labels: Ints
    """(A, U, V): the number of the region, or 0 outside."""
    count: int
    confidence: Floats
    """(count + 1,): by the number of the region; the first belongs to none."""

    @classmethod
    def of(cls, atlas: _Atlas, rows: Bools) -> _Sheet:
        labels, count = label(atlas.nodes.mean(atlas.tally, rows) >= atlas.level)
        replicates = atlas.nodes.count(np.ones(len(rows), dtype=bool))
        return cls(atlas, rows, replicates, labels, count, confidences(atlas.seeds, rows, labels, atlas.level))

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
        """The rate around the peak and its interval, from the half of the seeds that did not choose it."""
        nodes, seeds = self.atlas.nodes, self.atlas.seeds
        choosing = ~seeds.second_half
        a, i, j = peak_of(nodes.count(self.rows & choosing), nodes.count(choosing), inside)
        own = np.zeros(inside.shape, dtype=bool)
        score, trials = 0.0, 0
        for reach in PEAK_REACHES:
            own[a, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1] = True
            score, trials = seeds.pooled(self.rows, (own & inside)[nodes.rows] & seeds.second_half)
            if trials >= ENOUGH_AT_PEAK:
                break
        low, high = rate_interval(score, trials)
        return score / trials if trials else 0.5, (float(low), float(high))

    def _beyond(self, inside: Bools) -> list[str]:
        border = binary_dilation(inside) & self.atlas.nodes.known & ~inside
        rows = border[self.atlas.nodes.rows]
        shares = {kind: float((which & rows).sum() / max(rows.sum(), 1)) for kind, which in self.atlas.verdicts.items()}
        return [kind for kind in sorted(shares, key=lambda kind: (-shares[kind], kind)) if shares[kind] >= TENTH]


TENTH = 0.1


ENOUGH_AT_PEAK = 20
"""The rate at a peak is that of a cell if so many seeds were trained there; else that of a larger part of the region around it."""
PEAK_REACHES = (0, 1, 2)
"""How many cells on either side of the peak are included."""


def peak_of(failures: Ints, replicates: Ints, inside: Bools) -> tuple[int, ...]:
    """The region's cell around which (in a box of three cells per side) the failure rate is highest; counts are (A, U, V)."""
    k, n = (uniform_filter(part.astype(np.float64), 3, mode="constant") * 27 for part in (failures, replicates))
    return tuple(map(int, np.unravel_index(np.where(inside, (k + 0.5) / (n + 1), -1).argmax(), inside.shape)))


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
class Seeds:
    """Which rows share their random draws.

    Replicates of one architecture and seed at other sparsities or l1 are the same draws under other thresholds, and succeed or
    fail together more often than by chance. A *unit* is one architecture with one seed. Units whose rows lie at the same nodes
    form a *group*.
    """

    nodes: Nodes
    of_row: Ints
    """(rows,): the index of each row's unit."""
    second_half: Bools
    """(rows,): whether the row belongs to the second half of the seeds, or, if there is one seed, of the cells."""
    group: Ints
    """(rows,): the index of each row's group."""
    size: Ints
    """(groups,): number of units."""
    architecture: Ints
    """(groups,): index of the architecture."""

    @classmethod
    def of(cls, frame: pd.DataFrame, nodes: Nodes) -> Seeds:
        """Seeds are told apart by those of data and AE; without such columns, every row has a seed of its own."""
        columns = [name for name in ("data_seed", "ae_seed") if name in frame.columns] or ["seed"]
        seed = np.arange(len(frame))
        if columns[0] in frame.columns:
            seed = frame.groupby(columns, sort=True).ngroup().to_numpy()
        a, i, j = nodes.rows
        _, of_row = np.unique(a * (seed.max() + 1) + seed, return_inverse=True)
        marks = np.zeros(of_row.max() + 1, dtype=np.uint64)
        np.add.at(marks, of_row, _mark(np.ravel_multi_index(nodes.rows, nodes.known.shape)))
        _, first, group, size = np.unique(marks, return_index=True, return_inverse=True, return_counts=True)
        of_unit = np.zeros(len(marks), dtype=np.int64)
        of_unit[of_row] = a
        halves = seed if seed.max() else i + j
        return cls(nodes, of_row, halves % 2 == 1, group[of_row], size, of_unit[first])

    def pooled(self, failed: Bools, chosen: Bools) -> tuple[float, int]:
        """Of the chosen rows: the sum over units of the share that failed, and the number of units."""
        units, at = np.unique(self.of_row[chosen], return_inverse=True)
        return float((np.bincount(at, weights=failed[chosen]) / np.bincount(at)).sum()) if len(units) else 0.0, len(units)

    def at_nodes(self, which: Bools, groups: slice) -> Floats:
        """(groups, U, V): number of chosen rows of each group."""
        _, rows, columns = self.nodes.known.shape
        own = which & (self.group >= groups.start) & (self.group < groups.stop)
        flat = ((self.group - groups.start) * rows + self.nodes.rows[1]) * columns + self.nodes.rows[2]
        count = min(groups.stop, len(self.size)) - groups.start
        found: Floats = np.bincount(flat[own], minlength=count * rows * columns).astype(np.float64)
        return found.reshape(count, rows, columns)


def _mark(node: Ints) -> NDArray[np.uint64]:
    """A number of 64 bits for each node, whose sums tell sets of nodes apart (Zobrist hashing, with SplitMix64's mixer)."""
    mixed = (node.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


WIDTHS = (1, 2, 3, 5, 8)
"""Widths of windows along x and y, in cells; along the architectures they are 1, 2, 4 and so on."""
SINGLE_CELLS = 0.25
"""The share of the error that is allotted to single cells; the other sizes of windows share the rest evenly."""


def confidences(seeds: Seeds, rows: Bools, labels: Ints, level: float) -> Floats:
    """(regions + 1,): 1 − the adjusted p-value of "the rate is below the level everywhere in the region".

    A window is a box of nodes. Its p is the probability of at least as many failures if every rate in it were at the level: a
    binomial tail, or a bound of it (`_chance`), in which each unit counts once, by the share of its replicates in the window
    that failed. The windows, and the share w of the error of each, are fixed before any outcome is seen. By Bonferroni, the
    probability that any window without a rate at the level has p ≤ w α is thus at most α, and a region may choose the best
    window that lies wholly inside it. The confidence is 1 − min p/w.
    """
    least = np.ones(labels.max() + 1)
    known = seeds.nodes.known
    families = _families(known.shape)
    for plane, sizes in itertools.groupby(families, key=lambda size: size[1:]):
        evidence = Evidence.of(seeds, rows, plane)
        for size in sizes:
            score, trials = (_slid(part, 0, size[0]) for part in (evidence.score, evidence.trials))
            owner = _owner(labels, known, size)
            chosen = (owner > 0) & (trials > 0)
            chance = _chance(score[chosen], trials[chosen], level, evidence.exact)
            share = _error_share(size, len(families)) / max((trials > 0).sum(), 1)
            np.minimum.at(least, owner[chosen], chance / share)
    return 1 - np.minimum(least, 1)


def _families(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sizes of windows, ordered by their widths along x and y."""
    doubled = tuple(2**power for power in range(16))
    choices = [[width for width in widths if width <= side] for widths, side in zip((doubled, WIDTHS, WIDTHS), shape)]
    return sorted(itertools.product(*choices), key=lambda size: size[1:])


def _error_share(size: tuple[int, ...], families: int) -> float:
    if families == 1:
        return 1.0
    return SINGLE_CELLS if size == (1, 1, 1) else (1 - SINGLE_CELLS) / (families - 1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Independent outcomes in the windows of one size within each architecture's plane: (A, U − width + 1, V − width + 1)."""

    score: Floats
    """Sum over units of the share of their rows in the window that failed."""
    trials: Floats
    """Number of units that have rows in the window."""
    exact: bool
    """Whether every such share is 0 or 1, so that the binomial tail is exact."""

    @classmethod
    def of(cls, seeds: Seeds, rows: Bools, plane: tuple[int, int]) -> Evidence:
        """The evidence of the rows; `rows` marks those that failed."""
        shape = len(seeds.nodes.known), *(side - width + 1 for side, width in zip(seeds.nodes.known.shape[1:], plane))
        score, trials, most = np.zeros(shape), np.zeros(shape), 0.0
        every = np.ones(len(rows), dtype=bool)
        step = max(_MOST_AT_ONCE // seeds.nodes.known[0].size, 1)
        for start in range(0, len(seeds.size), step):
            groups = slice(start, start + step)
            size = seeds.size[groups, None, None]
            failures, replicates = (_boxes(seeds.at_nodes(which, groups), (1, *plane)) for which in (rows, every))
            each = replicates / size  # of one unit
            np.add.at(score, seeds.architecture[groups], failures / np.maximum(each, 1))
            np.add.at(trials, seeds.architecture[groups], size * (each > 0))
            most = max(most, each.max())
        return cls(score, trials, exact=most <= 1)


_MOST_AT_ONCE = 4_000_000


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
