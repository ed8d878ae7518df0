"""The process: a Gaussian process on the logit of the failure rate, by a cosine basis and Laplace's approximation.

It is one of the two estimators that `surface.py` pools.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import expit
from threadpoolctl import threadpool_limits

from search_spaces.surface.domain import Counts, Domain, Floats, Ints
from search_spaces.surface.posterior import Posterior

FUNCTIONS = 20
"""Number of cosines per axis."""


LENGTHS = (0.05, 0.1, 0.2)
"""Candidate length scales for each axis, in units of the axis."""


AMPLITUDE = 4.0
"""Prior standard deviation of the logit."""


@dataclass(frozen=True, eq=False)
class Process:
    """G: logit of the rate = Σ w_ij cos(iπu) cos(jπv), w_ij ~ Normal(0, σ² s_i s_j) with s the spectral density of a
    squared-exponential kernel (Solin and Särkkä 2020, eq. 20, with Neumann's boundary), by Laplace's approximation.
    """

    location: Floats
    """(A, I, J): coefficients of the logit's mean."""
    variance: Floats
    """(A, 2I − 1, 2J − 1): coefficients of its variance, also a cosine series as cos x cos y = ½ cos(x + y) + ½ cos(x − y)."""

    lengths: Ints
    """(A, 2): the places in LENGTHS of the length scales of u and v."""

    @classmethod
    def fitted(cls, domain: Domain, counts: Counts, earlier: Process | None = None) -> Process:
        """One process per architecture, each with the length scales of u and v that have the greatest evidence.

        After an earlier fit to part of the counts, Newton's method starts from it, and only the same length scales and their
        neighbours are tried.
        """
        architectures = range(len(domain.architectures))
        with threadpool_limits(1, "blas"):  # small matrices: on a busy machine, more threads wait minutes for each other
            fits = [_best(counts.take(counts.architecture == a), domain.varies, earlier, a) for a in architectures]
        sides = tuple(FUNCTIONS if varies else 1 for varies in domain.varies)
        location = np.zeros((len(fits), *sides))
        variance = np.zeros((len(fits), *(2 * side - 1 for side in sides)))
        for a, best in enumerate(fits):
            _embed(location[a], best.location)
            _embed(variance[a], best.variance)
        return cls(location, variance, np.array([best.lengths for best in fits], dtype=np.int64))

    def at(self, architecture: Ints, u: Floats, v: Floats) -> Posterior:
        """The rate's distribution at points, all of shape (n,)."""
        return _bridged(*self.latent(architecture, u, v))

    def on_grid(self, u: Floats, v: Floats) -> Posterior:
        """The rate's distribution on the grid of all architectures × u × v."""
        return _bridged(*self.latent_on_grid(u, v))

    def latent(self, architecture: Ints, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logit at points, all of shape (n,)."""
        location, variance = np.zeros(len(u)), np.zeros(len(u))
        for a in np.unique(architecture):
            here = architecture == a
            location[here] = _series(self.location[a], u[here], v[here])
            variance[here] = _series(self.variance[a], u[here], v[here])
        return location, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))

    def latent_on_grid(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logit on the grid of all architectures × u × v."""
        location, variance = (
            np.einsum("aij,ui,vj->auv", part, _cosines(u, part.shape[1]), _cosines(v, part.shape[2]), optimize=True)
            for part in (self.location, self.variance)
        )
        return location, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))


_LEAST_VARIANCE = 1e-6


def _bridged(location: Floats, scale: Floats) -> Posterior:
    """The Beta for a rate whose logit is Normal(location, scale²): α = p/κ, β = (1 − p)/κ, κ = scale² p (1 − p).

    This is the Laplace bridge, the Beta whose Laplace approximation in the logit has that scale (MacKay 1998, "Choice of basis
    for Laplace approximation"), at p = σ(location / √(1 + DAMPING scale²)). With DAMPING 0, p is the rate at the mode; with π/8
    it is nearly the mean of the logistic-normal (MacKay 1992), whose upper tail the data exclude where nothing fails.
    """
    logit = location / np.sqrt(1 + DAMPING * scale**2)
    up, down = expit(logit), expit(-logit)
    spread = scale**2 * up * down
    return Posterior(up / spread, down / spread, np.ones(up.shape))


DAMPING = 0.15
"""Chosen so that intervals hold rates of a few per cent, which the mode alone calls 0, on other truths than docs/map.md's."""


