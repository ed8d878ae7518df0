"""Small pieces of HTML for what notebooks show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

MOST_LEVELS = 24
"""Most rows and columns of a map."""
MOST_MAPS = 12


def paragraphs_html(*texts: str) -> str:
    """One paragraph per text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def counts_html(counts: Mapping[str, int]) -> str:
    """Rows by verdict, those without rows left out."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{count}</td></tr>" for name, count in counts.items() if count)
    return f"<table><tr><th>verdict</th><th>replicates</th></tr>{rows}</table>" if rows else ""


def map_html(rows: Mapping[str, Sequence[Any]]) -> str:
    """Failure rates over sparsity and l1, a small table per architecture, from the columns architecture, sparsity, l1, failure.

    White is safe, dark red fails in every replicate. A cell without rows is empty.
    """
    columns = {name: np.asarray(rows[name]) for name in ("architecture", "sparsity", "l1", "failure")}
    names = list(dict.fromkeys(rows["architecture"]))
    maps = [_one_map(name, {key: column[columns["architecture"] == name] for key, column in columns.items()}) for name in names]
    return "".join(maps[:MOST_MAPS]) + (paragraphs_html(f"… and {len(maps) - MOST_MAPS} more") if len(maps) > MOST_MAPS else "")


def _one_map(name: str, columns: Mapping[str, np.ndarray[Any, Any]]) -> str:
    (xs, of_x), (ys, of_y) = _levels(columns["sparsity"]), _levels(columns["l1"])
    trained, failed = np.zeros((2, len(ys), len(xs)), dtype=int)
    np.add.at(trained, (of_y, of_x), 1)
    np.add.at(failed, (of_y, of_x), columns["failure"] != "none")
    lines = "".join(
        f"<tr>{''.join(_cell_html(trained[y, x], failed[y, x], xs[x], ys[y]) for x in range(len(xs)))}</tr>"
        for y in reversed(range(len(ys)))
    )
    ranges = f"sparsity {xs[0]:g} to {xs[-1]:g}, l1 {ys[0]:g} to {ys[-1]:g} upwards"
    return f'<table style="display:inline-block"><caption>{escape(name)}: failures over {ranges}</caption>{lines}</table>'


def _levels(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The levels of a coordinate and each row's level; where they are many, quantiles stand for them."""
    levels, of_row = np.unique(values, return_inverse=True)
    if len(levels) <= MOST_LEVELS:
        return levels, of_row
    levels = levels[np.linspace(0, len(levels) - 1, MOST_LEVELS).astype(int)]
    return levels, np.searchsorted(levels, values, side="right") - 1


def _cell_html(trained: int, failed: int, sparsity: float, l1: float) -> str:
    if not trained:
        return '<td style="padding:0;width:12px;height:12px"></td>'
    red, others = 255 - round(110 * failed / trained), 255 - round(235 * failed / trained)
    title = f"S {sparsity:g}, l1 {l1:g}: {failed} of {trained} fail"
    return f'<td title="{title}" style="padding:0;width:12px;height:12px;background:rgb({red},{others},{others})"></td>'
