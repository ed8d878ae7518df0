"""Which learner a study's specification asks for, and what it starts from: earlier rows, or closed forms."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from search_spaces.cells import Architecture
from search_spaces.errors import MisuseError
from search_spaces.learners.contract import LEARNED_FROM, Learner
from search_spaces.learners.failure_map import MapSpec, Refinement
from search_spaces.learners.l1_search import L1Learner, L1SearchSpec
from search_spaces.protocol import Protocol
from search_spaces.spaces import GridSpace
from search_spaces.study_files import L1Search, MapSearch, StudySpec
from search_spaces.surface.domain import Domain
from study import theory
from study.data import importances
from study.storage.status import existing_study
from study.storage.study_folder import StudyFolder

RECOVERY_COLUMNS = {"mcc": "mcc_decoder_features", "f1": "f1_latents_features"}


def learner_of(spec: StudySpec, earlier: pa.Table | None = None) -> Learner:
    """The learner of a study that is a search, told nothing yet but `earlier_rows`; MisuseError for a search that cannot be."""
    assert isinstance(spec.space, GridSpace)
    if spec.protocol.sae_target_l0 is not None:
        raise MisuseError("sae_target_l0 steers l1 during training, so there is none to search. Leave it out of the protocol.")
    if isinstance(spec.search, MapSearch):
        if spec.search.earlier and earlier is None:
            raise MisuseError("earlier studies lie in a storage: launch this search there, or leave `earlier` out.")
        rows = None if earlier is None else {name: earlier[name].to_numpy() for name in LEARNED_FROM}
        assert spec.domain is not None
        return Refinement(_map_spec(spec.domain, spec.search), rows)
    assert isinstance(spec.search, L1Search)
    return L1Learner(_l1_spec(spec.space, spec.search, spec.protocol))


def _map_spec(domain: Domain, search: MapSearch) -> MapSpec:
    return MapSpec(
        domain,
        budget=search.budget,
        failure=search.failure,
        level=search.level,
        first_pass=search.first_pass,
        l1s_per_autoencoder=search.l1s_per_autoencoder,
        misclassified_volume=search.misclassified_volume,
        regret=search.regret,
    )


def earlier_rows(folder: StudyFolder, spec: StudySpec) -> pa.Table | None:
    """Rows of other studies that a map starts from, each once; None where it starts from none.

    As its own folder has kept them if it was begun; else those that lie in its space now. MisuseError where there are
    none, and where they were made in another way than its own will be.
    """
    if not isinstance(spec.search, MapSearch) or not spec.search.earlier:
        return None
    if (kept := folder.read_earlier()) is not None:
        return kept
    tables = []
    for name in spec.search.earlier:
        rows = existing_study(name, folder.storage.given).read_shards().rows
        for column, ours in (("protocol_id", spec.protocol.protocol_id), ("dtype", spec.dtype)):
            if others := set(rows[column].to_pylist()) - {ours}:
                raise MisuseError(
                    f"earlier study {name!r} has {column}={min(others)}, this one {ours}: their rates are not the same. Leave it "
                    "out, or search under the same protocol and dtype."
                )
        tables.append(rows)
    rows = _within(pa.concat_tables(tables), spec)
    if not len(rows):
        raise MisuseError(f"studies {', '.join(spec.search.earlier)} have no row in this space: there is nothing to start from.")
    first = np.unique(rows["replicate_id"].to_numpy().astype(str), return_index=True)[1]
    return rows.take(pa.array(np.sort(first)))


def _within(rows: pa.Table, spec: StudySpec) -> pa.Table:
    space = spec.space
    assert isinstance(space, GridSpace)
    inside = pc.is_in(rows["architecture"], pa.array([str(Architecture.parse(name)) for name in space.architectures]))
    for axis, values in (("sparsity", space.sparsities), ("l1", space.l1)):
        low, high = (pc.greater_equal(rows[axis], min(values)), pc.less_equal(rows[axis], max(values)))
        inside = pc.and_(inside, pc.and_(low, high))
    return rows.filter(inside)


def _l1_spec(space: GridSpace, search: L1Search, protocol: Protocol) -> L1SearchSpec:
    if protocol.sae_variant == "topk" or not protocol.has_sae:
        raise MisuseError(f"protocol={protocol.name!r} has no L1 penalty to search. Use one whose SAE is relu or jumprelu.")
    cells = tuple((name, sparsity) for name in space.architectures for sparsity in space.sparsities)
    return L1SearchSpec(
        cells,
        l1=(min(space.l1), max(space.l1)),
        failure=search.failure,
        level=search.level,
        budget=search.budget,
        precision=search.precision,
        score=RECOVERY_COLUMNS[search.recovery],
        predicted_high=tuple(predicted_collapse(Architecture.parse(name), sparsity, protocol) for name, sparsity in cells),
        seed=min(space.seeds),
    )


def predicted_collapse(architecture: Architecture, sparsity: float, protocol: Protocol) -> float | None:
    """The l1 from which SAEs die by closed form, on an AE of unit columns; None where the protocol has none.

    Decoders that start as normal(0, sae_init_std) die from the first steps' pull on; unit columns at the optimum, l1 = 2.
    """
    if protocol.sae_input != "as_is" or protocol.sae_variant != "relu":
        return None
    if protocol.sae_decoder_init == "unit_norm":
        return float(theory.death_line(1.0))
    weights = importances(architecture.n_features, protocol)
    represented = int(theory.features_represented(sparsity, weights, architecture.n_hidden))
    init_std = protocol.sae_init_std * protocol.sae_init_scale
    return float(theory.initial_death_line(init_std, 1.0, architecture.n_latents, represented))
