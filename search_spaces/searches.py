"""Adaptive searches: what each kind looks for and when it stops. One frozen class per kind.

Defaults and meanings of the fields are written here only. Study files, the command line's options with their help texts,
and the learners all read them here. `study.searching.learner_of` makes the learner of each class, `analysis.searches` its
result.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, field_validator, model_validator

from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, before_sae, checked_failure, of_sae
from search_spaces.protocol import closest
from search_spaces.spaces import MOST_LEVELS, MOST_REPLICATES, GridSpace, Range, StrictModel, complaint
from search_spaces.values import plain, quoted

RISING = tuple(
    kind.value for kind in (FailureKind.SAE_DEAD, FailureKind.SAE_STARVED, FailureKind.UNFAITHFUL, FailureKind.UNRECOVERED)
)
"""Failures caused by too much l1: their rates only rise. Too little l1 gives a dense code, whose rate only falls."""
MOST_CELLS = 1_000
"""Most pairs of architecture and sparsity of an l1 search, each of which is a search of its own."""
RECOVERY_COLUMNS = {"mcc": "mcc_decoder_features", "f1": "f1_latents_features"}


class Search(StrictModel):
    """What a study searches for. Its fields are those of `search` in a study file."""

    model_config = ConfigDict(use_attribute_docstrings=True, strict=True)

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _with_tuples(cls, given: Any) -> Any:
        """Lists, as study files hold them, are tuples in a frozen class."""
        if not isinstance(given, Mapping):
            return given
        return {key: tuple(value) if isinstance(value, list) else value for key, value in plain(given).items()}

    @abstractmethod
    def most_replicates(self, space: GridSpace) -> int:
        """The largest number of replicates that it trains."""

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The names of other studies whose rows it starts from."""
        return ()

    @property
    def saes_per_autoencoder(self) -> int:
        """About how many SAEs share an autoencoder, for an estimate of the cost."""
        return 1

    def refuse_space(self, space: GridSpace) -> None:
        """Raise MisuseError for a space that cannot be searched."""

    def plan(self, space: GridSpace) -> dict[str, Any]:
        """What a dry run reports about the search, beside what it reports about every study."""
        return {"search": self.kind}


