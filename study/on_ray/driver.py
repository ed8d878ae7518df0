"""Launches and resumes a study: plans what is missing, hands packs to Ray Tune, returns the outcome.

A resumed study is a new Tuner run for exactly the replicates that no shard holds. `Tuner.restore` is not used, because
a torn snapshot makes it restart a study silently. The driver's neighbours:

* `starting.py` starts or joins Ray, `session.py` keeps it for the run; `cluster.py` says what a study needs from it.
* `pack_queues.py` gives Tune its packs; `trainable.py` trains one pack per trial; `retries.py` says how often a pack is retried.
* `watch.py` counts rows while Tune runs, and stops the run when a user asks for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.logger import JsonLoggerCallback

from search_spaces.errors import MachineError, MisuseError
from search_spaces.extensions import extensions
from search_spaces.failures import FailureKind
from search_spaces.paths import refuse_gone_directory
from search_spaces.protocol import PROCEDURE_VERSION
from search_spaces.study_files import StudySpec
from study.arguments import refuse_wrong_type
from study.declaration import refuse_other_specification, write_specification
from study.engines.registry import engine_for
from study.needs import refuse_oversized
from study.on_ray.callbacks import Guarded, Turns, refuse_other_callbacks, reporter
from study.on_ray.cluster import Crew, Relay, pinned_here, refuse_other_sources, refuse_unseen_storage
from study.on_ray.domains import study_from_domains
from study.on_ray.outcome import Outcome
from study.on_ray.pack_queues import LearnerQueue, PackQueue
from study.on_ray.progress import progress_shown
from study.on_ray.session import ray_running
from study.on_ray.signals import ended_by, tune_saves
from study.on_ray.sources import refuse_changed, sources, warn_of_others
from study.on_ray.starting import CLIENT, local_workers, refuse_unreachable
from study.on_ray.trainable import Desk, PackTrainable
from study.on_ray.watch import Progress, SparesAt, StopWhen, Watch
from study.packs import Pack, missing_packs, plan_packs, started_small
from study.searching.batches import LEARNER_COLUMNS, Batches
from study.searching.learner_of import earlier_rows, learner_of
from study.specification import study_spec
from study.storage.drivers import DriverRecord, StudyState
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder
from study.streams import open_closed_streams

LOGGERS = (
    "ray.tune.tune",
    "ray.tune.execution.experiment_state",
    "ray.tune.execution.tune_controller",
    "ray.train._internal.storage",
)
"""Tune's loggers of errors that this driver reports itself, and of snapshots that it does without."""
CANCEL_SECONDS = 10.0
"""How long Ctrl-C waits for a driver on the cluster to record that it stopped."""
ONE_AT_A_TIME = Turns()
os.register_at_fork(after_in_child=ONE_AT_A_TIME.fork)


