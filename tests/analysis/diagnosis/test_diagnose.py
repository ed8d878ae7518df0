"""Diagnosis: what the interventions change and what they leave alone, when units died, and which cause follows."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis import diagnose
from analysis.diagnosis import diagnose as causes
from analysis.diagnosis.diagnose import CHANGES, INITIALISATIONS, SMALLER_L1, Intervention, Rate, cause_of
from analysis.figures import diagnosis as cause_plots
from analysis.rates.cells import rate_interval
from search_spaces import PROTOCOLS, Architecture, Cell, Protocol, Replicate, Replicates, grid
from search_spaces.failures import FailureKind
from study import data
from study.failures import Cause
from study.history.deaths import latents_died_at, outputs_died_at
from study.history.history import training_history
from study.packs import Pack
from study.run_pack import run_pack, train_autoencoders
from tests import textbook
from tests.study.test_run_pack import BATCHED, ONLINE, science

DISSERTATION = PROTOCOLS["dissertation"]
CHANGE = {change.name: change for change in CHANGES}
COLLAPSE = Replicate(Cell(Architecture(10, 5), 0.9, 0.01), 123)
"""The published "complete SAE failure"."""
ONE = Replicate(Cell(Architecture(5, 3), 0.8, 0.03), 7, 1, 2, 3)


def pack_of(*replicates: Replicate, protocol: Protocol = ONLINE, dtype: str = "float64", engine: str = "compiled") -> Pack:
    return Pack(Replicates.of(replicates), protocol, dtype, engine)


def row_of(replicate: Replicate, protocol: Protocol = ONLINE, engine: str = "compiled") -> dict[str, Any]:
    (row,) = run_pack(pack_of(replicate, protocol=protocol, engine=engine)).to_pylist()
    return row


# What is changed


def test_the_interventions_are_those_of_the_definitions() -> None:
    """Their names and order, the four that draw, and those that remain without an SAE."""
    assert list(CHANGE) == [
        "data_order", "data_seed", "ae_seed", "sae_seed", "ae_init*10", "sae_init*10", "ae_warmup", "ae_epochs*4",
        "sae_epochs*4", "l1*0", "l1*0.1", "l1*0.3", "sae_unit_norm", "rescale",
    ]  # fmt: skip
    assert [name for name, change in CHANGE.items() if change.draws] == ["data_order", "data_seed", "ae_seed", "sae_seed"]
    without = {change.name for change in causes.applicable(PROTOCOLS["dissertation-diagnosis"])}
    assert without == {"data_order", "data_seed", "ae_seed", "ae_init*10", "ae_warmup", "ae_epochs*4"}
    assert causes.applicable(DISSERTATION) == CHANGES


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ae_init*10", {"ae_init_scale": 10}),
        ("sae_init*10", {"sae_init_scale": 10}),
        ("ae_warmup", {"ae_warmup_steps": 1000}),
        ("ae_epochs*4", {"ae_epochs": 20}),
        ("sae_epochs*4", {"sae_epochs": 80}),
        ("sae_unit_norm", {"sae_decoder_init": "unit_norm", "sae_encoder_init": "decoder_transpose"}),
        ("rescale", {"sae_input": "rescaled"}),
    ],
)
def test_a_change_of_the_protocol_changes_nothing_else(name: str, fields: dict[str, Any]) -> None:
    """The replicate stays the same, and so does every field of the protocol except those named."""
    assert causes.changed(CHANGE[name], ONE) == [ONE]
    assert CHANGE[name].of_protocol(DISSERTATION) == dataclasses.replace(DISSERTATION, **fields)


def test_steps_are_stretched_where_the_protocol_counts_steps() -> None:
    """Four times the steps, warm-up and all else as before."""
    sound = PROTOCOLS["sound"]
    for name, field in (("ae_epochs*4", "ae_steps"), ("sae_epochs*4", "sae_steps")):
        assert CHANGE[name].of_protocol(sound) == dataclasses.replace(sound, **{field: 12_000})


@pytest.mark.parametrize("name", ["data_seed", "ae_seed", "sae_seed"])
def test_a_seed_is_replaced_and_all_else_stays(name: str) -> None:
    """A hundred seeds 0, 1, 2 … of that stream, without the replicate's own, which would give the replicate itself."""
    drawn = causes.changed(CHANGE[name], ONE)
    own = getattr(ONE, name)
    assert [getattr(one, name) for one in drawn] == [seed for seed in range(101) if seed != own]
    assert all(dataclasses.replace(one, **{name: own}) == ONE for one in drawn)
    draws = CHANGE[name].draws
    assert draws is not None
    assert draws(ONE, own) == ONE
    assert CHANGE[name].of_protocol(DISSERTATION) == DISSERTATION


