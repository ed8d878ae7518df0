"""The findings of a study, in sentences that are computed from its rows; only their form is fixed.

`page_findings` has the headlines of the report page (`page.py`); `findings` is what `sae-study` prints after a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.comparisons.metric_trust import LEAST, TELLS
from analysis.comparisons.published import PUBLISHED, published_finding
from analysis.rates.cells import cell_rates, counted, rate_interval
from analysis.rates.claims import LocalMaximum, Monotonicity, local_maximum_at, probability_text
from analysis.rates.regions import Region
from analysis.rates.significance import LEVEL
from analysis.report.study_rows import COLLAPSE, StudyRows
from analysis.searches.l1 import l1_sentences
from analysis.transitions.critical_points import CriticalPoint
from analysis.transitions.crossings import Answer
from search_spaces.coordinates import COORDINATES, L1
from search_spaces.failures import FailureKind, verdicts

UNFINISHED = "Not finished"
SURE = 0.95
"""Least confidence of a region in sentences."""
MOST_REGIONS = 3
"""Largest number of regions, each of another failure, in sentences; the table has all."""


@dataclass(frozen=True)
class Finding:
    """One finding: its title, its sentences, and the anchor of its evidence on the page."""

    title: str
    sentences: tuple[str, ...]
    anchor: str


def findings(frame: pd.DataFrame, planned: int) -> list[str]:
    """The outcomes of the replicates: the published one, the verdicts, the dead latents."""
    if frame.empty:
        return [f"No row is stored yet, of {planned} planned."]
    return unfinished(len(frame), planned) + published_finding(frame) + verdict_sentences(frame) + target_sentences(frame)


def unfinished(there: int, planned: int) -> list[str]:
    """A sentence about missing rows, if there are any."""
    return [f"{there} of {planned} planned replicates are stored: the study is not finished."] if there < planned else []


def verdict_sentences(frame: pd.DataFrame, searched: bool = False) -> list[str]:
    """The shares of the verdicts, and in how many replicates all latents are dead. After a search, they are called no rates."""
    counts = frame["failure"].value_counts()
    share = "" if searched else " ({:.1%})"
    kinds = [
        f"{kind.name} {counts[kind.name]}{share.format(counts[kind.name] / len(frame))}"
        for kind in verdicts()
        if kind.name in counts
    ]
    cells = len(frame.drop_duplicates(["architecture", "sparsity", "l1"]))
    failing = len(frame) - int(counts.get(FailureKind.NONE.value, 0))
    extent = f"{counted(len(frame), 'replicate')} in {counted(cells, 'cell')}"
    sentences = [f"{extent}: {failing} fail{share.format(failing / len(frame))}. Verdicts: {', '.join(kinds)}."]
    if searched:
        sentences[0] += " The search chose where to train: these counts are no failure rates."
    if set(counts.index) == {FailureKind.NONE.value}:
        highest = float(rate_interval(0, len(frame))[1])
        sentences.append(f"No replicate failed: the failure rate is below {highest:.2%} (95 % interval).")
    collapsed, all_dead = frame["failure"] == COLLAPSE, frame["sae_all_dead"]
    if all_dead.any():
        dead, of_them = int(all_dead.sum()), int((all_dead & collapsed).sum())
        sentences.append(f"All latents are dead in {counted(dead, 'replicate')}; in {of_them} of them the AE itself had collapsed.")
    return sentences


def target_sentences(frame: pd.DataFrame) -> list[str]:
    """How many replicates reached their target L0; nothing without a target, or if the outcomes were not loaded.

    >>> target_sentences(pd.DataFrame({"l0_outcome": ["reached", "reached", "all_dead"]}))
    ['The target L0 was reached in 2 of 3 replicates; all_dead in 1.']
    """
    outcomes = frame["l0_outcome"].value_counts() if "l0_outcome" in frame else pd.Series(dtype=int)
    if outcomes.empty:
        return []
    others = "".join(f"; {outcome} in {times}" for outcome, times in outcomes.drop("reached", errors="ignore").items())
    return [f"The target L0 was reached in {outcomes.get('reached', 0)} of {outcomes.sum()} replicates{others}."]


def verdict_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Per cell: replicates, the rate of any failure with its interval, and how many seeds got each verdict."""
    rates = cell_rates(frame)
    interval = [f"{row.rate:.0%} [{row.low:.0%}, {row.high:.0%}]" for row in rates.itertuples()]
    table = rates[["architecture", "sparsity", "l1", "replicates"]].assign(**{"any failure [95 %]": interval})
    counts = frame.groupby(["architecture", "sparsity", "l1", "failure"]).size().unstack(fill_value=0).reset_index()
    kinds = [kind.name for kind in verdicts() if kind.name in counts.columns]
    return table.merge(counts[["architecture", "sparsity", "l1", *kinds]], on=["architecture", "sparsity", "l1"])


