"""Learning rates, and the step sizes of Adam that follow from them: the tables that every engine uses."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from search_spaces.protocol import Protocol

_Float = NDArray[np.float64]


@cache
def ae_schedule(protocol: Protocol) -> tuple[_Float, _Float]:
    """Adam's tables for the autoencoder's steps: see `adam_tables`."""
    steps, warmup = protocol.ae_training_steps, protocol.ae_warmup_steps
    return adam_tables(learning_rates(protocol.ae_learning_rate, steps, warmup, protocol.ae_schedule), protocol)


@cache
def sae_schedule(protocol: Protocol) -> tuple[_Float, _Float]:
    """Adam's tables for the SAE's steps: see `adam_tables`."""
    return adam_tables(sae_learning_rates(protocol), protocol)


def sae_learning_rates(protocol: Protocol) -> _Float:
    """`learning_rates` of the SAE's steps, (steps,)."""
    steps, warmup = protocol.sae_training_steps, protocol.sae_warmup_steps
    return learning_rates(protocol.sae_learning_rate, steps, warmup, protocol.sae_schedule)


def learning_rates(peak: float, steps: int, warmup_steps: int, schedule: str) -> _Float:
    """lr · min(1, t/warmup) · ½(1 + cos(π t/T)) for t = 1 … T, (T,); without the cosine if the schedule is constant."""
    t = np.arange(1, steps + 1)
    rates = np.full(steps, peak)
    if warmup_steps:
        rates *= np.minimum(1, t / warmup_steps)
    if schedule == "cosine":  # not np.cos, whose last bits may depend on the processor
        rates *= [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(1, steps + 1)]
    return rates


def adam_tables(learning_rates: _Float, protocol: Protocol) -> tuple[_Float, _Float]:
    """A_t and E_t of the docstring of `reference.py`, (steps,) each, in float64."""
    beta1, beta2 = protocol.adam_beta1, protocol.adam_beta2
    steps = len(learning_rates)
    # β^t in Python's floats, because the last bits of NumPy's power may depend on the processor's vector units.
    powers1, powers2 = (np.array([beta**t for t in range(1, steps + 1)]) for beta in (beta1, beta2))
    root = np.sqrt(1 - powers2) / np.sqrt(1 - beta2)
    return learning_rates * root * (1 - beta1) / (1 - powers1), protocol.adam_epsilon * root