@pytest.mark.parametrize(("name", "factor"), [("l1*0", 0), ("l1*0.1", 0.1), ("l1*0.3", 0.3)])
def test_a_smaller_l1_leaves_the_autoencoder_alone(name: str, factor: float) -> None:
    """Nothing but l1 differs, and the AE's columns keep their bits."""
    (changed,) = causes.changed(CHANGE[name], ONE)
    assert changed.cell.l1 == ONE.cell.l1 * factor
    assert dataclasses.replace(changed, cell=ONE.cell) == ONE
    before, after = row_of(ONE), row_of(changed)
    assert before["sae_loss"] != after["sae_loss"]
    assert [before[name] for name in before if name.startswith("ae_")] == [after[name] for name in after if name.startswith("ae_")]


@pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["dissertation", "sound"])
def test_the_start_is_ten_times_the_same(protocol: Protocol) -> None:
    """The same weights times ten, except for a decoder that is held at unit norm; the other model's start stays the same."""
    architecture = ONE.cell.architecture
    start, tenfold = (
        data.ae_initial_weights(architecture, 2, one) for one in (protocol, CHANGE["ae_init*10"].of_protocol(protocol))
    )
    np.testing.assert_array_equal(tenfold, 10 * start)
    changed = CHANGE["sae_init*10"].of_protocol(protocol)
    (encoder, decoder), (encoder10, decoder10) = (data.sae_initial_weights(architecture, 3, one) for one in (protocol, changed))
    np.testing.assert_array_equal(encoder10, 10 * encoder)
    np.testing.assert_array_equal(decoder10, (10 if protocol.sae_decoder_norm == "free" else 1) * decoder)
    np.testing.assert_array_equal(data.ae_initial_weights(architecture, 2, changed), start)


def test_unit_norm_keeps_the_directions_of_the_decoder() -> None:
    """Columns start at norm 1 along those of the replicate, the encoder as their transpose; both can grow afterwards."""
    changed = CHANGE["sae_unit_norm"].of_protocol(ONLINE)
    W_enc, W_dec = data.sae_initial_weights(ONE.cell.architecture, 3, changed)
    own = data.sae_initial_weights(ONE.cell.architecture, 3, ONLINE)[1]
    np.testing.assert_allclose(W_dec, own / np.sqrt((own**2).sum(axis=0)))
    np.testing.assert_array_equal(W_enc, W_dec.T)
    assert changed.sae_decoder_norm == "free"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["dissertation", "sound"])
def test_samples_in_their_own_order_give_the_row_itself(protocol: Protocol, dtype: str) -> None:
    """The identity permutation changes no bit, also if lanes have the same seeds. Another one does, but no id records it."""
    pack = pack_of(ONE, ONE, ONE, protocol=protocol, dtype=dtype)
    orders = np.stack([np.arange(protocol.samples), data.sample_order(0, protocol.samples), np.arange(protocol.samples)])
    first, other, third = run_pack(pack, orders=orders).to_pylist()
    (plain,) = science(run_pack(pack.take(slice(0, 1)))).values()
    names = list(plain)
    assert [_exact(first[name]) for name in names] == [_exact(third[name]) for name in names] == list(plain.values())
    assert other["ae_loss"] != first["ae_loss"]
    assert other["replicate_id"] == first["replicate_id"]
    assert other["empirical_sparsity"] == first["empirical_sparsity"]


