"""The table of rooms: who may import whom, and that imports never run in circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("search_spaces", "study", "analysis", "service")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))

ENGINES = ("reference", "compiled", "torch_engine", "triton_kernels")
NEVER = {
    "search_spaces": {"study", "analysis", "service", "ray", "torch", "pandas", "pyarrow", "matplotlib", "numba"},
    "study": {"analysis", "service", "ray", "pandas", "torch", "numba", "study.on_ray"},
    "analysis": {"service", "ray", "torch", "numba", "study.on_ray", *(f"study.engines.{engine}" for engine in ENGINES)},
    "service": set(),
}
"""What a room must not import, but for the places below."""
ALLOWED = {
    "study/__init__.py": {"study.on_ray"},
    "study/detached.py": {"study.on_ray"},
    "study/on_ray": {"ray", "study.on_ray"},
    "study/engines": {"torch", "numba"},
    "study/variants": {"torch"},
    "study/kernels": {"numba"},
    "study/metrics/moments.py": {"numba"},
    "analysis/frames.py": {"ray"},
}
"""Files and folders that may import more than their room."""


def module_of(path: Path) -> str:
    """`study/packs.py` is `study.packs`, `study/__init__.py` is `study`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def forbidden(path: Path) -> set[str]:
    """Packages that a file must not import."""
    places = {str(path), *map(str, path.parents)}
    allowed = set().union(*(more for place, more in ALLOWED.items() if place in places))
    return NEVER[path.parts[0]] - allowed


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_from_right_to_left(path: Path) -> None:
    """search_spaces ← study core ← engines and on_ray; analysis reads the core; service reaches everything."""
    bad = {name for name in imported(path) for wall in forbidden(path) if name == wall or name.startswith(f"{wall}.")}
    assert not bad


def files_imported(path: Path) -> set[Path]:
    """Files of ours that a file imports; a package's own file counts only where nothing in the package is named."""
    found = {MODULES[name] for name in imported(path) if name in MODULES}
    return {one for one in found if one.name != "__init__.py" or not any(one.parent in other.parents for other in found - {one})}


def folder_of(path: Path) -> Path:
    """A folder of a room is one node; a file that lies in the room itself is one of its own."""
    return path.parent if len(path.parts) > 2 else path


def circle_in(edges: Iterable[tuple[Path, Path]]) -> list[Path]:
    graph = TopologicalSorter[Path]()
    for one, other in edges:
        if one != other:
            graph.add(one, other)
    try:
        graph.prepare()
    except CycleError as error:
        return error.args[1]  # type: ignore[no-any-return]
    return []


EDGES = [(path, other) for path in FILES for other in files_imported(path) if path.name != "__init__.py"]


def test_no_circle_between_files() -> None:
    """Imports inside functions count too."""
    assert circle_in(EDGES) == []


def test_no_circle_between_folders() -> None:
    """A folder that needs another is not needed by it, however many files lie between."""
    assert circle_in((folder_of(one), folder_of(other)) for one, other in EDGES) == []


def test_circles_are_seen() -> None:
    """The check finds a circle of three."""
    a, b, c = map(Path, "abc")
    assert set(circle_in([(a, b), (b, c), (c, a)])) == {a, b, c}
    assert circle_in([(a, b), (b, c), (a, c)]) == []


def test_core_needs_no_ray() -> None:
    """`run_here` and `run_pack` are the whole study without Ray: importing them must not import Ray."""
    core = "study.in_process, study.replicate"
    code = f"import sys, {core}; from analysis import *; sys.exit(bool({{'ray', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_starts_without_heavy_libraries() -> None:
    """`sae-study --help` must not wait for Ray, torch, pandas or matplotlib."""
    code = "import sys, service.cli.app; sys.exit(bool({'ray', 'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