@dataclass(frozen=True)
class _Options:
    """How a study is run; `launch` and `resume` document the fields."""

    address: str | None
    workers: int | None
    force: bool
    on_progress: Callable[[Progress], None] | None
    progress: bool
    callbacks: Sequence[tune.Callback]
    retry_crashed: bool = False

    def __post_init__(self) -> None:
        refuse_wrong_type("address", self.address, str, NoneType)
        refuse_wrong_type("workers", self.workers, Integral, NoneType)
        if self.workers is not None:
            object.__setattr__(self, "workers", int(self.workers))  # Ray takes no NumPy integer
        refuse_wrong_type("on_progress", self.on_progress, Callable, NoneType)
        for flag in ("force", "progress", "retry_crashed"):
            refuse_wrong_type(flag, getattr(self, flag), bool)
        refuse_other_callbacks(self.callbacks)


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
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
    progress: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> Outcome:
    """Run a study to its end. A study that was begun with the same specification is resumed.

    space: a named space, a study file, a `StudySpec`, the mapping that a study file holds, or Ray Tune's domains
    {"architecture": …, "sparsity": …, "l1": …, "seed": …} (see `study_from_domains`). The other arguments override
    its fields. search: {"kind": "map", …} or {"kind": "l1", …} with the fields of `MapSearch` or `L1Search`; the study
    then trains the replicates that this adaptive search of the space's ranges asks for.

    Uses the Ray of this process if there is one; else connects to `address`, or starts a local Ray of `workers` CPUs and
    stops it afterwards. A process runs one study at a time: a second thread waits for its turn. Raises MisuseError, before
    anything starts, if the study cannot be run. On KeyboardInterrupt (Ctrl-C) the stored rows are kept.

    progress: show a bar, where standard error is a terminal or this is a notebook. on_progress: called with a `Progress`
    after each pack. callbacks: Ray Tune's, such as `WandbLoggerCallback`, called after the study's own. A trial is a *pack* of
    replicates: trackers get one run per pack, with its counts by verdict, never one per replicate. A callback (or
    on_progress) that raises is reported by a warning and left out from then on; the study goes on.
    """
    options = _Options(address, workers, force, on_progress, progress, callbacks)
    refuse_wrong_type("storage", storage, str, os.PathLike)
    if isinstance(space, Mapping) and "space" not in space:
        space = study_from_domains(space, num_samples)
    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=pack_size, search=search
    )
    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    return _run_in_turn(folder, spec, options)


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def resume(
    name: str,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    pack_size: int | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    force: bool = False,
    retry_crashed: bool = False,
    progress: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> Outcome:
    """Train the replicates of an existing study that no shard holds, in a new Tuner run.

    retry_crashed: also train those with the verdict `crashed` again. A machine that is short of memory kills workers too.
    The other arguments are those of `launch`.
    """
    options = _Options(address, workers, force, on_progress, progress, callbacks, retry_crashed)
    refuse_wrong_type("name", name, str)
    refuse_wrong_type("storage", storage, str, os.PathLike)
    folder = existing_study(name, str(storage))
    spec = study_spec(read_spec(folder), pack_size=pack_size)
    return _run_in_turn(folder, spec, options)


def refuse_other_procedure(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise MisuseError if the study's rows come from another procedure version or engine family than this run would use.

    Sources that differ within one procedure version are a warning.
    """
    manifest = folder.read_json("manifest.json") or {}
    for key, ours in (("procedure_version", PROCEDURE_VERSION), ("engine_family", engine_for(spec.engine, spec.protocol).family)):
        theirs = manifest.get(key, ours)
        if theirs != ours:
            raise MisuseError(
                f"study={folder.name!r} was made with {key}={theirs}, this is {ours}: their rows are not comparable. Launch a "
                "study of another --name, or go on with the version that began this one (manifest.json names it)."
            )
    warn_of_others(folder.name, manifest.get("sources", {}))


def _run_in_turn(folder: StudyFolder, spec: StudySpec, options: _Options) -> Outcome:
    """`_run`, one at a time in this process, with its progress shown."""
    open_closed_streams()
    with ONE_AT_A_TIME, progress_shown(folder.name) if options.progress else contextlib.nullcontext() as shown:
        return _run(folder, spec, dataclasses.replace(options, on_progress=reporter(shown, options.on_progress)))


def _run(folder: StudyFolder, spec: StudySpec, options: _Options) -> Outcome:
    """Train what the study lacks. Raises MisuseError, before anything starts, if it cannot be run."""
    refuse_gone_directory()
    local_workers(options.workers)  # raises MisuseError for a number below 1
    extensions()  # raises MisuseError for those that workers could not import
    engine_for(spec.engine, spec.protocol).check_installed()
    refuse_oversized(spec, here=options.address is None and not ray.is_initialized())
    refuse_other_procedure(folder, spec)
    refuse_changed()
    refuse_unreachable(options.address)
    if options.address is not None and options.address.startswith(CLIENT):
        return _run_through_client(folder, spec, options)
    stop = threading.Event()
    began = time.monotonic()
    record = DriverRecord(folder, options.force, stop.set)
    with ended_by(record.interrupt), record:
        work = _work(folder, spec, options.retry_crashed)
        watch = Watch(folder, work.planned, work.done, options.on_progress, work.batches)
        if work.missing:
            elsewhere = options.address is not None or ray.is_initialized()
            with ray_running(options.address, options.workers):
                if elsewhere:  # the workers of a Ray that is started for this run have its path
                    refuse_other_sources()
                refuse_unseen_storage(folder)
                crew = Crew.of(work.missing[0].engine, options.workers)
                _write_study(folder, spec, work.earlier)
                _fit(folder, spec, work.missing, crew, watch, Guarded(options.callbacks), stop)
        record.refuse_replaced()
        if fault := watch.fault or record.fault:
            raise MachineError(
                f"{fault} {watch.done} of {work.planned} replicates were stored. Once that is mended, continue with: "
                f"{folder.command('resume')}"
            )
        outcome = _outcome(folder, spec, work, watch, time.monotonic() - began)
        record.end(outcome.state, outcome.errors)
    return outcome


@dataclass(frozen=True, eq=False)
class _Work:
    """What a study already holds, and what it still has to train."""

    planned: int
    done: int
    missing: list[Pack]
    """One pack per architecture; for a search, what it asks for first."""
    batches: Batches | None = None
    """For a search."""
    earlier: pa.Table | None = None
    """The rows of other studies that a search starts from."""


def _work(folder: StudyFolder, spec: StudySpec, retry_crashed: bool) -> _Work:
    """Compare the stored rows with the specification. Shards that are corrupt anywhere are set aside: their rows are missing."""
    folder.set_aside(folder.corrupt_shards())
    rows = folder.read_shards(list(LEARNER_COLUMNS if spec.search else ("replicate_id", "failure"))).rows
    if retry_crashed:
        rows = rows.filter(pc.not_equal(rows["failure"], FailureKind.CRASHED))
    if spec.search is None:
        missing, done = missing_packs(spec, rows["replicate_id"].to_pylist())
        return _Work(done + sum(map(len, missing)), done, missing)
    earlier = earlier_rows(folder, spec)
    batches = Batches(learner_of(spec, earlier), spec, rows)
    missing = batches.learn()
    return _Work(spec.search_budget, batches.found, missing, batches, earlier)


def _write_study(folder: StudyFolder, spec: StudySpec, earlier: pa.Table | None) -> None:
    """What the first driver of a study writes, its manifest, and the specification, unless the study was declared before."""
    if folder.read_text("manifest.json") is None:
        folder.write_text("manifest.json", json.dumps(_manifest(spec), indent=2))
        if earlier is not None:
            folder.write_earlier(earlier)
    write_specification(folder, spec)


def _outcome(folder: StudyFolder, spec: StudySpec, work: _Work, watch: Watch, seconds: float) -> Outcome:
    complete = work.batches.complete if work.batches else watch.done >= work.planned
    return Outcome(
        study=folder.name,
        path=folder.place(),
        state=StudyState.FAILED if watch.errors else StudyState.DONE if complete else StudyState.STOPPED,
        planned=watch.done if complete else work.planned,
        done=watch.done,
        trained=watch.trained,
        failures=dict(watch.failures),
        seconds=seconds,
        engine=engine_for(spec.engine, spec.protocol).name,
        errors=tuple(watch.errors),
        learner=work.batches.learner if work.batches else None,
    )


def _run_through_client(folder: StudyFolder, spec: StudySpec, options: _Options) -> Outcome:
    """`_run` as a task on the head, because Tune cannot be driven through Ray's client. Progress and Ctrl-C are passed on."""
    with ray_running(options.address, None):
        refuse_other_sources()
        refuse_unseen_storage(folder)
        relay = ray.remote(Relay).options(num_cpus=0, scheduling_strategy=pinned_here()).remote()
        drive = ray.remote(_run_there).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned_here())
        there = dataclasses.replace(options, address=None, on_progress=None, progress=False)
        run = drive.remote(folder.storage.place(), folder.name, spec, there, relay)

        def cancel() -> None:
            ray.cancel(run)
            ray.wait([run], timeout=CANCEL_SECONDS)

        try:
            with ended_by(cancel):
                _follow(run, relay, options.on_progress)
            outcome: Outcome = ray.get(run)
        except KeyboardInterrupt:
            cancel()
            raise
        except RayTaskError as error:
            if isinstance(error.cause, (MachineError, MisuseError)):
                raise error.cause from None
            raise
    return outcome


def _follow(run: ray.ObjectRef, relay: Any, on_progress: Callable[[Progress], None] | None) -> None:
    """Report the progress of the driver on the head until it ends."""
    ended: list[Any] = []
    while not ended:
        ended, _ = ray.wait([run], timeout=1.0)
        for progress in ray.get(relay.take.remote()):
            if on_progress:
                on_progress(progress)


def _run_there(storage: str, name: str, spec: StudySpec, options: _Options, relay: Any) -> Outcome:
    reporting = dataclasses.replace(options, on_progress=lambda progress: relay.put.remote(progress))
    return _run(Storage.at(storage).study(name), spec, reporting)


def _fit(
    folder: StudyFolder, spec: StudySpec, missing: list[Pack], crew: Crew, watch: Watch, users: Guarded, stop: threading.Event
) -> None:
    """One Tuner run over the missing packs and, in a search, the packs that it asks for next."""
    packs = plan_packs(missing, spec.pack_size, crew.at_once)
    if spec.pack_size == "auto":
        packs = started_small(packs, crew.at_once)
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=pinned_here()).remote(min(crew.there, len(packs)))
    queue = _queue(folder, spec, packs, crew, watch, desk)
    watch.queue, watch.desk = queue, desk
    if spec.search is None:
        watch.expect(missing, crew.at_once)
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    tuner = _tuner(folder, run, crew, watch, users, stop)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    returned = False
    try:
        with tune_saves():
            tuner.fit()
        returned = True
    except Exception as error:
        watch.blame(error)
        if not (watch.fault or stop.is_set()):
            raise
        # else Tune stumbled, at the end, over what it could not store
    finally:
        queue.end(wait=returned)
        # On a Ray that outlives the run, the desk would stay alive: Tune's copy of the trainable holds a handle to it.
        with contextlib.suppress(RayError, ConnectionError, RuntimeError):
            ray.kill(desk)
    folder.discard_if_gone(run)
    watch.blame(queue.error)
    if queue.error is not None and watch.fault is None:
        watch.errors.append(f"the search cannot go on: {queue.error!r}")