def _exact(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def test_each_lane_sees_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permuted lane among others gives the same row as data that were drawn in that order."""
    order = data.sample_order(5, ONLINE.samples)
    assert sorted(order) == list(range(ONLINE.samples))
    orders = np.stack([np.arange(ONLINE.samples), order])
    permuted = run_pack(pack_of(dataclasses.replace(ONE, data_seed=9), ONE), orders=orders)["sae_loss"][1].as_py()
    draw = data.draw_features
    monkeypatch.setattr(data, "draw_features", lambda *given, **named: draw(*given, **named)[:, order])
    assert row_of(ONE)["sae_loss"] == permuted


def test_rescaled_activations_have_the_stated_norm_and_the_features_stay() -> None:
    """mean ‖h‖ = √H over the training samples; the AE's columns and F are unchanged; the SAE's metrics are those of the new h."""
    changed = dataclasses.replace(CHANGE["rescale"].of_protocol(BATCHED), sae_steps=200)
    history = training_history(pack_of(ONE, protocol=changed))
    own = history.autoencoders.W[..., -1]
    x = data.draw_features(5, np.array([1]), np.array([0.8]), changed)[0]
    assert np.linalg.norm(x @ history.W_read.T, axis=1).mean() == pytest.approx(np.sqrt(3))
    factor = np.sqrt(3) / np.linalg.norm(x @ own.T, axis=1).mean()
    np.testing.assert_allclose(history.W_read, factor * own)
    before, after = row_of(ONE, dataclasses.replace(BATCHED, sae_steps=200)), row_of(ONE, changed)
    ae = [name for name in before if name.startswith("ae_") or name in ("hidden_rms", "empirical_sparsity")]
    assert [before[name] for name in ae] == [after[name] for name in ae]
    assert history.saes is not None
    saes, h = history.saes, history.x @ history.W_read.T
    W_enc, b_enc, W_dec, b_dec = (
        part[..., -1] for part in (saes.parameters["W_enc"], saes.parameters["b_enc"], saes.W_dec, saes.b_dec)
    )
    recon = textbook.sae_code(W_enc, b_enc, b_dec, h, changed) @ W_dec + b_dec
    assert after["sae_mse"] == pytest.approx(np.mean((h - recon) ** 2), rel=1e-9)


def test_everything_is_trained_once() -> None:
    """A thousand other seeds of the cell, a hundred draws for each change that draws, one training for the others; all in packs."""
    work = causes.trainings(ONE, ONLINE)
    purposes = [purpose for training in work for purpose in training.purposes]
    assert {name: purposes.count(name) for name in set(purposes)} == {
        causes.BASE: 1000,
        **{name: 100 if change.draws else 1 for name, change in CHANGE.items()},
    }
    assert all(len(training.pack) == len(training.purposes) <= 64 for training in work)
    base = [r for t in work for purpose, r in zip(t.purposes, t.pack.replicates, strict=True) if purpose == causes.BASE]
    assert base == [Replicate(ONE.cell, seed) for seed in range(1001) if seed != ONE.seed]
    (first, *_) = (training.orders for training in work if training.purposes[0] == "data_order")
    assert first is not None
    np.testing.assert_array_equal(first[3], data.stream(3, 2).permutation(ONLINE.samples))


# When units died

VARIANTS: list[tuple[Protocol, dict[str, Any]]] = [
    (ONLINE, {"sae_epochs": 3, "ae_epochs": 2}),
    (ONLINE, {"sae_variant": "topk", "sae_k": 2}),
    (ONLINE, {"sae_variant": "jumprelu"}),
    (BATCHED, {}),
    (BATCHED, {"sae_variant": "topk", "sae_k": 1}),
]


def naive_death(alive: NDArray[np.bool_]) -> list[int | None]:
    """The index after the last True in each column of (T, units); None if that is the last row."""
    died: list[int | None] = []
    for column in alive.T:
        last = max((t for t, living in enumerate(column) if living), default=-1)
        died.append(None if last == len(column) - 1 else last + 1)
    return died


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("base", "changes"), VARIANTS, ids=["relu", "topk", "jumprelu", "sound", "sound topk"])
def test_deaths_are_those_of_a_look_at_every_state(base: Protocol, changes: dict[str, Any], dtype: str) -> None:
    """Every state of a short training equals the textbook's, for four replicates, with a strong and a weak penalty."""
    protocol = dataclasses.replace(base, **changes)
    died: list[int | None] = []
    for seed, sparsity, l1 in ((0, 0.95, 0.3), (1, 0.5, 0.0), (2, 0.9, 1.0), (3, 0.95, 0.01)):
        history = training_history(pack_of(Replicate(Cell(Architecture(5, 3), sparsity, l1), seed), protocol=protocol, dtype=dtype))
        ae, saes = history.autoencoders, history.saes
        assert saes is not None
        h = history.x @ history.W_read.T.astype(np.float64)
        states = range(ae.b.shape[1])
        outputs = [((history.x @ ae.W[..., t].T @ ae.W[..., t] + ae.b[:, t]) > 0).any(axis=0) for t in states]
        encoder = {name: part.astype(np.float64) for name, part in saes.parameters.items() if name != "W_dec"}
        of_states = ({name: part[..., t] for name, part in encoder.items()} for t in range(saes.W_dec.shape[2]))
        codes = (textbook.sae_code(h=h, protocol=protocol, **parts) for parts in of_states)
        latents = [(code > 0).any(axis=0) for code in codes]
        assert outputs_died_at(history, protocol) == naive_death(np.array(outputs))
        of_latents = latents_died_at(history, protocol)
        assert of_latents == naive_death(np.array(latents))
        died += of_latents
    assert len({at is None for at in died}) == 2 or base is BATCHED, died


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["dissertation", "sound"])
def test_watched_training_has_the_bits_of_its_row(protocol: Protocol, dtype: str) -> None:
    """The last state is what `run_pack` trains. There is one state more than there are steps; the first one is the start."""
    pack = pack_of(ONE, protocol=protocol, dtype=dtype)
    history, trained = training_history(pack), train_autoencoders(pack)
    np.testing.assert_array_equal(history.autoencoders.W[..., -1], trained.W[..., 0])
    np.testing.assert_array_equal(history.autoencoders.b[..., -1], trained.b[..., 0])
    start = data.ae_initial_weights(ONE.cell.architecture, 2, protocol).astype(dtype)
    np.testing.assert_array_equal(history.autoencoders.W[..., 0], start)
    assert history.autoencoders.b.shape[1] == protocol.ae_training_steps + 1
    assert history.saes is not None
    assert history.saes.parameters["b_enc"].shape[1] == protocol.sae_training_steps + 1
    (row,) = run_pack(pack).to_pylist()
    assert sum(at is not None for at in outputs_died_at(history, protocol)) == row["ae_dead_outputs"]


