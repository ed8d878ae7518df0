"""The two built-in coordinates, and one made up for the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search_spaces import MisuseError
from search_spaces.coordinates import COORDINATES, L1, PLANE, SPARSITY, Axis, Coordinate, Plane, register_coordinate

NOISE = replace(SPARSITY, name="noise_std", range=(0.0, np.inf), label="noise σ", symbol="σ", hint="0 is none.", formula="")


def test_sparsity_and_l1_are_registered() -> None:
    """Sparsity and l1 are found by their names, and are the default plane of maps."""
    assert COORDINATES == {"sparsity": SPARSITY, "l1": L1}
    assert tuple(PLANE) == (SPARSITY, L1)
    assert PLANE.cell == ["architecture", "sparsity", "l1"]


def test_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering the same coordinate twice changes nothing; another one of that name is refused."""
    monkeypatch.setattr("search_spaces.coordinates.COORDINATES", dict(COORDINATES))
    register_coordinate(SPARSITY)
    register_coordinate(NOISE)
    with pytest.raises(ValueError, match="noise_std"):
        register_coordinate(replace(NOISE, symbol="s"))


@pytest.mark.parametrize(
    ("coordinate", "value", "complaint"),
    [
        (SPARSITY, 1.0, r"sparsity=1\.0 is outside \[0, 1\)"),
        (SPARSITY, -0.1, "outside"),
        (SPARSITY, np.nan, "outside"),
        (L1, np.inf, r"l1=inf is outside \[0, 1e\+06\]"),
        (L1, -1, "outside"),
        (L1, 1e-13, "above 0 and below 1e-12"),
        (L1, "0.1", "Write it without quotes"),
        (SPARSITY, True, "is not a number"),
    ],
)
def test_value_that_is_not_allowed_is_refused(coordinate: Coordinate, value: object, complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        coordinate.checked(value)


def test_negative_zero_is_zero() -> None:
    """−0.0 and 0.0 are one value, so they give one replicate_id."""
    assert str(L1.checked(-0.0)) == "0.0"


@pytest.mark.parametrize("axis", [Axis(SPARSITY, 0.3, 0.98), Axis(L1, 1e-4, 1.0), Axis(NOISE, 0.0, 5.0), Axis(L1, 0.0, 0.0)])
def test_units_can_be_undone(axis: Axis) -> None:
    """from_unit inverts to_unit; the ends are exact."""
    values = axis.from_unit(np.linspace(0, 1, 7))
    np.testing.assert_allclose(axis.from_unit(axis.to_unit(values)), values, rtol=1e-12)
    assert (values[0], values[-1]) == (axis.low, axis.high)


def test_plane_of_other_coordinates_has_their_columns() -> None:
    assert Plane(NOISE, L1).cell == ["architecture", "noise_std", "l1"]


def test_a_printed_value_finds_the_value_it_was_printed_from() -> None:
    """Printed with three or more digits; an equal value comes first, and two that are printed alike are refused by name."""
    among = [0.9, 0.918181818182, 0.95]
    assert [SPARSITY.nearest(value, among) for value in (0.918182, 0.9182, 0.918, 0.9, 0.92)] == [0.918181818182] * 3 + [0.9, None]
    assert L1.nearest(0.0215, [0.021544346900318832, 0.03]) == 0.021544346900318832
    assert L1.nearest(0.0, [0.0, 1e-4]) == 0.0
    assert L1.nearest(0.0, [1e-4]) is None
    with pytest.raises(MisuseError, match=r"l1=0\.0215 may be any of 0\.02149, 0\.02151\. Give more digits"):
        L1.nearest(0.0215, [0.02149, 0.02151])
