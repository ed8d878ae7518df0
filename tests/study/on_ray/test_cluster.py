"""Studies on a cluster: what they request, what is refused, what is shipped."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import ray
import yaml
from typer.testing import CliRunner

import service
from service.cli import app as cli
from study.on_ray import cluster
from study.on_ray.cluster import GPU_SHARE, packs_at_a_time, resources_of_pack
from study.on_ray.trainable import PackTrainable
from tests.benchmarks import chaos
from tests.study.on_ray.test_driver import science, study, undisturbed

CLUSTERS = Path(service.__file__).parent / "clusters"
CPU_NODE, GPU_NODE = {"CPU": 16.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("engine", "nodes", "resources", "at_a_time"),
    [
        ("compiled", [CPU_NODE, GPU_NODE], {"CPU": 1.0}, 24),
        ("reference", [CPU_NODE], {"CPU": 1.0}, 16),
        ("torch", [CPU_NODE], {"CPU": 1.0}, 16),
        ("torch", [CPU_NODE, GPU_NODE], {"CPU": 1.0, "GPU": GPU_SHARE}, 4),  # by the GPU node alone
        ("torch", [GPU_NODE, {"CPU": 2.0, "GPU": 4.0}], {"CPU": 1.0, "GPU": GPU_SHARE}, 6),  # there CPUs are short
        ("compiled", [{"memory": 1e9}], {"CPU": 1.0}, 0),
    ],
)
def test_torch_asks_for_shares_of_gpus_and_the_others_for_cpus(
    engine: str, nodes: list[dict[str, float]], resources: dict[str, float], at_a_time: int
) -> None:
    """Without a GPU, torch trains on CPUs; the scarcer resource of a node limits how many packs it counts for."""
    assert resources_of_pack(engine, nodes) == resources
    assert packs_at_a_time(resources, nodes) == at_a_time


def test_node_that_sees_no_study_says_so(tmp_path: Path) -> None:
    """On a node that joins late and does not mount the storage, workers refuse to write rows where nobody would find them."""
    with pytest.raises(FileNotFoundError, match=r"study\.yaml is not seen on node"):
        PackTrainable.setup(PackTrainable.__new__(PackTrainable), {}, storage=str(tmp_path), study="s")
    assert not (tmp_path / "s").exists()


# On nodes of one machine


@pytest.fixture(scope="module")
def machines() -> Iterator[chaos.Machines]:
    """A cluster of three nodes to which separate drivers connect."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        machines = chaos.Machines(nodes=3)
        yield machines
        machines.stop()


def test_a_node_with_something_else_in_its_place_does_not_see_the_storage(tmp_path: Path) -> None:
    """A link that leads nowhere there, or a file: the storage is that of another machine."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("link", "file", "nothing"):
        assert not cluster._sees(str(tmp_path / name), "tiny", "visible.token")


@pytest.mark.slow
@pytest.mark.ray
def test_folder_of_one_machine_is_refused(machines: chaos.Machines, tmp_path: Path) -> None:
    """A path that only the driver can follow (its own open folder) is refused before anything starts, and left unchanged."""
    own = os.open(tmp_path, os.O_RDONLY)
    storage = f"/proc/self/fd/{own}"
    assert os.path.isdir(storage)
    line = [sys.executable, "-m", "service.cli", "launch", "smoke", "--address", machines.address, "--storage", storage]
    refused = subprocess.run(line, pass_fds=(own,), capture_output=True, text=True, timeout=120)
    os.close(own)
    assert refused.returncode == 2, refused.stderr
    assert "2 of the cluster's 2 other nodes do not see it" in refused.stderr
    assert "s3://" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
def test_workers_import_what_was_shipped(machines: chaos.Machines, tmp_path: Path) -> None:
    """They import the driver's packages, not what happens to be installed on their node."""
    code = (
        "import sys, ray; from study.on_ray.cluster import runtime_env\n"
        "def where():\n    import search_spaces, study.on_ray.trainable as t\n    return search_spaces.__file__, t.__file__\n"
        "ray.init(sys.argv[1], runtime_env=runtime_env(), logging_level='ERROR')\n"
        "print(*ray.get(ray.remote(where).remote()), sep='\\n')"
    )
    # Elsewhere, as Ray also tells workers where the driver was started.
    line = [sys.executable, "-c", code, machines.address]
    told = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert all("py_modules_files" in line for line in told.stdout.split()[-2:]), told.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_ray_client_has_the_study_driven_on_the_head(machines: chaos.Machines, tmp_path: Path) -> None:
    """The same rows through ray://, progress on this side, the driver's process on the other."""
    spec = study(seeds="0:2")
    (tmp_path / "given.yaml").write_text(json.dumps(spec.to_mapping()))
    line = [sys.executable, "-m", "service.cli", "launch", str(tmp_path / "given.yaml"), "--storage", str(tmp_path)]
    address = f"ray://127.0.0.1:{machines.client_port}"
    driven = subprocess.run([*line, "--address", address], capture_output=True, text=True, timeout=180)
    assert driven.returncode == 0, driven.stderr
    assert "16/16 replicates" in driven.stderr
    pd.testing.assert_frame_equal(science(tmp_path), undisturbed(spec), check_exact=True)


