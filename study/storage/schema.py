"""The columns of a row."""

from __future__ import annotations

import pyarrow as pa

_TEXT, _REAL, _WHOLE = pa.string(), pa.float64(), pa.int64()

ROW_SCHEMA = pa.schema(
    [
        # identity
        ("replicate_id", _TEXT),
        ("study", _TEXT),
        ("architecture", _TEXT),
        ("n_features", _WHOLE),
        ("n_hidden", _WHOLE),
        ("n_latents", _WHOLE),
        ("sparsity", _REAL),
        ("l1", _REAL),
        ("seed", _WHOLE),
        ("data_seed", _WHOLE),
        ("ae_seed", _WHOLE),
        ("sae_seed", _WHOLE),
        ("protocol", _TEXT),
        ("protocol_id", _TEXT),
        ("engine", _TEXT),
        ("dtype", _TEXT),
        # data
        ("empirical_sparsity", _REAL),
        # AE
        ("ae_loss", _REAL),
        ("ae_loss_bias_only", _REAL),
        ("ae_loss_dedicated", _REAL),
        ("ae_diagonal_mean", _REAL),
        ("ae_offdiagonal_mean", _REAL),
        ("ae_condition_number", _REAL),
        ("ae_dead_outputs", _WHOLE),
        ("ae_features_represented", _WHOLE),
        ("ae_dimensions_per_feature", _REAL),
        ("hidden_rms", _REAL),
        # SAE
        ("sae_loss", _REAL),
        ("sae_mse", _REAL),
        ("explained_variance", _REAL),
        ("l0", _REAL),
        ("active_fraction", _REAL),
        ("dead_latents", _WHOLE),
        ("max_firing_rate", _REAL),
        ("l1_final", _REAL),
        ("l0_outcome", _TEXT),
        # similarity
        ("procrustes_hidden_recon", _REAL),
        ("cka_hidden_recon", _REAL),
        ("rsa_hidden_recon", _REAL),
        ("mcc_decoder_features", _REAL),
        ("mcc_chance", _REAL),
        ("mmcs_decoder_features", _REAL),
        ("f1_latents_features", _REAL),
        # verdict
        ("failure", _TEXT),
        ("cause", _TEXT),
        # bookkeeping
        ("trial_id", _TEXT),
        ("wall_seconds", _REAL),
        ("finished_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""One row a replicate. Each column is defined in the module that computes it."""


BOOKKEEPING = ("failure", "cause", "trial_id", "wall_seconds", "finished_at")


ADDED = ("l1_final", "l0_outcome")
"""Columns that shards of earlier versions do not have; they read as missing."""


NOT_SCIENCE = ("study", "engine", "trial_id", "wall_seconds", "finished_at")
"""Columns that may differ between two trainings of the same replicate."""


SCIENCE = tuple(name for name in ROW_SCHEMA.names if name not in NOT_SCIENCE)
