"""Failure regions on frames whose regions are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from analysis.rates.regions import Region, _chance, all_regions, failure_regions
from analysis.rates.tally import domain_of
from search_spaces import MisuseError
from search_spaces.coordinates import L1, SPARSITY, Plane

ARCHITECTURES = ("5-3-5", "6-3-6", "8-4-8", "10-5-10")
SPARSITIES = tuple(np.linspace(0.3, 0.96, 12).round(3).tolist())
L1S = tuple(np.geomspace(1e-4, 1, 13).round(8).tolist())
Where = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


def lattice(
    rate: object,
    replicates: int = 20,
    seed: int = 0,
    failure: str = "sae_dead",
    architectures: Iterable[str] = ARCHITECTURES,
    l1s: Iterable[float] = L1S,
) -> pd.DataFrame:
    """A frame of every cell; rate is a number, or a function of the three indices on the lattice."""
    names, l1s = list(architectures), list(l1s)
    a, i, j = (x.ravel() for x in np.indices((len(names), len(SPARSITIES), len(l1s))))
    p = np.full(len(a), rate) if isinstance(rate, float) else rate(a, i, j)  # type: ignore[operator]
    fails = np.random.default_rng(seed).random((replicates, len(a))) < p
    return frame_of(
        np.tile(np.array(names, dtype=object)[a], replicates),
        np.tile(np.array(SPARSITIES)[i], replicates),
        np.tile(np.array(l1s)[j], replicates),
        np.repeat(np.arange(replicates), len(a)),
        np.where(fails.ravel(), failure, "none"),
    )


def frame_of(architecture: object, sparsity: object, l1: object, seed: object, failure: object) -> pd.DataFrame:
    """The columns that regions read."""
    frame = pd.DataFrame({"architecture": architecture, "sparsity": sparsity, "l1": l1, "seed": seed, "failure": failure})
    widths = frame["architecture"].str.split("-", expand=True).astype(int)
    return frame.assign(n_features=widths[0], n_hidden=widths[1], sae_all_dead=frame["failure"] == "sae_dead")


def box(architectures: tuple[int, int], sparsity: tuple[int, int], l1: tuple[int, int]) -> Where:
    """0.95 inside a box of indices, ends included, 0.03 outside."""
    ends = architectures, sparsity, l1
    return lambda *at: np.where(inside_of(at, ends), 0.95, 0.03)


def inside_of(at: Iterable[NDArray[np.int64]], ends: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether indices lie in a box, ends included."""
    return np.logical_and.reduce([(low <= x) & (x <= high) for x, (low, high) in zip(at, ends)])


def either(*boxes: Where) -> Where:
    """The highest of the rates."""
    return lambda *at: np.maximum.reduce([one(*at) for one in boxes])


def shapes(regions: list[Region]) -> list[tuple[list[str], tuple[float, float], tuple[float, float]]]:
    """Where regions lie."""
    return [(region.architectures, region.extents["sparsity"], region.extents["l1"]) for region in regions]


def test_a_box_is_found_with_its_extents() -> None:
    """A box of 3 architectures × 4 sparsities × 5 l1 is found to the cell with high confidence; its peak is near the rate."""
    (region,) = failure_regions(lattice(box((1, 3), (5, 8), (2, 6))), "sae_dead")
    assert shapes([region]) == [(list(ARCHITECTURES[1:]), (SPARSITIES[5], SPARSITIES[8]), (L1S[2], L1S[6]))]
    assert region.volume == pytest.approx(3 * 4 * 5 / (4 * 12 * 13))
    assert region.replicates == 3 * 4 * 5 * 20
    assert region.confidence > 0.999
    assert region.peak_interval[0] < 0.97
    assert region.peak_interval[0] <= region.peak_rate <= region.peak_interval[1]
    assert region.neighbours == ["none"]
    assert region.name == "sae_dead@6-3-6..10-5-10,medium,mid-l1"


