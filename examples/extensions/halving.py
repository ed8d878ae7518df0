"""A custom learner: halve a range of l1 around the value at which half of the SAEs die. `search: {kind: halving}`."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from search_spaces.cells import Replicates
from search_spaces.failures import failed
from search_spaces.learners.contract import Rows
from search_spaces.searches import Search
from search_spaces.spaces import GridSpace, grid
from search_spaces.study_files import StudySpec
from study.searching.learner_of import register_search


class HalvingSearch(Search):
    """The fields of the search in a study file; each is an option with this default and meaning."""

    kind: Literal["halving"] = "halving"
    seeds: int = 16
    """Replicates per value of l1."""
    steps: int = 8
    """How many times the range is halved, in log l1."""

    def most_replicates(self, space: GridSpace) -> int:
        return self.seeds * self.steps


class Halving:
    """Pure ask and tell: what it asks for follows from the specification and the rows, so a resumed study asks for the same."""

    def __init__(self, search: HalvingSearch, spec: StudySpec, earlier: Rows | None) -> None:
        assert isinstance(spec.space, GridSpace)
        self.search, self.space, self.asked = search, spec.space, False
        self.low, self.high, self.left = min(spec.space.l1), max(spec.space.l1), search.steps

    @property
    def done(self) -> bool:
        return self.left == 0

    def ask(self) -> list[Replicates]:
        if self.asked or self.done:
            return []
        self.asked, self.middle = True, math.sqrt(self.low * self.high)
        return grid(self.space.architectures[:1], self.space.sparsities[:1], [self.middle], range(self.search.seeds))

    def tell(self, rows: Rows) -> None:
        self.asked, self.left = False, self.left - 1
        fails = np.mean(failed(rows, "sae_dead")) >= 0.5
        self.low, self.high = (self.low, self.middle) if fails else (self.middle, self.high)

    def summary(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}


register_search(HalvingSearch, Halving)
