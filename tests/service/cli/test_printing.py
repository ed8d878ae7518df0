"""What commands print: for programs and for people."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from rich.table import Table
from rich.text import Text

from service.cli.printing import LEAN, MOST_CELLS_SHOWN, UNBOUNDED, Screen, complain, show, table_of, verdicts_table


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


def test_the_worst_of_many_cells_are_shown() -> None:
    """Those with the largest share of failures come first; the last line counts the others. l1 is written in short."""
    count = MOST_CELLS_SHOWN + 2
    cells = pd.DataFrame(
        {"architecture": "5-3-5", "sparsity": np.arange(count) / 100, "l1": 1e-12, "replicates": 50, "none": np.arange(count)[::-1]}
    )
    table, more = verdicts_table(cells)
    assert isinstance(table, Table)
    assert (table.title, table.row_count) == ("architecture 5-3-5, l1 1e-12", MOST_CELLS_SHOWN)
    assert list(table.columns[0].cells)[:2] == ["0.21", "0.2"]
    assert str(more).startswith("… and 2 more cells")
    (table,) = verdicts_table(cells.head(3))
    assert isinstance(table, Table)
    assert list(table.columns[0].cells) == ["0", "0.01", "0.02"]


def screen(columns: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> tuple[Screen, io.BytesIO]:
    """A screen of so many columns, and the bytes that it gets."""
    shown = io.BytesIO()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, errors="in_ascii", write_through=True))
    return Screen(sys.stdout, stderr=False), shown


CELLS = ("10-5-10 … 20-10-20", "0.123456789", "[red]:smile:", "a\x1b[31mb")


@pytest.mark.parametrize("columns", [100, 40, 20, 1])
def test_no_cell_of_a_table_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is too wide is laid on its side. Control characters are shown, not obeyed; markup is text."""
    narrow, shown = screen(columns, monkeypatch)
    table = Table("architectures", "ae_condition_number", "name", "path", title="[b]l1 0.01", caption="2 of 4", **LEAN)
    table.add_row(*CELLS)
    narrow.print(narrow.fitted(table))
    text = shown.getvalue().decode()
    for one in (*CELLS[:3], r"a\x1b[31mb", "architectures", "ae_condition_number", "[b]l1 0.01", "2 of 4"):
        assert one in text
    assert ("architectures        10-5-10" in text) == (columns < 100)


@pytest.mark.parametrize("columns", ["0", "-3", "wide", "", "9" * 30, "²"])
def test_columns_that_are_no_number_are_ignored(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no width then."""
    monkeypatch.setenv("COLUMNS", columns)
    assert Screen(io.StringIO(), stderr=False).width == UNBOUNDED


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_our_characters_have_substitutes(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of users are escaped where the encoding lacks them."""
    plain, shown = screen(80, monkeypatch, encoding)
    plain.print("5 × 10 … ≤ 2² – Ω \udce9")
    assert shown.getvalue().decode("ascii", "replace").replace("\ufffd", "?").endswith(r"- \u03a9 \udce9" + "\n")
    assert b"..." in shown.getvalue()


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a library put into it."""
    complain("first\nsecond")
    assert capsys.readouterr().err == "error: first second\n"


def test_colour_takes_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables by which other programs force it do not count in a file."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")
    file, shown = screen(80, monkeypatch)
    file.print(Text("red", "bold red"))
    assert shown.getvalue() == b"red\n"