def test_two_boxes_are_two_regions() -> None:
    """Two boxes three cells apart are two regions; of equally certain ones the larger comes first."""
    rate = either(box((0, 3), (0, 3), (0, 4)), box((0, 3), (7, 11), (6, 12)))
    large, small = failure_regions(lattice(rate))
    assert shapes([large, small]) == [
        (list(ARCHITECTURES), (SPARSITIES[7], SPARSITIES[11]), (L1S[6], L1S[12])),
        (list(ARCHITECTURES), (SPARSITIES[0], SPARSITIES[3]), (L1S[0], L1S[4])),
    ]
    assert large.name != small.name


def test_boxes_that_touch_at_a_corner_stay_two() -> None:
    """Cells that share a side are joined, cells that touch only at a corner are not."""
    corner = either(box((0, 3), (0, 5), (0, 5)), box((0, 3), (6, 11), (6, 12)))
    assert len(failure_regions(lattice(corner, 60))) == 2
    assert len(failure_regions(lattice(either(corner, box((0, 3), (5, 6), (6, 6))), 60))) == 1


def test_kinds_have_their_own_regions_and_tell_their_neighbours() -> None:
    """For a box of deaths among dense codes, the region of any failure is everything, and the deaths border on dense codes."""
    dead = lattice(box((0, 3), (3, 8), (3, 9)), 20, 1)
    frame = dead.assign(failure=np.where(dead["failure"] == "sae_dead", "sae_dead", "sae_dense"))
    found = {region.failure: region for region in all_regions(frame)}
    assert list(found) == ["any", "sae_dead", "sae_dense"]
    assert found["any"].volume == 1
    assert found["any"].neighbours == []
    assert found["sae_dead"].neighbours == ["sae_dense"]
    assert found["sae_dense"].neighbours == ["sae_dead"]
    assert found["sae_dead"].volume + found["sae_dense"].volume == pytest.approx(1)


def test_names_stay_when_seeds_are_added() -> None:
    """With 20 and with 40 seeds the regions have the same names, all different."""
    rate = either(box((0, 3), (0, 3), (0, 4)), box((0, 1), (7, 11), (6, 12)), box((2, 3), (9, 11), (0, 2)))
    frame = lattice(rate, 40)
    few, many = ({region.name for region in failure_regions(frame[frame["seed"] < seeds])} for seeds in (20, 40))
    assert few == many
    assert len(few) == 3


def test_regions_of_one_place_have_different_names() -> None:
    """Two small boxes in the same third of both axes get different names."""
    found = failure_regions(lattice(either(box((0, 3), (0, 0), (0, 1)), box((0, 3), (2, 2), (0, 1))), 60))
    assert len(found) == len({region.name for region in found}) == 2


@pytest.mark.parametrize(("rate", "replicates"), [(0.45, 1), (0.45, 5), (0.45, 50), (0.3, 1), (0.3, 20)])
def test_flat_rate_below_the_level_is_no_sure_region(rate: float, replicates: int) -> None:
    """A flat rate below the level gives no certain region, however many cells there are to choose a peak from."""
    frame = lattice(rate, replicates, seed=replicates)
    assert all(region.confidence < 0.95 for region in failure_regions(frame))


def test_flat_rate_above_the_level_is_one_sure_region() -> None:
    """At a rate of 0.8 everywhere, 20 seeds of four architectures are evidence; one seed is not, in however many cells."""
    sure = [region for region in failure_regions(lattice(0.8, 20)) if region.confidence >= 0.95]
    assert len(sure) == 1
    assert sure[0].volume > 0.9
    assert all(region.confidence < 0.95 for region in failure_regions(lattice(0.8, 1)))


def test_cells_of_one_seed_are_not_independent_evidence() -> None:
    """If a seed fails at all sparsities and l1 or at none, and two seeds in five fail, no region is sure, however many cells."""
    for number in range(6):
        fails = np.random.default_rng(number).random(8) < 0.4
        frame = lattice(0.0, 8).assign(failure=lambda f, fails=fails: np.where(fails[f["seed"]], "sae_dead", "none"))
        assert all(region.confidence < 0.95 for region in failure_regions(frame))


