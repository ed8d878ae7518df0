"""The result of an L1 search: the safe interval and the best l1 of every architecture and sparsity, stored in the study's folder.

`recommend_l1` gives the result for a single architecture and sparsity, if need be by a search in this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
        return {"cells": [l1_mapping(interval) for interval in self.found], "findings": self.sentences()}

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
            L1_FILE: json.dumps({"cells": [l1_mapping(interval) for interval in self.found]}, indent=2).encode(),
            "l1.csv": l1_table(self.found).to_csv(index=False).encode(),
            "report/l1.png": png,
            "report/l1.svg": svg,
        }


def l1_result(folder: StudyFolder, learner: L1Learner) -> L1Result:
    """The result of a study, from its folder and its learner, which has received all of its rows."""
    return L1Result(tuple(learner.results()), read_spec(folder).protocol)


def _shown(interval: L1Interval) -> dict[str, str]:
    """A row of text."""
    share = f"[{interval.interval_level:.0%}]".replace("%", " %")

    def value(number: float | None, ends: Ends | None, otherwise: str = "–") -> str:
        if number is None:
            return otherwise + ("" if ends is None or ends == (None, None) else f" {_bracketed(ends)}")
        return f"{number:.3g} {_bracketed(ends or (None, None))}"

    row = {
        "architecture": interval.architecture,
        "sparsity": f"{interval.sparsity:g}",
        "safe l1": safe_text(interval),
        f"lower edge {share}": value(interval.lower_edge, interval.lower_edge_interval, interval.lower),
        f"upper edge {share}": value(interval.upper_edge, interval.upper_edge_interval, interval.upper),
        f"best l1 {share}": value(interval.best_l1, interval.best_l1_interval),
        "it is": best_text(interval),
        "recovery": "–" if interval.best_recovery is None else f"{interval.best_recovery:.3f}",
        f"best healthy l1 {share}": value(interval.best_healthy_l1, interval.best_healthy_l1_interval),
        "healthy recovery": "–" if interval.best_healthy_recovery is None else f"{interval.best_healthy_recovery:.3f}",
    }
    if interval.least_rate is not None and interval.least_rate_interval is not None:
        low, high = interval.least_rate_interval
        row[f"least rate {share}"] = f"{interval.least_rate:.0%} [{low:.0%}, {high:.0%}] at {interval.least_l1:.3g}"
    return row | {
        "closed form": "–" if interval.predicted_edge is None else _closed_form(interval),
        "replicates": str(interval.replicates),
        "failed before SAE": str(interval.failed_before_sae),
    }


def _bracketed(ends: Ends) -> str:
    low, high = ("…" if end is None else f"{end:.3g}" for end in ends)
    return f"[{low}, {high}]"


def _closed_form(interval: L1Interval) -> str:
    return f"{interval.predicted_edge:.3g}{' (outside its range)' if interval.closed_form is None else ''}"


def safe_text(interval: L1Interval) -> str:
    """The safe interval as text: "none" if it is empty, and why it is not given otherwise.

    An end that was not reached within the range is an ellipsis.
    """
    if not interval.monotone:
        return UpperEdge.NOT_MONOTONE.value
    if interval.nothing_safe:
        return "none"
    if interval.safe is None:
        return UpperEdge.UNDECIDED.value
    low, high = ("…" if end is None else f"{end:.3g}" for end in interval.safe)
    return f"{low} to {high}"


def best_text(interval: L1Interval) -> str:
    """Whether the best l1 is safe, and how many of the replicates around it fail in any way."""
    if interval.best_l1 is None:
        return "–"
    around = f", {interval.best_failed} of {interval.best_nearby} fail there" if interval.best_nearby else ""
    return f"{best_place(interval)}{around}"


def best_place(interval: L1Interval) -> str | None:
    """Where the best l1 lies: "safe", "below the safe interval" or "above" it; or why that is not known; None without one."""
    if interval.best_l1 is None:
        return None
    if not interval.monotone or interval.nothing_safe or interval.safe is None:
        return {"none": "unsafe: no l1 is safe"}.get(text := safe_text(interval), f"not placed: {text}")
    low, high = interval.safe
    if low is not None and interval.best_l1 < low:
        return "unsafe: below the safe interval"
    if high is not None and interval.best_l1 > high:
        return "unsafe: above the safe interval"
    return "safe"


def best_decades(interval: L1Interval) -> float | None:
    """The width of the best l1's interval, in decades; None without one."""
    if interval.best_l1_interval is None:
        return None
    low, high = interval.best_l1_interval
    return float(np.log10(high / low))


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def recommend_l1(
    architecture: str,
    sparsity: float,
    *,
    study: str | None = None,
    storage: Given = DEFAULT_STORAGE,
    protocol: str | dict[str, Any] | None = None,
    failure: str | Sequence[str] | None = None,
    dtype: str = "float64",
    budget: int = L1Search().budget,
) -> L1Interval:
    """The best l1 of one architecture and sparsity, and the interval around it in which SAEs neither die nor become dense.

    study: an L1 search that was run with `sae-study l1` and has this cell; a sparsity may be given as it was printed. Without
    a study, the search runs in this process, without Ray, under `protocol` (default: `dissertation`) and for `failure`
    (default: dead or starved SAEs; "any" or several kinds, as in `L1Search`): `budget` replicates, which take a few seconds.
    Raises MisuseError for an invalid argument, a study without this cell, or a study together with protocol or failure.
    """
    name, sparsity = str(Architecture.parse(architecture)), SPARSITY.checked(sparsity)
    if study is not None and protocol is not None:
        raise MisuseError(f"study={study!r} has a protocol of its own. Give the study or the protocol, not both.")
    if study is not None and failure is not None:
        raise MisuseError(f"study={study!r} has searched for failures of its own. Give the study or the failure, not both.")
    if study is not None:
        return _stored(existing_study(study, storage), name, sparsity)
    low, high = SEARCHED
    space = {"architectures": [name], "sparsities": [sparsity], "l1": {"from": low, "to": high}, "seeds": [0]}
    search = {"kind": "l1", "budget": budget} | ({} if failure is None else {"failure": failure})
    spec = study_from({"name": "l1", "protocol": protocol or "dissertation", "dtype": dtype, "space": space, "search": search})
    learner = cast(L1Learner, learner_of(spec))
    run_here(spec, learner)
    return learner.results()[0]


