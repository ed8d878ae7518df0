"""What an L1 search came to: the safe interval and the best l1 of every architecture and sparsity, kept in the study's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from analysis.comparisons.published import ARCHITECTURE, L1, SEED, SPARSITY
from analysis.figures.l1 import l1_figure
from analysis.figures.render import draw
from search_spaces.cells import Architecture, checked_sparsity
from search_spaces.errors import MisuseError
from search_spaces.learners.l1_search import BEFORE_SAE, L1Interval, L1Learner
from search_spaces.protocol import PROTOCOLS, Protocol
from search_spaces.study_files import study_from
from study.run_pack import run_pack
from study.searching.batches import COLUMNS, Batches
from study.searching.learner_of import learner_of
from study.storage.schema import row_schema
from study.storage.status import existing_study
from study.storage.study_folder import DEFAULT_STORAGE, StudyFolder

L1_FILE = "l1.json"
SEARCHED = (1e-4, 10.0)
"""The range of l1 where none is given."""


def recommend_l1(
    architecture: str,
    sparsity: float,
    *,
    study: str | None = None,
    storage: str = DEFAULT_STORAGE,
    protocol: str | dict[str, Any] | None = None,
    dtype: str = "float64",
    budget: int = 250,
) -> L1Interval:
    """The best l1 of one architecture and sparsity, and the interval around it in which SAEs neither die nor turn dense.

    study: an L1 search that was run with `sae-study l1` and has this cell. Without it the search runs here, in this process
    and without Ray, under `protocol` (default: `dissertation`): `budget` replicates, a few seconds. Raises MisuseError.
    """
    name, sparsity = str(Architecture.parse(architecture)), checked_sparsity(sparsity)
    if study is not None and protocol is not None:
        raise MisuseError(f"study={study!r} has a protocol of its own. Give the study or the protocol, not both.")
    if study is not None:
        return _stored(existing_study(study, storage), name, sparsity)
    spec = study_from(
        {
            "name": "l1",
            "protocol": protocol or "dissertation",
            "dtype": dtype,
            "space": {"architectures": [name], "sparsities": [sparsity], "l1": list(SEARCHED), "seeds": [0]},
            "search": {"kind": "l1", "budget": budget},
        }
    )
    learner = learner_of(spec)
    batches = Batches(learner, spec, row_schema(COLUMNS).empty_table())
    with threadpool_limits(1, "blas"):
        packs = batches.learn()
        while packs:
            packs = batches.learn([run_pack(pack).select(COLUMNS) for pack in packs])
    assert isinstance(learner, L1Learner)
    return learner.results()[0]


def _stored(folder: StudyFolder, name: str, sparsity: float) -> L1Interval:
    found = read_l1(folder)
    if not found:
        raise MisuseError(f"study={folder.name!r} holds no finished L1 search. Run `sae-study l1`, or leave the study out.")
    for interval in found:
        if interval.architecture == name and abs(interval.sparsity - sparsity) < 1e-9:
            return interval
    raise MisuseError(
        f"study={folder.name!r} has not searched {name} at sparsity {sparsity:g}, but "
        f"{', '.join(dict.fromkeys(interval.architecture for interval in found))} at "
        f"{', '.join(f'{s:g}' for s in sorted({interval.sparsity for interval in found}))}."
    )


def read_l1(folder: StudyFolder) -> tuple[L1Interval, ...]:
    """What `write_l1` kept in the study's folder; () where nothing is."""
    found = folder.read_json(L1_FILE) or {"cells": []}
    cells: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in cell.items()} for cell in found["cells"]
    ]
    return tuple(L1Interval(**cell) for cell in cells)


def l1_table(found: Sequence[L1Interval]) -> pd.DataFrame:
    """One row an architecture and sparsity; intervals as two columns, `_from` and `_to`."""
    rows = []
    for interval in found:
        row: dict[str, Any] = {}
        for key, value in asdict(interval).items():
            if key.endswith("_interval"):
                row[f"{key}_from"], row[f"{key}_to"] = value or (None, None)
            else:
                row[key] = value
        rows.append(row)
    return pd.DataFrame(rows)


