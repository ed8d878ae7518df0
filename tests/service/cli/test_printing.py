"""What commands print: for programs and for people."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from service.cli.printing import MOST_CELLS_SHOWN, complain, show, table_of


def test_document_is_plain_json(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN, infinity and missing values are null, NumPy's numbers are numbers, keys are texts; nothing is made for people."""

    def shown() -> Iterator[str]:
        raise AssertionError("made although nobody reads it")
        yield ""

    values = {1: [float("nan"), np.float64("inf"), pd.NA, pd.NaT], "count": np.int64(3), "pair": (True, None, 0.5)}
    show(values, shown(), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"1": [None] * 4, "count": 3, "pair": [True, None, 0.5]}


def test_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name is no markup."""
    show({}, ["written to [b]rows[/b].csv"], as_json=False)
    complain("no [bold]file[/bold]")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("written to [b]rows[/b].csv\n", "error: no [bold]file[/bold]\n")


def test_long_table_says_how_much_it_leaves_out() -> None:
    """An empty table is not drawn."""
    cells = pd.DataFrame({"region": ["r"] * (MOST_CELLS_SHOWN + 2)})
    _, more = table_of(cells)
    assert str(more).startswith("… and 2 more")
    assert list(table_of(cells.head(0))) == []
