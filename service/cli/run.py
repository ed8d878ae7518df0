"""Commands that run studies: launch, map, l1, resume, stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_spaces.searches import Search, kind_of
from service.cli.options import AsJson, DryRun, Overrides, Resources, Space, Study, Where, grouped, search_options
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
    seeds: Annotated[str | None, typer.Option(help="Range of seeds as start:stop, stop excluded.")] = None,
    resources: Resources,
    dry_run: DryRun = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Run a study: train a grid of replicates, in packs, on Ray Tune."""
    from study.specification import study_spec

    spec = study_spec(space, **asdict(overrides), seeds=seeds, pack_size=resources.replicates_per_pack)
    _run(spec, resources, dry_run, storage, as_json)


def search_command(search: type[Search]) -> Callable[..., None]:
    """The command of one kind of search: options, defaults and help texts are those of its class."""

    def command(
        space: Space,
        *,
        options: Any,
        overrides: Overrides,
        resources: Resources,
        dry_run: DryRun = False,
        storage: Where = DEFAULT_STORAGE,
        as_json: AsJson = False,
    ) -> None:
        from study.specification import study_spec

        given = {name: value for name, value in vars(options).items() if value not in (None, [])}
        wanted = {"kind": kind_of(search)} | given
        spec = study_spec(space, **asdict(overrides), pack_size=resources.replicates_per_pack, search=wanted)
        _run(spec, resources, dry_run, storage, as_json)

    command.__doc__ = search.__doc__
    command.__annotations__["options"] = search_options(search)
    return grouped(command)


def _run(spec: StudySpec, resources: Resources, dry_run: bool, storage: str, as_json: bool) -> None:
    """Launch a study and show its outcome; on a dry run, show its plan."""
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
            progress=False,
            on_progress=on_progress,
        )
    show_outcome(outcome, storage, as_json)


def _show_plan(spec: StudySpec, storage: str, workers: int | None, as_json: bool) -> None:
    from study.declaration import refuse_other_specification
    from study.on_ray.starting import local_workers
    from study.planning import plan_study

    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    folder.refuse_inaccessible()
    summary = plan_study(folder, spec, local_workers(workers)).summary()
    width = max(map(len, summary))
    figures = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in summary.items()}
    show(summary, (f"{key:>{width}}  {value}" for key, value in figures.items()), as_json)


@grouped
def resume(
    study: Study,
    *,
    resources: Resources,
    retry_crashed: Annotated[
        bool, typer.Option("--retry-crashed", help="Also train again the replicates that crashed their workers.")
    ] = False,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Continue a study: train the replicates that have no rows yet."""
    from study.on_ray import driver

    how = asdict(resources) | {"pack_size": resources.replicates_per_pack, "retry_crashed": retry_crashed}
    with progress(as_json, Storage.at(storage).study(study)) as on_progress:
        outcome = driver.resume(study, storage=storage, progress=False, on_progress=on_progress, **how)
    show_outcome(outcome, storage, as_json)


def stop(study: Study, storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Ask the driver of a running study to stop. Finished replicates are kept."""
    from study.storage.status import request_stop

    request_stop(study, storage)
    folder = Storage.at(storage).study(study)
    status, again = folder.command("status"), folder.command("resume")
    sentence = f"Asked the driver of {study} to stop. `{status}` shows when it has stopped; `{again}` continues the study."
    show({"study": study, "stop": "requested"}, [sentence], as_json)
