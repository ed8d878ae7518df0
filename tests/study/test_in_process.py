"""A specification trained in this process gives the rows that its packs give, and runs a search to its end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import study.in_process
from search_spaces import MisuseError, StudySpec, study_from
from study import run_here
from study.packs import Pack
from study.run_pack import run_pack
from study.searching.batches import LEARNER_COLUMNS, Batches
from study.searching.learner_of import learner_of
from study.storage.schema import row_schema, science_columns
from tests.conftest import TINY

GRID: dict[str, Any] = {
    "name": "g",
    "protocol": TINY,
    "space": {"architectures": ["5-3-5", "6-3-6"], "sparsities": [0.5, 0.9], "l1": [0.01, 0.1], "seeds": "0:3"},
}


def searching(search: dict[str, Any]) -> StudySpec:
    space = {"architectures": ["5-3-5"], "sparsities": [0.5, 0.9], "l1": [1e-3, 10.0], "seeds": [0]}
    return study_from({"name": "s", "protocol": TINY, "space": space, "search": search})


def science(rows: pa.Table) -> pd.DataFrame:
    return rows.select(science_columns()).to_pandas()


def test_run_here_is_a_function() -> None:
    """Whatever was imported before, because no module has its name."""
    assert study.run_here is study.in_process.run_here is run_here


@pytest.mark.parametrize("pack_size", ["auto", 5])
def test_a_grid_gives_the_rows_of_its_packs(pack_size: int | str) -> None:
    """In the order of its replicates, however it is cut, and from a mapping as from a specification."""
    spec = study_from(GRID)
    packs = [run_pack(Pack(own, spec.protocol, spec.dtype, "compiled")) for own in spec.replicates()]
    rows = run_here(GRID | {"pack_size": pack_size})
    pd.testing.assert_frame_equal(science(rows), science(pa.concat_tables(packs)), check_exact=True)
    assert set(rows["study"].to_pylist()) == {"g"}
    assert rows.schema.equals(row_schema())


def test_a_search_is_led_to_its_end() -> None:
    """The rows are all that its learner asked for, each once: replayed over them, it asks for nothing."""
    spec = searching({"kind": "l1", "budget": 48})
    learner = learner_of(spec)
    rows = run_here(spec, learner)
    assert learner.done
    assert len(set(rows["replicate_id"].to_pylist())) == len(rows) > 0
    again = Batches(learner_of(spec), spec, rows.select(LEARNER_COLUMNS))
    assert again.learn() == []
    assert again.complete
    pd.testing.assert_frame_equal(science(run_here(spec)), science(rows), check_exact=True)


def test_earlier_studies_need_a_storage() -> None:
    with pytest.raises(MisuseError, match="are in a storage"):
        run_here(searching({"kind": "map", "budget": 8, "earlier": ["before"]}))


@pytest.mark.parametrize("search", [None, {"kind": "l1", "budget": 60}])
def test_rows_do_not_depend_on_how_the_caller_treats_floating_point_errors(search: dict[str, Any] | None) -> None:
    """Likelihoods underflow, and l1 = 1,000 makes trainings overflow; `np.seterr(all="raise")` in a notebook changes nothing."""
    l1: Any = {"from": 1e-4, "to": 1000.0} if search else [0.01, 1000.0]
    space = {"architectures": ["5-3-5"], "sparsities": [0.5, 0.99], "l1": l1, "seeds": "0:20"}
    wanted = {"name": "made", "protocol": TINY, "space": space, **({"search": search} if search else {})}
    expected = run_here(wanted)
    with np.errstate(all="raise"):
        found = run_here(wanted)
    pd.testing.assert_frame_equal(science(found), science(expected), check_exact=True)


def test_threads_do_not_disturb_each_other() -> None:
    """Each gets the rows that it would get alone."""
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run_here, [GRID, GRID])
    for rows in (one, other):
        pd.testing.assert_frame_equal(science(rows), science(run_here(GRID)), check_exact=True)
