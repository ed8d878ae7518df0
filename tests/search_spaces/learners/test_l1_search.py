"""The l1 learner, on made-up curves whose thresholds are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from search_spaces import MisuseError, Replicates
from search_spaces.learners.l1_curves import (
    BUMPED,
    RISING,
    SAFE_VALLEY,
    STEP,
    TWO_VALLEYS,
    UNSAFE_VALLEY,
    RateChain,
    RisingEdge,
    Score,
)
from search_spaces.learners.l1_search import BATCH, L1Interval, L1Learner, L1SearchSpec
from search_spaces.searches import search_from

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Rows = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as the searcher uses: matrices are too small for a second one to pay."""
    with threadpool_limits(1, "blas"):
        yield


def rising(threshold: float, width: float = 0.06, floor: float = 0.01) -> Curve:
    """A failure rate that crosses 0.1 at log10 l1 = threshold."""
    middle = threshold - width * logit((0.1 - floor) / (1 - floor))
    return lambda x: floor + (1 - floor) * expit((x - middle) / width)


def bumped(threshold: float, bump: float, peak: float = 0.5, sd: float = 0.15) -> Curve:
    """The same rate with more failures around log10 l1 = bump."""
    return lambda x: 1 - (1 - rising(threshold)(x)) * (1 - peak * np.exp(-0.5 * ((x - bump) / sd) ** 2))


class World:
    """Simulates replicates of 10-5-10: cell i has sparsity i/100 and fails by the i-th curve."""

    def __init__(self, *curves: Curve, dense: Curve | None = None, collapsed: float = 0.0) -> None:
        self.curves, self.dense, self.collapsed = curves, dense, collapsed

    @property
    def cells(self) -> tuple[tuple[str, float], ...]:
        return tuple(("10-5-10", place / 100) for place in range(len(self.curves)))

    def rows(self, batch: list[Replicates]) -> Rows:
        """Outcomes depend on sparsity, l1 and seed alone. The score is best at l1 = 0.003 and lowered by an amount per seed."""
        (asked,) = batch
        x = np.log10(asked.l1)
        draws = [np.random.default_rng((round(100 * r.cell.sparsity), r.seed, round(1e9 * r.cell.l1))).random(3) for r in asked]
        of_seed = np.array([np.random.default_rng(int(seed)).random(2) for seed in asked.seed])
        failure = np.full(len(asked), "none", dtype="U12")
        if self.dense is not None:
            failure[np.array(draws)[:, 1] < self.dense(x)] = "sae_dense"
        for place, curve in enumerate(self.curves):
            mine = np.round(100 * asked.sparsity) == place
            failure[mine & (np.array(draws)[:, 0] < curve(x))] = "sae_starved"
        failure[of_seed[:, 0] < self.collapsed] = "ae_collapsed"
        score = 0.9 - 0.2 * (x - np.log10(0.003)) ** 2 + 0.3 * (of_seed[:, 1] - 0.5) + 0.1 * (np.array(draws)[:, 2] - 0.5)
        return {
            "architecture": np.full(len(asked), "10-5-10"),
            "sparsity": asked.sparsity,
            "l1": asked.l1,
            "seed": asked.seed,
            "failure": failure,
            "mcc_decoder_features": score,
        }


def specification(cells: tuple[tuple[str, float], ...], **fields: Any) -> L1SearchSpec:
    """A search of 256 replicates per cell over five decades, unless `fields` of the search or its specification differ."""
    where = {"l1": (1e-4, 10.0), "score": "mcc_decoder_features", "predicted_edges": (), "seed": 0}
    search = {"kind": "l1", "budget": 256} | {name: value for name, value in fields.items() if name not in where}
    where |= {name: value for name, value in fields.items() if name in where}
    return L1SearchSpec(search_from(search), cells, **where)  # type: ignore[arg-type]


def search(world: World, **fields: Any) -> tuple[L1Learner, list[list[Replicates]]]:
    """The learner when it is done, and all batches that it asked for."""
    learner = L1Learner(specification(world.cells, **fields))
    asked: list[list[Replicates]] = []
    told = 0
    while not learner.done:
        batch = learner.ask()
        if batch:
            asked.append(batch)
        else:
            learner.tell(world.rows(asked[told]))
            told += 1
    return learner, asked


