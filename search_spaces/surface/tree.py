"""The tree: the average over all ways to cut the space into boxes of constant failure rate.

It is one of the two estimators that `surface.py` pools.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from search_spaces.surface.domain import Counts, Domain, Floats, Ints
from search_spaces.surface.posterior import Posterior, beta_counts

FRAMES = 8
"""Number of frames that are averaged over."""


LEVELS = 6
"""Number of halvings of each of u and v; the axis of architectures is halved down to single ones."""


_GOLDEN = (math.sqrt(5) - 1) / 2


_ROOM = 1.15
"""Side of a frame over that of the square that it must hold; shifts use the spare room."""


@dataclass(frozen=True)
class Frame:
    """A rotated and shifted square around the unit square, which the boxes subdivide."""

    angle: float
    """Radians, in [0, π/2)."""
    shift: tuple[float, float]
    """The unit square's position within the spare room, in [0, 1] per axis."""

    def cells(self, u: Floats, v: Floats, sides: tuple[int, ...]) -> tuple[Ints, Ints]:
        """The frame's cells in which points lie, with `sides` cells per axis."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        reach = (cos + sin) / 2
        turned = cos * (u - 0.5) + sin * (v - 0.5), cos * (v - 0.5) - sin * (u - 0.5)
        placed = (((x / reach + 1) / 2 + (_ROOM - 1) * by) / _ROOM for x, by in zip(turned, self.shift))
        first, second = (np.clip((x * side).astype(np.int64), 0, side - 1) for x, side in zip(placed, sides))
        return first, second


def frames(rotate: bool) -> tuple[Frame, ...]:
    """The frames that are averaged over: multiples of the golden angle within 90°, shifted by the R2 sequence.

    Without rotation (if an axis has a single value) they differ only in their shifts.
    """
    plastic = 1.324717957244746
    return tuple(
        Frame(
            angle=math.pi / 2 * (number * _GOLDEN % 1) if rotate else 0.0,
            shift=((0.5 + number / plastic) % 1, (0.5 + number / plastic**2) % 1),
        )
        for number in range(FRAMES)
    )


@dataclass(frozen=True, eq=False)
class Tree:
    """The average over all dyadic partitions in every frame. Leaves are Beta(½, ½); the stopping probability is ½."""

    frames: tuple[Frame, ...]
    mean: Floats
    """(F, A, 2^levels, 2^levels): the rate's mean on each frame's cells."""
    second: Floats
    """The mean of its square."""
    counts: Floats
    """The pseudo-counts of the Beta with these moments."""

    @classmethod
    def fitted(cls, domain: Domain, counts: Counts) -> Tree:
        """The posterior given counts, exact up to the size of a cell: 1/64 of a frame, or 1/32 for coarse lattices."""
        sides = tuple(2 ** _levels(axis) if varies else 1 for axis, varies in zip((counts.u, counts.v), domain.varies))
        padded = 2 ** math.ceil(math.log2(len(domain.architectures)))
        around = frames(rotate=all(domain.varies))
        failures, replicates = (np.stack(parts) for parts in zip(*(_framed(f, counts, (padded, *sides)) for f in around)))
        mean, second = partition_average(failures, replicates, apart=1)
        kept = slice(len(domain.architectures))
        mean, second = mean[:, kept], second[:, kept]
        return cls(around, mean, second, beta_counts(mean, second))

    def at(self, architecture: Ints, u: Floats, v: Floats) -> Posterior:
        """The rate's distribution at points, averaged over frames; the arguments are broadcast.

        The frames' disagreement is part of the rate's variance.
        """
        sums = [np.zeros(()), np.zeros(()), np.zeros(())]
        for number, frame in enumerate(self.frames):
            at = (number, architecture, *frame.cells(u, v, self.mean.shape[2:]))
            sums = [total + part[at] for total, part in zip(sums, (self.mean, self.second, self.counts))]
        return Posterior.matched(*(total / len(self.frames) for total in sums))


def _levels(axis: Floats) -> int:
    """Number of halvings of an axis: one fewer if its values are so few that they still fall into different cells."""
    return LEVELS - 1 if len(np.unique(axis)) <= _FEW_VALUES else LEVELS


_FEW_VALUES = 16


def _framed(frame: Frame, counts: Counts, shape: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Failures and replicates in each of the frame's cells."""
    at = counts.architecture, *frame.cells(counts.u, counts.v, shape[1:])
    flat = np.ravel_multi_index(at, shape)
    failures, replicates = (
        np.bincount(flat, weights=column.astype(np.float64), minlength=math.prod(shape)).reshape(shape).astype(np.int64)
        for column in (counts.failures, counts.replicates)
    )
    return failures, replicates


