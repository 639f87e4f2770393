"""Points of one load over its concurrency or request rate: latency against throughput, the SLA's line and the knee.

Pure. The Pareto front of all points of a load is found here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.definitions import OUTPUT_RATE, Quantity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import beyond
from pytest_llmperf.metrics.stats.pareto import Front, pareto_front
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.report.views.comparison import comparable, load_family

_LATENCY = Quantity("e2e", "p50")
LATENCIES = (Quantity("ttft", "p99"), Quantity("itl", "p99"), _LATENCY)


@dataclass(frozen=True, slots=True)
class Level:
    """One load level of a sweep."""

    label: str
    """`8` in flight, or `20 req/s`."""
    offered: float
    result: Result


@dataclass(frozen=True, slots=True)
class Sweep:
    """One server's levels, least load first; those of several servers at one load belong together."""

    server: str
    levels: tuple[Level, ...]
    knee: int | None
    """Position of the level with the most throughput per latency; None below three valid levels."""

    def answer(self, axis: str) -> str:
        """The answer in a sentence: how far the limits hold; without limits, where throughput is highest."""
        rated = [(level, rate) for level in self.levels if level.result.valid and (rate := _throughput(level.result))]
        held = [pair for pair in rated if _keeps_limits(pair[0].result)]
        if not held:
            return f"{self.server} meets its limits at no {axis}" if rated else f"{self.server} has no valid level"
        if not any(level.result.load.sla for level in self.levels):
            best, rate = max(rated, key=lambda pair: pair[1])
            return f"{self.server} has most output at {axis} {best.label}: {rate:.4g} tok/s"
        last, rate = held[-1]
        below = [level for level in self.levels if level.offered <= last.offered]
        reach = "up to" if len(below) == len(held) else "at some levels, the highest of them"
        ceiling = ", the highest measured" if last is self.levels[-1] else ""
        return f"{self.server} meets its limits {reach} {axis} {last.label}{ceiling}: {rate:.4g} tok/s"


@dataclass(frozen=True, slots=True)
class SweepGroup:
    """The sweeps of one load, on every server that it was measured on."""

    load: str
    environment: str
    axis: str
    """`concurrency` or `request rate`."""
    sweeps: tuple[Sweep, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """A sentence per server."""
        return tuple(f"{self.load}: {sweep.answer(self.axis)}" for sweep in self.sweeps)

    def limit(self, quantity: Quantity) -> Limit | None:
        """The SLA's limit of a quantity; None when it has none, or not the same at all levels."""
        loads = [level.result.load for sweep in self.sweeps for level in sweep.levels]
        limits = {next((limit for limit in load.sla if limit.quantity == quantity), None) for load in loads}
        return limits.pop() if len(limits) == 1 else None


def _throughput(result: Result) -> float | None:
    return result.metrics.value(OUTPUT_RATE)


def _keeps_limits(result: Result) -> bool:
    """Whether the figures of all runs together are within the load's limits; one that is not known breaks its limit."""
    values = ((limit, result.metrics.value(limit.quantity)) for limit in result.load.sla)
    return all(value is not None and not beyond(limit, value) for limit, value in values)


def sweep_groups(measured: Sequence[tuple[str, Result]]) -> tuple[SweepGroup, ...]:
    """One per load whose concurrency or rate has several values."""
    found = []
    for results in comparable([pair for pair in measured if pair[1].runs]).values():
        families: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            if _offered(result) is not None:
                axis = "request rate" if result.load.concurrency is None else "concurrency"
                families.setdefault((load_family(result), axis), []).append(result)
        found += [_group(load, axis, held) for (load, axis), held in families.items() if _levels(held) > 1]
    return tuple(found)


def _levels(results: Sequence[Result]) -> int:
    return len({_offered(result) for result in results})


def _offered(result: Result) -> float | None:
    load = result.load
    return load.request_rate if load.concurrency is None else float(load.concurrency)


def _group(load: str, axis: str, results: Sequence[Result]) -> SweepGroup:
    servers = dict.fromkeys(result.server.name for result in results)
    sweeps = (_sweep(name, axis, [r for r in results if r.server.name == name]) for name in servers)
    return SweepGroup(load, results[0].environment.slug, axis, tuple(sweeps))


def _sweep(server: str, axis: str, results: Sequence[Result]) -> Sweep:
    unit = " req/s" if axis == "request rate" else ""
    held = sorted(((_offered(result) or 0.0, result) for result in results), key=lambda pair: pair[0])
    levels = tuple(Level(f"{offered:g}{unit}", offered, result) for offered, result in held)
    return Sweep(server, levels, _knee(levels))


def _knee(levels: Sequence[Level]) -> int | None:
    """Where throughput over latency (Kleinrock's power) is largest: below it the server is idle, above it queues."""
    power = {place: value for place, level in enumerate(levels) if (value := _power(level.result)) is not None}
    return max(power, key=lambda place: power[place]) if len(power) > 2 else None


def _power(result: Result) -> float | None:
    rate, latency = _throughput(result), result.metrics.value(_LATENCY)
    return rate / latency if result.valid and rate and latency else None


def fronts(measured: Sequence[tuple[str, Result]]) -> tuple[Front, ...]:
    """One per load that was measured at least three times, over servers and levels; invalid points are left out."""
    found = []
    for results in comparable(measured).values():
        families: dict[str, list[Result]] = {}
        for result in results:
            families.setdefault(load_family(result), []).append(result)
        found += [_front(load, held) for load, held in families.items() if len(held) > 2]
    return tuple(front for front in found if len(front.points) > 2)


def _front(load: str, results: Sequence[Result]) -> Front:
    values = ((r.point_id, r.metrics.value(OUTPUT_RATE), r.metrics.value(_LATENCY), None) for r in results if r.valid)
    return pareto_front(load, _LATENCY, values)
