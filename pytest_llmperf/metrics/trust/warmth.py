"""Decides when a server is warm: batches of the same requests take no less time than the ones before. Pure.

A batch is the beginning of the load's own trace with prompts of its own, so its request `i` asks for as much as request
`i` of every other batch: pairs tell a change of a few per cent where the lengths differ tenfold.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_llmperf.formulas.request import TimedRequest, spans_ms
from pytest_llmperf.records import RequestRecord

TOLERATED: Mapping[str, float] = {"ttft": 0.08, "itl": 0.03, "e2e": 0.03}
"""Change between batches, as a share, below which a server counts as steady: within a run's own noise."""
_FEW = 4
"""Batches from which two and two are compared, which is more precise than one and one."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The change of a metric from batch to batch."""

    metric: str
    change: float
    """Change of the value, as a share: -0.05 is 5 % faster than the batches before."""
    error: float
    """Standard error of the change."""

    @property
    def is_steady(self) -> bool:
        """True if it changes by no more than is tolerated, given its scatter."""
        limit = TOLERATED[self.metric]
        return self.error <= limit and abs(self.change) <= max(limit, 2 * self.error)


def drifts(batches: Sequence[Sequence[RequestRecord]]) -> list[Drift]:
    """Returns the drift of each metric that two batches have in common; empty with fewer than two."""
    width = 2 if len(batches) >= _FEW else 1
    if len(batches) < 2:
        return []
    then, now = batches[-2 * width : -width], batches[-width:]
    return [drift for name, value in _VALUES.items() if (drift := _drift(name, value, then, now))]


def _drift(
    name: str,
    value: Callable[[TimedRequest], float | None],
    then: Sequence[Sequence[RequestRecord]],
    now: Sequence[Sequence[RequestRecord]],
) -> Drift | None:
    before, after = _by_request(then, value), _by_request(now, value)
    pairs = [after[index] - before[index] for index in before if index in after]
    if len(pairs) < 2:
        return None
    return Drift(name, math.expm1(statistics.fmean(pairs)), statistics.stdev(pairs) / math.sqrt(len(pairs)))


def _by_request(
    batches: Sequence[Sequence[RequestRecord]], value: Callable[[TimedRequest], float | None]
) -> dict[int, float]:
    """Mean log of the value by the request's place in the trace."""
    found: dict[int, list[float]] = {}
    for batch in batches:
        for record in batch:
            measured = value(TimedRequest(record)) if record.ok else None
            if measured:
                found.setdefault(record.index, []).append(math.log(measured))
    return {index: statistics.fmean(logs) for index, logs in found.items()}


def _span(begin: int | None, end: int | None) -> float | None:
    return next(iter(spans_ms([(begin, end)])), None)


_VALUES: Mapping[str, Callable[[TimedRequest], float | None]] = {
    "ttft": lambda request: _span(request.start_ns, request.first_token_ns),
    "itl": lambda request: request.inter_token_latency_ms,
    "e2e": lambda request: _span(request.start_ns, request.record.end_ns),
}