def _queue(folder: StudyFolder, spec: StudySpec, packs: list[Pack], crew: Crew, watch: Watch, desk: Any) -> PackQueue:
    """The queue of the trials' packs: the planned ones and, in a search, those that it asks for as rows come in."""

    def lay_out(pack: Pack) -> None:
        desk.put.remote(pack.pack_id, pack.to_text())  # without waiting: a worker that comes too early asks again

    if watch.batches is None:
        return PackQueue(packs, lay_out, watch.poison)
    return LearnerQueue(
        packs,
        lay_out,
        watch.poison,
        watch.batches,
        lambda missing: plan_packs(missing, spec.pack_size, crew.at_once),
        lambda pack_id: folder.read_whole_shard(pack_id, LEARNER_COLUMNS),
        SparesAt(desk),
    )


def _tuner(folder: StudyFolder, run: str, crew: Crew, watch: Watch, users: Guarded, stop: threading.Event) -> tune.Tuner:
    """One trial per pack, in the queue's order; result lines are written as JSON under the study's folder."""
    assert watch.queue is not None
    trainable = tune.with_parameters(
        PackTrainable, storage=folder.storage.place(), study=folder.name, desk=watch.desk, sources=sources()
    )
    return tune.Tuner(
        tune.with_resources(trainable, crew.resources),
        tune_config=tune.TuneConfig(
            search_alg=watch.queue,
            num_samples=-1,
            max_concurrent_trials=crew.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=run,
            storage_path=folder.tune_path,
            storage_filesystem=folder.storage.filesystem,
            # The queue retries failed trials, not Tune, which would count a lost node like a crash.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[JsonLoggerCallback(), watch, users],
            stop=StopWhen(stop, watch),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent; Tune's own choice in a notebook clears the cell's output
        ),
    )


def _manifest(spec: StudySpec) -> dict[str, Any]:
    """How the study was made: versions, environment, the protocol's fields."""
    engine = engine_for(spec.engine, spec.protocol)
    packages = ("sae-study", "ray", "numpy", "numba", "scipy", "pandas", "pyarrow", *(["torch"] if engine.name == "torch" else []))
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "procedure_version": PROCEDURE_VERSION,
        "protocol_id": spec.protocol.protocol_id,
        "protocol": dataclasses.asdict(spec.protocol),
        **({"protocols": {protocol.protocol_id: protocol.name for protocol in spec.protocols}} if spec.arms else {}),
        "engine": engine.name,
        "engine_family": engine.family,
        "dtype": spec.dtype,
        "sources": {name: digest for name, (_, digest) in sources().items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "environment": {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }
