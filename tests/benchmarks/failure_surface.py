"""How well failure surfaces do on lattices of known truths: `python -m tests.benchmarks.failure_surface`.

Prints one table; asserts nothing. Names of truths, as in `python -m tests.benchmarks.failure_surface combo`, make it shorter.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

from search_spaces.surface.surface import Surface, expected_misclassified_volume, expected_regret, fit_surface
from tests.truths import DOMAIN, TRUTHS, Rate, lattice, sobol

LATTICES, REPLICATES = ((12, 13), (24, 25)), (1, 5, 20, 50)
PLACES = sobol(16_384, 99)


@dataclass(frozen=True)
class Quality:
    """How a surface compares with the truth, in shares of the volume."""

    misclassified: float
    expected: float
    """What the surface itself expects to misclassify."""
    regret: float
    """Misclassified volume, each place weighted by |2 rate − 1|."""
    expected_regret: float
    covered: float
    """Where 95 % intervals hold the rate."""
    covered_between: float
    """The same, of where the rate is between 0.1 and 0.9; NaN if it is nowhere."""

    @classmethod
    def of(cls, surface: Surface, rate: Rate) -> Quality:
        truth = rate(PLACES.architecture, PLACES.u, PLACES.v)
        made = surface.at(PLACES.architecture, PLACES.sparsity, PLACES.l1)
        low, high = made.interval()
        held, between = (low <= truth) & (truth <= high), (truth > 0.1) & (truth < 0.9)
        wrong = (made.mean >= 0.5) != (truth >= 0.5)
        regret = float((wrong * np.abs(2 * truth - 1)).mean())
        expected = expected_misclassified_volume(made), expected_regret(made)
        inside = float(held[between].mean()) if between.any() else np.nan
        return cls(float(wrong.mean()), expected[0], regret, expected[1], float(held.mean()), inside)

    def __str__(self) -> str:
        return (
            f"misclassified {self.misclassified:6.2%} (expects {self.expected:6.2%}), "
            f"covered {self.covered:.2f}, between {self.covered_between:.2f}"
        )


def main(names: list[str]) -> None:
    """Measure and print."""
    for name in names:
        for shape in LATTICES:
            for replicates in REPLICATES:
                began = time.perf_counter()
                quality = Quality.of(fit_surface(DOMAIN, lattice(*shape).counts(TRUTHS[name], replicates, 3)), TRUTHS[name])
                seconds = time.perf_counter() - began
                print(f"{name:7} {shape[0]} x {shape[1]}, {replicates:2} seeds a cell  {quality}  [{seconds:.0f} s]", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(TRUTHS))
