"""What a study may vary continuously.

A `Coordinate` is such a number, an `Axis` is a coordinate with the range that a study covers, and a `Plane` is the two
coordinates of a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.errors import MisuseError
from search_spaces.values import number, quoted

Floats = NDArray[np.float64]

LEAST_DIGITS = 3
"""Number of significant digits with which values are printed at least."""


def half_a_digit(value: float) -> float:
    """Half a unit of the last digit with which a value is written, of the third one at least: what is nearer is printed so.
    Nothing but 0 is printed as 0.

    >>> half_a_digit(0.918182), half_a_digit(0.9), half_a_digit(0.0)
    (5e-07, 0.0005, 0.0)
    """
    if value == 0:
        return 0.0
    written = Decimal(repr(float(value)))
    last = int(written.as_tuple().exponent)
    return 0.5 * 10.0 ** min(last, written.adjusted() + 1 - LEAST_DIGITS)


@dataclass(frozen=True)
class Coordinate:
    """A number that a study may vary continuously, beside the architecture."""

    name: str
    """The name of its column in rows and cells."""
    scale: Literal["linear", "log"]
    """Whether maps and figures space it evenly or by its logarithm."""
    range: tuple[float, float]
    """Allowed values: from the first, included, to the second, excluded."""
    label: str
    """The label of a figure's axis."""
    symbol: str
    """Its symbol in sentences, as in "S = 0.9"."""
    hint: str
    """What an error about its value adds: what the coordinate is, or a value to use."""
    thirds: tuple[str, str, str]
    """Names of the low, middle and high third of its axis, used in the names of regions."""
    formula: str = ""
    """Its definition, if one is short enough for a label."""
    of_the_sae: bool = False
    """Whether only the SAE depends on it, so that SAEs of several values can share an autoencoder."""
    smallest: float = 0.0
    """The smallest value above 0 that is allowed."""
    plural: str = ""
    """Several of its values, in sentences; left out, "NAME values"."""

    @property
    def values(self) -> str:
        """Several of its values, in sentences."""
        return self.plural or f"{self.name} values"

    @property
    def defined(self) -> str:
        """Its label with its definition, where one is short enough.

        >>> SPARSITY.defined
        'sparsity S = P(feature = 0)'
        """
        return f"{self.label} = {self.formula}" if self.formula else self.label

    def nearest(self, value: float, among: Iterable[float]) -> float | None:
        """The one of several values that is printed as the given one; None if there is none.

        It is an equal value, or else one that is printed so with three or more significant digits. Raises MisuseError if
        several are, and names them.

        >>> SPARSITY.nearest(0.918182, [0.9, 0.918181818182])
        0.918181818182
        """
        values = sorted(set(among))
        if value in values:
            return value
        printed = [one for one in values if abs(one - value) <= half_a_digit(value)]
        if len(printed) > 1:
            raise MisuseError(f"{self.name}={value!r} may be any of {', '.join(map(repr, printed))}. Give more digits.")
        return printed[0] if printed else None

    def checked(self, value: object) -> float:
        """The value as a float; MisuseError if it is not a number in the allowed range."""
        found = number(value)
        if found is None:
            raise MisuseError(f"{self.name}={quoted(value)} is not a number. Write it without quotes, as in 0.01.")
        low, high = self.range
        if not low <= found < high:
            end = "]" if float(f"{high:g}") < high else ")"
            raise MisuseError(f"{self.name}={quoted(value)} is outside [{low:g}, {high:g}{end}. {self.hint}")
        if 0 < found < self.smallest:
            raise MisuseError(f"{self.name}={quoted(value)} is above 0 and below {self.smallest:g}. {self.hint}")
        return found


