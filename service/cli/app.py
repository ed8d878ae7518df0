"""The `sae-study` command: parses, calls the library, prints. Exit 0 done, 1 the work failed, 2 misused."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from search_spaces.errors import MisuseError
from search_spaces.protocol import PROTOCOLS
from search_spaces.spaces import SPACES
from study.engines.registry import ENGINES, engine_named
from study.storage.study_folder import DEFAULT_STORAGE, Storage, StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from analysis.comparisons.studies import Comparison
    from analysis.rates.regions import Region
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Learner
    from search_spaces.study_files import StudySpec
    from study.on_ray.driver import Outcome
    from study.on_ray.watch import Progress as StudyProgress

app = typer.Typer(add_completion=False, help="Where sparse autoencoders fail, and why.", rich_markup_mode=None)
PIPED_WIDTH = 160
"""Columns of a table that no terminal shows."""
out, err = (
    Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else PIPED_WIDTH)
    for stderr, stream in ((False, sys.stdout), (True, sys.stderr))
)

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

MOST_CELLS_SHOWN = 40
MOST_ERRORS_SHOWN = 10
LINE_SECONDS = 10.0
"""At most one line of progress in so long where no terminal shows a bar."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


@app.command()
def spaces(as_json: AsJson = False) -> None:
    """Named spaces, their replicates and cost."""
    from study.packs import Pack, estimated_seconds

    protocol = PROTOCOLS["dissertation"]
    engine = engine_named("auto").name
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
        _print_json({"protocol": protocol.name, "engine": engine, "spaces": rows})
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


@app.command()
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
    from study.on_ray import driver
    from study.specification import study_spec

    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, seeds=seeds, pack_size=_number_or_text(pack_size)
    )
    if dry_run:
        _tell_plan(spec, storage, workers, as_json)
        return
    with _progress(as_json, Storage.at(storage).study(spec.name)) as on_progress:
        outcome = driver.launch(spec, storage=storage, address=address, workers=workers, force=force, on_progress=on_progress)
    _tell_outcome(outcome, storage, as_json)


def _tell_plan(spec: StudySpec, storage: str, workers: int | None, as_json: bool) -> None:
    from study.on_ray.driver import refuse_other_specification
    from study.on_ray.session import local_workers
    from study.planning import plan_study

    folder = Storage.at(storage).study(spec.name)
    refuse_other_specification(folder, spec)
    summary = plan_study(folder, spec, local_workers(workers)).summary()
    if as_json:
        _print_json(summary)
        return
    width = max(map(len, summary))
    for key, value in summary.items():
        out.print(f"{key:>{width}}  {value:.3g}" if isinstance(value, float) else f"{key:>{width}}  {value}")


