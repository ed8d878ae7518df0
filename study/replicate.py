"""Trains one stored replicate again, alone, from the fields of its row: `sae-study replicate`."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from search_spaces.cells import SEED_COLUMNS, Architecture, Cell, Replicate, Replicates
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind
from search_spaces.paths import Given
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import science_columns
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE


def replicate_again(
    study: str, replicate_id: str, storage: Given = DEFAULT_STORAGE
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The stored row, the row trained again in this process, and the science columns in which the two differ.

    Columns that were added after its shard was written are not compared.
    replicate_id: the id or its beginning. Raises MisuseError if it names no row, several rows, or a replicate that killed
    its workers.
    """
    folder = existing_study(study, storage)
    if not replicate_id:
        raise MisuseError(f"no replicate_id was given. `{folder.command('rows')} --out rows.csv` lists them.")
    rows = folder.read_shards().rows
    found = rows.filter(pc.starts_with(rows["replicate_id"], replicate_id))
    if len(found) != 1:
        raise MisuseError(
            f"replicate_id={replicate_id!r} names {len(found)} of the {len(rows)} rows of {study}. "
            f"`{folder.command('rows')} --out rows.csv` lists them; give one id, or its beginning."
        )
    stored = found.to_pylist()[0]
    if stored["failure"] == FailureKind.CRASHED.value:
        raise MisuseError(
            f"replicate {stored['replicate_id']} killed every worker that trained it; it would kill this process too."
        )
    cell = Cell(Architecture.parse(stored["architecture"]), stored["sparsity"], stored["l1"])
    one = Replicates.of([Replicate(cell, *(stored[name] for name in SEED_COLUMNS))])
    protocols = {protocol.protocol_id: protocol for protocol in read_spec(folder).protocols}
    pack = Pack(one, protocols[stored["protocol_id"]], stored["dtype"], stored["engine"])
    again = run_pack(pack, study=study).to_pylist()[0]
    there = folder.columns_of(stored["replicate_id"])
    differing = [name for name in science_columns() if name in there and not _same(stored[name], again[name])]
    return stored, again, differing


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (_missing(one) and _missing(other)))


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN is not itself
