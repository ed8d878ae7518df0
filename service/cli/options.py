"""Options and arguments that several commands share, each defined once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from search_spaces.protocol import PROTOCOLS
from search_spaces.searches import Search
from study.engines.registry import ENGINES

Where = Annotated[str, typer.Option("--storage", help="Folder, or URI such as s3://bucket/folder, that holds the studies.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there.")]
Study = Annotated[str, typer.Argument(help="Name of a study.")]
Space = Annotated[str, typer.Argument(help="Name of a space (`sae-study spaces` lists them), or a study file (YAML).")]
Failure = Annotated[str, typer.Option(help="What counts as a failure: any, one kind of failure, or sae_all_dead.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")]


@dataclass(frozen=True)
class Overrides:
    """What the command line changes in the study that it launches; None keeps the study file's value."""

    name: Annotated[
        str | None, typer.Option(help="Name of the study. Default: the name in the study file, or that of the space.")
    ] = None
    protocol: Annotated[str | None, typer.Option(help=f"Training protocol: {', '.join(PROTOCOLS)}.")] = None
    engine: Annotated[str | None, typer.Option(help=f"Training engine: {', '.join(ENGINES)}; auto is the fastest on CPUs.")] = None
    dtype: Annotated[str | None, typer.Option(help="Floating-point type: float64 or float32.")] = None


@dataclass(frozen=True)
class Resources:
    """Where a study runs, and how much of it at the same time."""

    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use: host:port, ray://host:10001, or auto. Default: start Ray on this machine."),
    ] = None
    pack_size: Annotated[str | None, typer.Option(help="Replicates per pack, or auto.")] = None
    workers: Annotated[int | None, typer.Option(help="Packs trained at the same time. Default: one per usable core.")] = None
    force: Annotated[bool, typer.Option(help="Run even if another driver is running this study.")] = False

    @property
    def replicates_per_pack(self) -> int | str | None:
        """The pack size, as an int where it is a whole number."""
        text = self.pack_size
        return int(text) if text and text.isascii() and text.isdigit() else text


def search_options(search: type[Search]) -> type[Any]:
    """The options of a search, as a dataclass: names, defaults and help texts are those of the search's own fields."""
    own = [(name, _search_option(name, field), None) for name, field in search.model_fields.items() if name != "kind"]
    return make_dataclass(f"{search.__name__}Options", own, frozen=True)


def _search_option(name: str, field: FieldInfo) -> Any:
    """The option of one field. It is None unless given: the study file's value, or else the class's default, then holds."""
    several = get_origin(field.annotation) is tuple
    kind: Any = list[str] if several else str if get_origin(field.annotation) is Literal else field.annotation
    default = ", ".join(field.default) if several else field.default
    texts = [field.description or "", "May be given several times." if several else ""]
    texts.append(f"Default: {default}." if default not in (None, "") else "")
    option = typer.Option(*FLAGS.get(name, ()), help=" ".join(filter(None, texts)))
    return Annotated[kind | None, option]


FLAGS = {"earlier": ("--from",)}
"""Options that have another name than their field."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer needs it: each parameter that is a dataclass of options is replaced, in place, by its options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}

    @wraps(command)
    def shell(**given: Any) -> None:
        made = {name: kind(**{one.name: given.pop(one.name) for one in fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        one = groups.get(parameter.name)
        parameters += [parameter.replace(annotation=hints[parameter.name])] if one is None else _options(one)
    shell.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    shell.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return shell


def _options(kind: type[Any]) -> list[inspect.Parameter]:
    """The fields of a dataclass as keyword parameters."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(kind)
    ]
