"""The result of an L1 search: the safe interval and the best l1 of every architecture and sparsity, stored in the study's folder.

`recommend_l1` gives the result for a single architecture and sparsity, if need be by a search in this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.comparisons.published import PUBLISHED
from analysis.figures.l1 import l1_figure
from analysis.figures.render import draw, own_settings
from search_spaces.cells import Architecture
from search_spaces.coordinates import SPARSITY
from search_spaces.errors import MisuseError
from search_spaces.failures import FailureKind, before_sae
from search_spaces.learners.l1_search import Ends, L1Interval, L1Learner, LowerEdge, UpperEdge
from search_spaces.paths import Given
from search_spaces.protocol import PROTOCOLS, Protocol
from search_spaces.searches import L1Search
from search_spaces.study_files import study_from
from study.in_process import run_here
from study.searching.learner_of import learner_of
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE, StudyFolder

L1_FILE = "l1.json"
SEARCHED = (1e-4, 10.0)
"""The default range of l1."""


@dataclass(frozen=True)
class L1Result:
    """What an L1 search found, under its protocol."""

    found: tuple[L1Interval, ...]
    protocol: Protocol

    def to_mapping(self) -> dict[str, Any]:
        """The cells, and the sentences about them."""
        return {"cells": [asdict(interval) for interval in self.found], "findings": self.sentences()}

    def table(self) -> pd.DataFrame:
        """One row per architecture and sparsity."""
        return pd.DataFrame([_shown(interval) for interval in self.found])

    def sentences(self) -> list[str]:
        """Sentences about cells without a safe interval, replicates left out, and the source's l1."""
        return l1_sentences(self.found, self.protocol)

    def files(self) -> dict[str, bytes]:
        """The cells as JSON and CSV, and the figure as PNG and SVG."""
        with own_settings():
            png, svg = draw(l1_figure(self.found))
        return {
            L1_FILE: json.dumps({"cells": [asdict(interval) for interval in self.found]}, indent=2).encode(),
            "l1.csv": l1_table(self.found).to_csv(index=False).encode(),
            "report/l1.png": png,
            "report/l1.svg": svg,
        }


def l1_result(folder: StudyFolder, learner: L1Learner) -> L1Result:
    """The result of a study, from its folder and its learner, which has received all of its rows."""
    return L1Result(tuple(learner.results()), read_spec(folder).protocol)


def _shown(interval: L1Interval) -> dict[str, str]:
    """A row of text."""

    def value(number: float | None, ends: Ends | None, otherwise: str = "–") -> str:
        if number is None:
            return otherwise
        low, high = ("…" if end is None else f"{end:.3g}" for end in ends or (None, None))
        return f"{number:.3g} [{low}, {high}]"

    return {
        "architecture": interval.architecture,
        "sparsity": f"{interval.sparsity:g}",
        "lower edge [90 %]": value(interval.lower_edge, interval.lower_edge_interval, interval.lower),
        "upper edge [90 %]": value(interval.upper_edge, interval.upper_edge_interval, interval.upper),
        "best l1 [90 %]": value(interval.best_l1, interval.best_l1_interval),
        "recovery": "–" if interval.best_recovery is None else f"{interval.best_recovery:.3f}",
        "closed form": "–" if interval.predicted_edge is None else f"{interval.predicted_edge:.3g}",
        "replicates": str(interval.replicates),
        "failed before SAE": str(interval.failed_before_sae),
    }


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def recommend_l1(
    architecture: str,
    sparsity: float,
    *,
    study: str | None = None,
    storage: Given = DEFAULT_STORAGE,
    protocol: str | dict[str, Any] | None = None,
    dtype: str = "float64",
    budget: int = L1Search().budget,
) -> L1Interval:
    """The best l1 of one architecture and sparsity, and the interval around it in which SAEs neither die nor become dense.

    study: an L1 search that was run with `sae-study l1` and has this cell. If it is not given, the search runs in this process,
    without Ray, under `protocol` (default: `dissertation`): `budget` replicates, which take a few seconds. Raises MisuseError
    for an invalid argument, a study without this cell, or both study and protocol.
    """
    name, sparsity = str(Architecture.parse(architecture)), SPARSITY.checked(sparsity)
    if study is not None and protocol is not None:
        raise MisuseError(f"study={study!r} has a protocol of its own. Give the study or the protocol, not both.")
    if study is not None:
        return _stored(existing_study(study, storage), name, sparsity)
    low, high = SEARCHED
    space = {"architectures": [name], "sparsities": [sparsity], "l1": {"from": low, "to": high}, "seeds": [0]}
    search = {"kind": "l1", "budget": budget}
    spec = study_from({"name": "l1", "protocol": protocol or "dissertation", "dtype": dtype, "space": space, "search": search})
    learner = cast(L1Learner, learner_of(spec))
    run_here(spec, learner)
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
    """The stored result of a finished search; () if there is none. MisuseError for the file of another version."""
    found = folder.read_json(L1_FILE) or {"cells": []}
    cells: list[dict[str, Any]] = [
        {FORMER.get(key, key): tuple(value) if isinstance(value, list) else value for key, value in cell.items()}
        for cell in found["cells"]
    ]
    try:
        return tuple(L1Interval(**cell | {"upper": UpperEdge(cell["upper"]), "lower": LowerEdge(cell["lower"])}) for cell in cells)
    except (KeyError, TypeError, ValueError):
        raise MisuseError(
            f"{folder.place(L1_FILE)} was written by another version of sae-study. `{folder.command('resume')}` rewrites it "
            "from the rows, without training them again."
        ) from None


