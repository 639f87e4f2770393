"""Length of a level: long enough for a queue to reach the limit, whatever the load's `requests` say. Pure.

A server that is offered 5 % too much needs 20 times a latency limit until its queue is as long as that, so a level that
is shorter holds although the server is behind. benchmarks/gate/capacity.py chose the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_llmperf.metrics.stats.compliance import allowed_share
from pytest_llmperf.metrics.trust.saturation import arrival_spread
from pytest_llmperf.plan.load.capacity import FEWEST_REQUESTS
from pytest_llmperf.plan.load.point import LoadPoint

LIMITS = 20
"""Times the longest latency limit."""
SERVICES = 10
"""Times the longest request so far: until the server is full its queue does not grow."""
_FEWEST_RANDOM = 500
_BEYOND = 10
"""Requests of random arrivals that may break a percentile's limit at least: fewer are an accident."""


def lengthened(point: LoadPoint, level: float, service_s: float | None) -> LoadPoint:
    """`point` with as many requests, or as long, as `level` req/s needs; unchanged where it has enough.

    `service_s`: the longest request of the levels that held; None before the first.
    """
    seconds = max((need for need, _ in _times(point, service_s)), default=0.0)
    fewest = max((need for need, _ in _counts(point)), default=0)
    if point.duration is not None:
        return point.model_copy(update={"duration": max(point.duration, seconds, fewest / level)})
    return point.model_copy(update={"requests": max(point.requests or 0, fewest, math.ceil(seconds * level))})


def describe_length(point: LoadPoint) -> str:
    """Sentence on how long a level of an open loop lasts at least, as far as that is known without the server."""
    needs = [f"{seconds:.3g} s ({why})" for seconds, why in _times(point, None)]
    needs += [f"{count} requests ({why})" for count, why in _counts(point)]
    return f"a level lasts {', '.join(needs)}, {SERVICES} times its longest request at least"


def _times(point: LoadPoint, service_s: float | None) -> Iterator[tuple[float, str]]:
    assert point.capacity is not None, "a point without a capacity has no levels"
    limits = [limit.value / 1e3 for limit in point.capacity.sla if limit.quantity.unit == "ms"]
    if limits:
        yield LIMITS * max(limits), f"{LIMITS} times the limit of {max(limits):.3g} s"
    if service_s is not None:
        yield SERVICES * service_s, f"{SERVICES} times the longest request"


def _counts(point: LoadPoint) -> Iterator[tuple[int, str]]:
    """Random arrivals come in bursts, of which a level must have seen many."""
    assert point.capacity is not None, "a point without a capacity has no levels"
    if not arrival_spread(point):
        yield FEWEST_REQUESTS, "to see a trend"
        return
    shares = [share for limit in point.capacity.sla if limit.stat and (share := allowed_share(limit))]
    needed = [math.ceil(_BEYOND / share - 1e-9) for share in shares]
    yield max(_FEWEST_RANDOM, *needed) if needed else _FEWEST_RANDOM, "random arrivals"
