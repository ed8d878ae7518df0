"""The verdict on a replicate: a function of its row and of the protocol's thresholds.

Past rows are judged again without training: `judge(rows, protocol)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.failures import FailureKind as FailureKind
from search_spaces.protocol import Protocol
from study.metrics.sae import corrected_mcc


class Cause(StrEnum):
    """What brought a failure about, settled by intervention: `unknown` until one was run, `none` where nothing failed."""

    AE_EARLY_DEATH = "ae_early_death"
    AE_UNDERTRAINED = "ae_undertrained"
    DATA = "data"
    L1_AGAINST_INITIALISATION = "l1_against_initialisation"
    SAE_INITIALISATION = "sae_initialisation"
    L1_ABOVE_DEATH_LINE = "l1_above_death_line"
    SAE_TRAINING_LENGTH = "sae_training_length"
    UNEXPLAINED = "unexplained"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """What readers are told."""
        return _CAUSE_SENTENCES[self]


_CAUSE_SENTENCES = {
    Cause.AE_EARLY_DEATH: "every output of the autoencoder died in its first steps, by the chance of its start and first samples",
    Cause.AE_UNDERTRAINED: "the autoencoder was not trained for long enough",
    Cause.DATA: "these samples brought it about, others do not",
    Cause.L1_AGAINST_INITIALISATION: "the L1 penalty overcame this start: less of it cures, and so does another initialisation",
    Cause.SAE_INITIALISATION: "the SAE's initial weights brought it about, no smaller l1 helps",
    Cause.L1_ABOVE_DEATH_LINE: "the L1 penalty is too strong, whatever the initialisation",
    Cause.SAE_TRAINING_LENGTH: "the SAE was not trained for long enough",
    Cause.UNEXPLAINED: "no single change that was tried cures it",
    Cause.NONE: "nothing failed",
    Cause.UNKNOWN: "no intervention was run",
}


NEEDED_COLUMNS = (
    "sparsity",
    "n_features",
    "n_latents",
    "empirical_sparsity",
    "ae_loss",
    "ae_loss_bias_only",
    "ae_dead_outputs",
    "ae_features_represented",
    "sae_loss",
    "dead_latents",
    "l0",
    "explained_variance",
    "mcc_decoder_features",
    "mcc_chance",
)
"""The columns that the verdict is a function of."""


def judge(rows: Mapping[str, ArrayLike], protocol: Protocol) -> NDArray[np.str_]:
    """The FailureKind of each row, (R,), the first that applies from top to bottom.

    A row without data columns is one that a worker died over. A protocol without an SAE is judged by the AE alone, and
    conditions that need the represented features F are skipped where F is empty.
    """
    row: dict[str, Any] = {name: np.asarray(rows[name], dtype=np.float64) for name in NEEDED_COLUMNS}
    represented = row["ae_features_represented"]
    alive = row["n_latents"] - row["dead_latents"]
    corrected = corrected_mcc(row["mcc_decoder_features"], row["mcc_chance"])
    with np.errstate(invalid="ignore"):
        conditions: dict[FailureKind, NDArray[np.bool_]] = {
            FailureKind.CRASHED: np.isnan(row["empirical_sparsity"]),
            FailureKind.DIVERGED: ~np.isfinite(row["ae_loss"]) | (protocol.has_sae & ~np.isfinite(row["sae_loss"])),
            FailureKind.AE_COLLAPSED: (row["ae_loss"] >= protocol.collapsed_from * row["ae_loss_bias_only"])
            | (row["ae_dead_outputs"] == row["n_features"]),
            # Comparisons with NaN are false: without an SAE nothing below applies.
            FailureKind.SAE_DEAD: alive == 0,
            FailureKind.SAE_STARVED: (represented > 0) & (alive < protocol.starved_below * represented),
            FailureKind.SAE_DENSE: (represented > 0) & (row["l0"] > protocol.dense_above * (1 - row["sparsity"]) * represented),
            FailureKind.UNFAITHFUL: row["explained_variance"] < protocol.unfaithful_below,
            FailureKind.UNRECOVERED: (represented > 0) & (corrected < protocol.unrecovered_below),
        }
    return np.select(list(conditions.values()), [kind.value for kind in conditions], FailureKind.NONE.value)
