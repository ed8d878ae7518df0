"""The table of verdicts: their names in order of precedence, what they mean and how figures show them.

The conditions under which a row gets each verdict are in study/failures.py; `study.failures.register_verdict` adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from search_spaces.errors import MisuseError
from search_spaces.protocol import closest
from search_spaces.values import quoted


class FailureKind(StrEnum):
    """The names of the built-in verdicts; `verdicts()` also has those that were registered."""

    CRASHED = "crashed"
    DIVERGED = "diverged"
    AE_COLLAPSED = "ae_collapsed"
    SAE_DEAD = "sae_dead"
    SAE_STARVED = "sae_starved"
    SAE_DENSE = "sae_dense"
    UNFAITHFUL = "unfaithful"
    UNRECOVERED = "unrecovered"
    NONE = "none"


@dataclass(frozen=True)
class Verdict:
    """What can be observed in a replicate, and how figures show it."""

    name: str
    """The name that rows store."""
    meaning: str
    """The sentence shown to readers."""
    condition: str
    """The condition that a row must meet, in Markdown, for docs/definitions.md."""
    columns: tuple[str, ...]
    """The columns that the condition depends on."""
    colour: str
    """#rrggbb: distinguishable from the others in black and white too, by lightness or by pattern."""
    pattern: str
    """Matplotlib's hatch for areas in that colour."""
    marker: str
    """Matplotlib's marker for single replicates."""
    threshold: str | None = None
    """The protocol field that the condition compares with."""
    of_sae: bool = field(kw_only=True)
    """Whether it is a failure of the SAE on a healthy autoencoder. An l1 search leaves out all other failures."""


# Okabe and Ito's hues, readable by the colour-blind, at different lightness; patterns and markers carry them in black and white.
VERDICTS = [
    Verdict(
        FailureKind.CRASHED.value,
        "the replicate killed its worker",
        "the replicate killed every worker that trained it",
        ("empirical_sparsity",),
        colour="#4d4d4d", pattern="xx", marker="x", of_sae=False,
    ),
    Verdict(
        FailureKind.DIVERGED.value,
        "a weight or a loss is not finite",
        "a weight or a loss is not finite",
        ("ae_loss", "sae_loss"),
        colour="#F0E442", pattern="++", marker="P", of_sae=False,
    ),
    Verdict(
        FailureKind.AE_COLLAPSED.value,
        "the autoencoder does no better than a bias alone, the fault lies before the SAE",
        "`ae_loss` ≥ `collapsed_from` · `ae_loss_bias_only`, or every output ReLU is dead",
        ("ae_loss", "ae_loss_bias_only", "ae_dead_outputs", "n_features"),
        colour="#D55E00", pattern="//", marker="^", threshold="collapsed_from", of_sae=False,
    ),
    Verdict(
        FailureKind.SAE_DEAD.value,
        "every latent is dead, with a healthy autoencoder",
        "no latent is alive",
        ("n_latents", "dead_latents"),
        colour="#000000", pattern="", marker="s", of_sae=True,
    ),
    Verdict(
        FailureKind.SAE_STARVED.value,
        "far fewer live latents than represented features",
        "alive latents < `starved_below` · size of F",
        ("n_latents", "dead_latents", "ae_features_represented"),
        colour="#0072B2", pattern="\\\\", marker="v", threshold="starved_below", of_sae=True,
    ),
    Verdict(
        FailureKind.SAE_DENSE.value,
        "the code is not sparse",
        "`l0` > `dense_above` · (1 − S) · size of F",
        ("l0", "sparsity", "ae_features_represented"),
        colour="#56B4E9", pattern="", marker="<", threshold="dense_above", of_sae=True,
    ),
    Verdict(
        FailureKind.UNFAITHFUL.value,
        "the SAE does not reconstruct the activations",
        "`explained_variance` < `unfaithful_below`",
        ("explained_variance",),
        colour="#F2B134", pattern="..", marker="D", threshold="unfaithful_below", of_sae=True,
    ),
    Verdict(
        FailureKind.UNRECOVERED.value,
        "the SAE reconstructs, but its decoder is not the features",
        "(mcc − chance)/(1 − chance) < `unrecovered_below`",
        ("mcc_decoder_features", "mcc_chance", "ae_features_represented"),
        colour="#CC79A7", pattern="--", marker=">", threshold="unrecovered_below", of_sae=True,
    ),
    Verdict(
        FailureKind.NONE.value, "no failure", "otherwise", (), colour="#B3E2CD", pattern="", marker="o", of_sae=False
    ),
]  # fmt: skip
"""All verdicts in order of precedence, success last."""


def verdicts() -> tuple[Verdict, ...]:
    """All verdicts in order of precedence, success last."""
    return tuple(VERDICTS)


def failing_verdicts() -> tuple[Verdict, ...]:
    """`verdicts` without success."""
    return tuple(verdict for verdict in VERDICTS if verdict.name != FailureKind.NONE)


def before_sae() -> tuple[str, ...]:
    """The failures that no l1 cures. An l1 search counts such replicates, but leaves them out of its rates and scores.

    >>> before_sae()
    ('crashed', 'diverged', 'ae_collapsed')
    """
    return tuple(verdict.name for verdict in failing_verdicts() if not verdict.of_sae)


def of_sae() -> tuple[str, ...]:
    """The failures of an SAE on a healthy autoencoder: what an l1 search may count.

    >>> of_sae()
    ('sae_dead', 'sae_starved', 'sae_dense', 'unfaithful', 'unrecovered')
    """
    return tuple(verdict.name for verdict in failing_verdicts() if verdict.of_sae)


def verdict_named(name: str) -> Verdict:
    """The verdict that rows store under this name; MisuseError if there is none."""
    for verdict in VERDICTS:
        if verdict.name == name:
            return verdict
    known = [verdict.name for verdict in VERDICTS]
    raise MisuseError(f"verdict {name!r} is unknown.{closest(name, known)} Import the file that registers it.")


def insert_verdict(verdict: Verdict, before: str = FailureKind.NONE) -> None:
    """Add a verdict to the table, with precedence over `before`; ValueError if its name is taken or `before` is unknown."""
    if verdict.name in failure_choices() or verdict.name == FailureKind.NONE:
        raise ValueError(f"verdict {verdict.name!r} is taken. Give the new one another name.")
    VERDICTS.insert(VERDICTS.index(verdict_named(before)), verdict)


def failure_choices() -> tuple[str, ...]:
    """The failures that one can ask about.

    They are any failure, each kind, and what the source called a failure (all latents dead, whatever the reason).
    """
    return ("any", *(verdict.name for verdict in failing_verdicts()), "sae_all_dead")


def checked_failure(failure: str) -> str:
    """One of `failure_choices`, or MisuseError."""
    choices = failure_choices()
    if failure not in choices:
        raise MisuseError(f"failure={quoted(failure)} is unknown.{closest(failure, choices)} Expected one of {', '.join(choices)}.")
    return failure


def failed(rows: Mapping[str, Any], failure: str = "any") -> Any:
    """Whether each row has the given failure, as an array of the same kind as the columns; MisuseError for an unknown failure.

    rows: `failure`, and for `sae_all_dead` that column, or `dead_latents` and `n_latents`. A row whose `dead_latents` is
    missing (NaN) does not count as all dead.
    """
    checked_failure(failure)
    if failure == "any":
        return rows["failure"] != FailureKind.NONE.value
    if failure == "sae_all_dead":
        return rows[failure] if failure in rows else rows["dead_latents"] == rows["n_latents"]
    return rows["failure"] == failure
