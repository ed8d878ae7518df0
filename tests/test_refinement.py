"""The map's learner in a plain loop: no processes, no disk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces import MisuseError, Replicates
from search_spaces.failure_surface import Domain
from search_spaces.refinement import MapSpec, Outcomes, Refinement, evenly, systematic
from tests.truths import DOMAIN, TRUTHS

Floats = NDArray[np.float64]
PAIR = Domain(("5-3-5", "10-5-10"), sparsity=(0.3, 0.98), l1=(1e-4, 1.0))


def slanted(a: NDArray[np.int64], u: Floats, v: Floats) -> Floats:
    """Fails above a diagonal."""
    return np.where(u + v > 1 + 0.2 * a, 0.95, 0.03)


def trained(asked: list[Replicates], domain: Domain = PAIR, rate: Callable[..., Floats] = slanted) -> Outcomes:
    """What comes of replicates: a coin that depends on the replicate alone."""
    rows = Outcomes.of(asked, np.zeros(sum(map(len, asked))))
    p = rate(domain.index(rows.architecture), domain.u(rows.sparsity), domain.v(rows.l1))
    coins = np.array([np.random.default_rng(abs(hash(key[1:]))).random() for key in rows.identities()])
    return Outcomes(rows.architecture, rows.sparsity, rows.l1, rows.seed, coins < p)


def explored(spec: MapSpec, batch: int = 200, earlier: Outcomes | None = None) -> Refinement:
    """A learner that has spent its budget."""
    learner = Refinement(spec, earlier)
    while not learner.done:
        learner.tell(trained(learner.ask(batch), spec.domain))
    return learner


def keys(asked: list[Replicates]) -> list[tuple[str, float, float, int]]:
    """What tells replicates apart, in order."""
    return Outcomes.of(asked, np.zeros(sum(map(len, asked)))).identities()


@pytest.fixture(scope="module")
def begun() -> tuple[MapSpec, list[Outcomes]]:
    """A small map's specification and its first three batches: 256 spread evenly, then twice 200."""
    spec, told = MapSpec(PAIR, budget=900, first_pass=256, seed=3), []
    learner = Refinement(spec)
    for count in (256, 200, 200):
        told.append(trained(learner.ask(count)))
        learner.tell(told[-1])
    return spec, told


def after(spec: MapSpec, told: list[Outcomes]) -> Refinement:
    """A learner that was told these batches."""
    learner = Refinement(spec)
    for rows in told:
        learner.tell(rows)
    return learner


