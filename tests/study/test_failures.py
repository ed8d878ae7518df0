"""The verdict: the condition of each failure, their precedence, and judging again."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from search_spaces import PROTOCOLS, Protocol
from search_spaces import failures as spaces_failures
from search_spaces.failures import FailureKind, Verdict, before_sae, failed, failing_verdicts, verdict_named, verdicts
from study import failures
from study.failures import judge, register_verdict

LEGACY, SOUND, DIAGNOSIS = (PROTOCOLS[name] for name in ("dissertation", "sound", "dissertation-diagnosis"))

HEALTHY: dict[str, float] = {
    "sparsity": 0.9,
    "n_features": 10,
    "n_latents": 10,
    "empirical_sparsity": 0.9046,
    "ae_loss": 0.005,
    "ae_loss_bias_only": 0.1,
    "ae_dead_outputs": 0,
    "ae_features_represented": 8,
    "sae_loss": 0.02,
    "dead_latents": 2,
    "l0": 1.0,
    "explained_variance": 0.99,
    "mcc_decoder_features": 0.9,
    "mcc_chance": 0.5,
}
"""A row without failure: 8 of 10 latents alive for 8 represented features, one of them active a sample."""

FAILURES: dict[str, dict[str, float]] = {
    "crashed": {"empirical_sparsity": np.nan},
    "diverged": {"sae_loss": np.nan},
    "ae_collapsed": {"ae_loss": 0.0999},
    "sae_dead": {"dead_latents": 10},
    "sae_starved": {"dead_latents": 7},
    "sae_dense": {"l0": 2.5},
    "unfaithful": {"explained_variance": 0.89},
    "unrecovered": {"mcc_decoder_features": 0.74},
}
"""Each kind, in order of precedence, with what brings it about in a healthy row."""


def verdict(protocol: Protocol = LEGACY, **changes: float) -> str:
    """The verdict on a healthy row with changes."""
    (kind,) = judge({name: [value] for name, value in (HEALTHY | changes).items()}, protocol)
    return str(kind)


def test_a_healthy_row_is_no_failure() -> None:
    """Nothing applies: `none`, under every protocol."""
    assert [verdict(protocol) for protocol in (LEGACY, SOUND, DIAGNOSIS)] == ["none"] * 3
    assert {name for kind in verdicts() for name in kind.columns} == set(HEALTHY)


def test_kinds_stand_in_the_order_of_their_precedence() -> None:
    """Each has a sentence for readers, a condition, and a threshold from the protocol."""
    assert [kind.name for kind in verdicts()] == [*FAILURES, "none"] == [kind.value for kind in FailureKind]
    assert set(failures.CONDITIONS) == set(FAILURES)
    assert all(kind.meaning and kind.condition for kind in verdicts())
    for kind in verdicts():
        assert kind.threshold is None or (hasattr(LEGACY, kind.threshold) and f"`{kind.threshold}`" in kind.condition)


def test_failures_of_the_sae_come_after_those_that_it_cannot_help() -> None:
    """Crashes, divergence and a collapsed autoencoder are not its own."""
    assert [kind.of_sae for kind in failing_verdicts()] == [False] * 3 + [True] * 5
    assert not verdict_named("none").of_sae
    assert before_sae() == ("crashed", "diverged", "ae_collapsed")


@pytest.mark.parametrize("kind", FAILURES)
def test_each_condition_brings_its_failure(kind: str) -> None:
    """One change of a healthy row is enough."""
    assert verdict(**FAILURES[kind]) == kind


@pytest.mark.parametrize("first", range(len(FAILURES)))
def test_the_first_that_applies_is_the_verdict(first: int) -> None:
    """If all conditions from one kind on are met, that kind is the verdict."""
    kinds = list(FAILURES)
    changes: dict[str, float] = {}
    for kind in reversed(kinds[first:]):
        changes |= FAILURES[kind]
    assert verdict(**changes) == kinds[first]


@pytest.mark.parametrize(
    ("kind", "column", "just", "not_yet"),
    [
        ("ae_collapsed", "ae_loss", 0.095, 0.0949999),  # >= 0.95 of 0.1
        ("ae_collapsed", "ae_dead_outputs", 10, 9),
        ("sae_dead", "dead_latents", 10, 6),
        ("sae_starved", "dead_latents", 7, 6),  # 3 alive < 4 = half of 8
        ("sae_dense", "l0", 2.4000001, 2.3999999),  # > 3 · 0.1 · 8
        ("unfaithful", "explained_variance", 0.8999999, 0.9),
        ("unrecovered", "mcc_decoder_features", 0.7499999, 0.75),  # corrected ½ is 0.75 at chance ½
    ],
)
def test_conditions_turn_at_their_thresholds(kind: str, column: str, just: float, not_yet: float) -> None:
    """On one side of the default the verdict is the failure, on the other it is `none`."""
    assert verdict(**{column: just}) == kind
    assert verdict(**{column: not_yet}) == "none"


@pytest.mark.parametrize("column", ["ae_loss", "sae_loss"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_has_diverged(column: str, value: float) -> None:
    """Of the AE or of the SAE, and whatever the other columns say; a diverged SAE has NaN in all of its columns."""
    assert verdict(**{column: value}) == "diverged"
    assert verdict(**{column: value, "ae_loss_bias_only": 0.0, "dead_latents": np.nan, "l0": np.nan}) == "diverged"


@pytest.mark.parametrize(
    ("threshold", "value", "row", "kind"),
    [
        ("collapsed_from", 0.04, {}, "ae_collapsed"),
        ("starved_below", 1.0, {"dead_latents": 3}, "sae_starved"),
        ("dense_above", 1.0, {}, "sae_dense"),
        ("unfaithful_below", 0.995, {}, "unfaithful"),
        ("unrecovered_below", 0.9, {}, "unrecovered"),
    ],
)
def test_judging_again_with_another_threshold_changes_the_verdict(
    threshold: str, value: float, row: dict[str, float], kind: str
) -> None:
    """The thresholds are the protocol's: a stored row that passed fails under a stricter one, without training."""
    stricter = dataclasses.replace(LEGACY, **{threshold: value})
    assert verdict(**row) == "none"
    assert verdict(stricter, **row) == kind


