"""docs/definitions.md against the tables in code that it shows.

`python -m tests.test_definitions` writes its tables anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from search_spaces import Protocol
from search_spaces.failures import verdicts
from study.storage.schema import REAL, TEXT, TIME, WHOLE, columns

DEFINITIONS = Path(__file__).parent.parent / "docs" / "definitions.md"
TYPES: dict[pa.DataType, str] = {TEXT: "text", REAL: "real", WHOLE: "whole", TIME: "time"}


def columns_table() -> str:
    """One line per column of a row."""
    lines = ((f"`{of.name}`", of.group.value, TYPES[of.type], str(of.since), of.meaning) for of in columns())
    return table(("column", "group", "type", "since", "meaning"), lines)


def verdicts_table() -> str:
    """One line per verdict, in order of precedence."""
    default = Protocol()
    thresholds = {of.name: f"`{of.threshold}` = {getattr(default, of.threshold):g}" for of in verdicts() if of.threshold}
    lines = ((f"`{of.name}`", of.meaning, of.condition, thresholds.get(of.name, "")) for of in verdicts())
    return table(("failure", "meaning", "condition", "threshold, by default"), lines)


def table(heads: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """In Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ("---",) * len(heads), *lines))


TABLES = {"## Columns": columns_table, "## Verdict": verdicts_table}
"""By the heading of its section, whose first table it is."""


def with_tables(text: str) -> str:
    """The document with its tables made from the code."""
    for heading, made in TABLES.items():
        before, head, section = text.partition(f"{heading}\n")
        start = section.index("\n| ") + 1
        end = section.index("|\n\n", start) + 2
        text = before + head + section[:start] + made() + section[end:]
    return text


def test_the_tables_of_the_documentation_are_those_of_the_code() -> None:
    """Word for word; the module's docstring has the command that rewrites them."""
    text = DEFINITIONS.read_text()
    assert with_tables(text) == text


if __name__ == "__main__":
    DEFINITIONS.write_text(with_tables(DEFINITIONS.read_text()))