MOST_HEADLINES = 3
"""Number of sentences beside the result's figure, besides one about missing rows."""


def headline(study: StudyRows) -> list[str]:
    """The first sentence of each of the first findings, and the map's own."""
    left_out = {UNFINISHED, *(["Verdicts"] if study.searched else [])}
    first = [of.sentences[0] for of in page_findings(study) if of.title not in left_out]
    told = [f"{study.map.title}.", *first] if study.map is not None else first
    return unfinished(len(study.rows), study.planned) + told[:MOST_HEADLINES]


def page_findings(study: StudyRows) -> list[Finding]:
    """The headlines of the page, without those about which the study says nothing."""
    if study.rows.empty:
        return [Finding("No result yet", tuple(findings(study.rows, study.planned)), "made")]
    missing = Finding(UNFINISHED, tuple(unfinished(len(study.rows), study.planned)), "made")
    if study.spec.arms:  # the sentences are those of the result
        return [missing] if missing.sentences else []
    found = [
        missing,
        Finding("The published failure", tuple(published_finding(study.frame)), "published"),
        Finding("Safe values of l1", tuple(l1_sentences(study.l1, study.spec.protocol)), "l1"),
        Finding("Verdicts", tuple(verdict_sentences(study.rows, study.spec.search is not None)), "verdicts"),
        Finding("Surest failure regions", tuple(region_sentences(study.regions)), "regions"),
        Finding("Collapse of the autoencoder by sparsity", tuple(collapse_sentences(study)), "collapse"),
        Finding("Critical l1 of the SAE's death", tuple(death_summary(study.deaths)), "phase"),
        Finding("Critical sparsity of the autoencoder", tuple(transition_summary(study.transitions)), "order"),
        Finding("Which metrics to trust", tuple(trust_summary(study)), "trust"),
    ]
    return [finding for finding in found if finding.sentences]


# The collapse of the autoencoder


def collapse_sentences(study: StudyRows) -> list[str]:
    """How the rate of collapse depends on sparsity, and what the data say about a maximum at the published sparsity."""
    curves = study.collapse
    if not curves:
        return []
    claim = published_claim(study)
    one = "Collapse of the autoencoder, {}"
    shape = one.format(_one_curve(*next(iter(curves.items())))) if len(curves) == 1 else _many_curves(curves)
    return [shape, *([f"The published claim, {PUBLISHED.cell.architecture}: {claim.sentence}"] if claim else [])]


def _one_curve(architecture: str, curve: Monotonicity) -> str:
    if sum(curve.failures) == 0:
        return _never_collapsed(architecture, sum(curve.replicates))
    return f"{architecture}: {curve.sentence}"


def _never_collapsed(subject: str, autoencoders: int) -> str:
    high = float(rate_interval(0, autoencoders)[1])
    return f"{subject}: none of {autoencoders} autoencoders collapsed (rate below {high:.2%}, 95 % interval)."


def _many_curves(curves: dict[str, Monotonicity]) -> str:
    failures, trained = (sum(sum(getattr(of, name)) for of in curves.values()) for name in ("failures", "replicates"))
    if failures == 0:
        return _never_collapsed(f"{len(curves)} architectures", trained)
    rising, falling = (_significant(curves, name) for name in ("p_never_rises", "p_never_falls"))
    both = [name for name in rising if name in falling]
    texts = [
        f"{failures} of {trained} autoencoders collapsed. The rate rises with sparsity in {_listed(rising, len(curves))}",
        f"and falls with it in {_listed(falling, len(curves))} (Holm over the architectures, {LEVEL:.0%})",
    ]
    verdict = f"not monotone in {', '.join(both)}" if both else "no evidence against a monotone rate"
    return f"{' '.join(texts)}: {verdict}."


def _significant(curves: dict[str, Monotonicity], p_value: str) -> list[str]:
    return [name for name, curve in curves.items() if getattr(curve, p_value) <= LEVEL]


