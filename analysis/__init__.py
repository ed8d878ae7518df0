"""Reads what came out: frames, regions, figures, the report; why a replicate failed."""

from analysis.diagnosis.diagnose import diagnose
from analysis.frames import load, tune_frame
from analysis.searches.l1 import recommend_l1

__all__ = ["diagnose", "load", "recommend_l1", "tune_frame"]