@dataclass(frozen=True, eq=False)
class _Laplace:
    lengths: tuple[int, int]
    """Places in LENGTHS."""
    evidence: float
    location: Floats
    scale: Floats
    factor: Floats
    """Lower Cholesky factor of minus the Hessian."""

    @property
    def variance(self) -> Floats:
        """Cosine coefficients of the logit's variance."""
        half = solve_triangular(self.factor, np.diag(self.scale), lower=True, check_finite=False)
        return _variance_series(half.T @ half, self.location.shape)


def _best(counts: Counts, varies: tuple[bool, bool], earlier: Process | None, a: int) -> _Laplace:
    """The fit to one architecture's counts that has the greatest evidence."""
    choices = [range(len(LENGTHS)) if varied else range(1) for varied in varies]
    tried = [(i, j) for i in choices[0] for j in choices[1]]
    start = np.zeros((FUNCTIONS, FUNCTIONS))
    if earlier is not None:
        i, j = earlier.lengths[a]
        tried = [(k, m) for k, m in tried if abs(k - i) + abs(m - j) <= 1]
        _embed(start, earlier.location[a])
    data = _Data.of(counts, varies)
    return max((_laplace(data, lengths, varies, start) for lengths in tried), key=lambda fit: fit.evidence)


def _laplace(data: _Data, lengths: tuple[int, int], varies: tuple[bool, bool], start: Floats) -> _Laplace:
    """Newton's method for the mode of the weights, in units of their prior standard deviation: z = w / √prior.

    The Hessian of −log posterior is I + D Φᵀ W Φ D with W = n p (1 − p) and D = diag(√prior). Rasmussen and Williams 2006,
    eqs. 3.15 and 3.32. `start` holds weights near the mode.
    """
    chosen = [LENGTHS[place] for place in lengths]
    sides = tuple(_functions(most, length) if varied else 1 for most, length, varied in zip(data.most, chosen, varies))
    scale = AMPLITUDE * np.sqrt(np.outer(*map(_spectrum, chosen, sides))).ravel()
    data = data.cut(sides)
    z = np.clip(start[: sides[0], : sides[1]].ravel() / scale, -_FARTHEST_START, _FARTHEST_START)
    value = data.log_posterior(z, scale)
    for _ in range(_MOST_STEPS):
        gradient, hessian = data.derivatives(z, scale)
        factor = cho_factor(hessian, lower=True, check_finite=False)
        step = cho_solve(factor, gradient, check_finite=False)
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE:
            break
        size, before = 1.0, value
        while (value := data.log_posterior(z + size * step, scale)) < before and size > 1e-3:
            size /= 2
        z = z + size * step
    evidence = value - float(np.log(np.diag(factor[0])).sum())
    return _Laplace(lengths, evidence, (scale * z).reshape(sides), scale, factor[0])


_FARTHEST_START = 4.0
"""Weights of a shorter length scale are tamed to this many prior standard deviations before the first step."""


def _functions(most: int, length: float) -> int:
    """Number of cosines on an axis: up to the cutoff, and at most `most`."""
    return min(most, math.ceil(_CUTOFF / (math.pi * length)) + 1)


_SPARE = 3
"""An axis gets at most so many cosines more than it has distinct values."""


_CUTOFF = 3.6
"""Cosines whose frequency times length scale exceeds this have less than 0.0016 of the first one's prior variance."""


_MOST_STEPS = 30


