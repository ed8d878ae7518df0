"""The data of a report: a study's rows and everything computed from them, each quantity once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.comparisons.metric_trust import MetricTrust, metric_trust
from analysis.comparisons.published import published_replicates
from analysis.figures.learned_map import MapDiagram
from analysis.figures.phase import FittedRate
from analysis.frames import load
from analysis.rates.cells import cell_rates, on_lattice, per_autoencoder
from analysis.rates.claims import Monotonicity, monotonicity
from analysis.rates.regions import Region, all_regions
from analysis.rates.significance import holm
from analysis.rates.tally import Tally, on_axes
from analysis.searches.failure_map import map_of
from analysis.searches.l1 import read_l1
from analysis.transitions.critical_points import CriticalPoint, critical_points, named_protocol, order_transitions
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, failed
from search_spaces.learners.l1_search import L1Interval
from search_spaces.paths import Given
from search_spaces.study_files import StudySpec, study_from
from search_spaces.surface.surface import Surface, few_cells
from study.metrics.sae import corrected_mcc
from study.storage.schema import Group, names_of
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE

COLLAPSE, DEATH = FailureKind.AE_COLLAPSED.value, "sae_all_dead"
_OF_TRANSITIONS = (
    "architecture", "n_features", "n_hidden", "n_latents", "sparsity", "l1", "seed", "data_seed", "ae_seed", "failure",
    "sae_all_dead",
)  # fmt: skip
"""The columns from which phase transitions are found, beside the metrics of the autoencoder."""
_UNUSED = ("replicate_id", "study", "engine", "cause", *names_of(Group.BOOKKEEPING))
"""Columns that no figure and no sentence needs; to leave out text makes a million rows much faster."""


@dataclass(frozen=True, eq=False)
class StudyRows:
    """The rows of one study, and everything that the report computes from them."""

    name: str
    spec: StudySpec
    rows: pd.DataFrame
    """The frame of `analysis.load`."""
    l1: tuple[L1Interval, ...] = ()
    """The intervals of a finished L1 search."""
    map: MapDiagram | None = None
    """The map of a map search."""

    @property
    def searched(self) -> bool:
        """Whether a search chose where to train, so that shares of replicates are no rates."""
        return self.spec.search is not None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows on few levels of sparsity and l1, with `mcc_corrected`, and without columns that nothing needs."""
        rows = self.rows.drop(columns=[name for name in _UNUSED if name in self.rows])
        frame = on_lattice(rows) if len(rows) else rows
        return frame.assign(mcc_corrected=corrected_mcc(frame["mcc_decoder_features"], frame["mcc_chance"]))

    def of(self, architecture: str) -> pd.DataFrame:
        """The rows of one architecture."""
        return self._by_architecture[architecture]

    def measured_of(self, architecture: str) -> pd.DataFrame:
        """The rows in `measured` of one architecture."""
        return _measured(self.of(architecture))

    @cached_property
    def _by_architecture(self) -> dict[str, pd.DataFrame]:
        return {str(name): own for name, own in self.frame.groupby("architecture", sort=False)}

    def deaths_of(self, architecture: str) -> list[CriticalPoint]:
        """The points in `deaths` of one architecture."""
        return [point for point in self.deaths if point.architecture == architecture]

    @cached_property
    def measured(self) -> pd.DataFrame:
        """The rows without the replicates that crashed, which have no metrics."""
        return _measured(self.frame)

    @cached_property
    def planned(self) -> int:
        """The number of replicates in the specification; for a search, the number that it trained."""
        return len(self.rows) if self.spec.search else sum(map(len, self.spec.replicates()))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`cell_rates` of any failure."""
        return cell_rates(self.frame)

    @property
    def architectures(self) -> list[str]:
        """The architectures in order of width."""
        return list(dict.fromkeys(self.cells["architecture"]))

    def varies(self, *axes: str) -> bool:
        """Whether each of these columns has more than one value."""
        return all(self.frame[axis].nunique() > 1 for axis in axes)

    @cached_property
    def regions(self) -> list[Region]:
        """The regions of any failure and of each kind."""
        level = self.map.level if self.map is not None else 0.5
        return all_regions(self.rows if self.searched else self.frame, level, self.spec.domain) if len(self.frame) else []

    @cached_property
    def autoencoders(self) -> pd.DataFrame:
        """One row per autoencoder, without the published seed, which is known because it collapses."""
        return per_autoencoder(self.frame[list(_OF_TRANSITIONS)].drop(published_replicates(self.frame).index))

    @cached_property
    def collapse(self) -> dict[str, Monotonicity]:
        """The course of the rate of collapse along sparsity, for each architecture with several sparsities.

        Their p values are adjusted by Holm's method for the number of architectures, each hypothesis apart.
        """
        marked = self.autoencoders.assign(collapsed=failed(self.autoencoders, COLLAPSE))
        found = {}
        for architecture in self.architectures:
            counts = marked[marked["architecture"] == architecture].groupby("sparsity")["collapsed"].agg(["sum", "size"])
            if len(counts) > 1:
                found[architecture] = monotonicity(counts.index.to_list(), counts["sum"].to_list(), counts["size"].to_list())
        falls, rises = (holm([getattr(of, p) for of in found.values()]) for p in ("p_never_falls", "p_never_rises"))
        return {
            name: replace(of, p_never_falls=float(fall), p_never_rises=float(rise))
            for (name, of), fall, rise in zip(found.items(), falls, rises)
        }

    @cached_property
    def deaths(self) -> list[CriticalPoint]:
        """Where half of the seeds have all latents dead, along l1 and along sparsity."""
        return critical_points(self._slim, DEATH, protocol=self.spec.protocol)

    @cached_property
    def _slim(self) -> pd.DataFrame:
        """Only the columns from which phase transitions are found, because the frame is copied for every cell of a plane."""
        return self.measured[[*_OF_TRANSITIONS, *names_of(Group.AUTOENCODER)]]

    @cached_property
    def transitions(self) -> list[CriticalPoint]:
        """Critical sparsities of the autoencoders themselves."""
        return order_transitions(self._slim)

    @cached_property
    def trust(self) -> MetricTrust:
        """Which metrics can be trusted where."""
        return metric_trust(self.measured)

    @cached_property
    def fitted(self) -> dict[str, FittedRate]:
        """The smoothed rate of any failure, for each architecture that has a lattice worth smoothing."""
        if not self.varies("sparsity", "l1"):
            return {}
        frame = self.frame[on_axes(self.frame)]
        tally = Tally.of(frame)
        domain, cells = tally.domain, tally.cells
        smooth = [
            place
            for place in range(len(domain.architectures))
            if all(domain.varies) and not few_cells(cells.take(cells.architecture == place), domain.varies)
        ]
        if not smooth:
            return {}
        surface = tally.surface(failed(frame).to_numpy())
        levels = self.cells[self.cells["l1"] > 0]
        return {domain.architectures[place]: _on_lattice(surface, place, levels) for place in smooth}


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without crashed ones: the same frame if there are none, because to select from a million rows takes a second."""
    crashed = rows["failure"] == FailureKind.CRASHED.value
    return rows[~crashed] if crashed.any() else rows


