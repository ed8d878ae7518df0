"""Makes a study from Ray Tune's own domains: they are drawn once and stored as replicates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search.sample import Domain
from ray.tune.search.variant_generator import generate_variants

from search_spaces.errors import MisuseError
from search_spaces.spaces import MOST_LISTED, parse_seeds
from search_spaces.values import named, plain, quoted, whole
from study.data import domain_generator


def study_from_domains(domains: Mapping[str, Any], num_samples: int = 1) -> dict[str, Any]:
    """A study's mapping from Ray Tune's own domains (`tune.loguniform`, `tune.grid_search`, …, or constants).

    domains: architecture, sparsity, l1 and, optionally, seed (default 0): a domain, or seeds as a study file lists them. Cells
    are drawn here `num_samples` times, from a fixed stream. Listed seeds and a grid of them are crossed with the cells, so that
    each cell gets all of them. Duplicates are trained once. The study's folder holds the replicates, not the domains.
    """
    if not {"architecture", "sparsity", "l1"} <= domains.keys() <= {"architecture", "sparsity", "l1", "seed"}:
        given = ", ".join(map(named, list(domains)[:10])) or "nothing"
        raise MisuseError(
            f"{given} were given. Expected architecture, sparsity, l1 and, optionally, seed; or name, protocol, space, … as in a "
            "study file."
        )
    cells, source = dict(domains), domain_generator()
    seeds = _listed_seeds(cells)
    count = _refuse_many(cells, seeds or (0,), num_samples)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(count):
        for _, drawn in generate_variants(cells, random_state=source):
            cell = {name: plain(drawn[name]) for name in ("architecture", "sparsity", "l1")}
            for seed in seeds or (plain(drawn["seed"]),):
                row = cell | {"seed": seed}
                rows[tuple(map(repr, row.values()))] = row
    return {"name": "domains", "protocol": "dissertation", "space": {"replicates": list(rows.values())}}


def _listed_seeds(cells: dict[str, Any]) -> Sequence[int] | None:
    """Take seeds that are listed out of the cells; None if they are a domain, of which one is drawn with each cell."""
    seed = cells.get("seed", 0)
    if isinstance(seed, Mapping):
        seed = seed.get("grid_search", seed)
    if isinstance(seed, Domain):
        return None
    cells.pop("seed", None)
    return parse_seeds(seed)


def _refuse_many(cells: Mapping[str, Any], seeds: Sequence[int], num_samples: object) -> int:
    """The number of draws; MisuseError if it is none, or if they make too many replicates."""
    draws = whole(num_samples)
    if draws is None or draws < 1:
        raise MisuseError(f"num_samples={quoted(num_samples)} is not a whole number >= 1. It says how often the domains are drawn.")
    grids = (domain["grid_search"] for domain in cells.values() if isinstance(domain, Mapping) and "grid_search" in domain)
    count = draws * math.prod(map(len, grids)) * len(seeds)
    if count > MOST_LISTED:
        raise MisuseError(
            f"{draws:,} draws and their grids are {count:,} replicates; {MOST_LISTED:,} at most are listed one by one. Draw "
            "fewer, or launch a grid."
        )
    return draws
