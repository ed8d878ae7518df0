"""What users hang onto a study: callbacks, progress functions, threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from search_spaces import MisuseError, study_from
from study import launch
from study.on_ray.callbacks import Guarded, Turns, reporter
from tests.conftest import TINY

SPACE = {"architectures": ["5-3-5"], "sparsities": [0.5], "l1": [0.01], "seeds": "0:4"}


class Counting(tune.Callback):
    """Counts the packs that it is told of."""

    def __init__(self) -> None:
        self.packs = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.packs += 1


class Broken(Counting):
    """Raises after the first pack, as at a server that does not answer."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        super().on_trial_complete(iteration, trials, trial, **info)
        raise OSError("no answer")


def test_a_callback_that_raises_is_left_out() -> None:
    """It is warned of once; the others are called on."""
    broken, counting = Broken(), Counting()
    guarded = Guarded([broken, counting])
    with pytest.warns(RuntimeWarning, match="Broken raised OSError.*left out"):
        guarded.on_trial_complete(iteration=1, trials=[], trial=None)
    guarded.on_trial_complete(iteration=2, trials=[], trial=None)
    assert (broken.packs, counting.packs) == (1, 2)


def test_a_listener_that_raises_is_left_out() -> None:
    """A bar goes on where a user's function has failed; Ctrl-C is no failure of it."""
    seen: list[Any] = []
    report = reporter(lambda _: 1 / 0, seen.append, None)
    assert report is not None
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        report("first")  # type: ignore[arg-type]
    report("second")  # type: ignore[arg-type]
    assert seen == ["first", "second"]
    assert reporter(None, None) is None


def test_one_thread_at_a_time() -> None:
    """A second thread waits; the thread that has its turn is refused a second one."""
    turns, order = Turns(), []

    def second() -> None:
        with turns:
            order.append("second")

    with turns:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first")
        with pytest.raises(MisuseError, match="callback of a study launches another"), turns:
            pass
    thread.join()
    assert order == ["first", "second"]


def test_a_fork_of_a_process_that_has_run_a_study_is_refused() -> None:
    """Ray would hang in it. A fork of one that has not is as good as any process."""
    turns = Turns()
    turns.fork()
    with turns:
        pass
    turns.fork()
    with pytest.raises(MisuseError, match="'spawn' method"), turns:
        pass


@pytest.mark.ray
def test_callbacks_are_called_once_per_pack(local_ray: Path, tmp_path: Path) -> None:
    """Whatever another callback does: the study is done and every row is stored."""
    spec = study_from({"name": "s", "protocol": TINY, "pack_size": 2, "space": SPACE})
    counting = Counting()
    with pytest.warns(RuntimeWarning, match="Broken"):
        outcome = launch(spec, storage=tmp_path, callbacks=[Broken(), counting])
    assert (outcome.state, outcome.done, counting.packs) == ("done", 4, 2)


@pytest.mark.ray
def test_two_threads_launch_one_after_the_other(local_ray: Path, tmp_path: Path) -> None:
    """Both studies are done."""
    specs = [study_from({"name": name, "protocol": TINY, "space": SPACE}) for name in ("one", "other")]
    outcomes = []
    threads = [threading.Thread(target=lambda spec=spec: outcomes.append(launch(spec, storage=tmp_path))) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((outcome.study, outcome.done) for outcome in outcomes) == [("one", 4), ("other", 4)]
