"""Packs: replicates of one architecture that are trained together, and how a study is cut into them.

`run_pack.py` trains a pack; its replicates are cut into chunks (`chunks.py`) that fit in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, zip_longest

import numpy as np

from search_spaces.cells import SEED_COLUMNS, Architecture, Replicates
from search_spaces.extensions import extensions, import_extensions
from search_spaces.protocol import PROCEDURE_VERSION, Protocol, protocol_from, protocol_mapping
from search_spaces.study_files import StudySpec
from study.engines.registry import KnownEngine, engine_for

PACK_SECONDS = (5.0, 20.0)
"""How long a pack should take, at least and at most: long compared with Tune's cost per trial, short compared with the loss of a
worker, since a pack that is stopped is lost."""
PACKS_PER_WORKER = 50
"""How many packs each worker should train, within these limits: what is in training is a small part of the study."""
FIRST_SECONDS = 1.0
"""How long the first pack of each worker should take; the next ones double."""
MOST_PACKS = 10_000
"""The memory of Tune's driver grows with its trials; beyond this number, packs get larger instead."""


@dataclass(frozen=True, eq=False)
class Pack:
    """What one Tune trial trains: replicates of one architecture, a protocol, a dtype and an engine.

    Raises MisuseError if the engine cannot train the protocol. The engine `auto` becomes the name of the chosen one.
    """

    replicates: Replicates
    protocol: Protocol
    dtype: str
    engine: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine", engine_for(self.engine, self.protocol).name)

    def __len__(self) -> int:
        return len(self.replicates)

    @property
    def known_engine(self) -> KnownEngine:
        """Its engine, before it is imported."""
        return engine_for(self.engine, self.protocol)

    @cached_property
    def replicate_ids(self) -> list[str]:
        """Hash of (replicate, protocol, dtype, engine family, version of the procedure), 20 hexadecimal digits each."""
        tail = f"|{self.protocol.protocol_id}|{self.dtype}|{self.known_engine.family}|{PROCEDURE_VERSION}"
        columns = (_written(getattr(self.replicates, name)) for name in ("sparsity", "l1", *SEED_COLUMNS))
        lines = map("|".join, zip(*columns, strict=True))
        head = f"{self.replicates.architecture}|"
        return [hashlib.sha256(f"{head}{line}{tail}".encode()).hexdigest()[:20] for line in lines]

    @cached_property
    def pack_id(self) -> str:
        """Hash of the content: the same replicates in any order have the same id."""
        return hashlib.sha256("".join(sorted(self.replicate_ids)).encode()).hexdigest()[:20]

    def take(self, index: np.ndarray | slice) -> Pack:
        """The replicates at the given positions as a pack of their own."""
        return Pack(self.replicates.take(index), self.protocol, self.dtype, self.engine)

    def halves(self) -> tuple[Pack, Pack]:
        """The pack cut in the middle; it must have at least two replicates."""
        middle = len(self) // 2
        return self.take(slice(0, middle)), self.take(slice(middle, None))

    def to_text(self) -> str:
        """Compact text for a trial's configuration; `from_text` reads it back."""
        columns = {name: getattr(self.replicates, name).tolist() for name in ("sparsity", "l1", *SEED_COLUMNS)}
        content = {
            "architecture": str(self.replicates.architecture),
            "columns": columns,
            "protocol": protocol_mapping(self.protocol),
            "dtype": self.dtype,
            "engine": self.engine,
            "extensions": extensions(),
        }
        return base64.b85encode(zlib.compress(json.dumps(content).encode())).decode()

    @classmethod
    def from_text(cls, text: str) -> Pack:
        """Read what `to_text` wrote."""
        content = json.loads(zlib.decompress(base64.b85decode(text)))
        import_extensions(content["extensions"])
        columns = content["columns"]
        replicates = Replicates(
            Architecture.parse(content["architecture"]),
            np.array(columns["sparsity"]),
            np.array(columns["l1"]),
            *(np.array(columns[name], dtype=np.int64) for name in SEED_COLUMNS),
        )
        return cls(replicates, protocol_from(content["protocol"]), content["dtype"], content["engine"])


def _written(column: np.ndarray) -> list[str]:
    """`repr` of each number of a column, called once per distinct number. (They are told apart by their bits: 0.0 is not -0.0.)"""
    bits, place = np.unique(column.view(f"u{column.itemsize}"), return_inverse=True)
    return np.array([repr(value) for value in bits.view(column.dtype).tolist()], dtype=object)[place].tolist()