FORMER = {
    "safe_low": "lower_edge",
    "safe_low_interval": "lower_edge_interval",
    "safe_high": "upper_edge",
    "safe_high_interval": "upper_edge_interval",
    "best_mcc": "best_recovery",
    "predicted_high": "predicted_edge",
    "ae_collapsed": "failed_before_sae",
    "low": "lower",
    "high": "upper",
}
"""Names under which earlier searches stored the same figures: they are read, and no longer written."""


def l1_table(found: Sequence[L1Interval]) -> pd.DataFrame:
    """One row per architecture and sparsity; intervals as two columns, `_from` and `_to`."""
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


def l1_sentences(found: Sequence[L1Interval], protocol: Protocol) -> list[str]:
    """What readers should know in addition to the table."""
    sentences = []
    bumpy = [interval for interval in found if not interval.monotone]
    if bumpy:
        sentences.append(f"Not monotone, so without an upper edge: {', '.join(map(_cell, bumpy))}.")
    empty = [interval for interval in found if nothing_safe(interval)]
    if empty:
        sentences.append(f"No l1 is safe, because SAEs die before their codes are sparse: {', '.join(map(_cell, empty))}.")
    collapsed = sum(interval.failed_before_sae for interval in found)
    if collapsed:
        kinds = ", ".join(kind for kind in before_sae() if kind != FailureKind.CRASHED)
        sentences.append(
            f"{collapsed} of {sum(interval.replicates for interval in found)} replicates ({kinds}) failed "
            "before the SAE: no l1 cures them, and no rate here counts them."
        )
    if protocol.protocol_id == PROTOCOLS["dissertation"].protocol_id:
        sentences.extend(_on_the_source(interval) for interval in found if _is_published(interval))
    return sentences


def _is_published(interval: L1Interval) -> bool:
    return (interval.architecture, interval.sparsity) == (str(PUBLISHED.cell.architecture), PUBLISHED.cell.sparsity)


def _on_the_source(interval: L1Interval) -> str:
    l1 = PUBLISHED.cell.l1
    return (
        f"The source's l1 = {l1:g} at {interval.architecture}, S = {interval.sparsity:g} is {place_in(interval, l1)}. Its failure "
        f"(seed {PUBLISHED.seed}) was not one of l1: that autoencoder collapsed, and an autoencoder never sees l1."
    )


def nothing_safe(interval: L1Interval) -> bool:
    """Whether the upper edge lies below the lower one, or the whole range fails or is dense."""
    if interval.upper is UpperEdge.BELOW_RANGE or interval.lower is LowerEdge.ABOVE_RANGE:
        return True
    return interval.lower_edge is not None and interval.upper_edge is not None and interval.upper_edge <= interval.lower_edge


def place_in(interval: L1Interval, l1: float) -> str:
    """Where a value of l1 lies: inside the safe interval, beyond one of its edges, or unknown."""
    if not interval.monotone:
        return "not placed: the failure rate is not monotone here"
    if nothing_safe(interval):
        return "in no safe interval, for there is none" + (
            f": codes are dense up to {interval.lower_edge:.2g}, and from {interval.upper_edge:.2g} on SAEs die"
            if interval.lower_edge is not None and interval.upper_edge is not None
            else ""
        )
    (low_from, low_to), (high_from, high_to) = interval.lower_edge_interval, interval.upper_edge_interval
    if interval.lower is LowerEdge.ABOVE_RANGE or (interval.lower_edge is not None and l1 < interval.lower_edge):
        return "below the safe interval: the code is dense" + _unsure(low_from, low_to, l1)
    if interval.upper is UpperEdge.BELOW_RANGE or (interval.upper_edge is not None and l1 > interval.upper_edge):
        return "above the safe interval: SAEs die" + _unsure(high_from, high_to, l1)
    if _unsure(low_from, low_to, l1) or _unsure(high_from, high_to, l1):
        return "inside the safe interval, but within the uncertainty of its edge"
    return "inside the safe interval"


def _unsure(start: float | None, end: float | None, l1: float) -> str:
    within = start is not None and end is not None and start <= l1 <= end
    return ", but within the uncertainty of the edge" if within else ""


def _cell(interval: L1Interval) -> str:
    return f"{interval.architecture} at S = {interval.sparsity:g}"
