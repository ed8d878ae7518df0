"""Study files that ask for too much, as the command meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.conftest import TINY_FILE, Run

BOMB = "a: &a [1, 1]\n" + "".join(f"{one}: &{one} [*{before}, *{before}]\n" for before, one in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            TINY_FILE.replace("[0.01]", "{from: 0.001, to: 1, count: 1000000000}"),
            "count=1000000000 is not a whole number from 1 to",
        ),
        (TINY_FILE.replace("5-3-5", "1000000-5-1000000"), "one replicate of 1000000-5-1000000 needs about"),
        (BOMB, "line 2, column 8: the alias *a is not read"),
    ],
    ids=["count", "width", "aliases"],
)
def test_a_dry_run_refuses_it_in_one_line(sae_study: Run, tmp_path: Path, text: str, said: str) -> None:
    """With exit 2, and no memory taken."""
    file = tmp_path / "large.yaml"
    file.write_text(text)
    ended = sae_study("launch", file, "--dry-run", "--storage", tmp_path / "storage")
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
