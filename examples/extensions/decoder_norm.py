"""A custom metric: the mean norm of the decoder's columns. Once this file is imported, rows have a column `decoder_norm`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.metrics.contract import Metric, Trained, register_metric
from study.storage.schema import REAL, Column, Group

COLUMN = Column("decoder_norm", REAL, Group.SAE, since=2, meaning="mean over latents of ‖W_dec[j]‖")


def decoder_norm(trained: Trained) -> dict[str, NDArray[np.float64]]:
    """One value per replicate, (R,). Weights that are not finite are 0 here, and their values become missing."""
    assert trained.saes is not None, "columns of the group SAE are measured only if there is an SAE"
    norms = np.linalg.norm(trained.saes.W_dec.astype(np.float64), axis=1)  # (L, H, R) -> (L, R)
    return {COLUMN.name: norms.mean(axis=0)}


register_metric(Metric((COLUMN,), decoder_norm))
