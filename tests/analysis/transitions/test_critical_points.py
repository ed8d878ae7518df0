"""Critical points of simulated studies whose truth is known, and of unusual frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from analysis.transitions.critical_points import (
    Prediction,
    ae_order_parameters,
    critical_points,
    critical_table,
    importances_of,
    order_transitions,
    represented_norm,
)
from analysis.transitions.crossings import Answer, branches, crossings, weighted_quantiles
from search_spaces import PROTOCOLS
from search_spaces.coordinates import L1, SPARSITY
from study import theory

Array = NDArray[Any]
LEVELS = np.linspace(0.3, 0.98, 12)


def outcomes(random: np.random.Generator, centre: float, width: float, seeds: int, shared: bool) -> tuple[Array, Array, Array]:
    """(x, failed, seed) of a logistic curve, with new seeds at each level, or with one threshold per seed (at the same rate)."""
    x, seed = np.meshgrid(LEVELS, np.arange(seeds), indexing="ij")
    threshold = centre + width * random.logistic(size=seeds if shared else x.shape)
    failed = x > threshold
    return x.ravel(), failed.ravel(), (seed if shared else np.arange(x.size)).ravel()


def counts(rates: list[float], seeds: int = 20) -> tuple[Array, Array, Array]:
    """(x, failed, seed) with exactly these rates on levels 0, 1, 2 …; no seed at two levels."""
    failed = np.concatenate([np.arange(seeds) < round(rate * seeds) for rate in rates])
    return np.repeat(np.arange(len(rates)), seeds), failed, np.arange(len(failed))


@pytest.mark.parametrize("shared", [False, True], ids=["seeds of their own", "shared seeds"])
def test_interval_holds_the_true_crossing(shared: bool) -> None:
    """Over 200 studies the 90 % interval covers at least 88 %, also if each seed is used at every level; the median is close."""
    random = np.random.default_rng(7)
    covered, errors = 0, []
    for _ in range(200):
        truth, width = random.uniform(0.5, 0.8), 10 ** random.uniform(-2.2, -1)
        (found,) = crossings(*outcomes(random, truth, width, 20, shared))
        assert found.answer is Answer.CROSSED
        covered += found.low <= truth <= found.high
        errors.append(abs(found.estimate - truth) / (found.high - found.low))
    assert covered >= 0.88 * 200
    assert np.median(errors) < 0.3


def test_shared_seeds_widen_the_interval() -> None:
    """Twenty thresholds carry less information than 240 independent outcomes at the same rates."""
    widths = {
        shared: np.mean([found.high - found.low for found in (crossings(*made)[0] for made in studies)])
        for shared in (False, True)
        for studies in [[outcomes(np.random.default_rng(s), 0.65, 0.08, 20, shared) for s in range(20)]]
    }
    assert widths[True] > 1.5 * widths[False]


def test_other_levels_are_found_below_a_floor_and_a_ceiling() -> None:
    """On exact rates L + (1 − L − H) σ((x − 5)/1), 1,000 seeds: the crossing of 0.3 is the inverse of the formula."""
    floor, gap, x = 0.07, 0.2, np.arange(12)
    rates = floor + (1 - floor - gap) * expit(x - 5.0)
    share = (0.3 - floor) / (1 - floor - gap)
    truth = 5 + np.log(share / (1 - share))
    (found,) = crossings(*counts(rates.tolist(), 1000), level=0.3)
    assert found.low <= truth <= found.high
    assert found.estimate == pytest.approx(truth, abs=0.15)


def test_a_fall_mirrors_a_rise() -> None:
    """Negating x mirrors the crossing and its interval."""
    x, failed, seed = outcomes(np.random.default_rng(3), 0.6, 0.05, 15, True)
    (rise,), (fall,) = crossings(x, failed, seed), crossings(-x, failed, seed)
    assert (rise.direction, fall.direction) == ("rising", "falling")
    np.testing.assert_allclose([fall.estimate, fall.low, fall.high], [-rise.estimate, -rise.high, -rise.low], atol=1e-9)


@pytest.mark.parametrize(("rate", "side"), [(0.0, "below"), (0.1, "below"), (0.9, "above"), (1.0, "above")])
def test_a_rate_that_does_not_cross_says_so(rate: float, side: str) -> None:
    """Without a crossing, estimate and interval are NaN, and the result says on which side the rate stays."""
    (found,) = crossings(*counts([rate] * 10))
    assert (found.answer, found.direction) == (Answer.NOT_CROSSED, side)
    assert np.isnan([found.estimate, found.low, found.high]).all()
    assert found.probability < 0.2


def test_too_few_seeds_or_levels_give_no_answer() -> None:
    """One seed at twelve levels, or many seeds at two, give no answer."""
    one_seed = (LEVELS, LEVELS > 0.6, np.zeros(12))
    for few in (one_seed, counts([0.0, 1.0])):
        (found,) = crossings(*few)
        assert found.answer is Answer.TOO_FEW
        assert np.isnan(found.estimate)


def test_a_valley_has_two_crossings() -> None:
    """Failures at both ends give a fall and a rise, each with its interval, and the curve is called not monotone."""
    falls, rises = crossings(*counts([1, 1, 1, 0.9, 0.1, 0, 0, 0, 0.1, 0.9, 1, 1]))
    assert (falls.direction, rises.direction) == ("falling", "rising")
    assert falls.estimate == pytest.approx(3.5, abs=0.2)
    assert rises.estimate == pytest.approx(8.5, abs=0.2)
    assert [falls.branch, rises.branch] == [1, 2]
    assert falls.branches == rises.branches == 2


def test_noise_is_not_called_a_second_crossing() -> None:
    """At most 1 % of 500 monotone curves of 24 levels and 16 seeds are cut in two."""
    random = np.random.default_rng(5)
    x = np.linspace(0, 1, 24)
    false = 0
    for _ in range(500):
        rates = 0.05 + 0.9 * expit((x - random.uniform(0.2, 0.8)) / 10 ** random.uniform(-2, -0.8))
        false += len(branches(random.binomial(16, rates).astype(float), np.full(24, 16.0), 0.5)) > 1
    assert false <= 5


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    """They equal NumPy's inverted CDF of the values repeated by their weights, infinities included."""
    values, weights = np.array([3.0, -np.inf, 1.0, np.inf]), np.array([3, 1, 4, 2])
    repeated = np.repeat(values, weights)
    expected = [float(np.quantile(repeated, q, method="inverted_cdf")) for q in (0.05, 0.5, 0.75, 0.95)]
    assert weighted_quantiles(values, weights / 10, (0.05, 0.5, 0.75, 0.95)) == expected


