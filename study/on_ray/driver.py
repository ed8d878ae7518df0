"""Launch and resume a study: plan what is missing, hand packs to Ray Tune, stop cleanly.

The only module that starts Ray. A resumed study is a new Tuner run for exactly the replicates that no shard holds;
`Tuner.restore` is not used (a torn snapshot makes it restart a study silently).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.compute as pc
import ray
import yaml
from ray import cloudpickle, tune
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.tune.logger import JsonLoggerCallback

from search_spaces.errors import MisuseError
from search_spaces.learners.contract import Learner
from search_spaces.protocol import PROCEDURE_VERSION
from search_spaces.study_files import StudySpec
from study.engines.registry import engine_named
from study.failures import FailureKind
from study.on_ray.cluster import Crew, Relay, is_alive, pinned_here, refuse_unseen_storage, runtime_env
from study.on_ray.domains import study_from_domains
from study.on_ray.pack_queues import Fault, LearnerQueue, PackQueue
from study.on_ray.trainable import Desk, PackTrainable
from study.packs import Pack, missing_packs, physical_cores, plan_packs
from study.searching.batches import COLUMNS, Batches
from study.searching.learner_of import earlier_rows, learner_of
from study.specification import changed, study_spec
from study.storage.status import DRIVER_FILE, STOP_FILE, DriverRecord, existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder
from study.verdict_rows import crashed_rows

CLIENT = "ray://"
"""What the address of Ray's client server begins with."""
CANCEL_SECONDS = 10.0
"""How long Ctrl-C waits for a driver on the cluster to write down that it stopped."""
PATIENCE_SECONDS = 0.3
"""How long Ctrl-C lets Tune save its result lines."""


@dataclass(frozen=True)
class Progress:
    """How far a running study is."""

    planned: int
    """Replicates of the study; of a search, the most that it trains."""
    done: int
    """Replicates whose rows are there, earlier runs included."""
    trained: int
    """Replicates trained in this run."""
    seconds: float
    """Since this run's first pack was handed out."""
    failures: Mapping[str, int]
    """Rows of this run by FailureKind, `none` left out."""
    learned: Mapping[str, float] = field(default_factory=dict)
    """What a search's learner says of how far it is."""

    @property
    def rate(self) -> float:
        """Replicates a second in this run."""
        return self.trained / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """At the present rate; inf before the first pack is done."""
        return (self.planned - self.done) / self.rate if self.rate > 0 else math.inf


@dataclass(frozen=True)
class Outcome:
    """What a launch or resume came to."""

    study: str
    path: str
    state: str
    """`done`, `stopped` (rows are missing), or `failed` (a pack raised)."""
    planned: int
    done: int
    trained: int
    """Replicates trained in this run."""
    failures: dict[str, int]
    """Rows of this run by FailureKind, `none` left out."""
    seconds: float
    engine: str
    """The engine that trained: what `auto` stands for."""
    errors: tuple[str, ...] = field(default=())
    """What packs raised: faults of the program, not of replicates."""
    learner: Learner | None = field(default=None, repr=False, compare=False)
    """A search's, as it ended."""


