"""What a study needs from a Ray cluster: its own code on the nodes, a storage that they see, CPUs or shares of GPUs."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.util.client
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import search_spaces
import study
from search_spaces.errors import MachineError, MisuseError
from study.on_ray.sources import driver_path, found, refuse_others, sources
from study.storage.study_folder import Storage, StudyFolder

GPU_SHARE = 0.25
"""Share of a GPU for one pack of the torch engine: while it draws data or computes metrics, other packs use the device."""
PROBE_SECONDS = 30.0
"""How long a node may take to say whether it sees the storage; the check does not wait longer for it."""


def runtime_env() -> dict[str, Any]:
    """Ships the packages that workers import: a cluster's nodes need only the dependencies, not this project itself.

    They come first on the workers' path. The folders of this process's own path follow, for nodes that mount them: modules that
    register variants, metrics or verdicts may lie there.
    """
    packages = [str(Path(package.__path__[0])) for package in (search_spaces, study)]
    if not all(map(os.path.isdir, packages)):
        raise MisuseError(f"sae-study is imported from an archive ({packages[0]}), and Ray ships folders. Install it.")
    folders = [folder for folder in driver_path() if not folder.startswith((sys.prefix, sys.base_prefix))]
    return {"py_modules": packages, "excludes": ["**/__pycache__"], "env_vars": {"PYTHONPATH": os.pathsep.join(folders)}}


class OwnPath(JobConfig):
    """Gives workers this path and no other: Ray would put the working directory and the script's folder first, whatever lies there.

    It leaves them out for a job whose runtime environment has a working directory.
    """

    def __init__(self, path: Sequence[str] = ()) -> None:
        super().__init__(_py_driver_sys_path=list(reversed(path)))  # workers put one after the other first

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@dataclass(frozen=True)
class Crew:
    """How many packs a study trains at a time, and the resources that each requests from Ray."""

    resources: dict[str, float]
    at_once: int
    """Trials that Tune keeps in flight. On a cluster that grows on demand, the size to which it should grow."""
    there: int
    """How many packs the cluster has room for now."""

    @classmethod
    def of(cls, engine: str, workers: int | None) -> Crew:
        """The crew for packs of an engine; workers: how many packs at a time, or None for as many as the cluster has room for."""
        nodes = [node["Resources"] for node in _alive_nodes()]
        resources = resources_of_pack(engine, nodes)
        there = packs_at_a_time(resources, nodes)
        if not workers and not there:
            raise MisuseError(
                "the Ray cluster has no CPU to give. Add a node with CPUs; if the cluster grows on demand, say with --workers "
                "how many packs to train at a time; or leave --address out."
            )
        return cls(resources, workers or there, min(there, workers or there))


def is_alive(node: str | None) -> bool:
    """Whether the cluster still has the node of this id."""
    return any(one["NodeID"] == node for one in _alive_nodes())


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def resources_of_pack(engine: str, nodes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The resources that one pack requests from Ray: a CPU and, for `torch`, a share of a GPU if any node has one.

    nodes: the resources that each node declares. Ray then places torch packs on nodes with GPUs, and the other nodes stay
    free for studies whose engines use CPUs.
    """
    gpu = engine == "torch" and any(node.get("GPU", 0) > 0 for node in nodes)
    return {"CPU": 1.0, "GPU": GPU_SHARE} if gpu else {"CPU": 1.0}


def packs_at_a_time(resources: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> int:
    """How many packs that request these resources the nodes can train at once."""
    return sum(int(min(node.get(name, 0) / share for name, share in resources.items())) for node in nodes)


def pinned_here() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's own node, so that the loss of another node does not end it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Relay:
    """An actor that keeps the progress reports of a driver on the cluster until the client fetches them."""

    def __init__(self) -> None:
        self._reports: list[Any] = []

    def put(self, progress: Any) -> None:
        self._reports.append(progress)

    def take(self) -> list[Any]:
        """The reports since the last call."""
        reports, self._reports = self._reports, []
        return reports


def refuse_other_sources() -> None:
    """Raise MisuseError if the workers of a node would import other sources than this process did."""
    ours = sources()
    for host, theirs in _answers(found, [*ours], nodes=_alive_nodes()):
        refuse_others(ours, theirs, host)


def refuse_unseen_storage(folder: StudyFolder) -> None:
    """Raise MisuseError if a node that may train packs does not see what the driver writes, as with a path of this machine alone.

    The driver writes a file, and a task on every other node looks for it. Through Ray's client, which runs on no node, a task
    on every node does. URIs of object stores need no check: they are the same everywhere.
    """
    if not folder.storage.is_local:
        return
    here = None if ray.util.client.ray.is_connected() else ray.get_runtime_context().get_node_id()
    others = [node for node in _alive_nodes() if node["NodeID"] != here and (here is None or node["Resources"].get("CPU", 0) >= 1)]
    if not others:
        return
    token = f"visible.{uuid.uuid4().hex}"
    folder.write_text(token, "")
    try:
        answers = _answers(_sees, folder.storage.place(), folder.name, token, nodes=others)
        blind = [host for host, sees in answers if not sees]
    finally:
        folder.delete(token)
    if blind:
        raise MisuseError(
            f"storage={folder.storage.given!r} is a folder of this machine: {len(blind)} of the cluster's {len(others)} other "
            f"nodes do not see it ({', '.join(sorted(set(blind))[:3])}). Give a folder that all of them mount, or a URI such as "
            "s3://bucket/folder."
        )


def _answers(question: Callable[..., Any], *arguments: Any, nodes: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """What a task on each node returns, by host, for the nodes that answer within PROBE_SECONDS and do not leave meanwhile."""
    tasks = {
        ray.remote(question)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(*arguments): node
        for node in nodes
    }
    answered, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=PROBE_SECONDS)
    answers = []
    for task in answered:
        node, host = tasks[task]["NodeID"], tasks[task]["NodeManagerHostname"]
        try:
            answers.append((host, ray.get(task)))
        except RayError as error:
            if is_alive(node):
                raise MachineError(f"workers on {host} do not work: {str(error).strip().splitlines()[-1]}") from None
    return answers


def _sees(storage: str, study: str, name: str) -> bool:
    """Whether this node sees a file of the study. It may have something else in the storage's place, which is no storage here."""
    try:
        return Storage.at(storage).study(study).read_text(name) is not None
    except (MachineError, MisuseError):
        return False