def test_a_diverged_training_has_no_deaths() -> None:
    """NaN does not count as 0."""
    pack = pack_of(Replicate(Cell(Architecture(5, 3), 0.5, 0.1), 1))
    pack.replicates.l1[:] = 1.7e308  # beyond what a cell may have
    history = training_history(pack)
    assert latents_died_at(history, ONLINE) == [None] * 5


def shortened(protocol: Protocol, ae_steps: int | None = None, sae_steps: int | None = None) -> Protocol:
    """The protocol stopped after so many steps; a latent counts as dead where it never fires."""
    changes: dict[str, Any] = {"dead_below": 1e-9}
    if ae_steps is not None:
        changes |= {"ae_epochs": None, "ae_steps": ae_steps}
    if sae_steps is not None:
        changes |= {"sae_epochs": None, "sae_steps": sae_steps}
    return dataclasses.replace(protocol, **changes)


def test_stopping_at_a_death_shows_it() -> None:
    """Trained again by the reference up to the last death, all dead units are dead; with one step fewer, the last one is alive."""
    dead = Replicate(Cell(Architecture(5, 3), 0.9, 0.01), 3)
    found = causes.trajectory_of(pack_of(dead, protocol=DISSERTATION))
    latents = [at for at in found.sae_latents_died_at if at is not None]
    assert (len(latents), found.sae_steps) == (5, 40_000)
    for at, alive in ((max(latents), 0), (max(latents) - 1, 1)):
        row = row_of(dead, shortened(DISSERTATION, sae_steps=at), "reference")
        assert row["n_latents"] - row["dead_latents"] == alive


# The rule


def outcomes(failures: int, trainings: int, failure: str = "sae_dead") -> list[str]:
    return [failure] * failures + ["none"] * (trainings - failures)


