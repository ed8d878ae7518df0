"""Starts a Ray on this machine, or connects to a cluster."""

from __future__ import annotations

import os
import socket
from typing import Any

import ray

from search_spaces.errors import MisuseError
from study.machine import usable_cores
from study.on_ray.cluster import OwnPath, runtime_env
from study.on_ray.sources import driver_path
from study.on_ray.watch import last_line

CLIENT = "ray://"
"""What the address of Ray's client server begins with."""


def local_workers(workers: int | None) -> int:
    """How many workers a local Ray gets: as many as requested, or one per usable core."""
    if workers is not None and workers < 1:
        raise MisuseError(f"workers={workers} is below 1. Leave it out for one per core.")
    return workers or usable_cores()


def refuse_deleted_folder() -> None:
    """Raise MisuseError if the working directory has been deleted: Ray asks for it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MisuseError("the working directory has been deleted, and Ray needs one. Change to a folder that exists.") from None


def refuse_unreachable(address: str | None) -> None:
    """Raise MisuseError if nothing listens at the address of a Ray cluster."""
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise MisuseError(f"address={address!r} is not a Ray address. Write host:port, or auto.")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            speaks_grpc = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, UnicodeError) as error:
        raise MisuseError(
            f"address={address!r} cannot be reached ({error}). Start Ray there (`ray start --head`), or leave --address out "
            "for a local Ray."
        ) from None
    if not speaks_grpc:
        raise MisuseError(f"address={address!r} answers, but not as Ray does. Give the port of the head itself, 6379 by default.")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server listens, as Ray's does: it answers HTTP/2's preface with a SETTINGS frame (RFC 9113, 3.4).

    Ray itself waits for minutes at the port of anything else, its own dashboard's included.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    head = connection.recv(9)
    return len(head) > 3 and head[3] == 4


def start_ray(address: str | None, workers: int | None) -> None:
    """Connect this process to the cluster at the address, or to a local Ray of this many workers that is started for it."""
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cpus = local_workers(workers)
            small = {"include_dashboard": False, "object_store_memory": 200 * 2**20}
            ray.init("local", num_cpus=cpus, job_config=OwnPath(driver_path()), **small, **quiet)
        elif address.startswith(CLIENT):
            ray.init(address, runtime_env=runtime_env(), **quiet)
        else:
            ray.init(address, runtime_env=runtime_env(), job_config=OwnPath(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise MisuseError(
            f"Ray cannot be reached at address={address!r} ({last_line(error)}). If the cluster requires a token, set "
            "RAY_AUTH_MODE=token and give the token here too."
        ) from None
