"""What is reported about metrics, on studies whose metrics are known to be informative, blind, restatements or missing."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, norm, spearmanr

from analysis.comparisons.metric_trust import SIMILARITIES, metric_trust, rank_correlation_within, separation, spread_between_seeds
from study.storage import schema
from study.storage.schema import REAL, Column, Group, names_of, register_column, row_schema
from tests.analysis.test_frames import frame_of

SEEDS = 40


def made(kind: str = "unrecovered", rate: float = 0.5, seeds: int = SEEDS) -> pd.DataFrame:
    """Two cells. CKA restates the explained variance and is blind, F1 informs, RSA depends on the cell only, MMCS is constant."""
    random = np.random.default_rng(0)
    failing = {s: [kind if i < rate * seeds else "none" for i in range(seeds)] for s in (0.5, 0.9)}
    frame = frame_of({("5-3-5", s, 0.01): kinds for s, kinds in failing.items()})
    frame["failure"] = frame.groupby("sparsity")["failure"].transform(lambda x: random.permutation(x.to_numpy()))
    frame["sae_all_dead"] = frame["failure"] == "sae_dead"
    fails = frame["failure"] != "none"
    error = random.uniform(0.9, 1, size=len(frame))
    dead = frame["sae_all_dead"].to_numpy()
    return frame.assign(
        explained_variance=error,
        cka_hidden_recon=np.where(dead, np.nan, error**3),
        f1_latents_features=np.where(fails, 0.2, 0.9) + 0.05 * random.normal(size=len(frame)),
        rsa_hidden_recon=frame["sparsity"] + 0.01 * random.normal(size=len(frame)),
        mmcs_decoder_features=1.0,
        mcc_decoder_features=np.where(fails, 0.6, 0.95),
        mcc_chance=0.55,
    )


def test_every_metric_is_a_column_of_the_schema() -> None:
    """All except the corrected MCC, which is computed from two columns."""
    assert set(SIMILARITIES) - {"mcc_corrected"} <= set(row_schema().names)
    assert set(names_of(Group.SIMILARITY)) - set(SIMILARITIES) == {"mcc_chance"}


def test_a_registered_similarity_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes last, and is judged like the others; metrics on which a verdict is based are marked."""
    monkeypatch.setattr(schema, "COLUMNS", [*schema.COLUMNS])
    register_column(Column("angle", REAL, Group.SIMILARITY, 3, "of h and ĥ"))
    frame = made()
    table = metric_trust(frame.assign(angle=-frame["f1_latents_features"])).table
    assert table["metric"].tolist() == [*SIMILARITIES, "angle"]
    told = table.set_index("metric")
    assert told.loc["angle", "auc"] == pytest.approx(1 - told.loc["f1_latents_features", "auc"])
    assert table[table["in_verdict"]]["metric"].tolist() == ["explained_variance", "mcc_decoder_features", "mcc_corrected", "l0"]


# The area under the curve


def test_auc_is_that_of_all_pairs() -> None:
    """Pairs are within strata and ties count one half; for one stratum, Mann and Whitney's U over the number of pairs."""
    random = np.random.default_rng(1)
    values, stratum = random.integers(0, 6, size=120).astype(float), random.integers(0, 3, size=120)
    healthy = random.uniform(size=120) < 0.4
    pairs = [(a, b) for a, b in product(range(120), repeat=2) if healthy[a] and not healthy[b] and stratum[a] == stratum[b]]
    expected = np.mean([(values[a] > values[b]) + 0.5 * (values[a] == values[b]) for a, b in pairs])
    assert separation(values, healthy, ~healthy, stratum).auc == pytest.approx(expected)
    alone = separation(values, healthy, ~healthy, np.zeros(120, dtype=int)).auc
    assert alone == pytest.approx(mannwhitneyu(values[healthy], values[~healthy]).statistic / healthy.sum() / (~healthy).sum())
    turned = separation(-values, healthy, ~healthy, stratum)
    assert turned.auc == pytest.approx(1 - expected)
    shuffled = random.permutation(120)
    assert separation(*(x[shuffled] for x in (values, healthy, ~healthy, stratum))).auc == pytest.approx(expected)
    assert separation(np.exp(values), healthy, ~healthy, stratum).auc == pytest.approx(expected)


