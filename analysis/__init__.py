"""Reads what came out: frames, regions, figures, the report; why a replicate failed."""

from analysis.causes import diagnose
from analysis.frames import load, tune_frame
from analysis.l1_intervals import recommend_l1

__all__ = ["diagnose", "load", "recommend_l1", "tune_frame"]
