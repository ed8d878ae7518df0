"""The table of rooms: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STDLIB_AND_NUMBERS = {"numpy", "scipy", "pydantic", "yaml"}
SHELLS = {"trainable", "searchers", "cluster", "driver"}
ENGINES = {"engines", "engine_reference", "engine_compiled", "engine_torch", "engine_torch_kernels"}
KERNELS = {"compilation", "simd", "lanes", "moments"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden(path: Path) -> set[str]:
    """Top-level packages (or modules of study) that a file must not import."""
    room, module = path.parent.name, path.stem
    if room == "search_spaces":
        return {"study", "analysis", "service", "ray", "torch", "pandas", "pyarrow", "matplotlib"}
    if room == "study" and module in SHELLS | {"__init__"}:
        return {"analysis", "service", "torch"}
    if room == "study":
        return (
            {"analysis", "service", "ray", "pandas"}
            | (set() if module in ENGINES else {"torch"} if module in KERNELS else {"torch", "numba"})
            | {f"study.{s}" for s in SHELLS}
        )
    if room == "analysis":
        engines = {f"study.{engine}" for engine in ENGINES - {"engines"}}
        return {"service", "torch", *engines} | (set() if module == "frames" else {"ray"}) | {f"study.{s}" for s in SHELLS}
    return set()


@pytest.mark.parametrize(
    "path", sorted(p for room in ("search_spaces", "study", "analysis", "service") for p in (ROOT / room).glob("*.py")), ids=str
)
def test_imports_point_from_right_to_left(path: Path) -> None:
    """search_spaces ← study core ← engines and shells; analysis reads the core; service reaches everything."""
    bad = {name for name in imported(path) for wall in forbidden(path) if name == wall or name.startswith(f"{wall}.")}
    assert not bad


def test_core_needs_no_ray() -> None:
    """`run_pack` is the whole study without Ray: importing it must not import Ray."""
    import subprocess
    import sys

    code = "import sys, study.run_pack, study.replicate, analysis; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
