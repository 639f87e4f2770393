"""The course of a load in time: due times of an open loop that changes its rate, slots of a closed loop that changes
them.

Pure: point in, plain data out. An open loop's arrivals are drawn at one per unit, and the units are then stretched to
the rate of each moment, so that every kind of arrival takes every shape.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pytest_llmperf.load.trace.arrivals import due_offsets_ns
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.shapes import Ramp
from pytest_llmperf.records import Phase

Due = tuple[Phase, int]
"""Phase of an open loop's request, and when it is due: ns from the start of the run."""
_MORE = 2
_CANCEL_STREAM = 2
"""Keeps the choice of cancelled requests apart from the other draws of a seed."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A time of `seconds` in which the level goes from `start` to `end`; equal ones stay."""

    seconds: float
    start: float
    end: float
    shape: Literal["linear", "exponential"] = "linear"

    @property
    def units(self) -> float:
        """The integral of the level: requests that arrive on average."""
        if self.start == self.end:
            return self.seconds * self.start
        if self.shape == "linear":
            return self.seconds * (self.start + self.end) / 2
        return (self.end - self.start) / self._growth

    def time_of(self, units: float) -> float:
        """Seconds after which the integral is `units`."""
        if self.start == self.end:
            return units / self.start
        if self.shape == "linear":
            slope = (self.end - self.start) / self.seconds
            return 2 * units / (self.start + math.sqrt(max(self.start**2 + 2 * slope * units, 0.0)))
        return math.log1p(units * self._growth / self.start) / self._growth

    def time_at(self, level: float) -> float:
        """Seconds after which the level is reached."""
        if self.shape == "linear":
            return self.seconds * (level - self.start) / (self.end - self.start)
        return math.log(level / self.start) / self._growth

    @property
    def _growth(self) -> float:
        """The logarithm's slope; log1p, because of ends that are close together."""
        return math.log1p((self.end - self.start) / self.start) / self.seconds


def open_loop(point: LoadPoint, seed: int) -> tuple[Due, ...]:
    """The phase and due time of every request of an open loop with a rate or stages of rates."""
    if point.stages:
        segments = [Segment(stage.duration, stage.request_rate or 0, stage.request_rate or 0) for stage in point.stages]
        return tuple(("measured", due) for due in _stretched(point, seed, segments))
    if point.ramp is not None:
        return _after_ramp(point, seed, point.ramp)
    return tuple(("measured", due) for due in _steady(point, seed))


def cancelled(share: float, count: int, seed: int) -> tuple[bool, ...]:
    """True for each of `count` requests that is to be cancelled."""
    raw = np.random.PCG64((seed, _CANCEL_STREAM)).random_raw(count)
    return tuple((raw < np.uint64(min(int(share * 2**64), 2**64 - 1))).tolist())


def busiest(due_ns: Sequence[int], window_s: float) -> int:
    """The most requests that are due within any `window_s`."""
    first, most = 0, 0
    for index, due in enumerate(due_ns):
        while due - due_ns[first] > window_s * 1e9:
            first += 1
        most = max(most, index - first + 1)
    return most


def _steady(point: LoadPoint, seed: int) -> Sequence[int]:
    assert point.request_rate is not None, "an open loop without stages has a rate"
    if point.requests is not None:
        return _draw(point, point.request_rate, point.requests, seed)
    end_ns = round((point.duration or 0) * 1e9)
    return _before(point, point.request_rate, seed, end_ns)


def _draw(point: LoadPoint, rate: float, count: int, seed: int) -> tuple[int, ...]:
    return due_offsets_ns(point.arrival, rate, count, seed, point.burstiness)


def _before(point: LoadPoint, rate: float, seed: int, end_ns: int) -> Sequence[int]:
    """All offsets below `end_ns`."""
    count = math.ceil(end_ns / 1e9 * rate) + 1
    while (offsets := _draw(point, rate, count, seed))[-1] < end_ns:
        count *= _MORE
    return offsets[: bisect.bisect_left(offsets, end_ns)]


def _after_ramp(point: LoadPoint, seed: int, given: Ramp) -> tuple[Due, ...]:
    assert point.request_rate is not None, "a ramp of an open loop leads to its rate"
    ramp = Segment(given.over, given.start, point.request_rate, given.shape)
    steady = Segment(point.duration or math.inf, point.request_rate, point.request_rate)
    lead_in = len(_before(point, 1.0, seed, round(ramp.units * 1e9)))
    if point.requests is not None:
        offsets = _stretch(_draw(point, 1.0, lead_in + point.requests, seed), [ramp, steady])
    else:
        offsets = _stretched(point, seed, [ramp, steady])
    return tuple(("lead-in" if index < lead_in else "measured", due) for index, due in enumerate(offsets))


def _stretched(point: LoadPoint, seed: int, segments: Sequence[Segment]) -> Iterator[int]:
    """Every arrival within the segments."""
    end = round(sum(segment.units for segment in segments) * 1e9)
    return _stretch(_before(point, 1.0, seed, end), segments)


def _stretch(units_ns: Sequence[int], segments: Sequence[Segment]) -> Iterator[int]:
    """Maps arrivals of a unit rate to the rates of the segments: ns, in whole microseconds."""
    rest = iter(segments)
    segment, begin_s, begun = next(rest), 0.0, 0.0
    for unit in (ns / 1e9 for ns in units_ns):
        while unit - begun >= segment.units and (following := next(rest, None)) is not None:
            begin_s, begun, segment = begin_s + segment.seconds, begun + segment.units, following
        yield round((begin_s + segment.time_of(unit - begun)) * 1e6) * 1000


@dataclass(frozen=True, slots=True)
class SlotCount:
    """A step of a closed loop: from `at_s` on, `slots` slots take requests; none do after the last of a bounded one."""

    at_s: float
    slots: int


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """A closed loop that goes by time. Its clock starts with the run when there is a ramp, else with the first measured
    request."""

    levels: tuple[SlotCount, ...]
    ramp_s: float
    """Requests sent before it are lead-in; 0 without a ramp."""
    requests: int | None
    """Measured requests after which the loop ends; None when the levels say when."""

    @property
    def most(self) -> int:
        return max(level.slots for level in self.levels)


def slot_plan(point: LoadPoint) -> SlotPlan | None:
    """The slots of a closed loop over time; None where it simply has so many slots and requests, and for open loops."""
    if not point.closed_loop or (point.requests is not None and point.ramp is None):
        return None
    if point.stages:
        begins = itertools.accumulate((stage.duration for stage in point.stages), initial=0.0)
        slots = [*(stage.concurrency or 0 for stage in point.stages), 0]
        return SlotPlan(tuple(map(SlotCount, begins, slots)), 0.0, None)
    assert point.concurrency is not None, "a closed loop without stages has a concurrency"
    ramp_s = point.ramp.over if point.ramp else 0.0
    levels = _ramp_levels(point.ramp, point.concurrency) if point.ramp else [SlotCount(0.0, point.concurrency)]
    end = [] if point.duration is None else [SlotCount(ramp_s + point.duration, 0)]
    return SlotPlan((*levels, *end), ramp_s, point.requests)


def _ramp_levels(given: Ramp, last: int) -> list[SlotCount]:
    """A slot more (or less) at every whole number that the ramp reaches."""
    first = int(given.start)
    ramp = Segment(given.over, first, last, given.shape)
    step = 1 if last > first else -1
    return [SlotCount(ramp.time_at(level), level) for level in range(first, last + step, step)]