@pytest.mark.parametrize("kind", ["ae_collapsed", "sae_starved", "sae_dense", "unfaithful", "unrecovered"])
def test_judging_again_with_a_laxer_threshold_lets_a_failure_pass(kind: str) -> None:
    """What failed by a threshold passes where it is moved to the end of its range."""
    laxer: dict[str, Any] = {
        "ae_collapsed": {"collapsed_from": 2.0},
        "sae_starved": {"starved_below": 0.0},
        "sae_dense": {"dense_above": 1e9},
        "unfaithful": {"unfaithful_below": -1e9},
        "unrecovered": {"unrecovered_below": -1e9},
    }[kind]
    assert verdict(dataclasses.replace(LEGACY, **laxer), **FAILURES[kind]) == "none"


NO_SAE = dict.fromkeys(("sae_loss", "dead_latents", "l0", "explained_variance", "mcc_decoder_features", "mcc_chance"), np.nan)


def test_without_an_sae_the_autoencoder_alone_is_judged() -> None:
    """NaN in the SAE's columns is no divergence where the protocol trains none; where it trains one, it is."""
    assert verdict(DIAGNOSIS, **NO_SAE) == "none"
    assert verdict(LEGACY, **NO_SAE) == "diverged"
    for kind in ("crashed", "ae_collapsed"):
        assert verdict(DIAGNOSIS, **NO_SAE | FAILURES[kind]) == kind
    assert verdict(DIAGNOSIS, **NO_SAE | {"ae_loss": np.inf}) == "diverged"
    assert verdict(DIAGNOSIS, **NO_SAE | {"ae_dead_outputs": 10}) == "ae_collapsed"