# From frames


def study_frame(rate: Any, architectures: tuple[str, ...] = ("10-5-10",), seeds: int = 12, kind: str = "sae_dead") -> pd.DataFrame:
    """Rows over 9 sparsities × 9 l1 with P(failure) = rate(S, log10 l1), and the AE columns of perfect pairing."""
    random = np.random.default_rng(11)
    rows = []
    for architecture in architectures:
        n_features, n_hidden, n_latents = map(int, architecture.split("-"))
        importances = 0.7 ** np.arange(n_features)
        for S in np.linspace(0.3, 0.98, 9):
            represented = int(theory.features_represented(S, importances, n_hidden))
            ae = {
                "ae_features_represented": represented,
                "ae_diagonal_mean": represented / n_features,
                "ae_dimensions_per_feature": n_hidden / represented,
                "ae_condition_number": 1.0,
                "ae_loss": float(theory.best_paired_loss(S, importances, n_hidden)),
                "ae_loss_bias_only": float(theory.bias_only_loss(S, importances)),
                "ae_loss_dedicated": float(theory.dedicated_loss(S, importances, n_hidden)),
            }
            for l1 in 10 ** np.linspace(-4, 0, 9):
                for seed in range(seeds):
                    failed = random.random() < rate(S, np.log10(l1))
                    same = dict.fromkeys(("seed", "data_seed", "ae_seed"), seed)
                    where = {"architecture": architecture, "sparsity": S, "l1": l1, "protocol": "dissertation"}
                    shape = {"n_features": n_features, "n_hidden": n_hidden, "n_latents": n_latents}
                    rows.append({**where, **shape, **same, **ae, "failure": kind if failed else "none", "sae_all_dead": failed})
    return pd.DataFrame(rows)


def death(S: float, log_l1: float) -> float:
    """A death that does not depend on S, at l1 = 0.05."""
    return float(expit((log_l1 - np.log10(0.05)) / 0.1))


def test_death_in_l1_stands_beside_its_closed_forms() -> None:
    """Unit columns: the death line is l1 = 2, the initial pull that of normal(0, 0.01); the difference is in decades."""
    frame = study_frame(death)
    points = [p for p in critical_points(frame, "sae_dead") if p.axis == L1]
    assert len(points) == 9
    assert sum(p.crossing.low <= 0.05 <= p.crossing.high for p in points) >= 7
    line, pull = points[0].predictions
    assert line.value == pytest.approx(2)
    assert pull.value == pytest.approx(0.02 * theory.expected_largest(50))
    assert points[0].difference(line) == pytest.approx(np.log10(points[0].crossing.estimate / 2))
    assert points[0].holds(line) is False
    assert "rises through 0.5 at l1 = 0.0" in points[0].sentence
    unit = critical_points(frame, "sae_dead", protocol=PROTOCOLS["sound"])
    assert [p.name for p in unit[-1].predictions] == ["death line 2‖w‖"]
    assert all(not p.predictions for p in critical_points(frame, "any"))


def test_death_in_sparsity_is_not_crossed() -> None:
    """A death that does not depend on S stays on one side of the level at every l1 but the critical one."""
    points = [p for p in critical_points(study_frame(death), "sae_dead") if p.axis == SPARSITY]
    sides = [p.crossing.direction for p in points if p.crossing.answer is Answer.NOT_CROSSED]
    assert sides.count("below") == 6
    assert sides.count("above") >= 2
    assert "stays below 0.5 for S in [0.3, 0.98]" in points[0].sentence


