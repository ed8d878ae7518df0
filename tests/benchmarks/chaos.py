"""Kill a part of a cluster in mid-study, again and again: `python -m tests.benchmarks.chaos --repeats 20`.

A cluster of four nodes on this machine runs a study through `sae-study`. At a random moment the driver, a worker, a node
(another comes in its place) or the head is killed, by SIGKILL. If the driver ends without having finished, on a lost head
after it has noticed that by itself and the cluster was started again, `sae-study resume` continues. Every round's rows must be
those of an undisturbed study: the same science columns, none lost, none twice. Prints a table; the exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads these as it starts: a head that is gone is given up after seconds, not after a minute.
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # noqa: SIM112  (so Ray spells it)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pandas as pd
from ray.cluster_utils import Cluster

from study import run_here
from study.storage.schema import science_columns
from study.storage.study_folder import Storage
from tests.benchmarks.machine import machine

VICTIMS = ("driver", "worker", "node", "head")
NODES = 4
STUDY: dict[str, Any] = {
    "name": "chaos",
    "engine": "reference",
    "pack_size": 4,
    "protocol": {"base": "dissertation", "samples": 500, "ae_epochs": 1, "sae_epochs": 8},
    "space": {"architectures": ["5-3-5", "10-5-10"], "sparsities": [0.5, 0.9], "l1": [0.01, 0.1], "seeds": "0:8"},
}
"""64 replicates in 16 packs of about a second."""
LONGEST = 180.0
"""Seconds that a driver may take."""


@dataclass(frozen=True)
class Round:
    """The outcome of a study whose cluster had an accident."""

    victim: str
    at: int
    """Shards that were there when it struck."""
    ended: int
    """Exit status of the driver that it struck; negative for a signal."""
    resumed: int
    """Replicates that `resume` had to train; 0 where the study ended by itself."""
    rows: int
    lost: int
    twice: int
    """Replicates that lie in more than one shard."""
    identical: bool
    """The science columns, to the bit."""
    seconds: float

    @property
    def unharmed(self) -> bool:
        return self.identical and not self.lost and not self.twice


class Machines:
    """Nodes of one CPU on this machine, the head among them."""

    def __init__(self, nodes: int = NODES) -> None:
        self.nodes = nodes
        self.start()

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.client_port = free.getsockname()[1]
        head = _node(include_dashboard=False, ray_client_server_port=self.client_port)
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self.nodes - 1):
            self.cluster.add_node(**_node())

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def stop(self) -> None:
        self.cluster.shutdown()

    def kill_node(self, source: random.Random) -> None:
        """Kill a node that is not the head; another one replaces it."""
        self.cluster.remove_node(source.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)), False)
        self.cluster.add_node(**_node())

    def kill_head(self) -> None:
        """Kill the head with its node; the other nodes notice by themselves."""
        self.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    def kill_worker(self, source: random.Random) -> None:
        """Kill a process that is training a pack."""
        os.kill(source.choice(self._workers()), signal.SIGKILL)

    def _workers(self) -> list[int]:
        """Children of the nodes' raylets that hold a trial."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent in raylets and b"Trainable.train" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it has just ended
                continue
        return sorted(found)


def _node(**more: Any) -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": 80 * 2**20, **more}


def strike(machines: Machines, victim: str, source: random.Random, storage: Path, truth: pd.DataFrame) -> Round:
    """One study, one accident."""
    began = time.monotonic()
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "given.yaml").write_text(json.dumps(STUDY))
    driver = _command("launch", str(storage / "given.yaml"), machines, storage)
    folder = Storage.at(storage).study(STUDY["name"])
    moment = source.randint(1, 10)
    while len(folder.shard_ids()) < moment:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() - began < LONGEST
        time.sleep(0.02)
    time.sleep(source.uniform(0, 0.5))
    at = len(folder.shard_ids())
    if victim == "driver":
        driver.kill()
    elif victim == "worker":
        machines.kill_worker(source)
    elif victim == "node":
        machines.kill_node(source)
    else:
        machines.kill_head()
    driver.communicate(timeout=LONGEST)
    if victim == "head":
        machines.stop()
        machines.start()
    resumed = 0
    if driver.returncode != 0:
        again = _command("resume", STUDY["name"], machines, storage, "--json", "--force")
        printed, errors = again.communicate(timeout=LONGEST)
        assert again.returncode == 0, errors
        resumed = json.loads(printed)["trained"]
    return _told(folder, truth, victim, at, driver.returncode, resumed, time.monotonic() - began)


def _command(verb: str, what: str, machines: Machines, storage: Path, *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "service.cli", verb, what, "--storage", str(storage), "--address", machines.address, *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _told(folder: Any, truth: pd.DataFrame, victim: str, at: int, ended: int, resumed: int, seconds: float) -> Round:
    shards = [folder.read_shard(pack_id, ["replicate_id"]) for pack_id in folder.shard_ids()]
    times = Counter(i for shard in shards if shard is not None for i in shard["replicate_id"].to_pylist())
    rows = folder.read_shards().rows.to_pandas()[science_columns()].sort_values("replicate_id", ignore_index=True)
    lost = len(set(truth["replicate_id"]) - set(rows["replicate_id"]))
    twice = sum(count > 1 for count in times.values())
    return Round(victim, at, ended, resumed, len(rows), lost, twice, rows.equals(truth), seconds)


def undisturbed() -> pd.DataFrame:
    """The study's science columns from one process without Ray, by replicate_id."""
    return run_here(STUDY).to_pandas()[science_columns()].sort_values("replicate_id", ignore_index=True)


def rounds(victims: list[str], seed: int, storage: Path) -> list[Round]:
    """One study after the other on one cluster, each with its accident."""
    source, truth = random.Random(seed), undisturbed()
    machines, told = Machines(), []
    try:
        for number, victim in enumerate(victims):
            told.append(strike(machines, victim, source, storage / str(number), truth))
            print(_line(number, told[-1]), flush=True)
    finally:
        machines.stop()
    return told


def _line(number: int, one: Round) -> str:
    verdict = "the same" if one.identical else "OTHER"
    cells = (number + 1, one.victim, one.at, one.ended, one.resumed, one.rows, one.lost, one.twice, verdict, f"{one.seconds:.0f}")
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Run the rounds and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = random.Random(options.seed)
    victims = [VICTIMS[i % len(VICTIMS)] for i in range(options.repeats)]
    source.shuffle(victims)
    print(f"{machine()}\n")
    print("| round | victim | shards then | driver's exit | resumed | rows | lost | twice | science | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        told = rounds(victims, options.seed, Path(folder))
    harmed = sum(not one.unharmed for one in told)
    print(f"\n{len(told)} rounds, {harmed} with rows lost, twice or other than undisturbed.")
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    main()
