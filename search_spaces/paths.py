"""Paths and names as people give them: on a command line, in Python, in a study file. Each is checked here, once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from search_spaces.errors import MisuseError
from search_spaces.values import number, quoted

Given = str | os.PathLike[str]
"""A path or URI as a caller gives it."""

STUDY_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_NEARLY_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?:s3|gs|gcs|hdfs|abfss?|https?)(?::|//)", re.IGNORECASE)
_MOST_SHOWN = 300


def study_name(given: object) -> str:
    """The name of a study; MisuseError unless it can name a folder everywhere and leads nowhere else."""
    if number(given) is not None:
        raise MisuseError(f'name={quoted(given)} is a number and cannot name a study\'s folder. Write it in quotes: name: "2024".')
    if not isinstance(given, str) or not re.fullmatch(STUDY_NAME, given):
        raise MisuseError(
            f"name={quoted(given)} cannot name a study's folder. Use up to 120 letters, digits, '_', '-' and '.', "
            "the last two not first."
        )
    return given


def scheme_of(text: str) -> str | None:
    """The scheme of a URI in small letters, such as s3; None for a path."""
    found = _URI.match(text)
    return found[1].lower() if found else None


def written(given: Given, what: str) -> str:
    """The text of a path or URI; MisuseError unless it is text that every program can read. what: its option or argument."""
    try:
        text = os.fsdecode(given)
        os.fsencode(text).decode()  # a name that is not UTF-8 comes as surrogates; one that the locale lacks cannot be encoded
        text.encode()
    except TypeError:
        raise MisuseError(f"{what}={shown(given)} is no path. Give text, or a pathlib.Path.") from None
    except UnicodeError:
        raise MisuseError(
            f"{what}={shown(given)} is not UTF-8, or this locale cannot spell it. Use a name in UTF-8, and set PYTHONUTF8=1 if "
            "the locale is not UTF-8."
        ) from None
    if not text.strip() or "\0" in text:
        raise MisuseError(f"{what}={shown(given)} is empty or holds a NUL. Give a path, such as . for the working directory.")
    return text


def local_path(given: Given, what: str) -> Path:
    """The path on this machine that a caller means: `~` and `~user` are expanded, file:///… is understood.

    Raises MisuseError for what would become a file of an odd name: a URI, a shell's variable, a Windows path, a lone "-".
    what: the option or argument that it was given for.
    """
    text = written(given, what)
    if text[:5].lower() == "file:":
        text = _of_file_uri(text, what)
    elif why := _why_not(text):
        raise MisuseError(f"{what}={shown(text)} {why}")
    path = os.path.expanduser(text)
    if path.startswith("~"):  # there is no such user, or no home
        raise MisuseError(f"{what}={shown(text)} begins with a home folder that is not known here. Write the path itself.")
    if not os.path.isabs(path):
        refuse_gone_directory()
    return Path(path)


def refuse_gone_directory() -> None:
    """Raise MisuseError if the working directory was deleted: relative paths mean nothing there, and Ray does not start."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MisuseError("the working directory is gone. `cd` to one that is there.") from None


def _why_not(text: str) -> str | None:
    """Why a text is not taken for a path, if it is not."""
    if _URI.match(text):
        return "is a URI. Give a path on this machine."
    if _NEARLY_URI.match(text):
        return "is neither a path nor a URI. A URI has two slashes, as in s3://bucket/folder; a path may begin with ./."
    if re.match(r"\$\{?\w", text):
        return "begins with a variable that no shell has expanded. Write its value, or ~ for your home."
    if re.match(r"[A-Za-z]:[\\/]|.*\\", text, re.DOTALL) and os.sep == "/":
        return "is written as on Windows. Write / between folders, from / on."
    if text == "-":
        return "is no path. For standard input write /dev/stdin, for standard output /dev/stdout."
    return None


def _of_file_uri(text: str, what: str) -> str:
    """The path of file:/p, file:///p or file://localhost/p, whose spaces need not be escaped."""
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise MisuseError(
            f"{what}={shown(text)} is not a file of this machine. Write file:///folder, with the whole path from / on, or the "
            "path alone."
        )
    return unquote(parts.path)


def shown(given: object) -> str:
    """What was given, as Python writes it, shortened."""
    text = repr(given)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(str(given))} characters)"