def test_a_rate_counts_the_same_failure_and_tells_the_others() -> None:
    """Jeffreys' interval is for the one kind; other kinds are reported by number; `any` counts all."""
    kinds = ["sae_dead"] * 3 + ["sae_dense"] * 5 + ["unfaithful"] + ["none"] * 11
    rate = Rate.of(kinds, "sae_dead")
    assert (rate.replicates, rate.failures, rate.rate, rate.other) == (20, 3, 0.15, {"sae_dense": 5, "unfaithful": 1})
    assert (rate.low, rate.high) == tuple(map(float, rate_interval(3, 20)))
    assert Rate.of(kinds, "any").failures == 9
    assert Rate.of(kinds, "diverged").rate == 0


@pytest.mark.parametrize(
    ("failures", "trainings", "draws", "cures"),
    [
        (0, 1, False, True),
        (1, 1, False, False),
        (0, 100, True, True),
        (39, 100, True, True),  # Jeffreys' upper end is 0.488
        (41, 100, True, False),  # 0.508
        (49, 100, True, False),
        (100, 100, True, False),
        (0, 1, True, False),  # where it draws one training is not enough: 0.85
    ],
)
def test_a_change_cures_below_a_half(failures: int, trainings: int, draws: bool, cures: bool) -> None:
    """The interval matters only if something was drawn."""
    rate = Rate.of(outcomes(failures, trainings), "sae_dead")
    assert Intervention("data_order", "", draws, rate).cures is cures


def test_nothing_is_cured_where_nothing_failed() -> None:
    """For a replicate that does not fail, every failure counts, and a low rate is no cure."""
    assert not Intervention("data_order", "", True, Rate.of(outcomes(0, 100), "any")).cures


AE, DEAD = FailureKind.AE_COLLAPSED, FailureKind.SAE_DEAD


@pytest.mark.parametrize(
    ("failure", "cures", "early_death", "cause"),
    [
        (AE, {"data_order"}, True, Cause.AE_EARLY_DEATH),
        (AE, {"ae_init*10", "ae_epochs*4", "data_seed"}, True, Cause.AE_EARLY_DEATH),
        (AE, {"ae_warmup"}, True, Cause.AE_EARLY_DEATH),
        (AE, {"data_order", "ae_epochs*4"}, False, Cause.AE_UNDERTRAINED),
        (AE, {"ae_epochs*4", "data_seed"}, True, Cause.AE_UNDERTRAINED),
        (AE, {"data_order", "data_seed"}, False, Cause.DATA),
        (AE, {"data_seed"}, True, Cause.DATA),
        (AE, {"data_order", "ae_init*10"}, False, Cause.UNEXPLAINED),
        (AE, {"ae_seed", "l1*0", "sae_seed", "rescale"}, True, Cause.UNEXPLAINED),
        (AE, set(), True, Cause.UNEXPLAINED),
        *((DEAD, {l1, start}, False, Cause.L1_AGAINST_INITIALISATION) for l1 in SMALLER_L1 for start in INITIALISATIONS),
        *((DEAD, {l1, "sae_epochs*4", "data_order"}, False, Cause.L1_ABOVE_DEATH_LINE) for l1 in SMALLER_L1),
        *((DEAD, {start, "sae_epochs*4", "ae_seed"}, True, Cause.SAE_INITIALISATION) for start in INITIALISATIONS),
        (DEAD, {"sae_epochs*4", "data_seed"}, False, Cause.SAE_TRAINING_LENGTH),
        *((DEAD, {change}, False, Cause.DATA) for change in ("data_order", "data_seed", "ae_seed")),
        (DEAD, {"ae_init*10", "ae_warmup", "ae_epochs*4", "rescale"}, False, Cause.UNEXPLAINED),
        (DEAD, set(), False, Cause.UNEXPLAINED),
        (FailureKind.DIVERGED, set(CHANGE), False, Cause.UNEXPLAINED),
        (FailureKind.NONE, set(CHANGE), True, Cause.NONE),
    ],
)  # fmt: skip
def test_the_cause_is_the_first_that_applies(failure: FailureKind, cures: set[str], early_death: bool, cause: Cause) -> None:
    """Causes follow the table in the definitions, from left to right."""
    assert cause_of(failure, cures, early_death) is cause


