"""From a pack to its rows: the same replicate gives the same row, whatever it is trained with; packs and their plans."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.random import RandomState
from numpy.typing import NDArray

from search_spaces import PROTOCOLS, Architecture, Cell, Protocol, Replicate, Replicates, grid, protocol_from
from study import chunks, data, packs, run_pack
from study.engines.compiled import CompiledEngine
from study.engines.contract import SaeTask
from study.failures import judge
from study.packs import Pack, autoencoder_keys, estimated_seconds, plan_packs, started_small
from study.storage.schema import OF_THE_SAE, columns, row_schema, science_columns
from study.verdict_rows import crashed_rows
from tests import textbook

Row = dict[str, Any]

ONLINE = dataclasses.replace(PROTOCOLS["dissertation"], samples=120, ae_epochs=1, sae_epochs=1)
BATCHED = dataclasses.replace(
    PROTOCOLS["sound"],
    samples=96,
    eval_samples=150,
    ae_steps=60,
    ae_batch_size=8,
    sae_steps=60,
    sae_batch_size=8,
    sae_warmup_steps=20,
)
AE_ONLY = dataclasses.replace(ONLINE, sae_epochs=0)
BOTH = pytest.mark.parametrize("protocol", [ONLINE, BATCHED], ids=["dissertation", "sound"])
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
MEASURED_OF_THE_SAE = [column.name for column in columns(*OF_THE_SAE) if column.since == 1]


def mixed(architecture: str = "5-3-5", count: int = 64) -> Replicates:
    """Replicates of several sparsities, seeds and l1, some sharing an autoencoder, in no order."""
    (everything,) = grid([architecture], [0.0, 0.5, 0.8, 0.9], [0.001, 0.01, 0.3, 2.0], range(4))
    return everything.take(np.random.default_rng(5).permutation(len(everything))[:count])


def pack_of(replicates: Replicates, protocol: Protocol = ONLINE, dtype: str = "float64") -> Pack:
    return Pack(replicates, protocol, dtype, "compiled")


def science(rows: pa.Table) -> dict[str, Row]:
    """The science of each replicate, floats to the bit."""

    def exact(value: Any) -> Any:
        return value.hex() if isinstance(value, float) else value

    table = rows.select(science_columns()).to_pylist()
    return {row["replicate_id"]: {name: exact(value) for name, value in row.items()} for row in table}


def rows_of(pack: Pack) -> dict[str, Row]:
    return science(run_pack.run_pack(pack))


# Guarantee 1: same replicate, same row


@DTYPES
@BOTH
@pytest.mark.parametrize("architecture", ["5-3-5", "10-5-10/14"])
def test_a_row_does_not_depend_on_pack_mates(architecture: str, protocol: Protocol, dtype: str) -> None:
    """A replicate alone, in a pack of 7, in one of 64 and in another order gives the same science, bit for bit."""
    replicates = mixed(architecture)
    of_64 = rows_of(pack_of(replicates, protocol, dtype))
    assert len(of_64) == 64
    assert rows_of(pack_of(replicates.take(slice(None, None, -1)), protocol, dtype)) == of_64
    seven = replicates.take(np.array([40, 3, 17, 63, 0, 22, 9]))
    of_7 = rows_of(pack_of(seven, protocol, dtype))
    assert of_7 == {name: of_64[name] for name in of_7}
    for r in range(4):
        alone = rows_of(pack_of(seven.take(slice(r, r + 1)), protocol, dtype))
        assert alone == {name: of_64[name] for name in alone}


@DTYPES
@BOTH
def test_l1_values_on_one_autoencoder_give_the_rows_of_each_alone(protocol: Protocol, dtype: str) -> None:
    """Several l1 share an AE: AE columns agree to the bit, and each row is that of its l1 trained alone."""
    (shared,) = grid(["5-3-5"], [0.8], [0.0, 0.0005, 0.001, 0.003, 0.01], [3])
    together = run_pack.run_pack(pack_of(shared, protocol, dtype))
    for name in ("ae_loss", "ae_diagonal_mean", "ae_condition_number", "hidden_rms", "empirical_sparsity"):
        assert len(set(together[name].to_pylist())) == 1
    assert len(set(together["sae_loss"].to_pylist())) == 5
    alone: dict[str, Row] = {}
    for r in range(5):
        alone |= rows_of(pack_of(shared.take(slice(r, r + 1)), protocol, dtype))
    assert science(together) == alone


@BOTH
def test_running_again_gives_the_same_bits(protocol: Protocol) -> None:
    """No state is left between runs: another pack trained in between changes nothing."""
    pack = pack_of(mixed(count=5), protocol)
    first = rows_of(pack)
    rows_of(pack_of(mixed("6-2-6", 3), protocol))
    assert rows_of(pack) == first


@BOTH
@pytest.mark.parametrize(("name", "value"), [("lanes", 1), ("lanes", 3), ("CHUNK_BYTES", 30_000)])
def test_chunk_borders_do_not_matter(protocol: Protocol, name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes trained together, samples held together and activations measured together change no bit of a row, nor their order."""
    pack = pack_of(mixed(), protocol)
    whole = run_pack.run_pack(pack)
    monkeypatch.setattr(CompiledEngine if name == "lanes" else chunks, name, value)
    in_pieces = run_pack.run_pack(pack)
    assert science(in_pieces) == science(whole)
    assert in_pieces["replicate_id"].to_pylist() == pack.replicate_ids


