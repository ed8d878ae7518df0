"""Small pieces of HTML for what notebooks show."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def paragraphs_html(*texts: str) -> str:
    """One paragraph per text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def counts_html(counts: Mapping[str, int]) -> str:
    """Rows by verdict, those without rows left out."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{count}</td></tr>" for name, count in counts.items() if count)
    return f"<table><tr><th>verdict</th><th>replicates</th></tr>{rows}</table>" if rows else ""