def _stored(folder: StudyFolder, name: str, sparsity: float) -> L1Interval:
    found = read_l1(folder)
    if not found:
        raise MisuseError(f"study={folder.name!r} holds no finished L1 search. Run `sae-study l1`, or leave the study out.")
    nearest = SPARSITY.nearest(sparsity, [interval.sparsity for interval in found if interval.architecture == name])
    for interval in found:
        if interval.architecture == name and interval.sparsity == nearest:
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
        {
            FORMER.get(key, key): tuple(value) if isinstance(value, list) else value
            for key, value in cell.items()
            if key not in DERIVED
        }
        for cell in found["cells"]
    ]
    try:
        return tuple(
            L1Interval(**FORMERLY | cell | {"upper": UpperEdge(cell["upper"]), "lower": LowerEdge(cell["lower"])}) for cell in cells
        )
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


FORMERLY = {"interval_level": 0.9}
"""What earlier searches did not store, because it was the same for all of them."""


def l1_table(found: Sequence[L1Interval]) -> pd.DataFrame:
    """One row per architecture and sparsity; intervals as two columns, `_from` and `_to`.

    `safe` is the safe interval as text ("none" if it is empty), `best_place` says whether the best l1 is in it, and
    `best_decades` how wide the interval of the best l1 is.
    """
    rows = []
    for interval in found:
        row: dict[str, Any] = {}
        for key, value in asdict(interval).items():
            if key.endswith("_interval"):
                row[f"{key}_from"], row[f"{key}_to"] = value or (None, None)
            else:
                row[key] = "+".join(value) if key == "failure" else value
        rows.append(row | {name: of(interval) for name, of in DERIVED.items()})
    return pd.DataFrame(rows)


DERIVED: dict[str, Callable[[L1Interval], str | float | None]] = {
    "safe": safe_text,
    "best_place": best_place,
    "best_decades": best_decades,
}
"""What tables and JSON add to the fields of an `L1Interval`."""


def l1_mapping(interval: L1Interval) -> dict[str, Any]:
    """All figures of one cell, for JSON."""
    return asdict(interval) | {name: of(interval) for name, of in DERIVED.items()}


def l1_sentences(found: Sequence[L1Interval], protocol: Protocol) -> list[str]:
    """What readers should know in addition to the table."""
    sentences = [*_on_safety(found), *_on_the_best(found)]
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