@pytest.mark.parametrize(("shift", "shared"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.9), (2.5, 0.0)])
def test_interval_of_the_auc_holds_the_truth(shift: float, shared: float) -> None:
    """Normal values, Φ(shift/√2): covered in at least 91 % of 150 studies, also if the cells of a seed are correlated."""
    random, covered = np.random.default_rng(2), 0
    unit, cell = np.tile(np.arange(50), 3), np.repeat(np.arange(3), 50)
    truth = norm.cdf(shift / np.sqrt(2))
    for _ in range(150):
        healthy = (random.uniform(size=50) < 0.5)[unit]
        luck = np.sqrt(shared) * random.normal(size=50)[unit] + np.sqrt(1 - shared) * random.normal(size=150)
        of = separation(luck + shift * healthy, healthy, ~healthy, cell, unit)
        covered += of.low <= truth <= of.high
    assert covered / 150 >= 0.91


def test_perfect_separation_is_not_certain() -> None:
    """An AUC of 1 from twelve and thirty values has the interval of 12 successes of 12; fewer than ten values give no interval."""
    values, healthy = np.arange(42.0), np.arange(42) >= 30
    of = separation(values, healthy, ~healthy, np.zeros(42, dtype=int))
    assert (of.auc, of.high) == (1, 1)
    assert 0.75 < of.low < 0.9
    few = separation(values[:35], healthy[:35], ~healthy[:35], np.zeros(35, dtype=int))
    assert np.isnan([few.auc, few.low, few.high]).all()
    assert (few.healthy, few.failing) == (5, 30)


# Spread and rank correlation


def test_spread_is_between_seeds_of_a_cell() -> None:
    """The spread is taken within cells; cells with fewer than five defined values do not count."""
    values, cell = np.array([0.0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 7, 9, np.nan]), np.repeat([0, 1, 2], [5, 5, 3])
    everything = np.ones(13, dtype=bool)
    assert spread_between_seeds(values, everything, cell) == 2
    assert np.isnan(spread_between_seeds(values, everything & (cell == 2), cell))
    assert np.isnan(spread_between_seeds(values[:0], everything[:0], cell[:0]))


def test_rank_correlation_is_within_cells() -> None:
    """In one cell it is Spearman's; cells that differ in both metrics add nothing; a monotone transform changes nothing."""
    random = np.random.default_rng(3)
    a, b, cell = random.normal(size=60), random.normal(size=60), np.repeat([0, 1, 2], 20)
    assert rank_correlation_within(a, a + b, np.zeros(60, dtype=int)) == pytest.approx(spearmanr(a, a + b).statistic)
    assert rank_correlation_within(a + 9 * cell, b + 9 * cell, cell) == pytest.approx(rank_correlation_within(a, b, cell))
    assert rank_correlation_within(a, np.exp(a), cell) == pytest.approx(1)
    assert np.isnan(rank_correlation_within(a, np.zeros(60), cell))
    assert np.isnan(rank_correlation_within(a[:5], b[:5], cell[:5]))


# A whole study


def test_what_is_known_is_said() -> None:
    """F1 informs, CKA restates and is blind, RSA depends on the cell only, MMCS is constant, the MCC is part of the verdict."""
    of = metric_trust(made())
    table = of.table.set_index("metric")
    assert table.loc["f1_latents_features", "auc"] == 1
    assert table.loc["cka_hidden_recon", "low"] < 0.5 < table.loc["cka_hidden_recon", "high"]
    assert table.loc["cka_hidden_recon", "error_rank_correlation"] == pytest.approx(1)
    assert abs(table.loc["rsa_hidden_recon", "auc"] - 0.5) < 0.2
    assert table.loc["mmcs_decoder_features", "auc"] == 0.5
    assert table.loc["mcc_corrected", "median_failing"] == pytest.approx(0.05 / 0.45)
    assert np.isnan(table.loc["procrustes_hidden_recon", "auc"])
    told = {sentence.split(":")[0]: sentence for sentence in of.sentences}
    assert "separates failing from healthy in the same cell (AUC 1.00" in told["f1_latents_features"]
    assert "is not shown to separate" in told["cka_hidden_recon"]
    assert "restates explained_variance (rank correlation within cells 1.00)" in told["cka_hidden_recon"]
    assert "the verdict depends on it" in told["mcc_corrected"]
    assert "not enough defined values" in told["procrustes_hidden_recon"]
    assert told["unrecovered"].startswith("unrecovered: the best metric, f1_latents_features, separates it from healthy")
    assert "cka_hidden_recon (AUC 0." in told["unrecovered"]