def test_borders_of_the_test_above_cut_the_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lane gives a chunk for each autoencoder, as does too little memory; many lanes give one chunk."""
    pack = pack_of(mixed())
    autoencoders = len(autoencoder_keys(pack.replicates)[0])
    trained: list[int] = []
    train = CompiledEngine.train_saes

    def counted(engine: CompiledEngine, task: SaeTask) -> Any:
        trained.append(task.start.W_dec.shape[-1])
        return train(engine, task)

    monkeypatch.setattr(CompiledEngine, "train_saes", counted)
    for target, name, value, expected in (
        (CompiledEngine, "lanes", 10_000, 1),
        (CompiledEngine, "lanes", 1, autoencoders),
        (chunks, "CHUNK_BYTES", 1, autoencoders),
    ):
        trained.clear()
        monkeypatch.setattr(target, name, value)
        run_pack.run_pack(pack)
        assert len(trained) == expected
        assert sum(trained) == len(pack)


def test_rows_stand_in_the_packs_order() -> None:
    """Row r is replicate r, also where autoencoders are interleaved."""
    pack = pack_of(mixed())
    rows = run_pack.run_pack(pack)
    assert rows["replicate_id"].to_pylist() == pack.replicate_ids
    for name in ("sparsity", "l1", "seed", "data_seed", "ae_seed", "sae_seed"):
        assert rows[name].to_pylist() == getattr(pack.replicates, name).tolist()


def test_trained_autoencoders_stand_in_the_packs_order() -> None:
    """`train_autoencoders` gives lane r the weights that replicate r has alone."""
    pack = pack_of(mixed(count=9))
    together = run_pack.train_autoencoders(pack)
    for r in range(9):
        alone = run_pack.train_autoencoders(pack.take(slice(r, r + 1)))
        np.testing.assert_array_equal(together.W[..., r], alone.W[..., 0])
        np.testing.assert_array_equal(together.b[..., r], alone.b[..., 0])


@BOTH
def test_each_seed_feeds_its_own_part(protocol: Protocol) -> None:
    """`data_seed` alone changes the data, `ae_seed` the AE and not the data, `sae_seed` the SAE and not the AE."""
    cell = Cell(Architecture(5, 3), 0.5, 0.01)
    given = [
        Replicate(cell, 1),
        Replicate(cell, 1, data_seed=2),
        Replicate(cell, 1, ae_seed=2),
        Replicate(cell, 1, sae_seed=2),
        Replicate(cell, 9, data_seed=1, ae_seed=1, sae_seed=1),
    ]
    base, *others = run_pack.run_pack(pack_of(Replicates.of(given), protocol)).to_pylist()
    columns = ("empirical_sparsity", "ae_loss", "sae_loss")
    changed = [tuple(row[name] != base[name] for name in columns) for row in others]
    assert changed == [(True, True, True), (False, True, True), (False, False, True), (False, False, False)]
    assert len({row["replicate_id"] for row in (base, *others)}) == 5


# Against the textbook


def textbook_columns(replicate: Replicate, protocol: Protocol) -> Row:
    """Losses and counts of a replicate trained one sample after the other by the textbook, data included."""
    architecture, S = replicate.cell.architecture, replicate.cell.sparsity
    n, m, n_latents = architecture.n_features, architecture.n_hidden, architecture.n_latents
    if protocol.generator == "legacy":
        source = RandomState(replicate.data_seed)
        mask = source.binomial(1, 1 - S, (protocol.samples, n)).astype(np.float32)
        x = evaluation = source.uniform(0, 1, (protocol.samples, n)) * mask
        W = RandomState(replicate.ae_seed).normal(0, 0.01, (m, n))
        source = RandomState(replicate.sae_seed)
        W_enc, W_dec = source.normal(0, 0.01, (n_latents, m)), source.normal(0, 0.01, (m, n_latents))
    else:
        assert protocol.eval_samples is not None
        seeds = (replicate.data_seed, replicate.ae_seed, replicate.sae_seed)
        assert None not in seeds
        U, V = data.stream(seeds[0] or 0, 0).random((2, protocol.samples, n))
        x = V * (U >= S)
        U, V = data.stream(seeds[0] or 0, 1).random((2, protocol.eval_samples, n))
        evaluation = V * (U >= S)
        W = data.stream(seeds[1] or 0, 3).normal(0, np.sqrt(2 / (n + m)), (m, n))
        W_dec = data.stream(seeds[2] or 0, 5).normal(size=(m, n_latents))
        W_dec /= np.linalg.norm(W_dec, axis=0)
        W_enc = W_dec.T.copy()
    ae_batches = data.minibatches(replicate.ae_seed or 0, 4, protocol.ae_training_steps, protocol.ae_batch_size, protocol)
    sae_batches = data.minibatches(replicate.sae_seed or 0, 6, protocol.sae_training_steps, protocol.sae_batch_size, protocol)
    W, b = textbook.train_autoencoder(W, np.zeros(n), x, ae_batches, protocol)
    h, fresh = x @ W.T, evaluation @ W.T
    b_dec = h.mean(axis=0) if protocol.sae_decoder_bias_init == "mean" else np.zeros(m)
    sae = textbook.train_sae(W_enc, W_dec, b_dec, h, sae_batches, replicate.cell.l1, protocol)
    f = textbook.sae_code(sae[0], sae[1], sae[3], fresh, protocol)
    return {
        "empirical_sparsity": float(np.mean(evaluation == 0)),
        "ae_loss": float(textbook.ae_loss(W, b, evaluation, 0.7 ** np.arange(n))),
        "ae_diagonal_mean": float(np.mean(np.diag(W.T @ W))),
        "hidden_rms": float(np.sqrt(np.mean(fresh**2))),
        "sae_loss": float(textbook.sae_loss(*sae, fresh, replicate.cell.l1, protocol)),
        "sae_mse": float(np.mean((fresh - f @ sae[2].T - sae[3]) ** 2)),
        "l0": float(np.mean(np.sum(f > 0, axis=1))),
        "dead_latents": int(np.sum(np.mean(f > 0, axis=0) < protocol.dead_below)),
    }


@BOTH
def test_rows_are_those_of_the_textbook(protocol: Protocol) -> None:
    """Draws of separate seeds, both trainings and their measurement, done again one replicate at a time, to 1e-9."""
    architecture = Architecture(5, 3, 6)
    cells = [Cell(architecture, S, l1) for S, l1 in ((0.8, 0.01), (0.0, 0.3), (0.5, 0.0))]
    replicates = Replicates.of([Replicate(cells[0], 1, 2, 3, 4), Replicate(cells[1], 7), Replicate(cells[2], 9, sae_seed=0)])
    for row, replicate in zip(run_pack.run_pack(pack_of(replicates, protocol)).to_pylist(), replicates, strict=True):
        for name, expected in textbook_columns(replicate, protocol).items():
            assert row[name] == pytest.approx(expected, rel=1e-9), name


# Guarantee 3: a failed training is a row


@BOTH
@pytest.mark.parametrize(("dtype", "l1"), [("float64", 1.7e308), ("float32", 1e39), ("float32", 1.7e308)])
def test_a_diverging_replicate_is_a_row_and_leaves_its_mates_alone(protocol: Protocol, dtype: str, l1: float) -> None:
    """One row says `diverged` with NaN in the SAE's columns; the others are those of the pack without it."""
    healthy = mixed(count=7)
    expected = rows_of(pack_of(healthy, protocol, dtype))
    mixture = healthy.take(np.array([0, 1, 2, 2, 3, 4, 5, 6]))
    mixture.l1[3] = l1  # beyond what a cell may have
    rows = run_pack.run_pack(pack_of(mixture, protocol, dtype))
    (diverged,) = (row for row in rows.to_pylist() if row["l1"] == l1)
    assert diverged["failure"] == "diverged"
    assert diverged["cause"] == "unknown"
    assert diverged["dead_latents"] is None
    assert all(np.isnan(diverged[name]) for name in MEASURED_OF_THE_SAE if name != "dead_latents")
    assert np.isfinite(diverged["ae_loss"])
    found = science(rows)
    assert found.pop(diverged["replicate_id"])["failure"] == "diverged"
    assert found == expected
    assert "diverged" not in {row["failure"] for row in expected.values()}


