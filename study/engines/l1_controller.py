"""Steers l1 while an SAE is trained, so that the SAE reaches the L0 that the protocol asks for (`Protocol.sae_target_l0`).

A proportional-integral controller, one replicate per lane. With L̂ the running mean of the minibatches' active latents, L* the
target, e = (L̂ − L*)/(L̂ + L*) = tanh(½ log(L̂/L*)) and up(z) = (1 + z)/(1 − z) ≈ exp(2z), each step is followed by

    l1_settled ← l1_settled · up(g e)                                    the integral, in log l1
    l1         ← l1_settled · up(4 (1 − u)² · clip(e, −1/9, 1/9))        the l1 of the next step

where u = l1_settled/line, and line = 2 max ‖W_i‖ is the death line (`study.theory`). The proportional part is strong at small l1,
where L0 takes thousands of steps to respond, and weak near the line, where it takes tens.

* *Clock.* The controller's clock is the longest path that Adam can have moved. It ticks once per 0.06 of that path (20 steps at
  a learning rate of 0.003), or once per 500 samples if minibatches are small. At the highest learning rate L̂ averages over about
  one tick; g is 0.6 per tick.
* *Anti-windup.* Both l1 are kept in [1e-4, 1.5] · line. The integral is frozen while l1 is at the end of that range towards which
  e pushes it. It does not rise in the first 25 ticks, while L0 falls from half of the latents whatever l1 is.
* *Restart.* An SAE whose L̂ is below a hundredth of the target is dead, and no l1 revives a ReLU. Its weights are therefore reset
  to the initial ones, and l1_settled is divided by ten.

The controller uses only + − × ÷ and comparisons, in the training dtype, so all engines of the `exact` family steer to the same
bits.
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

CURRENT, SETTLED, L0, LINE = range(4)
"""Rows of a controller's state."""
SWING, LIMIT, LOWEST, HIGHEST, DEAD, RELIEF = 4, 1 / 9, 1e-4, 1.5, 0.01, 0.1
PATH, SAMPLES, GAIN, WAIT = 0.06, 500, 0.6, 25
"""The numbers of the module's docstring."""


class L0Outcome(StrEnum):
    """Whether an SAE reached its target L0, in order of precedence."""

    ALL_DEAD = "all_dead"
    REACHED = "reached"
    UNREACHABLE = "unreachable"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, eq=False)
class L1Controller:
    """The controllers of R replicates. Training updates their state in place."""

    state: _Array
    """(4, R), in the training dtype."""
    steps: _Array
    """(T, 3): the weight of each step's minibatch in L̂, then g for an l1 that is too small and for one that is too large."""
    settings: _Array
    """(9,): the target, the L̂ below which an SAE is dead, swing, limit, both ends of the range, relief, 0 and 1."""

    @classmethod
    def of(cls, l1: _Float, lines: _Float, rates: _Float, protocol: Protocol, dtype: str) -> L1Controller:
        """Controllers that start at l1 (R,), with the death lines (R,) and the SAE's learning rates (T,)."""
        target = _target(protocol)
        ticks = np.minimum(np.minimum(rates / PATH, protocol.sae_batch_size / SAMPLES), 1)
        weights, falls = np.maximum(ticks.max(), 1 / np.arange(1, len(rates) + 1)), GAIN * ticks
        rises = np.where(np.cumsum(ticks) > WAIT, falls, 0)
        lines = np.maximum(lines, 1e-12)  # the line of an AE of zeros is 0
        start = np.clip(l1, LOWEST * lines, HIGHEST * lines)
        return cls(
            np.stack([start, start, np.zeros_like(start), lines]).astype(dtype),
            np.stack([weights, rises, falls], axis=1).astype(dtype),
            np.array([target, DEAD * target, SWING, LIMIT, LOWEST, HIGHEST, RELIEF, 0, 1], dtype),
        )

    def outcomes(self, l0: _Float, alive: _Float, protocol: Protocol) -> NDArray[np.object_]:
        """The L0Outcome of each replicate, (R,), from L0 and live latents on the evaluation samples; None where L0 is not finite.

        `unreachable`: l1 ended at an end of its range and would have to go further.
        """
        target, l1, line = _target(protocol), self.state[CURRENT], self.state[LINE]
        low, high = l1 <= self.settings[4] * line, l1 >= self.settings[5] * line
        conditions = {
            L0Outcome.ALL_DEAD: alive == 0,
            L0Outcome.REACHED: np.abs(l0 / target - 1) <= protocol.reached_within,
            L0Outcome.UNREACHABLE: (low & (l0 < target)) | (high & (l0 > target)),
            L0Outcome.NOT_REACHED: np.isfinite(l0),
        }
        return np.select(list(conditions.values()), [np.array(kind.value, object) for kind in conditions], np.array(None, object))


def _target(protocol: Protocol) -> float:
    assert protocol.sae_target_l0 is not None, "a controller is made only if the protocol has a target"
    return protocol.sae_target_l0


def starting_l1(l1: _Float, column_norms: _Float, sparsity: _Float, target: float) -> _Float:
    """The given l1 (R,); where it is 0, the closed form: `theory.l1_for_l0` of the column norms (R, N).

    1 % of the death line if the closed form cannot reach the target: more latents can be active than there are active features.
    """
    start = l1.copy()
    for r in np.flatnonzero(l1 == 0):
        try:
            start[r] = l1_for_l0(target, column_norms[r], float(sparsity[r]))
        except ValueError:
            start[r] = 0.01 * death_line(column_norms[r]).max()
    return start


def steer(state: _Array, active: _Array, step: _Array, settings: _Array, parameters: _Array, initial: _Array) -> None:
    """One step of the controllers, in place: state (4, R), active (R,) the mean number of active latents of the minibatch.

    The parameters (P, R) of dead lanes are reset to the initial ones. Written lane by lane, so that kernels can compile it.
    """
    target, dead, swing, limit, lowest = settings[0], settings[1], settings[2], settings[3], settings[4]
    highest, relief, zero, one = settings[5], settings[6], settings[7], settings[8]
    share, rise, fall = step[0], step[1], step[2]
    for lane in range(state.shape[1]):
        l1, settled, l0, line = state[CURRENT, lane], state[SETTLED, lane], state[L0, lane], state[LINE, lane]
        low, high = lowest * line, highest * line
        l0 = l0 + share * (active[lane] - l0)
        error = (l0 - target) / (l0 + target)
        if not ((l1 >= high and error > zero) or (l1 <= low and error < zero)):
            pull = (rise if error > zero else fall) * error
            settled = min(max(settled * (one + pull) / (one - pull), low), high)
        below = max(one - settled / line, zero)
        push = swing * below * below * min(max(error, -limit), limit)
        state[CURRENT, lane] = min(max(settled * (one + push) / (one - push), low), high)
        if l0 < dead:
            l0, settled = target, max(settled * relief, low)
            for row in range(len(parameters)):
                parameters[row, lane] = initial[row, lane]
        state[SETTLED, lane], state[L0, lane] = settled, l0