def _on_lattice(surface: Surface, place: int, cells: pd.DataFrame) -> FittedRate:
    """The fit at the study's own levels; between them it is uncertain, and its contour lines would encircle every cell."""
    sparsities, l1s = (np.sort(cells[axis].unique()).astype(np.float64) for axis in ("sparsity", "l1"))
    l1, sparsity = np.meshgrid(l1s, sparsities, indexing="ij")  # (l1, sparsities)
    posterior = surface.at(np.full(l1.size, place), sparsity.ravel(), l1.ravel())
    return FittedRate(sparsities, l1s, *(of.reshape(l1.shape) for of in (posterior.mean, posterior.exceedance(0.5))))


def study_rows(study: str | pd.DataFrame, storage: Given = DEFAULT_STORAGE) -> StudyRows:
    """The rows of a study with what its search found, by its name, or of a frame of its rows.

    A frame knows no search, and has to be of one named protocol. Raises MisuseError if it is not, or if there is no such study.
    """
    if isinstance(study, pd.DataFrame):
        return StudyRows("frame", _spec_of(study), study)
    folder = existing_study(study, storage)
    spec, rows = read_spec(folder), load(folder.name, storage)
    rows.attrs = {}  # pandas copies them at every operation
    return StudyRows(folder.name, spec, rows, read_l1(folder), map_of(folder, spec, rows))


def _spec_of(frame: pd.DataFrame) -> StudySpec:
    protocol = named_protocol(frame)
    if protocol is None or frame.empty:
        raise MisuseError("The frame has no rows, or rows of several or unnamed protocols. Give the name of a study instead.")
    first = frame.iloc[0]
    cell = {"architectures": "architecture", "sparsities": "sparsity", "l1": "l1"}
    space = {axis: [first[column]] for axis, column in cell.items()} | {"seeds": [0]}
    return study_from({"name": "frame", "protocol": protocol.name, "dtype": str(first["dtype"]), "space": space})


def slug(architecture: str) -> str:
    """The architecture as part of a file name or an anchor."""
    return architecture.replace("/", "_")
