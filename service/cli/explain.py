"""Commands that explain failures: diagnose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from search_spaces.protocol import PROTOCOLS
from service.cli.options import AsJson
from service.cli.printing import LEAN, err, show

if TYPE_CHECKING:
    from analysis.diagnosis.diagnose import Diagnosis


def diagnose(
    architecture: Annotated[
        str, typer.Argument(metavar="ARCH", help="Architecture, such as 10-5-10, or 10-5-10/20 for an SAE with 20 latents.")
    ],
    sparsity: Annotated[float, typer.Option(help="Sparsity: P(feature = 0).")],
    l1: Annotated[float, typer.Option(help="Coefficient of the L1 penalty.")],
    seed: Annotated[int, typer.Option(help="Seed of the data, the AE and the SAE.")],
    protocol: Annotated[str, typer.Option(help=f"Training protocol: {', '.join(PROTOCOLS)}.")] = "dissertation",
    out_place: Annotated[
        str | None, typer.Option("--out", help="Where to write the figure: a folder (PNG and SVG), or a .png or .svg file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain why one replicate fails. Trains it with one thing changed at a time, and shows which change cures it."""
    from analysis.diagnosis.diagnose import diagnose as diagnosed
    from analysis.figures.diagnosis import refuse_unwritable, write_figure

    if out_place is not None:
        refuse_unwritable(out_place)
    with _progress_bar(f"diagnosing {architecture}", as_json) as on_progress:
        found = diagnosed(architecture, sparsity, l1, seed, protocol, on_progress)
    files = [] if out_place is None else write_figure(found, out_place)
    show({**found.to_mapping(), "figures": files}, _diagnosis(found, files), as_json)


@contextlib.contextmanager
def _progress_bar(title: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of the replicates trained so far; only on a terminal, and removed when the work is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.completed}/{task.total} replicates"),
    )
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _diagnosis(found: Diagnosis, files: list[str]) -> Iterator[RenderableType]:
    table = Table("change", "trainings", f"{found.base_rate.failure} [95 %]", "cures", "other failures", **LEAN)
    for name, rate, cures in found.rates():
        outcome = "fails" if rate.failures else "–"
        measured = f"{rate.rate:.1%} [{rate.low:.1%}, {rate.high:.1%}]" if rate.replicates > 1 else outcome
        others = ", ".join(f"{kind} {times}" for kind, times in rate.other.items())
        table.add_row(name, str(rate.replicates), measured, "yes" if cures else "", others)
    yield table
    yield found.verdict
    yield from (f"Figure: {file}" for file in files)
