"""Compares the protocols of one study over the seeds that they share: which difference changes the failure rate, by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparisons.studies import compare
from analysis.frames import FOR_RATES, load
from analysis.rates.significance import LEVEL, holm, p_text
from search_spaces.arms import Arm, differences, nearest
from search_spaces.errors import MisuseError
from search_spaces.failures import checked_failure
from search_spaces.paths import Given
from study.storage.status import existing_study, read_spec
from study.storage.study_folder import DEFAULT_STORAGE

COLUMNS = (*FOR_RATES, "protocol_id")
"""The columns of rows that are needed."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """The protocols of a study, each compared with that of the first two which is nearer to it."""

    failure: str
    ends: tuple[str, str]
    """The names of the first two protocols."""
    table: pd.DataFrame
    """One row per protocol (and l1) but the first, the largest change first: reference, difference (names joined by ` + `),
    protocol, l1; seeds (shared), rate_reference and rate; change (rate minus rate_reference) with its 95 % interval (low, high);
    p_value and p_holm (corrected over the rows). In one cell the test is McNemar's exact one and the interval Newcombe's for pairs;
    over several, signs of seeds are exchanged, and the interval is Student's with seeds as the units."""

    def to_mapping(self) -> dict[str, Any]:
        """All fields as one JSON document."""
        return {"failure": self.failure, "sentences": self.sentences, "differences": self.table.to_dict("records")}

    @property
    def sentences(self) -> list[str]:
        """What cures, what harms, and what makes no difference beyond chance, for each of the two ends."""
        return self._sentences(*self.ends) + self._sentences(*self.ends[::-1])

    def _sentences(self, end: str, other: str) -> list[str]:
        own = self.table[self.table["reference"] == end]
        whole = own["protocol"] == other
        texts = [f"{other} instead of {end}: {_change(row)}." for row in own[whole].itertuples()]
        own, failure = own[~whole], "any failure" if self.failure == "any" else self.failure
        for sign, word in ((-1, "lower"), (1, "raise")):
            changed = own[(own["p_holm"] <= LEVEL) & (np.sign(own["change"]) == sign)]
            if named := "; ".join(f"{row.difference} {_change(row)}" for row in changed.itertuples()):
                texts.append(f"Changed alone in {end}, these {word} the rate of {failure} beyond chance (Holm): {named}.")
        if rest := list(own[own["p_holm"] > LEVEL]["difference"]):
            texts.append(f"Changed alone in {end}, these make no difference beyond chance: {', '.join(rest)}.")
        return texts

    def shown(self) -> pd.DataFrame:
        """The table as text."""
        of = self.table
        return pd.DataFrame(
            {
                "protocol": [self._text(row) for row in of.itertuples()],
                "l1": [", ".join(f"{value:g}" for value in values) for values in of["l1"]],
                "seeds": of["seeds"].astype(str),
                "rate": [f"{rate:.0%}" for rate in of["rate"]],
                "change [95 %]": [f"{row.change:+.0%} [{row.low:+.0%}, {row.high:+.0%}]" for row in of.itertuples()],
                "p (Holm)": [p_text(p).removeprefix("p = ").removeprefix("p ") for p in of["p_holm"]],
            }
        )

    def _text(self, row: Any) -> str:
        """A row's protocol by what is changed in its reference."""
        return self.ends[1] if row.protocol == self.ends[1] != row.reference else f"{row.reference}, {row.difference} changed"


def _change(row: Any) -> str:
    return f"{row.rate_reference:.0%} → {row.rate:.0%}, {row.change:+.0%} [95 % interval {row.low:+.0%} to {row.high:+.0%}]"


def ablation(study: Given, storage: Given = DEFAULT_STORAGE, failure: str = "any") -> Ablation:
    """Compare the protocols of a stored study over the seeds that they share.

    Raises MisuseError if the study has only one protocol.
    """
    folder = existing_study(str(study), storage)
    return compared_arms(load(study, storage, COLUMNS), read_spec(folder).arms, failure)


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def compared_arms(frame: pd.DataFrame, arms: Sequence[Arm], failure: str = "any") -> Ablation:
    """`ablation` of a frame, as `analysis.load` returns it. Arms that hold no row yet are left out."""
    if len(arms) < 2:
        raise MisuseError(
            "this study has one protocol, so there is nothing to compare within it. `sae-study compare` takes two studies."
        )
    ends = (arms[0], arms[1])
    table = pd.DataFrame(_rows(frame, arms, ends, checked_failure(failure)), columns=_COLUMNS)
    table = table.assign(p_holm=holm(table["p_value"].to_numpy(dtype=np.float64)))
    order = table["change"].abs().sort_values(ascending=False, kind="stable").index
    return Ablation(failure, (_name(ends[0], ends), _name(ends[1], ends)), table.loc[order].reset_index(drop=True))


_COLUMNS = ["reference", "difference", "protocol", "l1", "seeds", "rate_reference", "rate", "change", "low", "high", "p_value"]


def _rows(frame: pd.DataFrame, arms: Sequence[Arm], ends: tuple[Arm, Arm], failure: str) -> Iterator[tuple[Any, ...]]:
    for arm in arms[1:]:
        end = ends[0] if arm is ends[1] else nearest(arm, ends)
        rows, others = _rows_of(frame, arm, end), _rows_of(frame, end, end)
        found = compare(rows, others, failure, metrics=())
        if found.cells.empty:
            continue
        if len(found.cells) == 1:
            cell = found.cells.iloc[0]
            test = cell["difference"], cell["low"], cell["high"], cell["p_value"]
        else:
            test = found.overall.shift, found.overall.low, found.overall.high, found.overall.p_shift
        n = found.cells["replicates_one"].sum(), found.cells["replicates_other"].sum()
        rates = found.cells["failures_other"].sum() / n[1], found.cells["failures_one"].sum() / n[0]
        yield (_name(end, ends), " + ".join(differences(end, arm)), _name(arm, ends), arm.l1, found.overall.seeds, *rates, *test)


def _rows_of(frame: pd.DataFrame, arm: Arm, end: Arm) -> pd.DataFrame:
    """The rows of an arm; if it has as many values of l1 as the other, they are those of the other, so that cells are shared."""
    own = frame[(frame["protocol_id"] == arm.protocol.protocol_id) & frame["l1"].isin(arm.l1)]
    return own.assign(l1=own["l1"].map(dict(zip(arm.l1, end.l1)))) if len(arm.l1) == len(end.l1) else own


def _name(arm: Arm, ends: tuple[Arm, Arm]) -> str:
    """Its protocol's name, with its l1 if that alone tells the first two apart."""
    same = ends[0].protocol == ends[1].protocol
    return f"{arm.protocol.name} at l1 = {', '.join(f'{value:g}' for value in arm.l1)}" if same else arm.protocol.name
