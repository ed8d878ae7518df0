"""What a metric is: columns of the row, and a function that fills them from the trained replicates.

A metric in a file of its own adds its columns to the rows of `run_pack`, to the shards and to `analysis.load` by
`register_metric`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.cells import Replicates
from search_spaces.extensions import calling_module, note_extension
from search_spaces.protocol import Protocol
from study.engines.contract import Autoencoders, SparseAutoencoders
from study.metrics.autoencoder import finite_lanes
from study.metrics.moments import SaeMoments, sae_moments
from study.storage.schema import MEASURED, OF_THE_SAE, Column, names_of, register_column

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Trained:
    """R trained replicates: their SAEs on A autoencoders, and the samples on which they are evaluated.

    All weights are finite here. If a weight of a replicate is not, its weights are set to 0 and its metrics become missing.
    """

    replicates: Replicates
    """(R,)."""
    protocol: Protocol
    autoencoders: Autoencoders
    """W (H, N, A), b (N, A)."""
    readers: Autoencoders
    """`autoencoders` with the W that gives the SAEs their h = W x, which the protocol may rescale."""
    saes: SparseAutoencoders | None
    """Replicates last, (…, R); None if the protocol trains no SAE."""
    ae_of_sae: NDArray[np.int64]
    """The autoencoder of each replicate, (R,)."""
    x: NDArray[np.float64]
    """Evaluation samples of each autoencoder, (A, S, N)."""
    columns: Mapping[str, _Array]
    """The columns that have been measured so far, (R,) each."""

    @cached_property
    def sae_moments(self) -> SaeMoments:
        """Sums over the evaluation samples for the R SAEs. Raises ValueError if the protocol trains no SAE."""
        if self.saes is None:
            raise ValueError("the protocol trains no SAE. A metric with columns of the group SAE or SIMILARITY is then left out.")
        return sae_moments(self.saes, self.readers.W, self.x, self.ae_of_sae, self.protocol)


@dataclass(frozen=True)
class Metric:
    """Columns, and how they are measured."""

    columns: tuple[Column, ...]
    """A metric with a column of the groups SAE or SIMILARITY is measured only if the protocol trains an SAE."""
    measure: Callable[[Trained], Mapping[str, _Array]]
    """Returns every column, (R,) each; NaN (None for text) where it is undefined."""


METRICS: list[Metric] = []
"""Metrics beyond those of autoencoder.py, sae.py and similarity.py, which `run_pack` always measures."""


def register_metric(metric: Metric) -> None:
    """Measure it in every replicate from now on, on Ray's workers too.

    Raises ValueError if the name of one of its columns is taken, or if a column is not of a group that is measured.
    """
    if metric in METRICS:
        return
    for column in metric.columns:
        if column.group not in MEASURED or column.name in names_of():
            raise ValueError(
                f"column {column.name!r} of group {column.group} cannot be measured: its name is taken, or the group is not one of "
                f"{', '.join(MEASURED)}."
            )
    for column in metric.columns:
        register_column(column)
    METRICS.append(metric)
    note_extension(calling_module())


def registered_metrics(trained: Trained) -> dict[str, _Array]:
    """The columns of every registered metric, (R,) each; missing where a weight is not finite."""
    finite, sane = _finite(trained)
    found: dict[str, _Array] = {}
    for metric in METRICS:
        if trained.saes is None and any(column.group in OF_THE_SAE for column in metric.columns):
            continue
        measured = metric.measure(dataclasses.replace(sane, columns={**trained.columns, **found}))
        found |= {column.name: _checked(measured, column, finite) for column in metric.columns}
    return found


def _checked(measured: Mapping[str, _Array], column: Column, finite: NDArray[np.bool_]) -> _Array:
    values = np.asarray(measured[column.name])
    if values.shape != finite.shape:
        raise ValueError(f"column {column.name!r} has shape {values.shape}. Expected {finite.shape}: one value per replicate.")
    missing: Any = np.nan if values.dtype.kind in "biuf" else None
    return np.where(finite, values, missing)


def _finite(trained: Trained) -> tuple[NDArray[np.bool_], Trained]:
    """Which replicates have only finite weights, (R,), and the replicates with all weights of the others set to 0."""
    weights = [[of.W, of.b] for of in (trained.autoencoders, trained.readers)]
    of_ae = finite_lanes(*(array for own in weights for array in own))
    finite = of_ae[trained.ae_of_sae]
    saes = trained.saes
    if saes is not None:
        finite = finite & finite_lanes(*saes.parameters.values())
        saes = saes.each(lambda array: np.where(finite, array, 0))
    autoencoders, readers = (Autoencoders(*(np.where(of_ae, array, 0) for array in own)) for own in weights)
    return finite, dataclasses.replace(trained, autoencoders=autoencoders, readers=readers, saes=saes)