def _on_safety(found: Sequence[L1Interval]) -> list[str]:
    """The cells without a safe interval, and why."""
    sentences = []
    if bumpy := [interval for interval in found if not interval.monotone]:
        sentences.append(f"Not monotone, so without an upper edge: {', '.join(map(_cell, bumpy))}.")
    empty = [interval for interval in found if interval.nothing_safe]
    if crossed := [interval for interval in empty if interval.upper is not UpperEdge.NOWHERE]:
        sentences.append(f"No l1 is safe, because SAEs die before their codes are sparse: {', '.join(map(_cell, crossed))}.")
    unsure = [interval for interval in found if interval.undecided and interval.monotone]
    sentences += [_least(interval) for interval in found if interval in empty + unsure and interval.least_rate is not None]
    if unsure := [interval for interval in unsure if interval.least_rate is None]:
        sentences.append(f"Undecided whether an edge lies within the range: {', '.join(map(_cell, unsure))}. Raise the budget.")
    return sentences


def _least(interval: L1Interval) -> str:
    """For a cell where no l1 keeps the failures below the level, or may not: the lowest rate, and where it is."""
    (low, high), (first, last) = interval.least_rate_interval or (0.0, 1.0), interval.least_l1_interval or (0.0, 0.0)
    kinds = "failures" if interval.failure == ("any",) else "+".join(interval.failure)
    claim = "no l1" if interval.nothing_safe else "it is undecided whether some l1"
    sentence = (
        f"{_cell(interval)}: {claim} keeps {kinds} at or below {interval.level:.0%} of the seeds (probability that one does: "
        f"{interval.safe_probability:.2g}). The lowest rate is {interval.least_rate:.0%} ({low:.0%} to {high:.0%}), at "
        f"l1 = {interval.least_l1:.2g} ({first:.2g} to {last:.2g}; {interval.interval_level:.0%} intervals)."
    )
    return sentence.replace("%", " %")


WIDE = 1.0
"""Decades from which on the interval of the best l1 is called wide."""


def _on_the_best(found: Sequence[L1Interval]) -> list[str]:
    """How many best values are unsafe, and how many are hardly known."""
    best = [interval for interval in found if interval.best_l1 is not None]
    unsafe = [interval for interval in best if (best_place(interval) or "").startswith("unsafe")]
    wide = [interval for interval in best if (best_decades(interval) or 0) >= WIDE]
    sentences = []
    if unsafe:
        sentences.append(f"{len(unsafe)} of {len(best)} best values of l1 are unsafe: {', '.join(map(_cell, unsafe))}.")
    if wide:
        sentences.append(
            f"{len(wide)} of {len(best)} best values of l1 are hardly known: their intervals span a decade or more "
            f"({', '.join(map(_cell, wide))})."
        )
    return sentences


def _is_published(interval: L1Interval) -> bool:
    return (interval.architecture, interval.sparsity) == (str(PUBLISHED.cell.architecture), PUBLISHED.cell.sparsity)


def _on_the_source(interval: L1Interval) -> str:
    l1 = PUBLISHED.cell.l1
    return (
        f"The source's l1 = {l1:g} at {interval.architecture}, S = {interval.sparsity:g} is {place_in(interval, l1)}. Its failure "
        f"(seed {PUBLISHED.seed}) was not one of l1: that autoencoder collapsed, and an autoencoder never sees l1."
    )


def place_in(interval: L1Interval, l1: float) -> str:
    """Where a value of l1 lies: inside the safe interval, beyond one of its edges, or unknown."""
    if not interval.monotone:
        return "not placed: the failure rate is not monotone here"
    if interval.nothing_safe:
        return "in no safe interval, for there is none" + (
            f": codes are dense up to {interval.lower_edge:.2g}, and from {interval.upper_edge:.2g} on SAEs die"
            if interval.lower_edge is not None and interval.upper_edge is not None
            else ""
        )
    (low_from, low_to), (high_from, high_to) = interval.lower_edge_interval, interval.upper_edge_interval
    one_rate = interval.safe_probability is not None
    if interval.lower_edge is not None and l1 < interval.lower_edge:
        return f"below the safe interval: {'too many fail' if one_rate else 'the code is dense'}" + _unsure(low_from, low_to, l1)
    if interval.upper_edge is not None and l1 > interval.upper_edge:
        return f"above the safe interval: {'too many fail' if one_rate else 'SAEs die'}" + _unsure(high_from, high_to, l1)
    if interval.undecided:
        return "not placed: an edge of the safe interval may lie beyond the range"
    if _unsure(low_from, low_to, l1) or _unsure(high_from, high_to, l1):
        return "inside the safe interval, but within the uncertainty of its edge"
    return "inside the safe interval"


def _unsure(start: float | None, end: float | None, l1: float) -> str:
    within = start is not None and end is not None and start <= l1 <= end
    return ", but within the uncertainty of the edge" if within else ""


def _cell(interval: L1Interval) -> str:
    return f"{interval.architecture} at S = {interval.sparsity:g}"
