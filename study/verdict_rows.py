"""Rows from what was measured, verdicts included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.engines.registry import engine_named
from study.failures import Cause, FailureKind, judge
from study.packs import Pack
from study.storage.schema import BOOKKEEPING, ROW_SCHEMA

_Array = NDArray[Any]


def crashed_rows(pack: Pack, *, study: str = "", trial_id: str = "") -> pa.Table:
    """Rows that say `crashed`, with nothing measured: for replicates that kill whatever worker trains them."""
    return rows_table(pack, {}, np.nan, study, trial_id)


def rows_table(pack: Pack, measured: dict[str, _Array], seconds: float, study: str, trial_id: str) -> pa.Table:
    """The pack's rows in ROW_SCHEMA from what was measured; without measurements each is `crashed`."""
    replicates, size = pack.replicates, len(pack)
    architecture, engine = replicates.architecture, engine_named(pack.engine)
    columns: dict[str, Any] = {
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
        "engine": [engine.name] * size,
        "dtype": [pack.dtype] * size,
    }
    for field in ROW_SCHEMA:
        if field.name not in columns and field.name not in BOOKKEEPING:
            nothing = np.nan if pa.types.is_primitive(field.type) else None
            columns[field.name] = measured.get(field.name, np.full(size, nothing))
    failure = judge(columns, pack.protocol)
    columns["failure"] = failure.tolist()
    columns["cause"] = [(Cause.NONE if kind == FailureKind.NONE else Cause.UNKNOWN).value for kind in failure]
    columns["trial_id"] = [trial_id] * size
    columns["wall_seconds"] = np.full(size, seconds / size)
    columns["finished_at"] = [datetime.now(UTC)] * size
    arrays = []
    for field in ROW_SCHEMA:
        values = columns[field.name]
        missing = np.isnan(values) if pa.types.is_integer(field.type) else None
        if missing is not None:
            values = np.where(missing, 0, values).astype(np.int64)
        arrays.append(pa.array(values, field.type, mask=missing))
    return pa.table(arrays, schema=ROW_SCHEMA)
