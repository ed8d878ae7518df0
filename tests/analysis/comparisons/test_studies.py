"""Two studies whose differences are known: what is found, how replicates are paired, what is not claimed."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import fisher_exact, mannwhitneyu, wilcoxon

from analysis.comparisons import studies as comparison
from analysis.comparisons.studies import compare
from analysis.rates.cells import CELL
from search_spaces import MisuseError, Protocol, study_from
from study.packs import Pack
from study.run_pack import run_pack
from tests.analysis.test_frames import frame_of
from tests.conftest import TINY

SPARSITIES = (0.5, 0.75, 0.9)


def made(rates: dict[float, float], seeds: range, stream: int, effect: float = 0.0) -> pd.DataFrame:
    """A study of one architecture and l1 with these failure rates, and two metrics that depend on a hidden value of each seed."""
    random = np.random.default_rng(stream)
    kinds = {
        ("5-3-5", s, 0.01): np.where(random.uniform(size=len(seeds)) < p, "sae_dead", "none").tolist() for s, p in rates.items()
    }
    frame = frame_of(kinds)
    seed = frame["seed"] + seeds.start
    hidden = np.sin(seed * 12.9898)
    return frame.assign(seed=seed, ae_loss=hidden + effect + 0.01 * random.normal(size=len(frame)), l0=hidden)


def even(rate: float) -> dict[float, float]:
    return dict.fromkeys(SPARSITIES, rate)


def test_a_study_equals_itself() -> None:
    """Every p is 1, every pair is the same to the bit, and no sentence reports a difference, whatever the order of rows."""
    one = made(even(0.4), range(60), 0)
    of = compare(one, one.sample(frac=1, random_state=0))
    assert (of.pairs, of.same_verdict, of.identical) == (180, 180, 180)
    assert (of.cells["p_value"] == 1).all()
    assert (of.metrics["p_value"] == 1).all()
    assert of.overall.p_value == 1
    assert of.overall.low < 0 < of.overall.high
    assert "180 (100.0%) have the same verdict on both sides and 180 are the same to the bit" in of.sentences[0]
    assert not any(" differ beyond chance in 1" in sentence for sentence in of.sentences)


def test_common_seeds_are_paired_others_are_not() -> None:
    """McNemar's p over the discordant pairs and Fisher's over the counts equal scipy's."""
    one, other = made(even(0.5), range(40), 1), made(even(0.2), range(40), 2)
    paired = compare(one, other).cells
    assert (paired["test"] == "McNemar").all()
    both = one.merge(other, on=[*CELL, "seed"], suffixes=("", "_other"))
    first, second = both["failure"] != "none", both["failure_other"] != "none"
    for row in paired.itertuples():
        own = both["sparsity"] == row.sparsity
        assert row.only_one == (own & first & ~second).sum()
        assert row.only_other == (own & ~first & second).sum()
    apart = compare(one, other.assign(seed=other["seed"] + 1000))
    assert (apart.cells["test"] == "Fisher").all()
    assert apart.pairs == 0
    for row in apart.cells.itertuples():
        table = [[row.failures_one, 40 - row.failures_one], [row.failures_other, 40 - row.failures_other]]
        assert row.p_value == pytest.approx(fisher_exact(table).pvalue)
        assert row.low < row.rate_one - row.rate_other < row.high
    assert compare(one, other.assign(seed=other["seed"] + 10)).cells["replicates_one"].tolist() == [30] * 3
    assert compare(one, other.assign(seed=other["seed"] + 30)).cells["test"].tolist() == ["Fisher"] * 3


def test_sides_can_be_exchanged() -> None:
    """Swapping the studies gives the same p values and the opposite shift."""
    one, other = made(even(0.5), range(40), 1), made(even(0.2), range(20, 70), 2)
    forth, back = compare(one, other), compare(other, one)
    np.testing.assert_allclose(forth.cells["p_value"], back.cells["p_value"])
    np.testing.assert_allclose(forth.cells["low"], -back.cells["high"])
    np.testing.assert_allclose(forth.metrics["p_value"], back.metrics["p_value"])
    assert forth.overall.shift == pytest.approx(-back.overall.shift)
    assert forth.overall.p_shift == pytest.approx(back.overall.p_shift, abs=0.02)


