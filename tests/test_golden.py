"""Small rows as they were when stored: a change of the procedure shows here and requires a new PROCEDURE_VERSION.

Made by `python -m tests.test_golden`, which rewrites tests/golden/small_rows.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import PROTOCOLS, grid
from search_spaces.protocol import PROCEDURE_VERSION
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import science_columns

GOLDEN = Path(__file__).parent / "golden" / "small_rows.json"
COMMAND = "python -m tests.test_golden"

TINY = {
    "dissertation": dataclasses.replace(PROTOCOLS["dissertation"], samples=200, ae_epochs=1, sae_epochs=4),
    "sound": dataclasses.replace(
        PROTOCOLS["sound"],
        samples=256,
        eval_samples=300,
        ae_steps=300,
        ae_batch_size=16,
        sae_steps=300,
        sae_batch_size=16,
        sae_warmup_steps=50,
    ),
}
DTYPES = ("float64", "float32")


def small_rows(protocol: str, dtype: str) -> list[dict[str, Any]]:
    """The science columns of four 5-3-5 replicates under a tiny protocol."""
    (replicates,) = grid(["5-3-5"], [0.5, 0.8], [0.01, 0.1], [123])
    rows = run_pack(Pack(replicates, TINY[protocol], dtype, "reference"))
    return rows.select([name for name in science_columns() if name not in ("replicate_id", "protocol_id")]).to_pylist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("protocol", TINY)
def test_small_rows_are_those_of_the_golden_file(protocol: str, dtype: str) -> None:
    """Every science column of eight small replicates, in both precisions, to 1e-11 relative; text and counts exactly."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["procedure_version"] == PROCEDURE_VERSION, f"rows are another version's: {golden['command']} makes them anew"
    expected = golden["rows"][f"{protocol} {dtype}"]
    for row, wanted in zip(small_rows(protocol, dtype), expected, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, rel=1e-11, nan_ok=True) if isinstance(value, float) else value), name


def test_golden_rows_hold_more_than_one_verdict() -> None:
    """The file has replicates that fail and replicates that do not, and none of its rows is diverged."""
    rows = [row for block in json.loads(GOLDEN.read_text())["rows"].values() for row in block]
    verdicts = {row["failure"] for row in rows}
    assert len(rows) == 16
    assert len(verdicts) >= 2
    assert "diverged" not in verdicts


if __name__ == "__main__":
    blocks = {f"{protocol} {dtype}": small_rows(protocol, dtype) for protocol in TINY for dtype in DTYPES}
    content = {"command": COMMAND, "procedure_version": PROCEDURE_VERSION, "rows": blocks}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
