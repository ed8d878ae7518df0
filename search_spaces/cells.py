"""Architecture, cell and replicate: what a study trains, as single values or as columns of thousands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.coordinates import L1, SPARSITY
from search_spaces.errors import MisuseError
from search_spaces.values import quoted, whole

MOST_WIDTH = 1_000_000
"""The widest layer of an architecture. (What fits in memory is less: `study/needs.py`.)"""

_ARCHITECTURE = re.compile(r"(\d{1,9})-(\d{1,9})-(\d{1,9})(?:/(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, order=True)
class Architecture:
    """An autoencoder n_features-n_hidden-n_features and the width of the SAE on its bottleneck.

    Written "10-5-10", or "10-5-10/20" where the number of latents differs from the number of features.
    Raises MisuseError unless 1 <= n_hidden < n_features and n_latents >= 1.
    """

    n_features: int
    """N, width of the input x."""
    n_hidden: int
    """H, width of the bottleneck h."""
    n_latents: int = 0
    """L, width of the SAE's code f; 0 means n_features."""

    def __post_init__(self) -> None:
        for name in ("n_features", "n_hidden", "n_latents"):
            width = whole(getattr(self, name))
            if width is None or width > MOST_WIDTH:
                raise MisuseError(f"{name}={quoted(getattr(self, name))} is not a whole number of at most {MOST_WIDTH:,}.")
            object.__setattr__(self, name, width)
        if not 1 <= self.n_hidden < self.n_features:
            raise MisuseError(
                f"architecture {self.n_features}-{self.n_hidden}-{self.n_features} has no bottleneck: "
                "expected 1 <= n_hidden < n_features, as in 10-5-10."
            )
        if self.n_latents < 0:
            raise MisuseError(f"n_latents={self.n_latents} is below 1. Give the SAE's width, as in 10-5-10/20.")
        object.__setattr__(self, "n_latents", self.n_latents or self.n_features)

    @classmethod
    def parse(cls, text: object) -> Architecture:
        """Read "10-5-10" or "10-5-10/20".

        >>> Architecture.parse("10-5-10/20")
        Architecture(n_features=10, n_hidden=5, n_latents=20)
        >>> str(Architecture(n_features=10, n_hidden=5))
        '10-5-10'
        """
        if isinstance(text, Architecture):
            return text
        found = _ARCHITECTURE.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise MisuseError(
                f"architecture={quoted(text)} is not of the form n_features-n_hidden-n_features. Write 10-5-10, "
                "or 10-5-10/20 for an SAE of 20 latents."
            )
        left, hidden, right, latents = found.groups()
        if left != right:
            raise MisuseError(
                f"architecture={quoted(text)} has two outer widths, {left} and {right}: the autoencoder reconstructs "
                f"its input, so they must be equal. Write {left}-{hidden}-{left} or {right}-{hidden}-{right}."
            )
        if latents is not None and int(latents) == 0:
            raise MisuseError(f"architecture={quoted(text)} asks for an SAE of no latents. Give 1 or more after the slash.")
        return cls(int(left), int(hidden), int(latents or 0))

    def __str__(self) -> str:
        outer = f"{self.n_features}-{self.n_hidden}-{self.n_features}"
        return outer if self.n_latents == self.n_features else f"{outer}/{self.n_latents}"


def checked_seed(value: object) -> int:
    """Return the seed as an int in [0, 2**32), or raise MisuseError."""
    seed = whole(value)
    if seed is None or not 0 <= seed < 2**32:
        raise MisuseError(f"seed={quoted(value)} is not a whole number in [0, 2**32), the range of NumPy's generators.")
    return seed


@dataclass(frozen=True, order=True)
class Cell:
    """What a study asks about, without the seed: (architecture, sparsity S, l1)."""

    architecture: Architecture
    sparsity: float
    """P(feature = 0), in [0, 1)."""
    l1: float
    """The coefficient of the SAE's L1 penalty, >= 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", SPARSITY.checked(self.sparsity))
        object.__setattr__(self, "l1", L1.checked(self.l1))


@dataclass(frozen=True, order=True)
class Replicate:
    """A cell with a seed: the smallest unit that is trained. One seed feeds data, AE and SAE unless they are given their own.

    >>> cell = Cell(Architecture.parse("10-5-10"), sparsity=0.9, l1=0.01)
    >>> one = Replicate(cell, seed=123, ae_seed=7)
    >>> one.data_seed, one.ae_seed, one.sae_seed
    (123, 7, 123)
    """

    cell: Cell
    seed: int
    data_seed: int | None = None
    ae_seed: int | None = None
    sae_seed: int | None = None

    def __post_init__(self) -> None:
        seed = checked_seed(self.seed)
        for name in ("data_seed", "ae_seed", "sae_seed"):
            own = getattr(self, name)
            object.__setattr__(self, name, seed if own is None else checked_seed(own))


@dataclass(frozen=True, eq=False)
class Replicates:
    """Replicates of one architecture as columns, each of shape (R,): what a pack trains and a space yields."""

    architecture: Architecture
    sparsity: NDArray[np.float64]
    l1: NDArray[np.float64]
    seed: NDArray[np.int64]
    data_seed: NDArray[np.int64]
    ae_seed: NDArray[np.int64]
    sae_seed: NDArray[np.int64]

    @classmethod
    def of(cls, replicates: Iterable[Replicate]) -> Replicates:
        """Columns of replicates that share one architecture; MisuseError for no architecture or several."""
        rows = list(replicates)
        architectures = {row.cell.architecture for row in rows}
        if len(architectures) != 1:
            raise MisuseError(f"one architecture was expected, got {sorted(map(str, architectures)) or 'none'}.")
        return cls(
            architectures.pop(),
            np.array([row.cell.sparsity for row in rows]),
            np.array([row.cell.l1 for row in rows]),
            *(np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in SEED_COLUMNS),
        )

    def __len__(self) -> int:
        return len(self.seed)

    def __iter__(self) -> Iterator[Replicate]:
        for sparsity, l1, *seeds in zip(self.sparsity, self.l1, *(getattr(self, name) for name in SEED_COLUMNS)):
            yield Replicate(Cell(self.architecture, float(sparsity), float(l1)), *map(int, seeds))

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Replicates:
        """The replicates at the given positions, in that order."""
        columns = ("sparsity", "l1", *SEED_COLUMNS)
        return Replicates(self.architecture, *(getattr(self, name)[index] for name in columns))


SEED_COLUMNS = ("seed", "data_seed", "ae_seed", "sae_seed")
