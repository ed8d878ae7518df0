"""Analyses the results of studies: frames, failure rates and regions, comparisons, causes of failures, figures, the report.

Each function is imported when it is first used, so that `import analysis` is cheap and needs neither Ray nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae_study import shadow

if _sentence := shadow(("search_spaces", "study")):
    raise ImportError(_sentence)

if TYPE_CHECKING:
    from analysis.comparisons.ablations import ablation
    from analysis.diagnosis.diagnose import diagnose
    from analysis.frames import load, tune_frame
    from analysis.of_studies import compare, rate, regions
    from analysis.rates.at_cells import failure_rates
    from analysis.rates.regions import failure_regions
    from analysis.report.page import write_report
    from analysis.searches.l1 import recommend_l1

__all__ = [
    "ablation",
    "compare",
    "diagnose",
    "failure_rates",
    "failure_regions",
    "load",
    "rate",
    "recommend_l1",
    "regions",
    "tune_frame",
    "write_report",
]

_MODULES = {
    "ablation": "analysis.comparisons.ablations",
    "compare": "analysis.of_studies",
    "diagnose": "analysis.diagnosis.diagnose",
    "failure_rates": "analysis.rates.at_cells",
    "failure_regions": "analysis.rates.regions",
    "load": "analysis.frames",
    "rate": "analysis.of_studies",
    "recommend_l1": "analysis.searches.l1",
    "regions": "analysis.of_studies",
    "tune_frame": "analysis.frames",
    "write_report": "analysis.report.page",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
