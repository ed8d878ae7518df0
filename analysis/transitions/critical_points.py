"""Phase transitions: critical values of a coordinate, measured from a study's rows, beside their closed forms.

They come from how often replicates fail (`critical_points`), and from the autoencoder's own order parameters
(`ae_order_parameters`, `order_transitions`). Rows hold no weights, so that quantities which need W are bounded or left out.
The fit of a single curve is in `crossings.py`, the closed forms are in `study/theory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.rates.cells import on_lattice, per_autoencoder
from analysis.transitions.crossings import Answer, Crossing, crossings
from search_spaces.coordinates import L1, PLANE, SPARSITY, Coordinate, Plane
from search_spaces.failures import FailureKind, failed
from search_spaces.protocol import PROTOCOLS, Protocol
from study import theory

_Float = NDArray[np.float64]

DEATHS = (FailureKind.SAE_DEAD.value, "sae_all_dead")
"""The failures that a death line predicts."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Prediction:
    """The value that a closed form predicts for a critical point."""

    name: str
    value: float
    """The critical value on the axis; NaN if the closed form predicts no crossing."""


@dataclass(frozen=True)
class CriticalPoint:
    """Where a rate over seeds crosses a level along one axis, with its interval and its closed forms."""

    architecture: str
    quantity: str
    """The failure, or the statement about the autoencoder, whose rate crosses the level."""
    axis: Coordinate
    """The coordinate along which the rate crosses."""
    held: Coordinate | None
    """The other coordinate; None if the autoencoder alone decides."""
    at: float | None
    """The value of `held`; None without it."""
    level: float
    crossing: Crossing
    """In values of the axis itself, not in their logarithms."""
    measured: tuple[float, float]
    """Lowest and highest measured value of the axis."""
    replicates: int
    seeds: int
    predictions: tuple[Prediction, ...] = ()

    def difference(self, prediction: Prediction) -> float:
        """Estimate minus prediction, in decades on a logarithmic axis; NaN without an estimate."""
        if self.axis.scale == "log":
            return float(np.log10(self.crossing.estimate / prediction.value))
        return self.crossing.estimate - prediction.value

    def holds(self, prediction: Prediction) -> bool | None:
        """Whether the interval holds the prediction.

        For a rate that does not cross, it is whether no crossing is predicted within the measured range. None if there are too
        few seeds, or if the prediction is NaN.
        """
        answer = self.crossing.answer
        if answer is Answer.TOO_FEW or np.isnan(prediction.value):
            return None
        if answer is Answer.NOT_CROSSED:
            return not self.measured[0] <= prediction.value <= self.measured[1]
        return self.crossing.low <= prediction.value <= self.crossing.high

    @property
    def sentence(self) -> str:
        """The answer in words."""
        where = "" if self.held is None else f" at {self.held.symbol} = {self.at:.3g}"
        name, crossing = self.axis.symbol, self.crossing
        subject = f"{self.architecture}{where}: P({self.quantity})"
        if crossing.answer is Answer.TOO_FEW:
            return f"{subject} has {crossing.answer} ({self.seeds} seeds)"
        if crossing.answer is Answer.NOT_CROSSED:
            low, high = self.measured
            return f"{subject} stays {crossing.direction} {self.level:g} for {name} in [{low:.3g}, {high:.3g}]"
        several = f", crossing {crossing.branch} of {crossing.branches} (not monotone)" if crossing.branches > 1 else ""
        verb = "rises" if crossing.direction == "rising" else "falls"
        return f"{subject} {verb} through {self.level:g} at {name} = {_with_interval(crossing)}{several}"


def _with_interval(crossing: Crossing) -> str:
    return f"{crossing.estimate:.3g} [{crossing.low:.3g}, {crossing.high:.3g}]"


# From how often replicates fail


def critical_points(
    frame: pd.DataFrame,
    failure: str = "any",
    level: float = 0.5,
    confidence: float = 0.9,
    protocol: Protocol | None = None,
    plane: Plane = PLANE,
) -> list[CriticalPoint]:
    """Critical x at each y and critical y at each x, of every architecture; one entry per crossing.

    A curve that does not cross, or has too few seeds or levels, gets an entry that says so. A collapse of the autoencoder does
    not depend on y: its critical x counts each autoencoder once. A logarithmic axis is fitted in logarithms, without 0.

    protocol: the protocol for the closed forms of the SAE's death; by default the named one under which all rows were trained.
    """
    if frame.empty:
        return []
    frame = on_lattice(frame, plane)
    frame = frame.assign(failed=failed(frame, failure))
    protocol, asked = protocol or named_protocol(frame), _Asked(failure, level, confidence)
    return [
        point
        for _, own in _by_architecture(frame)
        for point in (
            _of_autoencoder(own, asked, plane)
            if failure == FailureKind.AE_COLLAPSED.value
            else _of_sae(own, asked, protocol, plane)
        )
    ]