def write_l1(folder: StudyFolder, found: Sequence[L1Interval]) -> list[str]:
    """Keep what a finished search found beside the rows: JSON, CSV, the figure. The files' names within the study's folder."""
    png, svg = draw(l1_figure(found))
    content = {
        L1_FILE: json.dumps({"cells": [asdict(interval) for interval in found]}, indent=2).encode(),
        "l1.csv": l1_table(found).to_csv(index=False).encode(),
        "report/l1.png": png,
        "report/l1.svg": svg,
    }
    for name, data in content.items():
        folder.write_bytes(name, data)
    return list(content)


def l1_sentences(found: Sequence[L1Interval], protocol: Protocol) -> list[str]:
    """What a reader should know beside the table."""
    told = []
    bumpy = [interval for interval in found if not interval.monotone]
    if bumpy:
        told.append(f"Not monotone, so without an upper edge: {', '.join(map(_cell, bumpy))}.")
    empty = [interval for interval in found if nothing_safe(interval)]
    if empty:
        told.append(f"No l1 is safe, SAEs die before their codes are sparse: {', '.join(map(_cell, empty))}.")
    collapsed = sum(interval.ae_collapsed for interval in found)
    if collapsed:
        told.append(
            f"{collapsed} of {sum(interval.replicates for interval in found)} replicates ({', '.join(BEFORE_SAE[1:])}) failed "
            "before the SAE: no l1 cures them, and no rate here counts them."
        )
    if protocol.protocol_id == PROTOCOLS["dissertation"].protocol_id:
        told.extend(_on_the_source(interval) for interval in found if (interval.architecture, interval.sparsity) == _SOURCE)
    return told


_SOURCE = (ARCHITECTURE, SPARSITY)


def _on_the_source(interval: L1Interval) -> str:
    place = place_in(interval, L1)
    return (
        f"The source's l1 = {L1:g} at {ARCHITECTURE}, S = {SPARSITY:g} is {place}. Its failure (seed {SEED}) was not one of l1: "
        f"that autoencoder collapsed, and an autoencoder never sees l1."
    )


def nothing_safe(interval: L1Interval) -> bool:
    """Whether the upper edge lies below the lower one, or one of them takes up the whole range."""
    if interval.high == "fails throughout" or interval.low == "dense throughout":
        return True
    return interval.safe_low is not None and interval.safe_high is not None and interval.safe_high <= interval.safe_low


def place_in(interval: L1Interval, l1: float) -> str:
    """Where a value of l1 lies: inside the safe interval, or beyond which edge, or that nobody can say."""
    if not interval.monotone:
        return "not placed: the failure rate is not monotone here"
    if nothing_safe(interval):
        return "in no safe interval, for there is none" + (
            f": codes are dense up to {interval.safe_low:.2g}, and from {interval.safe_high:.2g} on SAEs die"
            if interval.safe_low is not None and interval.safe_high is not None
            else ""
        )
    (low_from, low_to), (high_from, high_to) = interval.safe_low_interval, interval.safe_high_interval
    if interval.low == "dense throughout" or (interval.safe_low is not None and l1 < interval.safe_low):
        return "below the safe interval: the code is dense" + _unsure(low_from, low_to, l1)
    if interval.high == "fails throughout" or (interval.safe_high is not None and l1 > interval.safe_high):
        return "above the safe interval: SAEs die" + _unsure(high_from, high_to, l1)
    if _unsure(low_from, low_to, l1) or _unsure(high_from, high_to, l1):
        return "inside the safe interval, but within the uncertainty of its edge"
    return "inside the safe interval"


def _unsure(start: float | None, end: float | None, l1: float) -> str:
    within = start is not None and end is not None and start <= l1 <= end
    return ", but within the uncertainty of the edge" if within else ""


def _cell(interval: L1Interval) -> str:
    return f"{interval.architecture} at S = {interval.sparsity:g}"