def test_collapse_counts_each_autoencoder_once() -> None:
    """The critical sparsity of a collapse has no l1, and counts a ninth of the rows."""
    frame = study_frame(lambda S, _: S > 0.6, kind="ae_collapsed", seeds=5)
    (point,) = critical_points(frame, "ae_collapsed")
    assert (point.at, point.axis, point.replicates, point.seeds) == (None, SPARSITY, 45, 5)
    assert point.crossing.low <= 0.6 <= point.crossing.high
    assert point.holds(point.predictions[0]) is None


def test_perfect_pairs_meet_the_closed_forms() -> None:
    """Autoencoders equal to the closed-form candidates have their order parameters, and transitions where pairs begin to pay."""
    frame = study_frame(lambda *_: 0.0, ("10-5-10", "5-3-5"))
    table = ae_order_parameters(frame)
    assert table["architecture"].drop_duplicates().tolist() == ["5-3-5", "10-5-10"]
    assert (table["replicates"] == 12).all()
    np.testing.assert_allclose(table["q50"], table["theory"], rtol=1e-9)
    np.testing.assert_allclose(table["q05"], table["q95"], rtol=1e-9)
    transitions = {(p.architecture, p.quantity): p for p in order_transitions(frame)}
    onset = transitions["10-5-10", "superposition: more features than dimensions"]
    assert onset.predictions[0].value == pytest.approx(1 - 2 / (2.5 + 1 / 0.7))
    assert onset.holds(onset.predictions[0])
    assert transitions["10-5-10", "every feature represented"].holds(
        transitions["10-5-10", "every feature represented"].predictions[0]
    )


def test_importances_and_norms_are_told_from_the_rows() -> None:
    """The rows give 0.7^i from the bias-only loss and ‖w‖ = 1 from the diagonal; NaN if nothing is represented."""
    frame = study_frame(lambda *_: 0.0, seeds=1)
    importances = importances_of(frame)
    assert importances is not None
    np.testing.assert_allclose(importances, 0.7 ** np.arange(10), rtol=1e-9)
    np.testing.assert_allclose(represented_norm(frame), 1)
    assert represented_norm(frame.assign(ae_features_represented=0)).isna().all()
    assert importances_of(frame.assign(ae_loss_bias_only=np.nan)) is None


def test_missing_numbers_are_left_out_and_told() -> None:
    """Crashed rows (NaN) count in `autoencoders` but not in `replicates`; without baselines there is no closed form."""
    frame = study_frame(lambda *_: 0.0, seeds=6)
    measured = ["ae_loss", "ae_dimensions_per_feature", "ae_condition_number", "ae_features_represented", "ae_loss_bias_only"]
    holes = frame.assign(**{name: frame[name].where(frame["seed"] > 1) for name in measured})
    table = ae_order_parameters(holes)
    assert (table["replicates"] == 4).all()
    assert (table["autoencoders"] == 6).all()
    assert np.isfinite(table["theory"]).all()
    nothing = frame.assign(**dict.fromkeys(measured, np.nan))
    assert ae_order_parameters(nothing)["theory"].isna().all()
    assert order_transitions(nothing) == []
    assert all(np.isnan(p.predictions[0].value) for p in critical_points(nothing, "sae_dead") if p.axis == L1)


@pytest.mark.parametrize("case", ["empty", "one row", "one seed", "one sparsity", "one l1", "no seeds' columns"])
def test_odd_frames_are_answered(case: str) -> None:
    """Every reader answers, and reports nothing that is not known."""
    frame = study_frame(death, seeds=1 if case == "one seed" else 5)
    cut = {
        "empty": frame.head(0),
        "one row": frame.head(1),
        "one sparsity": frame[frame["sparsity"] == 0.3],
        "one l1": frame[frame["l1"] == 1],
        "no seeds' columns": frame.drop(columns=["seed", "data_seed", "ae_seed"]),
    }.get(case, frame)
    points = critical_points(cut, "sae_dead") + order_transitions(cut)
    table = critical_table(points)
    assert len(table) >= len(points)
    assert {p.axis.name for p in critical_points(cut, "sae_dead")} == {
        "empty": set(), "one row": set(), "one sparsity": {"l1"}, "one l1": {"sparsity"}
    }.get(case, {"sparsity", "l1"})  # fmt: skip
    if case == "one seed":
        assert (table["answer"] == Answer.TOO_FEW.value).all()
    assert all(p.sentence for p in points)
    assert len(ae_order_parameters(cut)) == (0 if case == "empty" else 4 * cut["sparsity"].nunique())


def test_table_has_a_row_for_each_closed_form() -> None:
    """The table has two rows for a death along l1 and one for a point without a closed form; differences are the points'."""
    points = critical_points(study_frame(death), "sae_dead")
    table = critical_table(points)
    assert len(table) == 9 + 2 * 9
    assert table["closed_form"].isna().sum() == 9
    assert table["difference"].iloc[-1] == points[-1].difference(points[-1].predictions[-1])
    assert points[-1].holds(Prediction("itself", points[-1].crossing.estimate)) is True
