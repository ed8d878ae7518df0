"""Batches: what a learner asks for is trained once and comes back in order; an interrupted search asks for the same again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from search_spaces.cells import Architecture, Replicates
from search_spaces.learners.contract import LEARNED_FROM
from search_spaces.study_files import StudySpec, study_from
from study.packs import Pack
from study.searching.batches import LEARNER_COLUMNS, Batches
from study.storage.schema import row_schema
from study.verdict_rows import crashed_rows
from tests.conftest import TINY

SPEC = study_from(
    {
        "name": "searched",
        "protocol": TINY,
        "space": {"architectures": ["5-3-5", "6-3-6"], "sparsities": [0.9], "l1": [0.01], "seeds": "0:1"},
        "search": {"kind": "map", "budget": 60},
    }
)


class Halving:
    """Asks for ten replicates per batch at an l1 that depends on the failures so far, one batch ahead of the rows."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.told: list[float] = []

    @property
    def done(self) -> bool:
        return len(self.asked) == 6

    def ask(self) -> list[Replicates]:
        if self.done or len(self.asked) == len(self.told) + 2:
            return []
        seeds = np.arange(5) + 5 * len(self.asked)
        self.asked.append(0.1 * 2.0 ** -sum(self.told))
        l1 = np.full(5, self.asked[-1])
        return [
            Replicates(Architecture.parse(name), np.full(5, 0.9), l1, seeds, seeds, seeds, seeds) for name in ("5-3-5", "6-3-6")
        ]

    def tell(self, rows: Any) -> None:
        assert set(rows) == set(LEARNED_FROM)
        assert sorted(set(rows["l1"])) == [self.asked[len(self.told)]]
        assert len(rows["seed"]) == 10
        self.told.append(float(np.mean(rows["failure"] == "sae_dead")))

    def summary(self) -> dict[str, float]:
        return {"batches": float(len(self.told))}


def trained(pack: Pack) -> pa.Table:
    """Rows of a pack whose odd seeds' SAEs died."""
    rows = crashed_rows(pack).select(LEARNER_COLUMNS)
    failure = np.where(pack.replicates.seed % 2 == 1, "sae_dead", "none")
    return rows.set_column(rows.schema.get_field_index("failure"), "failure", pa.array(failure))


NOTHING = row_schema(LEARNER_COLUMNS).empty_table()


def run(spec: StudySpec, there: pa.Table, packs_at_most: int = 100) -> tuple[Batches, list[pa.Table]]:
    """Train what is asked for, the last pack first, up to a given number of packs."""
    batches, rows = Batches(Halving(), spec, there), []
    out = batches.learn()
    while out and len(rows) < packs_at_most:
        rows.append(trained(out.pop()))
        out.extend(batches.learn([rows[-1]]))
    return batches, rows


def test_a_learner_is_led_to_its_end() -> None:
    batches, rows = run(SPEC, NOTHING)
    assert batches.complete
    assert batches.learner.told == pytest.approx([0.4, 0.6, 0.4, 0.6, 0.4, 0.6])  # type: ignore[attr-defined]
    assert batches.learner.asked[:3] == pytest.approx([0.1, 0.1, 0.1 * 2**-0.4])  # type: ignore[attr-defined]
    assert sum(map(len, rows)) == 60
    assert batches.summary == {"batches": 6}
    assert batches.found == 0


@pytest.mark.parametrize("packs_before", [1, 2, 3, 7, 11])
def test_a_search_that_was_cut_off_asks_the_same_again(packs_before: int) -> None:
    whole, _ = run(SPEC, NOTHING)
    _, before = run(SPEC, NOTHING, packs_before)
    resumed, after = run(SPEC, pa.concat_tables(before))
    assert resumed.complete
    assert resumed.learner.asked == whole.learner.asked  # type: ignore[attr-defined]
    assert resumed.learner.told == whole.learner.told  # type: ignore[attr-defined]
    assert resumed.found == 5 * packs_before
    assert sum(map(len, after)) == 60 - 5 * packs_before


def test_what_is_asked_twice_is_trained_once() -> None:
    class Twice(Halving):
        def ask(self) -> list[Replicates]:
            return [part for part in super().ask() for _ in range(2)]

    assert sum(map(len, Batches(Twice(), SPEC, NOTHING).learn())) == 20


def test_a_study_keeps_its_search() -> None:
    assert study_from(SPEC.to_mapping()) == SPEC
    more = study_from(SPEC.to_mapping() | {"search": {"kind": "map", "budget": 600}})
    assert more.science() == SPEC.science()
    other = study_from(SPEC.to_mapping() | {"search": {"kind": "map", "budget": 60, "level": 0.3}})
    assert other.science() != SPEC.science()
