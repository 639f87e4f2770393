"""The error that a run's number has by itself: batch means of what each request adds to it. Pure.

Requests of a run wait for each other, so that their scatter divided by the root of their number is too little. Means of
batches of consecutive requests depend on each other far less (Conway, Some Tactical Problems in Digital Simulation,
1963); what is left of it is taken from their correlation with the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 40
"""Requests below which nothing is said: two in each batch."""
_BATCHES = 20
_MOST_CORRELATED = 0.9
"""Correlation of batches above which the run is no longer than what it waits for, and its error not to be told."""
_Values = NDArray[np.float64]


def own_error(values: Sequence[float] | _Values) -> float:
    """Returns the standard error of the mean of values in the order of time; ValueError with fewer than LEAST of them.

    Batch means, their variance times (1 + r) / (1 - r) with their lag-1 correlation r, which is too low by
    (1 + 3 r) / n in n values (Marriott and Pope, Biometrika 41, 1954).
    """
    return _error(batch_means(np.asarray(values, dtype=float)))


@dataclass(frozen=True, slots=True)
class RunDrift:
    """Difference between the last and the first third of a run."""

    change: float
    error: float
    """Standard error of the change."""


def drift(values: Sequence[float] | _Values) -> RunDrift:
    """Returns what values change by from their first third to their last; ValueError with fewer than LEAST of them."""
    sample = np.asarray(values, dtype=float)
    third = sample.size // 3
    change = float(sample[-third:].mean() - sample[:third].mean())
    means = batch_means(sample)
    places = np.arange(means.size) - (means.size - 1) / 2
    # A trend is no scatter: it is taken off before the error is estimated.
    level = means - places * float(places @ means) / float(places @ places)
    return RunDrift(change, _error(level) * math.sqrt(6))


def batch_means(sample: _Values) -> _Values:
    """Means of equally long batches; what is too little for one more is left out at the beginning."""
    if sample.size < LEAST:
        raise ValueError(f"{sample.size} values are too few to tell their own error: {LEAST} are needed")
    size = sample.size // _BATCHES
    means: _Values = sample[sample.size - size * _BATCHES :].reshape(_BATCHES, size).mean(axis=1)
    return means


def _error(means: _Values) -> float:
    """Standard error of the mean of batch means."""
    away = means - means.mean()
    squares = float(away @ away)
    if squares <= 0:
        return 0.0
    found = float(away[1:] @ away[:-1]) / squares
    correlation = min(max(found + (1 + 3 * found) / means.size, 0.0), _MOST_CORRELATED)
    variance = squares / (means.size - 1) / means.size
    return math.sqrt(variance * (1 + correlation) / (1 - correlation))
