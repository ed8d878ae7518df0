"""The verdict on a replicate: a function of its row and of the protocol's thresholds.

`judge(rows, protocol)` therefore judges stored rows again without training. The verdicts' names, meanings and colours are in
`search_spaces/failures.py`; this file says when each applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.extensions import calling_module, note_extension
from search_spaces.failures import FailureKind, Verdict, failing_verdicts, insert_verdict
from search_spaces.protocol import Protocol
from study.metrics.sae import corrected_mcc
from study.storage.schema import names_of


class Cause(StrEnum):
    """What caused a failure, as interventions show: `unknown` until one was run, `none` if nothing failed."""

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
        """The sentence that reports show."""
        return _CAUSE_SENTENCES[self]


_CAUSE_SENTENCES = {
    Cause.AE_EARLY_DEATH: "every output of the autoencoder died in its first steps, by chance of its initial weights and samples",
    Cause.AE_UNDERTRAINED: "the autoencoder was not trained for long enough",
    Cause.DATA: "these samples caused it; other samples do not",
    Cause.L1_AGAINST_INITIALISATION: "l1 was too large for this initialisation: a smaller l1 cures it, and so does another start",
    Cause.SAE_INITIALISATION: "the SAE's initial weights caused it; no smaller l1 helps",
    Cause.L1_ABOVE_DEATH_LINE: "the L1 penalty is too strong, whatever the initialisation",
    Cause.SAE_TRAINING_LENGTH: "the SAE was not trained for long enough",
    Cause.UNEXPLAINED: "no single change that was tried cures it",
    Cause.NONE: "nothing failed",
    Cause.UNKNOWN: "no intervention was run",
}


Row = Mapping[str, NDArray[np.float64]]
"""The columns that a verdict needs, (R,) each; NaN where a value is missing."""
Condition = Callable[[Row, Protocol], NDArray[np.bool_]]


def _alive(row: Row) -> NDArray[np.float64]:
    return row["n_latents"] - row["dead_latents"]


def _represented(row: Row) -> NDArray[np.float64]:
    return row["ae_features_represented"]


def _collapsed(row: Row, protocol: Protocol) -> NDArray[np.bool_]:
    no_better = row["ae_loss"] >= protocol.collapsed_from * row["ae_loss_bias_only"]
    return no_better | (row["ae_dead_outputs"] == row["n_features"])


def _starved(row: Row, protocol: Protocol) -> NDArray[np.bool_]:
    return (_represented(row) > 0) & (_alive(row) < protocol.starved_below * _represented(row))


def _dense(row: Row, protocol: Protocol) -> NDArray[np.bool_]:
    return (_represented(row) > 0) & (row["l0"] > protocol.dense_above * (1 - row["sparsity"]) * _represented(row))


def _unrecovered(row: Row, protocol: Protocol) -> NDArray[np.bool_]:
    corrected = corrected_mcc(row["mcc_decoder_features"], row["mcc_chance"])
    return (_represented(row) > 0) & (corrected < protocol.unrecovered_below)


CONDITIONS: dict[str, Condition] = {
    FailureKind.CRASHED: lambda row, protocol: np.isnan(row["empirical_sparsity"]),
    FailureKind.DIVERGED: lambda row, protocol: ~np.isfinite(row["ae_loss"]) | (protocol.has_sae & ~np.isfinite(row["sae_loss"])),
    FailureKind.AE_COLLAPSED: _collapsed,
    # Comparisons with NaN are false, so none of the following applies to a row without an SAE.
    FailureKind.SAE_DEAD: lambda row, protocol: _alive(row) == 0,
    FailureKind.SAE_STARVED: _starved,
    FailureKind.SAE_DENSE: _dense,
    FailureKind.UNFAITHFUL: lambda row, protocol: row["explained_variance"] < protocol.unfaithful_below,
    FailureKind.UNRECOVERED: _unrecovered,
}
"""When each verdict of `search_spaces.failures.VERDICTS` applies, provided that none before it does."""


def register_verdict(verdict: Verdict, applies: Condition, before: str = FailureKind.NONE) -> None:
    """Add a verdict that takes precedence over `before`: `judge`, the figures, the reports and `--failure` then know it.

    Raises ValueError if its name is taken, if `before` is no verdict, or if the rows lack one of its columns.
    """
    if unknown := set(verdict.columns) - set(names_of()):
        raise ValueError(
            f"verdict {verdict.name!r} needs columns that rows lack: {', '.join(sorted(unknown))}. Register its metric first."
        )
    insert_verdict(verdict, before)
    note_extension(calling_module())
    CONDITIONS[verdict.name] = applies


def judge(rows: Mapping[str, ArrayLike], protocol: Protocol) -> NDArray[np.str_]:
    """The name of each row's verdict, (R,): the first that applies, in the order of `verdicts`.

    A row without data columns belongs to a replicate that killed its worker. If the protocol trains no SAE, the AE alone is
    judged. Conditions that need the represented features F are skipped where F is empty.
    """
    failing = failing_verdicts()
    row = {name: np.asarray(rows[name], dtype=np.float64) for verdict in failing for name in verdict.columns}
    with np.errstate(invalid="ignore"):
        met = [CONDITIONS[verdict.name](row, protocol) for verdict in failing]
    return np.select(met, [verdict.name for verdict in failing], FailureKind.NONE.value)
