"""Study files that nobody wrote: what becomes of a few hundred of them. `tests/benchmarks/hostile_files.py` makes thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.hostile_files import judge


@pytest.mark.slow
def test_a_hostile_file_is_planned_or_refused_in_one_line(tmp_path: Path) -> None:
    """Each in less than a second and 100 MB, and none with a traceback; some are accepted, most refused."""
    judged = judge(300, tmp_path)
    assert judged.outcomes["accepted"] >= 30
    assert judged.outcomes["refused"] >= 100
