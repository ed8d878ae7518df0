"""Why a replicate failed, by intervention: one thing is changed, all else stays the same, and the failures are counted again.

`diagnose` trains the replicate and all of its interventions in this process, in packs. The rules and names are those of
docs/definitions.md, "Interventions and causes". Training itself is left to `study.run_pack`; the figure of a diagnosis is in
`analysis/figures/diagnosis.py`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from analysis.rates.cells import rate_interval
from search_spaces.cells import Architecture, Cell, Replicate, Replicates
from search_spaces.failures import FailureKind, verdict_named
from search_spaces.protocol import Protocol, protocol_from
from study import data
from study.engines.registry import exact_engine
from study.failures import Cause
from study.history.deaths import latents_died_at, outputs_died_at
from study.history.history import training_history
from study.machine import usable_cores
from study.metrics.sae import corrected_mcc
from study.needs import refuse_replicates
from study.packs import Pack
from study.run_pack import run_pack

DRAWS = 100
"""Number of trainings of a change that draws something anew."""
BASE_SEEDS = 1000
"""Number of replicates behind the base rate: the cell's first seeds from 0 on, without the replicate's own."""
WARMUP_STEPS = 1000
"""Length of the warm-up in `ae_warmup`."""
EARLY = 0.05
"""`ae_early_death`: every output died within this share of the steps."""
CURED_BELOW = 0.5
"""A change cures if the same failure occurs in less than this share of its trainings."""
LANES = 64
"""Number of replicates that a thread trains together."""
DTYPE = "float64"

SMALLER_L1 = ("l1*0", "l1*0.1", "l1*0.3")
INITIALISATIONS = ("sae_init*10", "sae_unit_norm", "sae_seed")


@dataclass(frozen=True)
class Change:
    """An intervention: one thing is changed, all else stays as in the replicate."""

    name: str
    meaning: str
    draws: Callable[[Replicate, int], Replicate] | None = None
    """The replicate for the seed of a draw; None: the change draws nothing and is trained once."""
    of_replicate: Callable[[Replicate], Replicate] = lambda replicate: replicate
    of_protocol: Callable[[Protocol], Protocol] = lambda protocol: protocol
    needs_sae: bool = False


def _other_seed(name: str) -> Callable[[Replicate, int], Replicate]:
    def drawn(replicate: Replicate, seed: int) -> Replicate:
        changes: dict[str, Any] = {name: seed}
        return dataclasses.replace(replicate, **changes)

    return drawn


def _l1_times(factor: float) -> Callable[[Replicate], Replicate]:
    return lambda one: dataclasses.replace(one, cell=dataclasses.replace(one.cell, l1=one.cell.l1 * factor))


def _with(**fields: Any) -> Callable[[Protocol], Protocol]:
    return lambda protocol: dataclasses.replace(protocol, **fields)


def _times(factor: int, *names: str) -> Callable[[Protocol], Protocol]:
    """The given fields of the protocol times a factor; a field that is None stays None."""

    def changed(protocol: Protocol) -> Protocol:
        values = {name: getattr(protocol, name) for name in names}
        return dataclasses.replace(protocol, **{name: value * factor for name, value in values.items() if value is not None})

    return changed


CHANGES = (
    Change("data_order", "the same samples in another order", draws=lambda replicate, seed: replicate),
    Change("data_seed", "other samples", draws=_other_seed("data_seed")),
    Change("ae_seed", "other initial weights of the AE", draws=_other_seed("ae_seed")),
    Change("sae_seed", "other initial weights of the SAE", draws=_other_seed("sae_seed"), needs_sae=True),
    Change("ae_init*10", "the AE's initial weights times ten", of_protocol=_times(10, "ae_init_scale")),
    Change("sae_init*10", "the SAE's initial weights times ten", of_protocol=_times(10, "sae_init_scale"), needs_sae=True),
    Change("ae_warmup", "the AE's learning rate rises over 1,000 steps", of_protocol=_with(ae_warmup_steps=WARMUP_STEPS)),
    Change("ae_epochs*4", "the AE trained four times as long", of_protocol=_times(4, "ae_epochs", "ae_steps")),
    Change("sae_epochs*4", "the SAE trained four times as long", of_protocol=_times(4, "sae_epochs", "sae_steps"), needs_sae=True),
    Change("l1*0", "no L1 penalty", of_replicate=_l1_times(0), needs_sae=True),
    Change("l1*0.1", "a tenth of the L1 penalty", of_replicate=_l1_times(0.1), needs_sae=True),
    Change("l1*0.3", "three tenths of the L1 penalty", of_replicate=_l1_times(0.3), needs_sae=True),
    Change(
        "sae_unit_norm",
        "at the start the decoder's columns have norm 1 and the encoder is its transpose",
        of_protocol=_with(sae_decoder_init="unit_norm", sae_encoder_init="decoder_transpose"),
        needs_sae=True,
    ),
    Change("rescale", "h of mean norm √n_hidden", of_protocol=_with(sae_input="rescaled"), needs_sae=True),
)
"""The interventions of docs/definitions.md, in its order."""


@dataclass(frozen=True)
class Rate:
    """How often one failure occurred, over trainings that differ in their draws."""

    failure: str
    """The failure that is counted: the name of a verdict, or `any`."""
    replicates: int
    failures: int
    rate: float
    low: float
    """`low` and `high` are the ends of the 95 % Jeffreys interval."""
    high: float
    other: dict[str, int]
    """The number of other failures, by kind."""

    @classmethod
    def of(cls, kinds: Sequence[str], failure: str) -> Rate:
        """The rate of `failure` among the verdicts of one or more trainings."""
        counts = Counter(kind for kind in kinds if kind != FailureKind.NONE)
        failures = counts.total() if failure == "any" else counts.pop(failure, 0)
        low, high = rate_interval(failures, len(kinds))
        return cls(failure, len(kinds), failures, failures / len(kinds), float(low), float(high), dict(counts.most_common()))


@dataclass(frozen=True)
class Intervention:
    """How often the failure occurs under one change."""

    change: str
    meaning: str
    draws: bool
    """Whether each training drew something anew; otherwise there is a single training."""
    rate: Rate

    @property
    def cures(self) -> bool:
        """Whether the failure occurs in less than half of the trainings; if they draw, the interval must lie below ½ too."""
        certain = self.rate.high < CURED_BELOW or not self.draws
        return self.rate.failure != "any" and self.rate.rate < CURED_BELOW and certain


@dataclass(frozen=True)
class Trajectory:
    """The update at which each output of the AE and each latent of the SAE died; None if it lives to the end."""

    ae_steps: int
    sae_steps: int
    ae_outputs_died_at: tuple[int | None, ...]
    sae_latents_died_at: tuple[int | None, ...]
    """Empty without an SAE."""

    @property
    def early_death(self) -> bool:
        """Whether every output of the AE died within the first 5 % of its steps."""
        return all(at is not None and at <= EARLY * self.ae_steps for at in self.ae_outputs_died_at)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """A replicate, its failure and the cause."""

    replicate: Replicate
    protocol: Protocol
    row: dict[str, Any]
    """The result row of the replicate."""
    failure: str
    """The name of the replicate's verdict."""
    cause: Cause
    base_rate: Rate
    """The rate of the same failure (any, if the replicate does not fail) over other seeds of its cell."""
    interventions: tuple[Intervention, ...]
    trajectory: Trajectory

    @property
    def verdict(self) -> str:
        """The finding in one paragraph, computed from the figures."""
        return " ".join(_sentences(self))

    def rates(self) -> list[tuple[str, Rate, bool]]:
        """The base rate, then each change: its name, the rate, and whether it cures."""
        changes = [(one.change, one.rate, one.cures) for one in self.interventions]
        return [(BASE, self.base_rate, False), *changes]

    def to_mapping(self) -> dict[str, Any]:
        """What `sae-study diagnose --json` prints."""
        cell = self.replicate.cell
        rates = ({"change": one.change, **_counted(one.rate, "seeds"), "cures": one.cures} for one in self.interventions)
        return {
            "architecture": str(cell.architecture),
            "sparsity": cell.sparsity,
            "l1": cell.l1,
            "seed": self.replicate.seed,
            "protocol": self.protocol.name,
            "failure": self.failure,
            "cause": self.cause.value,
            "verdict": self.verdict,
            "base_rate": _counted(self.base_rate, "replicates"),
            "interventions": [rate | {"meaning": one.meaning} for rate, one in zip(rates, self.interventions, strict=True)],
            "trajectory": dataclasses.asdict(self.trajectory),
            "row": self.row,
        }


