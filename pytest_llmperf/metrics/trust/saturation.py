"""Open loops that offered more than the server takes: latency that grows for as long as the load lasts. Pure.

A queue that is offered λ and serves μ < λ makes every request wait longer than the one before: latency from the due
time grows by λ/μ - 1 seconds per second. The signal is that growth, on block medians so that neighbouring requests,
which are alike, don't count as independent evidence.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_llmperf.formulas.pace import last_token_ns
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run

BLOCKS = 10
MIN_REQUESTS = 3 * BLOCKS
"""A block's median needs three requests at least."""
MIN_CONCORDANCE = 27
"""Mann-Kendall's S of ten blocks: of the 45 pairs, so many more rise than fall; one-sided p < 0.01 without a trend."""
MIN_GROWTH = 0.03
"""Seconds of latency per second of load; where the rate of random arrivals strays by more than that in a run
(`arrival_spread` / sqrt(requests)), so much: a server just under its limit then falls behind for a while."""
MIN_LATE_SHARE = 0.5
"""The second half must grow by this share of the whole's slope: a server that only fills up stops growing."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """The growth of latency in one open-loop run: `growth` in seconds per second of load (Theil-Sen)."""

    saturated: bool
    growth: float
    first_ms: float
    """Median latency of the first tenth of the requests, and of the last."""
    last_ms: float
    done_rate: float | None = None
    """Requests per second that ended, see `done_rate`; None where none did in time."""

    def describe(self) -> str:
        return (
            f"the server is offered more than it takes: latency from the due time grew from {self.first_ms:.0f} ms to "
            f"{self.last_ms:.0f} ms over the run, so the numbers depend on its length; "
            f"the server keeps up with about {1 / (1 + self.growth):.0%} of the offered rate"
        )


def saturation(run: Run, point: LoadPoint) -> Saturation | None:
    """Judges by a run's latencies whether the server fell behind. None in a closed loop, which waits for the server,
    where the rate changes (then latency does too), and where too few requests succeeded.
    """
    if point.request_rate is None:
        return None
    ok = [record for record in run.measured if record.ok]
    answered = [(r.due_ns, last) for r in ok if r.due_ns is not None and (last := last_token_ns(r)) is not None]
    found = trend([(due / 1e9, (last - due) / 1e9) for due, last in sorted(answered)], arrival_spread(point))
    ends = [last for _, last in answered]
    return found and replace(found, done_rate=done_rate([due for due, _ in answered], ends))


def arrival_spread(point: LoadPoint) -> float:
    """Standard deviation of the gaps between arrivals over their mean: 0 for equal gaps, 1 for Poisson arrivals."""
    if point.arrival == "gamma":
        return math.sqrt(1 / point.burstiness)
    return 0.0 if point.arrival == "constant" else 1.0


def done_rate(due_ns: Sequence[int], ends_ns: Sequence[int]) -> float | None:
    """Requests per second that ended after the first end and before the last due time; None without any.

    A server that is offered too much is never without work in that time, so this is what it takes.
    """
    first_ns, last_ns = min(ends_ns), max(due_ns)
    within = [end for end in ends_ns if first_ns < end <= last_ns]
    return len(within) / (max(within) - first_ns) * 1e9 if within else None


def trend(latencies: Sequence[tuple[float, float]], spread: float = 1.0) -> Saturation | None:
    """The growth in pairs (due, latency) in seconds, sorted by due time; None where they are too few.

    `spread`: that of the arrivals' gaps, see `arrival_spread`.
    """
    if len(latencies) < MIN_REQUESTS:
        return None
    size = len(latencies) / BLOCKS
    blocks = [latencies[round(k * size) : round((k + 1) * size)] for k in range(BLOCKS)]
    medians = [(statistics.median(x for x, _ in block), statistics.median(y for _, y in block)) for block in blocks]
    pairs = itertools.combinations([latency for _, latency in medians], 2)
    concordance = sum((later > sooner) - (later < sooner) for sooner, later in pairs)
    growth, late_growth = _slope(medians), _slope(medians[BLOCKS // 2 :])
    grows = growth >= max(MIN_GROWTH, spread * len(latencies) ** -0.5) and late_growth >= MIN_LATE_SHARE * growth
    return Saturation(grows and concordance >= MIN_CONCORDANCE, growth, medians[0][1] * 1e3, medians[-1][1] * 1e3)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen: the median slope of all pairs."""
    pairs = itertools.combinations(points, 2)
    return statistics.median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x2 > x1)
