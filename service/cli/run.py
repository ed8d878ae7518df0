"""Commands that run studies: launch, map, l1, resume, stop."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import AsJson, DryRun, Overrides, Resources, Space, Study, Where, grouped
from service.cli.outcome import show_outcome
from service.cli.printing import show
from service.cli.progress import progress
from study.storage.study_folder import DEFAULT_STORAGE, Storage

if TYPE_CHECKING:
    from search_spaces.study_files import StudySpec


@grouped
def launch(
    space: Space,
    *,
    overrides: Overrides,
    seeds: Annotated[str | None, typer.Option(help="start:stop, as in Python.")] = None,
    resources: Resources,
    dry_run: DryRun = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Run a study: a grid of replicates, in packs, on Ray Tune."""
    from study.specification import study_spec

    spec = study_spec(space, **asdict(overrides), seeds=seeds, pack_size=resources.replicates_per_pack)
    _run(spec, resources, dry_run, storage, as_json)


@grouped
def map_(
    space: Space,
    *,
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
    overrides: Overrides,
    resources: Resources,
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
    _search(space, given, overrides, resources, dry_run, storage, as_json)


@grouped
def l1(
    space: Space,
    *,
    failure: Annotated[
        list[str] | None, typer.Option(help="A kind that must stay rare; may stand again. Default: sae_dead and sae_starved.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="How often it may come: the edge is there. Default: 0.1.")] = None,
    budget: Annotated[int | None, typer.Option(help="Replicates of each architecture and sparsity. Default: 250.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Enough where half of the edge's 90 % interval is this many decades. Default: spend all.")
    ] = None,
    recovery: Annotated[str | None, typer.Option(help="What the best l1 has most of: mcc or f1. Default: mcc.")] = None,
    overrides: Overrides,
    resources: Resources,
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
    _search(space, given, overrides, resources, dry_run, storage, as_json)


def _search(
    space: str, given: dict[str, Any], overrides: Overrides, resources: Resources, dry_run: bool, storage: str, as_json: bool
) -> None:
    """Launch, or plan, an adaptive search."""
    from study.specification import study_spec

    search = {key: value for key, value in given.items() if value is not None}
    spec = study_spec(space, **asdict(overrides), pack_size=resources.replicates_per_pack, search=search)
    _run(spec, resources, dry_run, storage, as_json)


def _run(spec: StudySpec, resources: Resources, dry_run: bool, storage: str, as_json: bool) -> None:
    """Launch a study and say what it came to, or plan it."""
    from study.on_ray import driver

    if dry_run:
        _show_plan(spec, storage, resources.workers, as_json)
        return
    with progress(as_json, Storage.at(storage).study(spec.name)) as on_progress:
        outcome = driver.launch(
            spec,
            storage=storage,
            address=resources.address,
            workers=resources.workers,
            force=resources.force,
            on_progress=on_progress,
        )
    show_outcome(outcome, storage, as_json)


def _show_plan(spec: StudySpec, storage: str, workers: int | None, as_json: bool) -> None:
    from study.on_ray.driver import refuse_other_specification
    from study.on_ray.session import local_workers
    from study.planning import plan_study

    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    summary = plan_study(folder, spec, local_workers(workers)).summary()
    width = max(map(len, summary))
    figures = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in summary.items()}
    show(summary, (f"{key:>{width}}  {value}" for key, value in figures.items()), as_json)


@grouped
def resume(
    study: Study,
    *,
    resources: Resources,
    retry_crashed: Annotated[bool, typer.Option("--retry-crashed", help="Train again what killed its workers.")] = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Train the replicates of a study whose rows are not there yet."""
    from study.on_ray import driver

    how = asdict(resources) | {"pack_size": resources.replicates_per_pack, "retry_crashed": retry_crashed}
    with progress(as_json, Storage.at(storage).study(study)) as on_progress:
        outcome = driver.resume(study, storage=storage, on_progress=on_progress, **how)
    show_outcome(outcome, storage, as_json)


def stop(study: Study, storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Ask the driver of a running study to stop; what is done is kept."""
    from study.storage.status import request_stop

    request_stop(study, storage)
    folder = Storage.at(storage).study(study)
    sentence = (
        f"Asked the driver of {study} to stop. `{folder.command('status')}` says when it has, `{folder.command('resume')}` goes on."
    )
    show({"study": study, "stop": "requested"}, [sentence], as_json)
