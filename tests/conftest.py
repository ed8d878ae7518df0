"""What tests share: a tiny protocol, and one small local Ray for the whole session."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces import PROTOCOLS, Protocol
from search_spaces import extensions as known_extensions

POISONED_SEED = 66_601
"""On the session's Ray a replicate of this seed kills its worker, every time."""
FRAGILE_SEED = 66_602
"""A replicate of this seed kills its worker once."""
BUGGY_SEED = 66_603
"""A replicate of this seed raises."""


@pytest.fixture(autouse=True)
def _extensions_of_a_test_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's own verdict would have to be imported by the workers of later ones."""
    monkeypatch.setattr(known_extensions, "_MODULES", dict(known_extensions._MODULES))


@pytest.fixture
def tiny() -> Protocol:
    """The `dissertation` protocol, about a hundred times shorter."""
    return dataclasses.replace(PROTOCOLS["dissertation"], samples=200, ae_epochs=1, sae_epochs=1)


TINY: dict[str, Any] = {"base": "dissertation", "samples": 200, "ae_epochs": 1, "sae_epochs": 1}
"""The same, as study files write it."""


def _install_accidents() -> None:
    """Runs in every worker of the session's Ray, before its first task."""
    import study.on_ray.trainable as trainable

    run_pack = trainable.run_pack

    def accident_prone(pack: Any, **names: str) -> Any:
        seeds = set(pack.replicates.seed.tolist())
        once = Path(os.environ["SAE_STUDY_TEST_FOLDER"]) / "has_killed_once"
        if POISONED_SEED in seeds or (FRAGILE_SEED in seeds and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if BUGGY_SEED in seeds:
            raise ZeroDivisionError("a fault of the program")
        return run_pack(pack, **names)

    trainable.run_pack = accident_prone


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes one runs the tests that start a Ray, but for those of another `group`; else a file is not split.

    `--dist loadgroup` reads a test's group at the end of its id. pytest-xdist 3.8 cannot write it there for pytest 9.2 (its
    issue 1386), so this does.
    """
    if hasattr(config, "workerinput"):
        for item in items:
            marker = item.get_closest_marker("ray")
            group = marker.kwargs.get("group", "ray") if marker else item.path.relative_to(config.rootpath)
            item._id = item._id.parse(f"{item.nodeid}@{group}")


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One local Ray of two CPUs; its workers have accidents at the seeds above."""
    import study.on_ray  # noqa: F401, I001  (sets Ray's environment before Ray is imported)

    import ray
    from ray import cloudpickle

    import tests.conftest as here

    cloudpickle.register_pickle_by_value(here)
    folder = tmp_path_factory.mktemp("ray")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={
            "env_vars": {"SAE_STUDY_TEST_FOLDER": str(folder)},
            "worker_process_setup_hook": here._install_accidents,
        },
    )
    yield folder
    ray.shutdown()