class MapSearch(Search):
    """Map the failure regions over the ranges of a space. Each batch of replicates goes where the map is least certain."""

    kind: Literal["map"] = "map"
    failure: str = "any"
    """What counts as a failure: any, one kind of failure, or sae_all_dead."""
    level: float = 0.5
    """The failure region is where the failure rate is at least this."""
    budget: int = 10_000
    """Most replicates to train, not counting those of earlier studies."""
    first_pass: int = 2048
    """Replicates spread evenly over the ranges before the map is refined."""
    l1s_per_autoencoder: int = 1
    """Values of l1 that share one autoencoder; up to about 10 cost little accuracy and save training."""
    misclassified_volume: float | None = None
    """Stop when the expected misclassified share of the volume is at most this."""
    regret: float | None = None
    """Stop when the expected regret is at most this; the better rule where rates near the level fill much of the plane."""
    earlier: tuple[str, ...] = ()
    """Study whose rows the map starts from; it must share storage, protocol and dtype."""

    @model_validator(mode="after")
    def _checked(self) -> MapSearch:
        checked_failure(self.failure)
        for name, most in (("budget", MOST_REPLICATES), ("first_pass", MOST_REPLICATES), ("l1s_per_autoencoder", MOST_LEVELS)):
            if not 1 <= getattr(self, name) <= most:
                raise MisuseError(f"{name}={quoted(getattr(self, name))} is not a number from 1 to {most:,}.")
        for name in ("level", "misclassified_volume", "regret"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise MisuseError(f"{name}={quoted(value)} is outside (0, 1).")
        return self

    def most_replicates(self, space: GridSpace) -> int:
        return self.budget

    @property
    def starts_from(self) -> tuple[str, ...]:
        return self.earlier

    @property
    def saes_per_autoencoder(self) -> int:
        return self.l1s_per_autoencoder

    def plan(self, space: GridSpace) -> dict[str, Any]:
        """Adds the misclassified volume to expect when the budget is spent, for easy and for hard borders (docs/map.md)."""
        each = self.budget / len(space.architectures)
        easy, hard = (min(0.02 * (each / at) ** -0.5, 0.5) for at in REPLICATES_TO_2_PERCENT)
        return super().plan(space) | {"expected_misclassified_volume": (easy, hard)}


REPLICATES_TO_2_PERCENT = (256, 750)
"""Replicates per architecture that reach 2 % misclassified volume: medians for the easiest and the hardest simulated truth."""


class L1Search(Search):
    """Find the safe interval of l1 and the best l1 of a space. Both are found per architecture and sparsity, within its range."""

    kind: Literal["l1"] = "l1"
    failure: tuple[str, ...] = (FailureKind.SAE_DEAD.value, FailureKind.SAE_STARVED.value)
    """Failure whose rate must stay below the level: any, or a kind of failure of the SAE; several kinds, separated by commas,
    count together."""
    level: float = 0.1
    """Highest tolerated failure rate: the upper edge of the safe interval is where the rate crosses it."""
    budget: int = 250
    """Most replicates to train per architecture and sparsity."""
    precision: float | None = None
    """Stop when half the width of the upper edge's 95 % interval is at most this many decades. Default: spend the budget."""
    recovery: Literal["mcc", "f1"] = "mcc"
    """Measure of recovery that the best l1 maximises: mcc (signed MCC), or f1 (F1 of the latents as detectors)."""

    @field_validator("failure", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """A text such as "sae_dead,sae_dense" or "sae_dead+sae_dense" lists several kinds; each counts once."""
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            return given
        names = [name.strip() for text in texts for name in text.replace("+", ",").split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    @model_validator(mode="after")
    def _checked(self) -> L1Search:
        if not 0.01 <= self.level <= 0.5:
            raise MisuseError(f"level={quoted(self.level)} is outside [0.01, 0.5].")
        if set(self.failure) & set(before_sae()):
            raise MisuseError(
                f"failure={quoted(list(self.failure))}: expected failures of the SAE; no l1 cures {', '.join(before_sae())}."
            )
        choices = ("any", *of_sae())
        wrong = [name for name in self.failure if name not in choices]
        if wrong or not self.failure:
            hint = closest(wrong[0], choices) if wrong else ""
            raise MisuseError(
                f"failure={quoted(list(self.failure))}: expected failures of the SAE.{hint} They are {', '.join(choices)}."
            )
        if self.precision is not None and not 0 < self.precision < math.inf:
            raise MisuseError(f"precision={quoted(self.precision)} is not a number of decades above 0.")
        return self

    def refuse_space(self, space: GridSpace) -> None:
        if (cells := len(space.architectures) * len(space.sparsities)) > MOST_CELLS:
            raise MisuseError(
                f"{cells:,} pairs of architecture and sparsity are too many to search; at most {MOST_CELLS:,} are taken. "
                "Split the study."
            )
        if isinstance(space.sparsities, Range):
            raise MisuseError(
                f"sparsities from {space.sparsities.low:g} to {space.sparsities.high:g} need a count: an l1 search "
                "measures single sparsities. List them, or give a count; the range of l1 needs none."
            )

    def most_replicates(self, space: GridSpace) -> int:
        return self.budget * len(space.architectures) * len(space.sparsities)

    @property
    def saes_per_autoencoder(self) -> int:
        return 2

    @property
    def kinds(self) -> tuple[str, ...]:
        """The verdicts that count as a failure."""
        return of_sae() if "any" in self.failure else self.failure

    @property
    def rises(self) -> bool:
        """Whether only too much l1 causes these failures. Others are rare between two edges, or nowhere."""
        return set(self.kinds) <= set(RISING)

    @property
    def recovery_column(self) -> str:
        """The column whose mean over seeds is highest at the best l1."""
        return RECOVERY_COLUMNS[self.recovery]


def kind_of(search: type[Search]) -> str:
    """The name of a kind of search in study files."""
    kind: str = search.model_fields["kind"].default
    return kind


SEARCHES: dict[str, type[Search]] = {kind_of(search): search for search in (MapSearch, L1Search)}
"""The kinds of search, by name."""


def search_from(given: object) -> Search:
    """A validated search from the mapping in a study file; MisuseError names the field, the value and the remedy."""
    if not isinstance(given, Mapping):
        raise MisuseError(f"search={quoted(given)} is not a mapping of a kind and its fields. Write it as in {{kind: map}}.")
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in SEARCHES:
        raise MisuseError(
            f"kind={quoted(kind)} is not a kind of search.{closest(kind, SEARCHES)} Expected one of {', '.join(SEARCHES)}."
        )
    model = SEARCHES[kind]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise MisuseError(complaint(error, model)) from None
