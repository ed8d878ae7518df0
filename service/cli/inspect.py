"""Commands that look at what there is: spaces, status, list, rows, replicate, regions, rate, report, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from search_spaces.errors import MisuseError
from search_spaces.protocol import PROTOCOLS
from search_spaces.spaces import SPACES
from service.cli.options import AsJson, Study, Where
from service.cli.printing import differing_cells, err, out, print_json, print_table, warn_of_gaps
from study.engines.registry import engine_for
from study.storage.study_folder import DEFAULT_STORAGE, Storage

if TYPE_CHECKING:
    import pandas as pd


def spaces(as_json: AsJson = False) -> None:
    """Named spaces, their replicates and cost."""
    from study.packs import Pack, estimated_seconds

    protocol = PROTOCOLS["dissertation"]
    engine = engine_for("auto", protocol).name
    rows: list[dict[str, Any]] = []
    for name, space in SPACES.items():
        replicates = space.replicates()
        seconds = sum(estimated_seconds(Pack(own, protocol, "float64", engine)) for own in replicates)
        rows.append(
            {
                "space": name,
                "architectures": list(space.architectures),
                "sparsities": len(space.sparsities),
                "l1": len(space.l1),
                "seeds": len(space.seeds),
                "replicates": sum(map(len, replicates)),
                "core_hours": seconds / 3600,
            }
        )
    if as_json:
        print_json({"protocol": protocol.name, "engine": engine, "spaces": rows})
        return
    table = Table("space", "architectures", "sparsities", "l1", "seeds", "replicates", "core-hours", title=None)
    for row in rows:
        names = row["architectures"] if len(row["architectures"]) < 3 else [row["architectures"][0], "…", row["architectures"][-1]]
        table.add_row(
            row["space"],
            " ".join(names),
            *(str(row[k]) for k in ("sparsities", "l1", "seeds", "replicates")),
            f"{row['core_hours']:.3g}",
        )
    out.print(table)
    out.print(f"Core-hours: estimated, protocol {protocol.name}, engine {engine}, float64.")


def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; default: all.")] = None,
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """How far studies are: rows there, failures, whether a driver is at work."""
    from study.storage.status import status as study_status

    names = [study] if study else Storage.at(storage).studies()
    statuses = []
    for name in names:
        try:
            statuses.append(study_status(name, storage))
        except MisuseError as broken:  # one study that cannot be read hides no other
            if study:
                raise
            err.print(f"error: {broken}", markup=False)
    if as_json:
        print_json(asdict(statuses[0]) if study else {"studies": [asdict(one) for one in statuses]})
        return
    for one in statuses:
        failures = ", ".join(f"{kind} {count}" for kind, count in one.failures.items()) or "none"
        out.print(f"{one.name}: {one.state}, {one.done} of {one.planned} replicates; failures: {failures}")
        if one.unreadable_shards:
            again = Storage.at(storage).study(one.name).command("resume")
            out.print(f"  {len(one.unreadable_shards)} corrupt shards; `{again}` trains them again")
    if not statuses:
        out.print(f"No study in {storage!r}.")


def list_(storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Names of the studies in a storage."""

    names = Storage.at(storage).studies()
    if as_json:
        print_json({"studies": names})
    else:
        out.print("\n".join(names) or f"No study in {storage!r}.")


