"""A stored replicate made again: what is compared with what is stored."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from study.replicate import replicate_again
from study.storage import schema

EARLIER_STUDY = Path(__file__).parent.parent / "golden" / "three-shards"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study of three shards."""
    return Path(shutil.copytree(EARLIER_STUDY, tmp_path / "three-shards"))


def test_columns_that_came_after_a_shard_are_not_compared(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that an older version wrote, without a column that has since been added, is made again to the bit."""
    shard = next((study / "rows").iterdir())
    rows = pq.read_table(shard)
    pq.write_table(rows.drop_columns(["f1_latents_features"]), shard, write_page_checksum=True)
    later = [dataclasses.replace(one, since=9) if one.name == "f1_latents_features" else one for one in schema.COLUMNS]
    monkeypatch.setattr(schema, "COLUMNS", later)
    stored, again, differing = replicate_again("three-shards", rows["replicate_id"][0].as_py(), str(study.parent))
    assert stored["f1_latents_features"] is None
    assert again["f1_latents_features"] is not None
    assert differing == []


def test_columns_that_a_shard_has_are_compared(study: Path) -> None:
    """A stored number that training does not reproduce is named, and so is a missing value in a column that the shard has."""
    shard = next((study / "rows").iterdir())
    rows = pq.read_table(shard)
    for name, value in (("l0", pc.add(rows["l0"], 1.0)), ("f1_latents_features", pc.multiply(rows["l0"], float("nan")))):
        rows = rows.set_column(rows.schema.get_field_index(name), name, value)
    pq.write_table(rows, shard, write_page_checksum=True)
    _, _, differing = replicate_again("three-shards", rows["replicate_id"][0].as_py(), str(study.parent))
    assert differing == ["l0", "f1_latents_features"]
