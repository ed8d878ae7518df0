"""The contract of learners, which decide what a search measures next.

Learners are pure: they know nothing of how the replicates that they ask for are trained. `failure_map.py` and
`l1_search.py` are the two built-in ones; `study.searching` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from search_spaces.cells import Replicates

Rows = Mapping[str, NDArray[Any]]
"""Columns of the row schema, at least those of LEARNED_FROM, with one entry per replicate in any order."""

LEARNED_FROM = (
    "architecture",
    "n_latents",
    "sparsity",
    "l1",
    "seed",
    "ae_features_represented",
    "l0",
    "explained_variance",
    "dead_latents",
    "mcc_decoder_features",
    "mcc_chance",
    "f1_latents_features",
    "failure",
)
"""The columns that learners receive. For a replicate that crashed, the measured ones are NaN."""


class Learner(Protocol):
    """Asks for replicates in batches and learns from their rows.

    What it asks for depends only on its specification and on the rows that it has received, batch by batch. Given the same
    stored rows it asks for the same replicates again, so an interrupted search resumes by replaying its rows.
    """

    @property
    def done(self) -> bool:
        """Whether it will ask for nothing more."""

    def ask(self) -> list[Replicates]:
        """The next batch, one `Replicates` per architecture; [] while it waits for rows, or when it is done.

        It may hand out a batch while another is being trained, so that no worker waits for its computations.
        """

    def tell(self, rows: Rows) -> None:
        """Learn from all rows of the oldest batch whose rows it has not received yet."""

    def summary(self) -> dict[str, float]:
        """Its progress, in figures of its own, for progress lines."""
