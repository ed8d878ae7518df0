"""Commands, study files and snippets of README.md and docs/ run as they are printed.

What would take long is made small by one rule: named spaces and the README's study file keep one architecture, one sparsity and
few seeds, the file's protocol is TINY, `--budget` is 64. NAME, OTHER and ID are a study, another one and a replicate.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_spaces import study_from
from search_spaces.spaces import SPACES, GridSpace
from search_spaces.strict_yaml import read_yaml
from search_spaces.study_files import StudySpec
from study.packs import Pack
from study.run_pack import run_pack
from study.specification import study_spec
from study.storage.study_folder import Storage
from tests.conftest import TINY
from tests.service.cli.conftest import Run, run  # noqa: F401

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = re.compile(r"(<!-- \S+ -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(page, *found) for page, text in PAGES.items() for found in BLOCK.findall(text)]
LINES = [line.removeprefix(".venv/bin/") for _, _, kind, block in BLOCKS if not kind for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("sae-study ")]
FILES = [(page, block) for page, _, kind, block in BLOCKS if kind == "yaml"]
SNIPPETS = [(page, block) for page, shown, kind, block in BLOCKS if kind == "python" and not shown]
"""Those below the name of a file are that file, which tests/test_extending.py runs."""

NOT_RUN = {"--address": "needs a cluster", "/mnt/shared/studies": "needs a cluster", "stop": "needs a study that runs"}
"""Words of commands that are not run, and why."""
STARTS_RAY = ("launch", "l1", "map", "resume")
NEEDS = {"mlflow": "import mlflow"}
"""Packages that the project does not install, and how a snippet says that it uses them."""


def small(space: GridSpace) -> GridSpace:
    """The first architecture and the last sparsity of a space, with up to three seeds and the ends of its l1."""
    seeds = f"0:{min(len(space.seeds), 3)}" if len(space.seeds) > 1 else [0]
    return GridSpace(architectures=space.architectures[:1], sparsities=space.sparsities[-1:], l1=space.l1, seeds=seeds)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A working directory with two studies and the README's study file; what stands for NAME, OTHER and ID."""
    monkeypatch.chdir(tmp_path)
    for name, space in SPACES.items():
        monkeypatch.setitem(SPACES, name, small(space))
    space = {"architectures": ["10-5-10"], "sparsities": [0.8, 0.9], "l1": [0.01], "seeds": "0:50"}
    for name in ("dissertation", "other"):
        ids = stored(study_from({"name": name, "protocol": TINY, "space": space}))
    (own,) = (block for page, block in FILES if page == "README.md")
    given: Any = read_yaml(own, "README.md")
    given["protocol"] = TINY
    given["space"] |= {"architectures": ["5-3-5"], "sparsities": [0.9], "seeds": "0:2"}
    (tmp_path / f"{given['name']}.yaml").write_text(json.dumps(given))
    return {"NAME": "dissertation", "OTHER": "other", "ID": ids[0]}


def stored(spec: StudySpec) -> list[str]:
    """Train a study in this process and store it; the ids of its replicates."""
    folder = Storage.at("ray_results").study(spec.name)
    folder.write_text("study.yaml", json.dumps(spec.to_mapping()))
    folder.write_text("manifest.json", "{}")
    packs = [Pack(own, spec.protocol, spec.dtype, spec.engine) for own in spec.replicates()]
    for pack in packs:
        folder.write_shard(pack.pack_id, run_pack(pack, study=spec.name))
    return [name for pack in packs for name in pack.replicate_ids]


def marked(command: list[str]) -> Any:
    """A command as a case of the test."""
    starts = command[0] in STARTS_RAY and "--dry-run" not in command
    return pytest.param(command, starts, id=" ".join(command), marks=pytest.mark.ray if starts else pytest.mark.slow)


@pytest.mark.parametrize(("command", "starts"), [marked(command) for command in COMMANDS if not NOT_RUN.keys() & set(command)])
def test_a_command_runs(
    run: Run,  # noqa: F811
    place: dict[str, str],
    request: pytest.FixtureRequest,
    command: list[str],
    starts: bool,
) -> None:
    """It exits with 0 and says something."""
    if starts:
        request.getfixturevalue("local_ray")
    given = [place.get(word, word) for word in command]
    if "--budget" in given:
        given[given.index("--budget") + 1] = "64"
    code, out, err = run(*given)
    assert (code, bool(out)) == (0, True), err


def test_what_is_not_run_has_a_reason() -> None:
    """Every exception is still printed somewhere."""
    assert all(any(word in command for command in COMMANDS) for word in NOT_RUN)
    assert all(any(code in block for _, block in SNIPPETS) for code in NEEDS.values())


@pytest.mark.parametrize(("page", "block"), FILES, ids=[page for page, _ in FILES])
def test_a_study_file_is_one(run: Run, tmp_path: Path, page: str, block: str) -> None:  # noqa: F811
    """It can be launched as it is."""
    (tmp_path / "study.yaml").write_text(block)
    code, out, err = run("launch", tmp_path / "study.yaml", "--dry-run", "--storage", tmp_path)
    assert (code, "core_hours" in out) == (0, True), err


@pytest.mark.ray(group="snippets")  # they are processes of their own
@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), SNIPPETS, ids=[f"{page}:{block.splitlines()[0]}" for page, block in SNIPPETS])
def test_a_snippet_prints_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, block: str) -> None:
    """As a script of its own; one that reads the study `smoke` without launching it finds it stored."""
    monkeypatch.chdir(tmp_path)
    if '("smoke"' in block and not re.search(r"(launch|start)\(", block):
        stored(study_spec("smoke"))
    for package, code in NEEDS.items():
        if code in block:
            pytest.importorskip(package)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "examples" / "extensions")))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "agg"}
    script = [sys.executable, "-c", block]
    ran = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert (ran.returncode, bool(ran.stdout)) == (0, True), ran.stderr
