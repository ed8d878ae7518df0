"""Commands that read what is stored: spaces, status, list, rows, replicate, regions, rate, report, compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from search_spaces.errors import MisuseError
from search_spaces.paths import local_path, shown
from search_spaces.protocol import PROTOCOLS
from search_spaces.spaces import PROTOCOL_OF_SPACE, SPACES, GridSpace
from service.cli.leads import after_status, failing_replicate, next_steps
from service.cli.options import AsJson, Failure, Study, Where, grouped
from service.cli.printing import LEAN, complain, differing_table, err, show, table_of, warn_of_gaps
from study.storage.local_files import refuse_unwritable_file, write_out
from study.storage.study_folder import DEFAULT_STORAGE, Storage

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from search_spaces.surface.domain import Domain
    from study.storage.status import Status


def spaces(as_json: AsJson = False) -> None:
    """List the named spaces, with their size and estimated cost."""
    listed = [{"space": name, **_size(space, PROTOCOL_OF_SPACE[name])} for name, space in SPACES.items()]
    sentence = "Core-hours are estimates for the protocol of the space, the engine that auto takes and float64."
    lead = next_steps("sae-study launch smoke", "sae-study launch architectures --dry-run")
    show({"spaces": listed}, [_spaces_table(listed), sentence, lead], as_json)


def _size(space: GridSpace, protocol: str) -> dict[str, Any]:
    """The size of a space, and the estimated cost of training it."""
    from study.packs import Pack, estimated_seconds

    replicates = space.replicates()
    packs = [Pack(own, PROTOCOLS[protocol], "float64", "auto") for own in replicates]
    return {
        "protocol": protocol,
        "engine": packs[0].engine,
        "architectures": list(space.architectures),
        "sparsities": len(space.sparsities),
        "l1": len(space.l1),
        "seeds": len(space.seeds),
        "replicates": sum(map(len, replicates)),
        "core_hours": sum(map(estimated_seconds, packs)) / 3600,
    }


def _spaces_table(listed: list[dict[str, Any]]) -> Table:
    table = Table("space", "protocol", "architectures", "sparsities", "l1", "seeds", "replicates", "core-hours", **LEAN)
    for row in listed:
        names = row["architectures"]
        shown = names if len(names) < 3 else [names[0], "…", names[-1]]
        counts = (str(row[count]) for count in ("sparsities", "l1", "seeds", "replicates"))
        table.add_row(row["space"], row["protocol"], " ".join(shown), *counts, f"{row['core_hours']:.3g}")
    return table


def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study. Default: all studies in the storage.")] = None,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show the progress and failures of studies. Shows also whether a driver is running them."""
    from study.storage.status import status as study_status

    if study:
        one = study_status(study, storage)
        show(asdict(one), _progress_lines([one], storage), as_json)
    else:
        statuses = list(_readable_statuses(storage))
        show({"studies": [asdict(one) for one in statuses]}, _progress_lines(statuses, storage), as_json)


def _readable_statuses(storage: str) -> Iterator[Status]:
    """The statuses of all studies. One that cannot be read becomes an error line and does not hide the others."""
    from study.storage.status import status as study_status

    for name in Storage.at(storage).studies():
        try:
            yield study_status(name, storage)
        except MisuseError as broken:
            complain(broken)


def _progress_lines(statuses: list[Status], storage: str) -> Iterator[str]:
    for one in statuses:
        failures = ", ".join(f"{kind} {count}" for kind, count in one.failures.items()) or "none"
        yield f"{one.name}: {one.state}, {one.done} of {one.planned} replicates; failures: {failures}"
        yield from (f"  error: {error}" for error in one.errors)
        if one.unreadable_shards:
            again = Storage.at(storage).study(one.name).command("resume")
            yield f"  corrupt shards: {len(one.unreadable_shards)}; `{again}` trains their replicates again"
    if not statuses:
        yield f"No studies in {storage!r}. {next_steps('sae-study launch smoke')}"
    for one in statuses[:1]:
        yield after_status(Storage.at(storage).study(one.name), one.state)


