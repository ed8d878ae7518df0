"""Paths and names as people write them."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from search_spaces.errors import MisuseError
from search_spaces.paths import local_path, scheme_of, study_name, written

HOME = os.path.expanduser("~")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/rep", f"{HOME}/rep"),
        ("~", HOME),
        ("~root/x", f"{os.path.expanduser('~root')}/x"),
        ("./~/x", "~/x"),
        ("a b/ü/[1]*?{x}.csv", "a b/ü/[1]*?{x}.csv"),
        (Path("a") / "b", "a/b"),
        (PurePosixPath("/a"), "/a"),
        ("x/", "x"),
        (b"x", "x"),
        ("2026-01-01T10:00", "2026-01-01T10:00"),
        ("run:1/x", "run:1/x"),
        ("a$b", "a$b"),
        ("./$x", "$x"),
        ("--out", "--out"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("FILE:///tmp/a b", "/tmp/a b"),
        ("file:/tmp/x", "/tmp/x"),
        ("file://localhost/tmp/x", "/tmp/x"),
    ],
)
def test_path_is_the_one_that_is_meant(given: str | os.PathLike[str], path: str) -> None:
    """Homes are expanded and file URIs understood; brackets, blanks, letters of any script and a colon are parts of a name."""
    assert local_path(given, "storage") == Path(path)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("a\0b", "a NUL"),
        ("caf\udce9", "not UTF-8"),
        (b"caf\xe9", "not UTF-8"),
        (None, "is no path"),
        (3, "is no path"),
        (["x"], "is no path"),
        ("-", "/dev/stdin"),
        ("~nobody-of-this-name/x", "home folder"),
        ("$HOME/x", "no shell has expanded"),
        ("${HOME}/x", "no shell has expanded"),
        ("C:\\Users\\me", "Windows"),
        ("C:/Users/me", "Windows"),
        ("results\\first", "Windows"),
        ("s3://bucket/x", "is a URI"),
        ("s3:/bucket/x", "two slashes"),
        ("s3:bucket/x", "two slashes"),
        ("gs//bucket/x", "two slashes"),
        ("file://rel/x", "file:///folder"),
        ("file://~/x", "file:///folder"),
        ("file:x", "file:///folder"),
        ("file:///x?y", "file:///folder"),
    ],
)
def test_what_is_no_path_is_refused_in_one_line(given: object, why: str) -> None:
    """The line names the option, what was given and what to write instead; it can be printed anywhere."""
    with pytest.raises(MisuseError, match=why) as refused:
        local_path(given, "--out")  # type: ignore[arg-type]
    assert str(refused.value).startswith("--out=")
    assert len(str(refused.value).encode().splitlines()) == 1


def test_long_path_is_shortened_in_the_message() -> None:
    """A message stays readable."""
    with pytest.raises(MisuseError, match=r"\(5001 characters\)") as refused:
        written("x" * 5000 + "\0", "storage")
    assert len(str(refused.value)) < 500


def test_relative_path_needs_a_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was deleted, an absolute path still has a meaning."""
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(MisuseError, match="working directory is gone"):
        local_path("x", "storage")
    assert local_path("/x", "storage") == Path("/x")


def test_scheme_is_told_in_small_letters() -> None:
    """A path has none, nor has a drive."""
    assert [scheme_of(text) for text in ("S3://b/x", "file:///x", "x", "a/b://c", "c://x")] == ["s3", "file", None, None, None]


@pytest.mark.parametrize("given", ["..", ".", "a/b", "a\0", "a\n", "", "-x", ".x", "x" * 121, "ü", "a b", None, 3])
def test_study_is_not_named_so(given: object) -> None:
    """A name is a folder's, everywhere, and leads nowhere else."""
    with pytest.raises(MisuseError, match="cannot name a study's folder"):
        study_name(given)
    assert study_name("x" * 120) == "x" * 120
