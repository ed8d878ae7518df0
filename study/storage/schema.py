"""The table of columns: what a row, one per replicate, holds. The schema, the docs and all lists of columns follow from it.

`python -m tests.test_definitions` rewrites the table in docs/definitions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

TEXT, REAL, WHOLE, TIME = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")


class Group(StrEnum):
    """What a column describes, in the order of the row."""

    IDENTITY = "identity"
    DATA = "data"
    AUTOENCODER = "autoencoder"
    SAE = "SAE"
    SIMILARITY = "similarity"
    VERDICT = "verdict"
    BOOKKEEPING = "bookkeeping"


MEASURED = (Group.DATA, Group.AUTOENCODER, Group.SAE, Group.SIMILARITY)
"""The groups that training and evaluation measure; missing in a replicate that crashed."""
OF_THE_SAE = (Group.SAE, Group.SIMILARITY)
"""The groups that are missing if the protocol trains no SAE."""


@dataclass(frozen=True)
class Column:
    """One column of the rows."""

    name: str
    type: pa.DataType
    """TEXT, REAL, WHOLE or TIME."""
    group: Group
    since: int
    """1: every shard has it. A later number: older shards lack it, and it reads as missing there."""
    meaning: str
    """In Markdown, for docs/definitions.md."""


COLUMNS = [
    Column("replicate_id", TEXT, Group.IDENTITY, 1, "hash of cell, seeds, protocol, dtype, engine family and procedure version"),
    Column("study", TEXT, Group.IDENTITY, 1, "name of the study"),
    Column("architecture", TEXT, Group.IDENTITY, 1, "`10-5-10`, or `10-5-10/20` with the SAE's width"),
    Column("n_features", WHOLE, Group.IDENTITY, 1, "N"),
    Column("n_hidden", WHOLE, Group.IDENTITY, 1, "H"),
    Column("n_latents", WHOLE, Group.IDENTITY, 1, "L"),
    Column("sparsity", REAL, Group.IDENTITY, 1, "S = P(feature = 0)"),
    Column("l1", REAL, Group.IDENTITY, 1, "coefficient of the sparsity penalty in the SAE's loss"),
    Column("seed", WHOLE, Group.IDENTITY, 1, "value of the three seeds below unless they were set apart"),
    Column("data_seed", WHOLE, Group.IDENTITY, 1, "seed of the samples"),
    Column("ae_seed", WHOLE, Group.IDENTITY, 1, "seed of the autoencoder's initial weights and minibatches"),
    Column("sae_seed", WHOLE, Group.IDENTITY, 1, "seed of the SAE's initial weights and minibatches"),
    Column("protocol", TEXT, Group.IDENTITY, 1, "name of the protocol"),
    Column("protocol_id", TEXT, Group.IDENTITY, 1, "hash of the protocol's fields"),
    Column("engine", TEXT, Group.IDENTITY, 1, "the engine that trained it"),
    Column("dtype", TEXT, Group.IDENTITY, 1, "`float64` or `float32`"),
    Column("empirical_sparsity", REAL, Group.DATA, 1, "share of zeros in x"),
    Column("ae_loss", REAL, Group.AUTOENCODER, 1, "mean over samples of Σ_i I_i (x_i − x̂_i)²"),
    Column("ae_loss_bias_only", REAL, Group.AUTOENCODER, 1, "v ΣI with v = p/3 − p²/4: what W = 0 and the best bias reach"),
    Column("ae_loss_dedicated", REAL, Group.AUTOENCODER, 1,
           "v Σ_{i ≥ H} I_i: the H most important features stored, the others given up"),
    Column("ae_diagonal_mean", REAL, Group.AUTOENCODER, 1, "mean of diag(WᵀW)"),
    Column("ae_offdiagonal_mean", REAL, Group.AUTOENCODER, 1, "mean absolute value of WᵀW off its diagonal"),
    Column("ae_condition_number", REAL, Group.AUTOENCODER, 1, "σ_max/σ_min of W; inf where σ_min is 0"),
    Column("ae_dead_outputs", WHOLE, Group.AUTOENCODER, 1, "outputs whose ReLU is 0 on every sample"),
    Column("ae_features_represented", WHOLE, Group.AUTOENCODER, 1, "size of F"),
    Column("ae_dimensions_per_feature", REAL, Group.AUTOENCODER, 1, "H/‖W‖²_F"),
    Column("hidden_rms", REAL, Group.AUTOENCODER, 1, "root mean square of h over samples and coordinates"),
    Column("sae_loss", REAL, Group.SAE, 1,
           "mean over samples of ‖h − ĥ‖² + l1 times what the variant penalises, Σ f or the count of active latents: what training "
           "descends; with a target L0 its l1 is `l1_final`"),
    Column("sae_mse", REAL, Group.SAE, 1, "mean over samples and coordinates of (h − ĥ)²"),
    Column("explained_variance", REAL, Group.SAE, 1, "1 − Σ‖h − ĥ‖²/Σ‖h − h̄‖², h̄ the mean vector"),
    Column("l0", REAL, Group.SAE, 1, "mean number of active latents per sample"),
    Column("active_fraction", REAL, Group.SAE, 1, "l0/L"),
    Column("dead_latents", WHOLE, Group.SAE, 1, "latents that are not alive"),
    Column("max_firing_rate", REAL, Group.SAE, 1, "the largest firing rate of a latent"),
    Column("l1_final", REAL, Group.SAE, 2,
           "with a target L0 (`sae_target_l0`): the l1 on which its controller settled (`l1` is the one from which it started); "
           "else missing"),
    Column("l0_outcome", TEXT, Group.SAE, 2,
           "`all_dead`: no latent is alive · `reached`: `l0` within 5 % of the target (`reached_within`) · `unreachable`: l1 "
           "ended at an end of its range and would have to go further · `not_reached`: otherwise; missing without a target, "
           "and where `l0` is missing. [l0_controller.md](l0_controller.md)"),
    Column("procrustes_hidden_recon", REAL, Group.SIMILARITY, 1,
           "Procrustes similarity of h and ĥ; missing where ĥ is constant (variance under 1e-12 of h's)"),
    Column("cka_hidden_recon", REAL, Group.SIMILARITY, 1, "linear CKA of h and ĥ; missing where ĥ is constant"),
    Column("rsa_hidden_recon", REAL, Group.SIMILARITY, 1,
           "correlation of squared distances within h with those within ĥ; missing where ĥ is constant"),
    Column("mcc_decoder_features", REAL, Group.SIMILARITY, 1,
           "signed cosines of alive latents' decoder columns with the W_i of F, one-to-one matching with the largest sum, that "
           "sum over the size of F; missing where F is empty, else 0 where nothing is alive"),
    Column("mcc_chance", REAL, Group.SIMILARITY, 1,
           "its expectation for the same numbers of random directions; missing or 0 where the MCC is"),
    Column("mmcs_decoder_features", REAL, Group.SIMILARITY, 1, "mean over F of the largest signed cosine with an alive latent"),
    Column("f1_latents_features", REAL, Group.SIMILARITY, 1,
           "over the MCC's pairs, the F1 of f_j > 0 as a detector of x_i > 0; mean over F, unmatched features 0"),
    Column("failure", TEXT, Group.VERDICT, 1, "the verdict below"),
    Column("cause", TEXT, Group.VERDICT, 1, "`unknown` until an intervention has settled it, `none` if nothing failed"),
    Column("trial_id", TEXT, Group.BOOKKEEPING, 1, "Tune's trial"),
    Column("wall_seconds", REAL, Group.BOOKKEEPING, 1, "the pack's seconds, shared evenly"),
    Column("finished_at", TIME, Group.BOOKKEEPING, 1, "when its pack was done"),
]  # fmt: skip
"""Every registered column; `columns` gives them in the order of the row."""

MAY_DIFFER = ("study", "engine")
"""The columns besides the bookkeeping that may differ between two trainings of the same replicate."""


def register_column(column: Column) -> None:
    """Add a column to all rows from now on. Raises ValueError if another column has its name."""
    known = {one.name: one for one in COLUMNS}
    if known.get(column.name, column) != column:
        raise ValueError(f"column {column.name!r} is taken: {known[column.name].meaning}. Give the new one another name.")
    if column.since == 1:
        raise ValueError(f"column {column.name!r} has since=1, but shards exist that lack it. Give a later number.")
    if column.name not in known:
        COLUMNS.append(column)


def columns(*groups: Group) -> list[Column]:
    """The columns of these groups (of all if none is given), in the order of the row: group by group."""
    wanted = groups or tuple(Group)
    return [column for group in Group if group in wanted for column in COLUMNS if column.group is group]


def names_of(*groups: Group) -> list[str]:
    """The names of `columns`."""
    return [column.name for column in columns(*groups)]


def row_schema(names: Sequence[str] | None = None) -> pa.Schema:
    """The schema of whole rows, or of these columns."""
    types = {column.name: column.type for column in columns()}
    return pa.schema([(name, types[name]) for name in (types if names is None else names)])


def added() -> list[Column]:
    """Columns that older shards lack; they read as missing there."""
    return [column for column in columns() if column.since > 1]


def not_science() -> list[str]:
    """Columns that may differ between two trainings of the same replicate."""
    return [*MAY_DIFFER, *names_of(Group.BOOKKEEPING)]


def science_columns() -> list[str]:
    """Columns that depend on the replicate, its protocol, dtype and engine family alone."""
    return [name for name in names_of() if name not in not_science()]
