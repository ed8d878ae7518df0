"""Reads what came out: frames, regions, figures, the report."""

from analysis.frames import load, tune_frame

__all__ = ["load", "tune_frame"]
