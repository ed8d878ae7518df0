"""Commands that look at what there is: spaces, status, list, rows, replicate, regions, rate, report, compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from search_spaces.errors import MisuseError
from search_spaces.protocol import PROTOCOLS
from search_spaces.spaces import SPACES, GridSpace
from service.cli.options import AsJson, Failure, Study, Where, grouped
from service.cli.printing import complain, differing_table, err, show, table_of, warn_of_gaps
from study.engines.registry import engine_for
from study.storage.study_folder import DEFAULT_STORAGE, Storage

if TYPE_CHECKING:
    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from study.storage.status import Status


def spaces(as_json: AsJson = False) -> None:
    """Named spaces, their replicates and cost."""
    protocol = "dissertation"
    engine = engine_for("auto", PROTOCOLS[protocol]).name
    listed = [{"space": name, **_size(space, protocol, engine)} for name, space in SPACES.items()]
    sentence = f"Core-hours: estimated, protocol {protocol}, engine {engine}, float64."
    show({"protocol": protocol, "engine": engine, "spaces": listed}, [_spaces_table(listed), sentence], as_json)


def _size(space: GridSpace, protocol: str, engine: str) -> dict[str, Any]:
    """What a space holds, and what training it costs."""
    from study.packs import Pack, estimated_seconds

    replicates = space.replicates()
    seconds = sum(estimated_seconds(Pack(own, PROTOCOLS[protocol], "float64", engine)) for own in replicates)
    return {
        "architectures": list(space.architectures),
        "sparsities": len(space.sparsities),
        "l1": len(space.l1),
        "seeds": len(space.seeds),
        "replicates": sum(map(len, replicates)),
        "core_hours": seconds / 3600,
    }


def _spaces_table(listed: list[dict[str, Any]]) -> Table:
    table = Table("space", "architectures", "sparsities", "l1", "seeds", "replicates", "core-hours")
    for row in listed:
        names = row["architectures"]
        shown = names if len(names) < 3 else [names[0], "…", names[-1]]
        counts = (str(row[count]) for count in ("sparsities", "l1", "seeds", "replicates"))
        table.add_row(row["space"], " ".join(shown), *counts, f"{row['core_hours']:.3g}")
    return table


def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; default: all.")] = None,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """How far studies are: rows there, failures, whether a driver is at work."""
    from study.storage.status import status as study_status

    if study:
        one = study_status(study, storage)
        show(asdict(one), _progress_lines([one], storage), as_json)
    else:
        statuses = list(_readable_statuses(storage))
        show({"studies": [asdict(one) for one in statuses]}, _progress_lines(statuses, storage), as_json)


def _readable_statuses(storage: str) -> Iterator[Status]:
    """One study that cannot be read hides no other: it is an error line."""
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
        if one.unreadable_shards:
            again = Storage.at(storage).study(one.name).command("resume")
            yield f"  {len(one.unreadable_shards)} corrupt shards; `{again}` trains them again"
    if not statuses:
        yield f"No study in {storage!r}."


def studies(storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Names of the studies in a storage."""
    names = Storage.at(storage).studies()
    show({"studies": names}, names or [f"No study in {storage!r}."], as_json)