def studies(storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List the names of the studies in a storage."""
    names = Storage.at(storage).studies()
    show({"studies": names}, names or [f"No studies in {storage!r}. {next_steps('sae-study launch smoke')}"], as_json)


def rows(
    study: Study,
    out_file: Annotated[str, typer.Option("--out", help="File to write: .parquet or .csv.")],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Write the tidy frame of a study: one row per replicate."""
    from analysis.frames import load
    from study.storage.status import existing_study

    file = local_path(out_file, "--out")
    if file.suffix.lower() not in (".parquet", ".csv"):
        raise MisuseError(
            f"--out={shown(out_file)} is neither .parquet nor .csv. The ending selects the format: name a file that ends in one."
        )
    existing_study(study, storage)
    refuse_unwritable_file(file, "--out")
    frame = load(study, storage)
    write_out(file, "--out", lambda place: _write(frame, place, file.suffix))
    warn_of_gaps(frame, Storage.at(storage).study(study))
    document = {"study": study, "out": str(file), "rows": len(frame), **frame.attrs}
    lead = next_steps(Storage.at(storage).study(study).command("report"))
    show(document, [f"{len(frame)} rows of {study} written to {file}.", lead], as_json)


def _write(frame: pd.DataFrame, place: Path, suffix: str) -> None:
    frame.to_csv(place, index=False) if suffix.lower() == ".csv" else frame.to_parquet(place, index=False)


def replicate(
    study: Study,
    replicate_id: Annotated[
        str, typer.Argument(metavar="ID", help="A replicate_id, or enough of its first characters to identify it.")
    ],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Train a stored replicate again and compare the two rows. It is trained on its own, without its pack mates."""
    import pandas as pd

    from study.replicate import replicate_again
    from study.storage.status import read_spec

    stored, again, differing = replicate_again(study, replicate_id, storage)
    found = {"replicate_id": stored["replicate_id"], "identical": not differing, "differing": differing}
    sentence = f"Differs in {', '.join(differing)}." if differing else "Identical in every science column."
    table = _columns_table(stored, again, differing)
    explained = failing_replicate(pd.DataFrame([stored]), read_spec(Storage.at(storage).study(study)).protocol)
    lead = [next_steps(explained)] if explained else []
    show({**found, "stored": stored, "again": again}, [table, sentence, *lead], as_json)
    if differing:
        raise typer.Exit(1)


def _columns_table(stored: dict[str, Any], again: dict[str, Any], differing: list[str]) -> Table:
    table = Table("column", "stored", "trained again", **LEAN)
    for column, value in stored.items():
        table.add_row(Text(column, "bold red" if column in differing else ""), str(value), str(again[column]))
    return table


def regions(
    study: Study,
    failure: Annotated[
        str | None,
        typer.Option(
            help="What counts as a failure: any, one kind, or sae_all_dead. Default: any failure, then each kind that occurs."
        ),
    ] = None,
    level: Annotated[float, typer.Option(help="Failure rate at or above which a cell belongs to a region.")] = 0.5,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Find the failure regions of a study. A region is a set of connected cells whose failure rate is at or above a level."""
    from analysis.rates.regions import all_regions, failure_regions, region_table
    from analysis.rates.tally import on_axes

    frame, domain = _rows_and_domain(study, storage)
    found = all_regions(frame, level, domain) if failure is None else failure_regions(frame, failure, level, domain)
    left_out = int((~on_axes(frame)).sum())
    if left_out:
        err.print(f"{left_out} replicates with l1 = 0 are left out: regions extend along log10 l1.")
    none = f"No cell of {study} fails at a rate of {level:g} or more." if len(frame) else f"{study} has no rows yet."
    regions = [region.to_mapping() for region in found]
    document = {"study": study, "level": level, "regions": regions, "left_out_l1_zero": left_out}
    lead = next_steps(Storage.at(storage).study(study).command("report"))
    show(document, chain(table_of(region_table(found)) if found else [none], [lead]), as_json)


def _rows_and_domain(study: str, storage: str) -> tuple[pd.DataFrame, Domain | None]:
    """The rows of a study for its failure rates, and the ranges that its specification declares, if any."""
    from analysis.frames import FOR_RATES, load
    from study.storage.status import read_spec

    frame, spec = load(study, storage, FOR_RATES), read_spec(Storage.at(storage).study(study))
    spec.refuse_several()
    return frame, spec.domain


@dataclass(frozen=True)
class CellOptions:
    """The one cell whose rate is wanted."""

    architecture: Annotated[str | None, typer.Argument(metavar="ARCH", help="Architecture of the cell, such as 10-5-10.")] = None
    sparsity: Annotated[float | None, typer.Option(help="Sparsity of the cell: P(feature = 0).")] = None
    l1: Annotated[float | None, typer.Option(help="L1 coefficient of the cell.")] = None


@dataclass(frozen=True)
class CellFiles:
    """The file of cells whose rates are wanted, and the file that receives the rates."""

    cells: Annotated[
        str | None, typer.Option(help="Instead of one cell: a CSV file with the columns architecture, sparsity and l1.")
    ] = None
    out_file: Annotated[str | None, typer.Option("--out", help="CSV file to write. Default: print the rates.")] = None


MOST_NEAREST = 4
"""How many measured cells are named beside a rate from the surface."""


@grouped
def rate(
    study: Study,
    *,
    cell: CellOptions,
    files: CellFiles,
    failure: Failure = "any",
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show the failure rate at one cell or at each cell of a file. It is measured or interpolated, with a 95 % interval."""
    from analysis.rates.at_cells import failure_rates

    cells = _cells(cell, files)
    file = None if files.out_file is None else local_path(files.out_file, "--out")
    if file is not None:
        refuse_unwritable_file(file, "--out")
    frame, domain = _rows_and_domain(study, storage)
    rates = failure_rates(frame, cells, failure, domain=domain)
    measured = int((rates["source"] == "measured").sum())
    counts = {"cells": len(rates), "measured": measured, "surface": len(rates) - measured}
    if file is not None:
        write_out(file, "--out", lambda place: rates.to_csv(place, index=False))
        shown = [f"{len(rates)} rates of {study} ({measured} measured, {counts['surface']} from the surface) written to {file}."]
    elif files.cells is not None:
        shown = [rates.to_csv(index=False).rstrip()]
    else:
        shown = [_rate_sentence(rates, failure), *_around(frame, rates.iloc[0], failure)]
    answer = {"rates": rates.to_dict("records")} if file is None else {"out": str(file)}
    show({"study": study, "failure": failure, **counts, **answer}, shown, as_json)


def _cells(cell: CellOptions, files: CellFiles) -> pd.DataFrame:
    """The one cell or the cells of the file. Raises MisuseError unless one of the two, and only one, is given in full."""
    from analysis.rates.at_cells import one_cell, read_cells

    if sum(part is not None for part in vars(cell).values()) != (3 if files.cells is None else 0):
        raise MisuseError("rate takes either ARCH with --sparsity and --l1, or --cells FILE.csv. Give one of the two in full.")
    return one_cell(cell.architecture, cell.sparsity, cell.l1) if files.cells is None else read_cells(files.cells)


def _around(frame: pd.DataFrame, cell: pd.Series, failure: str) -> list[str]:
    """For a rate from the surface, the measured cells next to it."""
    from analysis.rates.at_cells import cells_in_words, nearest_cells

    if cell["source"] == "measured":
        return []
    return [f"Nearest measured cells: {'; '.join(cells_in_words(nearest_cells(frame, cell, failure).head(MOST_NEAREST)))}."]


def _rate_sentence(rates: pd.DataFrame, failure: str) -> str:
    (row,) = rates.itertuples()
    return (
        f"{row.architecture} at S = {row.sparsity:g}, l1 = {row.l1:g}, {failure}: {row.rate:.1%} "
        f"[{row.confidence:.0%} interval {row.low:.1%} to {row.high:.1%}], {row.source}, {row.replicates} replicates at this cell"
    )


def report(
    study: Study,
    out_folder: Annotated[
        str | None, typer.Option("--out", help="Folder to write to. Default: report/ in the study's folder.")
    ] = None,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Write an HTML report about a study. Figures (PNG, SVG), tables (CSV) and rows (CSV, Parquet) come with it."""
    from analysis.report.page import write_report

    page = write_report(study, storage, out_folder)
    folder = Storage.at(storage).study(study)
    lead = next_steps(folder.command("regions"), f"{folder.command('rows')} --out rows.csv")
    show({"study": study, "page": page}, [f"Report: {page}", lead], as_json)


def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="Name of a study.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Name of the study to compare it with.")],
    failure: Failure = "any",
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Compare the failure rates and metrics of two studies. Shows which differ beyond chance, cell by cell and overall."""
    from analysis.comparisons.studies import compare as compared
    from analysis.frames import load
    from study.storage.status import existing_study, read_spec

    for study in (one, other):
        read_spec(existing_study(study, storage)).refuse_several()
    frames = [load(study, storage) for study in (one, other)]
    found = compared(frames[0], frames[1], failure)
    lead = next_steps(*(Storage.at(storage).study(study).command("report") for study in (one, other)))
    show({"studies": [one, other], **found.to_mapping()}, chain(_differences(found), [lead]), as_json)
    for study, frame in zip((one, other), frames):
        warn_of_gaps(frame, Storage.at(storage).study(study))


def _differences(found: Comparison) -> Iterator[RenderableType]:
    yield from found.sentences
    if len(found.differing):
        yield differing_table(found)