SPARSITY = Coordinate(
    "sparsity",
    scale="linear",
    range=(0.0, 1.0),
    label="sparsity S",
    symbol="S",
    hint="It is P(feature = 0): for one feature in ten active use 0.9.",
    thirds=("dense", "medium", "sparse"),
    formula="P(feature = 0)",
    plural="sparsities",
)
L1 = Coordinate(
    "l1",
    scale="log",
    range=(0.0, math.nextafter(1e6, math.inf)),
    smallest=1e-12,
    label="l1",
    symbol="l1",
    hint="The source's value is 0.01; 0 switches it off.",
    thirds=("low-l1", "mid-l1", "high-l1"),
    of_the_sae=True,
)

COORDINATES: dict[str, Coordinate] = {}
"""All registered coordinates, by name."""


def register_coordinate(coordinate: Coordinate) -> None:
    """Make a coordinate known by its name; ValueError if another coordinate has that name."""
    if COORDINATES.setdefault(coordinate.name, coordinate) != coordinate:
        raise ValueError(f"coordinate {coordinate.name!r} is registered with other fields. Choose another name.")


register_coordinate(SPARSITY)
register_coordinate(L1)


class Plane(NamedTuple):
    """The two coordinates of a map."""

    x: Coordinate = SPARSITY
    y: Coordinate = L1

    @property
    def cell(self) -> list[str]:
        """The columns that identify a cell."""
        return ["architecture", self.x.name, self.y.name]


PLANE = Plane()


@dataclass(frozen=True)
class Axis:
    """A coordinate with the range that a study covers: from `low` to `high`, both included, or a single value.

    Raises MisuseError for a value that is not allowed, for low > high, and for a logarithmic range that starts at 0, which
    has no logarithm (a single 0 is fine).
    """

    coordinate: Coordinate
    low: float
    high: float

    def __post_init__(self) -> None:
        name = self.coordinate.name
        for end in ("low", "high"):
            object.__setattr__(self, end, self.coordinate.checked(getattr(self, end)))
        if self.low > self.high:
            raise MisuseError(f"{name}={self.low, self.high} is not a range. Expected (lowest, highest).")
        if self._logarithmic and self.low <= 0:
            raise MisuseError(
                f"{name} from {self.low:g} to {self.high:g} cannot be an axis: it is mapped by log10 {name}, and 0 has none. "
                f"Start it above 0, and study {name} = 0 separately."
            )

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return self.low < self.high

    def to_unit(self, values: ArrayLike) -> Floats:
        """(x − low) / (high − low), of the logarithms if the scale is `log`; ½ on an axis of one value.

        Raises MisuseError for a value outside the axis.

        >>> Axis(L1, 1e-4, 1.0).to_unit([1e-4, 1e-2, 1.0])
        array([0. , 0.5, 1. ])
        """
        given = np.asarray(values, dtype=np.float64)
        if self._logarithmic and (given <= 0).any():
            raise MisuseError(
                f"{self.coordinate.name} = 0 has no logarithm, so it has no place on this surface. Leave these rows out."
            )
        scale = np.log10 if self._logarithmic else np.asarray
        scaled, low, high = scale(given), float(scale(self.low)), float(scale(self.high))
        slack = 1e-9 * max(1.0, abs(low), abs(high))
        outside = given[~((scaled >= low - slack) & (scaled <= high + slack))]
        if outside.size:
            raise MisuseError(
                f"{self.coordinate.name} {outside.flat[0]:.6g} is outside this surface's range, {self.low:.6g} to {self.high:.6g}."
            )
        return np.clip((scaled - low) / (high - low), 0, 1) if self.varies else np.full(given.shape, 0.5)

    def from_unit(self, units: ArrayLike) -> Floats:
        """The inverse of `to_unit`."""
        share = np.asarray(units, dtype=np.float64)
        if self._logarithmic:
            return np.clip(self.low * (self.high / self.low) ** share, self.low, self.high)
        return np.clip(self.low + share * (self.high - self.low), self.low, self.high)

    @property
    def _logarithmic(self) -> bool:
        return self.coordinate.scale == "log" and self.varies