_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class _Data:
    """Counts and the cosines at their points.

    They are those of single points (n,), or of a whole lattice (U, V), for which sums over points are products of matrices.
    """

    failures: Ints
    replicates: Ints
    u: Floats
    """(n or U, 2I − 1)."""
    v: Floats
    """(n or V, 2J − 1)."""

    @classmethod
    def of(cls, counts: Counts, varies: tuple[bool, bool]) -> _Data:
        """The data of counts, as a lattice if enough of its points are present, with as many cosines as may be used."""
        (u, row), (v, column) = (np.unique(axis, return_inverse=True) for axis in (counts.u, counts.v))
        sides = [min(FUNCTIONS, len(axis) + _SPARE) if varied else 1 for axis, varied in zip((u, v), varies)]
        failures, replicates = counts.failures, counts.replicates
        if len(u) * len(v) <= _WORTH_A_LATTICE * len(counts):
            failures, replicates = np.zeros((2, len(u), len(v)), dtype=np.int64)
            np.add.at(failures, (row, column), counts.failures)
            np.add.at(replicates, (row, column), counts.replicates)
        else:
            u, v = counts.u, counts.v
        return cls(failures, replicates, _cosines(u, 2 * sides[0] - 1), _cosines(v, 2 * sides[1] - 1))

    @property
    def most(self) -> tuple[int, int]:
        """I, J."""
        return (self.u.shape[1] + 1) // 2, (self.v.shape[1] + 1) // 2

    def cut(self, sides: tuple[int, ...]) -> _Data:
        """The same data with fewer cosines."""
        rows, columns = (2 * side - 1 for side in sides)
        return replace(self, u=np.ascontiguousarray(self.u[:, :rows]), v=np.ascontiguousarray(self.v[:, :columns]))

    def log_posterior(self, z: Floats, scale: Floats) -> float:
        """Σ k f − n log(1 + exp f) − ½ z·z, up to a constant of the counts."""
        f = self._logit(z, scale)
        return float((self.failures * f - self.replicates * np.logaddexp(0, f)).sum() - z @ z / 2)

    def derivatives(self, z: Floats, scale: Floats) -> tuple[Floats, Floats]:
        """The gradient of the log posterior of z, and minus its Hessian."""
        rate = expit(self._logit(z, scale))
        gradient = scale * self._sums(self.failures - self.replicates * rate, *self.most).ravel() - z
        series = self._sums(self.replicates * rate * (1 - rate), self.u.shape[1], self.v.shape[1])
        hessian = scale[:, None] * _products(series, self.most) * scale
        hessian[np.diag_indices_from(hessian)] += 1
        return gradient, hessian

    def _logit(self, z: Floats, scale: Floats) -> Floats:
        rows, columns = self.most
        along = self.u[:, :rows] @ (scale * z).reshape(rows, columns)
        basis = self.v[:, :columns]
        return along @ basis.T if self.failures.ndim == 2 else (along * basis).sum(1)

    def _sums(self, values: Floats, rows: int, columns: int) -> Floats:
        """Σ over points of value · cos(iπu) cos(jπv): (rows, columns)."""
        u, v = self.u[:, :rows], self.v[:, :columns]
        return u.T @ values @ v if values.ndim == 2 else u.T @ (values[:, None] * v)


_WORTH_A_LATTICE = 10
"""A single point costs about as much as this many points of a lattice."""


def _products(series: Floats, sides: tuple[int, ...]) -> Floats:
    """Σ over points of weight · φ_ij φ_i'j', (IJ, IJ), from the (2I − 1, 2J − 1) sums of weight · cos(aπu) cos(bπv)."""
    pairs = _sums_and_differences(sides[0]).T @ series @ _sums_and_differences(sides[1])
    rows, columns = sides
    return pairs.reshape(rows, rows, columns, columns).transpose(0, 2, 1, 3).reshape(rows * columns, rows * columns)


def _variance_series(covariance: Floats, sides: tuple[int, ...]) -> Floats:
    """Cosine coefficients (2I − 1, 2J − 1) of φᵀ Σ φ, the variance of Σ w_ij φ_ij."""
    rows, columns = sides
    pairs = covariance.reshape(rows, columns, rows, columns).transpose(0, 2, 1, 3).reshape(rows * rows, columns * columns)
    return _sums_and_differences(rows) @ pairs @ _sums_and_differences(columns).T


def _sums_and_differences(side: int) -> Floats:
    """The matrix M, (2 · side − 1, side²), for which cos(iπx) cos(jπx) = Σ_a M[a, (i, j)] cos(aπx)."""
    i, j = (index.ravel() for index in np.indices((side, side)))
    found = np.zeros((2 * side - 1, side * side))
    np.add.at(found, (i + j, np.arange(side * side)), 0.5)
    np.add.at(found, (np.abs(i - j), np.arange(side * side)), 0.5)
    return found


def _spectrum(length: float, side: int) -> Floats:
    """Prior variances of cos(iπx), i < side, for a kernel of variance 1; if side is 1, the constant has all of it."""
    if side == 1:
        return np.ones(1)
    frequency = math.pi * np.arange(side)
    density = math.sqrt(2 * math.pi) * length * np.exp(-((frequency * length) ** 2) / 2)
    return np.where(frequency == 0, 1, 2) * density


def _cosines(x: Floats, count: int) -> Floats:
    """cos(iπx), i < count: (n, count)."""
    return np.cos(math.pi * np.outer(x, np.arange(count)))


def _series(coefficients: Floats, u: Floats, v: Floats) -> Floats:
    return ((_cosines(u, coefficients.shape[0]) @ coefficients) * _cosines(v, coefficients.shape[1])).sum(1)


def _embed(target: Floats, part: Floats) -> None:
    target[tuple(slice(side) for side in part.shape)] = part
