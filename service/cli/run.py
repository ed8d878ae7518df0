"""Commands that run studies: launch, map, l1, resume, stop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

import typer
from pydantic.fields import FieldInfo

from search_spaces.searches import Search, kind_of
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
    from study.specification import study_spec

    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=number_or_text(pack_size)
    )
    _launch(spec, address, workers, force, dry_run, storage, as_json)


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


def search_command(search: type[Search]) -> Callable[..., None]:
    """The command of one kind of search: options, defaults and help texts are those of its class."""
    fields = {name: field for name, field in search.model_fields.items() if name != "kind"}

    def command(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in fields}
        _search({"kind": kind_of(search)} | {name: value for name, value in given.items() if value not in (None, [])}, **arguments)

    common = inspect.signature(_search, eval_str=True).parameters.values()
    _, space, *others = (part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in common)
    own = [_search_option(name, field) for name, field in fields.items()]
    command.__signature__ = inspect.Signature([space, *own, *others])  # type: ignore[attr-defined]
    command.__doc__ = search.__doc__
    return command


def _search_option(name: str, field: FieldInfo) -> inspect.Parameter:
    """None where it is not given: then the study file's value holds, or the class's default."""
    several = get_origin(field.annotation) is tuple
    kind: Any = list[str] if several else str if get_origin(field.annotation) is Literal else field.annotation
    default = ", ".join(field.default) if several else field.default
    texts = [field.description or "", "May be given several times." if several else ""]
    texts.append(f"Default: {default}." if default not in (None, "") else "")
    option = typer.Option(*FLAGS.get(name, ()), help=" ".join(filter(None, texts)))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


FLAGS = {"earlier": ("--from",)}
"""Of fields whose option has another name."""


def _search(
    search: dict[str, Any],
    space: Space,
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
    """Launch, or plan, an adaptive search."""
    from study.specification import study_spec

    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, pack_size=number_or_text(pack_size), search=search
    )
    _launch(spec, address, workers, force, dry_run, storage, as_json)


def _launch(
    spec: StudySpec, address: str | None, workers: int | None, force: bool, dry_run: bool, storage: str, as_json: bool
) -> None:
    from study.on_ray import driver

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
