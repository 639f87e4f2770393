"""The number of requests of a run, where a load leaves it to its numbers (`requests: auto`).

What decides are two passes over the beginning of the load's trace, which are no runs: their numbers' own errors say how
many times as long a run must be. The trace of the longer run begins with the same requests.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.trust.length import PART_OF_MARGIN, rounded_up, run_errors, typical_error
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run

PASSES = 2
"""One pass alone could not tell noise from what the lengths of the trace add."""
MOST_TIMES = 10
"""Longest run, in lengths of a pass: beyond, a wider margin is the cure."""


@dataclass(slots=True)
class RunLength:
    """Requests per run that a point has decided on: the same for all of its runs, and for both servers of a duet."""

    requests: int | None = None
    """None: nothing was decided yet."""
    note: str = ""
    """Sentence on how it was decided; empty where the plan says it."""
    margins: Mapping[Quantity, float] = field(default_factory=dict)
    """Gated quantities and what is tolerated of each: what decides."""


async def decide(length: RunLength, point: LoadPoint, one_pass: Callable[[int], Awaitable[Run]]) -> None:
    """Decides on a length: so many requests that each gated number's own error is a third of its margin.

    `one_pass` sends the load as it is, with the marks of a number. Errors as in a run.
    """
    assert point.requests is not None, "a load that leaves its length open has a first one"
    margins = length.margins
    errors = run_errors([await one_pass(number) for number in range(PASSES)], margins)
    told = {quantity: error for quantity in margins if (error := typical_error(errors, quantity))}
    times = {quantity: (error / (margins[quantity] * PART_OF_MARGIN)) ** 2 for quantity, error in told.items()}
    worst = max(times, key=lambda quantity: times[quantity], default=None)
    if worst is None:
        length.requests = point.requests
        length.note = f"{length.requests} requests per run: no gated number tells its own error"
        return
    length.requests = rounded_up(point.requests * min(max(times[worst], 1.0), MOST_TIMES))
    reached = told[worst] * math.sqrt(point.requests / length.requests)
    most = ", the most that is taken" if times[worst] > MOST_TIMES else ""
    length.note = (
        f"{length.requests} requests per run{most}: {worst} then has an error of {reached:.1%} of its own, and a third "
        f"of its margin is {margins[worst] * PART_OF_MARGIN:.1%}"
    )
