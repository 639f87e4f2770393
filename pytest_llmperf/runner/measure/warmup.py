"""The load's own requests, unmeasured, until the server takes no less time for them than before.

An engine compiles, fills its pools and settles its clocks in the first seconds under load: two requests do not warm it,
and the first run after a start would be its slowest.
"""

from __future__ import annotations

import math

from pytest_llmperf import clock
from pytest_llmperf.load.driver import warm_batch
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.trace.trace import Trace
from pytest_llmperf.metrics.trust.warmth import drifts
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.shapes import WarmUpSpec
from pytest_llmperf.records import RequestRecord, WarmUp

_BATCH_S = 1.0
"""Least length of a batch, where the load has so many requests: shorter ones are at the mercy of a single stall."""
_LEAST_REQUESTS = 10
_MOST_BATCHES = 12


def warms_further(point: LoadPoint, is_started: bool) -> bool:
    """True if more than single requests come before the first run on a server that `is_started` here, or was up."""
    if point.capacity is not None or point.prefix_cache == "warm" or point.warmup == "off":
        return False
    return point.warmup is not None or is_started


async def warm_until_steady(targets: tuple[Target, ...], point: LoadPoint, trace: Trace, *, salt: str) -> WarmUp:
    """Sends batches of the load's requests until they are steady, or as many as the load asks for.

    Prompts have marks of their own, so that the measured ones are in no prefix cache. Raises ServerError when a whole
    batch fails.
    """
    begun_s, sent, batches = clock.monotonic(), 0, list[tuple[RequestRecord, ...]]()
    count = _first_count(point, trace)
    asked = point.warmup if isinstance(point.warmup, WarmUpSpec) else None
    for number in range(_MOST_BATCHES if asked is None else len(trace.requests) * _MOST_BATCHES):
        batch_s = clock.monotonic()
        batches.append(await warm_batch(targets, point, trace, count=count, salt=f"{salt}w{number}."))
        sent += count
        passed_s = clock.monotonic() - begun_s
        if asked is not None:
            if sent >= (asked.requests or math.inf) or passed_s >= (asked.duration or math.inf):
                return WarmUp(sent, passed_s, True)
            continue
        if number == 0 and (longer := _longer(count, clock.monotonic() - batch_s, trace)) > count:
            count, batches = longer, []
            continue
        found = drifts(batches)
        if found and all(drift.is_steady for drift in found):
            return WarmUp(sent, passed_s, True)
    drift = ", ".join(
        f"{drift.metric} {drift.change:+.1%} (±{drift.error:.1%})" for drift in drifts(batches) if not drift.is_steady
    )
    return WarmUp(sent, clock.monotonic() - begun_s, asked is not None, drift)


def _first_count(point: LoadPoint, trace: Trace) -> int:
    """Two rounds of a closed loop's slots, a second of an open loop; at least ten requests."""
    wanted = 2 * (point.concurrency or 0) or math.ceil((point.request_rate or 0.0) * _BATCH_S)
    return min(len(trace.requests), max(_LEAST_REQUESTS, wanted))


def _longer(count: int, took_s: float, trace: Trace) -> int:
    """Number of requests that last for a batch's least length, by the time that the first batch took."""
    return min(len(trace.requests), math.ceil(count * _BATCH_S / max(took_s, 1e-3)))