def rows(
    study: Study,
    out_file: Annotated[str, typer.Option("--out", help="Where to: a .parquet or .csv file.")],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Write the tidy frame of a study: one row a replicate."""
    from analysis.frames import load

    kind = Path(out_file).suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise MisuseError(f"--out={out_file!r} is neither .parquet nor .csv. Choose one by the file's ending.")
    frame = load(study, storage)
    try:
        frame.to_csv(out_file, index=False) if kind == ".csv" else frame.to_parquet(out_file, index=False)
    except OSError as error:
        raise MisuseError(f"--out={out_file!r} cannot be written ({error}). Name a file in a folder that is there.") from None
    warn_of_gaps(frame, Storage.at(storage).study(study))
    if as_json:
        print_json({"study": study, "out": out_file, "rows": len(frame), **frame.attrs})
    else:
        out.print(f"{len(frame)} rows of {study} written to {out_file}.")


def replicate(
    study: Study,
    replicate_id: Annotated[str, typer.Argument(metavar="ID", help="A replicate_id, or its beginning.")],
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Make one stored replicate again, alone, and compare it with its stored row."""
    from study.replicate import replicate_again

    stored, again, differing = replicate_again(study, replicate_id, storage)
    if as_json:
        print_json(
            {
                "replicate_id": stored["replicate_id"],
                "identical": not differing,
                "differing": differing,
                "stored": stored,
                "again": again,
            }
        )
    else:
        table = Table("column", "stored", "made again")
        for column, value in stored.items():
            table.add_row(f"[bold red]{column}[/]" if column in differing else column, str(value), str(again[column]))
        out.print(table)
        out.print("Identical in every science column." if not differing else f"Differs in {', '.join(differing)}.")
    if differing:
        raise typer.Exit(1)


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

    if not 0 < level < 1:
        raise MisuseError(f"level={level} is outside (0, 1). It is a failure rate, for example 0.5.")
    frame = load(study, storage)
    domain = read_spec(Storage.at(storage).study(study)).domain
    found = all_regions(frame, level, domain) if failure is None else failure_regions(frame, failure, level, domain)
    left_out = without_zero_l1(frame)[1]
    if left_out:
        err.print(f"{left_out} replicates of l1 = 0 are left out: regions lie on log10 l1.")
    if as_json:
        listed = [asdict(region) for region in found]
        print_json({"study": study, "level": level, "regions": listed, "left_out_l1_zero": left_out})
        return
    print_table(region_table(found))
    if not found:
        out.print(f"No cell of {study} fails at a rate of {level:g} or more." if len(frame) else f"No row of {study} is there yet.")


def rate(
    study: Study,
    architecture: Annotated[str | None, typer.Argument(metavar="ARCH", help="As 10-5-10; or --cells.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="P(feature = 0) of the one cell.")] = None,
    l1: Annotated[float | None, typer.Option(help="l1 of the one cell.")] = None,
    cells: Annotated[str | None, typer.Option(help="A CSV file of cells: architecture, sparsity, l1.")] = None,
    out_file: Annotated[str | None, typer.Option("--out", help="The CSV file to write, with --cells.")] = None,
    failure: Annotated[str, typer.Option(help="any, a kind of failure, or sae_all_dead.")] = "any",
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Failure rate at one cell, or at those of a file: measured or interpolated, with its 90 % interval."""
    from analysis.frames import load
    from analysis.rates.at_cells import failure_rates, one_cell, read_cells, write_whole
    from study.storage.status import read_spec

    given = [sum(part is not None for part in parts) for parts in ((architecture, sparsity, l1), (cells, out_file))]
    if given not in ([3, 0], [0, 2]):
        raise MisuseError(
            "rate takes ARCH with --sparsity and --l1, or --cells FILE.csv with --out FILE.csv; one of the two, whole."
        )
    asked = one_cell(architecture, sparsity, l1) if cells is None else read_cells(cells)
    frame = load(study, storage)
    told = failure_rates(frame, asked, failure, domain=read_spec(Storage.at(storage).study(study)).domain)
    if out_file is not None:
        write_whole(told, out_file)
    _tell_rates(told, study, failure, out_file, as_json)


def _tell_rates(told: pd.DataFrame, study: str, failure: str, out_file: str | None, as_json: bool) -> None:
    measured = int((told["source"] == "measured").sum())
    if as_json:
        written = {} if out_file is None else {"out": out_file}
        counts = {"cells": len(told), "measured": measured, "surface": len(told) - measured}
        listed = {"rates": told.to_dict("records")} if out_file is None else {}
        print_json({"study": study, "failure": failure, **counts, **written, **listed})
    elif out_file is not None:
        out.print(
            f"{len(told)} rates of {study} ({measured} measured, {len(told) - measured} by the surface) written to {out_file}."
        )
    else:
        (row,) = told.itertuples()
        out.print(
            f"{row.architecture} at S = {row.sparsity:g}, l1 = {row.l1:g}, {failure}: {row.rate:.1%} "
            f"[{row.confidence:.0%} interval {row.low:.1%} to {row.high:.1%}], {row.source}, {row.replicates} replicates there",
            markup=False,
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
    if as_json:
        print_json({"study": study, "page": page})
    else:
        out.print(f"Report: {page}")


def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="Name of a study.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Name of the study that it is compared with.")],
    failure: Annotated[str, typer.Option(help="any, a kind of failure, or sae_all_dead.")] = "any",
    storage: Where = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Which failure rates and metrics differ beyond chance between two studies, cell by cell and as a whole."""
    from analysis.comparisons.studies import compare as compared
    from analysis.frames import load

    frames = [load(study, storage) for study in (one, other)]
    found = compared(frames[0], frames[1], failure)
    if as_json:
        print_json({"studies": [one, other], **found.to_mapping()})
    else:
        for sentence in found.sentences:
            out.print(sentence)
        if len(found.differing):
            out.print(differing_cells(found))
    for study, frame in zip((one, other), frames):
        warn_of_gaps(frame, Storage.at(storage).study(study))
