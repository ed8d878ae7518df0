"""The map's learner in a plain loop: no processes, no disk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from search_spaces import MisuseError, Replicates
from search_spaces.learners.contract import Rows
from search_spaces.learners.failure_map import MapSpec, Refinement, evenly, systematic
from search_spaces.searches import MapSearch, search_from
from search_spaces.surface.domain import Domain
from tests.truths import DOMAIN, TRUTHS, domain_over

Floats = NDArray[np.float64]
PAIR = domain_over(("5-3-5", "10-5-10"), sparsity=(0.3, 0.98), l1=(1e-4, 1.0))


def slanted(a: NDArray[np.int64], u: Floats, v: Floats) -> Floats:
    """Fails above a diagonal."""
    return np.where(u + v > 1 + 0.2 * a, 0.95, 0.03)


def identities(rows: Rows) -> list[tuple[str, float, float, int]]:
    """Columns that identify replicates, in order."""
    return list(zip(*(rows[name].tolist() for name in ("architecture", "sparsity", "l1", "seed"))))


def asked_rows(asked: list[Replicates], fails: ArrayLike = False) -> Rows:
    """Rows of the replicates asked for, in their order; `fails` says which died."""
    names = np.repeat([str(part.architecture) for part in asked], [len(part) for part in asked])
    columns = {name: np.concatenate([getattr(part, name) for part in asked]) for name in ("sparsity", "l1", "seed")}
    return {"architecture": names, **columns, "failure": np.where(np.broadcast_to(fails, len(names)), "sae_dead", "none")}


def trained(asked: list[Replicates], domain: Domain = PAIR, rate: Callable[..., Floats] = slanted) -> Rows:
    """Outcomes of replicates: a coin toss that depends on the replicate alone."""
    rows = asked_rows(asked)
    p = rate(domain.index(rows["architecture"]), domain.x.to_unit(rows["sparsity"]), domain.y.to_unit(rows["l1"]))
    coins = np.array([np.random.default_rng(abs(hash(key[1:]))).random() for key in identities(rows)])
    return asked_rows(asked, coins < p)


def taken(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Some of the rows."""
    return {name: column[places] for name, column in rows.items()}


def explored(spec: MapSpec, domain: Domain = PAIR, rate: Callable[..., Floats] = slanted) -> Refinement:
    """A learner that has spent its budget."""
    learner = Refinement(spec)
    while not learner.done:
        learner.tell(trained(learner.ask(), domain, rate))
    return learner


@pytest.fixture(scope="module")
def begun() -> tuple[MapSpec, list[Rows]]:
    """A small map's specification and its first four batches: a first pass of 156 and 100, then 100 and 100."""
    spec, told = MapSpec(PAIR, MapSearch(budget=700, first_pass=256), batch=100, seed=3), []
    learner = Refinement(spec)
    for _ in range(4):
        told.append(trained(learner.ask()))
        learner.tell(told[-1])
    return spec, told


def after(spec: MapSpec, told: list[Rows]) -> Refinement:
    """A learner that has received the rows of these batches."""
    learner = Refinement(spec)
    for rows in told:
        learner.ask()
        learner.tell(rows)
    return learner


def everything(learner: Refinement) -> list[list[tuple[str, float, float, int]]]:
    """The batches that can be asked for now."""
    batches = []
    while batch := learner.ask():
        batches.append(identities(asked_rows(batch)))
    return batches


def test_two_batches_may_be_out(begun: tuple[MapSpec, list[Rows]]) -> None:
    """While one batch is trained another can be asked for, but no third before rows come; no replicate is asked for twice."""
    learner = Refinement(begun[0])
    first, second = everything(learner)
    assert learner.ask() == []
    assert not learner.done
    learner.tell(begun[1][0])
    (third,) = everything(learner)
    assert len({*first, *second, *third}) == len(first) + len(second) + len(third) == 356


def test_what_is_asked_does_not_depend_on_when_rows_come(begun: tuple[MapSpec, list[Rows]]) -> None:
    """One batch at a time, two at a time, rows shuffled or not: the batches are the same. Another seed gives others."""
    spec, told = begun
    rng = np.random.default_rng(0)
    learner, batches = Refinement(spec), []
    batches += everything(learner)
    for rows in told[:3]:
        learner.tell(taken(rows, rng.permutation(len(rows["seed"]))))
        batches += everything(learner)
    assert batches[:4] == [identities(rows) for rows in told]
    learner.tell(told[3])
    assert batches[4:] + everything(learner) == everything(after(spec, told))
    other = Refinement(MapSpec(PAIR, MapSearch(budget=700, first_pass=256), batch=100, seed=4))
    assert everything(other)[0] != batches[0]


def test_budget_is_spent_exactly(begun: tuple[MapSpec, list[Rows]]) -> None:
    """The first pass ends at its set size, and the last batch ends with the budget."""
    spec, told = begun
    assert [len(rows["seed"]) for rows in told] == [156, 100, 100, 100]
    learner, sizes = after(spec, told), []
    while not learner.done:
        asked = learner.ask()
        sizes.append(sum(map(len, asked)))
        learner.tell(trained(asked))
    assert sizes == [100, 100, 44]
    assert learner.replicates == 700
    assert learner.ask() == []


