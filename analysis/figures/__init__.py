"""Figures. Those named here are functions of a study: its name, with `storage=`, or a frame of its rows.

Matplotlib is imported here first: a variable that names no backend would stop it, though figures need none.
"""

import contextlib
import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.figures.diagnosis import diagnosis_figure
    from analysis.report.from_python import (
        collapse,
        failure_map,
        gram_matrices,
        metric_scatter,
        metrics,
        order_parameter,
        phase_diagram,
        region_maps,
        result,
        safe_l1,
        verdict_bars,
        verdict_rates,
    )

__all__ = [
    "collapse",
    "diagnosis_figure",
    "failure_map",
    "gram_matrices",
    "metric_scatter",
    "metrics",
    "order_parameter",
    "phase_diagram",
    "region_maps",
    "result",
    "safe_l1",
    "verdict_bars",
    "verdict_rates",
]

if "matplotlib" not in sys.modules:
    _log, _backend = logging.getLogger("matplotlib"), os.environ.pop("MPLBACKEND", None)
    _log.setLevel(logging.ERROR)  # else it says where it keeps its list of fonts if it cannot write to the user's folders
    import matplotlib

    matplotlib.get_cachedir()
    _log.setLevel(logging.NOTSET)
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = _backend


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'analysis.figures' has no attribute {name!r}")
    module = "analysis.figures.diagnosis" if name == "diagnosis_figure" else "analysis.report.from_python"
    return getattr(import_module(module), name)