def test_one_cell_that_differs_is_found() -> None:
    """It is named with its rates, and cells that do not differ are not; the studies as a whole differ in their pattern."""
    one = made(even(0.3), range(200), 3)
    other = made({**even(0.3), 0.9: 0.7}, range(1000, 1200), 4)
    of = compare(one, other)
    assert (of.cells["p_holm"] <= 0.05).tolist() == [False, False, True]
    assert of.overall.p_pattern < 0.01
    (told,) = [sentence for sentence in of.sentences if "differ beyond chance in 1 of 3 cells" in sentence]
    assert "5-3-5, S=0.9, l1=0.01" in told
    assert "S=0.5" not in told


def test_opposite_differences_do_not_cancel() -> None:
    """A rise in one cell and a fall in another leave no shift, but a pattern."""
    one = made({0.5: 0.2, 0.9: 0.8}, range(100), 5)
    other = made({0.5: 0.8, 0.9: 0.2}, range(100), 6)
    for of in (compare(one, other), compare(one, other.assign(seed=other["seed"] + 500))):
        assert of.overall.p_pattern < 0.001 < of.overall.p_shift
        assert abs(of.overall.shift) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_equal_studies_rarely_differ(monkeypatch: pytest.MonkeyPatch, paired: bool) -> None:
    """At 5 % the overall test rejects at most 5 % of 60 pairs, plus two standard errors, although a seed's cells are correlated."""
    monkeypatch.setattr(comparison, "DRAWS", 199)
    random = np.random.default_rng(0)
    cells = [("5-3-5", s, 0.01) for s in SPARSITIES]
    found = 0
    for _ in range(60):
        frames = []
        for side in range(2):
            luck = random.uniform(size=24)  # of a seed, the same in all its cells
            kinds = {
                cell: np.where(0.8 * luck + 0.2 * random.uniform(size=24) < 0.3, "sae_dead", "none").tolist() for cell in cells
            }
            frame = frame_of(kinds)
            frames.append(frame.assign(seed=frame["seed"] + (0 if paired else 100 * side)))
        found += compare(*frames).overall.p_value <= 0.05
    assert found / 60 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)


def test_pairing_finds_what_the_seed_hides() -> None:
    """Signed ranks find an effect of a hundredth of the spread over seeds, unpaired ranks do not; both equal scipy's tests."""
    one, other = made(even(0), range(50), 7), made(even(0), range(50), 8, effect=0.02)
    paired = compare(one, other).metrics.set_index("metric").loc["ae_loss"]
    assert (paired["p_holm"] < 0.001).all()
    assert (paired["difference"] < 0).all()
    apart = compare(one, other.assign(seed=other["seed"] + 50)).metrics.set_index("metric").loc["ae_loss"]
    assert (apart["p_value"] > 0.3).all()
    values = [frame.loc[frame["sparsity"] == 0.9, "ae_loss"] for frame in (one, other)]
    assert paired["p_value"].iloc[-1] == pytest.approx(wilcoxon(*values).pvalue)
    assert apart["p_value"].iloc[-1] == pytest.approx(mannwhitneyu(*values).pvalue)


def test_undefined_metrics_are_left_out_and_counted() -> None:
    """A pair with NaN does not count. A metric that is defined nowhere gives NaN and a sentence. Whole numbers may be missing."""
    one = made(even(0.5), range(30), 9)
    other = one.assign(l0=pd.Series([pd.NA] * 90, dtype="Int64"), ae_loss=one["ae_loss"].where(one["seed"] < 20))
    of = compare(one, other)
    table = of.metrics.set_index("metric")
    assert table.loc["ae_loss", "defined_other"].tolist() == [20] * 3
    assert (table.loc["ae_loss", "p_value"] == 1).all()
    assert table.loc["l0", "p_value"].isna().all()
    assert "There is no cell in which l0 is defined on both sides." in of.sentences
    assert of.identical == 0


