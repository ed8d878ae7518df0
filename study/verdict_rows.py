"""Builds the rows of a pack from its measured columns, and judges them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search_spaces.failures import FailureKind
from study.failures import Cause, judge
from study.packs import Pack
from study.storage.schema import MEASURED, columns, row_schema

_Columns = dict[str, Any]


def crashed_rows(pack: Pack, *, study: str = "", trial_id: str = "") -> pa.Table:
    """Rows with the verdict `crashed` and nothing measured, for replicates that kill every worker that trains them."""
    return rows_table(pack, {}, np.nan, study, trial_id)


def rows_table(pack: Pack, measured: Mapping[str, NDArray[Any]], seconds: float, study: str, trial_id: str) -> pa.Table:
    """The pack's rows in `row_schema` from its measured columns, (R,) each; columns that were not measured are missing.

    If no column was measured, every row is `crashed`.
    """
    known = _identity(pack, study) | _measured(measured, len(pack))
    values = known | _verdicts(known, pack) | _bookkeeping(len(pack), seconds, trial_id)
    schema = row_schema()
    return pa.table([_array(values[field.name], field.type) for field in schema], schema=schema)


def _identity(pack: Pack, study: str) -> _Columns:
    replicates, size = pack.replicates, len(pack)
    architecture = replicates.architecture
    return {
        "replicate_id": pack.replicate_ids,
        "study": [study] * size,
        "architecture": [str(architecture)] * size,
        "n_features": np.full(size, architecture.n_features),
        "n_hidden": np.full(size, architecture.n_hidden),
        "n_latents": np.full(size, architecture.n_latents),
        "sparsity": replicates.sparsity,
        "l1": replicates.l1,
        "seed": replicates.seed,
        "data_seed": replicates.data_seed,
        "ae_seed": replicates.ae_seed,
        "sae_seed": replicates.sae_seed,
        "protocol": [pack.protocol.name] * size,
        "protocol_id": [pack.protocol.protocol_id] * size,
        "engine": [pack.engine] * size,
        "dtype": [pack.dtype] * size,
    }


def _measured(measured: Mapping[str, NDArray[Any]], size: int) -> _Columns:
    nothing = {column.name: np.nan if pa.types.is_primitive(column.type) else None for column in columns(*MEASURED)}
    return {name: measured.get(name, np.full(size, missing)) for name, missing in nothing.items()}


def _verdicts(known: _Columns, pack: Pack) -> _Columns:
    failure = judge(known, pack.protocol).tolist()
    return {
        "failure": failure,
        "cause": [(Cause.NONE if kind == FailureKind.NONE else Cause.UNKNOWN).value for kind in failure],
    }


def _bookkeeping(size: int, seconds: float, trial_id: str) -> _Columns:
    return {
        "trial_id": [trial_id] * size,
        "wall_seconds": np.full(size, seconds / size),
        "finished_at": [datetime.now(UTC)] * size,
    }


def _array(values: Any, type_: pa.DataType) -> pa.Array:
    """An Arrow array; NaN in a column of whole numbers becomes a missing value."""
    if not pa.types.is_integer(type_):
        return pa.array(values, type_)
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values).astype(np.int64), type_, mask=missing)
