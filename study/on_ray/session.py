"""The Ray that a study runs on: has it started or joined, and shuts it down if it was started here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray

from study.on_ray.signals import ctrl_c_held, handlers_kept, kill_with_descendants
from study.on_ray.starting import read_variables_again, start_ray


@contextlib.contextmanager
def ray_running(address: str | None, workers: int | None) -> Iterator[None]:
    """A context with a Ray to run on, which is shut down afterwards if it was started here."""
    if ray.is_initialized():
        yield
        return
    with handlers_kept(), ctrl_c_held():
        start_ray(address, workers)
    try:
        yield
    except KeyboardInterrupt:
        if address is None:
            _shut_down_at_once()
        raise
    finally:
        ray.shutdown()
        read_variables_again()


def _shut_down_at_once() -> None:
    """Let `ray.shutdown` kill the Ray that was started here without a grace period: packs in flight are lost anyway."""
    node = ray._private.worker._global_node
    kill = node.kill_all_processes

    def kill_at_once(**_: object) -> None:
        kill_with_descendants(process.pid for _, process in node.live_processes())
        kill(check_alive=False, allow_graceful=False)

    node.kill_all_processes = kill_at_once