def test_cells_of_one_side_are_left_out() -> None:
    """They are counted too; levels that differ in the last bit are the same cell."""
    one, other = made(even(0.5), range(9), 0), made({0.9: 0.5, 0.95: 0.5}, range(9), 1)
    of = compare(one, other.assign(l1=np.nextafter(0.01, 1)))
    assert of.unshared_cells == (2, 1)
    assert of.cells["sparsity"].tolist() == [0.9]
    assert of.cells["common_seeds"].tolist() == [9]


@pytest.mark.parametrize("case", ["empty", "one row", "all failed", "none failed", "no common cell"])
def test_poor_studies_have_a_defined_answer(case: str) -> None:
    """There are tables and sentences, which claim nothing."""
    one = made(even({"all failed": 1.0}.get(case, 0.0)), range(1 if case == "one row" else 5), 0)
    other = one.head(0) if case == "empty" else one.assign(l1=0.5) if case == "no common cell" else one
    of = compare(one, other)
    if case in ("empty", "no common cell"):
        assert of.cells.empty
        assert of.metrics.empty
        assert of.sentences == ["the first and the second share no cell, so nothing can be compared."]
        assert compare(other, other.head(0)).cells.empty
    else:
        assert (of.cells[["p_value", "p_holm", "p_fdr"]] == 1).all(axis=None)
        assert of.overall.p_value == 1
        assert "no difference beyond chance" in of.sentences[1]
        apart = compare(one, one.assign(seed=99 + one["seed"]))
        assert apart.overall.p_value == 1
        assert (apart.cells["p_holm"] == 1).all()


def test_a_replicate_twice_is_refused() -> None:
    """A frame of two studies cannot be compared with a third."""
    one = made(even(0.5), range(5), 0)
    with pytest.raises(MisuseError, match="with each replicate once"):
        compare(pd.concat([one, one]), one)
    with pytest.raises(MisuseError, match="Did you mean"):
        compare(one, one, "sae_deed")


def test_collapse_is_compared_once_for_each_autoencoder() -> None:
    """The collapse of an AE with three SAEs counts once."""
    rows = [(s, ae, sae, "ae_collapsed" if ae < 3 else "none") for s, ae, sae in product((0.9,), range(10), range(3))]
    frame = pd.DataFrame(rows, columns=["sparsity", "ae_seed", "sae_seed", "failure"]).assign(architecture="5-3-5", l1=0.01)
    frame = frame.assign(seed=frame["ae_seed"], data_seed=frame["ae_seed"], sae_all_dead=False)
    assert compare(frame, frame, "ae_collapsed").cells["replicates_one"].tolist() == [10]
    assert compare(frame, frame).cells["replicates_one"].tolist() == [30]


def test_engines_and_protocols_are_compared(tiny: Protocol) -> None:
    """On real rows two engines agree to the bit, and a protocol with another SAE learning rate does not."""
    space = {"architectures": ["5-3-5"], "sparsities": [0.5, 0.9], "l1": [0.01], "seeds": "0:6"}

    def rows(engine: str, **changes: float) -> pd.DataFrame:
        spec = study_from({"name": "made", "protocol": TINY, "space": space})
        pack = Pack(spec.replicates()[0], dataclasses.replace(tiny, **changes), "float64", engine)
        frame = run_pack(pack, study="made").to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        return frame.assign(sae_all_dead=False)

    reference = rows("reference")
    assert compare(reference, rows("compiled")).identical == 12
    of = compare(reference, rows("reference", sae_learning_rate=0.1))
    assert of.identical == 0
    assert set(of.metrics["metric"]) == set(comparison.METRICS_COMPARED)
    assert (of.metrics.query("metric == 'ae_loss'")["p_value"] == 1).all()
    assert (of.metrics.query("metric == 'explained_variance'")["difference"] != 0).all()
