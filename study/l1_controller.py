"""Steer l1 while an SAE is trained, until it has the L0 that the protocol asks for: `Protocol.sae_target_l0`.

A proportional-integral controller, a replicate a lane. After each step, with e = (L̂ − L*)/(L̂ + L*) = tanh(½ log(L̂/L*)), L̂ the
running mean of the active latents of the minibatches, L* the target, and up(z) = (1 + z)/(1 − z) ≈ exp(2z):

    l1_settled ← l1_settled · up(g e)                                    the integral, in log l1
    l1         ← l1_settled · up(4 (1 − u)² · clip(e, −1/9, 1/9))        what the next step is trained under

u = l1_settled/line, `line` = 2 max ‖W_i‖ the death line (`study.theory`). At small l1 the L0 drifts by
what l1 is too large or too small, for thousands of steps: the proportional part must be strong there, and weak near the line,
where L0 answers within tens of steps.

* Its clock is the path that Adam can have gone: L̂ forgets within 0.06 of it (20 steps at a rate of 0.003), or 500 samples where
  minibatches are small; g is 0.6 of that share, and 0 until the clock has gone round 25 times. L0 falls from half of the latents
  then, whatever l1 is: integrating would only wind l1 up.
* Anti-windup: both are kept in [1e-4, 1.5] · line, and the integral rests while l1 stands at the end that e pushes it to.
* An SAE whose L̂ is under a hundredth of the target is dead, and L1 never revives a ReLU: its weights are set back to the initial
  ones, l1_settled to a tenth.

Only + − × ÷ and comparisons, in the training dtype: all engines of the `exact` family steer to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol
from study.theory import death_line, l1_for_l0

_Array = NDArray[Any]
_Float = NDArray[np.float64]

L1, SETTLED, L0, LINE = range(4)
"""Rows of a controller's state."""
_TARGET, _SWING, _LIMIT, _LOWEST, _HIGHEST, _DEAD, _RELIEF, _ZERO, _ONE = range(9)
_SETTINGS = {_SWING: 4, _LIMIT: 1 / 9, _LOWEST: 1e-4, _HIGHEST: 1.5, _RELIEF: 0.1, _ZERO: 0, _ONE: 1}
_DEAD_SHARE = 0.01
_PATH, _SAMPLES, _GAIN, _ROUNDS = 0.06, 500, 0.6, 25
_UNREACHED_START = 0.01
"""Of the death line: where the closed form reaches the target at no l1."""


class L0Outcome(StrEnum):
    """What became of a target L0, in order of precedence."""

    ALL_DEAD = "all_dead"
    REACHED = "reached"
    UNREACHABLE = "unreachable"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, eq=False)
class L1Controller:
    """The controllers of R replicates; training moves their state on, in place."""

    state: _Array
    """(4, R), in the training dtype."""
    shares: _Array
    """(T,): the weight of each step's minibatch in L̂."""
    gains: _Array
    """(T,): g of each step."""
    settings: _Array

    @classmethod
    def of(cls, l1: _Float, lines: _Float, rates: _Float, protocol: Protocol, dtype: str) -> L1Controller:
        """l1 (R,): where each starts; lines (R,): its death line; rates (T,): the SAE's learning rates."""
        target = protocol.sae_target_l0
        assert target is not None, "a controller is made where the protocol has a target"
        ticks = np.minimum(np.minimum(rates / _PATH, protocol.sae_batch_size / _SAMPLES), 1)
        settings = np.array([(_SETTINGS | {_TARGET: target, _DEAD: _DEAD_SHARE * target})[i] for i in range(9)])
        lines = np.maximum(lines, 1e-12)  # an AE of zeros has none
        start = np.clip(l1, settings[_LOWEST] * lines, settings[_HIGHEST] * lines)
        return cls(
            np.stack([start, start, np.zeros_like(start), lines]).astype(dtype),
            np.maximum(ticks, 1 / np.arange(1, len(rates) + 1)).astype(dtype),
            np.where(np.cumsum(ticks) > _ROUNDS, _GAIN * ticks, 0).astype(dtype),
            settings.astype(dtype),
        )

    def step(self, t: int) -> tuple[Any, Any, _Array]:
        """What `steer` is given at step t."""
        return self.shares[t], self.gains[t], self.settings

    def outcomes(self, l0: _Float) -> NDArray[np.object_]:
        """What became of the target, (R,), judged by the L0 of the evaluation samples; None where that is not finite.

        `unreachable`: l1 ended at the end of its range and would have to go further.
        """
        settings, settled, line = self.settings, self.state[SETTLED], self.state[LINE]
        target = float(settings[_TARGET])
        low, high = settled <= settings[_LOWEST] * line, settled >= settings[_HIGHEST] * line
        conditions = {
            L0Outcome.ALL_DEAD: l0 == 0,
            L0Outcome.REACHED: np.abs(l0 - target) <= TOLERANCE * target,
            L0Outcome.UNREACHABLE: (low & (l0 < target)) | (high & (l0 > target)),
            L0Outcome.NOT_REACHED: np.isfinite(l0),
        }
        return np.select(list(conditions.values()), [np.array(kind.value, object) for kind in conditions], np.array(None, object))


TOLERANCE = 0.05
"""`reached` within this share of the target."""


def starting_l1(l1: _Float, column_norms: _Float, sparsity: _Float, target: float) -> _Float:
    """The given l1 (R,); where it is 0 the closed form, `theory.l1_for_l0` of the column norms (R, N), or 1 % of the death line
    where that has none."""
    start = l1.copy()
    for r in np.flatnonzero(l1 == 0):
        try:
            start[r] = l1_for_l0(target, column_norms[r], float(sparsity[r]))
        except ValueError:
            start[r] = _UNREACHED_START * death_line(column_norms[r]).max()
    return start


def steer(state: _Array, active: _Array, share: Any, gain: Any, settings: _Array, parameters: _Array, initial: _Array) -> None:
    """One step of the controllers, in place: state (4, R), active (R,) the mean number of active latents of the minibatch.

    The parameters (P, R) of dead lanes are set to the initial ones. Lane by lane, so that a kernel can compile it too.
    """
    target, swing, limit, dead = settings[_TARGET], settings[_SWING], settings[_LIMIT], settings[_DEAD]
    lowest, highest, relief = settings[_LOWEST], settings[_HIGHEST], settings[_RELIEF]
    zero, one = settings[_ZERO], settings[_ONE]
    for lane in range(state.shape[1]):
        l1, settled, l0, line = state[L1, lane], state[SETTLED, lane], state[L0, lane], state[LINE, lane]
        low, high = lowest * line, highest * line
        l0 = l0 + share * (active[lane] - l0)
        error = (l0 - target) / (l0 + target)
        if not ((l1 >= high and error > zero) or (l1 <= low and error < zero)):
            settled = min(max(settled * (one + gain * error) / (one - gain * error), low), high)
        below = max(one - settled / line, zero)
        push = swing * below * below * min(max(error, -limit), limit)
        state[L1, lane] = min(max(settled * (one + push) / (one - push), low), high)
        if l0 < dead:
            l0, settled = target, max(settled * relief, low)
            for row in range(len(parameters)):
                parameters[row, lane] = initial[row, lane]
        state[SETTLED, lane], state[L0, lane] = settled, l0
