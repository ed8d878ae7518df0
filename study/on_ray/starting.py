"""Starts a Ray on this machine, or connects to a cluster."""

from __future__ import annotations

import logging
import os
import resource
import socket
import tempfile
from pathlib import Path

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import psutil
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from search_spaces.errors import MachineError, MisuseError
from study.machine import usable_cores
from study.on_ray import local_environment
from study.on_ray.cluster import OwnPath, runtime_env
from study.on_ray.signals import kill_with_descendants
from study.on_ray.sources import driver_path
from study.on_ray.watch import last_line

CLIENT = "ray://"
"""What the address of Ray's client server begins with."""
STORE_BYTES = 200 * 2**20
"""Size of the object store of a local Ray: it holds the packs that are laid out."""
SESSION_BYTES = 2**22
"""Room that the logs of a Ray need at its start."""
ADDRESS_BYTES = 4 * 10**9
"""Virtual memory that Ray's processes ask for each; with less it aborts in its own C++ code."""
LONGEST_FOLDER = 43
"""In bytes, of the folder of Ray's sessions. The path of a socket is 64 longer and must not exceed 107."""


def local_workers(workers: int | None) -> int:
    """How many workers a local Ray gets: as many as requested, or one per usable core."""
    if workers is not None and workers < 1:
        raise MisuseError(f"workers={workers} is below 1. Leave it out for one per core.")
    return workers or usable_cores()


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
    if address is None:
        _start_here(local_workers(workers))
    else:
        _join(address)


def read_variables_again() -> None:
    """Let Ray forget the token and the settings that it has read from the environment."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _refuse_small_limit() -> None:
    """Raise MisuseError if this process, and so Ray, may not have enough virtual memory."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_BYTES:
        raise MisuseError(
            f"virtual memory is limited to {limit / 1e9:.1f} GB (`ulimit -v`), and a Ray on this machine needs "
            f"{ADDRESS_BYTES / 1e9:.0f} GB. Raise the limit, or give the --address of a cluster."
        )


def _start_here(cpus: int) -> None:
    _refuse_small_limit()
    folder = session_folder()
    small = {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_plasma_directory": _store_folder(folder)}
    before = _children()
    with local_environment():
        read_variables_again()
        try:
            logged = {"logging_level": "CRITICAL", "log_to_driver": False}
            ray.init("local", num_cpus=cpus, job_config=OwnPath(driver_path()), _temp_dir=folder, **small, **logged)
        except Exception as error:  # Ray raises Exception itself
            kill_with_descendants(_children() - before)
            raise MachineError(
                f"Ray cannot start on this machine ({last_line(error)}). Its logs are in {folder}/session_latest/logs. Look at the "
                "limits on processes, open files and memory (`ulimit -a`), and at the space in /dev/shm and in that folder."
            ) from None
    logging.getLogger("ray").setLevel(logging.ERROR)


def session_folder() -> str:
    """The folder for Ray's sessions: in $RAY_TMPDIR, or the first in the temporary folders that can be used.

    Raises MisuseError or MachineError if there is none.
    """
    if chosen := os.environ.get("RAY_TMPDIR"):
        if reason := _unfit(Path(chosen, "ray")):
            raise MisuseError(f"RAY_TMPDIR={chosen!r} cannot hold Ray's sessions: {reason}. Name another folder, or leave it out.")
        return os.path.join(chosen, "ray")
    places = [Path(top, name) for top in (tempfile.gettempdir(), "/tmp") for name in ("ray", f"ray-{os.getuid()}")]
    reasons = [_unfit(place) for place in places]
    if all(reasons):
        raise MachineError(
            f"Ray has no folder for its sessions: {reasons[-1]}. Set RAY_TMPDIR to a folder with some space, whose path is short."
        )
    return str(places[reasons.index(None)])


def _unfit(folder: Path) -> str | None:
    """Why Ray cannot keep its sessions in the folder, or None if it can."""
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"'{folder}' is longer than {LONGEST_FOLDER} bytes, which leaves no room for the names of sockets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder, SESSION_BYTES)
    except OSError as error:
        return f"{str(folder)!r} cannot be written ({error.strerror})"
    return None


def _fill(folder: Path | str, size: int) -> None:
    """Raise OSError unless the folder takes a file of this size."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _store_folder(folder: str) -> str:
    """Where Ray's object store lies: in shared memory if that is there, can be written and is large enough, or on disk."""
    try:
        _fill("/dev/shm", STORE_BYTES)
    except OSError:
        return folder
    return "/dev/shm"


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _join(address: str) -> None:
    chosen = "RAY_AUTH_MODE" in os.environ
    try:
        read_variables_again()
        if address.startswith(CLIENT):
            ray.init(address, runtime_env=runtime_env(), logging_level="ERROR", log_to_driver=False)
            return
        head = canonicalize_bootstrap_address(address)
        if _wants_token(head) and (not maybe_enable_token_auth_if_token_available(warn_if_disabled=False) or _wants_token(head)):
            raise MisuseError(
                f"the Ray cluster at address={address!r} requires a token, and not the one in ~/.ray/auth_token or RAY_AUTH_TOKEN "
                "here. On its head `ray get-auth-token` prints it: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to it."
            )
        ray.init(head, runtime_env=runtime_env(), job_config=OwnPath(), logging_level="ERROR", log_to_driver=False)
    except MisuseError:
        raise
    except (ConnectionError, RuntimeError, ValueError, ImportError, RayError) as error:
        raise MisuseError(
            f"Ray cannot be reached at address={address!r} ({last_line(error)}). If the cluster requires a token, set "
            "RAY_AUTH_MODE=token and give the token here too."
        ) from None
    finally:
        if not chosen:
            os.environ.pop("RAY_AUTH_MODE", None)


def _wants_token(head: str) -> bool:
    """Whether the cluster refuses this process as it is. Ray itself asks for twenty seconds, and says so many times."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        GcsClient(address=head)
    except AuthenticationError:
        return True
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
    return False
