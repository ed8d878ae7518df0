"""Failure rates over log10 l1 with random parameters, by kind, on which the l1 search is tested and measured.

A curve of each kind is drawn from a generator. All parameters vary, so that no method can be fitted to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Rate = Callable[[Floats], Floats]

RANGE = (-4.0, 0.0)
"""log10 of the searched range of l1."""
LEVEL = 0.1
RESOLUTION = 1e-4
"""Decades between the places at which a curve is looked at for its crossing."""


@dataclass(frozen=True)
class Curve:
    """A failure rate over log10 l1."""

    rate: Rate
    crossing: float
    """The lowest place in the range at which the rate reaches LEVEL; −inf if it does so from the start, inf if it never does."""


def drawn(kind: str, rng: np.random.Generator) -> Curve:
    """A random curve of this kind, one of KINDS."""
    rate = KINDS[kind](rng)
    places = np.arange(RANGE[0], RANGE[1] + RESOLUTION / 2, RESOLUTION)
    above = rate(places) >= LEVEL
    crossing = float(places[np.argmax(above)]) if above.any() else np.inf
    return Curve(rate, -np.inf if above[0] else crossing)


def logistic(rng: np.random.Generator) -> Rate:
    """One rise from a low floor."""
    return _rise(rng.uniform(-3.2, -0.6), _width(rng), _log(rng, 0.001, 0.03), 1 - _log(rng, 0.002, 0.05))


def skewed(rng: np.random.Generator) -> Rate:
    """One rise from a low floor, steeper at one of its ends."""
    middle, width, floor, down = rng.uniform(-3.2, -0.6), _width(rng), _log(rng, 0.001, 0.03), rng.random() < 0.5
    sign = -1.0 if down else 1.0

    def rate(x: Floats) -> Floats:
        shape = -np.expm1(-np.exp(np.clip(sign * (x - middle) / width, -700, 50)))
        return floor + (0.98 - floor) * (1 - shape if down else shape)

    return rate


def plateau(rng: np.random.Generator) -> Rate:
    """A rise to a plateau above the level, and much later another one."""
    first, floor, top = rng.uniform(-3.2, -1.6), _log(rng, 0.001, 0.05), rng.uniform(0.2, 0.8)
    return _either(_rise(first, _width(rng), floor, top), _rise(first + rng.uniform(0.5, 1.5), _width(rng)))


def floor(rng: np.random.Generator) -> Rate:
    """One rise from a floor just below the level."""
    return _rise(rng.uniform(-3.2, -0.6), _width(rng), rng.uniform(0.05, 0.09), 1 - _log(rng, 0.002, 0.05))


def linear(rng: np.random.Generator) -> Rate:
    """A straight line from a low rate to a high one."""
    low, high, start, length = _log(rng, 0.002, 0.05), rng.uniform(0.5, 1), rng.uniform(-3.6, -1.5), rng.uniform(0.5, 2.5)
    return lambda x: low + (high - low) * np.clip((x - start) / length, 0, 1)


def two_steps(rng: np.random.Generator) -> Rate:
    """A step that stays below the level, and a later one that does not."""
    first = rng.uniform(-3.6, -2)
    low = _rise(first, _width(rng), _log(rng, 0.001, 0.02), rng.uniform(0.04, 0.08))
    return _either(low, _rise(first + rng.uniform(0.5, 1.5), _width(rng)))


def creeping_line(rng: np.random.Generator) -> Rate:
    """The rate creeps in a straight line through the level to 0.15 to 0.4, then rises sharply."""
    low, high, start, length = _log(rng, 0.002, 0.05), rng.uniform(0.15, 0.4), rng.uniform(-3.8, -2.5), rng.uniform(0.8, 2.2)
    return _either(lambda x: low + (high - low) * np.clip((x - start) / length, 0, 1), _sharp(start + length, rng))


def creeping_logit(rng: np.random.Generator) -> Rate:
    """The log odds creep in a straight line through the level, then the rate rises sharply."""
    (low, high), start, length = (
        logit([_log(rng, 0.003, 0.05), rng.uniform(0.15, 0.4)]),
        rng.uniform(-4, -2.5),
        rng.uniform(0.8, 2.2),
    )
    return _either(lambda x: expit(low + (high - low) * (x - start) / length), _sharp(start + length, rng))


def creeping_wide(rng: np.random.Generator) -> Rate:
    """A broad low rise carries the rate through the level; a sharp one follows."""
    middle = rng.uniform(-3, -1.5)
    broad = _rise(middle, rng.uniform(0.2, 0.5), _log(rng, 0.001, 0.02), rng.uniform(0.2, 0.45))
    return _either(broad, _sharp(middle + rng.uniform(0.3, 1.2), rng))


def creeping_power(rng: np.random.Generator) -> Rate:
    """The rate grows as a power of l1 through the level, then rises sharply."""
    at, power = rng.uniform(-3.2, -1.2), rng.uniform(0.3, 1)
    return _either(lambda x: np.minimum(LEVEL * 10 ** (power * (x - at)), 1), _sharp(at + rng.uniform(0.2, 1), rng))


def bump_low(rng: np.random.Generator) -> Rate:
    """A rise, and below it a bump of failures of 0.2 to 0.4."""
    return _bumped(rng, rng.uniform(0.2, 0.4))


def bump_high(rng: np.random.Generator) -> Rate:
    """A rise, and below it a bump of failures of 0.4 to 0.9."""
    return _bumped(rng, rng.uniform(0.4, 0.9))


def never(rng: np.random.Generator) -> Rate:
    """The rate stays below the level, flat or growing."""
    return _rise(rng.uniform(-4, 0), rng.uniform(0.1, 1), _log(rng, 0.001, 0.03), rng.uniform(0.03, 0.07))


def always(rng: np.random.Generator) -> Rate:
    """The rate is above the level from the start, flat or growing."""
    return _rise(rng.uniform(-4, 0), rng.uniform(0.05, 1), rng.uniform(0.15, 0.9))


def at_start(rng: np.random.Generator) -> Rate:
    """A steep rise at the lower end of the range."""
    return _rise(rng.uniform(-3.95, -3.6), 10 ** rng.uniform(-2.2, -1.3), _log(rng, 0.001, 0.03))


def at_end(rng: np.random.Generator) -> Rate:
    """A steep rise at the upper end of the range."""
    return _rise(rng.uniform(-0.3, 0.05), 10 ** rng.uniform(-2.2, -1.3), _log(rng, 0.001, 0.05))


CREEPING = (creeping_line, creeping_logit, creeping_wide, creeping_power)
BUMPED = (bump_low, bump_high)
KINDS: dict[str, Callable[[np.random.Generator], Rate]] = {
    kind.__name__: kind
    for kind in (logistic, skewed, plateau, floor, linear, two_steps, *CREEPING, never, always, at_start, at_end, *BUMPED)
}


@dataclass(frozen=True)
class ValleyCurve:
    """A failure rate that falls and then rises."""

    rate: Rate
    edges: tuple[float, float] | None
    """The lowest and the highest place in the range at which the rate is below LEVEL; None if it never is."""
    least: float
    """The lowest rate."""


def drawn_valley(kind: str, rng: np.random.Generator) -> ValleyCurve:
    """A random curve of this kind, one of VALLEYS."""
    rate = VALLEYS[kind](rng)
    places = np.arange(RANGE[0], RANGE[1] + RESOLUTION / 2, RESOLUTION)
    values = rate(places)
    inside = places[values < LEVEL]
    return ValleyCurve(rate, (float(inside[0]), float(inside[-1])) if len(inside) else None, float(values.min()))


def wide_valley(rng: np.random.Generator) -> Rate:
    """Dense codes below, deaths above, and at least a decade in between, with a floor of up to 5 %."""
    low = rng.uniform(-3.5, -2)
    return _valley(low, low + rng.uniform(1, 1.8), _log(rng, 0.001, 0.05), rng)


def narrow_valley(rng: np.random.Generator) -> Rate:
    """The same with a quarter of a decade to one in between."""
    low = rng.uniform(-3, -1.5)
    return _valley(low, low + rng.uniform(0.25, 1), _log(rng, 0.001, 0.03), rng)


def high_floor(rng: np.random.Generator) -> Rate:
    """Two edges with failures of 15 to 40 % in between."""
    low = rng.uniform(-3, -2)
    return _valley(low, low + rng.uniform(0.7, 1.5), rng.uniform(0.15, 0.4), rng)


def crossed(rng: np.random.Generator) -> Rate:
    """Deaths begin before codes are sparse."""
    middle, gap = rng.uniform(-3, -1), rng.uniform(0.1, 0.8)
    falling, rising = _rise(middle + gap / 2, _log(rng, 0.02, 0.2)), _rise(middle - gap / 2, _log(rng, 0.02, 0.2))
    return _either(lambda x: 1 - falling(x), rising)


VALLEYS: dict[str, Callable[[np.random.Generator], Rate]] = {
    kind.__name__: kind for kind in (wide_valley, narrow_valley, high_floor, crossed)
}


def _valley(low: float, high: float, floor: float, rng: np.random.Generator) -> Rate:
    falling, rising = _rise(low, _log(rng, 0.01, 0.1)), _rise(high, _log(rng, 0.01, 0.1))
    return _either(lambda x: 1 - falling(x), _either(rising, lambda x: floor + 0 * x))


def _bumped(rng: np.random.Generator, peak: float) -> Rate:
    """The bump's sd is 0.1 to 0.25 decades, its middle 0.5 to 2 decades below the rise."""
    middle, sd = rng.uniform(-3, -0.8), rng.uniform(0.1, 0.25)
    place = middle - rng.uniform(0.5, min(2.0, middle + 3.8))
    return _either(
        _rise(middle, 10 ** rng.uniform(-2, -0.9), _log(rng, 0.001, 0.03)), lambda x: peak * np.exp(-0.5 * ((x - place) / sd) ** 2)
    )


def _rise(middle: float, width: float, low: float = 0.0, high: float = 1.0) -> Rate:
    return lambda x: low + (high - low) * expit((x - middle) / width)


def _sharp(middle: float, rng: np.random.Generator) -> Rate:
    return _rise(middle, 10 ** rng.uniform(-2.3, -1.3))


def _either(first: Rate, second: Rate) -> Rate:
    """The rate of either of two independent failures."""
    return lambda x: 1 - (1 - first(x)) * (1 - second(x))


def _width(rng: np.random.Generator) -> float:
    """Decades over which the log odds rise by one."""
    return _log(rng, 0.006, 0.3)


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(10 ** rng.uniform(np.log10(low), np.log10(high)))