def test_asking_twice_gives_the_same(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """What is asked depends on what was told, not on how often it was asked; another seed asks for something else."""
    spec, told = begun
    learner = after(spec, told)
    assert keys(learner.ask(100)) == keys(learner.ask(100))
    assert keys(Refinement(spec).ask(50)) != keys(Refinement(MapSpec(PAIR, budget=900, first_pass=256, seed=4)).ask(50))


def test_replay_of_stored_rows_asks_the_same(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """Resuming is telling again, row order within a batch is irrelevant, and a row told twice counts once."""
    spec, told = begun
    rng = np.random.default_rng(0)
    shuffled = [rows.take(rng.permutation(len(rows))) for rows in told]
    again = after(spec, [*shuffled, told[0], told[2]])
    assert again.spent == sum(map(len, told))
    assert keys(again.ask(150)) == keys(after(spec, told).ask(150))


def test_budget_is_spent_exactly(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """The first pass ends where it was said to, the last batch with the budget; no replicate is asked for twice."""
    spec, told = begun
    learner = Refinement(spec)
    assert sum(map(len, learner.ask(10_000))) == 256
    learner = after(spec, told)
    left = learner.ask(10_000)
    assert sum(map(len, left)) == 900 - 656
    learner.tell(trained(left))
    assert learner.done
    assert learner.ask(100) == []
    everything = [key for rows in told for key in rows.identities()] + keys(left)
    assert len(set(everything)) == len(everything) == 900


def test_asked_cells_are_of_the_domain(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """Every cell lies within the ranges, and each autoencoder has a seed of its own."""
    rows = trained(after(*begun).ask(200))
    assert ((rows.sparsity >= 0.3) & (rows.sparsity <= 0.98)).all()
    assert ((rows.l1 >= 1e-4) & (rows.l1 <= 1)).all()
    assert len(np.unique(rows.seed)) == 200
    assert rows.seed.min() == 656


def test_replicates_gather_where_the_rate_crosses_the_level(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """After the first pass most replicates lie within 0.15 of the boundary, where a third would by chance."""
    rows = trained(after(*begun).ask(240))
    off = PAIR.u(rows.sparsity) + PAIR.v(rows.l1) - 1 - 0.2 * PAIR.index(rows.architecture)
    assert (np.abs(off) / np.sqrt(2) < 0.15).mean() > 0.5


def test_small_budget_finds_the_boundary() -> None:
    """900 replicates of two architectures classify all but 3 % of the plane, and it is known that they do."""
    learner = explored(MapSpec(PAIR, budget=900, first_pass=256))
    u, v = PAIR.centres()
    truth = slanted(np.arange(2)[:, None, None], u[:, None], v) >= 0.5
    assert ((learner.surface.on_grid().mean >= 0.5) != truth).mean() < 0.03
    assert 0.005 < learner.expected_misclassified_volume < 0.08
    assert learner.expected_regret < learner.expected_misclassified_volume


def test_precision_asked_for_ends_the_search() -> None:
    """It stops at the first batch after which the expected misclassified volume, or the regret, is small enough."""
    for precision in ({"misclassified_volume": 0.08}, {"regret": 0.05}):
        learner = explored(MapSpec(PAIR, budget=5_000, first_pass=256, **precision))  # type: ignore[arg-type]
        assert 256 <= learner.spent < 5_000
        assert learner.expected_misclassified_volume <= 0.08 or learner.expected_regret <= 0.05


def test_first_pass_is_taken_whole() -> None:
    """Precision is not believed before the first pass is through."""
    learner = Refinement(MapSpec(PAIR, budget=5_000, first_pass=256, misclassified_volume=0.9))
    learner.tell(trained(learner.ask(255)))
    assert not learner.done
    learner.tell(trained(learner.ask(255)))
    assert learner.spent == 256
    assert learner.done


@pytest.mark.parametrize("l1s", [4, 10])
def test_autoencoders_are_shared_over_l1(begun: tuple[MapSpec, list[Outcomes]], l1s: int) -> None:
    """One (architecture, sparsity, seed) serves that many different l1 values, in the first pass and after it."""
    spec = MapSpec(PAIR, budget=900, first_pass=256, seed=3, l1s_per_autoencoder=l1s)
    for learner in (Refinement(spec), after(spec, begun[1])):
        rows = trained(learner.ask(200))
        groups: dict[tuple[str, float, int], set[float]] = {}
        for architecture, sparsity, l1, seed in rows.identities():
            groups.setdefault((architecture, sparsity, seed), set()).add(l1)
        assert {len(group) for group in groups.values()} == {l1s}
        assert len({seed for _, _, seed in groups}) == 200 // l1s


def test_earlier_rows_are_used_and_cost_nothing(begun: tuple[MapSpec, list[Outcomes]]) -> None:
    """A learner may start from rows of another study: the first pass is done, the budget is whole."""
    spec, told = begun
    learner = Refinement(spec, earlier=told[0])
    assert learner.spent == 0
    assert not learner.done
    rows = trained(learner.ask(200))
    off = PAIR.u(rows.sparsity) + PAIR.v(rows.l1) - 1 - 0.2 * PAIR.index(rows.architecture)
    assert (np.abs(off) / np.sqrt(2) < 0.15).mean() > 0.4
    assert rows.seed.min() == told[0].seed.max() + 1
    learner.tell(told[0])
    assert learner.spent == 0


def test_one_sparsity_or_one_l1_is_enough() -> None:
    """On a line the learner works as on a plane; where no l1 varies none is shared."""
    for domain in (Domain(("5-3-5",), (0.9, 0.9), (1e-4, 1)), Domain(("5-3-5",), (0.3, 0.98), (0.01, 0.01))):
        learner = explored(MapSpec(domain, budget=200, first_pass=64, l1s_per_autoencoder=4), batch=68)
        assert learner.spent == 200
        assert learner.surface.on_grid().mean.shape == domain.shape()


def test_single_cell_is_measured_again_and_again() -> None:
    """Where nothing varies, every replicate has a seed of its own and the rate is one Beta posterior."""
    domain = Domain(("5-3-5",), (0.9, 0.9), (0.01, 0.01))
    learner = Refinement(MapSpec(domain, budget=40, first_pass=16))
    failures = 0
    while not learner.done:
        asked = learner.ask(12)
        rows = Outcomes.of(asked, np.arange(sum(map(len, asked))) % 3 == 0)
        failures += int(rows.failed.sum())
        learner.tell(rows)
    assert learner.surface.on_grid().mean == pytest.approx((failures + 0.5) / 41)


def test_islands_are_found_among_eight_architectures() -> None:
    """A place that fails amid safety draws replicates: by 5,048 most of the four islands of 1 % are seen."""
    learner = Refinement(MapSpec(DOMAIN, budget=5_048))
    while not learner.done:
        learner.tell(trained(learner.ask(1_000), DOMAIN, TRUTHS["island"]))
    u, v = DOMAIN.centres()
    a = np.arange(8)[:, None, None]
    inside = TRUTHS["island"](a, u[:, None], v) >= 0.5
    seen = [np.mean(learner.surface.on_grid().mean[k][inside[k]] > 0.3) >= 0.5 for k in (1, 3, 5, 7)]
    assert sum(seen) >= 3


def test_systematic_sample_is_as_even_as_can_be() -> None:
    """Each index comes up its expected number of times, rounded up or down; without weights nothing does."""
    rng = np.random.default_rng(0)
    weights = rng.random((4, 5)) * (rng.random((4, 5)) < 0.6)
    counts = np.bincount(systematic(weights, 100, rng), minlength=20)
    expected = 100 * weights.ravel() / weights.sum()
    assert ((counts >= np.floor(expected)) & (counts <= np.ceil(expected))).all()
    assert len(systematic(np.zeros((4, 5)), 100, rng)) == 0


def test_shared_values_are_spread_by_weight() -> None:
    """Moving on by turns of a column's weight divides it evenly: with uniform weight by equal steps round the end."""
    v = np.array([0.1, 0.85])
    assert evenly(np.ones((2, 8)), v, 0.25) == pytest.approx([0.35, 0.10])
    column = np.tile([0.0, 3.0, 0.0, 1.0], (1000, 1))
    start = np.random.default_rng(1).uniform(0.25, 0.5, 1000)
    moved = evenly(column, start, 0.5)
    assert ((moved >= 0.25) & (moved < 0.5) | (moved >= 0.75)).all()
    assert np.mean(moved >= 0.75) == pytest.approx(1 / 3, abs=0.05)


IMPOSSIBLE: list[dict[str, float]] = [
    {"budget": 0},
    {"first_pass": 0},
    {"l1s_per_autoencoder": 0},
    {"level": 1.0},
    {"misclassified_volume": 0.0},
    {"regret": 2},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_specification_is_refused(wrong: dict[str, float]) -> None:
    """It names the field and what was expected."""
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        MapSpec(**({"domain": PAIR, "budget": 100} | wrong))  # type: ignore[arg-type]


def test_nothing_can_be_asked_by_zero() -> None:
    """A batch has one replicate or more."""
    with pytest.raises(MisuseError, match="count"):
        Refinement(MapSpec(PAIR, budget=10)).ask(0)
