"""Commands that say why: diagnose."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from search_spaces.protocol import PROTOCOLS
from service.cli.options import AsJson
from service.cli.printing import err, out, print_json


def diagnose(
    architecture: Annotated[str, typer.Argument(metavar="ARCH", help="As in 10-5-10, or 10-5-10/20 for an SAE of 20 latents.")],
    sparsity: Annotated[float, typer.Option(help="S = P(feature = 0).")],
    l1: Annotated[float, typer.Option(help="Coefficient of the L1 penalty.")],
    seed: Annotated[int, typer.Option(help="Of data, AE and SAE.")],
    protocol: Annotated[str, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.")] = "dissertation",
    out_place: Annotated[
        str | None, typer.Option("--out", help="Where the figure goes: a folder (PNG and SVG), or a .png or .svg file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Why one replicate fails: train it with one thing changed at a time, and see which change cures it."""
    from analysis.diagnosis.diagnose import diagnose as diagnosed
    from analysis.figures.diagnosis import figure_files, write_figure

    if out_place is not None:
        figure_files(out_place, "")  # refused before the work, not after it
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.completed}/{task.total} replicates"))
    with Progress(*columns, console=err, disable=as_json or not err.is_terminal, transient=True) as bar:
        task = bar.add_task(f"diagnosing {architecture}", total=None)
        found = diagnosed(
            architecture, sparsity, l1, seed, protocol, lambda done, total: bar.update(task, completed=done, total=total)
        )
    files = [] if out_place is None else write_figure(found, out_place)
    if as_json:
        print_json({**found.to_mapping(), "figures": files})
        return
    table = Table("change", "trainings", f"{found.base_rate.failure} [95 %]", "cures", "what else then fails", box=box.SIMPLE_HEAD)
    for name, rate, cures in found.rates():
        told = f"{rate.rate:.1%} [{rate.low:.1%}, {rate.high:.1%}]" if rate.replicates > 1 else "fails" if rate.failures else "–"
        others = ", ".join(f"{kind} {times}" for kind, times in rate.other.items())
        table.add_row(name, str(rate.replicates), told, "yes" if cures else "", others)
    out.print(table)
    out.print(found.verdict)
    for file in files:
        out.print(f"Figure: {file}")