def _listed(names: list[str], of: int) -> str:
    return f"{len(names)} of {of} architectures ({', '.join(names)})" if names else f"none of {of} architectures"


def published_claim(study: StudyRows) -> LocalMaximum | None:
    """The claim “worse at 0.9 than beside it”, tested on this study's own seeds if it has that sparsity between two others."""
    own = study.autoencoders[study.autoencoders["architecture"] == str(PUBLISHED.cell.architecture)]
    levels = np.sort(own["sparsity"].unique())
    at = int(np.argmin(np.abs(levels - PUBLISHED.cell.sparsity))) if len(levels) else 0
    if not 0 < at < len(levels) - 1 or abs(levels[at] - PUBLISHED.cell.sparsity) > 1e-9:
        return None
    return local_maximum_at(own, [float(level) for level in levels[at - 1 : at + 2]], COLLAPSE)


# Regions


def region_sentences(regions: Sequence[Region]) -> list[str]:
    """The most certain region of each failure, the most certain failures first; only those that are SURE."""
    surest = {region.failure: region for region in reversed(regions) if region.failure != "any" and region.confidence >= SURE}
    ordered = sorted(surest.values(), key=lambda region: (-region.confidence, -region.volume))
    if regions and not ordered:
        return [f"No region of one kind of failure is sure at {SURE:.0%}: those in the table may be due to chance."]
    return [_region_sentence(region) for region in ordered[:MOST_REGIONS]]


def _region_sentence(region: Region) -> str:
    low, high = region.peak_interval
    extents = ", ".join(f"{COORDINATES[name].symbol} {range_text(extent)}" for name, extent in region.extents.items())
    return (
        f"{region.failure}: {span_text(region.architectures)}, {extents} "
        f"({region.volume:.1%} of the cells, {region.replicates} replicates); at its peak {region.peak_rate:.0%} of the "
        f"seeds fail [95 % interval {low:.0%} to {high:.0%}], confidence that it is there {probability_text(region.confidence)}."
    )


def span_text(architectures: Sequence[str]) -> str:
    """One or two names, or else the first and the last."""
    return " and ".join(architectures) if len(architectures) < 3 else f"{architectures[0]} … {architectures[-1]}"


def range_text(ends: tuple[float, float]) -> str:
    """A range as text, such as 0.3 to 0.9; a single value if the ends are equal."""
    low, high = ends
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


# Critical points beside their closed forms


def death_summary(points: Sequence[CriticalPoint]) -> list[str]:
    """Where half of the seeds lose all latents, over all architectures and sparsities, and how close the closed forms are."""
    along = [point for point in points if point.axis == L1]
    crossed = [point for point in along if point.crossing.answer is Answer.CROSSED and point.crossing.direction == "rising"]
    enough = [point for point in along if point.crossing.answer is not Answer.TOO_FEW]
    if not enough:
        return []
    if not crossed:
        return [f"At no l1 are all latents dead in half of the seeds, in {len(enough)} curves of rate over l1."]
    estimates = [point.crossing.estimate for point in crossed]
    text = (
        f"Half of the seeds have all latents dead above a critical l1 of {range_text((min(estimates), max(estimates)))}, by "
        f"architecture and sparsity ({len(crossed)} of {len(enough)} curves of rate over l1 cross one half)."
    )
    return [text, *_closed_form_sentences(crossed)]


def _closed_form_sentences(points: Sequence[CriticalPoint]) -> list[str]:
    """For each closed form, in how many points the interval holds it, and by which factor it is off; no factor if in none."""
    texts = []
    for name in dict.fromkeys(prediction.name for point in points for prediction in point.predictions):
        pairs = [(point, p) for point in points for p in point.predictions if p.name == name and np.isfinite(p.value)]
        held = sum(bool(point.holds(p)) for point, p in pairs)
        if held:
            off = float(np.median([point.difference(p) for point, p in pairs]))
            texts.append(
                f"Closed form “{name}”: within the 90 % interval in {held} of {len(pairs)}; the measured l1 is "
                f"{'higher' if off > 0 else 'lower'} by a factor of {10 ** abs(off):.3g} in the median."
            )
        elif pairs:
            texts.append(f"Closed form “{name}” does not hold here: it is within the 90 % interval in none of {len(pairs)}.")
    return texts


