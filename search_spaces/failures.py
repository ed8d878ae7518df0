"""Which failures can be asked for, of rows or of a search."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from search_spaces.errors import MisuseError
from search_spaces.protocol import closest


class FailureKind(StrEnum):
    """What is seen, in order of precedence."""

    CRASHED = "crashed"
    DIVERGED = "diverged"
    AE_COLLAPSED = "ae_collapsed"
    SAE_DEAD = "sae_dead"
    SAE_STARVED = "sae_starved"
    SAE_DENSE = "sae_dense"
    UNFAITHFUL = "unfaithful"
    UNRECOVERED = "unrecovered"
    NONE = "none"

    @property
    def sentence(self) -> str:
        """What readers are told."""
        return _SENTENCES[self]


_SENTENCES = {
    FailureKind.CRASHED: "the replicate killed its worker",
    FailureKind.DIVERGED: "a weight or a loss is not finite",
    FailureKind.AE_COLLAPSED: "the autoencoder does no better than a bias alone, the fault lies before the SAE",
    FailureKind.SAE_DEAD: "every latent is dead, with a healthy autoencoder",
    FailureKind.SAE_STARVED: "far fewer live latents than represented features",
    FailureKind.SAE_DENSE: "the code is not sparse",
    FailureKind.UNFAITHFUL: "the SAE does not reconstruct the activations",
    FailureKind.UNRECOVERED: "the SAE reconstructs, but its decoder is not the features",
    FailureKind.NONE: "no failure",
}

FAILURES = ("any", *(kind.value for kind in FailureKind if kind is not FailureKind.NONE), "sae_all_dead")
"""What may be asked for: any failure, one kind, or what the source called one (all latents dead, whatever the reason)."""


def checked_failure(failure: str) -> str:
    """One of FAILURES, or MisuseError."""
    if failure not in FAILURES:
        raise MisuseError(f"failure={failure!r} is unknown.{closest(failure, FAILURES)} Expected one of {', '.join(FAILURES)}.")
    return failure


def failed(rows: Mapping[str, Any], failure: str = "any") -> Any:
    """Whether each row failed in the way asked for, as an array of the columns' kind; MisuseError for an unknown way.

    rows: `failure`, and for `sae_all_dead` a column of that name (tidy frames have one), or `dead_latents` and `n_latents`. A
    missing `dead_latents` (NaN) is not all dead.
    """
    checked_failure(failure)
    if failure == "any":
        return rows["failure"] != FailureKind.NONE.value
    if failure == "sae_all_dead":
        return rows["sae_all_dead"] if "sae_all_dead" in rows else rows["dead_latents"] == rows["n_latents"]
    return rows["failure"] == failure
