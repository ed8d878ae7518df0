"""Reads what came out: frames, regions, figures, the report; why a replicate failed."""

from analysis.causes import diagnose
from analysis.frames import load, tune_frame

__all__ = ["diagnose", "load", "tune_frame"]