def transition_summary(points: Sequence[CriticalPoint]) -> list[str]:
    """For each statement about the autoencoder, where it begins to hold, beside its closed form."""
    enough = [point for point in points if point.crossing.answer is not Answer.TOO_FEW and point.predictions]
    by_statement = {name: [point for point in enough if point.quantity == name] for name in dict.fromkeys(_names_of(enough))}
    crossing = {name for name, own in by_statement.items() if any(point.crossing.answer is Answer.CROSSED for point in own)}
    texts = [_transition_sentence(name, own) for name, own in by_statement.items() if name in crossing]
    nowhere = [f"“{name}” ({_agreement(own)})" for name, own in by_statement.items() if name not in crossing]
    return texts + ([f"Nowhere true in half of the seeds: {', '.join(nowhere)}."] if nowhere else [])


def _names_of(points: Sequence[CriticalPoint]) -> list[str]:
    return [point.quantity for point in points]


def _transition_sentence(statement: str, points: list[CriticalPoint]) -> str:
    """A sentence about rising crossings only, because closed forms predict no fall."""
    rising = [point for point in points if point.crossing.answer is Answer.CROSSED]
    texts = [f"{p.crossing.estimate:.3g} in {p.architecture} (predicted {p.predictions[0].value:.3g})" for p in rising[:3]]
    more = f" and in {len(rising) - 3} more" if len(rising) > 3 else ""
    return f"“{statement}” becomes true in half of the seeds at S = {', '.join(texts)}{more}: {_agreement(points)}."


def _agreement(points: list[CriticalPoint]) -> str:
    """In how many architectures the interval (or the lack of a crossing) agrees with the closed form."""
    judged = [held for point in points for held in [point.holds(point.predictions[0])] if held is not None]
    return f"closed form “{points[0].predictions[0].name}” fits in {sum(judged)} of {len(judged)}"


# Metrics


def trust_summary(study: StudyRows) -> list[str]:
    """Which metrics separate failures that they do not define, and which are undefined if all latents are dead."""
    if study.measured.empty:
        return []
    table = study.trust.table
    judged = table[table["auc"].notna()]
    if judged.empty:
        return [f"Not enough healthy and failing replicates to compare metrics: at least {LEAST} of each are needed."]
    return _telling_metrics(judged[~judged["in_verdict"].astype(bool)]) + _metrics_of_the_dead(table)


def _telling_metrics(free: pd.DataFrame) -> list[str]:
    """The metrics that separate; free: the metrics on which no verdict depends."""
    telling = free[np.maximum(free["low"], 1 - free["high"]) >= TELLS]
    if len(telling):
        return [f"Metrics that separate failing from healthy without being part of the verdict: {_with_auc(telling)}."]
    if free.empty:
        return []
    best = _with_auc(free.loc[[(free["auc"] - 0.5).abs().idxmax()]])
    return [f"No metric outside the verdict surely separates failing from healthy (AUC beyond {TELLS}); best: {best}."]


def _metrics_of_the_dead(table: pd.DataFrame) -> list[str]:
    dead = table[table["defined_all_dead"].notna()]
    if dead.empty:
        return []
    always, never = dead[dead["defined_all_dead"] > 0.9], dead[dead["defined_all_dead"] < 0.1]
    return [
        f"If all latents are dead, {_names(always) or 'no metric'} {'is' if len(always) == 1 else 'are'} defined, "
        f"{_names(never) or 'none'} {'is' if len(never) == 1 else 'are'} not."
    ]


def _with_auc(table: pd.DataFrame) -> str:
    return ", ".join(f"{row.metric} (AUC {row.auc:.2f} [{row.low:.2f}, {row.high:.2f}])" for row in table.itertuples())


def _names(table: pd.DataFrame) -> str:
    return ", ".join(table["metric"])


def architecture_sentences(study: StudyRows, architecture: str) -> list[str]:
    """The sentences about one architecture: its verdicts, its collapse, its critical points."""
    own = study.of(architecture)
    curve = study.collapse.get(architecture)
    texts = verdict_sentences(own, study.spec.search is not None)
    if curve is not None:
        texts.append(f"Collapse of the autoencoder, {_one_curve(architecture, curve)}")
    texts += death_summary(study.deaths_of(architecture))
    return texts + [f"{point.sentence}." for point in study.transitions if point.architecture == architecture]