def test_a_diverging_autoencoder_is_a_row_and_leaves_its_mates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One AE whose weights start as NaN: its row is `diverged` with NaN in AE and SAE columns, the others keep their bits."""
    (replicates,) = grid(["5-3-5"], [0.5, 0.9], [0.01], range(3))
    expected = rows_of(pack_of(replicates))
    initial = data.ae_initial_weights

    def sick(architecture: Architecture, seed: int, protocol: Protocol) -> NDArray[np.float64]:
        W = initial(architecture, seed, protocol)
        return W * np.nan if seed == 1 else W

    monkeypatch.setattr(data, "ae_initial_weights", sick)
    table = run_pack.run_pack(pack_of(replicates))
    for row, of_science in zip(table.to_pylist(), science(table).values(), strict=True):
        if row["seed"] != 1:
            assert of_science == expected[row["replicate_id"]]
            continue
        assert row["failure"] == "diverged"
        assert all(row[name] is None for name in ("ae_dead_outputs", "ae_features_represented", "dead_latents"))
        assert np.isnan([row["ae_loss"], row["hidden_rms"], row["sae_loss"], row["l0"]]).all()
        assert row["ae_loss_bias_only"] > row["ae_loss_dedicated"] > 0


def test_crashed_rows_say_so_and_nothing_else() -> None:
    """One row per replicate with its identity, `crashed`, and no measurement."""
    pack = pack_of(mixed(count=3))
    rows = crashed_rows(pack, study="s", trial_id="t")
    assert rows.schema == row_schema()
    assert rows["replicate_id"].to_pylist() == pack.replicate_ids
    identity = row_schema().names[: row_schema().names.index("dtype") + 1]
    kept = (*identity, "failure", "cause", "trial_id", "finished_at")
    for row in rows.to_pylist():
        assert (row["failure"], row["cause"], row["study"], row["trial_id"]) == ("crashed", "unknown", "s", "t")
        assert all(value is None or np.isnan(value) for name, value in row.items() if name not in kept)


def test_without_an_sae_its_columns_are_empty() -> None:
    """`sae_epochs: 0` measures the AE alone: NaN in every SAE column, null in its count, and a verdict all the same."""
    pack = pack_of(mixed(count=6), AE_ONLY)
    with_sae = run_pack.run_pack(pack_of(mixed(count=6)))
    rows = run_pack.run_pack(pack)
    for row, other in zip(rows.to_pylist(), with_sae.to_pylist(), strict=True):
        assert row["dead_latents"] is None
        assert all(np.isnan(row[name]) for name in MEASURED_OF_THE_SAE if name != "dead_latents")
        assert row["ae_loss"] == other["ae_loss"]
        assert row["failure"] in ("none", "ae_collapsed")
        assert (row["failure"] == "ae_collapsed") == (other["failure"] == "ae_collapsed")
    assert {row["cause"] for row in rows.to_pylist() if row["failure"] == "none"} <= {"none"}


# The table


@BOTH
def test_rows_have_the_schema_of_the_store(protocol: Protocol) -> None:
    """Exactly the schema, no null where something is always known, and what was given is copied."""
    pack = pack_of(mixed(count=4), protocol, "float32")
    rows = run_pack.run_pack(pack, study="my-study", trial_id="trial-7")
    assert rows.schema == row_schema()
    assert all(rows[name].null_count == 0 for name in rows.column_names if name != "l0_outcome")  # of a target alone
    first = rows.to_pylist()[0]
    assert (first["study"], first["trial_id"], first["engine"], first["dtype"]) == ("my-study", "trial-7", "compiled", "float32")
    assert (first["architecture"], first["n_features"], first["n_hidden"], first["n_latents"]) == ("5-3-5", 5, 3, 5)
    assert first["protocol_id"] == protocol.protocol_id
    assert first["active_fraction"] == pytest.approx(first["l0"] / 5)
    assert len(set(rows["wall_seconds"].to_pylist())) == 1  # shared evenly
    assert first["wall_seconds"] > 0


def test_stored_verdicts_are_those_of_judging_the_stored_rows() -> None:
    """Judging a table again under its own protocol gives its `failure`; `cause` is `none` exactly where nothing failed."""
    for protocol in (ONLINE, BATCHED, AE_ONLY):
        frame = run_pack.run_pack(pack_of(mixed(), protocol)).to_pandas()
        assert judge(frame, protocol).tolist() == frame["failure"].tolist()
        assert ((frame["cause"] == "none") == (frame["failure"] == "none")).all()


# Packs


@BOTH
def test_a_pack_survives_its_text(protocol: Protocol) -> None:
    """from_text(to_text) is the same pack: ids, order, protocol, dtype, engine; awkward floats and separate seeds included."""
    cell = Cell(Architecture(6, 2, 9), 1 / 3, 0.1 + 0.2)
    smallest = Cell(Architecture(6, 2, 9), 0.0, 1e-12)
    replicates = Replicates.of([Replicate(cell, 2**32 - 1), Replicate(cell, 0, 1, 2, 3), Replicate(smallest, 7)])
    pack = Pack(replicates, protocol, "float32", "auto")
    read = Pack.from_text(pack.to_text())
    assert list(read.replicates) == list(replicates)
    assert (read.protocol, read.dtype, read.engine) == (protocol, "float32", pack.engine)
    assert read.replicate_ids == pack.replicate_ids
    assert read.pack_id == pack.pack_id


@pytest.mark.parametrize(
    "given",
    [{"samples": 40, "ae_epochs": 1, "sae_epochs": 1}, {"sae_epochs": 1, "ae_epochs": 1, "samples": 40}],
    ids=["in the order of the fields", "in another order"],
)
def test_a_row_does_not_depend_on_its_packs_journey(given: dict[str, Any]) -> None:
    """A pack read back from text, as a worker reads it, gives the science columns of the pack itself, `protocol` included."""
    pack = pack_of(mixed(count=1), protocol_from({"base": "dissertation", **given}))
    assert rows_of(Pack.from_text(pack.to_text())) == rows_of(pack)


REPLICATE = Replicate(Cell(Architecture(5, 3), 0.5, 0.01), 1)


def replicate_id(
    replicate: Replicate = REPLICATE, protocol: Protocol = ONLINE, dtype: str = "float64", engine: str = "reference"
) -> str:
    (name,) = Pack(Replicates.of([replicate]), protocol, dtype, engine).replicate_ids
    return name


def test_replicate_ids_are_hashes_of_lines() -> None:
    """Of each replicate's numbers as Python writes them, though they are written once per distinct value: 0.0 is not -0.0."""
    sparsity, l1 = np.array([0.0, -0.0, 0.1 + 0.2, 0.3, -0.0]), np.array([1e-12, 5e-324, 1e6, 0.01, 5e-324])
    seeds = [np.array(column) for column in ([3, 0, 2**32 - 1, 7, 0], [1] * 5, [5, 4, 5, 4, 4], [10, 9, 8, 7, 9])]
    for step in (1, -1):
        pack = Pack(
            Replicates(Architecture(10, 5), sparsity, l1, *seeds).take(slice(None, None, step)), ONLINE, "float32", "compiled"
        )
        lines = zip(*(getattr(pack.replicates, name).tolist() for name in ("sparsity", "l1", *packs.SEED_COLUMNS)))
        tail = f"|{ONLINE.protocol_id}|float32|exact|{packs.PROCEDURE_VERSION}"
        texts = ["10-5-10|" + "|".join(map(repr, line)) + tail for line in lines]
        assert pack.replicate_ids == [hashlib.sha256(text.encode()).hexdigest()[:20] for text in texts]
        assert len(set(pack.replicate_ids)) == 4


