"""What the words of a report mean: its verdicts and its metrics, from the tables in code that define them."""

from __future__ import annotations

import pandas as pd

from analysis.comparisons.metric_trust import SIMILARITIES
from analysis.report.panels import METRICS_DRAWN
from search_spaces.failures import verdicts
from search_spaces.protocol import Protocol
from study.storage.schema import columns

MCC_CORRECTED = "(mcc_decoder_features − mcc_chance)/(1 − mcc_chance): recovery beyond that of random directions; 1 is perfect"


def verdicts_table(frame: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """The verdicts that occur, in order of precedence: what each means, its condition, and the protocol's threshold."""
    there = set(frame["failure"].unique())
    rows = [
        {
            "verdict": verdict.name,
            "meaning": verdict.meaning,
            "condition": verdict.condition.replace("`", ""),
            "threshold": f"{verdict.threshold} = {getattr(protocol, verdict.threshold):g}" if verdict.threshold else "–",
        }
        for verdict in verdicts()
        if verdict.name in there
    ]
    return pd.DataFrame(rows)


def metrics_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The metrics that the page shows and that some row has; with a target L0, its outcomes too."""
    meanings = {column.name: column.meaning.replace("`", "").split(" [l0_controller")[0] for column in columns()}
    meanings["mcc_corrected"] = MCC_CORRECTED
    shown = dict.fromkeys((*METRICS_DRAWN, *SIMILARITIES, "mcc_chance", "l1_final", "l0_outcome"))
    rows = [{"metric": name, "meaning": meanings[name]} for name in shown if name in frame and frame[name].notna().any()]
    return pd.DataFrame(rows)
