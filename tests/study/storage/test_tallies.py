"""Counts grown shard by shard are those of the rows that `read_shards` and the planned ids give."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from search_spaces import PROTOCOLS, MachineError
from search_spaces.study_files import StudySpec, study_from
from study.packs import Pack, missing_packs
from study.storage.schema import names_of
from study.storage.status import status
from study.storage.study_folder import Storage, StudyFolder
from study.storage.tallies import Tallies
from study.verdict_rows import crashed_rows

GRID = study_from(
    {
        "name": "s",
        "protocol": "dissertation",
        "space": {"architectures": ["5-3-5", "6-3-6/9"], "sparsities": [0.0, 0.9], "l1": [0.01, 0.1, 1], "seeds": [7, "0:4", 12]},
    }
)
LISTED = study_from(
    {
        "name": "s",
        "protocol": "dissertation",
        "space": {
            "replicates": [{"architecture": "5-3-5", "sparsity": 0.9, "l1": 0.01, "seed": n, "ae_seed": 0} for n in range(9)]
        },
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study that has no rows yet."""
    return Storage.at(tmp_path).study("s")


def packs_of(spec: StudySpec) -> list[Pack]:
    """Packs of three replicates."""
    return [pack.take(slice(low, low + 3)) for pack in missing_packs(spec, ())[0] for low in range(0, len(pack), 3)]


def judged(pack: Pack, failure: str = "none") -> pa.Table:
    """Rows of this verdict for the pack."""
    rows = crashed_rows(pack, study="s")
    place = rows.column_names.index("failure")
    return rows.set_column(place, "failure", pa.array([failure] * len(pack)))


def by_ids(folder: StudyFolder, spec: StudySpec) -> tuple[int, Counter[str]]:
    """What the tallies must say, by another road: the ids of all planned replicates, and every row."""
    planned = {replicate_id for pack in missing_packs(spec, ())[0] for replicate_id in pack.replicate_ids}
    rows = folder.read_shards(["replicate_id", "failure"]).rows.to_pylist()
    kinds = Counter(row["failure"] for row in rows if row["replicate_id"] in planned)
    return kinds.total(), kinds


@pytest.mark.parametrize("spec", [GRID, LISTED], ids=["grid", "listed"])
def test_tallies_grow_to_what_is_there(folder: StudyFolder, spec: StudySpec) -> None:
    """After shards that are new, that overlap, that were written again, set aside, or hold crashed rows beside measured ones."""
    folder.write_text("study.yaml", "")
    tallies, packs = Tallies(folder), packs_of(spec)
    whole = missing_packs(spec, ())[0][0]

    def check() -> None:
        before, counts = tallies.update(spec), tallies.update(spec)
        assert counts is before
        assert (counts.done, counts.failures) == by_ids(folder, spec)
        assert tallies.cells()["count"].to_numpy().sum() == counts.done

    check()
    for place, pack in enumerate(packs):
        folder.write_shard(pack.pack_id, judged(pack, ("none", "sae_dead", "crashed")[place % 3]))
        check()
    folder.write_shard(packs[2].pack_id, judged(packs[2], "sae_dense"))
    check()
    folder.write_shard(whole.pack_id, crashed_rows(whole))
    check()
    folder.set_aside([packs[0].pack_id])
    check()
    assert tallies.update(spec).version == 1 + len(packs) + 3  # the specification, then the shards


@pytest.mark.parametrize("spec", [GRID, LISTED], ids=["grid", "listed"])
def test_rows_that_the_study_does_not_ask_for_do_not_count(folder: StudyFolder, spec: StudySpec) -> None:
    """Of another architecture, level or seed, with a seed set apart, of another protocol, dtype or engine family."""
    own = packs_of(spec)[0]
    folder.write_shard(own.pack_id, judged(own))
    first = own.replicates
    apart = {name: getattr(first, name) + 50 for name in ("seed", "data_seed", "ae_seed", "sae_seed")}
    others = [
        {"architecture": type(first.architecture)(20, 10)},
        {"sparsity": first.sparsity + 0.01},
        {"l1": np.nextafter(first.l1, 1)},
        apart,
        {"data_seed": apart["data_seed"]},
        {"sae_seed": apart["sae_seed"]},
    ]
    packs = [dataclasses.replace(own, replicates=dataclasses.replace(first, **fields)) for fields in others]
    packs.append(dataclasses.replace(own, protocol=PROTOCOLS["sound"]))
    packs.append(dataclasses.replace(own, dtype="float32"))
    for pack in packs:
        folder.write_shard(pack.pack_id, judged(pack))
    counts = Tallies(folder).update(spec)
    assert (counts.done, counts.failures) == by_ids(folder, spec) == (3, {"none": 3})