def test_interval_of_the_peak_is_seldom_above_the_truth() -> None:
    """Of 40 plateaus at 0.7 with 20 seeds per cell, at most 3 intervals lie above 0.7, although the best cell was chosen."""
    above = sum(failure_regions(lattice(0.7, 20, seed))[0].peak_interval[0] > 0.7 for seed in range(40))
    assert above <= 3


def test_peak_is_where_half_of_the_seeds_say() -> None:
    """Rates come from the second half of the seeds: where only the first half fails, the peak's rate is 0."""
    frame = lattice(0.0, 40)
    frame = frame.assign(failure=np.where((frame["seed"] % 2 == 0) & (frame["l1"] > 0.1), "sae_dead", frame["failure"]))
    assert {region.peak_rate for region in failure_regions(frame, level=0.4)} == {0.0}


def test_saes_of_one_autoencoder_are_not_independent_evidence() -> None:
    """Each AE (one seed per sparsity) fails or not for all thirteen l1 at once, so that nothing is certain at rate 0.4. If every
    row counted as independent evidence, the few sparsities that happen to fail would be."""
    sure = {True: 0, False: 0}
    for seed in range(4):
        fails = np.random.default_rng(seed).random(12 * 4) < 0.4
        one = lattice(lambda a, i, j, fails=fails: fails[a * 12 + i] * 1.0, 1).assign(data_seed=0, ae_seed=0)
        for shared, frame in ((True, one), (False, one.drop(columns=["seed", "data_seed", "ae_seed"]))):
            sure[shared] += any(region.confidence >= 0.95 for region in failure_regions(frame))
    assert sure[True] == 0
    assert sure[False] >= 2


def test_bound_of_the_chance_is_one() -> None:
    """The bound is exact for outcomes of 0 and 1, above the simulated probability for shares, and level^n if all fail."""
    assert _chance(np.array([7.0]), np.array([10.0]), 0.4, exact=True)[0] == pytest.approx(binom.sf(6, 10, 0.4))
    assert _chance(np.array([0.0]), np.array([10.0]), 0.4, exact=True)[0] == 1
    assert _chance(np.array([12.0]), np.array([12.0]), 0.5, exact=False)[0] == pytest.approx(0.5**12)
    sums = np.random.default_rng(0).beta(0.5, 0.5, (200_000, 10)).sum(1)
    for score in (5.0, 6.5, 8.0):
        assert _chance(np.array([score]), np.array([10.0]), 0.5, exact=False)[0] >= (sums >= score).mean()


def test_nothing_and_next_to_nothing() -> None:
    """No row, one failed row, one healthy row, only failures and no failures all have an answer."""
    frame = lattice(1.0, 2)
    assert failure_regions(frame.head(0)) == all_regions(frame.head(0)) == []
    (one,) = failure_regions(frame.head(1))
    assert (one.replicates, one.volume, one.confidence, one.peak_rate, one.peak_interval) == (1, 1.0, 0.5, 0.5, (0, 1))
    assert all_regions(lattice(0.0, 2).head(1)) == all_regions(lattice(0.0, 2)) == []
    everything = failure_regions(frame)
    assert [(region.volume, region.replicates) for region in everything] == [(1.0, len(frame))]
    with pytest.raises(MisuseError, match="Did you mean 'sae_dead'"):
        failure_regions(frame, "sae_deed")


def test_missing_metrics_do_not_matter() -> None:
    """Crashed replicates have NaN in every metric; their verdict is a failure like any other."""
    frame = lattice(box((0, 3), (6, 11), (6, 12)), 5, failure="crashed").assign(l0=np.nan, ae_loss=np.nan)
    assert [region.failure for region in all_regions(frame)] == ["any", "crashed"]


