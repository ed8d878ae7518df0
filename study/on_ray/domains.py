"""Makes a study from Ray Tune's own domains: they are drawn once and stored as replicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.search.variant_generator import generate_variants

from search_spaces.errors import MisuseError
from study.data import domain_generator


def study_from_domains(domains: Mapping[str, Any], num_samples: int = 1) -> dict[str, Any]:
    """A study's mapping from Ray Tune's own domains (`tune.loguniform`, `tune.grid_search`, …, or constants).

    domains: architecture, sparsity, l1 and, optionally, seed (default 0). Cells are drawn here `num_samples` times, from a
    fixed stream. A grid of seeds is crossed with them, so that each cell gets all seeds. Duplicates are trained once. The
    study's folder holds the replicates, not the domains.
    """
    if not {"architecture", "sparsity", "l1"} <= domains.keys() <= {"architecture", "sparsity", "l1", "seed"}:
        raise MisuseError(f"domains for {sorted(domains)} were given. Expected architecture, sparsity, l1 and, optionally, seed.")
    if num_samples < 1:
        raise MisuseError(f"num_samples={num_samples} is below 1. It says how many times the domains are drawn.")
    cells, source = dict(domains), domain_generator()
    seeds = cells.pop("seed").get("grid_search", ()) if isinstance(cells.get("seed"), dict) else (None,)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(num_samples):
        for _, drawn in generate_variants(cells, random_state=source):
            cell = {"architecture": str(drawn["architecture"]), "sparsity": drawn["sparsity"], "l1": drawn["l1"]}
            for seed in seeds:
                row = cell | {"seed": drawn.get("seed", 0) if seed is None else seed}
                rows[tuple(row.values())] = row
    return {"name": "domains", "protocol": "dissertation", "space": {"replicates": list(rows.values())}}
