"""What a finished search came to, whatever its kind: what commands print, and what is kept beside its rows."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd


class SearchResult(Protocol):
    """The result of one kind of search."""

    def to_mapping(self) -> dict[str, Any]:
        """All of it, as one JSON document."""

    def table(self) -> pd.DataFrame:
        """What a reader is shown: cells of text, the most important row first."""

    def sentences(self) -> list[str]:
        """What a reader should know beside the table."""

    def files(self) -> dict[str, bytes]:
        """What is kept beside the rows, by name within the study's folder."""