def found(world: World, **fields: Any) -> list[L1Interval]:
    return search(world, **fields)[0].results()


def replicates(batch: list[Replicates]) -> list[tuple[float, float, int]]:
    return [(r.cell.sparsity, r.cell.l1, r.seed) for part in batch for r in part]


def test_posterior_of_a_short_chain_is_the_sum_over_paths() -> None:
    """The chance that the rate is above the level equals that of sampled curves, weighted by the likelihood of the outcomes."""
    size, rng = 6, np.random.default_rng(0)
    chain = RateChain(size, 0.1, RISING)
    replicates, failures = np.array([3.0, 0, 0, 2, 0, 4]), np.array([0.0, 0, 0, 1, 0, 2])
    start, forward = chain._start, chain._forward.toarray()
    state = rng.choice(len(start), 20_000, p=start / start.sum())
    sums, paths = np.cumsum(forward, axis=0), []
    for _ in range(size):
        paths.append(state)
        state = np.minimum((rng.random(len(state)) > sums[:, state]).sum(0), len(start) - 1)
    rates = np.repeat(chain.rates, len(start) // len(chain.rates))[np.array(paths)]
    weights = np.prod(rates ** failures[:, None] * (1 - rates) ** (replicates - failures)[:, None], axis=0)
    expected = (weights * (rates > 0.1)).sum(1) / weights.sum()
    np.testing.assert_allclose(chain.posterior(failures, replicates).above(0), expected, atol=0.03)


def test_evidence_of_each_kind_of_curve_sums_to_one_over_all_outcomes() -> None:
    """Each chain is a probability distribution: over all outcomes of five replicates, the evidence sums to one."""
    replicates = np.zeros(120)
    replicates[[5, 30, 60, 90, 110]] = 1
    for phases in (RISING, BUMPED, SAFE_VALLEY, UNSAFE_VALLEY, TWO_VALLEYS):
        chain, total = RateChain(120, 0.1, phases), 0.0
        for outcome in itertools.product((0.0, 1.0), repeat=5):
            failures = np.zeros(120)
            failures[replicates > 0] = outcome
            total += np.exp(chain.log_evidence(failures, replicates))
        assert total == pytest.approx(1)


def test_intervals_hold_thresholds_wherever_they_are() -> None:
    """Over the five decades, 95 % intervals hold the truth about that often, and errors are a few hundredths of a decade."""
    truths = np.linspace(-3.2, 0.5, 9)
    results = found(World(*(rising(t, width) for t, width in zip(truths, [0.02, 0.06, 0.12] * 3))), score=None)
    assert all(result.upper == "inside" and result.monotone for result in results)
    errors = [abs(np.log10(result.upper_edge) - t) for result, t in zip(results, truths)]
    held = [result.upper_edge_interval[0] <= 10**t <= result.upper_edge_interval[1] for result, t in zip(results, truths)]
    assert sum(held) >= 7
    assert np.median(errors) < 0.03
    assert max(errors) < 0.15


def test_a_bump_below_the_threshold_is_reported_and_no_edge_is() -> None:
    """The search reports "not monotone" and where the bump is, not a wrong edge; a rate that only rises is not suspected."""
    world = World(bumped(-1.0, -2.5), bumped(-1.5, -2.2), rising(-1.0), rising(-1.5, floor=0.05))
    first, second, *others = found(world, score=None)
    for result, bump in ((first, -2.5), (second, -2.2)):
        assert (result.monotone, result.upper, result.upper_edge) == (False, "not monotone", None)
        assert result.upper_edge_interval == (None, None)
        assert result.bump_l1 is not None
        assert abs(np.log10(result.bump_l1) - bump) < 0.3
    assert all(result.monotone and result.upper_edge is not None and result.bump_l1 is None for result in others)


def test_evidence_of_a_bump_is_against_every_rising_rate() -> None:
    """Many failures below a safe stretch are evidence of a bump; the same failures above it, or a step upwards, are not."""
    edge, place = RisingEdge(800, 0.1), np.arange(800)
    replicates = np.where(place % 8 == 0, 1.0, 0.0)

    def evidence(*failing: tuple[int, int]) -> float:
        failures = np.zeros(800)
        for start, stop in failing:
            failures[start:stop:16] = 1
        failures[704::8] = 1
        return edge.edges(failures, replicates).descent.log_bayes_factor

    assert evidence((256, 336)) > 2
    assert evidence((560, 704)) < 0
    assert evidence() < 0


def test_rates_at_the_ends_of_the_range_are_told_apart() -> None:
    """A rate below the level everywhere, or above it everywhere, has no edge, and the result says which."""
    never, always = found(World(lambda x: 0 * x + 0.01, lambda x: 0 * x + 0.6), score=None)
    assert (never.upper_edge, never.upper) == (None, "never fails")
    assert (always.upper_edge, always.upper) == (None, "fails throughout")


def test_a_rate_that_creeps_through_the_level_is_not_placed_at_its_sharp_rise() -> None:
    """A line through 0.1 at log10 l1 = −2.6 and a sharp rise at −1.5: the interval holds the first, and not the second."""

    def creeping(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 - (1 - np.clip(0.02 + 0.1 * (x + 3.4), 0.02, 0.21)) * (1 - expit((x + 1.5) / 0.01))

    results = found(World(*[creeping] * 4), score=None)
    ends = [result.upper_edge_interval for result in results]
    assert sum((low or 0) <= 10**-2.6 <= (high or np.inf) for low, high in ends) >= 3
    assert all(result.upper_edge is not None and result.upper_edge < 10**-1.8 for result in results)


def test_a_floor_just_below_the_level_does_not_fail_throughout() -> None:
    """It is undecided as long as the data leave it open."""
    results = found(World(*(rising(-1.0, floor=floor) for floor in (0.06, 0.08, 0.09, 0.095))), score=None)
    assert not {"fails throughout"} & {result.upper for result in results}


def test_any_failure_has_two_edges() -> None:
    """Where codes are dense below and starve above, the interval has one edge of each; where these overlap there is none."""
    world = World(rising(-1.0), rising(-3.0), dense=lambda x: expit((-2.5 - x) / 0.05))
    open_, closed = found(world, failure="any")
    lower, upper = 10 ** (-2.5 - 0.05 * logit(0.09)), 0.1
    assert (open_.upper, open_.lower) == ("inside", "inside")
    assert open_.lower_edge_interval[0] <= lower <= open_.lower_edge_interval[1]  # type: ignore[operator]
    assert open_.upper_edge_interval[0] <= upper * 1.02  # type: ignore[operator]
    assert open_.safe is not None
    assert (closed.upper, closed.lower, closed.safe) == ("none", "none", None)
    assert closed.least_rate is not None
    assert closed.least_rate > 0.1
    assert closed.safe_probability is not None
    assert closed.safe_probability < 0.1


def test_recovery_is_not_above_the_highest_one_seen() -> None:
    """The fit of a steep rise overshoots; what is reported of it does not. The best of the healthy is reported beside it."""
    world = World(rising(-1.0), dense=lambda x: expit((-2.0 - x) / 0.05))
    rows = world.rows

    def bounded(batch: list[Replicates]) -> Rows:
        told = rows(batch)
        return told | {"mcc_decoder_features": np.minimum(told["mcc_decoder_features"] * 1.4, 1.0)}

    world.rows = bounded  # type: ignore[method-assign]
    (result,) = found(world)
    assert result.best_recovery <= 1
    assert result.best_healthy_recovery <= 1
    assert result.best_failed <= result.best_nearby
    assert result.best_healthy_l1 > 10**-2.5


def test_collapsed_autoencoders_are_counted_and_left_out() -> None:
    """Failures before the SAE move no threshold, whatever their share."""
    (result,) = found(World(rising(-1.5), collapsed=0.3), score=None)
    assert 0.2 < result.failed_before_sae / result.replicates < 0.4
    assert result.upper_edge is not None
    assert abs(np.log10(result.upper_edge) + 1.5) < 0.12


def test_lower_edge_and_best_value_are_found_beside_the_upper_edge() -> None:
    """The search finds where codes become dense, and the l1 of the best mean score, which its interval holds."""
    world = World(rising(-1.0), dense=lambda x: expit((-3.2 - x) / 0.05))
    (result,) = found(world, budget=200)
    edge = 10 ** (-3.2 - 0.05 * logit(0.1))
    assert result.lower == "inside"
    assert result.lower_edge_interval[0] <= edge <= result.lower_edge_interval[1]  # type: ignore[operator]
    assert result.best_l1_interval[0] <= 0.003 <= result.best_l1_interval[1]  # type: ignore[index]
    assert abs(np.log10(result.best_l1 / 0.003)) < 0.3
    assert abs(result.best_recovery - 0.9) < 0.03


def test_score_is_blind_to_the_seeds_of_common_seeds() -> None:
    """Shifting all scores of a seed does not move the best l1: seeds are compared with themselves."""
    rng = np.random.default_rng(0)
    x, seed = np.tile(np.arange(0, 400, 40), 8), np.repeat(np.arange(8), 10)
    score = -(((x - 160) * STEP) ** 2) + 0.02 * rng.standard_normal(80)
    shifted = score + 3 * rng.standard_normal(8)[seed]
    places = [process.places[process.mean.argmax()] for process in (Score(400, x, seed, score), Score(400, x, seed, shifted))]
    assert np.abs(np.array(places) - 160).max() <= 16


def test_what_is_asked_is_a_function_of_specification_and_rows() -> None:
    """Replaying the rows, in any order within a batch, gives the same batches and the same results."""
    world = World(rising(-1.0), rising(-2.0), dense=lambda x: expit((-3.2 - x) / 0.05))
    learner, asked = search(world, budget=106)
    again = L1Learner(learner.spec)
    rng = np.random.default_rng(0)
    told = 0
    for batch in asked:
        while not (next_batch := again.ask()):
            rows = world.rows(asked[told])
            order = rng.permutation(len(rows["seed"]))
            again.tell({name: values[order] for name, values in rows.items()})
            told += 1
        assert replicates(next_batch) == replicates(batch)
    for batch in asked[told:]:
        again.tell(world.rows(batch))
    assert again.done
    assert again.results() == learner.results()


def test_no_replicate_is_asked_twice_and_no_cell_beyond_its_budget() -> None:
    """At most two batches are awaited at a time."""
    world = World(rising(-1.0), bumped(-1.5, -2.5))
    learner, asked = search(world, budget=100)
    every = [key for batch in asked for key in replicates(batch)]
    assert len(set(every)) == len(every)
    assert [result.replicates for result in learner.results()] == [100, 100]
    fresh = L1Learner(learner.spec)
    assert len(fresh.ask()[0]) == len(fresh.ask()[0]) == 2 * BATCH
    assert fresh.ask() == []
    assert not fresh.done


def test_stops_at_the_precision_asked_for() -> None:
    """A sharp threshold reaches the requested precision with fewer replicates than the budget."""
    (result,) = found(World(rising(-1.5, width=0.02)), budget=1000, precision=0.05, score=None)
    assert result.replicates < 400
    low, high = result.upper_edge_interval
    assert low is not None
    assert high is not None
    assert np.log10(high / low) / 2 <= 0.05


def test_a_predicted_edge_only_places_the_first_replicates() -> None:
    """A prediction that is two decades off does no harm."""
    (result,) = found(World(rising(-2.5)), predicted_edges=(0.3,), score=None)
    assert result.predicted_edge == 0.3
    assert abs(np.log10(result.upper_edge) + 2.5) < 0.1


def test_rows_of_another_batch_are_refused() -> None:
    """A batch is told whole, and only after it was asked for."""
    world = World(rising(-1.0))
    learner = L1Learner(specification(world.cells))
    batch = learner.ask()
    with pytest.raises(ValueError, match="lack"):
        learner.tell({name: values[1:] for name, values in world.rows(batch).items()})
    learner.tell(world.rows(batch))
    with pytest.raises(ValueError, match="every batch"):
        learner.tell(world.rows(batch))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cells": ()},
        {"l1": (0.0, 1.0)},
        {"l1": (0.1, 0.2)},
        {"level": 0.9},
        {"budget": 10},
        {"failure": ("ae_collapsed",)},
        {"precision": 0.0},
        {"predicted_edges": (0.1, 0.2)},
    ],
)
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """The error is one line that says what was expected."""
    with pytest.raises(MisuseError):
        specification(**({"cells": (("10-5-10", 0.9),)} | wrong))
