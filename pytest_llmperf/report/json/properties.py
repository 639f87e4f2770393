"""An outcome as flat JUnit properties: scalars only, because that is what JUnit readers (and xdist) take."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_llmperf.definitions import METRICS
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.summary import Summary, rounded
from pytest_llmperf.report.views.verdicts import measured_change, regression_verdict, sla_verdict
from pytest_llmperf.runner.outcomes import Outcome

Property = tuple[str, str | int | float | bool]

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
UNIT_SUFFIX = {"tok/s": "_tok_s", "req/s": "_req_s", "ms": "_ms"}
"""Ends of names; the key of a distribution has its unit already."""


def outcome_properties(outcome: Outcome) -> Iterator[Property]:
    """`llmperf.ttft_ms.p99` and the like; what has no value has no property."""
    result = outcome.result
    if result is None:
        return
    yield "llmperf.point", result.point_id
    yield "llmperf.environment", result.environment.slug
    yield "llmperf.simulated", result.environment.simulated
    yield "llmperf.valid", result.valid
    yield "llmperf.timestamps", result.stamps
    yield "llmperf.runs", len(result.runs)
    for name in ("sent", "failed", "cancelled"):
        yield f"llmperf.requests.{name}", getattr(result.metrics, name)
    if outcome.taken_from is not None:
        yield "llmperf.taken_from", outcome.taken_from.isoformat(timespec="seconds")
    yield from capacity_properties(result.capacity)
    yield from _metric_properties(result.metrics)
    yield from _duet_properties(result.reference)
    yield "llmperf.sla", sla_verdict(outcome)
    yield "llmperf.regression", regression_verdict(outcome)
    yield from _change_properties(outcome)


def _change_properties(outcome: Outcome) -> Iterator[Property]:
    """`llmperf.change.itl_p50`, 0.366 of a value that rose by 36.6 %: against the rolling baseline or old server."""
    for metric in outcome.regression.metrics if outcome.regression else ():
        change = measured_change(metric) if metric.series.reference != "anchor" else None
        if change and (value := rounded(change[0])) is not None:
            yield f"llmperf.change.{metric.series.quantity}", value


def _duet_properties(old: Result | None) -> Iterator[Property]:
    """Properties of the old server, under names of their own."""
    if old is None:
        return
    yield "llmperf.duet", old.server.name
    yield "llmperf.duet.runs", len(old.runs)
    yield "llmperf.duet.valid", old.valid
    for name, value in _metric_properties(old.metrics):
        yield name.replace("llmperf.", "llmperf.duet.", 1), value


def _metric_properties(summary: Summary) -> Iterator[Property]:
    for name, values in summary.distributions.items():
        for stat in _STATISTICS:
            value = rounded(values.stat(stat))
            if value is not None:
                yield f"llmperf.{METRICS[name].key}.{stat}", value
        if values.n:
            yield f"llmperf.{METRICS[name].key}.n", values.n
    for name, scalar in summary.scalars.items():
        value = rounded(scalar)
        if value is not None:
            yield f"llmperf.{name}{UNIT_SUFFIX.get(METRICS[name].unit, '')}", value


def capacity_properties(capacity: Capacity | None) -> Iterator[Property]:
    """The answer and its interval; what is not known has no property."""
    if capacity is None:
        return
    yield "llmperf.capacity.answer", capacity.sentence
    yield "llmperf.capacity.is_lower_bound", capacity.is_bound
    interval = capacity.interval
    known = {
        "llmperf.capacity": capacity.value,
        "llmperf.capacity.low": interval.low if interval else None,
        "llmperf.capacity.high": interval.high if interval else None,
        "llmperf.capacity.holds": capacity.holds,
        "llmperf.capacity.breaks": capacity.breaks,
    }
    for name, value in known.items():
        if (short := rounded(value)) is not None:
            yield name, short