def test_other_specification_is_counted_anew(folder: StudyFolder) -> None:
    """When study.yaml changes, rows that it now asks for count, and those that it no longer asks for do not."""
    tallies, few = Tallies(folder), study_from(GRID.to_mapping() | {"space": GRID.space.model_dump() | {"l1": [0.1]}})
    for pack in packs_of(GRID):
        folder.write_shard(pack.pack_id, judged(pack))
    whole, part, again = (tallies.update(spec) for spec in (GRID, few, GRID))
    assert whole.done == again.done == GRID.space.size
    assert part.done == few.space.size == GRID.space.size // 3
    assert whole.version < part.version < again.version


def test_tallies_outlive_a_storage_that_fails(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows may not be read, an update raises; afterwards nothing is missing and nothing counts that has gone."""
    tallies, packs = Tallies(folder), packs_of(GRID)
    for pack in packs[:3]:
        folder.write_shard(pack.pack_id, judged(pack))
    assert tallies.update(GRID).done == 9

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder.set_aside([packs[0].pack_id])
    folder.write_shard(packs[3].pack_id, judged(packs[3], "sae_dead"))
    with monkeypatch.context() as refused:
        refused.setattr(StudyFolder, "read_whole_shard", forbidden)
        with pytest.raises(MachineError, match="Permission denied"):
            tallies.update(GRID)
    counts = tallies.update(GRID)
    assert (counts.done, counts.failures) == by_ids(folder, GRID) == (9, {"none": 6, "sae_dead": 3})


def test_cells_are_counted_by_verdict(folder: StudyFolder) -> None:
    """One line per cell and verdict, with the coordinates of the cell."""
    pack = packs_of(GRID)[0]  # one seed and sparsity, three l1
    folder.write_shard(pack.pack_id, judged(pack, "sae_dead"))
    again = dataclasses.replace(
        pack.replicates, **dict.fromkeys(("seed", "data_seed", "ae_seed", "sae_seed"), np.zeros(3, np.int64))
    )
    more = dataclasses.replace(pack, replicates=again)
    folder.write_shard(more.pack_id, judged(more, "sae_dead"))
    tallies = Tallies(folder)
    tallies.update(GRID)
    lines = sorted(tallies.cells().to_pylist(), key=lambda line: line["l1"])
    assert lines == [
        {"architecture": "5-3-5", "sparsity": 0.0, "l1": l1, "failure": "sae_dead", "count": 2} for l1 in (0.01, 0.1, 1.0)
    ]


def test_status_names_corrupt_shards_and_counts_the_others(folder: StudyFolder) -> None:
    """Corrupt in a column that it reads; resume looks at all."""
    folder.write_text("study.yaml", yaml.safe_dump(GRID.to_mapping()))
    packs = packs_of(GRID)
    for pack in packs:
        folder.write_shard(pack.pack_id, judged(pack))
    assert status("s", folder.storage.given).done == GRID.space.size
    damaged = {packs[0]: "failure", packs[1]: "ae_loss"}
    for pack, column in damaged.items():
        flip(Path(folder.path, "rows", f"{pack.pack_id}.parquet"), column)
    now = status("s", folder.storage.given)
    assert (now.done, now.unreadable_shards) == (GRID.space.size - 3, (packs[0].pack_id,))
    assert folder.corrupt_shards() == sorted(pack.pack_id for pack in damaged)
    assert [pack.pack_id for pack in damaged if folder.read_shard(pack.pack_id, ["l1", "seed"]) is None] == []


def flip(shard: Path, column: str) -> None:
    """Change a byte in the middle of a column's page."""
    chunk = pq.read_metadata(shard).row_group(0).column(names_of().index(column))
    content = bytearray(shard.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    os.utime(shard)
