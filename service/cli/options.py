"""Options and arguments that several commands share, each defined once."""

from __future__ import annotations

from typing import Annotated

import typer

from search_spaces.protocol import PROTOCOLS
from study.engines.registry import ENGINES

Where = Annotated[str, typer.Option("--storage", help="Where studies live: a folder, or a URI as s3://bucket/folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]
Study = Annotated[str, typer.Argument(help="Name of a study.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster: host:port, ray://host:10001, or auto. Default: a local Ray.")]
Workers = Annotated[int | None, typer.Option(help="Packs trained at a time. Default: one a physical core.")]
PackSize = Annotated[str | None, typer.Option(help="Replicates a pack, or auto.")]
Force = Annotated[bool, typer.Option(help="Run although another driver is running this study.")]

Space = Annotated[str, typer.Argument(help="A named space, or a study file (YAML).")]
Name = Annotated[str | None, typer.Option(help="The study's name; default: the space's.")]
ProtocolName = Annotated[str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.")]
EngineName = Annotated[str | None, typer.Option(help=f"One of {', '.join(ENGINES)}; auto is the fastest on CPUs.")]
Dtype = Annotated[str | None, typer.Option(help="float64 or float32.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def number_or_text(text: str | None) -> int | str | None:
    return int(text) if text and text.isascii() and text.isdigit() else text
