"""README, CONTRIBUTING and docs/ name files, modules and pages that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").rglob("*.md"))]
FOLDERS = ("search_spaces", "study", "analysis", "service", "tests", "examples", "docs")
PATH = re.compile(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"")
MODULE = re.compile(r"`((?:search_spaces|study|analysis|service)(?:\.\w+)+)")
BENCHMARK = re.compile(r"python -m (tests\.benchmarks\.\w+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    """Paths are given from the repository's root, links from the page."""
    text = page.read_text()
    paths = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    links = {link for pair in LINK.findall(text) for link in pair if link and not (page.parent / link).exists()}
    benchmarks = {name for name in BENCHMARK.findall(text) if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}
    assert not paths | links | benchmarks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_their_names_exist(page: Path) -> None:
    """`study.theory.l1_for_l0` is a function of a module, `analysis.rates` a package."""
    missing = {name for name in MODULE.findall(page.read_text()) if not found(name)}
    assert not missing


def found(dotted: str) -> bool:
    """Whether the dotted name is a module or an attribute of one."""
    owner, _, name = dotted.rpartition(".")
    try:
        return hasattr(import_module(owner), name) or bool(import_module(dotted))
    except ImportError:
        return False
