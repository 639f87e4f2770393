"""Open loops that offered more than the server takes: latency that grows for as long as the load lasts. Pure.

A queue that is offered λ and serves μ < λ makes every request wait longer than the one before: latency from the due
time grows by λ/μ - 1 seconds per second. The signal is that growth, on block medians so that neighbouring requests,
which are alike, don't count as independent evidence.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.formulas.pace import last_token_ns
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run

BLOCKS = 10
MIN_REQUESTS = 3 * BLOCKS
"""A block's median needs three requests at least."""
MIN_CONCORDANCE = 27
"""Mann-Kendall's S of ten blocks: of the 45 pairs, so many more rise than fall; one-sided p < 0.01 without a trend."""
MIN_GROWTH = 0.03
"""Seconds of latency per second of load; 1 / sqrt(requests) where that is more, because by so much the rate of random
arrivals strays in a run, and a server just under its limit then falls behind for a while."""
MIN_LATE_SHARE = 0.5
"""The second half must grow by this share of the whole's slope: a server that only fills up stops growing."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """How the latency of one open-loop run went: `growth` in seconds per second of load (Theil-Sen)."""

    saturated: bool
    growth: float
    first_ms: float
    """Median latency of the first tenth of the requests, and of the last."""
    last_ms: float

    def describe(self) -> str:
        return (
            f"the server is offered more than it takes: latency from the due time grew from {self.first_ms:.0f} ms to "
            f"{self.last_ms:.0f} ms over the run, so the numbers depend on its length; "
            f"the server keeps up with about {1 / (1 + self.growth):.0%} of the offered rate"
        )


def saturation(run: Run, point: LoadPoint) -> Saturation | None:
    """None in a closed loop, which waits for the server, where the rate changes (then latency does too), and where too
    few requests succeeded to tell."""
    if point.request_rate is None:
        return None
    ok = [record for record in run.measured if record.ok]
    answered = [(r.due_ns, last) for r in ok if r.due_ns is not None and (last := last_token_ns(r)) is not None]
    return trend([(due / 1e9, (last - due) / 1e9) for due, last in sorted(answered)])


def trend(latencies: Sequence[tuple[float, float]]) -> Saturation | None:
    """The growth in pairs (due, latency) in seconds, sorted by due time; None where they are too few."""
    if len(latencies) < MIN_REQUESTS:
        return None
    size = len(latencies) / BLOCKS
    blocks = [latencies[round(k * size) : round((k + 1) * size)] for k in range(BLOCKS)]
    medians = [(statistics.median(x for x, _ in block), statistics.median(y for _, y in block)) for block in blocks]
    pairs = itertools.combinations([latency for _, latency in medians], 2)
    concordance = sum((later > sooner) - (later < sooner) for sooner, later in pairs)
    growth, late_growth = _slope(medians), _slope(medians[BLOCKS // 2 :])
    grows = growth >= max(MIN_GROWTH, len(latencies) ** -0.5) and late_growth >= MIN_LATE_SHARE * growth
    return Saturation(grows and concordance >= MIN_CONCORDANCE, growth, medians[0][1] * 1e3, medians[-1][1] * 1e3)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen: the median slope of all pairs."""
    pairs = itertools.combinations(points, 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x2 > x1)
