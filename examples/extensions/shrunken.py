"""A custom verdict: an SAE whose decoder has shrunk. Once this file is imported, it is judged, drawn and reported."""

from __future__ import annotations

import decoder_norm  # noqa: F401  (registers the column that the verdict reads)
import numpy as np
from numpy.typing import NDArray

from search_spaces.failures import FailureKind, Verdict
from search_spaces.protocol import Protocol
from study.failures import Row, register_verdict

SHRUNKEN = Verdict(
    "shrunken",
    "the decoder's columns have shrunk to nothing",
    "`decoder_norm` < 0.1",
    ("decoder_norm",),
    colour="#6A3D9A",
    pattern="xx",
    marker="P",
    of_sae=True,
)


def has_shrunk(row: Row, protocol: Protocol) -> NDArray[np.bool_]:
    """Where the metric is missing, the comparison is false and the next verdict is tried."""
    return row["decoder_norm"] < 0.1


register_verdict(SHRUNKEN, has_shrunk, before=FailureKind.UNFAITHFUL)
