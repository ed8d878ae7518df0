"""What the commands print: tables, JSON documents, warnings."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from study.storage.study_folder import StudyFolder

PIPED_WIDTH = 160
"""Columns of a table that no terminal shows."""
out, err = (
    Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else PIPED_WIDTH)
    for stderr, stream in ((False, sys.stdout), (True, sys.stderr))
)

MOST_CELLS_SHOWN = 40


def print_json(document: dict[str, Any]) -> None:
    """One document; NaN and infinity, which JSON has not, become null."""
    print(json.dumps(_plain(document), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
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


def print_table(table: pd.DataFrame) -> None:
    """Cells of text; at most MOST_CELLS_SHOWN rows."""
    if table.empty:
        return
    first, *others = table.columns
    drawn = Table(Column(first, no_wrap=True, overflow="fold"), *others)
    for row in table.head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*row)
    out.print(drawn)
    if len(table) > MOST_CELLS_SHOWN:
        out.print(f"… and {len(table) - MOST_CELLS_SHOWN} more; --json lists them all.")


def print_verdicts(table: pd.DataFrame) -> None:
    constant = [column for column in ("architecture", "l1") if table[column].nunique() == 1]
    title = ", ".join(f"{column} {table[column].iloc[0]}" for column in constant)
    drawn = Table(
        *table.columns.drop(constant), title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for row in table.drop(columns=constant).head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
    out.print(drawn)
    if len(table) > MOST_CELLS_SHOWN:
        out.print(f"… and {len(table) - MOST_CELLS_SHOWN} cells more: `sae-study report` shows all.")


def differing_cells(found: Comparison) -> Table:
    """The surest first; at most MOST_CELLS_SHOWN."""
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
    if lost := frame.attrs["unreadable_shards"]:
        err.print(f"warning: {len(lost)} shards are corrupt and left out; `{folder.command('resume')}` trains them again")
