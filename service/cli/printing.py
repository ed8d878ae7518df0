"""What the commands print: tables, JSON documents, warnings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from study.storage.study_folder import StudyFolder

PIPED_WIDTH = 200
"""Width of tables, in characters, where the output is not a terminal."""
out, err = (
    Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True, width=None if stream.isatty() else PIPED_WIDTH)
    for stderr, stream in ((False, sys.stdout), (True, sys.stderr))
)

MOST_CELLS_SHOWN = 40
"""Most rows of a table; a line below it counts the rest."""


def show(document: Mapping[str, Any], shown: Iterable[RenderableType], as_json: bool) -> None:
    """Print one JSON document, or sentences and tables for people; the latter are made only if they are printed."""
    if as_json:
        print(json.dumps(_plain(document), indent=2))
        return
    for one in shown:
        out.print(one)


def complain(sentence: object) -> None:
    """Print one error line on standard error."""
    err.print(f"error: {sentence}")


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
    first, *others = cells.columns
    drawn = Table(Column(first, no_wrap=True, overflow="fold"), *others)
    for row in cells.head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*row)
    yield drawn
    if len(cells) > MOST_CELLS_SHOWN:
        yield f"… and {len(cells) - MOST_CELLS_SHOWN} more; --json lists them all."


def verdicts_table(table: pd.DataFrame) -> Iterator[RenderableType]:
    """The first cells, and how many more there are; a column with a single value becomes the title."""
    constant = [column for column in ("architecture", "l1") if table[column].nunique() == 1]
    title = ", ".join(f"{column} {table[column].iloc[0]}" for column in constant)
    drawn = Table(
        *table.columns.drop(constant), title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for row in table.drop(columns=constant).head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
    yield drawn
    if len(table) > MOST_CELLS_SHOWN:
        yield f"… and {len(table) - MOST_CELLS_SHOWN} more cells; `sae-study report` shows all."


def differing_table(found: Comparison) -> Table:
    """The cells that differ most surely come first; at most MOST_CELLS_SHOWN are listed."""
    heads = ("architecture", "sparsity", "l1", *found.names, "difference [95 %]", "test", "p (Holm)")
    shown = min(len(found.differing), MOST_CELLS_SHOWN)
    caption = f"{shown} of {len(found.differing)} cells that differ" if shown < len(found.differing) else None
    table = Table(*heads, caption=caption, box=box.SIMPLE_HEAD)
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
