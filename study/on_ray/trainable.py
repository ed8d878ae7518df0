"""Ray's side of a worker: one Tune trial trains one pack and writes its shard.

`PackTrainable` is an ordinary class Trainable: give it to a Tuner of your own together with a `Desk`.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from search_spaces.errors import MachineError, MisuseError
from search_spaces.failures import verdicts
from study.on_ray.sources import Found, found, refuse_others
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.study_folder import Storage

GATE_SECONDS = 30.0
"""How long a worker waits for the others before its first pack."""


class Desk:
    """An actor that hands out packs and opens the start gate.

    A trial's configuration holds a pack's id alone, because Tune copies configurations into every file it writes. The gate
    holds each worker's first pack back until all workers have arrived. Without it, with reused actors and short trials, Tune
    gives a finished trial's actor to a pending trial and discards the actor that was being started for that one, so that a
    few workers end up doing everything.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._arrived: set[tuple[str, int]] = set()
        self._packs: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        self._spare: deque[tuple[str, str]] = deque()
        self._taken: dict[str, str] = {}
        self._over = False

    def put(self, pack_id: str, text: str) -> None:
        """Lay out a pack, as `Pack.to_text` writes it."""
        self._packs[pack_id] = text
        self._nodes.pop(pack_id, None)

    def pack(self, pack_id: str, node: str) -> str | None:
        """The text of a pack, for a worker on this node; None if it is not laid out yet."""
        self._nodes[pack_id] = node
        return self._packs.get(pack_id)

    def put_spare(self, pack_id: str, text: str) -> None:
        """Lay out a pack for the first trial that asks for one without having a pack assigned."""
        self._spare.append((pack_id, text))

    def spare(self, trial_id: str, node: str) -> str | None:
        """The text of a pack for a trial that started without one; None if there is none yet, "" if none will follow."""
        self._nodes[trial_id] = node
        if trial_id not in self._taken and self._spare:
            self._taken[trial_id], self._packs[trial_id] = self._spare.popleft()
        return self._packs.get(trial_id, "" if self._over else None)

    def taken(self, trial_id: str) -> str | None:
        """The id of the spare pack that went to the trial."""
        return self._taken.get(trial_id)

    def no_more(self) -> None:
        """Tell the trials that wait, and those to come, that no spare pack will follow."""
        self._over = True

    def node_of(self, name: str) -> str | None:
        """The node that fetched the pack since it was last laid out; None if none did."""
        return self._nodes.get(name)

    def arrive(self, node: str, pid: int) -> bool:
        """Register a worker; True once all have arrived."""
        self._arrived.add((node, pid))
        return len(self._arrived) >= self._workers

    def workers(self) -> int:
        """How many distinct workers have arrived."""
        return len(self._arrived)


class PackTrainable(tune.Trainable):
    """Trains a pack, stores its rows in the study's folder and reports one result line.

    Its configuration is {"pack_id": id}; or {"pack_id": "", "spare_for": trial_id} for a trial that waits for a spare pack.
    """

    def setup(
        self,
        config: dict[str, Any],
        storage: str = "",
        study: str = "",
        desk: Any = None,
        sources: Mapping[str, Found] | None = None,
    ) -> None:
        self._folder = Storage.at(storage).study(study)
        if not self._folder.exists():  # a node that joined late and does not mount the storage
            raise FileNotFoundError(f"{self._folder.place('study.yaml')} is not seen on node {os.uname().nodename}")
        self._sources = sources or {}
        self._desk = desk
        self._node = ray.get_runtime_context().get_node_id()
        self._waited = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True  # nothing is kept between packs

    def step(self) -> dict[str, Any]:
        if not self._waited:
            self._refuse_other_sources()
            self._wait_for_the_others()
        pack_id = self.config["pack_id"]
        ask = self._desk.pack if pack_id else self._desk.spare
        while (text := ray.get(ask.remote(pack_id or self.config["spare_for"], self._node))) is None:
            time.sleep(0.05)  # not laid out yet: a search decides what comes next
        if not text:
            return {"done": True, "replicates": 0}
        began = time.perf_counter()
        pack = Pack.from_text(text)
        rows = run_pack(pack, study=self._folder.name, trial_id=self.trial_id)
        self._folder.refuse_gone()
        shard = self._folder.write_shard(pack.pack_id, rows)
        failures = Counter(rows["failure"].to_pylist())
        return {
            "done": True,
            "pack_id": pack.pack_id,
            "shard": shard,
            "architecture": str(pack.replicates.architecture),
            "replicates": len(pack),
            "failures": {verdict.name: failures[verdict.name] for verdict in verdicts()},
            "pack_seconds": time.perf_counter() - began,
        }

    def _refuse_other_sources(self) -> None:
        """A node that joined late may have other sources than the driver. Tune would lose the kind of an error in `setup`."""
        try:
            refuse_others(self._sources, found(self._sources), os.uname().nodename)
        except MisuseError as error:
            raise MachineError(str(error)) from None

    def _wait_for_the_others(self) -> None:
        deadline = time.monotonic() + GATE_SECONDS
        while not self._waited and time.monotonic() < deadline:
            self._waited = ray.get(self._desk.arrive.remote(self._node, os.getpid()))
            if not self._waited:
                time.sleep(0.05)
        self._waited = True
