"""Throughput against latency: which points no other one beats in both. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_llmperf.definitions import Quantity


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """A point's throughput (tokens per second) and latency (ms) at one load."""

    name: str
    throughput: float
    latency_ms: float
    ok: bool | None
    """True if it keeps all limits; None where limits were not asked about."""
    on_front: bool
    """True if no other has more throughput at no more latency, or less latency at no less throughput."""


@dataclass(frozen=True, slots=True)
class Front:
    """All points at one load."""

    load: str
    latency: Quantity
    points: tuple[Tradeoff, ...]


Placed = tuple[str, float | None, float | None, bool | None]
"""Name, throughput, latency in ms, and `ok` of a Tradeoff."""


def pareto_front(load: str, latency: Quantity, placed: Iterable[Placed]) -> Front:
    """The points that have both numbers, each with whether it is on the front."""
    known = [(name, rate, wait, ok) for name, rate, wait, ok in placed if rate is not None and wait is not None]
    places = [(rate, wait) for _, rate, wait, _ in known]
    points = (
        Tradeoff(name, rate, wait, ok, not any(_dominates(other, (rate, wait)) for other in places))
        for name, rate, wait, ok in known
    )
    return Front(load, latency, tuple(points))


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