@pytest.mark.slow
@pytest.mark.ray
def test_study_outlives_a_node(machines: chaos.Machines, tmp_path: Path) -> None:
    """A node is killed in mid-study and another added: the rows of an undisturbed study, none lost, none twice."""
    told = chaos.strike(machines, "node", random.Random(0), tmp_path, chaos.undisturbed())
    assert told.unharmed
    assert (told.ended, told.resumed, told.rows) == (0, 0, 64)


# What ships for clusters


def test_cluster_file_is_what_ray_expects() -> None:
    """Ray's own schema; a head that trains nothing; every image of one version."""
    file = yaml.safe_load((CLUSTERS / "cluster.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(file, schema)
    types = file["available_node_types"]
    assert file["head_node_type"] in types
    assert types[file["head_node_type"]]["resources"]["CPU"] == 0
    assert sum(kind.get("max_workers", 0) for name, kind in types.items() if name == "cpu") <= file["max_workers"]
    images = {file["docker"]["image"], types["gpu"]["docker"]["worker_image"].removesuffix("-gpu")}
    assert images == {f"REGISTRY/sae-study:{version('sae-study')}"}


def test_ray_job_is_what_kuberay_expects(tmp_path: Path) -> None:
    """Field by field: names and types of KubeRay's RayJob (ray.io/v1)."""
    job = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"].keys() == {"name"}
    spec = job["spec"]
    expected = {"entrypoint": str, "backoffLimit": int, "activeDeadlineSeconds": int, "shutdownAfterJobFinishes": bool}
    expected |= {"ttlSecondsAfterFinished": int, "rayClusterSpec": dict}
    assert {key: type(value) for key, value in spec.items()} == expected
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert container.keys() <= {"name", "image", "ports", "resources", "envFrom"}
        assert container["image"] == f"REGISTRY/sae-study:{version('sae-study')}"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["envFrom"] == [{"secretRef": {"name": "sae-study-storage"}}]
    asked = spec["entrypoint"].split("--workers ")[1].split()[0]
    assert int(asked) == workers["maxReplicas"] * int(container["resources"]["limits"]["cpu"])


def test_ray_jobs_entrypoint_is_a_command_of_ours(tmp_path: Path) -> None:
    """It runs with `--dry-run`, and a folder in place of the bucket."""
    entrypoint: Any = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    program, *arguments = shlex.split(entrypoint.replace("s3://BUCKET/studies", str(tmp_path)))
    assert program == "sae-study"
    planned = CliRunner().invoke(cli.app, [*arguments, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["replicates"] > 0


def test_container_holds_what_it_copies() -> None:
    """Each source of a COPY is in the repository, and versions are those of constraints.txt, which pins Ray."""
    root = CLUSTERS.parent.parent
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "search_spaces", "study", "analysis", "service"} <= set(copied)
    assert all((root / source).exists() for source in copied)
    assert any("--constraint constraints.txt" in line for line in lines)
    assert f"ray=={ray.__version__}" in (root / "constraints.txt").read_text().splitlines()
