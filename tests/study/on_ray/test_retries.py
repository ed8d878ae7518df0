"""Lost nodes, dead workers and errors: which is which, and how often a pack is tried again after each."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

from study.on_ray import retries
from study.on_ray.pack_queues import PackQueue
from study.on_ray.retries import TRIES, Fault, fault_of, out_of_memory
from study.packs import Pack, missing_packs
from tests.study.on_ray.test_driver import study


@pytest.mark.parametrize(
    ("error", "node", "fault"),
    [
        (RayActorError(), "there", Fault.DIED),
        (WorkerCrashedError(), "there", Fault.DIED),
        (RayActorError(), "gone", Fault.LOST),
        (RayActorError(), None, Fault.LOST),  # nobody came for the pack
        (ActorUnavailableError("silent", None), "there", Fault.LOST),
        (ZeroDivisionError("a fault of the program"), "there", Fault.RAISED),
        ("1 worker(s) were killed due to the node running low on memory. Memory on …", "there", Fault.STARVED),
        ("no error was recorded", "gone", Fault.RAISED),
    ],
)
def test_a_worker_gone_is_a_lost_node_where_its_node_is_gone(
    error: BaseException | str, node: str | None, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the node is alive, the worker died by itself; anything else that ended the trial was raised."""
    monkeypatch.setattr(retries, "is_alive", lambda one: one == "there")
    assert fault_of(error, lambda: node) is fault


def test_a_machine_without_memory_is_told_with_its_figures() -> None:
    """Those of Ray's text, which is long; another text does without."""
    text = "1 worker(s) were killed. Memory on the node (IP: 192.0.2.2) was 22.61GB used / 23.54GB limit (0.96)\nRefer to …"
    assert "5 times: 22.61GB of 23.54GB are in use. Free memory" in str(out_of_memory(text))
    assert "5 times. Free memory" in str(out_of_memory("otherwise"))


class Tuning:
    """A queue of one pack, driven as Tune would drive it."""

    def __init__(self, size: int) -> None:
        self.poisoned: list[Pack] = []
        pack = missing_packs(study(), ())[0][0].take(slice(0, size))
        self.queue = PackQueue([pack], lambda pack: None, self.poisoned.append)
        self.trials = 0

    def fails(self, fault: Fault, times: int = 1) -> list[Pack | None]:
        """Let this many trials end in the fault; returns the packs that the queue gives up."""
        given_up = []
        for _ in range(times):
            self.trials += 1
            assert isinstance(self.queue.suggest(str(self.trials)), dict)
            self.queue.on_trial_complete(str(self.trials), error=True)
            given_up.append(self.queue.retry(str(self.trials), fault))
        return given_up

    @property
    def finished(self) -> bool:
        return self.queue.suggest("last") == PackQueue.FINISHED


def test_lost_nodes_are_not_the_packs_fault() -> None:
    """A pack whose nodes are lost goes to others, whole; after a bound it is given up, and is never called poisonous."""
    tuning = Tuning(size=1)
    *again, last = tuning.fails(Fault.LOST, TRIES[Fault.LOST])
    assert again == [None] * (TRIES[Fault.LOST] - 1)
    assert last is not None
    assert tuning.finished
    assert not tuning.poisoned


def test_packs_are_halved_after_workers_died_alone() -> None:
    """Lost nodes between the deaths do not count: two replicates, six deaths, two rows that say `crashed`."""
    tuning = Tuning(size=2)
    tuning.fails(Fault.LOST, 5)
    tuning.fails(Fault.DIED, 2)
    tuning.fails(Fault.RAISED)
    assert tuning.fails(Fault.DIED) == [None]
    for _ in range(2):
        assert len(tuning.poisoned) < 2
        tuning.fails(Fault.DIED, TRIES[Fault.DIED])
    assert [len(pack) for pack in tuning.poisoned] == [1, 1]
    assert tuning.finished