@dataclass(frozen=True)
class _Asked:
    """What `critical_points` looks for: the quantity, the level of its rate, and the confidence of intervals."""

    quantity: str
    level: float
    confidence: float


def named_protocol(frame: pd.DataFrame) -> Protocol | None:
    """The named protocol under which all rows were trained; None if there is none."""
    names = list(frame["protocol"].unique()) if "protocol" in frame else []
    return PROTOCOLS.get(names[0]) if len(names) == 1 else None


def _by_architecture(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each architecture, in order of width."""
    for (_, _, architecture), own in frame.groupby(["n_features", "n_hidden", "architecture"], sort=True):
        yield architecture, own


def _of_autoencoder(own: pd.DataFrame, asked: _Asked, plane: Plane) -> Iterator[CriticalPoint]:
    never = (Prediction("L_ded < L_bias at every S: collapse never pays", np.nan),)
    yield from _points(_once_each(own, plane), asked, plane.x, None, never)


def _once_each(own: pd.DataFrame, plane: Plane = PLANE) -> pd.DataFrame:
    return per_autoencoder(own, plane) if {"data_seed", "ae_seed"} <= set(own.columns) else own


def _of_sae(own: pd.DataFrame, asked: _Asked, protocol: Protocol | None, plane: Plane) -> Iterator[CriticalPoint]:
    for axis, held in (plane, plane[::-1]):
        rows = own[own[axis.name] > 0] if axis.scale == "log" else own
        for _, curve in rows.groupby(held.name):
            predictions = death_predictions(curve, protocol) if axis == L1 and asked.quantity in DEATHS else ()
            yield from _points(curve, asked, axis, held, predictions)


def _points(
    rows: pd.DataFrame, asked: _Asked, axis: Coordinate, held: Coordinate | None, predictions: tuple[Prediction, ...]
) -> Iterator[CriticalPoint]:
    """The crossings of one curve, none if the axis has a single value; rows have a column `failed`."""
    values = rows[axis.name].to_numpy(dtype=np.float64)
    if len(np.unique(values)) < 2:
        return
    seed = rows["seed"].to_numpy() if "seed" in rows else np.arange(len(rows))
    log = axis.scale == "log"
    for crossing in crossings(np.log10(values) if log else values, rows["failed"], seed, asked.level, asked.confidence):
        yield CriticalPoint(
            architecture=str(rows["architecture"].iloc[0]),
            quantity=asked.quantity,
            axis=axis,
            held=held,
            at=None if held is None else float(rows[held.name].iloc[0]),
            level=asked.level,
            crossing=_powers(crossing) if log else crossing,
            measured=(float(values.min()), float(values.max())),
            replicates=len(rows),
            seeds=len(np.unique(seed)),
            predictions=predictions,
        )


def _powers(crossing: Crossing) -> Crossing:
    """The crossing in values instead of logarithms; −inf becomes 0."""
    estimate, low, high = (float(10.0**value) for value in (crossing.estimate, crossing.low, crossing.high))
    return Crossing(
        crossing.answer, crossing.direction, estimate, low, high, crossing.probability, crossing.branch, crossing.branches
    )


def represented_norm(rows: pd.DataFrame) -> pd.Series[float]:
    """√(‖W‖_F²/|F|) of each row, the norm of a represented column, with ‖W‖_F² = n_features · `ae_diagonal_mean`.

    The columns outside F are treated as 0, so that the norm is an upper bound. NaN if F is empty.
    """
    represented = rows["ae_features_represented"].astype("float64")
    return np.sqrt(rows["n_features"] * rows["ae_diagonal_mean"] / represented.where(represented > 0))


def death_predictions(rows: pd.DataFrame, protocol: Protocol | None) -> tuple[Prediction, ...]:
    """The l1 at which the SAEs of one sparsity die, by closed form from the median column norm of their autoencoders.

    `2‖w‖`: the l1 above which firing does not pay at the optimum. `initial pull`: the l1 above which the first steps push every
    latent down; it holds for decoders that start as normal(0, sae_init_std), so only under a protocol with such decoders.
    """
    if not {"ae_diagonal_mean", "ae_features_represented"} <= set(rows.columns):
        return ()
    norm = float(represented_norm(_once_each(rows)).median())
    predictions = [Prediction("death line 2‖w‖", float(theory.death_line(norm)))]
    if protocol is not None and protocol.sae_decoder_init == "normal" and np.isfinite(norm):
        represented = max(1, round(float(rows["ae_features_represented"].median())))
        n_latents = int(rows["n_latents"].iloc[0])
        pull = theory.initial_death_line(protocol.sae_init_std, norm, n_latents, represented)
        predictions.append(Prediction("initial pull on W_dec", float(pull)))
    return tuple(predictions)


# From the autoencoder's order parameters


@dataclass(frozen=True)
class OrderParameter:
    """A number that the rows give for each autoencoder, and its closed form."""

    column: str
    """Its name: a column of the rows, or one that `measure` computes from them."""
    label: str
    measure: Callable[[pd.DataFrame], pd.Series[float]]
    theory: Callable[[float, _Float, int], float]
    """The closed form as a function of (sparsity, importances, n_hidden)."""


def _stored(column: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    return lambda rows: rows[column].astype("float64") if column in rows else pd.Series(np.nan, rows.index)


def _least_dimension_sum(rows: pd.DataFrame) -> pd.Series[float]:
    condition = _stored("ae_condition_number")(rows).to_numpy()
    bounds = [float(theory.least_dimension_sum(k, n_hidden)) for k, n_hidden in zip(condition, rows["n_hidden"])]
    return pd.Series(bounds, rows.index, dtype="float64")


def _loss_ratio(rows: pd.DataFrame) -> pd.Series[float]:
    return _stored("ae_loss")(rows) / _stored("ae_loss_dedicated")(rows)


def _best_loss_ratio(sparsity: float, importances: _Float, n_hidden: int) -> float:
    best = theory.best_paired_loss(sparsity, importances, n_hidden)
    return float(best / theory.dedicated_loss(sparsity, importances, n_hidden))


ORDER_PARAMETERS = (
    OrderParameter(
        "ae_features_represented", "features represented", _stored("ae_features_represented"),
        lambda S, weights, H: float(theory.features_represented(S, weights, H)),
    ),
    OrderParameter(
        "ae_dimensions_per_feature", "dimensions per feature D*", _stored("ae_dimensions_per_feature"),
        lambda S, weights, H: float(theory.dimensions_per_feature(S, weights, H)),
    ),
    OrderParameter("ae_dimension_sum_least", "lower bound of ΣD, from κ", _least_dimension_sum, lambda S, weights, H: float(H)),
    OrderParameter("ae_loss_over_dedicated", "AE loss / dedicated loss", _loss_ratio, _best_loss_ratio),
)  # fmt: skip
"""ΣD itself needs W, which rows do not hold; `ae_dimension_sum_least` is its bound from the condition number."""


def ae_order_parameters(frame: pd.DataFrame, parameters: Sequence[OrderParameter] = ORDER_PARAMETERS) -> pd.DataFrame:
    """One row per architecture, sparsity and order parameter, over the autoencoders (each counted once).

    Columns: architecture, sparsity, parameter, replicates (those with a finite value), autoencoders (all), quantiles q05, q25,
    q50, q75, q95, theory (closed form; NaN if the importances cannot be derived from the rows).
    """
    columns = ["architecture", SPARSITY.name, "parameter", "replicates", "autoencoders", *_QUANTILE_NAMES, "theory"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    lines = [
        (architecture, float(sparsity), parameter.column, *_summary(parameter, rows))
        for architecture, own in _by_architecture(_once_each(frame))
        for sparsity, rows in own.groupby(SPARSITY.name)
        for parameter in parameters
    ]
    return pd.DataFrame(lines, columns=columns)


_QUANTILE_NAMES = tuple(f"q{round(100 * q):02d}" for q in QUANTILES)


def _summary(parameter: OrderParameter, rows: pd.DataFrame) -> tuple[float, ...]:
    """(finite, all, quantiles …, theory) of one parameter over the autoencoders of one sparsity."""
    values = parameter.measure(rows).to_numpy(dtype=np.float64)
    finite = values[np.isfinite(values)]
    quantiles = np.quantile(finite, QUANTILES) if len(finite) else np.full(len(QUANTILES), np.nan)
    importances = importances_of(rows)
    sparsity, n_hidden = float(rows[SPARSITY.name].iloc[0]), int(rows["n_hidden"].iloc[0])
    closed = np.nan if importances is None else parameter.theory(sparsity, importances, n_hidden)
    return (len(finite), len(values), *(float(q) for q in quantiles), closed)


def importances_of(rows: pd.DataFrame) -> _Float | None:
    """I_i = r^i, (n_features,), with r from `ae_loss_bias_only` = v(p) Σ I; None if no row holds that loss."""
    baselines = _stored("ae_loss_bias_only")(rows)
    known = rows[np.isfinite(baselines)]
    if known.empty:
        return None
    n_features, sparsity = int(known["n_features"].iloc[0]), float(known[SPARSITY.name].iloc[0])
    total = max(1.0, float(known["ae_loss_bias_only"].iloc[0] / theory.feature_variance(sparsity)))
    decay = theory.importance_decay(total, n_features)
    return decay ** np.arange(n_features, dtype=np.float64)


@dataclass(frozen=True)
class Statement:
    """A statement about one autoencoder; the share of seeds for which it holds makes a transition."""

    name: str
    holds: Callable[[pd.DataFrame], pd.Series[bool]]
    theory: Callable[[_Float, int], float]
    """The critical sparsity as a function of (importances, n_hidden); NaN if the closed form has none."""
    closed_form: str


def _kth_pair(k: int) -> Callable[[_Float, int], float]:
    """The critical sparsity of the k-th pair, NaN if there is none."""

    def critical(importances: _Float, n_hidden: int) -> float:
        onsets = theory.pairing_sparsities(importances, n_hidden)
        return float(onsets[k - 1]) if k <= len(onsets) else np.nan

    return critical


def _all_paired(importances: _Float, n_hidden: int) -> float:
    return _kth_pair(len(importances) - n_hidden)(importances, n_hidden)


def _below_three_quarters(importances: _Float, n_hidden: int) -> float:
    """With ⌈H/3⌉ or more pairs, D* = H/(H + k) is at most ¾."""
    return _kth_pair(-(-n_hidden // 3))(importances, n_hidden)


STATEMENTS = (
    Statement(
        "superposition: more features than dimensions",
        lambda rows: _stored("ae_features_represented")(rows) > rows["n_hidden"],
        _kth_pair(1),
        "first pair pays",
    ),
    Statement(
        "dimensions per feature ≤ ¾",
        lambda rows: _stored("ae_dimensions_per_feature")(rows) <= 0.75,
        _below_three_quarters,
        "pair ⌈H/3⌉ pays",
    ),
    Statement(
        "every feature represented",
        lambda rows: _stored("ae_features_represented")(rows) == rows["n_features"],
        _all_paired,
        "last pair pays",
    ),
    Statement(
        "AE loss below the dedicated loss",
        lambda rows: _loss_ratio(rows) < 0.98,
        _kth_pair(1),
        "first pair pays",
    ),
)
"""The last one's 0.98 is the margin of `field.md` §2.1 for "no superposition"."""


def order_transitions(frame: pd.DataFrame, level: float = 0.5, confidence: float = 0.9) -> list[CriticalPoint]:
    """Critical sparsities of the autoencoder itself: where each of STATEMENTS begins to hold in the share `level` of the seeds.

    Autoencoders without numbers (crashed, diverged) are left out.
    """
    if frame.empty:
        return []
    points: list[CriticalPoint] = []
    asked = _Asked("", level, confidence)
    exact = _once_each(frame)
    for architecture, own in _by_architecture(on_lattice(exact)):
        rows = own[np.isfinite(_stored("ae_loss")(own))]
        importances = importances_of(exact[exact["architecture"] == architecture])  # not from the middles of bins
        for statement in STATEMENTS if len(rows) else ():
            marked = rows.assign(failed=statement.holds(rows))
            found = _points(marked, replace(asked, quantity=statement.name), SPARSITY, None, _onset(statement, rows, importances))
            points.extend(point if point.crossing.direction != "falling" else replace(point, predictions=()) for point in found)
    return points


def _onset(statement: Statement, rows: pd.DataFrame, importances: _Float | None) -> tuple[Prediction, ...]:
    """Where the closed form predicts that the statement begins to hold; it predicts no end, so a fall has no prediction."""
    value = np.nan if importances is None else statement.theory(importances, int(rows["n_hidden"].iloc[0]))
    return (Prediction(statement.closed_form, value),)


def critical_table(points: list[CriticalPoint]) -> pd.DataFrame:
    """One row per point and closed form; a point without a closed form also gets one row."""
    return pd.DataFrame(
        [_line(point, prediction) for point in points for prediction in point.predictions or (None,)], columns=list(_COLUMNS)
    )


_COLUMNS = (
    "architecture", "quantity", "axis", "at", "level", "answer", "direction", "estimate", "low", "high", "probability",
    "branch", "branches", "replicates", "seeds", "closed_form", "predicted", "difference", "interval_holds_it",
)  # fmt: skip


def _line(point: CriticalPoint, prediction: Prediction | None) -> tuple[object, ...]:
    c = point.crossing
    return (
        point.architecture, point.quantity, point.axis.name, point.at, point.level, c.answer.value, c.direction, c.estimate, c.low,
        c.high, c.probability, c.branch, c.branches, point.replicates, point.seeds,
        *(
            (None, np.nan, np.nan, None)
            if prediction is None
            else (prediction.name, prediction.value, point.difference(prediction), point.holds(prediction))
        ),
    )  # fmt: skip