@pytest.mark.parametrize("failure", ["sae_dead", "sae_starved", "sae_dense", "unfaithful", "unrecovered"])
def test_every_failure_of_the_sae_has_the_same_causes(failure: str) -> None:
    """A registered SAE verdict follows the rules of any SAE failure."""
    assert cause_of(FailureKind(failure), {"l1*0", "sae_seed"}, False) is Cause.L1_AGAINST_INITIALISATION


def test_early_is_within_a_twentieth_of_the_steps() -> None:
    """Every output must die, and none of them later."""

    def early(*died_at: int | None) -> bool:
        return causes.Trajectory(1000, 0, died_at, ()).early_death

    assert early(0, 50)
    assert not early(0, 51)
    assert not early(0, None)


def test_every_cause_has_a_sentence() -> None:
    """Every cause has a sentence, and its value is that of the definitions."""
    assert all(cause.sentence for cause in Cause)
    assert {cause.value for cause in Cause} == {
        "ae_early_death", "ae_undertrained", "data", "l1_against_initialisation", "sae_initialisation", "l1_above_death_line",
        "sae_training_length", "unexplained", "none", "unknown",
    }  # fmt: skip


# Diagnoses


@pytest.fixture(scope="module")
def collapse() -> causes.Diagnosis:
    """The published failure, diagnosed in full."""
    return diagnose("10-5-10", 0.9, 0.01, 123, "dissertation")


@pytest.mark.slow
def test_the_published_collapse_is_an_early_death(collapse: causes.Diagnosis) -> None:
    """Another order, other data or a larger start cure it; no change to the SAE does; it is rare in its cell."""
    assert (collapse.failure, collapse.cause) == (FailureKind.AE_COLLAPSED, Cause.AE_EARLY_DEATH)
    rates = {one.change: one for one in collapse.interventions}
    cures = {name for name, one in rates.items() if one.cures}
    assert {"data_order", "data_seed", "ae_init*10", "ae_warmup"} <= cures
    assert not cures & {*SMALLER_L1, *INITIALISATIONS, "sae_epochs*4", "rescale", "ae_epochs*4"}
    assert rates["data_order"].rate.failures <= 2
    assert rates["data_seed"].rate.failures < rates["ae_seed"].rate.failures  # the data are kept, the weights drawn
    assert rates["sae_seed"].rate.failures == 100
    assert collapse.base_rate.replicates == 1000
    assert 0.002 < collapse.base_rate.low < collapse.base_rate.rate < collapse.base_rate.high < 0.03
    assert collapse.row["ae_loss"] == pytest.approx(0.1041, abs=5e-5)


@pytest.mark.slow
def test_the_published_collapse_came_within_twenty_updates(collapse: causes.Diagnosis) -> None:
    """Six of ten outputs are dead after the first update; stopped there, the reference's training shows the same number dead."""
    died_at = [at for at in collapse.trajectory.ae_outputs_died_at if at is not None]
    assert len(died_at) == 10
    assert max(died_at) <= 20
    assert sum(at <= 1 for at in died_at) == 6
    for at in sorted({*died_at, max(died_at) - 1}):
        row = row_of(COLLAPSE, dataclasses.replace(shortened(DISSERTATION, ae_steps=at), sae_epochs=0), "reference")
        alive = sum(after > at for after in died_at)
        assert 10 - row["ae_dead_outputs"] == alive, at