def _counted(rate: Rate, replicates: str) -> dict[str, Any]:
    """A rate as a mapping, with the number of its trainings under the given name."""
    fields = dataclasses.asdict(rate)
    return {replicates if name == "replicates" else name: value for name, value in fields.items()}


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def diagnose(
    architecture: str | Architecture,
    sparsity: float,
    l1: float,
    seed: int,
    protocol: str | Protocol = "dissertation",
    on_progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Train one replicate, all of its interventions and the base rate of its cell, and name the cause of its failure.

    Training is in float64, on the faster engine of the `exact` family, in threads of this process. `on_progress` receives the
    number of trained replicates and their total. MisuseError if an argument is out of range.
    """
    cell = Cell(Architecture.parse(architecture), sparsity, l1)
    return diagnose_replicate(Replicate(cell, seed), protocol_from(protocol), on_progress)


def diagnose_replicate(
    replicate: Replicate, protocol: Protocol, on_progress: Callable[[int, int], None] | None = None
) -> Diagnosis:
    """`diagnose` for a replicate whose data, AE and SAE may have seeds of their own."""
    engine = exact_engine(protocol)
    refuse_replicates([replicate.cell.architecture], protocol, DTYPE, engine)
    own = Pack(Replicates.of([replicate]), protocol, DTYPE, engine.name)
    # One thread for the linear algebra library in the whole process, since run_pack's own limit is process-wide too.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cores()) as pool:
        try:
            following = pool.submit(trajectory_of, own)
            row = pool.submit(lambda: run_pack(own).to_pylist()[0])
            kinds = _verdicts(trainings(replicate, protocol), pool, on_progress)
            return _settled(replicate, protocol, row.result(), following.result(), kinds)
        except BaseException:  # Ctrl-C above all: start nothing more
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _settled(
    replicate: Replicate, protocol: Protocol, row: dict[str, Any], trajectory: Trajectory, kinds: dict[str, list[str]]
) -> Diagnosis:
    """Count the verdicts and name the cause."""
    failure = str(row["failure"])
    counted = "any" if failure == FailureKind.NONE else failure
    interventions = tuple(
        Intervention(change.name, change.meaning, change.draws is not None, Rate.of(kinds[change.name], counted))
        for change in applicable(protocol)
    )
    cause = cause_of(failure, {one.change for one in interventions if one.cures}, trajectory.early_death)
    base_rate = Rate.of(kinds[BASE], counted)
    return Diagnosis(replicate, protocol, row, failure, cause, base_rate, interventions, trajectory)


def cause_of(failure: str, cures: Collection[str], early_death: bool) -> Cause:
    """The first cause that applies (docs/definitions.md), given the failure, the changes that cure it, and the trajectory.

    early_death: whether every output of the AE died within the first 5 % of its steps.
    """
    cured = set(cures)
    if failure == FailureKind.NONE:
        return Cause.NONE
    by_l1, by_initialisation = bool(cured & set(SMALLER_L1)), bool(cured & set(INITIALISATIONS))
    rules: dict[Cause, bool] = {}
    if failure == FailureKind.AE_COLLAPSED:
        rules = {
            Cause.AE_EARLY_DEATH: early_death and bool(cured & {"data_order", "ae_init*10", "ae_warmup"}),
            Cause.AE_UNDERTRAINED: "ae_epochs*4" in cured,
            Cause.DATA: "data_seed" in cured,
        }
    elif verdict_named(failure).of_sae:
        rules = {
            Cause.L1_AGAINST_INITIALISATION: by_l1 and by_initialisation,
            Cause.L1_ABOVE_DEATH_LINE: by_l1,
            Cause.SAE_INITIALISATION: by_initialisation,
            Cause.SAE_TRAINING_LENGTH: "sae_epochs*4" in cured,
            Cause.DATA: bool(cured & {"data_order", "data_seed", "ae_seed"}),
        }
    return next((cause for cause, applies in rules.items() if applies), Cause.UNEXPLAINED)


def trajectory_of(pack: Pack) -> Trajectory:
    """When outputs and latents died in the training of a pack of one replicate."""
    history, protocol = training_history(pack), pack.protocol
    died = tuple(outputs_died_at(history, protocol)), tuple(latents_died_at(history, protocol))
    return Trajectory(protocol.ae_training_steps, protocol.sae_training_steps, *died)


# What is trained

BASE = "base rate"


@dataclass(frozen=True, eq=False)
class Training:
    """Replicates that are trained together, and the purpose of each."""

    purposes: tuple[str, ...]
    """One per replicate: the name of a change, or BASE."""
    pack: Pack
    orders: NDArray[np.int64] | None = None
    """The orders of samples that `run_pack` takes."""


def applicable(protocol: Protocol) -> tuple[Change, ...]:
    """The interventions that make sense under a protocol: without an SAE, those that do not need one."""
    return tuple(change for change in CHANGES if protocol.has_sae or not change.needs_sae)


def trainings(replicate: Replicate, protocol: Protocol) -> list[Training]:
    """Everything that a diagnosis trains besides the replicate itself, in packs of one protocol and at most LANES replicates."""
    together: dict[tuple[Protocol, bool], list[tuple[str, Replicate]]] = {}
    base = [Replicate(replicate.cell, seed) for seed in other_seeds(replicate.seed, BASE_SEEDS)]
    together[protocol, False] = [(BASE, one) for one in base]
    for change in applicable(protocol):
        key = change.of_protocol(protocol), change.name == "data_order"
        together.setdefault(key, []).extend((change.name, one) for one in changed(change, replicate))
    return [piece for (of, permuted), pairs in together.items() for piece in _pieces(pairs, of, permuted)]


def changed(change: Change, replicate: Replicate) -> list[Replicate]:
    """The replicates under a change: one per draw, or a single one."""
    if change.draws is None:
        return [change.of_replicate(replicate)]
    own = getattr(replicate, change.name, None)
    return [change.draws(replicate, seed) for seed in other_seeds(own, DRAWS)]


def other_seeds(own: int | None, how_many: int) -> Iterator[int]:
    """0, 1, 2, … without the replicate's own seed, which would change nothing."""
    return islice((seed for seed in count() if seed != own), how_many)


def _pieces(pairs: list[tuple[str, Replicate]], protocol: Protocol, permuted: bool) -> Iterator[Training]:
    purposes, replicates = zip(*pairs, strict=True)
    pack = Pack(Replicates.of(replicates), protocol, DTYPE, exact_engine(protocol).name)
    orders = np.stack([data.sample_order(seed, protocol.samples) for seed in range(len(pack))]) if permuted else None
    for first in range(0, len(pack), LANES):
        piece = slice(first, first + LANES)
        yield Training(purposes[piece], pack.take(piece), None if orders is None else orders[piece])


def _verdicts(
    work: list[Training], pool: ThreadPoolExecutor, on_progress: Callable[[int, int], None] | None
) -> dict[str, list[str]]:
    """Train everything; the verdict of each training, by purpose."""
    done, total = 0, sum(len(training.pack) for training in work)
    kinds: dict[str, list[str]] = {}
    for training, failures in zip(work, pool.map(_failures, work), strict=True):
        for purpose, kind in zip(training.purposes, failures, strict=True):
            kinds.setdefault(purpose, []).append(kind)
        done += len(training.pack)
        if on_progress:
            on_progress(done, total)
    return kinds


def _failures(training: Training) -> list[str]:
    return run_pack(training.pack, orders=training.orders)["failure"].to_pylist()


# Sentences


def _sentences(diagnosis: Diagnosis) -> Iterator[str]:
    replicate, base, failure = diagnosis.replicate, diagnosis.base_rate, diagnosis.failure
    cell, anew = replicate.cell, f"Over {base.replicates:,} other seeds of this cell"
    who = f"{cell.architecture} at S = {cell.sparsity:g}, l1 = {cell.l1:g}, seed {replicate.seed} ({diagnosis.protocol.name})"
    if failure == FailureKind.NONE:
        yield f"{who} does not fail: {_state(diagnosis)}."
        yield from _deaths(diagnosis.trajectory)
        yield f"{anew} some failure occurs in {_told(base)}{_mostly(base)}."
        breaking = [one for one in diagnosis.interventions if one.rate.rate >= CURED_BELOW]
        harmful = f"make it fail in half of their trainings or more: {_listed(breaking)}" if breaking else "makes it fail as a rule"
        yield f"Of {len(diagnosis.interventions)} single changes {len(breaking) or 'none'} {harmful}."
        return
    yield f"{who} fails: {failure}, {verdict_named(failure).meaning}; {_state(diagnosis)}."
    yield from _deaths(diagnosis.trajectory)
    yield f"Cause: {diagnosis.cause.value}, {diagnosis.cause.sentence}."
    curing = [one for one in diagnosis.interventions if one.cures]
    others = [one for one in diagnosis.interventions if not one.cures]
    yield f"Cured by {_listed(curing)}." if curing else f"None of {len(others)} single changes cures it."
    if relapses := _relapses(curing):
        yield relapses
    if curing and others:
        yield f"Not cured by {_listed(others)}."
    yield f"{anew} {failure} occurs in {_told(base)}."


def _state(diagnosis: Diagnosis) -> str:
    """The figures in the row on which the verdict is based."""
    row = diagnosis.row
    ae = f"AE loss {row['ae_loss']:.4g} against {row['ae_loss_bias_only']:.4g} for a bias alone"
    if diagnosis.failure in (FailureKind.AE_COLLAPSED, FailureKind.DIVERGED) or not diagnosis.protocol.has_sae:
        return ae
    corrected = corrected_mcc(np.array(row["mcc_decoder_features"]), np.array(row["mcc_chance"]))
    return (
        f"{ae}, {row['n_latents'] - row['dead_latents']} of {row['n_latents']} latents alive for "
        f"{row['ae_features_represented']} represented features, l0 {row['l0']:.3g}, explained variance "
        f"{row['explained_variance']:.3g}, corrected MCC {float(corrected):.2g}"
    )


def _deaths(trajectory: Trajectory) -> Iterator[str]:
    yield _when_died("outputs of the AE", trajectory.ae_outputs_died_at, trajectory.ae_steps)
    if trajectory.sae_latents_died_at:
        yield _when_died("latents of the SAE", trajectory.sae_latents_died_at, trajectory.sae_steps)


def _when_died(units: str, died_at: tuple[int | None, ...], steps: int) -> str:
    dead = sorted(at for at in died_at if at is not None)
    if not dead:
        return f"None of the {len(died_at)} {units} died."
    half = f"half of them by update {dead[(len(dead) - 1) // 2]:,}, " if len(dead) > 1 else ""
    last = f"the last at update {dead[-1]:,}" if len(dead) > 1 else f"at update {dead[-1]:,}"
    return f"Of the {len(died_at)} {units} {len(dead)} died, {half}{last} of {steps:,} ({dead[-1] / steps:.2%})."


def _listed(interventions: Sequence[Intervention]) -> str:
    """The names of the changes, each with its rate if it draws."""
    return ", ".join(f"{one.change} ({_told(one.rate)})" if one.draws else one.change for one in interventions)


def _told(rate: Rate) -> str:
    return f"{rate.failures} of {rate.replicates:,}, {rate.rate:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def _mostly(rate: Rate) -> str:
    """The commonest kind of failure."""
    kind = next(iter(rate.other), None)
    return f", most often {kind} ({rate.other[kind]})" if kind else ""


def _relapses(curing: Sequence[Intervention]) -> str:
    """What fails under the changes that cure, since curing one failure does not prevent others."""
    other: Counter[str] = sum((Counter(one.rate.other) for one in curing), Counter())
    if not other:
        return ""
    kinds = ", ".join(f"{kind} {times}" for kind, times in other.most_common())
    trainings = sum(one.rate.replicates for one in curing)
    return f"Of the {trainings} trainings under these changes {other.total()} fail in another way ({kinds})."
