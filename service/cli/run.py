"""Commands that run studies: launch, map, l1, resume, stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    Address,
    AsJson,
    DryRun,
    Dtype,
    EngineName,
    Force,
    Name,
    PackSize,
    ProtocolName,
    Space,
    Study,
    Where,
    Workers,
    number_or_text,
)
from service.cli.outcome import tell_outcome
from service.cli.printing import out, print_json
from service.cli.progress import progress
from study.storage.study_folder import DEFAULT_STORAGE, Storage

if TYPE_CHECKING:
    from search_spaces.study_files import StudySpec


def launch(
    space: Space,
    name: Name = None,
    protocol: ProtocolName = None,
    engine: EngineName = None,
    dtype: Dtype = None,
    seeds: Annotated[str | None, typer.Option(help="start:stop, as in Python.")] = None,
    address: Address = None,
    pack_size: PackSize = None,
    workers: Workers = None,
    force: Force = False,
    dry_run: DryRun = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Run a study: a grid of replicates, in packs, on Ray Tune."""
    from study.on_ray import driver
    from study.specification import study_spec

    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=number_or_text(pack_size)
    )
    if dry_run:
        tell_plan(spec, storage, workers, as_json)
        return
    with progress(as_json, Storage.at(storage).study(spec.name)) as on_progress:
        outcome = driver.launch(spec, storage=storage, address=address, workers=workers, force=force, on_progress=on_progress)
    tell_outcome(outcome, storage, as_json)


def tell_plan(spec: StudySpec, storage: str, workers: int | None, as_json: bool) -> None:
    from study.on_ray.driver import refuse_other_specification
    from study.on_ray.session import local_workers
    from study.planning import plan_study

    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    summary = plan_study(folder, spec, local_workers(workers)).summary()
    if as_json:
        print_json(summary)
        return
    width = max(map(len, summary))
    for key, value in summary.items():
        out.print(f"{key:>{width}}  {value:.3g}" if isinstance(value, float) else f"{key:>{width}}  {value}")


def map_(
    space: Space,
    failure: Annotated[str | None, typer.Option(help="any, a kind of failure, or sae_all_dead. Default: any.")] = None,
    level: Annotated[float | None, typer.Option(help="The region is where the rate is at least this. Default: 0.5.")] = None,
    budget: Annotated[int | None, typer.Option(help="Replicates to train at most. Default: 10000.")] = None,
    misclassified_volume: Annotated[
        float | None, typer.Option(help="Stop when the expected misclassified share of the plane is at most this.")
    ] = None,
    regret: Annotated[float | None, typer.Option(help="Stop when the expected regret is at most this.")] = None,
    first_pass: Annotated[int | None, typer.Option(help="Replicates spread evenly at first. Default: 2048.")] = None,
    l1s_per_autoencoder: Annotated[int | None, typer.Option(help="Values of l1 that share one autoencoder. Default: 1.")] = None,
    earlier: Annotated[list[str] | None, typer.Option("--from", help="A study whose rows it starts from; may stand again.")] = None,
    name: Name = None,
    protocol: ProtocolName = None,
    engine: EngineName = None,
    dtype: Dtype = None,
    address: Address = None,
    pack_size: PackSize = None,
    workers: Workers = None,
    force: Force = False,
    dry_run: DryRun = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Map the failure regions of a space's ranges: each batch of replicates goes where the map is unsure."""
    given = {
        "kind": "map",
        "failure": failure,
        "level": level,
        "budget": budget,
        "misclassified_volume": misclassified_volume,
        "regret": regret,
        "first_pass": first_pass,
        "l1s_per_autoencoder": l1s_per_autoencoder,
        "earlier": earlier or None,
    }
    _search(space, given, name, protocol, engine, dtype, address, pack_size, workers, force, dry_run, storage, as_json)


def l1(
    space: Space,
    failure: Annotated[
        list[str] | None, typer.Option(help="A kind that must stay rare; may stand again. Default: sae_dead and sae_starved.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="How often it may come: the edge is there. Default: 0.1.")] = None,
    budget: Annotated[int | None, typer.Option(help="Replicates of each architecture and sparsity. Default: 250.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Enough where half of the edge's 90 % interval is this many decades. Default: spend all.")
    ] = None,
    recovery: Annotated[str | None, typer.Option(help="What the best l1 has most of: mcc or f1. Default: mcc.")] = None,
    name: Name = None,
    protocol: ProtocolName = None,
    engine: EngineName = None,
    dtype: Dtype = None,
    address: Address = None,
    pack_size: PackSize = None,
    workers: Workers = None,
    force: Force = False,
    dry_run: DryRun = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Find, for each architecture and sparsity of a space, the safe interval of l1 and the best l1 within the space's range."""
    given = {
        "kind": "l1",
        "failure": failure or None,
        "level": level,
        "budget": budget,
        "precision": precision,
        "recovery": recovery,
    }
    _search(space, given, name, protocol, engine, dtype, address, pack_size, workers, force, dry_run, storage, as_json)


def _search(
    space: str,
    given: dict[str, Any],
    name: str | None,
    protocol: str | None,
    engine: str | None,
    dtype: str | None,
    address: str | None,
    pack_size: str | None,
    workers: int | None,
    force: bool,
    dry_run: bool,
    storage: str,
    as_json: bool,
) -> None:
    """Launch, or plan, an adaptive search."""
    from study.on_ray import driver
    from study.specification import study_spec

    search = {key: value for key, value in given.items() if value is not None}
    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, pack_size=number_or_text(pack_size), search=search
    )
    if dry_run:
        tell_plan(spec, storage, workers, as_json)
        return
    with progress(as_json, Storage.at(storage).study(spec.name)) as on_progress:
        outcome = driver.launch(spec, storage=storage, address=address, workers=workers, force=force, on_progress=on_progress)
    tell_outcome(outcome, storage, as_json)


def resume(
    study: Study,
    address: Address = None,
    pack_size: PackSize = None,
    workers: Workers = None,
    force: Force = False,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Train again what killed its workers.")] = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Train the replicates of a study whose rows are not there yet."""
    from study.on_ray import driver

    with progress(as_json, Storage.at(storage).study(study)) as on_progress:
        outcome = driver.resume(
            study,
            storage=storage,
            pack_size=number_or_text(pack_size),
            address=address,
            workers=workers,
            force=force,
            retry_crashed=retry_crashed,
            on_progress=on_progress,
        )
    tell_outcome(outcome, storage, as_json)


def stop(study: Study, storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Ask the driver of a running study to stop; what is done is kept."""
    from study.storage.status import request_stop

    request_stop(study, storage)
    folder = Storage.at(storage).study(study)
    if as_json:
        print_json({"study": study, "stop": "requested"})
    else:
        out.print(
            f"Asked the driver of {study} to stop. `{folder.command('status')}` says when it has, "
            f"`{folder.command('resume')}` goes on."
        )
