"""What the commands print: tables, JSON documents, warnings."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from search_spaces.errors import MachineError
from service.cli.streams import READER_GONE, drop
from study.terminal import ROWS, UNBOUNDED, columns_of, is_terminal

if TYPE_CHECKING:
    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from study.storage.study_folder import StudyFolder

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them."""


class Screen(Console):
    """One of the standard streams. Texts are printed as they are: no markup, and control characters as escapes."""

    def __init__(self, stream: TextIO | None, *, stderr: bool) -> None:
        super().__init__(
            stderr=stderr,
            force_terminal=is_terminal(stream),
            width=columns_of(stream),
            height=ROWS,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )

    def render_str(self, text: str, **how: Any) -> Text:
        shown = CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
        return super().render_str(shown.encode(self.encoding, "in_ascii").decode(self.encoding), **how)

    def print(self, *shown: Any, **how: Any) -> None:
        """Print on the stream. Standard error that nobody can read is given up: the work goes on."""
        try:
            super().print(*shown, **how)
        except OSError:
            if not self.stderr:
                raise
            drop(sys.stderr)

    def on_broken_pipe(self) -> None:
        raise

    def fitted(self, table: Table) -> RenderableType:
        """The table, or where the screen is too narrow for it, a line per value: nothing is cut."""
        room = self.options.update(width=UNBOUNDED)
        return table if self.measure(table, options=room).maximum <= self.width else Text("\n\n".join(self._on_its_side(table)))

    def _on_its_side(self, table: Table) -> Iterator[str]:
        """Title, rows and caption; a row has one line per column."""
        columns = [[self._plain(cell) for cell in (column.header, *column.cells)] for column in table.columns]
        widest = max(len(head) for head, *_ in columns)
        if table.title:
            yield self._plain(table.title)
        for row in range(1, table.row_count + 1):
            yield "\n".join(f"{cells[0]:<{widest}}  {cells[row]}" for cells in columns)
        if table.caption:
            yield self._plain(table.caption)

    def _plain(self, cell: Any) -> str:
        return (cell if isinstance(cell, Text) else self.render_str(str(cell))).plain


out, err = Screen(sys.stdout, stderr=False), Screen(sys.stderr, stderr=True)

LEAN: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "title_justify": "left"}
"""How tables look: many columns go into few characters."""
MOST_CELLS_SHOWN = 20
"""Most rows of a table; a line below it counts the rest."""


def show(document: Mapping[str, Any], shown: Iterable[RenderableType], as_json: bool) -> None:
    """Print one JSON document, or sentences and tables for people; the latter are made only if they are printed."""
    texts = [json.dumps(_plain(document), indent=2)] if as_json else list(shown)
    try:
        for one in texts:
            out.print(out.fitted(one) if isinstance(one, Table) else one)
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit(READER_GONE) from None
    except OSError as error:
        raise MachineError(f"standard output cannot be written ({error.strerror or error}).") from None


def complain(sentence: object) -> None:
    """Print one error line on standard error."""
    err.print("error: " + " ".join(str(sentence).splitlines()))


def _plain(value: Any) -> Any:
    """The value in JSON's types. NaN and infinity, which JSON lacks, become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    return None if str(value) in ("<NA>", "NaT") else str(value)


def table_of(cells: pd.DataFrame) -> Iterator[RenderableType]:
    """The first rows of a frame of texts, and how many more there are; nothing for an empty frame."""
    if cells.empty:
        return
    drawn = Table(*cells.columns, **LEAN)
    for row in cells.head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*row)
    yield drawn
    if len(cells) > MOST_CELLS_SHOWN:
        yield f"… and {len(cells) - MOST_CELLS_SHOWN} more; --json lists them all."


def verdicts_table(table: pd.DataFrame) -> Iterator[RenderableType]:
    """All cells, or the worst and how many more there are; a column with a single value becomes the title."""
    constant = [column for column in ("architecture", "l1") if table[column].nunique() == 1]
    title = ", ".join(f"{column} {_written(table[column].iloc[0])}" for column in constant)
    if more := max(len(table) - MOST_CELLS_SHOWN, 0):
        healthy = table.get("none", 0) / table["replicates"]
        table = table.loc[healthy.sort_values(kind="stable").index[:MOST_CELLS_SHOWN]]
    drawn = Table(*table.columns.drop(constant), title=title or None, **LEAN)
    for row in table.drop(columns=constant).itertuples(index=False):
        drawn.add_row(*map(_written, row))
    yield drawn
    if more:
        yield f"… and {more} more cells, in which no larger share fails; `sae-study report` shows all."


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def differing_table(found: Comparison) -> Table:
    """The cells that differ most surely come first; at most MOST_CELLS_SHOWN are listed."""
    heads = ("architecture", "sparsity", "l1", *found.names, "difference [95 %]", "test", "p (Holm)")
    shown = min(len(found.differing), MOST_CELLS_SHOWN)
    caption = f"{shown} of {len(found.differing)} cells that differ" if shown < len(found.differing) else None
    table = Table(*heads, caption=caption, **LEAN)
    for row in found.differing.head(MOST_CELLS_SHOWN).to_dict("records"):
        table.add_row(
            row["architecture"],
            f"{row['sparsity']:g}",
            f"{row['l1']:g}",
            *(f"{row[f'failures_{side}']} of {row[f'replicates_{side}']}" for side in ("one", "other")),
            f"{row['difference']:+.0%} [{row['low']:+.0%}, {row['high']:+.0%}]",
            row["test"],
            f"{row['p_holm']:.2g}",
        )
    return table


def warn_of_gaps(frame: pd.DataFrame, folder: StudyFolder) -> None:
    """Warn on standard error of rows that are missing because their shards are corrupt."""
    if lost := frame.attrs["unreadable_shards"]:
        err.print(f"warning: {len(lost)} corrupt shards are left out; `{folder.command('resume')}` trains their replicates again")
