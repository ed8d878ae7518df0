"""Loads a study as pandas frames: its rows, and Tune's own result frame.

Both work for studies that are running, were interrupted, or were copied.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import fs

from search_spaces.cells import SEED_COLUMNS
from search_spaces.coordinates import COORDINATES
from search_spaces.failures import failed, verdict_named, verdicts
from search_spaces.paths import STUDY_NAME, Given, local_path, scheme_of, written
from study.storage.schema import WHOLE, Group, names_of
from study.storage.schema import columns as columns_of
from study.storage.status import existing_study
from study.storage.study_folder import DEFAULT_STORAGE, StudyFolder

FOR_RATES = (
    *("architecture", "n_features", "n_hidden", "n_latents", *SEED_COLUMNS, "dead_latents"),
    *(name for name in COORDINATES if name in names_of()),
)
"""The columns beside id and verdict that failure rates and regions are made of."""


def load(study: Given, storage: Given | None = None, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """The tidy frame of a study: one row per replicate with the typed columns of the row schema, and `sae_all_dead`.

    `sae_all_dead` is what the source study would have called a failure: all latents dead, whatever the reason.

    study: its name within `storage` (default ray_results/), or the path of its folder. The rows come from every shard in
    that folder, each replicate once; Tune's result lines say which shards were reported. columns: those to read (and to
    check for corruption) beside `replicate_id` and `failure`; by default all. `frame.attrs` holds

    - `shards`: the number of shards that were read,
    - `shards_without_tune_line`: pack ids without a result line of Tune's (the driver was killed between the two),
    - `tune_lines_without_shard`: pack ids that Tune reported but whose shard is missing,
    - `unreadable_shards`: pack ids of corrupt shards; `sae-study resume` trains their replicates again.

    Counts that may be missing (`dead_latents` of a replicate without an SAE) have pandas' type Int64. Raises MisuseError if
    there is no such study, or if a verdict in its rows is not registered.
    """
    folder = _folder(study, storage)
    wanted = names_of() if columns is None else {"replicate_id", "failure", *columns}
    shards = folder.read_shards([name for name in names_of() if name in wanted])
    frame = tidy(shards.rows)
    reported = {line["pack_id"] for line in _result_lines(folder)}
    frame.attrs = {
        "study": folder.name,
        "path": folder.place(),
        "shards": len(shards.names),
        "shards_without_tune_line": sorted(set(shards.names) - reported),
        "tune_lines_without_shard": sorted(reported - set(shards.names) - set(shards.unreadable)),
        "unreadable_shards": list(shards.unreadable),
    }
    return frame


def tidy(rows: pa.Table) -> pd.DataFrame:
    """Stored rows as the frame that `load` returns, or some of their columns; MisuseError if a verdict is not registered."""
    for name in rows["failure"].unique().to_pylist():
        verdict_named(name)
    frame = rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame = frame.astype({name: "int64" for name in _always_there() if name in frame})
    if {"dead_latents", "n_latents"} <= set(frame):
        frame["sae_all_dead"] = failed(frame, "sae_all_dead").fillna(False).astype(bool)
    return frame


def _always_there() -> list[str]:
    """The integer columns that are never missing, whatever the failure."""
    return [column.name for column in columns_of(Group.IDENTITY) if column.type == WHOLE]


def tune_frame(study: Given, storage: Given | None = None) -> pd.DataFrame:
    """Tune's own result frame of all runs of a study: one row per pack, as `ResultGrid.get_dataframe()` gives it.

    `run` names the Tuner run (one per launch or resume), oldest first. If a run was interrupted, so that Tune's snapshot is
    missing, incomplete or older than its result files, the result lines fill the gap. A pack whose line was lost with the
    driver is described by its rows, with an empty `run` and without Tune's own columns.
    """
    folder = _folder(study, storage)
    frames = []
    for run in folder.tune_runs():
        frame = _snapshot_frame(folder, run)
        known = set(frame["trial_id"]) if len(frame) else set()
        later = [line for line in _result_lines(folder, run) if line["trial_id"] not in known]
        own = pd.concat([frame, pd.json_normalize(later, sep="/")], ignore_index=True) if later else frame
        if "shard" in own:
            own = own[own["shard"].notna()]  # a trial that failed, or waited to the end of a search, has none
            frames.append(own.assign(run=run.rsplit("/", 1)[-1]))
    known = {pack_id for frame in frames for pack_id in frame["pack_id"]}
    lost = _packs_from_rows(folder, known)
    if len(lost):
        frames.append(lost)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run", "pack_id", "shard", "replicates"])


def _packs_from_rows(folder: StudyFolder, known: set[str]) -> pd.DataFrame:
    """The packs for which no run has a result line, described by their rows."""
    wanted = ["replicate_id", "architecture", "failure", "trial_id", "wall_seconds"]
    packs = []
    for pack_id in sorted(set(folder.shard_ids()) - known):
        rows = folder.read_shard(pack_id, wanted)
        if rows is None:
            continue
        counts = Counter(rows["failure"].to_pylist())
        packs.append(
            {
                "pack_id": pack_id,
                "shard": f"rows/{pack_id}.parquet",
                "architecture": rows["architecture"][0].as_py(),
                "replicates": len(rows),
                "pack_seconds": sum(rows["wall_seconds"].to_pylist()),
                "trial_id": rows["trial_id"][0].as_py(),
                "run": "",
                **{f"failures/{verdict.name}": counts[verdict.name] for verdict in verdicts()},
            }
        )
    return pd.DataFrame(packs)


def _snapshot_frame(folder: StudyFolder, run: str) -> pd.DataFrame:
    """Tune's frame of one run; empty if its snapshot is missing or incomplete."""
    from ray.tune import ExperimentAnalysis, ResultGrid

    found = folder.storage.filesystem.get_file_info(fs.FileSelector(run))
    if not any(info.base_name.startswith("experiment_state") for info in found):
        return pd.DataFrame()
    try:
        return ResultGrid(ExperimentAnalysis(run, storage_filesystem=folder.storage.filesystem)).get_dataframe()
    except json.JSONDecodeError:
        return pd.DataFrame()


def _folder(study: Given, storage: Given | None) -> StudyFolder:
    text = written(study, "study")
    if storage is not None or (re.fullmatch(STUDY_NAME, text) and not Path(text, "study.yaml").is_file()):
        return existing_study(text, DEFAULT_STORAGE if storage is None else storage)
    if scheme_of(text) in (None, "file"):
        path = Path(os.path.abspath(local_path(text, "study")))
        return existing_study(path.name, path.parent)
    base, mark, options = text.partition("?")
    parent, _, name = base.rstrip("/").rpartition("/")
    return existing_study(name, parent + mark + options)


def _result_lines(folder: StudyFolder, run: str | None = None) -> list[dict[str, Any]]:
    """The last result line of every trial, of one run or of all, as Tune's JSON logger wrote it. Tune is not needed."""
    filesystem = folder.storage.filesystem
    found = filesystem.get_file_info(fs.FileSelector(run or folder.tune_path, recursive=True, allow_not_found=True))

    def last_line(path: str) -> dict[str, Any]:
        with filesystem.open_input_stream(path) as stream:
            lines = stream.read().decode().strip().splitlines()
        try:
            return json.loads(lines[-1]) if lines else {}
        except json.JSONDecodeError:
            return {}  # an incomplete copy; the shard is found all the same

    with ThreadPoolExecutor(8) as pool:
        lines = pool.map(last_line, [info.path for info in found if info.base_name == "result.json"])
        return [line for line in lines if "shard" in line]