def rows(
    study: Study,
    out_file: Annotated[str, typer.Option("--out", help="Where to: a .parquet or .csv file.")],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Write the tidy frame of a study: one row a replicate."""
    from analysis.frames import load

    if Path(out_file).suffix.lower() not in (".parquet", ".csv"):
        raise MisuseError(f"--out={out_file!r} is neither .parquet nor .csv. Choose one by the file's ending.")
    frame = load(study, storage)
    _write(frame, out_file)
    warn_of_gaps(frame, Storage.at(storage).study(study))
    document = {"study": study, "out": out_file, "rows": len(frame), **frame.attrs}
    show(document, [f"{len(frame)} rows of {study} written to {out_file}."], as_json)


def _write(frame: pd.DataFrame, file: str) -> None:
    """As CSV or Parquet, by the file's ending; MisuseError where it cannot be written."""
    try:
        frame.to_csv(file, index=False) if file.lower().endswith(".csv") else frame.to_parquet(file, index=False)
    except OSError as error:
        raise MisuseError(f"--out={file!r} cannot be written ({error}). Name a file in a folder that is there.") from None


def replicate(
    study: Study,
    replicate_id: Annotated[str, typer.Argument(metavar="ID", help="A replicate_id, or its beginning.")],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Make one stored replicate again, alone, and compare it with its stored row."""
    from study.replicate import replicate_again

    stored, again, differing = replicate_again(study, replicate_id, storage)
    found = {"replicate_id": stored["replicate_id"], "identical": not differing, "differing": differing}
    sentence = f"Differs in {', '.join(differing)}." if differing else "Identical in every science column."
    table = _columns_table(stored, again, differing)
    show({**found, "stored": stored, "again": again}, [table, sentence], as_json)
    if differing:
        raise typer.Exit(1)


def _columns_table(stored: dict[str, Any], again: dict[str, Any], differing: list[str]) -> Table:
    table = Table("column", "stored", "made again")
    for column, value in stored.items():
        table.add_row(Text(column, "bold red" if column in differing else ""), str(value), str(again[column]))
    return table


def regions(
    study: Study,
    failure: Annotated[
        str | None, typer.Option(help="any, a kind of failure, or sae_all_dead; default: any and every kind there.")
    ] = None,
    level: Annotated[float, typer.Option(help="Failure rate from which a cell belongs to a region.")] = 0.5,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Failure regions: connected cells whose failure rate is at or above a level."""
    from analysis.frames import load
    from analysis.rates.regions import all_regions, failure_regions, region_table
    from analysis.rates.tally import without_zero_l1
    from study.storage.status import read_spec

    frame = load(study, storage)
    domain = read_spec(Storage.at(storage).study(study)).domain
    found = all_regions(frame, level, domain) if failure is None else failure_regions(frame, failure, level, domain)
    left_out = without_zero_l1(frame)[1]
    if left_out:
        err.print(f"{left_out} replicates of l1 = 0 are left out: regions lie on log10 l1.")
    none = f"No cell of {study} fails at a rate of {level:g} or more." if len(frame) else f"No row of {study} is there yet."
    document = {"study": study, "level": level, "regions": [asdict(region) for region in found], "left_out_l1_zero": left_out}
    show(document, table_of(region_table(found)) if found else [none], as_json)


@dataclass(frozen=True)
class CellOptions:
    """The one cell whose rate is wanted."""

    architecture: Annotated[str | None, typer.Argument(metavar="ARCH", help="As 10-5-10; or --cells.")] = None
    sparsity: Annotated[float | None, typer.Option(help="P(feature = 0) of the one cell.")] = None
    l1: Annotated[float | None, typer.Option(help="l1 of the one cell.")] = None


@dataclass(frozen=True)
class CellFiles:
    """The file of cells whose rates are wanted, and where they go."""

    cells: Annotated[str | None, typer.Option(help="A CSV file of cells: architecture, sparsity, l1.")] = None
    out_file: Annotated[str | None, typer.Option("--out", help="The CSV file to write, with --cells.")] = None


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
    """Failure rate at one cell, or at those of a file: measured or interpolated, with its 90 % interval."""
    from analysis.frames import load
    from analysis.rates.at_cells import failure_rates, write_whole
    from study.storage.status import read_spec

    asked = _cells(cell, files)
    frame = load(study, storage)
    rates = failure_rates(frame, asked, failure, domain=read_spec(Storage.at(storage).study(study)).domain)
    if files.out_file is not None:
        write_whole(rates, files.out_file)
    _show_rates(rates, study, failure, files.out_file, as_json)


def _cells(cell: CellOptions, files: CellFiles) -> pd.DataFrame:
    """The one cell or those of the file; MisuseError unless exactly one of the two is given in full."""
    from analysis.rates.at_cells import one_cell, read_cells

    if [sum(part is not None for part in vars(one).values()) for one in (cell, files)] not in ([3, 0], [0, 2]):
        raise MisuseError(
            "rate takes ARCH with --sparsity and --l1, or --cells FILE.csv with --out FILE.csv; one of the two, whole."
        )
    return one_cell(**vars(cell)) if files.cells is None else read_cells(files.cells)


def _show_rates(rates: pd.DataFrame, study: str, failure: str, out_file: str | None, as_json: bool) -> None:
    measured = int((rates["source"] == "measured").sum())
    counts = {"cells": len(rates), "measured": measured, "surface": len(rates) - measured}
    document = {"study": study, "failure": failure, **counts}
    if out_file is None:
        show({**document, "rates": rates.to_dict("records")}, [_rate_sentence(rates, failure)], as_json)
    else:
        by = f"{measured} measured, {counts['surface']} by the surface"
        show({**document, "out": out_file}, [f"{len(rates)} rates of {study} ({by}) written to {out_file}."], as_json)


def _rate_sentence(rates: pd.DataFrame, failure: str) -> str:
    (row,) = rates.itertuples()
    return (
        f"{row.architecture} at S = {row.sparsity:g}, l1 = {row.l1:g}, {failure}: {row.rate:.1%} "
        f"[{row.confidence:.0%} interval {row.low:.1%} to {row.high:.1%}], {row.source}, {row.replicates} replicates there"
    )


def report(
    study: Study,
    out_folder: Annotated[str | None, typer.Option("--out", help="A folder; default: report/ in the study's own.")] = None,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a study, with its figures (PNG, SVG), tables (CSV) and rows (CSV, Parquet)."""
    from analysis.report.page import write_report

    page = write_report(study, storage, out_folder)
    show({"study": study, "page": page}, [f"Report: {page}"], as_json)


def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="Name of a study.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Name of the study that it is compared with.")],
    failure: Failure = "any",
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Which failure rates and metrics differ beyond chance between two studies, cell by cell and as a whole."""
    from analysis.comparisons.studies import compare as compared
    from analysis.frames import load

    frames = [load(study, storage) for study in (one, other)]
    found = compared(frames[0], frames[1], failure)
    show({"studies": [one, other], **found.to_mapping()}, _differences(found), as_json)
    for study, frame in zip((one, other), frames):
        warn_of_gaps(frame, Storage.at(storage).study(study))


def _differences(found: Comparison) -> Iterator[RenderableType]:
    yield from found.sentences
    if len(found.differing):
        yield differing_table(found)
