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

from scipy.special import stdtr

LEAST_SESSIONS = 12
LEAST_SEGMENT = 4
LEVEL = 0.001
"""For the best of all cuts; choosing the best makes chance likelier, which this strict level allows for."""


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
    places = range(LEAST_SEGMENT, len(means) - LEAST_SEGMENT + 1)
    found = max((_t_statistic(means, place) for place in places), key=lambda cut: abs(cut[0]), default=None)
    if found is None:
        return
    t, step, place = found
    p_value = 2 * float(stdtr(len(means) - 2, -abs(t)))
    if p_value >= LEVEL or abs(step) <= least_step:
        return
    yield from _cuts(means[:place], offset, least_step)
    yield ChangePoint(offset + place, step, p_value)
    yield from _cuts(means[place:], offset + place, least_step)


def _t_statistic(means: Sequence[float], place: int) -> tuple[float, float, int]:
    """Student's t of the sessions before and from `place` on, the step between them, and `place`."""
    left, right = means[:place], means[place:]
    middle = math.fsum(left) / len(left), math.fsum(right) / len(right)
    squares = math.fsum((m - middle[0]) ** 2 for m in left) + math.fsum((m - middle[1]) ** 2 for m in right)
    error = math.sqrt(squares / (len(means) - 2) * (1 / len(left) + 1 / len(right)))
    step = middle[1] - middle[0]
    if not error:
        return math.copysign(math.inf, step) if step else 0.0, step, place
    return step / error, step, place
