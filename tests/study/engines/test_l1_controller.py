"""l1 steered to a target L0: the law of one step, where whole trainings end, which outcome they get, and that bits are equal."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import PROTOCOLS, MisuseError, Protocol, grid, protocol_from
from study.engines.l1_controller import CURRENT, L0, LINE, SETTLED, L1Controller, starting_l1, steer
from study.engines.schedules import sae_learning_rates
from study.history.history import training_history
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import added, row_schema
from study.storage.study_folder import Storage
from study.theory import expected_l0
from tests.study.test_run_pack import science

DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
STEERED = dataclasses.replace(
    PROTOCOLS["sound"],
    samples=4096,
    eval_samples=None,  # what is steered is the L0 of the training samples
    ae_steps=1500,
    sae_steps=2000,
    sae_batch_size=64,
    sae_schedule="constant",
    sae_target_l0=0.5,
)
SMALL_START: dict[str, Any] = {
    "sae_init_std": 0.01,
    "sae_decoder_init": "normal",
    "sae_encoder_init": "normal",
    "sae_decoder_norm": "free",
}
BRIEF: dict[str, Any] = {"samples": 128, "ae_steps": 60, "sae_steps": 400, "sae_learning_rate": 0.02}


def frame(protocol: Protocol, l1s: list[float], seeds: int = 8, dtype: str = "float32") -> Any:
    """Rows of 5-3-5 at S = 0.8."""
    (replicates,) = grid(["5-3-5"], [0.8], l1s, range(seeds))
    return run_pack(Pack(replicates, protocol, dtype, "compiled")).to_pandas()


def controller(l1: list[float], line: float = 2.0, protocol: Protocol = STEERED) -> L1Controller:
    lines = np.full(len(l1), line)
    return L1Controller.of(np.array(l1), lines, sae_learning_rates(protocol), protocol, "float64")


def told(made: L1Controller, active: list[float], t: int) -> np.ndarray:
    """One step of the controllers of SAEs with a single parameter, 7, which was 3 at the start; returns it."""
    parameters, initial = np.full((1, len(active)), 7.0), np.full((1, len(active)), 3.0)
    steer(made.state, np.array(active), made.steps[t], made.settings, parameters, initial)
    return parameters[0]


# One step


@pytest.mark.parametrize("active", [0.1, 0.45, 0.5, 0.52, 4.0])
def test_a_step_is_proportional_integral_control_of_log_l1(active: float) -> None:
    """log l1_settled moves by 2 artanh(g e); log l1 differs from it by 2 artanh(4 (1 − u)² e), e clipped at a ratio of 1.25."""
    made = controller([0.3])
    made.state[L0] = 0.5
    weight, rise, fall = made.steps[1500]
    told(made, [active], 1500)
    l0 = 0.5 + weight * (active - 0.5)
    error = math.tanh(math.log(l0 / 0.5) / 2)
    settled = 0.3 * math.exp(2 * math.atanh((rise if error > 0 else fall) * error))
    clipped = math.tanh(math.log(min(max(l0 / 0.5, 0.8), 1.25)) / 2)
    l1 = settled * math.exp(2 * math.atanh(4 * (1 - settled / 2) ** 2 * clipped))
    np.testing.assert_allclose(made.state[[CURRENT, SETTLED, L0, LINE], 0], [l1, settled, l0, 2.0], rtol=1e-12)


def test_the_integral_does_not_wind_up() -> None:
    """At either end of the range it is frozen until the error changes sign. At first it may fall but not rise."""
    made = controller([1e9, 1e-9])
    assert made.state[SETTLED].tolist() == [3.0, 2e-4]
    for t in range(1000, 1400):
        told(made, [5.0, 0.1], t)
    assert made.state[SETTLED].tolist() == [3.0, 2e-4]
    for t in range(1400, 1500):
        told(made, [0.1, 5.0], t)
    assert made.state[SETTLED, 0] < 2.9
    assert made.state[SETTLED, 1] > 2.1e-4

    early = controller([0.3, 0.3])
    early.state[L0] = 0.5
    told(early, [5.0, 0.1], 150)
    assert early.state[SETTLED, 0] == 0.3 > early.state[SETTLED, 1]


def test_a_dead_sae_starts_again_with_a_tenth_of_the_l1() -> None:
    """If the running L0 is below 1 % of the target, the initial weights are restored; a neighbour keeps its own weights."""
    made = controller([1.0, 1.0])
    made.state[L0] = [0.0, 0.5]
    assert told(made, [0.0, 0.5], 1500).tolist() == [3.0, 7.0]
    assert made.state[SETTLED, 0] == pytest.approx(0.1 * made.state[SETTLED, 1], rel=0.1)
    assert made.state[L0, 0] == 0.5  # and is given time


def test_outcomes_say_what_became_of_the_target() -> None:
    """Within 5 %; at an end of the range, beyond which l1 would have to go; otherwise; dead; none if L0 is not finite."""
    made = controller([0.3, 0.3, 9.0, 9.0, 0.0, 0.0, 0.3, 0.3])
    alive = np.array([5, 5, 5, 5, 5, 5, 0, np.nan])
    found = made.outcomes(np.array([0.52, 0.53, 0.6, 0.4, 0.4, 0.6, 0.001, np.nan]), alive, STEERED)
    expected = ["reached", "not_reached", "unreachable", "not_reached", "unreachable", "not_reached", "all_dead", None]
    assert found.tolist() == expected


def test_an_l1_of_0_starts_at_the_closed_form() -> None:
    """There the expected L0 is the target; 1 % of the death line if no l1 gives the target; an l1 above 0 is used as given."""
    norms = np.array([[1.0, 0.9, 0.8], [1.0, 0.9, 0.8], [0.5, 0.2, 0.1]])
    start = starting_l1(np.array([0.0, 0.7, 0.0]), norms, np.array([0.8, 0.8, 0.9]), 0.5)
    assert expected_l0(start[0], norms[0], 0.8) == pytest.approx(0.5)
    assert start[1:].tolist() == [0.7, 0.01]


# Whole trainings


@pytest.mark.parametrize("l1", [0.0, 0.01, 8.0])
def test_the_target_is_reached_from_any_start(l1: float) -> None:
    """From the closed form, from far below and from far above the right l1; all end close to each other."""
    rows = frame(STEERED, [l1])
    off = np.abs(rows["l0"] / 0.5 - 1)
    assert off.median() < 0.05
    assert off.max() < 0.15
    assert ((rows["l0_outcome"] == "reached") == (off <= 0.05)).all()
    assert 0.3 < rows["l1_final"].median() < 1.5


def test_a_target_that_no_l1_has_is_said_to_be_out_of_reach() -> None:
    """Nearly all latents active on every sample; or few in an SAE whose free decoder escapes the penalty by growing."""
    many = frame(dataclasses.replace(STEERED, sae_target_l0=4.9), [0.1])
    few = frame(dataclasses.replace(STEERED, sae_target_l0=0.1, **SMALL_START), [0.1])
    for rows in (many, few):
        assert (rows["l0_outcome"] == "unreachable").mean() > 0.7
    assert (many["l0"] < 4.7).all()
    assert (many["l1_final"] < 0.01).all()
    assert (few["l0"] > 0.105).all()
    assert (few["l1_final"] > 2).all()


def test_saes_that_an_l1_kills_are_revived() -> None:
    """Held constant, l1 = 1 kills SAEs with small initial weights for good; steered from there, none is dead at the end."""
    protocol = dataclasses.replace(STEERED, **SMALL_START)
    held, steered = frame(dataclasses.replace(protocol, sae_target_l0=None), [1.0]), frame(protocol, [1.0])
    assert (held["l0"] == 0).all()
    assert held["l0_outcome"].isna().all()
    assert held["l1_final"].isna().all()
    assert (steered["l0"] > 0.2).all()


def test_the_loss_has_the_l1_that_was_settled_on() -> None:
    """sae_loss = mean ‖h − ĥ‖² + l1_final · mean Σ f, from the last of all states, which remain observable with a controller."""
    (replicates,) = grid(["5-3-5"], [0.8], [0.1], [3])
    pack = Pack(replicates, dataclasses.replace(STEERED, **BRIEF), "float64", "compiled")
    (row,) = run_pack(pack).to_pylist()
    history = training_history(pack)
    assert history.saes is not None
    W_enc, b_enc, W_dec, b_dec = (history.saes.parameters[name][..., -1] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    h = history.x @ history.W_read.T
    f = np.maximum((h - b_dec) @ W_enc.T + b_enc, 0)
    loss = np.mean(np.sum((f @ W_dec + b_dec - h) ** 2, axis=1) + row["l1_final"] * f.sum(axis=1))
    assert row["sae_loss"] == pytest.approx(loss)
    assert row["l1"] == 0.1 != row["l1_final"]


# The same bits


@DTYPES
@pytest.mark.parametrize("changes", [{}, SMALL_START, {"sae_batch_size": 7}], ids=["sound", "small", "odd batch"])
def test_a_mixed_pack_gives_the_references_rows(changes: dict[str, Any], dtype: str) -> None:
    """Lanes of different sparsity, l1 and seeds, restarted or not, no whole group: the same bits, also for a lane alone."""
    protocol = dataclasses.replace(STEERED, **BRIEF | changes)
    (everything,) = grid(["5-3-5"], [0.5, 0.9], [0.0, 0.01, 1.0, 1e6], range(3))
    everything.l1[everything.l1 == 1e6] = 1.7e308  # beyond what a cell may have
    mixed = everything.take(np.random.default_rng(3).permutation(len(everything))[:19])
    ours, definition = (run_pack(Pack(mixed, protocol, dtype, name)) for name in ("compiled", "reference"))
    assert science(ours) == science(definition)
    assert set(ours["l0_outcome"].to_pylist()) > {"not_reached"}
    alone = science(run_pack(Pack(mixed.take(np.array([7])), protocol, dtype, "compiled")))
    assert alone.items() <= science(ours).items()


def test_online_training_is_steered_to_the_references_bits() -> None:
    """Batch size 1 in stored order, as in `dissertation`."""
    protocol = dataclasses.replace(PROTOCOLS["dissertation"], samples=200, ae_epochs=1, sae_epochs=5, sae_target_l0=1.0)
    (replicates,) = grid(["5-3-5"], [0.8], [0.0, 0.1], range(3))
    ours, definition = (science(run_pack(Pack(replicates, protocol, "float32", name))) for name in ("compiled", "reference"))
    assert ours == definition


# What is asked, and what is stored


@pytest.mark.parametrize("changes", [{"sae_variant": "topk", "sae_k": 2}, {"sae_variant": "jumprelu"}, {"sae_steps": 0}], ids=str)
def test_only_the_l1_of_a_trained_relu_sae_can_be_steered(changes: dict[str, Any]) -> None:
    """`topk` has no l1, `jumprelu` penalises L0 itself, and without an SAE there is nothing to steer."""
    with pytest.raises(MisuseError, match="sae_target_l0"):
        protocol_from({"base": "sound", "sae_target_l0": 0.8, **changes})


def test_the_torch_engine_is_refused_before_anything_starts() -> None:
    """The error says what to do."""
    (replicates,) = grid(["5-3-5"], [0.8], [0.1], [0])
    with pytest.raises(MisuseError, match="engine: auto"):
        Pack(replicates, STEERED, "float32", "torch")


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf])
def test_a_target_is_a_positive_number(target: float) -> None:
    """Like everything in a protocol, it is checked before anything starts."""
    with pytest.raises(MisuseError, match="sae_target_l0"):
        protocol_from({"base": "sound", "sae_target_l0": target})


def test_protocols_of_the_past_keep_their_ids() -> None:
    """The new fields do not enter the id at their defaults; a target does."""
    ids = {name: protocol.protocol_id for name, protocol in PROTOCOLS.items()}
    assert ids == {"dissertation": "44136fa355b3", "dissertation-diagnosis": "78b11c5400be", "sound": "4328fb7312a1"}
    assert protocol_from({"base": "sound", "sae_target_l0": 0.8}).protocol_id not in ids.values()


def test_shards_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Columns that were added later read as missing, and everything else as written. All other columns must be present."""
    (replicates,) = grid(["5-3-5"], [0.8], [0.1], range(3))
    rows = run_pack(Pack(replicates, dataclasses.replace(STEERED, **BRIEF), "float64", "compiled"))
    folder = Storage.at(tmp_path).study("old")
    new = [column.name for column in added()]
    folder.write_shard("old", rows.drop_columns(new))
    folder.write_shard("older", rows.drop_columns(["l0"]))
    found = folder.read_shards()
    assert found.unreadable == ("older",)
    assert found.rows.schema == row_schema()
    assert found.rows.drop_columns(new).equals(rows.drop_columns(new))
    assert all(found.rows[name].null_count == 3 for name in new)
    some = folder.read_shards(["replicate_id", "l0_outcome"]).rows
    assert some["l0_outcome"].to_pylist() == [None] * 3
