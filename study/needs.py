"""What one replicate needs: too much memory or time is refused before anything starts."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from search_spaces.cells import Architecture
from search_spaces.errors import MisuseError
from search_spaces.protocol import Protocol
from search_spaces.spaces import GridSpace
from search_spaces.study_files import StudySpec
from study.engines.registry import KnownEngine, engine_for
from study.packs import training_seconds

MOST_HOURS = 168.0
"""The longest that one replicate may train on one core: a week."""
LANE_BYTES = 64
"""A number of every replicate of a SIMD group, whose lanes are there even if one replicate is alone."""
CHANCE_DRAWS = 1000
"""Random dictionaries behind `mcc_chance`."""


def refuse_oversized(spec: StudySpec, here: bool = True) -> None:
    """Raise MisuseError if a replicate of the study cannot be trained, be it on this machine or, if not `here`, on another."""
    space = spec.space
    names = space.architectures if isinstance(space, GridSpace) else {row.architecture for row in space.replicates_}
    engines = {protocol: engine_for(spec.engine, protocol) for protocol in spec.protocols}
    if len(families := {engine.family for engine in engines.values()}) > 1:
        raise MisuseError(
            f"engine={spec.engine!r} trains these protocols by engines of several families "
            f"({', '.join(sorted(families))}), whose rows cannot be paired. Use engine: reference or torch for all."
        )
    for protocol, engine in engines.items():
        refuse_replicates([Architecture.parse(name) for name in names], protocol, spec.dtype, engine, here)


def refuse_replicates(
    architectures: Iterable[Architecture], protocol: Protocol, dtype: str, engine: KnownEngine, here: bool = True
) -> None:
    """Raise MisuseError if a replicate of one of the architectures takes more memory than this machine has, or too long."""
    memory = machine_memory() if here else math.inf
    for architecture in architectures:
        needed = replicate_bytes(architecture, protocol)
        if needed > memory:
            raise MisuseError(
                f"one replicate of {architecture} needs about {needed / 1e9:,.1f} GB of memory; this machine has "
                f"{memory / 1e9:,.1f}. Take a smaller architecture, fewer samples or fewer steps."
            )
        hours = training_seconds(architecture, 1, 1, protocol, dtype, engine) / 3600
        if hours > MOST_HOURS:
            raise MisuseError(
                f"one replicate of {architecture} would train for about {hours:,.0f} hours; at most {MOST_HOURS:.0f}, a week, are "
                "taken. Take fewer samples, epochs or steps, or a smaller architecture."
            )


def replicate_bytes(architecture: Architecture, protocol: Protocol) -> int:
    """About the memory that a pack of one replicate needs, whatever part of it is reached first: S samples, N, H, L wide."""
    N, H, L = architecture.n_features, architecture.n_hidden, architecture.n_latents
    samples, fresh = protocol.samples, protocol.eval_samples or 0
    parameters = max(N * (H + 1), (L * (2 * H + 1) + H) * protocol.has_sae)
    data = 8 * N * (samples + fresh) + max(16, LANE_BYTES) * (N + H) * max(samples, fresh)
    model = 4 * LANE_BYTES * parameters  # the parameters, Adam's two moments, scratch
    steps = 150 * max(protocol.ae_training_steps, protocol.sae_training_steps)  # tables of learning rates
    if protocol.sample_order == "with_replacement":  # indexes of four bytes, drawn as eight
        drawn = protocol.ae_training_steps * protocol.ae_batch_size, protocol.sae_training_steps * protocol.sae_batch_size
        steps += 12 * max(drawn)
    measured = 24 * N * N
    if protocol.has_sae:
        measured += LANE_BYTES * L * N + 8 * CHANCE_DRAWS * (L * H + N * H + L * N)
    return data + steps + max(model, measured)


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, its container's limit, or its own."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(file).read_text().strip() if os.access(file, os.R_OK) else ""
        limits.append(int(text) if text.isdigit() else -1)
    return min(limit for limit in limits if limit > 0)