def test_conditions_that_need_features_are_skipped_where_none_is_represented() -> None:
    """With F empty a replicate is not starved, dense or unrecovered, but may be collapsed, dead or unfaithful."""
    empty = {"ae_features_represented": 0, "mcc_decoder_features": np.nan, "mcc_chance": np.nan}
    for change, kind in (
        ({}, "none"),
        ({"dead_latents": 9}, "none"),
        ({"l0": 10.0}, "none"),
        ({"dead_latents": 10}, "sae_dead"),
        ({"explained_variance": 0.1}, "unfaithful"),
        ({"ae_loss": 0.2}, "ae_collapsed"),
    ):
        assert verdict(**empty | change) == kind, change


def test_perfect_recovery_needs_no_room_above_chance() -> None:
    """Where chance and MCC are both 1 the corrected MCC is undefined, and that is no failure of recovery."""
    assert verdict(mcc_decoder_features=1.0, mcc_chance=1.0) == "none"


def test_rows_are_judged_one_by_one() -> None:
    """A verdict does not depend on the rows beside it or on their order."""
    rows = [HEALTHY, *(HEALTHY | change for change in FAILURES.values())]
    expected = ["none", *FAILURES]
    order = np.random.default_rng(0).permutation(len(rows))
    columns = {name: [rows[i][name] for i in order] for name in HEALTHY}
    assert judge(columns, LEGACY).tolist() == [expected[i] for i in order]


def test_columns_that_the_verdict_does_not_need_are_not_looked_at() -> None:
    """Additional columns, also of text, change nothing: whole stored rows can be passed."""
    columns: dict[str, Any] = {name: [value] for name, value in HEALTHY.items()}
    assert judge(columns | {"failure": ["crashed"], "architecture": ["10-5-10"]}, LEGACY).tolist() == ["none"]


LOPSIDED = Verdict(
    "lopsided",
    "one latent does all the work",
    "`max_firing_rate` > 0.5",
    ("max_firing_rate",),
    colour="#123456",
    pattern="oo",
    marker="h",
)


@pytest.fixture
def lopsided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict from a file of its own, between `sae_dense` and `unfaithful`."""
    monkeypatch.setattr(spaces_failures, "VERDICTS", [*spaces_failures.VERDICTS])
    monkeypatch.setattr(failures, "CONDITIONS", {**failures.CONDITIONS})
    register_verdict(LOPSIDED, lambda row, protocol: row["max_firing_rate"] > 0.5, before="unfaithful")


@pytest.mark.usefixtures("lopsided")
def test_a_registered_verdict_is_judged_at_its_place() -> None:
    """It comes after what precedes it and before what it precedes; it can be selected by its name."""
    often = {"max_firing_rate": 0.6}
    assert verdict(max_firing_rate=0.4) == "none"
    assert verdict(**often) == verdict(**often | FAILURES["unfaithful"]) == "lopsided"
    assert verdict(**often | FAILURES["sae_dense"]) == "sae_dense"
    assert [kind.name for kind in verdicts()].index("lopsided") == 6
    assert failed({"failure": np.array(["lopsided", "none"])}, "lopsided").tolist() == [True, False]


@pytest.mark.usefixtures("lopsided")
def test_a_verdict_that_cannot_be_registered_is_refused() -> None:
    """Because its name is taken, what it should precede is unknown, or rows lack its column."""
    for change, before, message in (
        ({}, "none", "'lopsided' is taken"),
        ({"name": "any"}, "none", "'any' is taken"),
        ({"name": "new"}, "unfaithfull", "Did you mean 'unfaithful'"),
        ({"name": "new", "columns": ("weight",)}, "none", "columns that rows lack: weight"),
    ):
        with pytest.raises(ValueError, match=message):
            register_verdict(dataclasses.replace(LOPSIDED, **change), lambda row, protocol: row["l0"] > 1, before)  # type: ignore[arg-type]