def launch(
    space: str | Path | StudySpec | Mapping[str, Any],
    *,
    name: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    seeds: str | None = None,
    pack_size: int | str | None = None,
    search: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    storage: str | Path = DEFAULT_STORAGE,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run a study to its end, or on to its end if it was begun before with the same specification.

    space: a named space, a study file, a `StudySpec`, the mapping that a study file holds, or Ray Tune's domains
    {"architecture": …, "sparsity": …, "l1": …, "seed": …} (see `study_from_domains`). The other arguments override
    what it says. With search, {"kind": "map", …} or {"kind": "l1", …} and the fields of `MapSearch` or `L1Search`, it
    trains what an adaptive search of the space's ranges asks for.

    Uses the Ray of this process if there is one; else connects to `address`, or starts a local Ray of `workers` CPUs and
    stops it afterwards. Raises MisuseError before anything starts when something cannot be;
    KeyboardInterrupt (Ctrl-C) keeps what is done.
    """
    if isinstance(space, Mapping) and "space" not in space:
        space = study_from_domains(space, num_samples)
    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=pack_size, search=search
    )
    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    return _run(folder, spec, address=address, workers=workers, force=force, on_progress=on_progress)


def resume(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    pack_size: int | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
    retry_crashed: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train the replicates of an existing study that no shard holds, in a new Tuner run.

    retry_crashed: those whose row says `crashed` too: a machine short of memory kills workers as a replicate may.
    """
    folder = existing_study(name, str(storage))
    spec = read_spec(folder)
    if pack_size is not None:
        spec = changed(spec, pack_size=pack_size)
    return _run(folder, spec, address=address, workers=workers, force=force, retry_crashed=retry_crashed, on_progress=on_progress)


def refuse_other_specification(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise MisuseError if the study's folder holds another study than this one, or something that is no study."""
    if not folder.exists() and (other := set(folder.listing()) - {DRIVER_FILE, STOP_FILE}):
        raise MisuseError(
            f"{folder.place()} is there and is no study (it holds {min(other)}). Choose another --name or --storage; "
            "nothing in it was touched."
        )
    if folder.exists() and (stored := read_spec(folder)).science() != spec.science():
        differing = [key for key, value in spec.science().items() if value != stored.science().get(key)]
        raise MisuseError(
            f"study={spec.name!r} exists in {folder.storage.given!r} with another specification (it differs in "
            f"{', '.join(differing)}). Give this one another name with --name, or `{folder.command('resume')}` the old one."
        )


def refuse_other_procedure(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise MisuseError if the study's rows were made by a procedure, or an engine family, that this one cannot go on with."""
    manifest = folder.read_json("manifest.json") or {}
    for key, ours in (("procedure_version", PROCEDURE_VERSION), ("engine_family", engine_named(spec.engine).family)):
        theirs = manifest.get(key, ours)
        if theirs != ours:
            raise MisuseError(
                f"study={folder.name!r} was made with {key}={theirs}, this is {ours}: their rows are not comparable. Launch a "
                "study of another --name, or go on with the version that began this one (manifest.json names it)."
            )


def local_workers(workers: int | None) -> int:
    """How many workers a local Ray gets: as many as asked for, or one a physical core.

    Two threads of one core share its divider, which is what training waits for.
    """
    if workers is not None and workers < 1:
        raise MisuseError(f"workers={workers} is below 1. Leave it out for one a core.")
    return workers or physical_cores()


def _run(
    folder: StudyFolder,
    spec: StudySpec,
    *,
    address: str | None,
    workers: int | None,
    force: bool,
    on_progress: Callable[[Progress], None] | None,
    retry_crashed: bool = False,
) -> Outcome:
    local_workers(workers)  # refuses a number below 1
    refuse_other_procedure(folder, spec)
    refuse_unreachable(address)
    if address is not None and address.startswith(CLIENT):
        there = {"workers": workers, "force": force, "retry_crashed": retry_crashed}
        return _run_through_client(folder, spec, address, on_progress, **there)
    stop = threading.Event()
    began = time.monotonic()
    with DriverRecord(folder, force, stop.set) as record:
        shards = folder.read_shards(list(COLUMNS if spec.search else ("replicate_id", "failure")))
        folder.set_aside(shards.unreadable)
        rows = shards.rows.filter(pc.not_equal(shards.rows["failure"], FailureKind.CRASHED)) if retry_crashed else shards.rows
        earlier = earlier_rows(folder, spec)
        batches = Batches(learner_of(spec, earlier), spec, rows) if spec.search else None
        if batches is None:
            missing, done = missing_packs(spec, rows["replicate_id"].to_pylist())
            planned = done + sum(map(len, missing))
        else:
            missing, done, planned = batches.learn(), batches.found, spec.search_budget
        watch = _Watch(folder, planned, done, on_progress, batches)
        if missing:
            with _ray(address, workers, lambda: record.__exit__()):
                refuse_unseen_storage(folder)
                crew = Crew.of(missing[0].engine, workers)
                if not folder.exists():
                    folder.write_text("manifest.json", json.dumps(_manifest(spec), indent=2))
                    if earlier is not None:
                        folder.write_earlier(earlier)
                if not folder.exists() or spec.search:  # whose budget may be another than before
                    folder.write_text("study.yaml", yaml.safe_dump(spec.to_mapping(), sort_keys=False, allow_unicode=True))
                _fit(folder, spec, missing, crew, watch, stop)
        done = watch.done
        complete = batches.complete if batches else done >= planned
        planned = done if complete else planned
        state = "failed" if watch.errors else "done" if complete else "stopped"
        record.end("done" if state == "done" else "stopped")
    return Outcome(
        folder.name,
        folder.place(),
        state,
        planned,
        done,
        watch.trained,
        dict(watch.failures),
        time.monotonic() - began,
        engine_named(spec.engine).name,
        tuple(watch.errors),
        batches.learner if batches else None,
    )


def _run_through_client(
    folder: StudyFolder, spec: StudySpec, address: str, on_progress: Callable[[Progress], None] | None, **options: Any
) -> Outcome:
    """`_run` in a task on the head, as Ray's client cannot drive Tune from here: progress comes back, Ctrl-C goes there."""
    with _ray(address, None, lambda: None):
        refuse_unseen_storage(folder)
        relay = ray.remote(Relay).options(num_cpus=0, scheduling_strategy=pinned_here()).remote()
        drive = ray.remote(_run_there).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned_here())
        run = drive.remote(folder.storage.place(), folder.name, spec, relay, options)
        try:
            ended: list[Any] = []
            while not ended:
                ended, _ = ray.wait([run], timeout=1.0)
                for progress in ray.get(relay.take.remote()):
                    if on_progress:
                        on_progress(progress)
            outcome: Outcome = ray.get(run)
        except KeyboardInterrupt:
            ray.cancel(run)
            ray.wait([run], timeout=CANCEL_SECONDS)
            raise
        except RayTaskError as error:
            if isinstance(error.cause, MisuseError):
                raise error.cause from None
            raise
    return outcome


def _run_there(storage: str, name: str, spec: StudySpec, relay: Any, options: dict[str, Any]) -> Outcome:
    folder = Storage.at(storage).study(name)
    return _run(folder, spec, address=None, on_progress=lambda progress: relay.put.remote(progress), **options)


def _fit(folder: StudyFolder, spec: StudySpec, missing: list[Pack], crew: Crew, watch: _Watch, stop: threading.Event) -> None:
    """One Tuner run over what is missing, and over what a search asks for from there."""
    packs = plan_packs(missing, spec.pack_size, crew.at_once)
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=pinned_here()).remote(min(crew.there, len(packs)))

    def lay_out(pack: Pack) -> None:
        desk.put.remote(pack.pack_id, pack.to_text())  # not waited for: a worker that is faster asks again

    queue: PackQueue
    if watch.batches is None:
        queue = PackQueue(packs, lay_out, watch.poison)
    else:
        queue = LearnerQueue(
            packs,
            lay_out,
            watch.poison,
            watch.batches,
            lambda missing: plan_packs(missing, spec.pack_size, crew.at_once),
            lambda pack_id: folder.read_whole_shard(pack_id, COLUMNS),
            _SparesAt(desk),
        )
    watch.queue, watch.desk = queue, desk
    trainable = tune.with_resources(
        tune.with_parameters(PackTrainable, storage=folder.storage.place(), study=folder.name, desk=desk), crew.resources
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            num_samples=-1,
            max_concurrent_trials=crew.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f"),
            storage_path=folder.tune_path,
            storage_filesystem=folder.storage.filesystem,
            # What failed is the queue's to try again: Tune would count a lost node as it counts a crash.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[JsonLoggerCallback(), watch],
            stop=_StopWhen(stop, queue),
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # its errors are ours to tell: Outcome.errors
    returned = False
    try:
        with _interrupted_by_ctrl_c():
            tuner.fit()
        returned = True
    finally:
        if isinstance(queue, LearnerQueue):
            queue.end(wait=returned)
        # On a Ray that lives on the desk would stay (Tune's copy of the trainable holds on to it); a Ray that died took it along.
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            ray.kill(desk)
    if isinstance(queue, LearnerQueue) and queue.error is not None:
        watch.errors.append(f"the search cannot go on: {queue.error!r}")


class _SparesAt:
    """Spare packs at the desk; of one that is gone nothing is wanted any more."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def put(self, pack: Pack) -> None:
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            self._desk.put_spare.remote(pack.pack_id, pack.to_text())

    def taken(self, trial_id: str) -> str | None:
        return ray.get(self._desk.taken.remote(trial_id))

    def no_more(self) -> None:
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            self._desk.no_more.remote()


class _StopWhen(tune.Stopper):
    """Stops the run when `sae-study stop` has asked for it."""

    def __init__(self, stop: threading.Event, queue: PackQueue) -> None:
        self._stop, self._queue = stop, queue

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._stop.is_set() and isinstance(self._queue, LearnerQueue):
            self._queue.end(wait=False)  # those who wait for a pack are let go
        return self._stop.is_set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled with the run's configuration, never used from there


class _Watch(tune.Callback):
    """Counts what the run's trials bring in, and settles what to do about those that fail."""

    def __init__(
        self,
        folder: StudyFolder,
        planned: int,
        done: int,
        on_progress: Callable[[Progress], None] | None,
        batches: Batches | None = None,
    ) -> None:
        self._folder, self._planned, self._done_before, self._on_progress = folder, planned, done, on_progress
        self.batches = batches
        """Of a search."""
        self._began = time.monotonic()
        self.queue: PackQueue | None = None
        self.desk: Any = None
        self.trained = 0
        self.failures: Counter[str] = Counter()
        self.errors: list[str] = []

    @property
    def done(self) -> int:
        """Replicates of the study whose rows are there."""
        return (self._done_before if self.batches is None else self.batches.found) + self.trained

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.trained == 0 and len(trials) == 1:
            self._began = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        if result and "shard" in result:  # a trial that was stopped before its pack was done has none
            self._count(
                result["replicates"], {kind: count for kind, count in result["failures"].items() if count and kind != "none"}
            )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        assert self.queue is not None
        error = _trial_exception(trial)
        fault = self._fault(error, trial.config["pack_id"] or trial.trial_id)
        pack = self.queue.failed(trial.trial_id, fault)
        if pack is not None:
            self.errors.append(f"pack {pack.pack_id} of {len(pack)} replicates, {fault.value} again and again: {_last_line(error)}")

    def _fault(self, error: BaseException | str, name: str) -> Fault:
        if not isinstance(error, (RayActorError, WorkerCrashedError)) or getattr(error, "actor_init_failed", False):
            return Fault.RAISED
        if isinstance(error, ActorUnavailableError) or not is_alive(ray.get(self.desk.node_of.remote(name))):
            return Fault.LOST
        return Fault.DIED

    def poison(self, pack: Pack) -> None:
        """Record a replicate that killed every worker that tried it."""
        self._folder.write_shard(pack.pack_id, crashed_rows(pack, study=self._folder.name))
        self._count(1, {"crashed": 1})

    def _count(self, replicates: int, failures: Mapping[str, int]) -> None:
        self.trained += replicates
        self.failures.update(failures)
        if self._on_progress:
            self._on_progress(
                Progress(
                    self._planned,
                    self.done,
                    self.trained,
                    time.monotonic() - self._began,
                    dict(self.failures),
                    self.batches.summary if self.batches else {},
                )
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # pickled with the run's configuration, never used from there


def _trial_exception(trial: Any) -> BaseException | str:
    """What a trial ended with, as Tune wrote it down."""
    path = trial.pickled_error_file
    if path and Path(path).is_file():
        return cloudpickle.loads(Path(path).read_bytes())
    return Path(trial.error_file).read_text() if trial.error_file else "no error was recorded"


def _last_line(error: BaseException | str) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)


def refuse_unreachable(address: str | None) -> None:
    """Raise MisuseError if nothing listens at the address of a Ray cluster."""
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise MisuseError(f"address={address!r} is no Ray address. Write host:port, or auto.")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            speaks_grpc = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, UnicodeError) as error:
        raise MisuseError(
            f"address={address!r} cannot be reached ({error}). Start Ray there (`ray start --head`), or leave --address out "
            "for a local Ray."
        ) from None
    if not speaks_grpc:
        raise MisuseError(
            f"address={address!r} answers, but not as Ray does. Give the head's own port, 6379 unless told otherwise."
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server listens, as Ray's does: it answers HTTP/2's preface with a SETTINGS frame (RFC 9113, 3.4).

    Ray itself waits for minutes at the port of anything else, its own dashboard's included.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    head = connection.recv(9)
    return len(head) > 3 and head[3] == 4


leave_at_once: Callable[[], NoReturn] | None = None
"""Set by a process that is the driver and nothing else: ends it on Ctrl-C while Ray starts. Ray cannot be interrupted
there (it crashes, or takes seconds); what it has started ends with the process."""


@contextlib.contextmanager
def _ray(address: str | None, workers: int | None, before_leaving: Callable[[], None]) -> Iterator[None]:
    """A Ray to run on; ended afterwards if it was begun here."""
    if ray.is_initialized():
        yield
        return
    with _ctrl_c_held(before_leaving):
        _start_ray(address, workers)
    try:
        yield
    except KeyboardInterrupt:
        if address is None:
            _shut_down_at_once()
        raise
    finally:
        ray.shutdown()


def _start_ray(address: str | None, workers: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cpus = local_workers(workers)
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=200 * 2**20, **quiet)
        else:
            ray.init(address, runtime_env=runtime_env(), **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise MisuseError(
            f"Ray cannot be reached at address={address!r} ({_last_line(error)}). If the cluster wants a token, set "
            "RAY_AUTH_MODE=token and give it here too."
        ) from None


@contextlib.contextmanager
def _ctrl_c_held(before_leaving: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C within waits until the end of the block, or ends a process that has said it may (`leave_at_once`)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal pressed
        pressed = True
        if leave_at_once:
            before_leaving()
            leave_at_once()

    before = signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        ray.shutdown()
        raise KeyboardInterrupt


def _shut_down_at_once() -> None:
    """Let `ray.shutdown` kill the Ray that was started here without a second's grace: its workers are in mid-pack anyway."""
    node = ray._private.worker._global_node
    kill = node.kill_all_processes
    node.kill_all_processes = lambda check_alive=True, allow_graceful=True, wait=False: kill(
        check_alive=False, allow_graceful=False
    )


@contextlib.contextmanager
def _interrupted_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the Tune loop, lets it save its result lines, and gives up after a second what is still in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    patience = threading.Timer(PATIENCE_SECONDS, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    interrupted = False

    def on_ctrl_c(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        patience.start()
        signal.raise_signal(signal.SIGUSR1)  # Tune's own word for: leave the loop and save

    before = signal.signal(signal.SIGINT, on_ctrl_c)
    before_usr1 = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until Tune has set its own handler
    try:
        yield
    except BaseException:  # Ray wraps a KeyboardInterrupt that comes while it waits in a SystemError
        if not interrupted:
            raise
    finally:
        patience.cancel()
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGUSR1, before_usr1)
    if interrupted:
        raise KeyboardInterrupt


def _manifest(spec: StudySpec) -> dict[str, Any]:
    """What made the study: versions, environment, the protocol's fields."""
    engine = engine_named(spec.engine)
    packages = ("sae-study", "ray", "numpy", "numba", "scipy", "pandas", "pyarrow", *(["torch"] if engine.name == "torch" else []))
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "procedure_version": PROCEDURE_VERSION,
        "protocol_id": spec.protocol.protocol_id,
        "protocol": dataclasses.asdict(spec.protocol),
        "engine": engine.name,
        "engine_family": engine.family,
        "dtype": spec.dtype,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "environment": {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }
