"""The contract of search results: what commands print of a finished search, and which files are stored beside its rows."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd


class SearchResult(Protocol):
    """The result of one kind of search."""

    def to_mapping(self) -> dict[str, Any]:
        """All fields, as one JSON document."""

    def table(self) -> pd.DataFrame:
        """The table shown to readers: cells of text, the most important row first."""

    def sentences(self) -> list[str]:
        """What readers should know in addition to the table."""

    def files(self) -> dict[str, bytes]:
        """The contents of the files to store in the study's folder, by name."""