def partition_average(failures: Floats | Ints, replicates: Floats | Ints, apart: int = 0) -> tuple[Floats, Floats]:
    """E rate and E rate² of every cell under the optional Pólya tree; sides are powers of two, any number of axes.

    A box is a leaf with probability ½ (1 for a single cell) and then has one Beta(½, ½) rate. Otherwise it is halved along
    one of the axes that can still be halved, each with the same probability. The marginal likelihood of a box,
    M = ½ leaf + ½ mean over axes of M(left) M(right), is computed from small boxes to large ones; then the posterior
    probability that a box is a leaf, from large ones to small. The cost is proportional to the number of boxes,
    ∏ (2 · side − 1). The first `apart` axes, of any length, are not halved: each of their entries is a space of its own.
    """
    deepest = tuple(0 if axis < apart else side.bit_length() - 1 for axis, side in enumerate(failures.shape))
    failures, replicates = (given.astype(np.int64) for given in (failures, replicates))
    boxes = _boxes(failures, replicates, deepest, int(replicates.sum(axis=tuple(range(apart, replicates.ndim))).max()))
    reach = {depth: np.zeros(box.stopping.shape) for depth, box in boxes.items()}
    reach[(0,) * len(deepest)] += 1
    own = {}
    for depth in sorted(boxes):
        box = boxes[depth]
        for axis, share in box.halving.items():
            reach[_deeper(depth, axis)] += np.repeat(reach[depth] * share, 2, axis)
        mean = (box.failures + 0.5) / (box.replicates + 1)
        second = mean * (box.failures + 1.5) / (box.replicates + 2)
        own[depth] = reach[depth] * box.stopping * np.stack([mean, second])
    first, second = _spread(own, deepest)
    return first, second


@dataclass(frozen=True, eq=False)
class _Boxes:
    """All boxes of one depth, the number of halvings of each axis; arrays have shape 2^depth."""

    failures: Ints
    replicates: Ints
    evidence: Floats
    """log M."""
    stopping: Floats
    """Posterior probability that the box, once reached, is a leaf."""
    halving: dict[int, Floats]
    """Posterior probability that the box, once reached, is halved along each axis."""


def _boxes(failures: Ints, replicates: Ints, deepest: tuple[int, ...], most: int) -> dict[tuple[int, ...], _Boxes]:
    """All boxes by depth, from single cells, the deepest, up to the whole. `most` is the largest number of replicates in one."""
    found: dict[tuple[int, ...], _Boxes] = {}
    half, whole = gammaln(np.arange(most + 1) + 0.5), gammaln(np.arange(most + 1) + 1)
    for depth in sorted(itertools.product(*(range(halvings + 1) for halvings in deepest)), reverse=True):
        finer = {axis: found[_deeper(depth, axis)] for axis in range(len(depth)) if depth[axis] < deepest[axis]}
        k, n = failures, replicates
        for axis, halves in itertools.islice(finer.items(), 1):
            k, n = _pairs(halves.failures, axis), _pairs(halves.replicates, axis)
        leaf = half[k] + half[n - k] - whole[n] - math.log(math.pi)
        halved = {axis: _pairs(halves.evidence, axis) - math.log(2 * len(finer)) for axis, halves in finer.items()}
        found[depth] = _Boxes(k, n, *_shares(leaf, halved))
    return found


def _shares(leaf: Floats, halved: dict[int, Floats]) -> tuple[Floats, Floats, dict[int, Floats]]:
    """log M of boxes, and the posterior shares of stopping and of each halving."""
    if not halved:
        return leaf, np.ones(leaf.shape), {}
    stop = leaf - math.log(2)
    peak = np.maximum.reduce([stop, *halved.values()])
    weights = {axis: np.exp(value - peak) for axis, value in halved.items()}
    stop = np.exp(stop - peak)
    total = stop + sum(weights.values())
    return peak + np.log(total), stop / total, {axis: weight / total for axis, weight in weights.items()}


def _spread(own: dict[tuple[int, ...], Floats], deepest: tuple[int, ...]) -> Floats:
    """The sum, for each cell, over all boxes that contain it: axis by axis, repeating coarse depths onto finer ones.

    Values have shape (moments, *2^depth).
    """
    for axis, most in enumerate(deepest):
        summed: dict[tuple[int, ...], Floats] = {}
        for depth in sorted(own):
            whole = (*depth[:axis], most, *depth[axis + 1 :])
            coarse = summed.get(whole)
            summed[whole] = own[depth] if coarse is None else own[depth] + np.repeat(coarse, 2, axis + 1)
        own = summed
    return own[deepest]


def _deeper(depth: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*depth[:axis], depth[axis] + 1, *depth[axis + 1 :])


def _pairs(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Sums of neighbouring pairs along an axis: the value of each box from those of its halves."""
    before = (slice(None),) * axis
    return values[(*before, slice(0, None, 2))] + values[(*before, slice(1, None, 2))]