def test_batches_grow_with_what_was_asked() -> None:
    """Without a size: the first pass except 256, then these 256, then an eighth of the replicates beyond 5,000, at least 256."""
    cell = domain_over(("5-3-5",), (0.9, 0.9), (0.01, 0.01))
    learner, sizes = Refinement(MapSpec(cell, MapSearch(budget=12_000, first_pass=7_000))), []
    while not learner.done:
        asked = learner.ask()
        sizes.append(sum(map(len, asked)))
        learner.tell(asked_rows(asked))
    assert sizes == [6744, 256, 256, 282, 317, 356, 401, 451, 507, 571, 642, 722, 495]


def test_rows_that_are_not_the_batch_are_refused(begun: tuple[MapSpec, list[Rows]]) -> None:
    """Rows before anything was asked for, or an incomplete batch, are the caller's mistake."""
    learner = Refinement(begun[0])
    with pytest.raises(ValueError, match="156"):
        learner.tell(begun[1][0])
    learner.ask()
    with pytest.raises(ValueError, match="156"):
        learner.tell(begun[1][1])


FAILING = {"any": (1, 1, 1, 0), "sae_dead": (0, 1, 0, 0), "crashed": (0, 0, 1, 0), "sae_all_dead": (1, 1, 0, 0)}


@pytest.mark.parametrize("failure", FAILING)
def test_failure_that_is_mapped_is_a_choice(failure: str) -> None:
    """Any failure, one kind, or all latents dead whatever the reason; a crashed replicate has no count of dead latents."""
    domain = domain_over(("5-3-5",), (0.9, 0.9), (0.01, 0.01))
    learner = Refinement(MapSpec(domain, MapSearch(budget=4, failure=failure)))
    outcomes = {
        "failure": np.array(["ae_collapsed", "sae_dead", "crashed", "none"], dtype=object),
        "dead_latents": np.array([5.0, 5.0, np.nan, 0.0]),
        "n_latents": np.array([5, 5, 5, 5]),
    }
    learner.tell({**asked_rows(learner.ask()), **outcomes})
    assert learner.surface.counts.failures.sum() == sum(FAILING[failure])


def near_boundary(rows: Rows) -> float:
    """The share of points within 0.15 of where the rate crosses the level."""
    off = PAIR.x.to_unit(rows["sparsity"]) + PAIR.y.to_unit(rows["l1"]) - 1 - 0.2 * PAIR.index(rows["architecture"])
    return float((np.abs(off) / np.sqrt(2) < 0.15).mean())


def test_replicates_gather_where_the_rate_crosses_the_level(begun: tuple[MapSpec, list[Rows]]) -> None:
    """After the first pass most replicates lie within 0.15 of the boundary, where a third would by chance."""
    assert near_boundary(asked_rows(after(*begun).ask())) > 0.5


def test_small_budget_finds_the_boundary() -> None:
    """900 replicates of two architectures classify all but 3 % of the plane, and the learner knows how many."""
    learner = explored(MapSpec(PAIR, MapSearch(budget=900, first_pass=256), batch=128))
    u, v = PAIR.centres()
    truth = slanted(np.arange(2)[:, None, None], u[:, None], v) >= 0.5
    wrong = ((learner.surface.on_grid().mean >= 0.5) != truth).mean()
    assert wrong < 0.03
    assert wrong / 2 < learner.expected_misclassified_volume < 2 * wrong
    assert learner.expected_regret < learner.expected_misclassified_volume


def test_precision_asked_for_ends_the_search() -> None:
    """The learner stops at the first batch after which the expected misclassified volume, or the regret, is small enough."""
    for precision in ({"misclassified_volume": 0.08}, {"regret": 0.05}):
        learner = explored(MapSpec(PAIR, MapSearch(budget=5_000, first_pass=256, **precision), batch=200))  # type: ignore[arg-type]
        assert 512 <= learner.replicates < 5_000
        assert learner.expected_misclassified_volume <= 0.08 or learner.expected_regret <= 0.05


def test_precision_that_is_there_already_asks_for_nothing(begun: tuple[MapSpec, list[Rows]]) -> None:
    """Rows of an earlier study can be enough to stop."""
    learner = Refinement(MapSpec(PAIR, MapSearch(budget=700, first_pass=78, misclassified_volume=0.9)), begun[1][0])
    assert learner.done
    assert learner.ask() == []


def test_precision_needs_as_many_replicates_of_refinement_as_of_the_first_pass() -> None:
    """A precision does not count before, since the first pass may have missed islands; two batches are out when it does."""
    spec = MapSpec(PAIR, MapSearch(budget=5_000, first_pass=256, misclassified_volume=0.9), batch=100)
    learner = Refinement(spec)
    learner.tell(trained(learner.ask()))
    assert not learner.done
    while not learner.done:
        learner.tell(trained(learner.ask()))
    assert learner.replicates == 256 + 300 + 100