def missing_packs(spec: StudySpec, there: Iterable[str]) -> tuple[list[Pack], int]:
    """The study's replicates whose ids are not in `there`, as packs of its parts, and the number of those that are."""
    known = set(there)
    missing, done = [], 0
    for protocol, replicates in spec.parts():
        pack = Pack(replicates, protocol, spec.dtype, spec.engine)
        absent = [position for position, replicate_id in enumerate(pack.replicate_ids) if replicate_id not in known]
        done += len(pack) - len(absent)
        if absent:
            missing.append(pack if len(absent) == len(pack) else pack.take(np.array(absent)))
    return missing, done


def plan_packs(wanted: list[Pack], pack_size: int | str, workers: int) -> list[Pack]:
    """Cut the wanted replicates (one pack per architecture) into packs to train; `pack_sizes` says how large."""
    sizes = pack_sizes([len(pack) for pack in wanted], [estimated_seconds(pack) for pack in wanted], pack_size, workers)
    return [part for pack, size in zip(wanted, sizes, strict=True) for part in _cut(pack, size)]


def pack_sizes(counts: list[int], seconds: list[float], pack_size: int | str, workers: int) -> list[int]:
    """The most replicates in a pack, for each architecture, from the number and the cost of its replicates.

    pack_size: a number of replicates, or "auto": about PACKS_PER_WORKER packs per worker and at least one, PACK_SECONDS long,
    and at most about MOST_PACKS packs.
    """
    if isinstance(pack_size, int):
        return [pack_size] * len(counts)
    least, total, sizes = math.ceil(sum(counts) / MOST_PACKS), sum(seconds), []
    long = min(max(total / (PACKS_PER_WORKER * workers), PACK_SECONDS[0]), PACK_SECONDS[1])
    for count, cost in zip(counts, seconds, strict=True):
        share = max(1, round(workers * cost / total))
        pieces = share * math.ceil(cost / (share * long))
        sizes.append(max(math.ceil(count / pieces), least))
    return sizes


def started_small(packs: list[Pack], workers: int) -> list[Pack]:
    """The same replicates, with the first pack of each worker cut into pieces of FIRST_SECONDS, then twice as long and so on.

    The first rows are there within seconds, and with them a rate.
    """
    pieces = [list(_doubling(pack)) for pack in packs[:workers]]
    turns = [piece for turn in zip_longest(*pieces) for piece in turn if piece is not None]
    return turns + packs[workers:]


def _doubling(pack: Pack) -> Iterator[Pack]:
    size = max(1, int(len(pack) * FIRST_SECONDS / estimated_seconds(pack)))
    low = 0
    while low + 2 * size < len(pack):
        yield pack.take(slice(low, low + size))
        low, size = low + size, 2 * size
    yield pack.take(slice(low, None)) if low else pack


def _cut(pack: Pack, size: int) -> Iterator[Pack]:
    """Even pieces of at most `size` replicates."""
    pieces = math.ceil(len(pack) / size)
    bounds = [round(piece * len(pack) / pieces) for piece in range(pieces + 1)]
    return (pack.take(slice(low, high)) for low, high in pairwise(bounds))


def estimated_seconds(pack: Pack) -> float:
    """Seconds of one core for the pack: the engine's own estimate, plus the measured cost of data and metrics."""
    autoencoders = len(autoencoder_keys(pack.replicates)[0])
    return training_seconds(pack.replicates.architecture, autoencoders, len(pack), pack.protocol, pack.dtype, pack.known_engine)


def training_seconds(
    architecture: Architecture, autoencoders: int, saes: int, protocol: Protocol, dtype: str, engine: KnownEngine
) -> float:
    """`estimated_seconds` of a pack of this many models."""
    fresh = protocol.eval_samples or 0
    drawn = architecture.n_features * (protocol.samples + fresh)
    if protocol.sample_order == "with_replacement":
        drawn += protocol.ae_training_steps * protocol.ae_batch_size + protocol.sae_training_steps * protocol.sae_batch_size
    measured = (fresh or protocol.samples) * architecture.n_latents * architecture.n_features
    overhead = autoencoders * 1e-8 * drawn + saes * (4e-10 * measured + 5e-5)
    return engine.load().seconds(architecture, protocol, autoencoders, saes, dtype) + overhead


def autoencoder_keys(replicates: Replicates) -> tuple[np.ndarray, np.ndarray]:
    """The distinct autoencoders behind the replicates: (first, which).

    The AE does not depend on l1, so one is trained per (sparsity, data_seed, ae_seed). first (A,): the position of the
    first replicate that uses each, in order of appearance; which (R,): the autoencoder of each replicate.
    """
    keys = np.rec.fromarrays([replicates.sparsity, replicates.data_seed, replicates.ae_seed])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[which]
