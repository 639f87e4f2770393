"""Finds the sessions at which a metric's level changed: a report on the history, never a verdict. Pure.

The series of session means (in logs) is cut where the two sides' means differ most for their spread, by Student's t
with pooled variance; if that is beyond chance and large enough to matter, each side is searched in turn. The same
choices as Hunter (Fleming et al. 2023), which replaced the permutation test of E-Divisive by a t test: reports are the
same every time they are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr

LEAST_SESSIONS = 12
LEAST_SEGMENT = 4
LEVEL = 0.001
"""Significance level for the best of all cuts; choosing the best makes chance likelier, which so strict a level
allows for.
"""


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A step between session `first` - 1 and session `first` (from 0). `log_step` > 0 is worse."""

    first: int
    log_step: float
    p_value: float

    @property
    def ratio(self) -> float:
        return math.exp(self.log_step)


def change_points(
    sessions: Sequence[Sequence[float]], margin: float, better: Literal["lower", "higher"]
) -> tuple[ChangePoint, ...]:
    """Steps larger than half the margin in per-run values by session, oldest first; empty below twelve sessions.

    ValueError when a session has no run, or a value is not positive and finite.
    """
    sign = 1.0 if better == "lower" else -1.0
    means = [sign * _log_mean(runs) for runs in sessions]
    return tuple(_cuts(means, 0, math.log1p(margin) / 2)) if len(means) >= LEAST_SESSIONS else ()


def _log_mean(runs: Sequence[float]) -> float:
    wrong = [value for value in runs if not (value > 0 and math.isfinite(value))]
    if wrong or not runs:
        raise ValueError(f"{wrong[0]!r} has no logarithm" if wrong else "a session without runs has no level")
    return math.fsum(map(math.log, runs)) / len(runs)


def _cuts(means: Sequence[float], offset: int, least_step: float) -> Iterator[ChangePoint]:
    """Cuts of a segment that begins at session `offset`, in order."""
    if len(means) < 2 * LEAST_SEGMENT:
        return
    t, step, place = _best_cut(np.asarray(means))
    p_value = 2 * float(stdtr(len(means) - 2, -abs(t)))
    if p_value >= LEVEL or abs(step) <= least_step:
        return
    yield from _cuts(means[:place], offset, least_step)
    yield ChangePoint(offset + place, step, p_value)
    yield from _cuts(means[place:], offset + place, least_step)


def _best_cut(means: np.ndarray) -> tuple[float, float, int]:
    """The cut with the largest Student's t: that, the step, and the first session after it.

    All cuts come from sums up to each session, so that a history of thousands of sessions takes no time.
    """
    count = len(means)
    places = np.arange(LEAST_SEGMENT, count - LEAST_SEGMENT + 1)
    values = means - means.mean()
    sums, squares = np.cumsum(values), np.cumsum(values**2)
    left = sums[places - 1] / places
    right = (sums[-1] - sums[places - 1]) / (count - places)
    within = np.maximum(squares[-1] - places * left**2 - (count - places) * right**2, 0.0)
    steps, errors = right - left, np.sqrt(within / (count - 2) * (1 / places + 1 / (count - places)))
    t = np.divide(steps, errors, out=np.copysign(np.inf, steps), where=errors > 0)
    t[steps == 0] = 0.0
    best = int(np.argmax(np.abs(t)))
    return float(t[best]), float(steps[best]), int(places[best])