@pytest.mark.parametrize("l1s", [4, 10])
def test_autoencoders_are_shared_over_l1(begun: tuple[MapSpec, list[Rows]], l1s: int) -> None:
    """One (architecture, sparsity, seed) serves `l1s_per_autoencoder` values of l1, in the first pass and after it."""
    spec = MapSpec(PAIR, MapSearch(budget=900, first_pass=400, l1s_per_autoencoder=l1s), batch=200, seed=3)
    learner = Refinement(spec)
    for _ in range(3):
        rows = trained(learner.ask())
        groups: dict[tuple[str, float, int], set[float]] = {}
        for architecture, sparsity, l1, seed in identities(rows):
            groups.setdefault((architecture, sparsity, seed), set()).add(l1)
        assert {len(group) for group in groups.values()} == {l1s}
        assert len({seed for _, _, seed in groups}) == 200 // l1s
        learner.tell(rows)


def test_earlier_rows_are_used_and_cost_nothing(begun: tuple[MapSpec, list[Rows]]) -> None:
    """A learner may start from rows of another study: the first pass is done, the budget is whole."""
    spec, told = begun
    earlier = {name: np.concatenate([rows[name] for rows in told]) for name in told[0]}
    learner = Refinement(spec, earlier)
    assert learner.replicates == 0
    asked = learner.ask()
    rows = asked_rows(asked)
    assert len(rows["seed"]) == 100
    assert near_boundary(rows) > 0.4
    assert rows["seed"].min() == earlier["seed"].max() + 1
    learner.tell(trained(asked))
    while not learner.done:
        learner.tell(trained(learner.ask()))
    assert learner.replicates == 700


def test_one_sparsity_or_one_l1_is_enough() -> None:
    """The learner works on a line as on a plane; if l1 does not vary, no autoencoder is shared."""
    for domain in (domain_over(("5-3-5",), (0.9, 0.9), (1e-4, 1)), domain_over(("5-3-5",), (0.3, 0.98), (0.01, 0.01))):
        learner = explored(MapSpec(domain, MapSearch(budget=200, first_pass=64, l1s_per_autoencoder=4), batch=68), domain)
        assert learner.replicates == 200
        assert learner.surface.on_grid().mean.shape == domain.shape()


def test_single_cell_is_measured_again_and_again() -> None:
    """If nothing varies, every replicate has a seed of its own and the rate has one Beta posterior."""
    domain = domain_over(("5-3-5",), (0.9, 0.9), (0.01, 0.01))
    learner, failures, seeds = Refinement(MapSpec(domain, MapSearch(budget=40, first_pass=16), batch=12)), 0, set()
    while not learner.done:
        asked = learner.ask()
        fails = np.arange(sum(map(len, asked))) % 3 == 0
        failures += int(fails.sum())
        seeds |= set(asked_rows(asked)["seed"].tolist())
        learner.tell(asked_rows(asked, fails))
    assert len(seeds) == 40
    assert learner.surface.on_grid().mean == pytest.approx((failures + 0.5) / 41)


@pytest.mark.slow
def test_islands_are_found_among_eight_architectures() -> None:
    """A failure in a safe region attracts replicates: by 5,048 most of the four islands of 1 % are found."""
    learner = explored(MapSpec(DOMAIN, MapSearch(budget=5_048), batch=1_000), DOMAIN, TRUTHS["island"])
    u, v = DOMAIN.centres()
    a = np.arange(8)[:, None, None]
    inside = TRUTHS["island"](a, u[:, None], v) >= 0.5
    seen = [np.mean(learner.surface.on_grid().mean[k][inside[k]] > 0.3) >= 0.5 for k in (1, 3, 5, 7)]
    assert sum(seen) >= 3


def test_systematic_sample_is_as_even_as_can_be() -> None:
    """Each index comes up its expected number of times, rounded up or down; without weights no index does."""
    rng = np.random.default_rng(0)
    weights = rng.random((4, 5)) * (rng.random((4, 5)) < 0.6)
    counts = np.bincount(systematic(weights, 100, rng), minlength=20)
    expected = 100 * weights.ravel() / weights.sum()
    assert ((counts >= np.floor(expected)) & (counts <= np.ceil(expected))).all()
    assert len(systematic(np.zeros((4, 5)), 100, rng)) == 0


def test_shared_values_are_spread_by_weight() -> None:
    """Moving on by shares of a column's weight divides it evenly: for uniform weights, in equal steps that wrap round."""
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
    """The error names the field and what was expected."""
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        search_from({"kind": "map"} | wrong)


def test_a_batch_of_nothing_is_refused() -> None:
    """`batch` is a field of the learner alone, not of study files."""
    with pytest.raises(MisuseError, match="batch=0"):
        MapSpec(PAIR, MapSearch(), batch=0)


def test_unknown_failure_is_refused() -> None:
    """The error suggests the nearest name."""
    with pytest.raises(MisuseError, match="sae_dead"):
        search_from({"kind": "map", "failure": "sae_daed"})
