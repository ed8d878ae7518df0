"""Pieces of HTML for notebooks."""

from __future__ import annotations

import re

import numpy as np

from study.notebook import MOST_LEVELS, MOST_MAPS, counts_html, map_html


def rows(**columns: list[object]) -> dict[str, list[object]]:
    """Four replicates in two cells, of which one fails half the time; columns replace these."""
    given = {"architecture": ["5-3-5"] * 4, "sparsity": [0.5, 0.5, 0.9, 0.9], "l1": [0.01] * 4}
    return given | {"failure": ["none", "none", "none", "sae_dead"]} | columns


def test_map_counts_failures_by_cell() -> None:
    """A cell without rows is empty."""
    shown = map_html(rows(l1=[0.01, 0.01, 0.1, 0.1]))
    assert re.findall(r'title="([^"]*)"', shown) == ["S 0.9, l1 0.1: 1 of 2 fail", "S 0.5, l1 0.01: 0 of 2 fail"]
    assert shown.count("<td") == 4


def test_map_of_many_levels_stays_small_and_loses_no_row() -> None:
    """As of a search, whose every replicate has a cell of its own."""
    many = np.random.default_rng(1).uniform(0.3, 0.9, (2, 500))
    shown = map_html(rows(architecture=["5-3-5"] * 500, sparsity=many[0], l1=many[1], failure=["none"] * 500))
    assert shown.count("<tr>") == MOST_LEVELS
    assert sum(map(int, re.findall(r"0 of (\d+) fail", shown))) == 500


def test_many_architectures_are_counted() -> None:
    """No rows, no map."""
    names = [f"{n}-2-{n}" for n in range(3, MOST_MAPS + 5)]
    one = len(names)
    shown = map_html({"architecture": names, "sparsity": [0.5] * one, "l1": [0.1] * one, "failure": ["none"] * one})
    assert shown.count("<caption>") == MOST_MAPS
    assert f"{one - MOST_MAPS} more" in shown
    assert map_html(rows(architecture=[], sparsity=[], l1=[], failure=[])) == ""


def test_counts_are_text() -> None:
    """Verdicts without rows are left out."""
    assert "<td>&lt;b&gt;</td><td>2</td>" in counts_html({"<b>": 2, "none": 0})
    assert counts_html({"none": 0}) == ""
