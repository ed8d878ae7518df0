"""What one replicate needs, in memory and hours."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import diagnose
from search_spaces import Architecture, MisuseError, protocol_from
from study import run_here
from study.needs import machine_memory, refuse_oversized, replicate_bytes
from study.specification import study_spec

SPACE = {"sparsities": [0.9], "l1": [0.01], "seeds": "0:2"}


@pytest.mark.parametrize(
    ("architecture", "protocol", "measured"),
    [
        ("300-150-300", {"samples": 1000, "ae_epochs": 1, "sae_epochs": 1}, 1.59e9),
        ("2000-1000-2000", {"samples": 100, "ae_epochs": 1, "sae_epochs": 0}, 0.48e9),
        ("10-5-10", {"samples": 1_000_000, "ae_epochs": 1, "sae_epochs": 1}, 1.44e9),
        ("10-5-10", {"base": "sound", "samples": 1_000_000, "ae_steps": 100, "sae_steps": 100, "eval_samples": 100_000}, 1.10e9),
    ],
)
def test_memory_is_estimated_as_measured(architecture: str, protocol: dict[str, Any], measured: float) -> None:
    """`run_pack`'s peak above the start, in a process of its own."""
    assert replicate_bytes(Architecture.parse(architecture), protocol_from(protocol)) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("architecture", ["10000-5000-10000", "1000000-5-1000000"])
def test_a_replicate_that_fits_nowhere_is_refused(architecture: str) -> None:
    """Before anything is made of it, here and by `diagnose`."""
    with pytest.raises(MisuseError, match=rf"^one replicate of {architecture} needs about .* GB of memory; this machine has"):
        run_here({"name": "a", "protocol": "dissertation", "space": SPACE | {"architectures": [architecture]}})
    with pytest.raises(MisuseError, match="needs about"):
        diagnose(architecture, 0.9, 0.01, 1)


def test_memory_is_that_of_the_machine_that_trains() -> None:
    """A cluster's nodes may have more; a week is a week everywhere."""
    wide = {"name": "a", "protocol": "dissertation", "space": SPACE | {"architectures": ["10000-5000-10000"]}}
    refuse_oversized(study_spec(wide), here=False)
    long = wide | {"protocol": {"sae_epochs": 10**9}, "space": SPACE | {"architectures": ["20-10-20"]}}
    with pytest.raises(MisuseError, match="at most 168, a week"):
        refuse_oversized(study_spec(long), here=False)
    assert 0 < machine_memory() < 2**50