def test_half_finished_lattice_speaks_of_what_is_there() -> None:
    """If the upper sparsities and a random third of the cells are missing, no region includes an unmeasured cell."""
    whole = lattice(box((0, 3), (3, 11), (3, 9)))
    cells = whole.groupby(["architecture", "sparsity", "l1"], sort=True).ngroup()
    there = np.random.default_rng(2).random(cells.max() + 1)[cells] > 0.33
    frame = whole[there & (whole["sparsity"] <= SPARSITIES[7])]
    largest = max(failure_regions(frame), key=lambda region: region.volume)
    assert largest.extents["sparsity"] == (SPARSITIES[3], SPARSITIES[7])
    assert largest.extents["l1"] == (L1S[3], L1S[9])
    assert largest.confidence > 0.999
    assert largest.replicates % 20 == 0


def test_zero_l1_is_left_out() -> None:
    """l1 = 0 has no place on log10 l1; if it is the only value, it makes an axis of one value."""
    zero = lattice(1.0, 5, l1s=(0.0,))
    frame = pd.concat([lattice(box((0, 3), (6, 11), (6, 12))), zero], ignore_index=True)
    (region,) = failure_regions(frame)
    assert region.extents["l1"][0] == L1S[6]
    (alone,) = failure_regions(zero)
    assert (alone.extents["l1"], alone.volume) == ((0.0, 0.0), 1.0)


def test_few_cells_speak_for_themselves() -> None:
    """Two sparsities × two l1 are not smoothed: a cell belongs to a region by its own seeds, and the regions' names differ."""
    frame = frame_of(
        ["5-3-5"] * 40, [0.5] * 20 + [0.9] * 20, [0.01, 1.0] * 20, range(40), ["none", "sae_dead"] * 10 + ["sae_dead", "none"] * 10
    )
    found = failure_regions(frame)
    assert sorted((region.extents["sparsity"][0], region.extents["l1"][0]) for region in found) == [(0.5, 1.0), (0.9, 0.01)]
    assert all(region.confidence > 0.95 for region in found)
    assert len({region.name for region in found}) == 2


@pytest.mark.parametrize("size", [6_000, 30_000])
def test_random_search_is_cut_into_bins(size: int) -> None:
    """Cells of one seed off any lattice that fail above l1 = 0.1 give a quarter of the plane, to half a bin, also when gathered."""
    generator = np.random.default_rng(0)
    sparsity, l1 = generator.uniform(0.3, 0.98, size), 10 ** generator.uniform(-4, 0, size)
    frame = frame_of(["5-3-5"] * size, sparsity, l1, range(size), np.where(l1 > 0.1, "sae_dead", "none"))
    (region,) = failure_regions(frame, "sae_dead")
    assert 0.1 < region.extents["l1"][0] < 0.15
    assert region.volume == pytest.approx(0.25, abs=1e-9)
    assert region.extents["sparsity"][0] < 0.35
    assert region.replicates == pytest.approx(size / 4, rel=0.04)
    assert region.confidence > 0.999


def test_level_moves_the_border() -> None:
    """A rate that climbs along sparsity: the higher the level, the smaller the region."""
    frame = lattice(lambda a, i, j: 0.02 + 0.08 * i, 60)
    volumes = [max(failure_regions(frame, level=level), key=lambda r: r.volume).volume for level in (0.22, 0.54, 0.86)]
    assert volumes == pytest.approx([9 / 12, 5 / 12, 1 / 12], abs=0.06)


def test_coordinates_are_a_choice() -> None:
    """Regions over another x equal those over sparsity except for its name: no code depends on the names of columns."""
    noise = replace(SPARSITY, name="noise_std", symbol="σ", thirds=("quiet", "medium", "noisy"))
    frame = lattice(box((0, 3), (6, 11), (6, 12)))
    (region,) = failure_regions(frame)
    renamed = frame.rename(columns={"sparsity": "noise_std"}).assign(sparsity=0.9)
    (other,) = failure_regions(renamed, domain=domain_of(renamed, Plane(noise, L1)))
    assert other.name == region.name.replace("sparse", "noisy")
    assert other.extents == {"noise_std": region.extents["sparsity"], "l1": region.extents["l1"]}
    assert replace(other, name="", extents={}) == replace(region, name="", extents={})
    turned = failure_regions(frame, domain=domain_of(frame, Plane(L1, SPARSITY)))
    assert [other.extents for other in turned] == [region.extents]
