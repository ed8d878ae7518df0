"""Makes the learner of a study's search, and what the search starts from: rows of earlier studies, or closed forms.

The learners are in `search_spaces/learners/`. `register_search` adds another kind of search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from search_spaces.cells import Architecture
from search_spaces.errors import MisuseError
from search_spaces.learners.contract import LEARNED_FROM, Learner, Rows
from search_spaces.learners.failure_map import MapSpec, Refinement
from search_spaces.learners.l1_search import L1Learner, L1SearchSpec
from search_spaces.protocol import Protocol
from search_spaces.searches import SEARCHES, L1Search, MapSearch, Search, kind_of
from search_spaces.spaces import GridSpace
from search_spaces.study_files import StudySpec
from search_spaces.surface.domain import Domain
from search_spaces.variants import VARIANTS
from study import theory
from study.data import importances
from study.storage.status import existing_study
from study.storage.study_folder import StudyFolder
from study.variants.registry import variant_of

MakesLearner = Callable[[Any, StudySpec, Rows | None], Learner]
"""Makes a learner from a search (of the class it is registered for), its study, and the rows that the search `starts_from`."""


def learner_of(spec: StudySpec, earlier: pa.Table | None = None) -> Learner:
    """The learner of a study that is a search, in its initial state. It knows the rows of `earlier`, if there are any.

    Raises MisuseError if the search cannot be run.
    """
    assert spec.search is not None
    if spec.protocol.sae_target_l0 is not None:
        raise MisuseError("sae_target_l0 steers l1 during training, so there is no l1 to search. Leave it out of the protocol.")
    if spec.search.starts_from and earlier is None:
        raise MisuseError("earlier studies are in a storage: launch this search there, or leave `earlier` out.")
    rows = None if earlier is None else {name: earlier[name].to_numpy() for name in LEARNED_FROM}
    return _LEARNERS[type(spec.search)](spec.search, spec, rows)


def register_search(search: type[Search], learner: MakesLearner) -> None:
    """Add a kind of search: its class, and the function that makes its learner. Raises ValueError if the kind is taken."""
    if SEARCHES.setdefault(kind_of(search), search) is not search:
        raise ValueError(f"kind {kind_of(search)!r} is registered for another class. Give the new search another kind.")
    _LEARNERS[search] = learner


def _map_learner(search: MapSearch, spec: StudySpec, earlier: Rows | None) -> Refinement:
    assert spec.domain is not None
    return Refinement(MapSpec(spec.domain, search), earlier)


def _l1_learner(search: L1Search, spec: StudySpec, _: Rows | None) -> L1Learner:
    protocol, space = spec.protocol, spec.space
    assert isinstance(space, GridSpace)
    if variant_of(protocol).pressure != "l1" or not protocol.has_sae:
        sparser = ", ".join(name for name, variant in VARIANTS.items() if variant.pressure == "l1")
        raise MisuseError(f"protocol={protocol.name!r} has no L1 penalty to search. Use one that trains an SAE of {sparser}.")
    cells = tuple((name, sparsity) for name in space.architectures for sparsity in space.sparsities)
    return L1Learner(
        L1SearchSpec(
            search,
            cells,
            l1=(min(space.l1), max(space.l1)),
            score=search.recovery_column,
            predicted_edges=tuple(predicted_edge(Architecture.parse(name), sparsity, protocol) for name, sparsity in cells),
            predictions_hold=tuple(prediction_holds(Architecture.parse(name), protocol) for name, _ in cells),
            seed=min(run.start for run in space.seeds.runs),
        )
    )


_LEARNERS: dict[type[Search], MakesLearner] = {MapSearch: _map_learner, L1Search: _l1_learner}


def earlier_rows(folder: StudyFolder, spec: StudySpec) -> pa.Table | None:
    """The rows of other studies that a search starts from, each replicate once; None if it starts from no study.

    A search that was begun has kept them in its own folder. Otherwise they are those rows of the other studies that are
    within its space now. Raises MisuseError if there are none, or if their protocol or dtype is another than the search's.
    """
    if spec.search is None or not spec.search.starts_from:
        return None
    if (kept := folder.read_earlier()) is not None:
        return kept
    tables = []
    for name in spec.search.starts_from:
        rows = existing_study(name, folder.storage.given).read_shards().rows
        for column, ours in (("protocol_id", spec.protocol.protocol_id), ("dtype", spec.dtype)):
            if others := set(rows[column].to_pylist()) - {ours}:
                raise MisuseError(
                    f"earlier study {name!r} has {column}={min(others)}, this one {ours}: their failure rates differ. Leave it "
                    "out, or search under the same protocol and dtype."
                )
        tables.append(rows)
    assert spec.domain is not None
    rows = _within(pa.concat_tables(tables), spec.domain)
    if not len(rows):
        names = ", ".join(spec.search.starts_from)
        raise MisuseError(f"studies {names} have no row in this space: there is nothing to start from.")
    first = np.unique(rows["replicate_id"].to_numpy().astype(str), return_index=True)[1]
    return rows.take(pa.array(np.sort(first)))


def _within(rows: pa.Table, domain: Domain) -> pa.Table:
    inside = pc.is_in(rows["architecture"], pa.array(list(domain.architectures)))
    for axis in (domain.x, domain.y):
        values = rows[axis.coordinate.name]
        inside = pc.and_(inside, pc.and_(pc.greater_equal(values, axis.low), pc.less_equal(values, axis.high)))
    return rows.filter(inside)


_importances = cache(importances)
"""For the many sparsities of an architecture."""


def predicted_edge(architecture: Architecture, sparsity: float, protocol: Protocol) -> float | None:
    """The upper edge in closed form, for an AE of unit columns: the l1 from which SAEs die. None if there is no closed form.

    Decoders that start as normal(0, sae_init_std) die in the first steps, from `theory.initial_death_line` on. Decoders of
    unit columns die at the optimum, from l1 = 2 on.
    """
    if protocol.sae_input != "as_is" or not variant_of(protocol).dies_of_l1:
        return None
    if protocol.sae_decoder_init == "unit_norm":
        return float(theory.death_line(1.0))
    of_features = _importances(architecture.n_features, protocol)
    represented = int(theory.features_represented(sparsity, of_features, architecture.n_hidden))
    init_std = protocol.sae_init_std * protocol.sae_init_scale
    return float(theory.initial_death_line(init_std, 1.0, architecture.n_latents, represented))


HOLDS_FROM_LATENTS = 12
"""Number of latents from which on the closed form for small random decoders is within a factor of 4 of the edge (docs/l1.md)."""


def prediction_holds(architecture: Architecture, protocol: Protocol) -> bool:
    """Whether `predicted_edge` was found to be near the measured edge for such an SAE.

    With decoders of unit columns it is, within a factor of 1.5. With small random ones the first seeds die far below the
    closed form if there are few latents: at 5-3-5 by a factor of 8 to 20.
    """
    return protocol.sae_decoder_init == "unit_norm" or architecture.n_latents >= HOLDS_FROM_LATENTS
