"""The progress of a study as it runs."""

from __future__ import annotations

import pytest

from service.cli.progress import duration


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")])
def test_time_left_is_shown_in_its_two_largest_units(seconds: float, shown: str) -> None:
    """Seconds matter below an hour alone."""
    assert duration(seconds) == shown