@pytest.mark.slow
def test_the_verdict_is_written_from_the_figures(collapse: causes.Diagnosis) -> None:
    """With other figures it reads differently: no figure of the paragraph is fixed."""
    rates = {one.change: one.rate for one in collapse.interventions}
    for told in (
        f"{rates['data_order'].failures} of 100",
        f"of {collapse.trajectory.ae_steps:,}",
        f"{collapse.base_rate.rate:.1%}",
    ):
        assert told in collapse.verdict
    other = dataclasses.replace(collapse, base_rate=Rate.of(outcomes(7, 50, "ae_collapsed"), "ae_collapsed"))
    assert "7 of 50" in other.verdict
    uncured = [dataclasses.replace(one, rate=Rate.of(["ae_collapsed"], "ae_collapsed")) for one in collapse.interventions]
    hopeless = dataclasses.replace(collapse, interventions=tuple(uncured), cause=Cause.UNEXPLAINED)
    assert "None of 14 single changes cures it" in hopeless.verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "sparsity", "cause"),
    [(6, 0.85, Cause.L1_AGAINST_INITIALISATION), (290, 0.85, Cause.SAE_INITIALISATION)],
)
def test_dead_saes_are_told_apart(seed: int, sparsity: float, cause: Cause) -> None:
    """With a healthy AE all latents die; some SAEs are cured by a smaller l1, others only by another start."""
    found = diagnose("5-3-5", sparsity, 0.01, seed)
    assert (found.failure, found.cause) == (DEAD, cause)
    assert all(at is not None for at in found.trajectory.sae_latents_died_at)
    cured_by_l1 = {one.change for one in found.interventions if one.cures} & set(SMALLER_L1)
    assert bool(cured_by_l1) == (cause is Cause.L1_AGAINST_INITIALISATION)


def first_without_failure(protocol: Protocol) -> int:
    (replicates,) = grid(["3-2-3"], [0.8], [0.01], range(200))
    kinds = run_pack(Pack(replicates, protocol, "float64", "compiled"))["failure"].to_pylist()
    return kinds.index("none")


QUICK = dataclasses.replace(DISSERTATION, samples=400, ae_epochs=5, sae_epochs=20)


def test_a_healthy_replicate_has_no_cause() -> None:
    """The diagnosis says so; every failure is counted, and nothing is called a cure."""
    found = diagnose("3-2-3", 0.8, 0.01, first_without_failure(QUICK), QUICK)
    assert (found.failure, found.cause) == (FailureKind.NONE, Cause.NONE)
    assert "does not fail" in found.verdict
    assert {one.rate.failure for one in found.interventions} == {found.base_rate.failure} == {"any"}
    assert not any(one.cures for one in found.interventions)


def test_base_rate_is_that_of_the_cell() -> None:
    """The base rate counts the same failures as a grid of the same seeds."""
    found = diagnose("3-2-3", 0.8, 0.01, first_without_failure(QUICK), QUICK)
    (replicates,) = grid(["3-2-3"], [0.8], [0.01], range(1001))
    kinds = run_pack(Pack(replicates, QUICK, "float64", "compiled"))["failure"].to_pylist()
    assert found.base_rate.failures == sum(kind != "none" for kind in kinds)
    (order,) = (one for one in found.interventions if one.change == "data_order")
    assert order.rate.replicates == 100


def test_the_figures_numbers_are_the_diagnosis() -> None:
    """Base rate first; one step of the curve per death; drawn without a warning as PNG and SVG."""
    trajectory = causes.Trajectory(100, 1000, (4, None, 1, 1), (0, 7))
    rate = Rate.of(outcomes(2, 10), "sae_dead")
    done = Intervention("l1*0", "no L1 penalty", False, Rate.of(["none"], "sae_dead"))
    found = causes.Diagnosis(ONE, ONLINE, {}, DEAD, Cause.L1_ABOVE_DEATH_LINE, rate, (done,), trajectory)
    rates = cause_plots.intervention_rates(found)
    assert rates.labels == (causes.BASE, "l1*0")
    assert rates.rate.tolist() == [0.2, 0]
    assert rates.trainings.tolist() == [10, 1]
    assert rates.cures.tolist() == [False, True]
    outputs, latents = cause_plots.alive_curves(found)
    assert (outputs.updates.tolist(), outputs.alive.tolist()) == ([0, 1, 4, 100], [4, 2, 1, 1])
    assert (latents.updates.tolist(), latents.alive.tolist()) == ([0, 7, 1000], [1, 0, 0])
    figure = cause_plots.diagnosis_figure(found)
    assert [len(ax.get_lines()) > 0 for ax in figure.axes] == [True, True]


def test_a_diagnosis_needs_no_ray() -> None:
    """A diagnosis trains in its own process and imports neither Ray nor PyTorch."""
    code = (
        "import sys, analysis.diagnosis.diagnose, analysis.figures.diagnosis; "
        "sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