def test_replicate_ids_tell_everything_that_matters_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Architecture, sparsity, l1, each seed, protocol, dtype, engine family and version of the procedure enter."""
    cell, other = REPLICATE.cell, dataclasses.replace
    ids = {
        "base": replicate_id(),
        "width": replicate_id(other(REPLICATE, cell=other(cell, architecture=Architecture(6, 3)))),
        "bottleneck": replicate_id(other(REPLICATE, cell=other(cell, architecture=Architecture(5, 2)))),
        "latents": replicate_id(other(REPLICATE, cell=other(cell, architecture=Architecture(5, 3, 6)))),
        "sparsity": replicate_id(other(REPLICATE, cell=other(cell, sparsity=np.nextafter(0.5, 1).item()))),
        "l1": replicate_id(other(REPLICATE, cell=other(cell, l1=np.nextafter(0.01, 1).item()))),
        "exchanged": replicate_id(other(REPLICATE, cell=Cell(cell.architecture, 0.01, 0.5))),
        **{name: replicate_id(other(REPLICATE, **{name: 2})) for name in ("seed", "data_seed", "ae_seed", "sae_seed")},
        "protocol": replicate_id(protocol=BATCHED),
        "threshold": replicate_id(protocol=other(ONLINE, unfaithful_below=0.8)),
        "dtype": replicate_id(dtype="float32"),
    }
    monkeypatch.setattr(packs, "PROCEDURE_VERSION", packs.PROCEDURE_VERSION + 1)
    ids["version"] = replicate_id()
    monkeypatch.undo()
    ids["family"] = replicate_id(engine="torch")
    assert len(set(ids.values())) == len(ids)
    assert replicate_id(engine="auto") == ids["base"]
    assert replicate_id(Replicate(cell, 1, 1, 1, 1)) == ids["base"]


def test_every_protocol_field_changes_the_protocols_id() -> None:
    """No field but the name is left out of `protocol_id`, and a default written out is the default."""
    changes: dict[str, Any] = {
        "generator": "pcg64", "samples": 1999, "importance_decay": 0.8,
        "ae_init_std": "xavier", "ae_epochs": 6, "ae_batch_size": 2, "ae_learning_rate": 0.02, "ae_warmup_steps": 1,
        "ae_schedule": "cosine", "sae_init_std": 0.02, "sae_decoder_init": "unit_norm",
        "sae_encoder_init": "decoder_transpose", "sae_decoder_norm": "unit", "sae_decoder_bias_init": "mean",
        "sae_subtract_decoder_bias": True, "sae_epochs": 21, "sae_batch_size": 2, "sae_learning_rate": 0.002,
        "sae_warmup_steps": 1, "sae_schedule": "cosine", "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-7,
        "dead_below": 0.02, "represented_above": 0.6, "constant_below": 1e-11, "collapsed_from": 0.9, "starved_below": 0.4,
        "dense_above": 2.0, "unfaithful_below": 0.8, "unrecovered_below": 0.4,
        "ae_init_scale": 2.0, "sae_init_scale": 2.0, "sae_input": "rescaled",
        "sae_variant": "jumprelu", "sae_threshold_init": 0.06, "sae_threshold_bandwidth": 0.2,
        "sae_target_l0": 0.8, "reached_within": 0.1,
    }  # fmt: skip
    base = PROTOCOLS["dissertation"]
    pcg = dataclasses.replace(base, generator="pcg64")
    protocols = [
        base,
        *(dataclasses.replace(base, **{name: value}) for name, value in changes.items()),
        dataclasses.replace(pcg, eval_samples=50),
        dataclasses.replace(pcg, sample_order="with_replacement"),
        dataclasses.replace(base, ae_epochs=None, ae_steps=10_000),
        dataclasses.replace(base, sae_epochs=None, sae_steps=40_000),
        *(dataclasses.replace(base, sae_variant="topk", sae_k=k) for k in (1, 2)),
    ]
    covered = {*changes, "eval_samples", "sample_order", "ae_steps", "sae_steps", "sae_k"}
    assert covered == {f.name for f in dataclasses.fields(Protocol)}
    assert len({protocol.protocol_id for protocol in protocols}) == len(protocols)
    assert dataclasses.replace(base, samples=2000, ae_learning_rate=0.01).protocol_id == base.protocol_id


def test_ids_do_not_depend_on_order_or_pack() -> None:
    """A replicate has the same id in any pack at any position; a pack has the same id in any order, and no other pack has it."""
    pack = pack_of(mixed())
    order = np.random.default_rng(1).permutation(64)
    shuffled = pack.take(order)
    assert shuffled.replicate_ids == [pack.replicate_ids[i] for i in order]
    assert shuffled.pack_id == pack.pack_id
    assert len(set(pack.replicate_ids)) == 64
    parts = [pack.take(slice(0, 63)), pack.take(slice(1, 64)), *pack.halves(), pack]
    assert len({part.pack_id for part in parts}) == 5


@pytest.mark.parametrize("size", [2, 3, 7, 64])
def test_halves_are_the_pack(size: int) -> None:
    """Both halves hold something, they differ by one at most, and together they are the pack in its order."""
    pack = pack_of(mixed(count=size))
    left, right = pack.halves()
    assert left.replicate_ids + right.replicate_ids == pack.replicate_ids
    assert abs(len(left) - len(right)) <= 1
    assert len(left) > 0


def test_autoencoders_are_shared_by_all_that_they_do_not_see() -> None:
    """One AE for each (sparsity, data_seed, ae_seed), in order of appearance; l1 and sae_seed do not enter."""
    cells = [Cell(Architecture(5, 3), S, l1) for S, l1 in ((0.5, 1), (0.9, 1), (0.5, 2), (0.5, 2), (0.9, 3), (0.5, 1))]
    seeds = [(0, 0, 0), (0, 0, 0), (0, 0, 5), (1, 0, 0), (0, 1, 0), (0, 0, 0)]
    given = [Replicate(cell, 0, *own) for cell, own in zip(cells, seeds)]
    first, which = autoencoder_keys(Replicates.of(given))
    assert first.tolist() == [0, 1, 3, 4]
    assert which.tolist() == [0, 1, 0, 2, 3, 0]
    replicates = mixed()
    keys = list(zip(replicates.sparsity, replicates.data_seed, replicates.ae_seed))
    first, which = autoencoder_keys(replicates)
    assert [keys[first[w]] for w in which] == keys
    assert len(first) == len(set(keys))
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("pack_size", [1, 2, 3, 7, 31, 63, 64, 65, 1000, "auto"])
@pytest.mark.parametrize("workers", [1, 3, 64])
def test_a_plan_covers_each_replicate_once(pack_size: int | str, workers: int) -> None:
    """Cut in any way, the packs hold every replicate of every architecture exactly once, none empty, none above its size."""
    wanted = [pack_of(mixed()), pack_of(mixed("6-3-6", 5)), pack_of(mixed("10-5-10", 1))]
    planned = plan_packs(wanted, pack_size, workers)
    assert [name for pack in planned for name in pack.replicate_ids] == [name for pack in wanted for name in pack.replicate_ids]
    assert all(len(pack) > 0 for pack in planned)
    if isinstance(pack_size, int):
        assert all(len(pack) <= pack_size for pack in planned)
        assert len(planned) == sum(-(-len(pack) // pack_size) for pack in wanted)
    for one in wanted:
        sizes = [len(pack) for pack in planned if pack.replicates.architecture == one.replicates.architecture]
        assert max(sizes) - min(sizes) <= 1


def test_nothing_wanted_needs_no_pack() -> None:
    """A study whose rows are all stored is planned as no packs."""
    assert plan_packs([], "auto", 4) == []
    assert plan_packs([], 10, 4) == []


def test_automatic_packs_are_of_the_stated_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pack is expected to take much longer than PACK_SECONDS, and small studies still give each worker one."""
    (replicates,) = grid(["10-5-10"], np.linspace(0.1, 0.9, 20).tolist(), [0.01, 0.1], range(1000))
    large = pack_of(replicates, PROTOCOLS["dissertation"])
    planned = plan_packs([large], "auto", 2)
    assert len(planned) > 2
    assert max(estimated_seconds(pack) for pack in planned) < 2 * packs.PACK_SECONDS[1]
    few = plan_packs([large.take(slice(0, 2000))], "auto", 2)
    assert max(estimated_seconds(pack) for pack in few) < 2 * packs.PACK_SECONDS[0]
    assert len(plan_packs([pack_of(mixed())], "auto", 8)) == 8
    monkeypatch.setattr(packs, "MOST_PACKS", 5)
    assert len(plan_packs([large], "auto", 2)) <= 5


def test_a_study_starts_with_small_packs() -> None:
    """Each worker's first pack takes about a second, the next ones longer; no replicate is lost, and later packs stay."""
    (replicates,) = grid(["10-5-10"], [0.5, 0.9], [0.01, 0.1], range(1000))
    planned = plan_packs([pack_of(replicates, PROTOCOLS["dissertation"])], "auto", 2)
    small = started_small(planned, 2)
    seconds = [estimated_seconds(pack) for pack in small]
    assert max(seconds[:2]) < 1.5 * packs.FIRST_SECONDS < min(seconds[2:4])
    assert sorted(name for pack in small for name in pack.replicate_ids) == sorted(
        name for pack in planned for name in pack.replicate_ids
    )
    assert small[-len(planned[2:]) :] == planned[2:]
    tiny = [pack_of(mixed())]
    assert started_small(tiny, 8) == tiny
    assert started_small([], 2) == []
