"""Trains a whole specification in this process, without Ray and without disk. `on_ray/driver.py` does the same on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from search_spaces.learners.contract import Learner
from search_spaces.study_files import StudySpec
from study.needs import refuse_oversized
from study.packs import missing_packs, plan_packs
from study.run_pack import run_pack
from study.searching.batches import LEARNER_COLUMNS, Batches
from study.searching.learner_of import learner_of
from study.specification import study_spec
from study.storage.schema import row_schema


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def run_here(space: str | Path | StudySpec | Mapping[str, Any], learner: Learner | None = None) -> pa.Table:
    """The rows of a study, one per replicate, in `row_schema`: those that `launch` would store, trained one pack after another.

    space: anything that `study_spec` accepts. learner: runs the search in place of the learner that the specification would
    make. The rows of a grid are in the order of its replicates, those of a search in the order in which it asked for them.
    Raises MisuseError.
    """
    spec = study_spec(space)
    refuse_oversized(spec)
    return pa.concat_tables(_searched(spec, learner or learner_of(spec)) if spec.search else _grid(spec))


def _grid(spec: StudySpec) -> Iterator[pa.Table]:
    missing, _ = missing_packs(spec, ())
    for pack in plan_packs(missing, spec.pack_size, workers=1):
        yield run_pack(pack, study=spec.name)


def _searched(spec: StudySpec, learner: Learner) -> Iterator[pa.Table]:
    batches = Batches(learner, spec, row_schema(LEARNER_COLUMNS).empty_table())
    with threadpool_limits(1, "blas"):
        packs = batches.learn()
        while packs:
            trained = [run_pack(pack, study=spec.name) for pack in packs]
            yield from trained
            packs = batches.learn([rows.select(LEARNER_COLUMNS) for rows in trained])
