"""What a search asks for next: the contract between learners, which are pure, and whatever trains replicates for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from search_spaces.cells import Replicates

Rows = Mapping[str, NDArray[Any]]
"""Columns of the row schema, one entry a replicate, in any order: at least those of LEARNED_FROM."""

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
"""The columns that learners are told. Of a replicate that crashed the measured ones are NaN."""


class Learner(Protocol):
    """Asks for replicates in batches and learns from their rows.

    What it asks is a function of its specification and of the rows told, batch by batch: told the same stored rows it
    asks the same again. So a search that was cut off goes on by asking and telling again.
    """

    @property
    def done(self) -> bool:
        """Whether nothing more will be asked for."""

    def ask(self) -> list[Replicates]:
        """The next batch, one `Replicates` an architecture; none where it waits for rows, or is done.

        It may hand out a batch while another is being trained, so that no worker waits for it to think.
        """

    def tell(self, rows: Rows) -> None:
        """Learn from all rows of the batch that was asked longest ago and not told yet."""

    def summary(self) -> dict[str, float]:
        """How far it is, in figures of its own, for progress."""
