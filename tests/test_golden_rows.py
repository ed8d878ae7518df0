"""Rows as they were before the code was rearranged: nothing may change a bit of them, or a `replicate_id`.

`python -m tests.test_golden_rows` rewrites tests/golden/rows.parquet; only a new PROCEDURE_VERSION is a reason to do so.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_info

from analysis import load
from analysis.report.page import write_report
from search_spaces import grid, protocol_from
from study import resume
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import science_columns

GOLDEN = Path(__file__).parent / "golden" / "rows.parquet"
EARLIER_STUDY = Path(__file__).parent / "golden" / "three-shards"
COMMAND = "python -m tests.test_golden_rows"

ARCHITECTURES = ("5-3-5", "10-5-10", "10-5-10/20", "20-10-20")
_SHORT = {"ae_steps": 400, "sae_steps": 400, "samples": 2048, "eval_samples": 2048, "sae_warmup_steps": 40}
PROTOCOLS: dict[str, object] = {
    "dissertation": "dissertation",
    "dissertation, topk": {"sae_variant": "topk", "sae_k": 2},
    "dissertation, jumprelu": {"sae_variant": "jumprelu"},
    "dissertation, rescaled": {"sae_input": "rescaled", "ae_init_scale": 2.0, "sae_init_scale": 3.0},
    "dissertation-diagnosis": "dissertation-diagnosis",
    "sound": "sound",
    "sound, topk": {"base": "sound", "sae_variant": "topk", "sae_k": 2, **_SHORT},
    "sound, jumprelu": {"base": "sound", "sae_variant": "jumprelu", **_SHORT},
    "sound, steered": {"base": "sound", "sae_target_l0": 0.8, "sae_schedule": "constant", **_SHORT},
    "sound, free": {"base": "sound", "sae_decoder_norm": "free", "sae_subtract_decoder_bias": False, **_SHORT},
    "sound, jumprelu, free": {"base": "sound", "sae_variant": "jumprelu", "sae_decoder_norm": "free", **_SHORT},
}
DTYPES = ("float64", "float32")

FROM_BLAS = (
    "ae_diagonal_mean",
    "ae_offdiagonal_mean",
    "ae_condition_number",
    "procrustes_hidden_recon",
    "mcc_decoder_features",
    "mcc_chance",
    "mmcs_decoder_features",
)
"""Columns that end in a linear algebra library, whose last bits differ between its kernels for processor generations."""


def rows_now(protocol: str, dtype: str) -> pa.Table:
    """The science columns of eight replicates of each architecture, by the compiled engine."""
    packs = [
        Pack(replicates, protocol_from(PROTOCOLS[protocol]), dtype, "compiled")
        for replicates in grid(ARCHITECTURES, [0.5, 0.9], [0.01, 0.2], [0, 123])
    ]
    return pa.concat_tables([run_pack(pack) for pack in packs]).select(science_columns())


def blas_kernels() -> str:
    """The kernels that the linear algebra library chose for this processor, as `Haswell`."""
    return " ".join(sorted({str(library.get("architecture")) for library in threadpool_info() if library["user_api"] == "blas"}))


@cache
def golden_rows() -> pa.Table:
    return pq.read_table(GOLDEN)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_are_the_golden_rows_to_the_bit(protocol: str, dtype: str) -> None:
    """Every id, text, count and number of 32 replicates from 5-3-5 to 20-10-20 is what it was.

    If the linear algebra library runs other kernels here than where the file was made, FROM_BLAS agree to 1e-12.
    """
    golden, ids = golden_rows(), protocol_from(PROTOCOLS[protocol]).protocol_id
    wanted = golden.filter((pc.field("protocol_id") == ids) & (pc.field("dtype") == dtype))
    found = rows_now(protocol, dtype)
    same_kernels = golden.schema.metadata[b"blas"].decode() == blas_kernels()
    assert len(wanted) == len(found) == 8 * len(ARCHITECTURES)
    for name in golden.column_names:
        before, now = wanted[name].combine_chunks(), found[name].combine_chunks()
        if name in FROM_BLAS and not same_kernels:
            np.testing.assert_allclose(now.to_numpy(), before.to_numpy(), rtol=1e-12, atol=1e-14)
        elif pa.types.is_floating(before.type):
            bits = [column.to_numpy(zero_copy_only=False).view(np.uint64) for column in (before, now)]
            both_nan = np.isnan(before.to_numpy(zero_copy_only=False)) & np.isnan(now.to_numpy(zero_copy_only=False))
            assert (bits[0] == bits[1])[~both_nan].all(), name
        else:
            assert before.equals(now), name


def test_golden_rows_cover_many_verdicts() -> None:
    """The file has healthy replicates, and replicates that fail in most of the ways in which a training can fail."""
    verdicts = set(golden_rows()["failure"].to_pylist())
    assert {"none", "ae_collapsed", "sae_dead", "sae_starved", "sae_dense", "unfaithful", "unrecovered"} <= verdicts


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_of_an_earlier_version_loads_resumes_and_reports(local_ray: Path, tmp_path: Path) -> None:
    """A folder that version 0.1.0 wrote before its code was rearranged: one of its three shards is lost and made again."""
    shutil.copytree(EARLIER_STUDY, tmp_path / "three-shards")
    before = load("three-shards", storage=str(tmp_path)).set_index("replicate_id").sort_index()
    next((tmp_path / "three-shards" / "rows").iterdir()).unlink()
    outcome = resume("three-shards", storage=tmp_path)
    assert (outcome.state, outcome.trained, outcome.planned) == ("done", 8, 24)
    after = load("three-shards", storage=str(tmp_path)).set_index("replicate_id").sort_index()
    science = [name for name in science_columns() if name in before]
    pd.testing.assert_frame_equal(before[science], after[science], check_exact=True)
    page = write_report("three-shards", storage=str(tmp_path))
    assert "three-shards" in Path(page).read_text()


if __name__ == "__main__":
    made = pa.concat_tables([rows_now(protocol, dtype) for protocol in PROTOCOLS for dtype in DTYPES])
    pq.write_table(
        made.replace_schema_metadata({"command": COMMAND, "blas": blas_kernels()}), GOLDEN, compression="zstd", compression_level=19
    )