@app.command("map")
def map_(
    space: Space,
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
    _search(space, given, name, protocol, engine, dtype, address, pack_size, workers, force, dry_run, storage, as_json)


@app.command()
def l1(
    space: Space,
    failure: Annotated[
        list[str] | None, typer.Option(help="A kind that must stay rare; may stand again. Default: sae_dead and sae_starved.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="How often it may come: the edge is there. Default: 0.1.")] = None,
    budget: Annotated[int | None, typer.Option(help="Replicates of each architecture and sparsity. Default: 250.")] = None,
    precision: Annotated[
        float | None, typer.Option(help="Enough where half of the edge's 90 % interval is this many decades. Default: spend all.")
    ] = None,
    recovery: Annotated[str | None, typer.Option(help="What the best l1 has most of: mcc or f1. Default: mcc.")] = None,
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
    """Find, for each architecture and sparsity of a space, the safe interval of l1 and the best l1 within the space's range."""
    given = {
        "kind": "l1",
        "failure": failure or None,
        "level": level,
        "budget": budget,
        "precision": precision,
        "recovery": recovery,
    }
    _search(space, given, name, protocol, engine, dtype, address, pack_size, workers, force, dry_run, storage, as_json)


def _search(
    space: str,
    given: dict[str, Any],
    name: str | None,
    protocol: str | None,
    engine: str | None,
    dtype: str | None,
    address: str | None,
    pack_size: str | None,
    workers: int | None,
    force: bool,
    dry_run: bool,
    storage: str,
    as_json: bool,
) -> None:
    """Launch, or plan, an adaptive search."""
    from study.on_ray import driver
    from study.specification import study_spec

    search = {key: value for key, value in given.items() if value is not None}
    spec = study_spec(
        space, name=name, protocol=protocol, engine=engine, dtype=dtype, pack_size=_number_or_text(pack_size), search=search
    )
    if dry_run:
        _tell_plan(spec, storage, workers, as_json)
        return
    with _progress(as_json, Storage.at(storage).study(spec.name)) as on_progress:
        outcome = driver.launch(spec, storage=storage, address=address, workers=workers, force=force, on_progress=on_progress)
    _tell_outcome(outcome, storage, as_json)


@app.command()
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

    with _progress(as_json, Storage.at(storage).study(study)) as on_progress:
        outcome = driver.resume(
            study,
            storage=storage,
            pack_size=_number_or_text(pack_size),
            address=address,
            workers=workers,
            force=force,
            retry_crashed=retry_crashed,
            on_progress=on_progress,
        )
    _tell_outcome(outcome, storage, as_json)


@app.command()
def stop(study: Study, storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Ask the driver of a running study to stop; what is done is kept."""
    from study.storage.status import request_stop

    request_stop(study, storage)
    folder = Storage.at(storage).study(study)
    if as_json:
        _print_json({"study": study, "stop": "requested"})
    else:
        out.print(
            f"Asked the driver of {study} to stop. `{folder.command('status')}` says when it has, "
            f"`{folder.command('resume')}` goes on."
        )


@app.command()
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
        _print_json(asdict(statuses[0]) if study else {"studies": [asdict(one) for one in statuses]})
        return
    for one in statuses:
        failures = ", ".join(f"{kind} {count}" for kind, count in one.failures.items()) or "none"
        out.print(f"{one.name}: {one.state}, {one.done} of {one.planned} replicates; failures: {failures}")
        if one.unreadable_shards:
            again = Storage.at(storage).study(one.name).command("resume")
            out.print(f"  {len(one.unreadable_shards)} corrupt shards; `{again}` trains them again")
    if not statuses:
        out.print(f"No study in {storage!r}.")


@app.command("list")
def list_(storage: Where = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """Names of the studies in a storage."""

    names = Storage.at(storage).studies()
    if as_json:
        _print_json({"studies": names})
    else:
        out.print("\n".join(names) or f"No study in {storage!r}.")


@app.command()
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
    _warn_of_gaps(frame, Storage.at(storage).study(study))
    if as_json:
        _print_json({"study": study, "out": out_file, "rows": len(frame), **frame.attrs})
    else:
        out.print(f"{len(frame)} rows of {study} written to {out_file}.")


@app.command()
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
        _print_json(
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


@app.command()
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
    from analysis.rates.regions import all_regions, failure_regions
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
        _print_json({"study": study, "level": level, "regions": listed, "left_out_l1_zero": left_out})
        return
    _print_regions(
        found, f"No cell of {study} fails at a rate of {level:g} or more." if len(frame) else f"No row of {study} is there yet."
    )


def _print_regions(found: list[Region], nothing: str) -> None:
    """A table, or the sentence that there is none."""
    heads = ("sparsity", "l1", "volume", "peak rate [95 %]", "replicates", "confidence", "beyond")
    table = Table(Column("region", no_wrap=True, overflow="fold"), *heads)
    for region in found[:MOST_CELLS_SHOWN]:
        peak = f"{region.peak_rate:.0%} [{region.peak_interval[0]:.0%}, {region.peak_interval[1]:.0%}]"
        span = [f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in (region.sparsity, region.l1)]
        table.add_row(
            region.name,
            *span,
            f"{region.volume:.1%}",
            peak,
            str(region.replicates),
            f"{region.confidence:.3f}",
            ", ".join(region.neighbours),
        )
    out.print(table if found else nothing)
    if len(found) > MOST_CELLS_SHOWN:
        out.print(f"… and {len(found) - MOST_CELLS_SHOWN} more, no surer than these; --json lists them all.")


@app.command()
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
        _print_json({"study": study, "failure": failure, **counts, **written, **listed})
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


@app.command()
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
        _print_json({"study": study, "page": page})
    else:
        out.print(f"Report: {page}")


@app.command()
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
        _print_json({"studies": [one, other], **found.to_mapping()})
    else:
        for sentence in found.sentences:
            out.print(sentence)
        if len(found.differing):
            out.print(_differing_cells(found))
    for study, frame in zip((one, other), frames):
        _warn_of_gaps(frame, Storage.at(storage).study(study))


def _differing_cells(found: Comparison) -> Table:
    """The surest first; at most MOST_CELLS_SHOWN."""
    heads = ("architecture", "sparsity", "l1", *found.names, "difference [95 %]", "test", "p (Holm)")
    shown = min(len(found.differing), MOST_CELLS_SHOWN)
    caption = f"{shown} of {len(found.differing)} cells that differ" if shown < len(found.differing) else None
    table = Table(*heads, caption=caption, box=box.SIMPLE_HEAD)
    for row in found.differing.head(MOST_CELLS_SHOWN).to_dict("records"):
        table.add_row(
            row["architecture"],
            f"{row['sparsity']:g}",
            f"{row['l1']:g}",
            *(f"{row[f'failures_{side}']} of {row[f'replicates_{side}']}" for side in ("one", "other")),
            f"{row['difference']:+.0%} [{row['low']:+.0%}, {row['high']:+.0%}]",
            row["test"],
            f"{row['p_holm']:.2g}",
        )
    return table


@app.command()
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
        _print_json({**found.to_mapping(), "figures": files})
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


def _tell_outcome(outcome: Outcome, storage: str, as_json: bool) -> None:
    """What a launch, search or resume came to."""
    from search_spaces.learners.failure_map import Refinement
    from search_spaces.learners.l1_search import L1Learner

    folder = Storage.at(storage).study(outcome.study)
    document = {name: value for name, value in vars(outcome).items() if name != "learner"}
    if outcome.learner is not None and outcome.state != "done":
        if as_json:
            _print_json({**document, **outcome.learner.summary()})
    elif isinstance(outcome.learner, Refinement):
        _tell_map(outcome.learner, document, folder, as_json)
    elif isinstance(outcome.learner, L1Learner):
        _tell_l1(outcome.learner, document, folder, as_json)
    else:
        _tell_verdicts(outcome, document, folder, as_json)
    if not as_json:
        out.print(
            f"Study {outcome.study}: {outcome.state}, {outcome.trained} replicates trained in {outcome.seconds:.0f} s by the "
            f"{outcome.engine} engine, rows in {outcome.path}"
        )
    for error in outcome.errors[:MOST_ERRORS_SHOWN]:
        err.print(f"error: {error}", markup=False)
    if len(outcome.errors) > MOST_ERRORS_SHOWN:
        err.print(f"… and {len(outcome.errors) - MOST_ERRORS_SHOWN} errors more")
    if outcome.state == "stopped":
        err.print(f"stopped with {outcome.planned - outcome.done} replicates to go; go on with: {folder.command('resume')}")
    if outcome.state != "done":
        raise typer.Exit(1)


def _tell_verdicts(outcome: Outcome, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The verdicts by cell, and the findings."""
    from analysis.frames import load
    from analysis.report.page import findings, verdict_table

    frame = load(outcome.study, folder.storage.given)
    sentences = findings(frame, outcome.planned)
    if as_json:
        _print_json({**document, "findings": sentences})
    else:
        _print_verdicts(verdict_table(frame))
        for sentence in sentences:
            out.print(sentence)
    _warn_of_gaps(frame, folder)


def _tell_map(learner: Refinement, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The failure regions, and how much of the map is unsure."""
    from analysis.searches.failure_map import failure_map, write_map

    found = failure_map(folder, learner)
    files = [folder.place(name) for name in write_map(folder, learner, found)]
    if as_json:
        _print_json({**document, **asdict(found), "files": files})
        return
    _print_regions(found.regions, f"No cell of {folder.name} fails at a rate of {found.level:g} or more.")
    out.print(
        f"{found.replicates} replicates; an expected {found.estimated_misclassified_volume:.1%} of the space is on the wrong side "
        f"of the border as drawn (regret {found.estimated_regret:.4f})."
    )
    out.print("Map: " + ", ".join(files))


def _tell_l1(learner: L1Learner, document: dict[str, Any], folder: StudyFolder, as_json: bool) -> None:
    """The safe interval and the best l1 of every cell."""
    from analysis.searches.l1 import l1_sentences, write_l1
    from study.storage.status import read_spec

    found = learner.results()
    sentences = l1_sentences(found, read_spec(folder).protocol)
    files = [folder.place(name) for name in write_l1(folder, found)]
    if as_json:
        _print_json({**document, "cells": [asdict(interval) for interval in found], "findings": sentences, "files": files})
        return
    heads = ("sparsity", "safe from [90 %]", "safe to [90 %]", "best l1 [90 %]", "MCC", "closed form", "replicates", "AE collapsed")
    table = Table(Column("architecture", no_wrap=True), *heads)
    for cell in found:
        table.add_row(
            cell.architecture,
            f"{cell.sparsity:g}",
            cell.low if cell.safe_low is None else _with_interval(cell.safe_low, cell.safe_low_interval),
            cell.high if cell.safe_high is None else _with_interval(cell.safe_high, cell.safe_high_interval),
            "–" if cell.best_l1 is None else _with_interval(cell.best_l1, cell.best_l1_interval or (None, None)),
            "–" if cell.best_mcc is None else f"{cell.best_mcc:.3f}",
            "–" if cell.predicted_high is None else f"{cell.predicted_high:.3g}",
            str(cell.replicates),
            str(cell.ae_collapsed),
        )
    out.print(table)
    for sentence in sentences:
        out.print(sentence)
    out.print("Written: " + ", ".join(files))


def _with_interval(value: float, ends: tuple[float | None, float | None]) -> str:
    low, high = ("…" if end is None else f"{end:.3g}" for end in ends)
    return f"{value:.3g} [{low}, {high}]"


def _print_verdicts(table: pd.DataFrame) -> None:
    constant = [column for column in ("architecture", "l1") if table[column].nunique() == 1]
    title = ", ".join(f"{column} {table[column].iloc[0]}" for column in constant)
    drawn = Table(
        *table.columns.drop(constant), title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for row in table.drop(columns=constant).head(MOST_CELLS_SHOWN).itertuples(index=False):
        drawn.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
    out.print(drawn)
    if len(table) > MOST_CELLS_SHOWN:
        out.print(f"… and {len(table) - MOST_CELLS_SHOWN} cells more: `sae-study report` shows all.")


def _warn_of_gaps(frame: pd.DataFrame, folder: StudyFolder) -> None:
    if lost := frame.attrs["unreadable_shards"]:
        err.print(f"warning: {len(lost)} shards are corrupt and left out; `{folder.command('resume')}` trains them again")


@contextlib.contextmanager
def _progress(quiet: bool, folder: StudyFolder) -> Iterator[Callable[[StudyProgress], None] | None]:
    """A progress line on standard error: replicates, rate, time left, failures so far. Ctrl-C says how to go on."""
    from study.on_ray import session

    def leave() -> NoReturn:
        _tell_interrupted(folder)
        os._exit(INTERRUPTED)

    session.leave_at_once = leave
    try:
        # Ray prints to standard output when it likes; what we print there comes after.
        with contextlib.redirect_stdout(sys.stderr), contextlib.nullcontext() if quiet else _progress_bar(folder.name) as told:
            yield told
    except KeyboardInterrupt:
        _tell_interrupted(folder)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        session.leave_at_once = None


def _tell_interrupted(folder: StudyFolder) -> None:
    if folder.exists():
        err.print(f"interrupted: what is done is kept; go on with: {folder.command('resume')}")
    else:
        err.print("interrupted: nothing was begun")


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[StudyProgress], None]]:
    if not err.is_terminal:
        said_at = -math.inf

        def say(progress: StudyProgress) -> None:
            nonlocal said_at
            if progress.done == progress.planned or time.monotonic() - said_at > LINE_SECONDS:
                said_at = time.monotonic()
                err.print(f"{name}: {progress.done}/{progress.planned} replicates, {_told(progress)}")

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.completed}/{task.total} {task.fields[told]}"))
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(name, total=None, told="starting Ray")
        yield lambda progress: bar.update(task, total=progress.planned, completed=progress.done, told=_told(progress))


def _told(progress: StudyProgress) -> str:
    left = f", {_duration(progress.seconds_left)} left" if math.isfinite(progress.seconds_left) else ""
    failures = ", ".join(f"{kind} {count}" for kind, count in progress.failures.items())
    learned = "".join(f"; {name.replace('_', ' ')} {value:.3g}" for name, value in progress.learned.items() if name != "replicates")
    return f"{progress.rate:.1f}/s{left}; failures: {failures or 'none'}{learned}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _number_or_text(text: str | None) -> int | str | None:
    return int(text) if text and text.isascii() and text.isdigit() else text


def _print_json(document: dict[str, Any]) -> None:
    """One document; NaN and infinity, which JSON has not, become null."""
    print(json.dumps(_plain(document), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    return None if str(value) in ("<NA>", "NaT") else str(value)


_UsageError: Any = typer.BadParameter.__base__
"""Click's, of whichever Click this Typer brings along."""


def main() -> None:
    """Entry point: every foreseen error is one line on standard error. SIGTERM, as clusters send it, is Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = app(standalone_mode=False)
    except typer.Exit as ended:
        code = ended.exit_code
    except _UsageError as misuse:
        err.print(f"error: {misuse.format_message()} `sae-study --help` lists what there is.", markup=False)
        code = 2
    except MisuseError as misuse:
        err.print(f"error: {misuse}", markup=False)
        code = 2
    except OSError as error:  # a storage or file that fails under our hands
        err.print(f"error: {error}", markup=False)
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # someone waits: without Python's and Ray's leave-taking
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
