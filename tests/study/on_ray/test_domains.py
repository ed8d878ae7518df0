"""Ray Tune's domains as a study: drawn from one fixed stream, every seed with every cell."""

from __future__ import annotations

import numpy as np
import pytest
from ray import tune

from search_spaces import MisuseError, study_from
from study.on_ray.domains import study_from_domains


def test_domains_are_drawn_the_same_each_time() -> None:
    domains = {
        "architecture": "5-3-5",
        "sparsity": tune.uniform(0.3, 0.98),
        "l1": tune.grid_search([0.1, 1.0]),
        "seed": tune.grid_search([0, 1]),
    }
    drawn = study_from_domains(domains, num_samples=3)
    assert drawn == study_from_domains(domains, num_samples=3)
    (replicates,) = study_from(drawn).replicates()
    assert len(replicates) == 3 * 2 * 2
    assert sorted(set(replicates.seed.tolist())) == [0, 1]


def test_domains_that_cannot_be_are_refused() -> None:
    whole = {"architecture": "5-3-5", "sparsity": 0.9, "l1": 0.1}
    with pytest.raises(MisuseError, match=r"Expected architecture, sparsity, l1"):
        study_from_domains({"architecture": "5-3-5", "l1": 0.1})
    with pytest.raises(MisuseError, match="num_samples=0 is not"):
        study_from_domains(whole, num_samples=0)


@pytest.mark.parametrize("seeds", [[0, 1, 2], range(3), np.arange(3), "0:3", tune.grid_search([0, 1, 2])])
def test_every_cell_gets_all_listed_seeds(seeds: object) -> None:
    """Listed as in a study file, or as a grid."""
    drawn = study_from_domains({"architecture": "5-3-5", "sparsity": 0.5, "l1": tune.uniform(0.1, 1), "seed": seeds}, 2)
    (replicates,) = study_from(drawn).replicates()
    assert sorted(replicates.seed.tolist()) == [0, 0, 1, 1, 2, 2]


def test_too_many_draws_are_refused_before_they_are_made() -> None:
    cells = {"architecture": "5-3-5", "sparsity": tune.uniform(0.1, 0.2), "l1": 0.1, "seed": range(1000)}
    with pytest.raises(MisuseError, match="1,000,000 replicates"):
        study_from_domains(cells, 1000)
