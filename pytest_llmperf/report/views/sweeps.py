"""Points of one load over its concurrency or request rate: latency against throughput, the SLA's line and the knee.

Pure. The Pareto front of all points of a load is found here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.definitions import OUTPUT_RATE, Quantity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import compared
from pytest_llmperf.metrics.stats.pareto import Front, pareto_front
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.report.views.comparison import comparable, grouped, load_family

_LATENCY = Quantity("e2e", "p50")
LATENCIES = (Quantity("ttft", "p99"), Quantity("itl", "p99"), _LATENCY)


@dataclass(frozen=True, slots=True)
class Level:
    """One load level of a sweep."""

    label: str
    """`8` in flight, or `20 req/s`."""
    offered: float
    result: Result

    @property
    def throughput(self) -> float | None:
        """Output tokens per second."""
        return self.result.metrics.value(OUTPUT_RATE)

    @property
    def keeps_limits(self) -> bool:
        """True where all runs together are within the load's limits; a figure that is not known breaks its limit."""
        values = ((limit, self.result.metrics.value(limit.quantity)) for limit in self.result.load.sla)
        return all(compared(limit, value) == "PASS" for limit, value in values)

    @property
    def power(self) -> float | None:
        """Kleinrock's power, throughput over latency: below its maximum the server is idle, above it requests queue."""
        rate, latency = self.throughput, self.result.metrics.value(_LATENCY)
        return rate / latency if self.result.valid and rate and latency else None


@dataclass(frozen=True, slots=True)
class Sweep:
    """One server's levels, least load first; those of several servers at one load belong together."""

    server: str
    levels: tuple[Level, ...]

    @property
    def knee(self) -> int | None:
        """Position of the level with the most power; None below three valid levels."""
        power = {place: value for place, level in enumerate(self.levels) if (value := level.power) is not None}
        return max(power, key=lambda place: power[place]) if len(power) > 2 else None

    def answer(self, axis: str) -> str:
        """The answer in a sentence: how far the limits hold; without limits, where throughput is highest."""
        rated = [(level, rate) for level in self.levels if level.result.valid and (rate := level.throughput)]
        held = [pair for pair in rated if pair[0].keeps_limits]
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


def sweep_groups(measured: Sequence[tuple[str, Result]]) -> tuple[SweepGroup, ...]:
    """One per load whose concurrency or rate has several values."""
    found = []
    for results in comparable(measured).values():
        swept = grouped((result for result in results if _offered(result)), lambda r: (load_family(r), _axis(r)))
        found += [_group(load, axis, held) for (load, axis), held in swept.items() if len(set(map(_offered, held))) > 1]
    return tuple(found)


def _axis(result: Result) -> str:
    return "request rate" if result.load.concurrency is None else "concurrency"


def _offered(result: Result) -> float | None:
    return result.load.request_rate if result.load.concurrency is None else float(result.load.concurrency)


def _group(load: str, axis: str, results: Sequence[Result]) -> SweepGroup:
    unit = " req/s" if axis == "request rate" else ""
    levels = [Level(f"{offered:g}{unit}", offered, result) for result in results if (offered := _offered(result))]
    by_server = grouped(sorted(levels, key=lambda level: level.offered), lambda level: level.result.server.name)
    names = dict.fromkeys(result.server.name for result in results)
    sweeps = tuple(Sweep(name, tuple(by_server[name])) for name in names)
    return SweepGroup(load, results[0].environment.slug, axis, sweeps)


def fronts(measured: Sequence[tuple[str, Result]]) -> tuple[Front, ...]:
    """One per load that was measured at least three times, over servers and levels; invalid points are left out."""
    families = [item for results in comparable(measured).values() for item in grouped(results, load_family).items()]
    found = [_front(load, results) for load, results in families]
    return tuple(front for front in found if len(front.points) > 2)


def _front(load: str, results: Sequence[Result]) -> Front:
    values = ((r.point_id, r.metrics.value(OUTPUT_RATE), r.metrics.value(_LATENCY), None) for r in results if r.valid)
    return pareto_front(load, _LATENCY, values)