def test_sentences_follow_the_data() -> None:
    """If F1 is turned into noise, the same study names another metric as the guide, or none."""
    frame = made()
    noise = frame.assign(f1_latents_features=frame["f1_latents_features"].sample(frac=1, random_state=0).to_numpy())
    assert not any("f1_latents_features, separates" in sentence for sentence in metric_trust(noise).sentences)
    assert any("f1_latents_features, separates" in sentence for sentence in metric_trust(frame).sentences)
    shuffled = frame.sample(frac=1, random_state=1)
    assert metric_trust(shuffled).sentences == metric_trust(frame).sentences


def test_dead_replicates_have_no_similarity() -> None:
    """CKA is undefined where all latents are dead, which is reported with its share; a 0 by convention is no evidence."""
    of = metric_trust(made("sae_dead"))
    table = of.table.set_index("metric")
    assert table.loc["cka_hidden_recon", "defined_all_dead"] == 0
    assert table.loc["explained_variance", "defined_all_dead"] == 1
    assert "0% of those with all latents dead" in next(s for s in of.sentences if s.startswith("cka"))
    conventional = of.separation[of.separation["by_definition"] & (of.separation["kind"] == "sae_dead")]["metric"]
    assert "f1_latents_features" in set(conventional)
    groups = of.by_verdict.set_index(["metric", "group"])
    assert groups.loc[("cka_hidden_recon", "sae_dead"), "replicates"] == SEEDS
    assert np.isnan(groups.loc[("cka_hidden_recon", "sae_dead"), "median"])
    hidden = made("sae_dead").drop(columns=["rsa_hidden_recon"])
    assert any("no metric that does not define it" in sentence for sentence in metric_trust(hidden).sentences)


def test_cells_that_fail_as_a_whole_are_compared_across_cells() -> None:
    """If no cell holds both healthy and failing replicates, the comparison is over all cells, and says so."""
    frame = made(rate=0).assign(mmcs_decoder_features=np.linspace(0, 1, 2 * SEEDS))
    frame.loc[frame["sparsity"] == 0.9, "failure"] = "sae_dense"
    of = metric_trust(frame)
    assert not of.separation["within_cells"].any()
    assert any("over all cells" in sentence for sentence in of.sentences)


@pytest.mark.parametrize("case", ["empty", "one row", "all failed", "none failed", "no metric", "all NaN"])
def test_poor_studies_have_a_defined_answer(case: str) -> None:
    """Odd frames give tables with a row per metric, and no claim."""
    frame = made(rate={"all failed": 1.0, "none failed": 0.0}.get(case, 0.5))
    if case in ("empty", "one row"):
        frame = frame.head(0 if case == "empty" else 1)
    elif case == "no metric":
        frame = frame[["architecture", "sparsity", "l1", "seed", "failure", "sae_all_dead"]]
    elif case == "all NaN":
        frame = frame.assign(**dict.fromkeys([name for name in SIMILARITIES if name in frame], np.nan))
    of = metric_trust(frame)
    assert of.table["metric"].tolist() == list(SIMILARITIES)
    if case in ("no metric", "all NaN"):
        assert of.table[["auc", "spread_healthy", "error_rank_correlation"]].isna().all(axis=None) or case == "all NaN"
        assert all("not enough" in s or "no metric" in s or "replicates are healthy" in s for s in of.sentences)
    else:
        assert len(of.sentences) == 1
        assert "Not enough replicates" in of.sentences[0]
